"""The file of --web.config.file, in the format of Prometheus's exporters -> a frozen WebConfig, or every problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporter.config import yaml_document
from exporter.config.keys import is_world_readable
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
    """How connections are encrypted, and which certificate a client has to show."""

    location: str = field(compare=False)
    cert_chain: str = field(repr=False)
    """In PEM, the server's own certificate first; `key` and `client_ca` are in PEM too."""
    key: Secret
    client_ca: str = field(repr=False)
    client_auth: str
    """`NoClientCert`, `VerifyClientCertIfGiven` or `RequireAndVerifyClientCert`."""
    allowed_sans: frozenset[str]
    """One of these names has to be in a client's certificate; empty: any."""
    min_version: str
    max_version: str
    """`TLS12` or `TLS13`."""
    ciphers: tuple[str, ...]
    """Of TLS 1.2, by OpenSSL's names; empty: the usual ones."""
    prefer_server_ciphers: bool
    curve: str
    """By OpenSSL's name; empty: the usual ones."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One request per interval (seconds), and so many at once."""

    interval: float
    burst: int


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What the user wrote, and what the files hold that it names."""

    tls: Tls | None
    users: Mapping[str, Secret]
    """Name -> bcrypt hash; empty: everybody may come in."""
    headers: Mapping[str, str]
    """Added to every answer."""
    rate_limit: RateLimit | None
    files: tuple[Path, ...]
    """Every file that was read."""
    secret_files: tuple[Path, ...]
    """Those of them that hold keys or hashes."""


def load(path: Path) -> WebConfig:
    """Read the file and the certificates and keys that it names, relative to it.

    Raises ConfigError with every problem, by file and line.
    """
    document = yaml_document.read(path)
    shape, problems = validate(document)
    given = _section(document, _TLS_SECTION)
    pems = None if given is None else TlsCredentials(document, _TLS_SECTION, given)
    problems += pems.problems if pems else []
    problems += [document.problem_at(steps, complaint) for steps, complaint in _check_combinations(document)]
    if problems or shape is None:
        raise ConfigError(sorted(problems, key=_line_number))
    tls, headers = shape.tls_server_config, shape.http_server_config.headers.model_dump(by_alias=True)
    files = pems.files if pems else {}
    return WebConfig(
        tls=_build_tls(document.location((_TLS_SECTION,)), tls, pems) if tls and pems else None,
        users={name: Secret(one) for name, one in shape.basic_auth_users.items()},
        headers={name: value for name, value in headers.items() if value},
        rate_limit=_build_rate_limit(shape),
        files=(path, *files.values()),
        secret_files=(
            *([path] if shape.basic_auth_users or (tls and tls.key) else []),
            *(file for name, file in files.items() if name == "key"),
        ),
    )


def find_warnings(config: WebConfig) -> list[str]:
    """Return what is unsafe but works: files with keys or hashes that everyone may read."""
    return [
        f"{file}: everyone on this machine may read it; give it mode 0400"
        for file in config.secret_files
        if is_world_readable(file)
    ]


def _check_combinations(document: YamlDocument) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield what does not go together, judged by the plain values, so that it is told beside all else."""
    rate = _section(document, "rate_limit") or {}
    if rate.get("interval", 0) not in (0, "0") and not rate.get("burst"):
        yield ("rate_limit", "burst"), "every request would be refused; say how many may come at once"
    tls = _section(document, _TLS_SECTION)
    if tls is None:
        return
    if tls.get("min_version") == "TLS13" and tls.get("max_version") == "TLS12":
        yield (_TLS_SECTION, "max_version"), "is below min_version; no client could connect"
    ciphers, curves = tls.get("cipher_suites"), tls.get("curve_preferences")
    only_new = isinstance(ciphers, list) and ciphers and all(one in TLS13_CIPHERS for one in ciphers)
    if only_new and tls.get("min_version") != "TLS13":
        yield (_TLS_SECTION, "cipher_suites"), "holds none for TLS 1.2; add one, or write min_version: TLS13"
    if isinstance(curves, list) and len(curves) > 1:
        yield (
            (_TLS_SECTION, "curve_preferences"),
            "only one curve can be held here; keep one, or none for the usual ones",
        )
    yield from (((_TLS_SECTION, name), complaint) for name, complaint in _check_client_auth(tls))


def _check_client_auth(tls: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    policy, trusted = tls.get("client_auth_type"), tls.get("client_ca") or tls.get("client_ca_file")
    if policy in VERIFYING_AUTH_TYPES and not trusted:
        yield "client_auth_type", "whose certificates to trust is not said; add client_ca_file"
    if policy in (None, "NoClientCert") and trusted:
        name = "client_ca" if tls.get("client_ca") else "client_ca_file"
        yield name, "no certificate is asked for; add client_auth_type: RequireAndVerifyClientCert"
    if "client_allowed_sans" in tls and policy != "RequireAndVerifyClientCert":
        yield "client_allowed_sans", "needs client_auth_type: RequireAndVerifyClientCert"
    if tls.get("client_allowed_sans") == []:
        yield "client_allowed_sans", "is empty, so nobody could come in; name who may, or leave it out"


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
        ciphers=tuple(CIPHERS[one] for one in tls.cipher_suites if one in CIPHERS),
        prefer_server_ciphers=tls.prefer_server_cipher_suites,
        curve=CURVES[tls.curve_preferences[0]] if tls.curve_preferences else "",
    )


def _build_rate_limit(web_file: WebFile) -> RateLimit | None:
    rate = web_file.rate_limit
    return RateLimit(rate.interval, rate.burst) if rate.interval else None


def _line_number(problem: ConfigProblem) -> tuple[int, str]:
    line = problem.location.rpartition(":")[2]
    return int(line) if line.isdecimal() else 0, problem.message
