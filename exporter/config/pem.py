"""Certificates and keys in PEM, as a web configuration names them, and what is wrong with them in plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from exporter.config.messages import unreadable
from exporter.config.yaml_document import Document
from exporter.errors import Problem

_LARGEST = 1 << 20
_UNKNOWN_KIND = "its key is of a kind that is not known here; make one of RSA, ECDSA or Ed25519"


class Pems:
    """The server's `cert` and `key` and the `client_ca`, each inline or in a file; empty where there is none."""

    def __init__(self, main: Document, section: str, given: Mapping[str, object]) -> None:
        """Read what a section of a document gives; `problems` tells everything that is wrong."""
        self.files: dict[str, Path] = {}
        self.problems: list[Problem] = []
        self._main, self._section, self._given = main, section, given
        self.cert = self._read("cert", _objection_to_certificates)
        self.key = self._read("key", _objection_to_key)
        self.client_ca = self._read("client_ca", _objection_to_certificates) if self._names("client_ca") else ""
        if not self.problems:
            self._object("key", _objection_to_pair(self.cert, self.key))

    def _names(self, name: str) -> bool:
        return bool(self._given.get(name) or self._given.get(f"{name}_file"))

    def _read(self, name: str, objection_to: Callable[[str], str]) -> str:
        inline, file = self._given.get(name), self._given.get(f"{name}_file")
        text = ""
        if inline and file:
            self._object(name, f"{name} and {name}_file are both given; keep one")
        elif not self._names(name):
            self._object("", f"there is no {name}; name its file with {name}_file")
        elif isinstance(inline, str) and inline:
            text = inline
        elif isinstance(file, str) and file.isprintable():
            self.files[name] = self._main.path.parent / file
            text = self._from_file(name, self.files[name])
        if text:
            self._object(name, objection_to(text))
        return text

    def _from_file(self, name: str, file: Path) -> str:
        try:
            if file.exists() and not file.is_file():
                self._object(name, "this is a directory or a device; name the file in it")
                return ""
            with file.open("rb") as stream:
                text = stream.read(_LARGEST).decode(errors="replace")
        except OSError as error:
            self._object(name, unreadable(error))
            return ""
        self._object(name, "" if text else "it is empty; put the PEM there")
        return text

    def _object(self, name: str, complaint: str) -> None:
        if complaint:
            where = f"{self.files[name]}: " if name in self.files else ""
            step = name if name in self._given else f"{name}_file"
            self.problems.append(
                self._main.problem((self._section, step) if name else (self._section,), where + complaint)
            )


def _objection_to_certificates(pem: str) -> str:
    try:
        x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        return "it holds no certificate in PEM; it must begin with -----BEGIN CERTIFICATE-----"
    return ""


def _objection_to_key(pem: str) -> str:
    try:
        load_pem_private_key(pem.encode(), password=None)
    except TypeError:
        return "the key is encrypted, and nobody could type its password at every start; store it without one"
    except ValueError:
        return "it holds no private key in PEM; it must begin with -----BEGIN PRIVATE KEY----- or alike"
    except UnsupportedAlgorithm:
        return _UNKNOWN_KIND
    return ""


def _objection_to_pair(chain: str, key: str) -> str:
    """Judge a key that is sound beside certificates that are."""
    try:
        certified = x509.load_pem_x509_certificates(chain.encode())[0].public_key()
        own = load_pem_private_key(key.encode(), password=None).public_key()
        numbers = [one.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for one in (certified, own)]
    except (ValueError, UnsupportedAlgorithm):
        return _UNKNOWN_KIND
    if numbers[0] != numbers[1]:
        return "it is not the key of the first certificate; make both of one request, the server's certificate first"
    return ""
