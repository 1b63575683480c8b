"""The shapes of the file of --web.config.file, and objections to them that show no value which may be a secret."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import ErrorDetails

from exporter.config.messages import format_value, suggest
from exporter.config.validators import FileName, PrintableStr, validation_error
from exporter.config.yaml_document import YamlDocument
from exporter.errors import ConfigProblem

CIPHERS: Mapping[str, str] = {
    # Go's name: OpenSSL's; TLS 1.3 has its own three, which cannot be chosen, as in Go
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
_MAX_BCRYPT_COST = 16
_BCRYPT = re.compile(r"\$2[aby]\$([0-3][0-9])\$[./A-Za-z0-9]{53}")
_DURATION = re.compile("([0-9]+(?:[.][0-9]+)?)(ns|us|ms|s|m|h)")
_SECONDS_PER_UNIT = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


def _choice(known: Collection[str], kind: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known:
            hint = suggest(value, known) or f"known: {', '.join(filter(None, known))}"
            raise validation_error(f"unknown {kind} {format_value(value)}; {hint}")
        return value

    return AfterValidator(check)


def _tls_version(value: str) -> str:
    if value in ("TLS10", "TLS11"):
        raise validation_error(f"{value} is broken and not spoken here; write TLS12")
    return value


def _client_auth_type(value: str) -> str:
    if value in _NON_VERIFYING_AUTH_TYPES:
        raise validation_error(f"{value} takes certificates that nobody verifies; write RequireAndVerifyClientCert")
    return value


def _bcrypt_hash(value: str) -> str:
    found = _BCRYPT.fullmatch(value)
    if found is None or int(found[1]) < 4:
        raise validation_error('expected a bcrypt hash as `htpasswd -nBC 10 ""` prints it, never the password itself')
    if int(found[1]) > _MAX_BCRYPT_COST:
        raise validation_error(
            f"a cost of {found[1]} keeps a core busy for many seconds per login; hash it with 10 to 14"
        )
    return value


def _seconds(value: object) -> float:
    text = str(value)
    if text == "0":
        return 0.0
    if not isinstance(value, str) or not re.fullmatch(f"({_DURATION.pattern})+", text):
        raise validation_error("expected a duration such as 1s or 100ms, or 0 for no limit")
    return sum(float(count) * _SECONDS_PER_UNIT[unit] for count, unit in _DURATION.findall(text))


def _count(value: int) -> int:
    if value < 0:
        raise validation_error(f"must be at least 1, got {value}")
    return value


def _header_value(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise validation_error("holds a line break or a character beyond ASCII, which no header takes; remove it")
    return value.strip()


def _not_empty(value: object) -> object:
    if value is None:
        raise validation_error(
            "is empty, and would leave everything unencrypted; add cert_file and key_file, or remove it"
        )
    return value


TlsVersion = Annotated[str, AfterValidator(_tls_version), _choice(TLS_VERSIONS, "version")]
ClientAuthType = Annotated[
    str, AfterValidator(_client_auth_type), _choice(("NoClientCert", *VERIFYING_AUTH_TYPES), "policy")
]
Cipher = Annotated[str, _choice((*CIPHERS, *TLS13_CIPHERS), "cipher suite")]
Curve = Annotated[str, _choice(tuple(CURVES), "curve")]
BcryptHash = Annotated[str, AfterValidator(_bcrypt_hash)]
Seconds = Annotated[float, PlainValidator(_seconds)]
Count = Annotated[int, AfterValidator(_count)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class TlsSchema(_Schema):
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


class HeadersSchema(_Schema):
    """The headers that may be added to every answer; an empty one is left out."""

    content_security_policy: HeaderValue = Field(default="", alias="Content-Security-Policy")
    x_frame_options: Annotated[HeaderValue, _choice(("", "deny", "sameorigin"), "value")] = Field(
        default="", alias="X-Frame-Options"
    )
    x_content_type_options: Annotated[HeaderValue, _choice(("", "nosniff"), "value")] = Field(
        default="", alias="X-Content-Type-Options"
    )
    x_xss_protection: HeaderValue = Field(default="", alias="X-XSS-Protection")
    strict_transport_security: HeaderValue = Field(default="", alias="Strict-Transport-Security")


class HttpSchema(_Schema):
    """`http_server_config`."""

    http2: bool = True
    headers: HeadersSchema = HeadersSchema()


class RateLimitSchema(_Schema):
    """`rate_limit`."""

    interval: Seconds = 0.0
    burst: Count = 0


class WebFile(_Schema):
    """The whole file."""

    tls_server_config: Annotated[TlsSchema | None, BeforeValidator(_not_empty)] = None
    http_server_config: HttpSchema = HttpSchema()
    basic_auth_users: dict[str, BcryptHash] = Field(default={}, repr=False)
    rate_limit: RateLimitSchema = RateLimitSchema()


_SCHEMAS: Mapping[tuple[object, ...], type[_Schema]] = {
    (): WebFile,
    ("tls_server_config",): TlsSchema,
    ("http_server_config",): HttpSchema,
    ("http_server_config", "headers"): HeadersSchema,
    ("rate_limit",): RateLimitSchema,
}


def validate(document: YamlDocument) -> tuple[WebFile | None, list[ConfigProblem]]:
    """Return a document in its shape, or None where it does not fit, and everything that is wrong with it."""
    problems = list(document.problems)
    value = {} if document.value is None else document.value
    if not isinstance(value, dict):
        complaint = f"expected a mapping that holds {', '.join(WebFile.model_fields)}, got {_describe_type(value)}"
        return None, [*problems, document.problem_at((), complaint)]
    try:
        return WebFile.model_validate(value), problems
    except ValidationError as error:
        return None, problems + [document.problem_at(one["loc"], _describe_error(one)) for one in error.errors()]


def _describe_error(error: ErrorDetails) -> str:
    if error["type"] == "told":
        return error["msg"]
    if error["type"] == "extra_forbidden":
        *around, last = error["loc"]
        known = [field.alias or name for name, field in _SCHEMAS[tuple(around)].model_fields.items()]
        hint = suggest(str(last), known) or f"known here: {', '.join(known)}"
        return f"unknown key; {hint}"
    return f"expected {_EXPECTED.get(error['type'], 'another kind of value')}, got {_describe_type(error['input'])}"


def _describe_type(value: Any) -> str:
    """Say of which kind a value is, without showing it: it may be a password at the wrong place."""
    return "text" if isinstance(value, str) else "a number" if type(value) is int else format_value(value)
