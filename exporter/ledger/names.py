"""Names of workspaces and API keys. Rows hold ids and names are looked up on export: a rename starts no new series."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.ledger.store import Store


class Names:
    """The newest names of an account's ids. An id that the provider no longer lists keeps its last name."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, account: int, names: Mapping[str, str]) -> bool:
        """Store id -> name; return whether any was new or changed."""
        known_names = self.all(account)
        changed = [(account, key, name) for key, name in names.items() if known_names.get(key) != name]
        if changed:
            with self._store.write() as db:
                db.executemany(
                    "INSERT INTO name (account, id, name) VALUES (?, ?, ?)"
                    " ON CONFLICT (account, id) DO UPDATE SET name = excluded.name",
                    changed,
                )
        return bool(changed)

    def all(self, account: int) -> dict[str, str]:
        """Return id -> name."""
        with self._store.read() as db:
            return dict(db.execute("SELECT id, name FROM name WHERE account = ?", (account,)).fetchall())
