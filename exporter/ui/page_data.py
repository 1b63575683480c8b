"""What the landing page shows, as values read from the accounts and the ledger; no HTML yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from exporter.errors import KeyRejected, ProviderError
from exporter.ledger import Day, Ledger
from exporter.metrics.budgets import Told
from exporter.metrics.labels import Places, combination
from exporter.model import DAY, HOUR, Deed
from exporter.polling.account_state import Member
from exporter.windows import Span, calendar, floor, slots

LATE = 4 * HOUR
"""A watermark that is older than this is late: the slowest provider is two hours behind."""

FIRST = "first poll under way"

State = Literal["good", "wait", "bad"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an account is not read, and what somebody has to do about it."""

    account: str
    owner: str
    words: tuple[str, ...]
    """The provider's, of each report that fails in this way."""
    advice: str
    reports: tuple[str, ...]
    """Those that fail; empty where it is the whole account."""
    since: datetime | None
    """When any of it was last read; None: never."""


@dataclass(frozen=True, slots=True)
class Account:
    """One account's row, its days and its notices; money in nano-USD."""

    name: str
    provider: str
    owner: str
    state: State
    words: str
    today: int
    month: int
    month_billed: int
    complete_until: datetime | None
    synced: datetime | None
    days: Mapping[datetime, Day | None]
    """The last 30 UTC days that were told; None: told, and nothing was used."""
    models: Mapping[str, int]
    """Model -> cost of the last 30 days."""
    unpriced: Mapping[str, int]
    """Model -> tokens of today without a price."""
    folded: int
    """How many series are shown as `other`."""
    late: bool
    troubles: tuple[Trouble, ...] = ()
    spare: str = ""
    """Why a new key is not used, and what to do; empty where none waits."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One UTC day of all accounts, in nano-USD."""

    start: datetime
    billed: int
    estimated: int
    told: bool
    """False: no account was read that far back."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything on the page."""

    now: datetime
    accounts: tuple[Account, ...]
    """By name."""
    budgets: tuple[Told, ...]
    deeds: tuple[Deed, ...] = ()
    """What CI and others told of the last week, newest first."""

    @property
    def shown(self) -> list[datetime]:
        """The starts of the last 30 UTC days, oldest first."""
        window = calendar(self.now, None)["30d"]
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
        return [Bar(day, billed[day], open_[day], day in told) for day in self.shown]

    def models(self) -> list[tuple[str, int]]:
        """Return what each model cost in the last 30 days, the dearest first."""
        cost: Counter[str] = Counter()
        for account in self.accounts:
            cost.update(account.models)
        return sorted(cost.items(), key=lambda one: (-one[1], one[0]))


def facts(
    members: Iterable[Member],
    ledger: Ledger,
    places: Callable[[tuple[str, str]], Places | None],
    budgets: Sequence[Told],
    now: datetime,
) -> Facts:
    """Return what the page shows of these accounts and budgets; `places` are those of an account on /metrics."""
    told = (_account(member, ledger, places(member.account.key), now) for member in members)
    return Facts(now, tuple(sorted(told, key=lambda one: one.name)), tuple(budgets), tuple(ledger.timeline.newest(now)))


def _account(member: Member, ledger: Ledger, places: Places | None, now: datetime) -> Account:
    number, windows, today = member.book.number, calendar(now, None), floor(now, DAY)
    window, month = windows["30d"], windows["month"]
    # On the 31st the month began a day before the last 30 days did.
    days = ledger.costs.days(number, Span(min(window.start, month.start), window.end))
    until = member.complete_until(ledger)
    synced = [one.until for one in member.covered(ledger).values() if one is not None]
    troubles = tuple(_troubles(member, ledger))
    state, words = _state(member, ledger, until, now)
    this_month = [day for day in days if day.start >= month.start]
    return Account(
        name=member.account.name,
        provider=member.account.provider,
        owner=member.account.owner,
        state=state,
        words=words,
        today=sum(day.cost for day in days if day.start == today),
        month=sum(day.cost for day in this_month),
        month_billed=sum(day.cost for day in this_month if day.billed),
        complete_until=until,
        synced=max(synced, default=None),
        days=_by_day(member.told_span(ledger), days, window),
        models=_models(ledger, number, window),
        unpriced=ledger.costs.unpriced(number, today),
        folded=0 if places is None else places.folded,
        late=_late(until, now),
        troubles=troubles,
        spare=_spare(member.health.spare),
    )


def _by_day(told: Span | None, days: Iterable[Day], window: Span) -> dict[datetime, Day | None]:
    known: dict[datetime, Day | None] = {}
    if told is not None:
        known = dict.fromkeys(slots(max(told.start, window.start), told.end, DAY))
    return known | {day.start: day for day in days if day.start >= window.start}


def _models(ledger: Ledger, number: int, window: Span) -> dict[str, int]:
    cost: Counter[str] = Counter()
    for labels, nano in ledger.costs.total(number, window).items():
        cost[combination(labels)[1]] += nano
    return dict(cost)


def _late(until: datetime | None, now: datetime) -> bool:
    return until is not None and now - until > LATE


def _state(member: Member, ledger: Ledger, until: datetime | None, now: datetime) -> tuple[State, str]:
    reasons = sorted({error.reason.replace("_", " ") for error in member.health.reasons()})
    if member.stopped:
        return "bad", "stopped: " + (", ".join(reasons) or "key rejected")
    if reasons:
        return "bad", "failing: " + ", ".join(reasons)
    if not member.up(ledger):
        return "wait", FIRST
    return ("wait", "up, data late") if _late(until, now) else ("good", "up")


def _troubles(member: Member, ledger: Ledger) -> Iterator[Trouble]:
    problems = dict(member.health.problems)
    covered = {report.name: one for report, one in member.covered(ledger).items()}
    by_advice: dict[tuple[str, str], list[str]] = {}
    for report in sorted(problems):
        by_advice.setdefault((problems[report].reason, _advice(problems[report])), []).append(report)
    for (_, advice), failing in by_advice.items():
        words = tuple(dict.fromkeys(str(problems[one]) for one in failing))
        known = tuple(one for one in failing if one in covered)
        read = [covered[one] for one in known or covered]
        since: datetime | None = max((one.until for one in read if one is not None), default=None)
        yield Trouble(member.account.name, member.account.owner, words, advice, known, since)


def _spare(error: ProviderError | None) -> str:
    return "" if error is None else f"{str(error).rstrip('.')}. {_advice(error)}".rstrip()


_ADVICE = {
    "rate_limited": "It is asked again by itself. If it stays, raise poll_interval, or give this exporter its own key.",
    "unavailable": "It is asked again by itself. If it stays, look at the provider's status page and at the way there.",
    "malformed": "The old numbers stay. If it stays, look for a newer version of this exporter, or report it.",
}


def _advice(error: ProviderError) -> str:
    return error.advice if isinstance(error, KeyRejected) else _ADVICE.get(error.reason, "")
