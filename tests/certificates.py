"""Certificates of authorities, servers and clients, created by the tests that use them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DEFAULT_CURVE = ec.SECP256R1()


class CertificateAuthority:
    """An authority whose certificates are valid for a day."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        """Create an authority; its own certificate is in `file`."""
        self._folder = folder
        self._key = ec.generate_private_key(_DEFAULT_CURVE)
        self._name = _common_name(name)
        basics = x509.BasicConstraints(ca=True, path_length=0)
        draft = _certificate_builder(self._name, self._name, self._key.public_key())
        own = draft.add_extension(basics, critical=True)
        self.file = folder / f"{name}.crt"
        self.file.write_bytes(_pem(own.sign(self._key, hashes.SHA256())))

    def sign(self, name: str, *sans: x509.GeneralName, curve: ec.EllipticCurve = _DEFAULT_CURVE) -> int:
        """Write NAME.crt and NAME.key, for servers and clients; return the certificate's serial number."""
        key = ec.generate_private_key(curve)
        names = x509.SubjectAlternativeName(sans or [x509.IPAddress(ip_address("127.0.0.1"))])
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        draft = _certificate_builder(_common_name(name), self._name, key.public_key()).add_extension(
            names, critical=False
        )
        signed = draft.add_extension(uses, critical=False).sign(self._key, hashes.SHA256())
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for ending, content in (("key", secret), ("crt", _pem(signed))):
            # Replaced atomically, as by renewal tools.
            new = self._folder / f"{name}.{ending}.new"
            new.touch(mode=0o600)
            new.write_bytes(content)
            new.replace(self._folder / f"{name}.{ending}")
        return signed.serial_number


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    draft = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    draft = draft.serial_number(x509.random_serial_number())
    return draft.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
