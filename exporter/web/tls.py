"""TLS: the SSL context for a configuration."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from exporter.config.web_configuration import Tls
from exporter.errors import ConfigError, ConfigProblem

_VERIFY_MODES = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}


def build_ssl_context(tls: Tls) -> ssl.SSLContext:
    """Return a server's context. Raises ConfigError if OpenSSL rejects a certificate or setting."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    context.minimum_version = _VERSIONS[tls.min_version]
    context.maximum_version = _VERSIONS[tls.max_version]
    context.verify_mode = _VERIFY_MODES[tls.client_auth]
    if tls.allowed_sans:
        context.sslobject_class = _require_san(tls.allowed_sans)
    if not tls.prefer_server_ciphers:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        if tls.ciphers:
            context.set_ciphers(":".join(tls.ciphers))
        if tls.curve:
            context.set_ecdh_curve(tls.curve)
        with _memory_file(tls.cert_chain) as chain, _memory_file(tls.key.reveal()) as key:
            context.load_cert_chain(chain, key)
        if tls.client_ca:
            with _memory_file(tls.client_ca) as client_ca:
                context.load_verify_locations(client_ca)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "unknown reason"
        message = f"tls_server_config: OpenSSL refuses this ({reason}); create another certificate"
        raise ConfigError([ConfigProblem(tls.location, message)]) from None
    return context


@contextmanager
def _memory_file(text: str) -> Iterator[str]:
    """Yield a path from which OpenSSL can read a text: it loads files only, and a key must not be written to a disk."""
    number = os.memfd_create("pem")
    try:
        os.write(number, text.encode())
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)


def _require_san(allowed: frozenset[str]) -> type[ssl.SSLObject]:
    """Return a connection class whose handshake fails unless the client's certificate has one of these names.

    `SSLContext.sslobject_class` is the ssl module's interface for this; OpenSSL's own check takes one name only.
    """

    class SANCheckingSSLObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            if allowed.isdisjoint(_subject_alt_names(self)):
                raise ssl.SSLCertVerificationError("the client's certificate has none of client_allowed_sans")

    return SANCheckingSSLObject


def _subject_alt_names(connection: ssl.SSLObject) -> Iterator[str]:
    names: Any = (connection.getpeercert() or {}).get("subjectAltName", ())
    for kind, name in names:
        if kind == "IP Address":
            # OpenSSL and the configuration may write the same IPv6 address differently.
            yield str(ip_address(name))
        elif kind in ("DNS", "email", "URI"):
            yield name
