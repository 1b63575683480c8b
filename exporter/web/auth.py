"""Basic authentication with bcrypt hashes."""

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
"""Headers of a request, names in lower case."""

AuthCheck = Callable[[Headers], Awaitable[bool]]
"""Returns whether a request with these headers is allowed."""

MAX_PENDING_CHECKS = 32
"""Password checks that may wait for their turn; each takes up to some seconds, one after the other."""
_MAX_CACHED_LOGINS = 1000
_MAX_PASSWORD_BYTES = 72
"""bcrypt ignores the bytes after these; Go and htpasswd cut passwords at the same length."""


class TooManyPendingChecks(Exception):
    """Too many passwords wait to be checked."""


class Authenticator:
    """Checks Basic credentials. Valid ones are cached, so that only a client's first request pays for bcrypt."""

    def __init__(self, users: Mapping[str, Secret]) -> None:
        """`users`: name -> bcrypt hash, at least one."""
        self._hashes = {name.encode(): bcrypt_hash.reveal().encode() for name, bcrypt_hash in users.items()}
        # For unknown names: their check must take as long as that of the most expensive known one.
        self._dummy_hash = max(self._hashes.values(), key=_bcrypt_cost)
        self._valid_digests: set[bytes] = set()
        self._salt = secrets.token_bytes(32)
        # One thread: guessing passwords must not occupy every core.
        self._limiter = CapacityLimiter(1)
        self._pending_checks = 0

    async def __call__(self, headers: Headers) -> bool:
        """Return whether the headers have the name and password of a user.

        Raises TooManyPendingChecks; a client whose password has been checked before is never affected.
        """
        credentials = _parse_credentials(headers)
        if credentials is None:
            return False
        # The cache holds keyed digests: a memory dump does not reveal passwords.
        digest = blake2b(credentials, key=self._salt).digest()
        if digest in self._valid_digests:
            return True
        if self._pending_checks >= MAX_PENDING_CHECKS:
            raise TooManyPendingChecks
        self._pending_checks += 1
        try:
            if not await to_thread.run_sync(self._check, credentials, limiter=self._limiter):
                return False
        finally:
            self._pending_checks -= 1
        if len(self._valid_digests) >= _MAX_CACHED_LOGINS:
            self._valid_digests.clear()
        self._valid_digests.add(digest)
        return True

    def _check(self, credentials: bytes) -> bool:
        name, _, password = credentials.partition(b":")
        # Constant time for unknown names too: response times must not reveal which users exist.
        bcrypt_hash = self._hashes.get(name, self._dummy_hash)
        matches = bcrypt.checkpw(password[:_MAX_PASSWORD_BYTES], bcrypt_hash)
        return matches and name in self._hashes


def _bcrypt_cost(bcrypt_hash: bytes) -> int:
    return int(bcrypt_hash.split(b"$")[2])


def _parse_credentials(headers: Headers) -> bytes | None:
    """Return `name:password` from the Authorization header; None if there is none."""
    authorization = next((value for name, value in headers if name == b"authorization"), b"")
    scheme, _, encoded = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        credentials = base64.b64decode(encoded.strip(), validate=True)
    except binascii.Error:
        return None
    return credentials if b":" in credentials else None
