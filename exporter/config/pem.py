"""The certificates and keys in PEM that a web configuration names, and their problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from exporter.config.files import FileError, read_file
from exporter.config.yaml_document import YamlDocument
from exporter.errors import ConfigProblem

_MAX_FILE_BYTES = 1 << 20
_UNSUPPORTED_KEY_TYPE = "its key has an unsupported type; use RSA, ECDSA or Ed25519"


class TlsCredentials:
    """The server's `cert` and `key`, and the `client_ca`, as PEM text; empty where not given."""

    def __init__(self, document: YamlDocument, section: str, values: Mapping[str, object]) -> None:
        """Read the PEM that a section gives inline or by file name; `problems` has everything that is wrong."""
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
            content = read_file(file, _MAX_FILE_BYTES, advice="no certificate is that long; name another", regular=True)
        except FileError as error:
            self._add_problem(name, str(error))
            return ""
        if not content:
            self._add_problem(name, "it is empty; write the PEM to it")
        return content.decode(errors="replace")

    def _add_problem(self, name: str, message: str) -> None:
        """Add a problem of `cert`, `key` or `client_ca`, or, with an empty name, of the section; no empty message."""
        if message:
            file = f"{self.files[name]}: " if name in self.files else ""
            field = name if name in self._values else f"{name}_file"
            yaml_path = (self._section, field) if name else (self._section,)
            self.problems.append(self._document.problem_at(yaml_path, file + message))


def _check_certificates(pem: str) -> str:
    try:
        x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        return "it contains no certificate in PEM; it must begin with -----BEGIN CERTIFICATE-----"
    return ""


def _check_key(pem: str) -> str:
    try:
        load_pem_private_key(pem.encode(), password=None)
    except TypeError:
        return "the key is encrypted, and its password cannot be entered at a start; store it without a password"
    except ValueError:
        return "it contains no private key in PEM; it must begin with a line such as -----BEGIN PRIVATE KEY-----"
    except UnsupportedAlgorithm:
        return _UNSUPPORTED_KEY_TYPE
    return ""


def _check_pair(chain: str, key: str) -> str:
    """Check that a valid key belongs to the first of valid certificates."""
    try:
        certified = x509.load_pem_x509_certificates(chain.encode())[0].public_key()
        own = load_pem_private_key(key.encode(), password=None).public_key()
        encoded = [key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in (certified, own)]
    except (ValueError, UnsupportedAlgorithm):
        return _UNSUPPORTED_KEY_TYPE
    if encoded[0] != encoded[1]:
        return "it is not the key of the first certificate; the server's own certificate must come first"
    return ""
