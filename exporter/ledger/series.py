"""Small numbers for accounts and for rows' labels, so that a point is four integers."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence

from exporter.ledger.store import Store, fetch_json, to_json
from exporter.model import Row, RowLabels

_COLUMNS = "meter, workspace, model, tier, api_key, item"


def labels(row: Row) -> RowLabels:
    """Return what tells a row apart from the others of its bucket."""
    return RowLabels(row.meter, row.workspace, row.model, row.tier, row.api_key, row.item)


def row_of(labels: RowLabels, value: int) -> Row:
    """Put labels and a value together again."""
    return Row(labels[0], value, *labels[1:])


class SeriesIndex:
    """Interned accounts and labels. Numbers never change once given."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._accounts: dict[tuple[str, str], int] = {}
        self._labels: dict[tuple[int, str], dict[int, RowLabels]] = {}

    def register_account(self, name: str, provider: str) -> int:
        """Return the account's number. An account that changes its provider is another account."""
        known = self._accounts.get((name, provider))
        if known is not None:
            return known
        with self._store.write() as db:
            db.execute("INSERT OR IGNORE INTO account (name, provider) VALUES (?, ?)", (name, provider))
            found = db.execute("SELECT id FROM account WHERE name = ? AND provider = ?", (name, provider)).fetchone()
        with self._lock:
            return self._accounts.setdefault((name, provider), int(found[0]))

    def find_account(self, name: str, provider: str) -> int | None:
        """Return the account's number; None where it has none."""
        with self._store.read() as db:
            found = db.execute("SELECT id FROM account WHERE name = ? AND provider = ?", (name, provider)).fetchone()
        return None if found is None else int(found[0])

    def intern_labels(
        self, db: sqlite3.Connection, account: int, report: str, label_sets: Collection[RowLabels]
    ) -> dict[RowLabels, int]:
        """Return the numbers of labels, inside the caller's transaction; `report` is empty for valued cost."""
        known = _invert(self._labels.get((account, report), {}))
        if all(one in known for one in label_sets):
            return known
        known = _invert(_read_labels(db, account, report))
        news = [one for one in label_sets if one not in known]
        if not news:
            return known
        db.execute(
            f"INSERT INTO series (account, report, {_COLUMNS}) SELECT ?, ?, value ->> 0, value ->> 1, value ->> 2,"
            " value ->> 3, value ->> 4, value ->> 5 FROM json_each(?)",
            (account, report, to_json(news)),
        )
        return _invert(_read_labels(db, account, report))

    def labels(self, db: sqlite3.Connection, account: int, report: str, ids: Iterable[int]) -> Mapping[int, RowLabels]:
        """Return the labels of numbers that the reader's view holds, and of others of the same report."""
        known = self._labels.get((account, report), {})
        if any(number not in known for number in ids):
            known = self._labels[account, report] = _read_labels(db, account, report)
        return known

    def all_labels(self, db: sqlite3.Connection, account: int, reports: Sequence[str]) -> list[RowLabels]:
        """Return every set of labels that these reports of an account ever had."""
        query = (
            f"SELECT json_group_array(json_array({_COLUMNS})) FROM series"
            " WHERE account = ? AND report IN (SELECT value FROM json_each(?))"
        )
        return [RowLabels(*told) for told in fetch_json(db, query, (account, to_json(reports)))]


def _invert(labels_by_id: Mapping[int, RowLabels]) -> dict[RowLabels, int]:
    return {told: number for number, told in labels_by_id.items()}


def _read_labels(db: sqlite3.Connection, account: int, report: str) -> dict[int, RowLabels]:
    query = f"SELECT json_group_array(json_array(id, {_COLUMNS})) FROM series WHERE account = ? AND report = ?"
    return {number: RowLabels(*told) for number, *told in fetch_json(db, query, (account, report))}
