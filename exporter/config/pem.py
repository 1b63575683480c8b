"""Certificates and keys in PEM, as a web configuration names them, and what is wrong with them in plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from exporter.config.messages import describe_os_error
from exporter.config.yaml_document import YamlDocument
from exporter.errors import ConfigProblem

_MAX_FILE_BYTES = 1 << 20
_UNSUPPORTED_KEY_TYPE = "its key is of a kind that is not known here; make one of RSA, ECDSA or Ed25519"


class TlsCredentials:
    """The server's `cert` and `key` and the `client_ca`, each inline or in a file; empty where there is none."""

    def __init__(self, document: YamlDocument, section: str, values: Mapping[str, object]) -> None:
        """Read what a section of a document gives; `problems` tells everything that is wrong."""
        self.files: dict[str, Path] = {}
        self.problems: list[ConfigProblem] = []
        self._document, self._section, self._values = document, section, values
        self.cert = self._read("cert", _check_certificates)
        self.key = self._read("key", _check_key)
        self.client_ca = self._read("client_ca", _check_certificates) if self._is_set("client_ca") else ""
        if not self.problems:
            self._add_problem("key", _check_pair(self.cert, self.key))

    def _is_set(self, name: str) -> bool:
        return bool(self._values.get(name) or self._values.get(f"{name}_file"))

    def _read(self, name: str, check: Callable[[str], str]) -> str:
        inline, file = self._values.get(name), self._values.get(f"{name}_file")
        text = ""
        if inline and file:
            self._add_problem(name, f"{name} and {name}_file are both given; keep one")
        elif not self._is_set(name):
            self._add_problem("", f"there is no {name}; name its file with {name}_file")
        elif isinstance(inline, str) and inline:
            text = inline
        elif isinstance(file, str) and file.isprintable():
            self.files[name] = self._document.path.parent / file
            text = self._read_file(name, self.files[name])
        if text:
            self._add_problem(name, check(text))
        return text

    def _read_file(self, name: str, file: Path) -> str:
        try:
            if file.exists() and not file.is_file():
                self._add_problem(name, "this is a directory or a device; name the file in it")
                return ""
            with file.open("rb") as stream:
                text = stream.read(_MAX_FILE_BYTES).decode(errors="replace")
        except OSError as error:
            self._add_problem(name, describe_os_error(error))
            return ""
        self._add_problem(name, "" if text else "it is empty; put the PEM there")
        return text

    def _add_problem(self, name: str, message: str) -> None:
        if message:
            where = f"{self.files[name]}: " if name in self.files else ""
            step = name if name in self._values else f"{name}_file"
            self.problems.append(
                self._document.problem_at((self._section, step) if name else (self._section,), where + message)
            )


def _check_certificates(pem: str) -> str:
    try:
        x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        return "it holds no certificate in PEM; it must begin with -----BEGIN CERTIFICATE-----"
    return ""


def _check_key(pem: str) -> str:
    try:
        load_pem_private_key(pem.encode(), password=None)
    except TypeError:
        return "the key is encrypted, and nobody could type its password at every start; store it without one"
    except ValueError:
        return "it holds no private key in PEM; it must begin with -----BEGIN PRIVATE KEY----- or alike"
    except UnsupportedAlgorithm:
        return _UNSUPPORTED_KEY_TYPE
    return ""


def _check_pair(chain: str, key: str) -> str:
    """Judge a key that is sound beside certificates that are."""
    try:
        certified = x509.load_pem_x509_certificates(chain.encode())[0].public_key()
        own = load_pem_private_key(key.encode(), password=None).public_key()
        numbers = [one.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for one in (certified, own)]
    except (ValueError, UnsupportedAlgorithm):
        return _UNSUPPORTED_KEY_TYPE
    if numbers[0] != numbers[1]:
        return "it is not the key of the first certificate; make both of one request, the server's certificate first"
    return ""
