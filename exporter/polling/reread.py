"""Reading past days again on request: which reports and days, and in which parts. Pure: the poller acts on it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from exporter.config.messages import format_value
from exporter.errors import RereadRejected
from exporter.ledger import Coverage
from exporter.model import DAY, HOUR, Report
from exporter.polling.schedule import PartialRefresh
from exporter.windows import TimeRange, floor

MAX_PART = {HOUR: 7 * DAY, DAY: 31 * DAY}
"""Width of a report's buckets -> the longest time range that is read at a time: about a page of a provider's answers.
Between two parts everything that became due is polled."""

PARAMETERS = ("from", "to", "account", "provider")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class RereadRequest:
    """A request to read whole UTC days again."""

    first_day: datetime
    last_day: datetime
    """Included."""
    account: str | None = None
    """None: every polled account."""
    provider: str | None = None
    """None: every provider."""

    @property
    def time_range(self) -> TimeRange:
        """The requested days."""
        return TimeRange(self.first_day, self.last_day + DAY)


@dataclass(frozen=True, slots=True)
class ReportDays:
    """The UTC days of one report that will be read again."""

    report: Report
    time_range: TimeRange


@dataclass(frozen=True, slots=True)
class AccountReread:
    """What will be read again of one account."""

    account: str
    provider: str
    reports: tuple[ReportDays, ...]


@dataclass(frozen=True, slots=True)
class RereadPlan:
    """What will be read again because of a request."""

    request: RereadRequest
    accounts: tuple[AccountReread, ...]
    messages: tuple[str, ...]
    """Requested days that are not read, each with the account and the reason."""


def parse_request(parameters: Iterable[tuple[str, str]]) -> RereadRequest:
    """Return the request of the parameters of a URL. Raises RereadRejected with status 400."""
    values: dict[str, str] = {}
    for name, value in parameters:
        # An unknown name may be a misspelt `account`: without that, all accounts would be read.
        if name not in PARAMETERS:
            raise RereadRejected(400, f"unknown parameter {format_value(name)}; known: {', '.join(PARAMETERS)}")
        if name in values:
            raise RereadRejected(400, f"{name} is given twice")
        if not value:
            raise RereadRejected(400, f"{name} is empty")
        values[name] = value
    first_day, last_day = (_parse_day(name, values.get(name)) for name in ("from", "to"))
    return RereadRequest(first_day, last_day, values.get("account"), values.get("provider"))


def _parse_day(name: str, text: str | None) -> datetime:
    if text is None:
        raise RereadRejected(400, f"{name} is missing: give a UTC day such as {name}=2026-01-31")
    try:
        if _DATE.fullmatch(text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        pass
    raise RereadRejected(400, f"{name}: {format_value(text)} is not a day such as 2026-01-31")


def check_days(request: RereadRequest, hourly_retention: timedelta, now: datetime) -> None:
    """Raise RereadRejected with status 400 where no account can read the requested days again."""
    first, last = f"{request.first_day:%Y-%m-%d}", f"{request.last_day:%Y-%m-%d}"
    if request.first_day > request.last_day:
        raise RereadRejected(400, f"from={first} is after to={last}")
    if request.last_day > now:
        raise RereadRejected(400, f"to={last} is in the future: today is {now:%Y-%m-%d} (UTC)")
    oldest = floor(now - hourly_retention, DAY)
    if request.first_day < oldest:
        raise RereadRejected(
            400,
            f"from={first} is too long ago: the ledger keeps hours for {hourly_retention.days} days, so the oldest day "
            f"that can be read again is {oldest:%Y-%m-%d}",
        )


def plan_account(
    account: str,
    provider: str,
    reports: Sequence[Report],
    coverages: Mapping[str, Coverage | None],
    request: RereadRequest,
    now: datetime,
) -> tuple[AccountReread, Sequence[str]]:
    """Return what is read again of an account, and messages about the days that are not.

    `reports` are those that the account has; `coverages` is by their names.
    """
    planned: list[ReportDays] = []
    omitted: dict[str, list[str]] = {}
    for report in reports:
        start, reason = _readable_from(report, coverages[report.name], request.time_range, now)
        if start < request.time_range.end:
            planned.append(ReportDays(report, TimeRange(start, request.time_range.end)))
        if reason:
            omitted.setdefault(reason, []).append(report.name)
    messages = [
        f"{account}: {reason}" if len(names) == len(reports) else f"{account}: {', '.join(names)}: {reason}"
        for reason, names in omitted.items()
    ]
    return AccountReread(account, provider, tuple(planned)), messages


def _readable_from(
    report: Report, coverage: Coverage | None, requested: TimeRange, now: datetime
) -> tuple[datetime, str]:
    """Return the first requested day that can be read again, the end where there is none, and why others cannot."""
    if coverage is None:
        return requested.end, "nothing was read yet; the first poll reads the whole `history`"
    provider_start = floor(now, DAY) - report.history
    start = min(requested.end, max(requested.start, provider_start, floor(coverage.since, DAY)))
    if start == requested.start:
        return start, ""
    if provider_start >= coverage.since:
        reason = f"the provider keeps {report.history.days} days"
    else:
        reason = "they were never read; a longer `history` in the configuration adds them"
    return start, f"days before {max(provider_start, coverage.since):%Y-%m-%d} are skipped: {reason}"


def merge_ranges(time_ranges: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """Return the same times as disjoint ranges, oldest first; ranges that touch become one."""
    merged: list[TimeRange] = []
    for time_range in sorted(time_ranges, key=lambda known: known.start):
        if merged and time_range.start <= merged[-1].end:
            merged[-1] = TimeRange(merged[-1].start, max(merged[-1].end, time_range.end))
        elif time_range.start < time_range.end:
            merged.append(time_range)
    return tuple(merged)


@dataclass(slots=True)
class PendingReread:
    """The days of one report that wait to be read again, and how far this has come."""

    time_ranges: tuple[TimeRange, ...] = ()
    """Disjoint, oldest first; the first begins where it was read up to."""
    first_start: datetime | None = None
    """Where the first time range began; None before its first part was read."""
    changed_days: set[datetime] = field(default_factory=set)
    """Days of the first time range that have changed since they were read before."""
    failures: int = 0
    """Since the last part that was read."""
    not_before: datetime | None = None

    def add(self, time_ranges: Iterable[TimeRange]) -> None:
        """Add time ranges. Days that wait already are read once."""
        waiting = list(self.time_ranges)
        if waiting and self.first_start is not None:
            # From a day's beginning: a day counts as read again when it was read without a gap.
            waiting[0] = TimeRange(max(self.first_start, floor(waiting[0].start, DAY)), waiting[0].end)
        self.time_ranges, self.first_start = merge_ranges([*waiting, *time_ranges]), None

    def next_part(self, report: Report, coverage: Coverage, max_range: timedelta) -> TimeRange | None:
        """Return the time range to request next; None while the coverage does not reach the waiting days.

        A part never extends the coverage: outside of it, polls would not return to what lies in between.
        """
        while self.time_ranges:
            waiting = self.time_ranges[0]
            start = max(waiting.start, coverage.since)
            if start < waiting.end:
                limit = max(report.width, min(max_range, MAX_PART[report.width]))
                # On a bucket's edge: a bucket requested in two parts would be replaced by its second half.
                end = min(waiting.end, coverage.until, floor(start + limit, report.width))
                return TimeRange(start, end) if start < end else None
            self._finish_first()
        return None

    def advance(self, part: TimeRange, coverage: Coverage) -> TimeRange | None:
        """Record that a part was read; return the whole time range where the part was its last."""
        waiting = self.time_ranges[0]
        self.failures, self.not_before = 0, None
        start = self.first_start or part.start
        if part.end < min(waiting.end, coverage.until):
            self.time_ranges = (TimeRange(part.end, waiting.end), *self.time_ranges[1:])
            self.first_start = start
            return None
        self._finish_first()
        return TimeRange(start, part.end)

    def as_refresh(self, part: TimeRange) -> PartialRefresh:
        """Return a part as the newest of a refresh that began with the time range."""
        return PartialRefresh(self.first_start or part.start, part.start)

    def _finish_first(self) -> None:
        self.time_ranges, self.first_start, self.changed_days = self.time_ranges[1:], None, set()


def format_days(time_range: TimeRange) -> str:
    """Return the UTC days of a time range: `2026-01-30 to 2026-01-31`."""
    return f"{time_range.start:%Y-%m-%d} to {time_range.end - timedelta(microseconds=1):%Y-%m-%d}"
