"""Interning of accounts and row labels: each has a number, so that a stored value is a row of four integers."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence

from exporter.ledger.store import SERIES_COLUMNS, Connection, Store, placeholders
from exporter.model import RowLabels

_COLUMNS = ", ".join(RowLabels._fields)


class SeriesIndex:
    """Numbers of accounts and of labels. A number never changes, so what is cached never becomes wrong."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._accounts: dict[tuple[str, str], int] = {}
        self._labels: dict[tuple[int, str], dict[int, RowLabels]] = {}
        self._numbers: dict[tuple[int, str], dict[RowLabels, int]] = {}
        """The inverse of `_labels`."""

    def register_account(self, name: str, provider: str) -> int:
        """Return the account's number. An account that changes its provider is another account."""
        known = self._accounts.get((name, provider))
        if known is not None:
            return known
        with self._store.write() as db:
            db.execute("INSERT INTO account (name, provider) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, provider))
            (number,) = db.execute(
                "SELECT id FROM account WHERE name = ? AND provider = ?", (name, provider)
            ).fetchone()
        with self._lock:
            return self._accounts.setdefault((name, provider), int(number))

    def find_account(self, name: str, provider: str) -> int | None:
        """Return the account's number; None where it has none."""
        with self._store.read() as db:
            found = db.execute("SELECT id FROM account WHERE name = ? AND provider = ?", (name, provider)).fetchone()
        if found is None:
            return None
        (number,) = found
        return int(number)

    def intern_labels(
        self, db: Connection, account: int, report: str, label_sets: Collection[RowLabels]
    ) -> dict[RowLabels, int]:
        """Return the numbers of labels, inside the caller's transaction; `report` is empty for valued cost.

        New numbers are not cached here: the transaction may still be rolled back.
        """
        known = self._numbers.get((account, report), {})
        # Labels that are not cached are looked up one by one in the index of the table: the time for a push must not
        # grow with the number of labels that the account already has.
        unknown = [labels for labels in label_sets if labels not in known]
        numbers = {labels: known[labels] for labels in label_sets if labels in known}
        numbers.update(zip(unknown, self._find_numbers(db, account, report, unknown), strict=True))
        return numbers

    def _find_numbers(self, db: Connection, account: int, report: str, label_sets: Sequence[RowLabels]) -> list[int]:
        """Return the number of each set of labels, which is stored first if it is new."""
        keys = [(account, report, *labels) for labels in label_sets]
        found = self._store.fetch_each(db, self._store.dialect.select_series, keys)
        inserted = iter(
            self._store.fetch_each(
                db,
                f"INSERT INTO series ({', '.join(SERIES_COLUMNS)}) VALUES ({placeholders(SERIES_COLUMNS)})"
                " RETURNING id",
                [key for key, row in zip(keys, found, strict=True) if row is None],
            )
        )
        return [int((next(inserted) if row is None else row)[0]) for row in found]

    def labels(self, db: Connection, account: int, report: str, ids: Iterable[int]) -> Mapping[int, RowLabels]:
        """Return number -> labels of at least these numbers, all of which the reader's view must hold."""
        known = self._labels.get((account, report), {})
        if any(number not in known for number in ids):
            known = self._read_new_labels(db, account, report)
        return known

    def _read_new_labels(self, db: Connection, account: int, report: str) -> dict[int, RowLabels]:
        """Add the labels that are stored since the last read to the cache, and return all.

        Numbers grow with every new set of labels, and are neither reused nor changed: only larger ones can be new.
        """
        with self._lock:
            known = self._labels.get((account, report), {})
            new = _read_labels(db, account, report, max(known, default=0))
            if new:
                # Replaced, not changed: other threads are iterating over it.
                self._labels[account, report] = known = {**known, **new}
                numbers = self._numbers.get((account, report), {})
                self._numbers[account, report] = {**numbers, **{labels: number for number, labels in new.items()}}
            return known

    def all_labels(self, db: Connection, account: int, reports: Sequence[str]) -> list[RowLabels]:
        """Return every set of labels that these reports of an account ever had."""
        return [labels for report in reports for labels in self._read_new_labels(db, account, report).values()]


def _read_labels(db: Connection, account: int, report: str, after: int) -> dict[int, RowLabels]:
    """Return number -> labels of those with a number above `after`, in the order of their numbers."""
    found = db.execute(
        f"SELECT id, {_COLUMNS} FROM series WHERE account = ? AND report = ? AND id > ? ORDER BY id",
        (account, report, after),
    )
    return {number: RowLabels(*columns) for number, *columns in found}
