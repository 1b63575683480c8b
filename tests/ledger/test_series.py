"""Sets of labels: which of them are read, and what that takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median

import pytest

from exporter.ledger.series import SeriesIndex
from exporter.ledger.sqlite_store import SqliteStore
from exporter.model import RowLabels

MANY, FEW = 20_000, 10


def _labels(numbers: range) -> Sequence[RowLabels]:
    return [RowLabels("output", "w", f"model-{number}", "", "", "") for number in numbers]


def _cpu_seconds(action: Callable[[], object]) -> float:
    began = time.thread_time()
    action()
    return time.thread_time() - began


def test_new_labels_are_read_without_the_others(tmp_path: Path) -> None:
    """Beside many known sets of labels, a few new ones are read in a fraction of the time for all; all are returned."""
    with closing(SqliteStore(tmp_path)) as store:
        index = SeriesIndex(store)
        account, other = index.register_account("a", "p"), index.register_account("b", "p")
        full, incremental, count = list[float](), list[float](), 0

        def store_labels(added: int) -> None:
            nonlocal count
            with store.write() as db:
                index.intern_labels(db, account, "use", _labels(range(count, count + added)))
                index.intern_labels(db, other, "use", _labels(range(count, count + 1)))
            count += added

        def read(reader: SeriesIndex) -> list[RowLabels]:
            with store.read() as db:
                return reader.all_labels(db, account, ["use"])

        store_labels(MANY)
        read(index)
        for _ in range(5):
            store_labels(FEW)
            incremental.append(_cpu_seconds(lambda: read(index)))
            full.append(_cpu_seconds(lambda: read(SeriesIndex(store))))
            assert sorted(read(index)) == sorted(_labels(range(count)))
        assert median(incremental) * 2 < median(full), (incremental, full)


def test_numbers_of_a_transaction_that_fails_are_not_kept(tmp_path: Path) -> None:
    """Where a transaction is rolled back, its numbers go to other labels, and every reader sees those."""
    with closing(SqliteStore(tmp_path)) as store:
        index = SeriesIndex(store)
        account = index.register_account("a", "p")
        first, second = _labels(range(2))

        def fail() -> None:
            with store.write() as db:
                index.intern_labels(db, account, "use", [first])
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        with store.write() as db:
            (number,) = index.intern_labels(db, account, "use", [second]).values()
        with store.read() as db:
            assert index.labels(db, account, "use", [number]) == {number: second}
            assert index.all_labels(db, account, ["use"]) == [second]
