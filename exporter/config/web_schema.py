"""The pydantic models of the file of --web.config.file; no error shows a value that may be a secret."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError

from exporter.config.durations import parse_duration
from exporter.config.messages import (
    Wording,
    describe_error,
    format_type,
    format_value,
    known_keys,
    suggest_or_list,
    validation_error,
)
from exporter.config.validators import FileName, PrintableStr
from exporter.config.yaml_document import YamlDocument
from exporter.errors import ConfigProblem

CIPHERS: Mapping[str, str] = {
    # Go's name: OpenSSL's name. TLS 1.3 has three suites of its own, which cannot be configured, as in Go.
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
}
TLS13_CIPHERS = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
TLS_VERSIONS = ("TLS12", "TLS13")
VERIFYING_AUTH_TYPES = ("VerifyClientCertIfGiven", "RequireAndVerifyClientCert")
_NON_VERIFYING_AUTH_TYPES = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
_MIN_BCRYPT_COST = 4
_MAX_BCRYPT_COST = 16
_BCRYPT = re.compile(r"\$2[aby]\$([0-3][0-9])\$[./A-Za-z0-9]{53}")
_WORDING = Wording(show_value=format_type)
"""Values are not shown: they may be passwords."""


def _choice(known: Collection[str], kind: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known:
            raise validation_error(f"unknown {kind} {format_value(value)}; {suggest_or_list(value, known)}")
        return value

    return AfterValidator(check)


def _tls_version(value: str) -> str:
    if value in ("TLS10", "TLS11"):
        raise validation_error(f"{value} is insecure and not supported; write TLS12")
    return value


def _client_auth_type(value: str) -> str:
    if value in _NON_VERIFYING_AUTH_TYPES:
        raise validation_error(f"{value} accepts certificates without verification; write RequireAndVerifyClientCert")
    return value


def _bcrypt_hash(value: str) -> str:
    match = _BCRYPT.fullmatch(value)
    if match is None or int(match[1]) < _MIN_BCRYPT_COST:
        raise validation_error('expected a bcrypt hash as `htpasswd -nBC 10 ""` prints it, never the password itself')
    if int(match[1]) > _MAX_BCRYPT_COST:
        raise validation_error(f"a cost of {match[1]} takes many seconds of CPU time per login; use a cost of 10 to 14")
    return value


def _go_duration(value: object) -> timedelta:
    if str(value) == "0":
        return timedelta(0)
    duration = parse_duration(value, go_format=True) if isinstance(value, str) else None
    if duration is None:
        raise validation_error("expected a duration such as 1s or 100ms, or 0 for no limit")
    return duration


def _count(value: int) -> int:
    if value < 0:
        raise validation_error(f"must be at least 1, got {value}")
    return value


def _header_value(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise validation_error("contains a line break or a character outside ASCII, not allowed in headers; remove it")
    return value.strip()


def _not_null(value: object) -> object:
    if value is None:
        raise validation_error(
            "is empty, so connections would not be encrypted; add cert_file and key_file, or remove it"
        )
    return value


TlsVersion = Annotated[str, AfterValidator(_tls_version), _choice(TLS_VERSIONS, "version")]
ClientAuthType = Annotated[
    str, AfterValidator(_client_auth_type), _choice(("NoClientCert", *VERIFYING_AUTH_TYPES), "policy")
]
Cipher = Annotated[str, _choice((*CIPHERS, *TLS13_CIPHERS), "cipher suite")]
Curve = Annotated[str, _choice(tuple(CURVES), "curve")]
BcryptHash = Annotated[str, AfterValidator(_bcrypt_hash)]
GoDuration = Annotated[timedelta, PlainValidator(_go_duration)]
Count = Annotated[int, AfterValidator(_count)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class TlsSchema(_Model):
    """`tls_server_config`."""

    cert: str = ""
    key: str = Field(default="", repr=False)
    client_ca: str = ""
    cert_file: FileName = ""
    key_file: FileName = ""
    client_ca_file: FileName = ""
    client_auth_type: ClientAuthType = "NoClientCert"
    client_allowed_sans: list[PrintableStr] = []
    min_version: TlsVersion = "TLS12"
    max_version: TlsVersion = "TLS13"
    cipher_suites: list[Cipher] = []
    prefer_server_cipher_suites: bool = True
    curve_preferences: list[Curve] = []


class HeadersSchema(_Model):
    """Headers for every response; an empty header is not sent."""

    content_security_policy: HeaderValue = Field(default="", alias="Content-Security-Policy")
    x_frame_options: Annotated[HeaderValue, _choice(("", "deny", "sameorigin"), "value")] = Field(
        default="", alias="X-Frame-Options"
    )
    x_content_type_options: Annotated[HeaderValue, _choice(("", "nosniff"), "value")] = Field(
        default="", alias="X-Content-Type-Options"
    )
    x_xss_protection: HeaderValue = Field(default="", alias="X-XSS-Protection")
    strict_transport_security: HeaderValue = Field(default="", alias="Strict-Transport-Security")


class HttpSchema(_Model):
    """`http_server_config`."""

    http2: bool = True
    headers: HeadersSchema = HeadersSchema()


class RateLimitSchema(_Model):
    """`rate_limit`."""

    interval: GoDuration = timedelta(0)
    burst: Count = 0


class WebFile(_Model):
    """The whole file."""

    tls_server_config: Annotated[TlsSchema | None, BeforeValidator(_not_null)] = None
    http_server_config: HttpSchema = HttpSchema()
    basic_auth_users: dict[str, BcryptHash] = Field(default={}, repr=False)
    rate_limit: RateLimitSchema = RateLimitSchema()


def validate(document: YamlDocument) -> tuple[WebFile | None, list[ConfigProblem]]:
    """Return a document as its model, or None where it is invalid, and all problems of the document."""
    problems = list(document.problems)
    value = {} if document.value is None else document.value
    if not isinstance(value, dict):
        message = f"expected a mapping with {', '.join(known_keys(WebFile))}, got {format_type(value)}"
        return None, [*problems, document.problem_at((), message)]
    try:
        return WebFile.model_validate(value), problems
    except ValidationError as error:
        problems += [
            document.problem_at(detail["loc"], describe_error(detail, WebFile, _WORDING)) for detail in error.errors()
        ]
        return None, problems
