"""Loading the file of --web.config.file, in exporter-toolkit's format, with all its problems at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporter.config import yaml_document
from exporter.config.files import WORLD_READABLE, is_world_readable
from exporter.config.pem import TlsCredentials
from exporter.config.web_schema import (
    CIPHERS,
    CURVES,
    TLS13_CIPHERS,
    VERIFYING_AUTH_TYPES,
    TlsSchema,
    WebFile,
    validate,
)
from exporter.config.yaml_document import YamlDocument
from exporter.errors import ConfigError, ConfigProblem
from exporter.model import Secret

_TLS_SECTION = "tls_server_config"


@dataclass(frozen=True, slots=True)
class Tls:
    """Settings of TLS, with the certificates and keys that the files contain."""

    location: str = field(compare=False)
    cert_chain: str = field(repr=False)
    """In PEM, the server's own certificate first; `key` and `client_ca` are in PEM too."""
    key: Secret
    client_ca: str = field(repr=False)
    client_auth: str
    """`NoClientCert`, `VerifyClientCertIfGiven` or `RequireAndVerifyClientCert`."""
    allowed_sans: frozenset[str]
    """A client's certificate must have at least one of these names; empty: any name."""
    min_version: str
    max_version: str
    """`TLS12` or `TLS13`."""
    ciphers: tuple[str, ...]
    """Cipher suites of TLS 1.2, with OpenSSL's names; empty: OpenSSL's defaults."""
    prefer_server_ciphers: bool
    curve: str
    """With OpenSSL's name; empty: OpenSSL's defaults."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket for requests."""

    interval: float
    """Seconds for one more request."""
    burst: int
    """How many requests may come at once."""


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The web configuration, with the content of the files that it names."""

    tls: Tls | None
    users: Mapping[str, Secret]
    """Name -> bcrypt hash; empty: no authentication."""
    headers: Mapping[str, str]
    """Headers of every response."""
    rate_limit: RateLimit | None
    files: tuple[Path, ...]
    """Every file that was read."""
    secret_files: tuple[Path, ...]
    """The files with keys or hashes."""


def load(path: Path) -> WebConfig:
    """Read the file and the certificates and keys that it names, relative to it.

    Raises ConfigError with every problem, by file and line.
    """
    document = yaml_document.read(path)
    web_file, problems = validate(document)
    tls_section = _section(document, _TLS_SECTION)
    credentials = None if tls_section is None else TlsCredentials(document, _TLS_SECTION, tls_section)
    problems += credentials.problems if credentials else []
    problems += [document.problem_at(yaml_path, message) for yaml_path, message in _check_combinations(document)]
    if problems or web_file is None:
        raise ConfigError(sorted(problems, key=_line_number))
    tls, headers = web_file.tls_server_config, web_file.http_server_config.headers.model_dump(by_alias=True)
    files = credentials.files if credentials else {}
    return WebConfig(
        tls=_build_tls(document.location((_TLS_SECTION,)), tls, credentials) if tls and credentials else None,
        users={name: Secret(password_hash) for name, password_hash in web_file.basic_auth_users.items()},
        headers={name: value for name, value in headers.items() if value},
        rate_limit=_build_rate_limit(web_file),
        files=(path, *files.values()),
        secret_files=(
            *([path] if web_file.basic_auth_users or (tls and tls.key) else []),
            *(file for name, file in files.items() if name == "key"),
        ),
    )


def find_warnings(config: WebConfig) -> list[str]:
    """Return a warning for every file with keys or hashes that every user of the machine may read."""
    return [f"{file}: {WORLD_READABLE}" for file in config.secret_files if is_world_readable(file)]


def _check_combinations(document: YamlDocument) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield path and message of contradictions, found in the plain values, to report them with the other problems."""
    rate = _section(document, "rate_limit") or {}
    if rate.get("interval", 0) not in (0, "0") and not rate.get("burst"):
        yield ("rate_limit", "burst"), "every request would be rejected; set how many may come at once"
    tls = _section(document, _TLS_SECTION)
    if tls is None:
        return
    if tls.get("min_version") == "TLS13" and tls.get("max_version") == "TLS12":
        yield (_TLS_SECTION, "max_version"), "is below min_version; no client could connect"
    ciphers, curves = tls.get("cipher_suites"), tls.get("curve_preferences")
    only_tls13 = isinstance(ciphers, list) and ciphers and all(cipher in TLS13_CIPHERS for cipher in ciphers)
    if only_tls13 and tls.get("min_version") != "TLS13":
        yield (_TLS_SECTION, "cipher_suites"), "has no cipher suite for TLS 1.2; add one, or write min_version: TLS13"
    if isinstance(curves, list) and len(curves) > 1:
        yield (_TLS_SECTION, "curve_preferences"), "at most one curve is supported; keep one, or remove the setting"
    yield from (((_TLS_SECTION, name), message) for name, message in _check_client_auth(tls))


def _check_client_auth(tls: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    policy, trusted = tls.get("client_auth_type"), tls.get("client_ca") or tls.get("client_ca_file")
    if policy in VERIFYING_AUTH_TYPES and not trusted:
        yield "client_auth_type", "needs a CA to verify certificates with; add client_ca_file"
    if policy in (None, "NoClientCert") and trusted:
        name = "client_ca" if tls.get("client_ca") else "client_ca_file"
        yield name, "clients send no certificate; add client_auth_type: RequireAndVerifyClientCert"
    if "client_allowed_sans" in tls and policy != "RequireAndVerifyClientCert":
        yield "client_allowed_sans", "needs client_auth_type: RequireAndVerifyClientCert"
    if tls.get("client_allowed_sans") == []:
        yield "client_allowed_sans", "is empty, so no client could connect; add names, or remove it"


def _section(document: YamlDocument, name: str) -> Mapping[str, object] | None:
    section = document.value.get(name) if isinstance(document.value, dict) else None
    return section if isinstance(section, dict) else None


def _build_tls(location: str, tls: TlsSchema, credentials: TlsCredentials) -> Tls:
    return Tls(
        location=location,
        cert_chain=credentials.cert,
        key=Secret(credentials.key),
        client_ca=credentials.client_ca,
        client_auth=tls.client_auth_type,
        allowed_sans=frozenset(tls.client_allowed_sans),
        min_version=tls.min_version,
        max_version=tls.max_version,
        ciphers=tuple(CIPHERS[cipher] for cipher in tls.cipher_suites if cipher in CIPHERS),
        prefer_server_ciphers=tls.prefer_server_cipher_suites,
        curve=CURVES[tls.curve_preferences[0]] if tls.curve_preferences else "",
    )


def _build_rate_limit(web_file: WebFile) -> RateLimit | None:
    rate = web_file.rate_limit
    return RateLimit(rate.interval.total_seconds(), rate.burst) if rate.interval else None


def _line_number(problem: ConfigProblem) -> tuple[int, str]:
    line = problem.location.rpartition(":")[2]
    return int(line) if line.isdecimal() else 0, problem.message
