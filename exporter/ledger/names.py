"""How workspace and API key ids are called. Put on at the edge, so a renamed workspace stays one series."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.ledger.store import Store


class Names:
    """The newest names of an account's ids. An id that the provider no longer lists keeps its last name."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, account: int, names: Mapping[str, str]) -> bool:
        """Remember names; return whether any was new or changed."""
        known = self.all(account)
        news = [(account, key, name) for key, name in names.items() if known.get(key) != name]
        if news:
            with self._store.write() as db:
                db.executemany("INSERT OR REPLACE INTO name VALUES (?, ?, ?)", news)
        return bool(news)

    def all(self, account: int) -> dict[str, str]:
        """Return id -> name."""
        with self._store.read() as db:
            return dict(db.execute("SELECT id, name FROM name WHERE account = ?", (account,)).fetchall())
