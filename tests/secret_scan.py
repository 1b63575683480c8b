"""Secrets whose letters stand nowhere else, and the search for them in whatever comes out of the exporter."""

from __future__ import annotations

import base64
import functools
import random
import string
from collections.abc import Iterator, Mapping

import bcrypt

from tests.providers.canned import ReceivedRequest, Reply

MIN_LEAK_LENGTH = 6
"""So many letters of a secret in a row are a leak."""
SUFFIX_LENGTH = 4
"""So many letters at its end are one too where they stand behind a mask, as in `sk-…bA3T`."""
MASKS = ("*", ".", "…", r"\u2026", " ")


def _random_text(seed: str, length: int = 24) -> str:
    return "".join(random.Random(seed).choices(string.ascii_letters + string.digits, k=length))


KEY_PREFIXES = {"openai": "sk-admin-", "anthropic": "sk-ant-admin01-", "cursor": "crsr_"}
KEYS = {provider: prefix + _random_text(provider) for provider, prefix in KEY_PREFIXES.items()}
REVOKED_KEY = KEY_PREFIXES["openai"] + _random_text("revoked")
WRONG_KIND_KEY = "sk-proj-" + _random_text("wrong kind")
UNPREFIXED_KEY = _random_text("plain")
"""A key that begins with nothing known, as a proxy may give it."""
TOKEN = _random_text("token", 32)
"""Of a source that pushes."""
PASSWORD = _random_text("password")
PASSWORD_HASH = bcrypt.hashpw(PASSWORD.encode(), b"$2b$04$" + _random_text("salt", 21).encode() + b"u").decode()
"""Of the password, as it stands in a web configuration."""
MASTER_KEY = base64.urlsafe_b64encode(random.Random("master").randbytes(32)).decode()

SECRETS: Mapping[str, str] = {
    **{f"{provider} key": key.removeprefix(KEY_PREFIXES[provider]) for provider, key in KEYS.items()},
    "revoked key": REVOKED_KEY.removeprefix(KEY_PREFIXES["openai"]),
    "key of the wrong kind": WRONG_KIND_KEY.removeprefix("sk-proj-"),
    "plain key": UNPREFIXED_KEY,
    "token": TOKEN,
    "password": PASSWORD,
    "password's hash": PASSWORD_HASH.removeprefix("$2b$04$"),
    "master key": MASTER_KEY.rstrip("="),
}
"""What each is called -> the part of it that nobody else has."""


def find_leaks(*outputs: str | bytes, secrets: Mapping[str, str] = SECRETS) -> list[str]:
    """Return what shows of the secrets in some texts: which one, in which form, and the text around it."""
    found = []
    for output in outputs:
        data = output if isinstance(output, bytes) else output.encode(errors="surrogatepass")
        for name, secret in secrets.items():
            for piece, form in _leak_patterns(secret).items():
                at = data.find(piece)
                if at >= 0:
                    found.append(f"{name}, {form}: {data[max(0, at - 60) : at + 60]!r}")
                    break
    return found


@functools.cache
def _leak_patterns(secret: str) -> Mapping[bytes, str]:
    """Return what must not be found: every window of a secret in every form, and its end behind a mask."""
    pieces = {f"{mask}{secret[-SUFFIX_LENGTH:]}".encode(): "masked" for mask in MASKS}
    for start in range(len(secret) - MIN_LEAK_LENGTH + 1):
        window = secret[start : start + MIN_LEAK_LENGTH].encode()
        pieces[window] = "plain"
        pieces |= dict.fromkeys(_base64_forms(window), "in base64")
        for text, form in ((window.hex(), "in hex"), (window.hex("%"), "in a URL")):
            pieces |= dict.fromkeys((text.encode(), text.upper().encode()), form)
    return pieces


def _base64_forms(window: bytes) -> Iterator[bytes]:
    """Yield what every base64 text that has these bytes inside has in it; where they begin, three bytes are alike."""
    for before in range(3):
        text = base64.b64encode(bytes(before) + window + bytes(3))
        yield text[-(before * 8 // -6) : (before + len(window)) * 8 // 6]


def echo_key(asked: ReceivedRequest) -> Reply:
    """Refuse any key, and repeat it in the way that the path begins with: `whole`, `header` or `masked`."""
    sent = asked.headers.get("authorization") or asked.headers["x-api-key"]
    key = sent.split()[-1]
    if sent.startswith("Basic "):
        key = base64.b64decode(key).decode().removesuffix(":")
    masked = f"{key[:8]}{'*' * 9}{key[-SUFFIX_LENGTH:]}"
    shown = {"whole": key, "header": sent, "masked": masked}[asked.path.split("/")[1]]
    message = f"Incorrect API key provided: {shown}. You can find your API key at https://example.com."
    return Reply({"error": {"message": message, "code": "invalid_api_key"}, "message": message}, 401)


ECHO_FORMS = ("whole", "header", "masked")
