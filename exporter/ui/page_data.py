"""The values of the landing page, from the accounts' snapshots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from exporter.errors import KeyRejected, ProviderError
from exporter.ledger import DayCost
from exporter.model import DAY, ChangeEvent
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.aggregation import aggregate_days
from exporter.snapshot.budgets import EvaluatedBudget
from exporter.snapshot.day_reads import DayReads
from exporter.snapshot.estimates import OneTimeCost, one_time_costs, unpriced_usage
from exporter.windows import TimeRange, calendar_windows, floor, slots

FIRST_POLL = "first poll under way"

State = Literal["good", "wait", "bad"]


@dataclass(frozen=True, slots=True)
class AccountProblem:
    """A failure of an account's polls, and the action it needs."""

    account: str
    owner: str
    messages: tuple[str, ...]
    """What happened, for each report that fails this way."""
    advice: str
    reports: tuple[str, ...]
    """Failing reports; empty where the whole account fails."""
    last_read: datetime | None
    """When any of them was last read; None: never."""


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account's row, its days and its notices; money in nano-USD."""

    name: str
    provider: str
    owner: str
    state: State
    state_text: str
    today: int
    month: int
    month_billed: int
    complete_until: datetime | None
    last_sync: datetime | None
    days: Mapping[datetime, DayCost | None]
    """The last 30 UTC days that were read; None: read, without any usage."""
    models: Mapping[str, int]
    """Model -> cost of the last 30 days."""
    unpriced: Mapping[str, int]
    """Model -> tokens of all unbilled days without a price."""
    unpriced_cost_ratio: float
    """The estimated share of the unbilled days' cost that is missing for it."""
    one_time_costs: Sequence[OneTimeCost]
    """Of the last 30 days, newest first."""
    aggregated_series: int
    """How many series are shown as `other`."""
    late: bool
    problems: tuple[AccountProblem, ...] = ()
    day_reads: Mapping[datetime, DayReads] = field(default_factory=dict)
    """Start of a UTC day -> when it was read last."""
    has_bills: bool = False
    """Whether the provider bills in reports of their own."""
    pending_key_message: str = ""
    """Why a changed key is not used, and the action needed; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One UTC day of all accounts, in nano-USD."""

    start: datetime
    billed: int
    estimated: int
    has_data: bool
    """False: no account was read that far back."""


@dataclass(frozen=True, slots=True)
class PageData:
    """Everything on the page."""

    now: datetime
    accounts: tuple[AccountRow, ...]
    """By name."""
    budgets: tuple[EvaluatedBudget, ...]
    change_events: tuple[ChangeEvent, ...] = ()
    """Change events of the last week, newest first."""

    @property
    def days(self) -> list[datetime]:
        """The starts of the last 30 UTC days, oldest first."""
        window = calendar_windows(self.now, None)["30d"]
        return list(slots(window.start, window.end, DAY))

    def bars(self) -> list[Bar]:
        """Return the last 30 days over all accounts, oldest first."""
        billed: Counter[datetime] = Counter()
        open_: Counter[datetime] = Counter()
        read: set[datetime] = set()
        for account in self.accounts:
            read.update(account.days)
            for day in filter(None, account.days.values()):
                (billed if day.billed else open_)[day.start] += day.cost
        return [Bar(day, billed[day], open_[day], day in read) for day in self.days]

    def models(self) -> list[tuple[str, int]]:
        """Return each model's cost in the last 30 days, most expensive first."""
        cost: Counter[str] = Counter()
        for account in self.accounts:
            cost.update(account.models)
        return sorted(cost.items(), key=lambda item: (-item[1], item[0]))


def collect_page_data(
    snapshots: Iterable[AccountSnapshot],
    budgets: Sequence[EvaluatedBudget],
    change_events: Sequence[ChangeEvent],
    now: datetime,
) -> PageData:
    """Collect the page's values from the accounts' newest snapshots; `budgets` are those of /metrics."""
    rows = sorted((_account_row(snapshot, now) for snapshot in snapshots), key=lambda row: row.name)
    return PageData(now, tuple(rows), tuple(budgets), tuple(change_events))


def _account_row(snapshot: AccountSnapshot, now: datetime) -> AccountRow:
    windows, today = calendar_windows(now, None), floor(now, DAY)
    unpriced = unpriced_usage(snapshot)
    this_month = [day for day in snapshot.day_costs if day.start >= windows["month"].start]
    cost_by_model = aggregate_days([snapshot], windows["30d"], lambda _, labels: labels.model)
    state, state_text = _state(snapshot, now)
    polled = [known.coverage.until for known in snapshot.reports if known.coverage is not None]
    return AccountRow(
        name=snapshot.account.name,
        provider=snapshot.account.provider,
        owner=snapshot.account.owner,
        state=state,
        state_text=state_text,
        today=sum(day.cost for day in this_month if day.start == today),
        month=sum(day.cost for day in this_month),
        month_billed=sum(day.cost for day in this_month if day.billed),
        complete_until=snapshot.complete_until,
        last_sync=max(polled, default=None),
        days=_days_by_start(snapshot, windows["30d"]),
        models={model: totals.cost for model, totals in cost_by_model.items() if totals.cost},
        unpriced=unpriced.tokens,
        unpriced_cost_ratio=unpriced.cost_ratio,
        one_time_costs=[cost for cost in one_time_costs(snapshot) if cost.day >= windows["30d"].start],
        aggregated_series=snapshot.label_mapper.aggregated_series,
        late=snapshot.is_late(now),
        problems=tuple(_account_problems(snapshot)),
        day_reads=snapshot.day_reads,
        has_bills=any(known.report.kind == "bill" for known in snapshot.reports),
        pending_key_message=_pending_key_message(snapshot.health.pending_key_error),
    )


def _days_by_start(snapshot: AccountSnapshot, window: TimeRange) -> dict[datetime, DayCost | None]:
    days: dict[datetime, DayCost | None] = {}
    if snapshot.covered is not None:
        days = dict.fromkeys(slots(max(snapshot.covered.start, window.start), snapshot.covered.end, DAY))
    return days | {day.start: day for day in snapshot.day_costs if day.start >= window.start}


def _state(snapshot: AccountSnapshot, now: datetime) -> tuple[State, str]:
    reasons = sorted({error.reason.replace("_", " ") for error in snapshot.health.current_problems})
    if snapshot.health.key_rejected:
        return "bad", "stopped: " + (", ".join(reasons) or "key rejected")
    if reasons:
        return "bad", "failing: " + ", ".join(reasons)
    if not snapshot.up:
        return "wait", FIRST_POLL
    return ("wait", "up, data late") if snapshot.is_late(now) else ("good", "up")


def _account_problems(snapshot: AccountSnapshot) -> Iterator[AccountProblem]:
    """Yield the present problems; reports that fail for one reason are one problem."""
    problems = snapshot.health.problems
    coverage = {known.report.name: known.coverage for known in snapshot.reports}
    reports_by_advice: dict[tuple[str, str], list[str]] = {}
    for report in sorted(problems):
        error = problems[report]
        reports_by_advice.setdefault((error.reason, _advice(error)), []).append(report)
    for (_, advice), failing in reports_by_advice.items():
        # A problem of the whole account, such as a rejected key, is recorded under a name that is no report.
        reports = tuple(report for report in failing if report in coverage)
        read = [known for report in reports or coverage if (known := coverage[report]) is not None]
        yield AccountProblem(
            account=snapshot.account.name,
            owner=snapshot.account.owner,
            messages=tuple(dict.fromkeys(str(problems[report]) for report in failing)),
            advice=advice,
            reports=reports,
            last_read=max((known.until for known in read), default=None),
        )


def _pending_key_message(error: ProviderError | None) -> str:
    return "" if error is None else f"{str(error).rstrip('.')}. {_advice(error)}".rstrip()


_ADVICE = {
    "rate_limited": "The poll is retried automatically. If it fails again, raise poll_interval or use a separate key.",
    "unavailable": "The poll is retried automatically. If it fails again, check the provider's status page and the "
    "network.",
    "unsupported": "The previous numbers are kept. Check base_url, and whether the plan includes this report.",
    "malformed": "The previous numbers are kept. If the problem persists, update this exporter or report the error.",
    "internal_error": "The previous numbers are kept, and the poll is retried every 15 minutes. Update this exporter, "
    "or report the error with its log.",
}


def _advice(error: ProviderError) -> str:
    return error.advice if isinstance(error, KeyRejected) else _ADVICE.get(error.reason, "")
