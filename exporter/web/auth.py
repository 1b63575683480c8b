"""Who may come in: users with passwords, of which bcrypt hashes are known."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from hashlib import blake2b

import bcrypt
from anyio import CapacityLimiter, to_thread

from exporter.model import Secret

Headers = Iterable[tuple[bytes, bytes]]
"""Of a request, names in lower case."""

AuthCheck = Callable[[Headers], Awaitable[bool]]
"""Tells whether a request with these headers may come in."""

_MAX_CACHED_LOGINS = 1000
_MAX_PASSWORD_BYTES = 72
"""Bytes that bcrypt looks at, here as in Go and in htpasswd."""


class Authenticator:
    """A guard that knows users; right answers are remembered, so that a scrape does not pay for bcrypt each time."""

    def __init__(self, users: Mapping[str, Secret]) -> None:
        """`users` are names and bcrypt hashes, at least one."""
        self._hashes = {name.encode(): one.reveal().encode() for name, one in users.items()}
        self._dummy_hash = max(self._hashes.values(), key=_bcrypt_cost)
        self._valid_digests: set[bytes] = set()
        self._salt = secrets.token_bytes(32)
        self._limiter = CapacityLimiter(1)

    async def __call__(self, headers: Headers) -> bool:
        """Tell whether these headers hold a user's name and password."""
        given = _parse_credentials(headers)
        if given is None:
            return False
        digest = blake2b(given, key=self._salt).digest()
        if digest in self._valid_digests:
            return True
        if not await to_thread.run_sync(self._check, given, limiter=self._limiter):
            return False
        if len(self._valid_digests) >= _MAX_CACHED_LOGINS:
            self._valid_digests.clear()
        self._valid_digests.add(digest)
        return True

    def _check(self, credentials: bytes) -> bool:
        name, _, password = credentials.partition(b":")
        # An unknown name costs as much as a known one: how long it takes tells nobody which names there are.
        fits = bcrypt.checkpw(password[:_MAX_PASSWORD_BYTES], self._hashes.get(name, self._dummy_hash))
        return fits and name in self._hashes


def _bcrypt_cost(bcrypt_hash: bytes) -> int:
    return int(bcrypt_hash.split(b"$")[2])


def _parse_credentials(headers: Headers) -> bytes | None:
    """Return `name:password` out of the headers; None where they hold none."""
    scheme, _, rest = next((value for name, value in headers if name == b"authorization"), b"").partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        given = base64.b64decode(rest.strip(), validate=True)
    except binascii.Error:
        return None
    return given if b":" in given else None
