"""What the landing page shows, as values read from the accounts and the ledger; no HTML yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from exporter.errors import KeyRejected, ProviderError
from exporter.ledger import DayCost, Ledger
from exporter.metrics.budgets import EvaluatedBudget
from exporter.model import DAY, HOUR, ChangeEvent
from exporter.polling.account_state import AccountState
from exporter.snapshot.labels import LabelMapper, to_spend_labels
from exporter.windows import TimeRange, calendar_windows, floor, slots

MAX_WATERMARK_AGE = 4 * HOUR
"""A watermark that is older than this is late: the slowest provider is two hours behind."""

FIRST_POLL = "first poll under way"

State = Literal["good", "wait", "bad"]


@dataclass(frozen=True, slots=True)
class AccountProblem:
    """Why an account is not read, and what somebody has to do about it."""

    account: str
    owner: str
    messages: tuple[str, ...]
    """The provider's, of each report that fails in this way."""
    advice: str
    reports: tuple[str, ...]
    """Those that fail; empty where it is the whole account."""
    last_read: datetime | None
    """When any of it was last read; None: never."""


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
    """The last 30 UTC days that were told; None: told, and nothing was used."""
    models: Mapping[str, int]
    """Model -> cost of the last 30 days."""
    unpriced: Mapping[str, int]
    """Model -> tokens of today without a price."""
    aggregated_series: int
    """How many series are shown as `other`."""
    late: bool
    problems: tuple[AccountProblem, ...] = ()
    pending_key_message: str = ""
    """Why a new key is not used, and what to do; empty where none waits."""


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
    """What CI and others told of the last week, newest first."""

    @property
    def days(self) -> list[datetime]:
        """The starts of the last 30 UTC days, oldest first."""
        window = calendar_windows(self.now, None)["30d"]
        return list(slots(window.start, window.end, DAY))

    def bars(self) -> list[Bar]:
        """Return the last 30 days over all accounts, oldest first."""
        billed: Counter[datetime] = Counter()
        open_: Counter[datetime] = Counter()
        told: set[datetime] = set()
        for account in self.accounts:
            told.update(account.days)
            for day in filter(None, account.days.values()):
                (billed if day.billed else open_)[day.start] += day.cost
        return [Bar(day, billed[day], open_[day], day in told) for day in self.days]

    def models(self) -> list[tuple[str, int]]:
        """Return what each model cost in the last 30 days, the dearest first."""
        cost: Counter[str] = Counter()
        for account in self.accounts:
            cost.update(account.models)
        return sorted(cost.items(), key=lambda one: (-one[1], one[0]))


def collect_page_data(
    account_states: Iterable[AccountState],
    ledger: Ledger,
    get_label_mapper: Callable[[tuple[str, str]], LabelMapper | None],
    budgets: Sequence[EvaluatedBudget],
    now: datetime,
) -> PageData:
    """Return what the page shows of these accounts and budgets; `places` are those of an account on /metrics."""
    told = (_account_row(member, ledger, get_label_mapper(member.account.identity), now) for member in account_states)
    return PageData(
        now, tuple(sorted(told, key=lambda one: one.name)), tuple(budgets), tuple(ledger.change_events.recent(now))
    )


def _account_row(
    account_state: AccountState, ledger: Ledger, label_mapper: LabelMapper | None, now: datetime
) -> AccountRow:
    number, windows, today = account_state.ledger_account.id, calendar_windows(now, None), floor(now, DAY)
    window, month = windows["30d"], windows["month"]
    # On the 31st the month began a day before the last 30 days did.
    days = ledger.costs.days(number, TimeRange(min(window.start, month.start), window.end))
    until = account_state.complete_until(ledger)
    synced = [one.until for one in account_state.coverage(ledger).values() if one is not None]
    troubles = tuple(_account_problems(account_state, ledger))
    state, words = _state(account_state, ledger, until, now)
    this_month = [day for day in days if day.start >= month.start]
    return AccountRow(
        name=account_state.account.name,
        provider=account_state.account.provider,
        owner=account_state.account.owner,
        state=state,
        state_text=words,
        today=sum(day.cost for day in days if day.start == today),
        month=sum(day.cost for day in this_month),
        month_billed=sum(day.cost for day in this_month if day.billed),
        complete_until=until,
        last_sync=max(synced, default=None),
        days=_days_by_start(account_state.usage_time_range(ledger), days, window),
        models=_cost_by_model(ledger, number, window),
        unpriced=ledger.costs.unpriced_tokens(number, today),
        aggregated_series=0 if label_mapper is None else label_mapper.aggregated_series,
        late=_is_late(until, now),
        problems=troubles,
        pending_key_message=_pending_key_message(account_state.health.pending_key_error),
    )


def _days_by_start(
    known_range: TimeRange | None, days: Iterable[DayCost], window: TimeRange
) -> dict[datetime, DayCost | None]:
    known: dict[datetime, DayCost | None] = {}
    if known_range is not None:
        known = dict.fromkeys(slots(max(known_range.start, window.start), known_range.end, DAY))
    return known | {day.start: day for day in days if day.start >= window.start}


def _cost_by_model(ledger: Ledger, account_number: int, window: TimeRange) -> dict[str, int]:
    cost: Counter[str] = Counter()
    for labels, nano in ledger.costs.total(account_number, window).items():
        cost[to_spend_labels(labels)[1]] += nano
    return dict(cost)


def _is_late(until: datetime | None, now: datetime) -> bool:
    return until is not None and now - until > MAX_WATERMARK_AGE


def _state(account_state: AccountState, ledger: Ledger, until: datetime | None, now: datetime) -> tuple[State, str]:
    reasons = sorted({error.reason.replace("_", " ") for error in account_state.health.current_problems})
    if account_state.health.key_rejected:
        return "bad", "stopped: " + (", ".join(reasons) or "key rejected")
    if reasons:
        return "bad", "failing: " + ", ".join(reasons)
    if not account_state.up(ledger):
        return "wait", FIRST_POLL
    return ("wait", "up, data late") if _is_late(until, now) else ("good", "up")


def _account_problems(account_state: AccountState, ledger: Ledger) -> Iterator[AccountProblem]:
    problems = dict(account_state.health.problems)
    covered = {report.name: one for report, one in account_state.coverage(ledger).items()}
    by_advice: dict[tuple[str, str], list[str]] = {}
    for report in sorted(problems):
        by_advice.setdefault((problems[report].reason, _advice(problems[report])), []).append(report)
    for (_, advice), failing in by_advice.items():
        words = tuple(dict.fromkeys(str(problems[one]) for one in failing))
        known = tuple(one for one in failing if one in covered)
        read = [covered[one] for one in known or covered]
        since: datetime | None = max((one.until for one in read if one is not None), default=None)
        yield AccountProblem(account_state.account.name, account_state.account.owner, words, advice, known, since)


def _pending_key_message(error: ProviderError | None) -> str:
    return "" if error is None else f"{str(error).rstrip('.')}. {_advice(error)}".rstrip()


_ADVICE = {
    "rate_limited": "It is asked again by itself. If it stays, raise poll_interval, or give this exporter its own key.",
    "unavailable": "It is asked again by itself. If it stays, look at the provider's status page and at the way there.",
    "malformed": "The old numbers stay. If it stays, look for a newer version of this exporter, or report it.",
}


def _advice(error: ProviderError) -> str:
    return error.advice if isinstance(error, KeyRejected) else _ADVICE.get(error.reason, "")
