"""Bearer tokens of sources; only digests are kept in memory."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from hashlib import blake2b

from exporter.model import Secret


class BearerTokens:
    """Finds the source of a bearer token, in constant time: response times must not reveal tokens."""

    def __init__(self, tokens: Mapping[str, Secret]) -> None:
        """`tokens`: source -> token."""
        self._salt = secrets.token_bytes(32)
        self._digests = {name: self._digest(token.reveal()) for name, token in tokens.items()}

    def authenticate(self, token: str) -> str | None:
        """Return the source of a token; None for an unknown token."""
        token_digest = self._digest(token)
        source = None
        # No early exit: every token is compared, whichever matches.
        for name, digest in self._digests.items():
            if hmac.compare_digest(token_digest, digest):
                source = name
        return source

    def _digest(self, token: str) -> bytes:
        return blake2b(token.encode(errors="surrogatepass"), key=self._salt).digest()
