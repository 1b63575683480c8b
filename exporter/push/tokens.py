"""Who pushes: told by a bearer token, of which only a digest is kept in memory."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from hashlib import blake2b

from exporter.model import Secret


class BearerTokens:
    """Finds a token's owner; how long that takes tells nothing about the tokens that there are."""

    def __init__(self, tokens: Mapping[str, Secret]) -> None:
        self._salt = secrets.token_bytes(32)
        self._digests = {name: self._digest(token.reveal()) for name, token in tokens.items()}

    def authenticate(self, token: str) -> str | None:
        """Return whose token this is; None where it is nobody's."""
        given, owner = self._digest(token), None
        for name, digest in self._digests.items():
            if hmac.compare_digest(given, digest):
                owner = name
        return owner

    def _digest(self, token: str) -> bytes:
        return blake2b(token.encode(errors="surrogatepass"), key=self._salt).digest()
