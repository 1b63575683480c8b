"""TLS: a context for new connections that always is the newest one."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
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


class ReloadingSSLContext(ssl.SSLContext):
    """Stands for whatever context is the present one when a connection begins; asyncio asks nothing else of it."""

    def __new__(cls, get_context: Callable[[], ssl.SSLContext]) -> ReloadingSSLContext:  # noqa: ARG004 - OpenSSL asks for a protocol
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, get_context: Callable[[], ssl.SSLContext]) -> None:
        """`present` returns the present context."""
        self._get_context = get_context

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Begin a connection."""
        return self._get_context().wrap_bio(*args, **kwargs)


def build_ssl_context(tls: Tls) -> ssl.SSLContext:
    """Return a server's context. Raises ConfigError where OpenSSL refuses what looked right."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.set_alpn_protocols(["http/1.1"])
    made.minimum_version, made.maximum_version = _VERSIONS[tls.min_version], _VERSIONS[tls.max_version]
    made.verify_mode = _VERIFY_MODES[tls.client_auth]
    if tls.allowed_sans:
        made.sslobject_class = _require_san(tls.allowed_sans)
    if not tls.prefer_server_ciphers:
        made.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        if tls.ciphers:
            made.set_ciphers(":".join(tls.ciphers))
        if tls.curve:
            made.set_ecdh_curve(tls.curve)
        with _memory_file(tls.cert_chain) as chain, _memory_file(tls.key.reveal()) as key:
            made.load_cert_chain(chain, key)
        if tls.client_ca:
            with _memory_file(tls.client_ca) as trusted:
                made.load_verify_locations(trusted)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "unknown reason"
        complaint = f"tls_server_config: OpenSSL refuses this ({reason}); make another certificate"
        raise ConfigError([ConfigProblem(tls.location, complaint)]) from None
    return made


@contextmanager
def _memory_file(text: str) -> Iterator[str]:
    """Tell a path under which OpenSSL finds a text: it reads files only, and a key must not come to a disk."""
    number = os.memfd_create("pem")
    try:
        os.write(number, text.encode())
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)


def _require_san(allowed: frozenset[str]) -> type[ssl.SSLObject]:
    """Return a kind of connection whose handshake fails where the client's certificate has none of these names."""

    class Named(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            if allowed.isdisjoint(_subject_alt_names(self)):
                raise ssl.SSLCertVerificationError("the client's certificate has none of client_allowed_sans")

    return Named


def _subject_alt_names(connection: ssl.SSLObject) -> Iterator[str]:
    told: Any = (connection.getpeercert() or {}).get("subjectAltName", ())
    for kind, name in told:
        if kind == "IP Address":
            yield str(ip_address(name))
        elif kind in ("DNS", "email", "URI"):
            yield name
