"""The shapes of the file of --web.config.file, and objections to them that show no value which may be a secret."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import ErrorDetails

from exporter.config.messages import nearest, shown
from exporter.config.validators import FileName, Line, told
from exporter.config.yaml_document import Document
from exporter.errors import Problem

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
CIPHERS_OF_TLS13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
VERSIONS = ("TLS12", "TLS13")
VERIFYING = ("VerifyClientCertIfGiven", "RequireAndVerifyClientCert")
_UNVERIFIED = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
_COSTLIEST = 16
_BCRYPT = re.compile(r"\$2[aby]\$([0-3][0-9])\$[./A-Za-z0-9]{53}")
_TIME = re.compile("([0-9]+(?:[.][0-9]+)?)(ns|us|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


def _one_of(known: Collection[str], what: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known:
            hint = nearest(value, known) or f"known: {', '.join(filter(None, known))}"
            raise told(f"unknown {what} {shown(value)}; {hint}")
        return value

    return AfterValidator(check)


def _safe_version(value: str) -> str:
    if value in ("TLS10", "TLS11"):
        raise told(f"{value} is broken and not spoken here; write TLS12")
    return value


def _verified(value: str) -> str:
    if value in _UNVERIFIED:
        raise told(f"{value} takes certificates that nobody verifies; write RequireAndVerifyClientCert")
    return value


def _hash(value: str) -> str:
    found = _BCRYPT.fullmatch(value)
    if found is None or int(found[1]) < 4:
        raise told('expected a bcrypt hash as `htpasswd -nBC 10 ""` prints it, never the password itself')
    if int(found[1]) > _COSTLIEST:
        raise told(f"a cost of {found[1]} keeps a core busy for many seconds per login; hash it with 10 to 14")
    return value


def _seconds(value: object) -> float:
    text = str(value)
    if text == "0":
        return 0.0
    if not isinstance(value, str) or not re.fullmatch(f"({_TIME.pattern})+", text):
        raise told("expected a duration such as 1s or 100ms, or 0 for no limit")
    return sum(float(count) * _SECONDS[unit] for count, unit in _TIME.findall(text))


def _count(value: int) -> int:
    if value < 0:
        raise told(f"must be at least 1, got {value}")
    return value


def _plain_ascii(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise told("holds a line break or a character beyond ASCII, which no header takes; remove it")
    return value.strip()


def _something(value: object) -> object:
    if value is None:
        raise told("is empty, and would leave everything unencrypted; add cert_file and key_file, or remove it")
    return value


Version = Annotated[str, AfterValidator(_safe_version), _one_of(VERSIONS, "version")]
ClientAuth = Annotated[str, AfterValidator(_verified), _one_of(("NoClientCert", *VERIFYING), "policy")]
Cipher = Annotated[str, _one_of((*CIPHERS, *CIPHERS_OF_TLS13), "cipher suite")]
Curve = Annotated[str, _one_of(tuple(CURVES), "curve")]
Hash = Annotated[str, AfterValidator(_hash)]
Seconds = Annotated[float, PlainValidator(_seconds)]
Count = Annotated[int, AfterValidator(_count)]
Header = Annotated[str, AfterValidator(_plain_ascii)]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class TlsShape(_Shape):
    """`tls_server_config`."""

    cert: str = ""
    key: str = Field(default="", repr=False)
    client_ca: str = ""
    cert_file: FileName = ""
    key_file: FileName = ""
    client_ca_file: FileName = ""
    client_auth_type: ClientAuth = "NoClientCert"
    client_allowed_sans: list[Line] = []
    min_version: Version = "TLS12"
    max_version: Version = "TLS13"
    cipher_suites: list[Cipher] = []
    prefer_server_cipher_suites: bool = True
    curve_preferences: list[Curve] = []


class HeadersShape(_Shape):
    """The headers that may be added to every answer; an empty one is left out."""

    policy: Header = Field(default="", alias="Content-Security-Policy")
    frames: Annotated[Header, _one_of(("", "deny", "sameorigin"), "value")] = Field(default="", alias="X-Frame-Options")
    types: Annotated[Header, _one_of(("", "nosniff"), "value")] = Field(default="", alias="X-Content-Type-Options")
    scripts: Header = Field(default="", alias="X-XSS-Protection")
    transport: Header = Field(default="", alias="Strict-Transport-Security")


class HttpShape(_Shape):
    """`http_server_config`."""

    http2: bool = True
    headers: HeadersShape = HeadersShape()


class RateShape(_Shape):
    """`rate_limit`."""

    interval: Seconds = 0.0
    burst: Count = 0


class WebFile(_Shape):
    """The whole file."""

    tls_server_config: Annotated[TlsShape | None, BeforeValidator(_something)] = None
    http_server_config: HttpShape = HttpShape()
    basic_auth_users: dict[str, Hash] = Field(default={}, repr=False)
    rate_limit: RateShape = RateShape()


_SHAPES: Mapping[tuple[object, ...], type[_Shape]] = {
    (): WebFile,
    ("tls_server_config",): TlsShape,
    ("http_server_config",): HttpShape,
    ("http_server_config", "headers"): HeadersShape,
    ("rate_limit",): RateShape,
}


def fit(document: Document) -> tuple[WebFile | None, list[Problem]]:
    """Return a document in its shape, or None where it does not fit, and everything that is wrong with it."""
    problems = list(document.problems)
    value = {} if document.value is None else document.value
    if not isinstance(value, dict):
        complaint = f"expected a mapping that holds {', '.join(WebFile.model_fields)}, got {_sort(value)}"
        return None, [*problems, document.problem((), complaint)]
    try:
        return WebFile.model_validate(value), problems
    except ValidationError as error:
        return None, problems + [document.problem(one["loc"], _in_plain_words(one)) for one in error.errors()]


def _in_plain_words(error: ErrorDetails) -> str:
    if error["type"] == "told":
        return error["msg"]
    if error["type"] == "extra_forbidden":
        *around, last = error["loc"]
        known = [field.alias or name for name, field in _SHAPES[tuple(around)].model_fields.items()]
        hint = nearest(str(last), known) or f"known here: {', '.join(known)}"
        return f"unknown key; {hint}"
    return f"expected {_EXPECTED.get(error['type'], 'another kind of value')}, got {_sort(error['input'])}"


def _sort(value: Any) -> str:
    """Say of which kind a value is, without showing it: it may be a password at the wrong place."""
    return "text" if isinstance(value, str) else "a number" if type(value) is int else shown(value)
