"""The values of the landing page, from the accounts' snapshots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from exporter.ledger import DayCost
from exporter.model import DAY, ChangeEvent
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.aggregation import Totals, aggregate_days
from exporter.snapshot.budgets import EvaluatedBudget
from exporter.snapshot.day_reads import DayReads
from exporter.snapshot.estimates import OneTimeCost, one_time_costs
from exporter.ui.alerts import STATE_ORDER, Alert, State, collect_alerts
from exporter.ui.links import PageLinks
from exporter.windows import calendar_windows, days_back, floor, slots

FIRST_POLL = "first poll under way"

TREND_DAYS = 7
"""Days that a trend compares with as many days before them."""


@dataclass(frozen=True, slots=True)
class Trend:
    """Cost of the last seven complete days, and of the seven before, in nano-USD."""

    last: int
    previous: int

    def __add__(self, other: Trend) -> Trend:
        return Trend(self.last + other.last, self.previous + other.previous)


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account's row and its days; money in nano-USD, None where it was not read."""

    name: str
    provider: str
    owner: str
    state: State
    state_text: str
    today: int | None
    month: int | None
    month_billed: int
    month_forecast: int | None
    trend: Trend | None
    """None where not all of the fourteen days were read."""
    complete_until: datetime | None
    last_sync: datetime | None
    days: Mapping[datetime, DayCost | None]
    """The UTC days that were read, of the last 35; None: read, without any usage."""
    models: Mapping[str, Totals]
    """Model -> cost and requests of the last 30 days."""
    one_time_costs: Sequence[OneTimeCost]
    """Of the last 30 days, newest first."""
    aggregated_series: int
    """How many series are shown as `other`."""
    late: bool
    alerts: Sequence[Alert] = ()
    """Those about this account, the worst first."""
    day_reads: Mapping[datetime, DayReads] = field(default_factory=dict)
    """Start of a UTC day -> when it was read last."""
    has_bills: bool = False
    """Whether the provider bills in reports of their own."""
    is_polled: bool = True
    """False: its usage is pushed."""

    @property
    def worst_state(self) -> State:
        """The worst of the account's own state and of the alerts about it."""
        return min((self.state, *(alert.kind.state for alert in self.alerts)), key=lambda state: STATE_ORDER[state])


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
    """Those that need attention first, then by their cost this month."""
    budgets: tuple[EvaluatedBudget, ...]
    change_events: tuple[ChangeEvent, ...] = ()
    """Change events of the last week, newest first."""
    alerts: tuple[Alert, ...] = ()
    """The worst first."""
    links: PageLinks = field(default_factory=PageLinks)

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

    def models(self) -> list[tuple[str, Totals]]:
        """Return each model's cost and requests in the last 30 days, most expensive first."""
        totals: dict[str, Totals] = {}
        for account in self.accounts:
            for model, used in account.models.items():
                totals[model] = totals.get(model, Totals()) + used
        return sorted(totals.items(), key=lambda item: (-item[1].cost, item[0]))

    def trend(self) -> Trend | None:
        """Return the trend of all accounts for which it is known; None where it is known of none."""
        trends = [account.trend for account in self.accounts if account.trend is not None]
        return sum(trends, Trend(0, 0)) if trends else None

    def daily_cost(self) -> list[int | None]:
        """Return the cost of each of the 30 complete days before today, over all accounts."""
        days: dict[datetime, int] = {}
        for account in self.accounts:
            for start, day in account.days.items():
                days[start] = days.get(start, 0) + (day.cost if day is not None else 0)
        return [days.get(start) for start in self.complete_days]

    @property
    def complete_days(self) -> list[datetime]:
        """The starts of the 30 UTC days before today, oldest first."""
        return list(slots(days_back(self.now, 30), floor(self.now, DAY), DAY))


def collect_page_data(
    snapshots: Iterable[AccountSnapshot],
    budgets: Sequence[EvaluatedBudget],
    change_events: Sequence[ChangeEvent],
    now: datetime,
    links: PageLinks,
) -> PageData:
    """Collect the page's values from the accounts' newest snapshots; `budgets` are those of /metrics."""
    snapshots = list(snapshots)
    alerts = collect_alerts(snapshots, budgets, now)
    alerts_by_account: dict[tuple[str, str] | None, list[Alert]] = {}
    for alert in alerts:
        alerts_by_account.setdefault(alert.account, []).append(alert)
    rows = [_account_row(snapshot, alerts_by_account.get(snapshot.key, ()), now) for snapshot in snapshots]
    rows.sort(key=lambda row: (STATE_ORDER[row.worst_state], -(row.month or 0), row.name, row.provider))
    return PageData(now, tuple(rows), tuple(budgets), tuple(change_events), alerts, links)


def _account_row(snapshot: AccountSnapshot, alerts: Sequence[Alert], now: datetime) -> AccountRow:
    windows, today = calendar_windows(now, None), floor(now, DAY)
    days = _days_by_start(snapshot)
    this_month = [day for day in snapshot.day_costs if day.start >= windows["month"].start]
    state, state_text = _state(snapshot, now)
    polled = [known.coverage.until for known in snapshot.reports if known.coverage is not None]
    # A window of which no day was read has an unknown cost, not none.
    month_was_read = any(start >= windows["month"].start for start in days)
    return AccountRow(
        name=snapshot.account.name,
        provider=snapshot.account.provider,
        owner=snapshot.account.owner,
        state=state,
        state_text=state_text,
        today=sum(day.cost for day in this_month if day.start == today) if today in days else None,
        month=sum(day.cost for day in this_month) if month_was_read else None,
        month_billed=sum(day.cost for day in this_month if day.billed),
        month_forecast=snapshot.month_forecast,
        trend=_trend(snapshot, days, now),
        complete_until=snapshot.complete_until,
        last_sync=max(polled, default=None),
        days=days,
        models=aggregate_days([snapshot], windows["30d"], lambda _, labels: labels.model),
        one_time_costs=[cost for cost in one_time_costs(snapshot) if cost.day >= windows["30d"].start],
        aggregated_series=snapshot.label_mapper.aggregated_series,
        late=snapshot.is_late(now),
        alerts=alerts,
        day_reads=snapshot.day_reads,
        has_bills=any(known.report.kind == "bill" for known in snapshot.reports),
        is_polled=bool(snapshot.view.polled_reports),
    )


def _days_by_start(snapshot: AccountSnapshot) -> dict[datetime, DayCost | None]:
    days: dict[datetime, DayCost | None] = {}
    if snapshot.covered is not None:
        first = max(snapshot.covered.start, snapshot.exported.start)
        days = dict.fromkeys(slots(first, snapshot.covered.end, DAY))
    return days | {day.start: day for day in snapshot.day_costs}


def _trend(snapshot: AccountSnapshot, days: Mapping[datetime, DayCost | None], now: datetime) -> Trend | None:
    """Return the trend up to the newest complete day; None where that is older than two days, or days were not read."""
    if snapshot.complete_until is None:
        return None
    end = floor(min(snapshot.complete_until, now), DAY)
    compared = [end - number * DAY for number in range(1, 2 * TREND_DAYS + 1)]
    if end < days_back(now, 1) or any(start not in days for start in compared):
        return None
    cost = [day.cost if (day := days[start]) is not None else 0 for start in compared]
    return Trend(sum(cost[:TREND_DAYS]), sum(cost[TREND_DAYS:]))


def _state(snapshot: AccountSnapshot, now: datetime) -> tuple[State, str]:
    reasons = sorted({error.reason.replace("_", " ") for error in snapshot.health.current_problems})
    if snapshot.health.key_rejected:
        return "bad", "stopped: " + (", ".join(reasons) or "key rejected")
    if reasons:
        return "bad", "failing: " + ", ".join(reasons)
    if not snapshot.up:
        return "wait", FIRST_POLL
    return ("wait", "up, data late") if snapshot.is_late(now) else ("good", "up")
