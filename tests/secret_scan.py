"""Secrets whose letters occur nowhere else, and a search for them in the output of the exporter."""

from __future__ import annotations

import base64
import functools
import random
import string
from collections.abc import Iterator, Mapping

import bcrypt

from tests.providers.canned import ReceivedRequest, Reply

MIN_LEAK_LENGTH = 6
"""This many consecutive letters of a secret are a leak."""
SUFFIX_LENGTH = 4
"""This many letters of its end are a leak behind a mask, as in `sk-…bA3T`."""
MASKS = ("*", ".", "…", r"\u2026", " ")


def _random_text(seed: str, length: int = 24) -> str:
    return "".join(random.Random(seed).choices(string.ascii_letters + string.digits, k=length))


KEY_PREFIXES = {"openai": "sk-admin-", "anthropic": "sk-ant-admin01-", "cursor": "crsr_"}
KEYS = {provider: prefix + _random_text(provider) for provider, prefix in KEY_PREFIXES.items()}
REVOKED_KEY = KEY_PREFIXES["openai"] + _random_text("revoked")
WRONG_KIND_KEY = "sk-proj-" + _random_text("wrong kind")
UNPREFIXED_KEY = _random_text("plain")
"""A key without a known prefix, as a proxy may issue."""
TOKEN = _random_text("token", 32)
"""The bearer token of a push source."""
PASSWORD = _random_text("password")
PASSWORD_HASH = bcrypt.hashpw(PASSWORD.encode(), b"$2b$04$" + _random_text("salt", 21).encode() + b"u").decode()
"""The bcrypt hash of the password, as in a web configuration."""
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
"""Name of a secret -> its part that occurs nowhere else."""


def find_leaks(*outputs: str | bytes, secrets: Mapping[str, str] = SECRETS) -> list[str]:
    """Return the secrets found in some texts: the name, the form, and the text around."""
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
    """Return patterns of a leak -> form: every part of a secret in every form, and its end behind a mask."""
    pieces = {f"{mask}{secret[-SUFFIX_LENGTH:]}".encode(): "masked" for mask in MASKS}
    for start in range(len(secret) - MIN_LEAK_LENGTH + 1):
        window = secret[start : start + MIN_LEAK_LENGTH].encode()
        pieces[window] = "plain"
        pieces[window[::-1]] = "reversed"
        if window.upper() != window:
            pieces[window.upper()] = "in upper case"
        pieces |= dict.fromkeys(_base64_forms(window), "in base64")
        for text, form in ((window.hex(), "in hex"), (window.hex("%"), "in a URL")):
            pieces |= dict.fromkeys((text.encode(), text.upper().encode()), form)
    return pieces


def _base64_forms(window: bytes) -> Iterator[bytes]:
    """Yield the text common to every base64 text that contains these bytes, for each of three alignments."""
    for before in range(3):
        text = base64.b64encode(bytes(before) + window + bytes(3))
        yield text[-(before * 8 // -6) : (before + len(window)) * 8 // 6]


def echo_key(request: ReceivedRequest) -> Reply:
    """Reject any key, and repeat it in the form that the path begins with: one of ECHO_FORMS."""
    sent = request.headers.get("authorization") or request.headers["x-api-key"]
    key = sent.split()[-1]
    if sent.startswith("Basic "):
        key = base64.b64decode(key).decode().removesuffix(":")
    masked = f"{key[:8]}{'*' * 9}{key[-SUFFIX_LENGTH:]}"
    forms = {
        "whole": key,
        "header": sent,
        "masked": masked,
        "encoded": f"{base64.b64encode(key.encode()).decode()} {key.encode().hex()} %{key.encode().hex('%')}",
        "disguised": f"{key[::-1]} {key.upper()} {key[len(key) // 2 :]}",
    }
    repeated = forms[request.path.split("/")[1]]
    message = f"Incorrect API key provided: {repeated}. You can find your API key at https://example.com."
    return Reply({"error": {"message": message, "code": "invalid_api_key"}, "message": message}, 401)


ECHO_FORMS = ("whole", "header", "masked", "encoded", "disguised")
