"""Costs: the hours of every valued day, and whether the provider has billed it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from exporter.ledger.day_versions import DayVersions
from exporter.ledger.series import SeriesIndex
from exporter.ledger.store import Connection, Store
from exporter.model import DAY, HOUR, RowLabels, utc
from exporter.windows import TimeRange

_DAY_SECONDS = int(DAY.total_seconds())
_HOUR_SECONDS = int(HOUR.total_seconds())
_NEVER = utc(0)
_MIN_RESTATED_RATIO = 200
"""A bill that was changed by more than one part in so many was restated noticeably."""
ROLLED_UP = "rolled"
"""The method of a day whose hours were rolled up: it is not valued again."""


@dataclass(frozen=True, slots=True)
class BillState:
    """The newest version of a day's bill, and when it counts as complete."""

    digest: str = ""
    """Identifies the version; empty where there is no bill."""
    changed_at: datetime = _NEVER
    """When this version was first seen."""
    complete_at: datetime = _NEVER
    """From when on the bill counts as complete if it does not change; the epoch until that was judged."""
    is_withdrawn: bool = False
    """Whether the bill had counted as complete and then had no rows; until `complete_at` it counts nevertheless."""


NO_BILL = BillState()


class FixedCost(NamedTuple):
    """A cost of a day that does not follow usage."""

    frequency: str
    """`recurring` or `one_time`."""
    nano_usd: int


class StoredEvidence(NamedTuple):
    """The evidence of a billed day."""

    start: datetime
    """Of the UTC day."""
    text: str
    """As the pricing encoded it."""
    is_restated: bool
    """Whether the bill was changed noticeably after it had counted as complete."""


@dataclass(frozen=True, slots=True)
class DayCost:
    """One valued UTC day."""

    start: datetime
    cost: int
    """nano-USD, estimated or billed, as known now."""
    billed: bool
    first_bill: int = 0
    """nano-USD of the first bill of a billed day."""
    restatement: int = 0
    """nano-USD by which the bill was changed since: the sum of all changes, up or down."""
    estimate: int | None = None
    """nano-USD of the estimate before the bill; None for a day that was never estimated."""
    bill_is_incomplete: bool = False
    """Whether the day is estimated although there is a bill, because that does not yet pay for everything."""
    fixed_costs: Mapping[RowLabels, FixedCost] = field(default_factory=dict)

    @property
    def one_time_cost(self) -> int:
        """nano-USD of the one-time charges less credits."""
        return sum(fixed.nano_usd for fixed in self.fixed_costs.values() if fixed.frequency == "one_time")

    @property
    def estimate_error(self) -> float | None:
        """(estimated - billed) / billed, by the bill as it is now; None where either is missing.

        One-time costs are left out: no estimate can contain them, and they say nothing about the rates.
        """
        return self._error(self.cost - self.one_time_cost)

    @property
    def bill_error(self) -> float | None:
        """(estimated - billed) / billed with one-time costs: how far the estimate was from the whole bill."""
        return self._error(self.cost)

    def _error(self, billed: int) -> float | None:
        if self.estimate is None or not self.billed or not billed:
            return None
        return (self.estimate - billed) / billed


@dataclass(frozen=True, slots=True)
class ValuedDay:
    """The valuation of one UTC day, to be stored."""

    costs: Mapping[RowLabels, Mapping[int, int]]
    """Labels of meter `cost` -> hour 0..23 -> nano-USD."""
    unpriced_tokens: Mapping[str, int]
    """Model -> tokens without a known price."""
    method: str
    """The method of valuation: a day stored under another method is valued again."""
    billed: bool
    estimate: int | None = None
    """nano-USD of the estimate before the bill; stored when the day first becomes billed."""
    bill_evidence: str = ""
    """Evidence of rates, encoded by the pricing that reads it later; empty for a day that is not billed."""
    bill_state: BillState = NO_BILL
    fixed_costs: Mapping[RowLabels, FixedCost] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RevisedDay:
    """The valuation of a day, and the revision of the rows from which it was valued."""

    valued_day: ValuedDay
    revision: int


@dataclass(frozen=True, slots=True)
class DayState:
    """What is known of a UTC day before it is valued."""

    revision: int = 0
    """How often the day's buckets have changed."""
    was_billed: bool = False
    """Whether the day is billed, or was billed and then restated or opened again."""
    bill_state: BillState = NO_BILL


class Costs:
    """nano-USD per hour and labels. A day is always replaced as a whole, so withdrawn costs disappear."""

    def __init__(self, store: Store, series: SeriesIndex, day_versions: DayVersions) -> None:
        self._store = store
        self._series = series
        self._day_versions = day_versions

    def revision(self, account: int, day: datetime) -> int:
        """Return how often a day's buckets have changed; to be read before its rows, and passed to `put`."""
        with self._store.read() as db:
            return _read_record(db, account, int(day.timestamp())).revision

    def states(self, account: int, time_range: TimeRange) -> dict[datetime, DayState]:
        """Return the state of each UTC day within a time range; to be read before its rows, and passed to `put`.

        Days of which nothing is known are left out.
        """
        with self._store.read() as db:
            found = db.execute(
                "SELECT start, revision, billed <> 0 OR restatement <> 0, bill_digest, bill_changed_at,"
                " bill_complete_at, bill_is_withdrawn FROM day WHERE account = ? AND start >= ? AND start < ?",
                (account, *_bounds(time_range)),
            ).fetchall()
        return {
            utc(start): DayState(
                revision,
                bool(was_billed),
                BillState(digest, utc(changed_at), utc(complete_at), bool(is_withdrawn)),
            )
            for start, revision, was_billed, digest, changed_at, complete_at, is_withdrawn in found
        }

    def put(
        self, account: int, day: datetime, valued_day: ValuedDay, revision: int, *, still_open: bool = False
    ) -> None:
        """Replace the cost of one UTC day; see `put_days`."""
        self.put_days(account, {day: RevisedDay(valued_day, revision)}, still_open=still_open)

    def put_days(self, account: int, days: Mapping[datetime, RevisedDay], *, still_open: bool = False) -> None:
        """Replace the cost of UTC days, in one transaction. A change of a billed day's sum is added to its restatement.

        If a day has changed since the revision from which it was valued, the valuation is outdated: it is not stored,
        and the day stays unvalued until the next run. A day that is `still_open`, to which usage may be pushed at any
        time, is stored nevertheless, and stays unvalued: under continuous pushes it would otherwise never have a cost.
        """
        stored = []
        with self._store.write() as db:
            label_sets = {labels for day in days.values() for labels in day.valued_day.costs}
            numbers = self._series.intern_labels(db, account, "", label_sets)
            for day, revised in days.items():
                start, valued_day = int(day.timestamp()), revised.valued_day
                record = _read_record(db, account, start)
                if record.revision != revised.revision:
                    if not still_open:
                        continue
                    valued_day = replace(valued_day, method="")
                old_total = _day_total(db, account, start)
                _replace_costs(db, account, start, valued_day.costs, numbers)
                _replace_unpriced_tokens(db, account, start, valued_day.unpriced_tokens)
                new_total = sum(sum(by_hour.values()) for by_hour in valued_day.costs.values())
                _write_record(db, account, start, valued_day, record.revalue(valued_day, old_total, new_total))
                stored.append(start)
        self._day_versions.increment(account, stored)

    def total(self, account: int, time_range: TimeRange) -> dict[RowLabels, int]:
        """Return nano-USD per labels over a time range."""
        with self._store.read() as db:
            found = db.execute(
                "SELECT series, SUM(value) FROM cost WHERE account = ? AND start >= ? AND start < ? GROUP BY series"
                " ORDER BY series",
                (account, *_bounds(time_range)),
            ).fetchall()
            known_labels = self._series.labels(db, account, "", (series for series, _ in found))
        return {known_labels[series]: nano_usd for series, nano_usd in found}

    def days(self, account: int, time_range: TimeRange) -> list[DayCost]:
        """Return the valued days that start within a time range, oldest first."""
        with self._store.read() as db:
            found = db.execute(
                "SELECT start, (SELECT COALESCE(SUM(c.value), 0) FROM cost c WHERE"
                f" c.account = d.account AND c.start >= d.start AND c.start < d.start + {_DAY_SECONDS}),"
                " billed, first_bill, restatement, estimate, bill_complete_at, fixed_costs"
                " FROM day d WHERE account = ? AND start >= ? AND start < ? ORDER BY start",
                (account, *_bounds(time_range)),
            ).fetchall()
        return [
            DayCost(
                start=utc(start),
                cost=cost,
                billed=bool(billed),
                first_bill=first_bill,
                restatement=restatement,
                estimate=estimate,
                bill_is_incomplete=not billed and bill_complete_at > 0,
                fixed_costs=_decode_fixed_costs(fixed_costs),
            )
            for start, cost, billed, first_bill, restatement, estimate, bill_complete_at, fixed_costs in found
        ]

    def fixed_costs(self, account: int, day: datetime) -> Mapping[RowLabels, FixedCost]:
        """Return the costs of a UTC day that do not follow usage."""
        with self._store.read() as db:
            found = db.execute(
                "SELECT fixed_costs FROM day WHERE account = ? AND start = ?", (account, int(day.timestamp()))
            ).fetchone()
        return {} if found is None else _decode_fixed_costs(found[0])

    def keep_bill(self, account: int, day: datetime, method: str, state: BillState, revision: int) -> None:
        """Keep the cost of a billed day, although its bill has been withdrawn for the present.

        `revision` is that of the rows that were read; if the day has changed since, it stays unvalued.
        """
        with self._store.write() as db:
            db.execute(
                "UPDATE day SET method = ?, bill_digest = ?, bill_changed_at = ?, bill_complete_at = ?,"
                " bill_is_withdrawn = ? WHERE account = ? AND start = ? AND revision = ?",
                (
                    method,
                    state.digest,
                    int(state.changed_at.timestamp()),
                    int(state.complete_at.timestamp()),
                    int(state.is_withdrawn),
                    account,
                    int(day.timestamp()),
                    revision,
                ),
            )

    def withdrawn_days(self, account: int, now: datetime) -> list[datetime]:
        """Return the billed days whose bill was withdrawn, and from `now` or earlier on does not count any more."""
        return self._days_where("billed = 1 AND bill_is_withdrawn = 1 AND bill_complete_at <= ?", account, now)

    def incomplete_days(self, account: int, now: datetime) -> list[datetime]:
        """Return the days whose bill, if it does not change, will only count as complete after `now`."""
        return self._days_where("billed = 0 AND bill_complete_at > ?", account, now)

    def billed_days(self, account: int, since: datetime) -> list[datetime]:
        """Return the billed days from `since` on, oldest first."""
        return self._days_where("start >= ? AND billed = 1", account, since)

    def unbilled_days(self, account: int, since: datetime) -> list[datetime]:
        """Return the days from `since` on that were valued or have changed, and are not billed; oldest first."""
        return self._days_where("start >= ? AND billed = 0", account, since)

    def _days_where(self, condition: str, account: int, time: datetime) -> list[datetime]:
        """Return the days of an account that meet a condition, which has a time as its parameter; oldest first."""
        with self._store.read() as db:
            found = db.execute(
                f"SELECT start FROM day WHERE account = ? AND {condition} ORDER BY start",
                (account, int(time.timestamp())),
            ).fetchall()
        return [utc(start) for (start,) in found]

    def bill_evidence_before(self, account: int, day: datetime, max_days: int) -> list[StoredEvidence]:
        """Return the evidence of the newest billed days before a day, newest first."""
        return self._bill_evidence(account, "start < ? ORDER BY start DESC LIMIT ?", int(day.timestamp()), max_days)

    def bill_evidence(self, account: int, time_range: TimeRange) -> list[StoredEvidence]:
        """Return the evidence of the billed days within a time range, oldest first."""
        return self._bill_evidence(account, "start >= ? AND start < ? ORDER BY start", *_bounds(time_range))

    def _bill_evidence(self, account: int, condition: str, *parameters: int) -> list[StoredEvidence]:
        with self._store.read() as db:
            found = db.execute(
                f"SELECT start, bill_evidence, restatement * {_MIN_RESTATED_RATIO} > abs(first_bill) FROM day"
                f" WHERE account = ? AND billed = 1 AND bill_evidence <> '' AND {condition}",
                (account, *parameters),
            ).fetchall()
        return [StoredEvidence(utc(start), text, bool(is_restated)) for start, text, is_restated in found]

    def total_restatement(self, account: int) -> int:
        """Return nano-USD by which bills were ever changed, up and down added."""
        with self._store.read() as db:
            (total,) = db.execute(
                "SELECT COALESCE(SUM(restatement), 0) FROM day WHERE account = ?", (account,)
            ).fetchone()
        return int(total)

    def unpriced_tokens(self, account: int, time_range: TimeRange) -> dict[datetime, dict[str, int]]:
        """Return model -> tokens without a known price, by the start of each UTC day within a time range.

        Days without such tokens are left out.
        """
        with self._store.read() as db:
            found = db.execute(
                "SELECT start, model, tokens FROM unpriced WHERE account = ? AND start >= ? AND start < ?"
                " ORDER BY start, model",
                (account, *_bounds(time_range)),
            ).fetchall()
        tokens_by_day: dict[datetime, dict[str, int]] = {}
        for start, model, tokens in found:
            tokens_by_day.setdefault(utc(start), {})[model] = tokens
        return tokens_by_day

    def unvalued_days(self, account: int, method: str) -> list[datetime]:
        """Return the days that have changed since they were valued, or have another method; oldest first."""
        with self._store.read() as db:
            found = db.execute(
                "SELECT start FROM day WHERE account = ? AND method NOT IN (?, ?) ORDER BY start",
                (account, method, ROLLED_UP),
            ).fetchall()
        return [utc(start) for (start,) in found]


class _DayRecord(NamedTuple):
    """Everything that is known of a day beside its hours; amounts in nano-USD."""

    revision: int = 0
    cost_revision: int = 0
    billed: int = 0
    first_bill: int = 0
    restatement: int = 0
    estimate: int | None = None

    def revalue(self, valued_day: ValuedDay, old_total: int, new_total: int) -> _DayRecord:
        """Return the record of the day's new valuation. The first bill and its estimate are never overwritten."""
        record = self._replace(cost_revision=self.cost_revision + 1)
        if self.billed and valued_day.billed:
            return record._replace(restatement=self.restatement + abs(new_total - old_total))
        if valued_day.billed:
            return record._replace(billed=1, first_bill=new_total, estimate=valued_day.estimate)
        return record._replace(billed=0)


def _bounds(time_range: TimeRange) -> tuple[int, int]:
    """Return a time range in seconds since the epoch."""
    return int(time_range.start.timestamp()), int(time_range.end.timestamp())


def _day_total(db: Connection, account: int, day_start: int) -> int:
    (total,) = db.execute(
        "SELECT COALESCE(SUM(value), 0) FROM cost WHERE account = ? AND start >= ? AND start < ?",
        (account, day_start, day_start + _DAY_SECONDS),
    ).fetchone()
    return int(total)


def _replace_costs(
    db: Connection,
    account: int,
    day_start: int,
    costs: Mapping[RowLabels, Mapping[int, int]],
    numbers: Mapping[RowLabels, int],
) -> None:
    db.execute(
        "DELETE FROM cost WHERE account = ? AND start >= ? AND start < ?",
        (account, day_start, day_start + _DAY_SECONDS),
    )
    db.executemany(
        "INSERT INTO cost (account, start, series, value) VALUES (?, ?, ?, ?)",
        [
            (account, day_start + hour * _HOUR_SECONDS, numbers[labels], nano_usd)
            for labels, by_hour in costs.items()
            for hour, nano_usd in by_hour.items()
        ],
    )


def _replace_unpriced_tokens(db: Connection, account: int, day_start: int, unpriced_tokens: Mapping[str, int]) -> None:
    db.execute("DELETE FROM unpriced WHERE account = ? AND start = ?", (account, day_start))
    db.executemany(
        "INSERT INTO unpriced (account, start, model, tokens) VALUES (?, ?, ?, ?)",
        [(account, day_start, model, tokens) for model, tokens in unpriced_tokens.items()],
    )


def _read_record(db: Connection, account: int, day_start: int) -> _DayRecord:
    found = db.execute(
        "SELECT revision, cost_revision, billed, first_bill, restatement, estimate FROM day"
        " WHERE account = ? AND start = ?",
        (account, day_start),
    ).fetchone()
    return _DayRecord() if found is None else _DayRecord(*found)


def _write_record(db: Connection, account: int, day_start: int, valued_day: ValuedDay, record: _DayRecord) -> None:
    state = valued_day.bill_state
    db.execute(
        "INSERT INTO day (account, start, method, bill_evidence, fixed_costs, bill_digest, bill_changed_at,"
        " bill_complete_at, bill_is_withdrawn, revision, cost_revision, billed, first_bill, restatement, estimate)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (account, start) DO UPDATE SET method = excluded.method, bill_evidence = excluded.bill_evidence,"
        " fixed_costs = excluded.fixed_costs, bill_digest = excluded.bill_digest,"
        " bill_changed_at = excluded.bill_changed_at, bill_complete_at = excluded.bill_complete_at,"
        " bill_is_withdrawn = excluded.bill_is_withdrawn, revision = excluded.revision,"
        " cost_revision = excluded.cost_revision, billed = excluded.billed,"
        " first_bill = excluded.first_bill, restatement = excluded.restatement, estimate = excluded.estimate",
        (
            account,
            day_start,
            valued_day.method,
            valued_day.bill_evidence,
            _encode_fixed_costs(valued_day.fixed_costs),
            state.digest,
            int(state.changed_at.timestamp()),
            int(state.complete_at.timestamp()),
            int(state.is_withdrawn),
            *record,
        ),
    )


def _encode_fixed_costs(fixed_costs: Mapping[RowLabels, FixedCost]) -> str:
    """Return the costs as a JSON list; empty where there are none, as on most days."""
    return json.dumps([[*labels, *fixed] for labels, fixed in fixed_costs.items()]) if fixed_costs else ""


def _decode_fixed_costs(text: str) -> dict[RowLabels, FixedCost]:
    if not text:
        return {}
    return {RowLabels(*labels): FixedCost(frequency, nano_usd) for *labels, frequency, nano_usd in json.loads(text)}
