"""The suite: normal weeks, in which nothing should fire, and incidents, each of which should fire once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from exporter.model import DAY, HOUR
from tests.incidents import shapes
from tests.incidents.pasts import BROKEN_CACHE, CHAT, Charge, Mix, PastAccount, Stream
from tests.incidents.play import BudgetConfig

WEDNESDAY = datetime(2026, 11, 18, tzinfo=UTC)
"""The day of the incidents."""
FIRST_USAGE = WEDNESDAY - 40 * DAY
INCIDENTS_START, INCIDENTS_END = WEDNESDAY - DAY, WEDNESDAY + 4 * DAY + 12 * HOUR
"""The time that is evaluated; the exporter reads the 30 days before with its first poll."""
NORMAL_START = datetime(2026, 11, 9, tzinfo=UTC)
"""A Monday."""
NORMAL_DAYS = 28
LATE = 3 * HOUR
"""The delay of a provider that reports late."""
Size = Literal["small", "large"]
USD_PER_HOUR: dict[Size, float] = {"small": 1.5, "large": 60.0}
"""Mean cost of an hour of a workspace."""
SPIKE = frozenset({"AIRunawaySpend", "AICostSpike", "AIUnexpectedSpend"})


@dataclass(frozen=True)
class Incident:
    """An account with one incident, and the alerts that find it."""

    kind: str
    size: Size
    late: bool
    account: PastAccount
    start: datetime
    """The first hour of the incident; of a bill, when it is available."""
    end: datetime
    alerts: frozenset[str]
    """Any of them finds it."""
    budgets: Sequence[BudgetConfig] = ()
    budget: str = ""
    """The budget whose alert is expected; empty for an alert of the account."""
    max_complete_hours: int = 2

    @property
    def name(self) -> str:
        """A unique name."""
        return f"{self.kind}, {self.size}{', late' if self.late else ''}"


@dataclass(frozen=True)
class NormalAccount:
    """An account with normal weeks."""

    shape: str
    account: PastAccount
    budgets: Sequence[BudgetConfig]


def _name(kind: str, size: str, *, late: bool = False, number: int = 0) -> str:
    words = [*kind.replace(",", "").replace("%", "").split(), size, *(["late"] if late else [])]
    return "-".join(words) + (f"-{number}" if number else "")


@dataclass(frozen=True, slots=True)
class _Case:
    """What the incidents of all kinds have in common: an account's size, and when its provider reports."""

    kind: str
    size: Size
    late: bool = False

    @property
    def name(self) -> str:
        return _name(self.kind, self.size, late=self.late)

    @property
    def usd(self) -> float:
        return USD_PER_HOUR[self.size]

    @property
    def delay(self) -> timedelta:
        return LATE if self.late else timedelta(minutes=3)

    def account(self, *streams: Stream) -> PastAccount:
        """Return an account of these streams and a second workspace with ordinary usage."""
        other = Stream("helpdesk", "mini-2", self.usd / 3, shapes.day_and_night)
        return PastAccount(self.name, (*streams, other), delay=self.delay)

    def incident(
        self,
        account: PastAccount,
        start: datetime,
        end: datetime,
        *alerts: str,
        budgets: Sequence[BudgetConfig] = (),
        budget: str = "",
        max_complete_hours: int = 2,
    ) -> Incident:
        return Incident(
            self.kind,
            self.size,
            self.late,
            account,
            start,
            end,
            frozenset(alerts),
            budgets,
            budget,
            max_complete_hours,
        )


def _runaway(case: _Case) -> Incident:
    start, end = WEDNESDAY + 2 * HOUR, WEDNESDAY + 8 * HOUR
    added = max(8.0, 40 / case.usd)
    shape = shapes.during(shapes.office_hours, start, end, added=added)
    account = case.account(Stream("agents", "core-2", case.usd, shape))
    return case.incident(
        account, start, end, "AIRunawaySpend", "AICostSpike", "AIUnexpectedSpend", max_complete_hours=1
    )


def _weekend_spike(case: _Case) -> Incident:
    start, end = WEDNESDAY + 3 * DAY + 11 * HOUR, WEDNESDAY + 3 * DAY + 17 * HOUR
    shape = shapes.during(shapes.office_hours, start, end, added=max(3.0, 9 / case.usd))
    return case.incident(case.account(Stream("agents", "core-2", case.usd, shape)), start, end, *SPIKE)


def _new_model(case: _Case) -> Incident:
    start, end = WEDNESDAY + 9 * HOUR, WEDNESDAY + 3 * DAY
    new = Stream("agents", "premium-3", case.usd, shapes.during(lambda _: 0.0, start, end, added=1.5))
    account = case.account(Stream("agents", "core-2", case.usd, shapes.day_and_night), new)
    return case.incident(account, start, end, "AINewModel", "AIHighCostModel", *SPIKE)


def _broken_cache(case: _Case) -> Incident:
    start, end = WEDNESDAY + 10 * HOUR, WEDNESDAY + 34 * HOUR

    def mix(hour: datetime) -> Mix:
        return BROKEN_CACHE if start <= hour < end else CHAT

    account = case.account(Stream("agents", "core-2", case.usd, shapes.day_and_night, mix=mix))
    return case.incident(account, start, end, "AICacheHitRatioDropped", *SPIKE)


def _long_context(case: _Case) -> Incident:
    start, end = WEDNESDAY + 10 * HOUR, WEDNESDAY + 18 * HOUR

    def mix(hour: datetime) -> Mix:
        return {meter: 5 * tokens for meter, tokens in CHAT.items()} if start <= hour < end else CHAT

    account = case.account(Stream("agents", "core-2", case.usd, shapes.day_and_night, mix=mix))
    return case.incident(account, start, end, "AITokensPerRequestSurge", *SPIKE)


def _price_change(case: _Case) -> Incident:
    account = replace(
        case.account(Stream("agents", "core-2", case.usd, shapes.day_and_night)),
        price_factor=lambda day: 1.4 if day >= WEDNESDAY else 1.0,
    )
    start = WEDNESDAY + DAY + 8 * HOUR
    return case.incident(account, start, start + DAY, "AIEstimateDrift")


def _one_time_charge(case: _Case) -> Incident:
    account = replace(
        case.account(Stream("agents", "core-2", case.usd, shapes.day_and_night)),
        charges=(Charge(WEDNESDAY, 30 * case.usd + 100),),
    )
    start = WEDNESDAY + DAY + 8 * HOUR
    return case.incident(account, start, start + DAY, "AIOneTimeCost")


def _late_bill(case: _Case) -> Incident:
    account = replace(
        case.account(Stream("agents", "core-2", case.usd, shapes.day_and_night)),
        late_bills={WEDNESDAY - DAY: 90 * HOUR},
    )
    start = WEDNESDAY + 8 * HOUR
    return case.incident(account, start, WEDNESDAY + 90 * HOUR, "AIBillMissing", max_complete_hours=50)


def _key_revoked(case: _Case) -> Incident:
    start = WEDNESDAY + 10 * HOUR
    account = replace(case.account(Stream("agents", "core-2", case.usd, shapes.day_and_night)), key_revoked_at=start)
    return case.incident(account, start, INCIDENTS_END, "AIAccountKeyRejected")


def _silent(case: _Case) -> Incident:
    start, end = WEDNESDAY + 10 * HOUR, WEDNESDAY + 20 * HOUR
    shape = shapes.during(shapes.day_and_night, start, end, factor=0.0)
    return case.incident(case.account(Stream("agents", "core-2", case.usd, shape)), start, end, "AISpendStopped")


def _outage(case: _Case) -> Incident:
    start, end = WEDNESDAY + 10 * HOUR, WEDNESDAY + 16 * HOUR
    account = replace(case.account(Stream("agents", "core-2", case.usd, shapes.office_hours)), unavailable=(start, end))
    return case.incident(account, start, end, "AIAccountStale", "AIAccountDataLate")


def _level_shift(case: _Case) -> Incident:
    start = WEDNESDAY + 9 * HOUR
    shape = shapes.during(shapes.day_and_night, start, INCIDENTS_END, factor=6.0)
    # Learned within two days: from then on it is no incident any more.
    return case.incident(case.account(Stream("agents", "core-2", case.usd, shape)), start, start + 2 * DAY, *SPIKE)


def _slow_creep(case: _Case) -> Incident:
    shape = shapes.growing(shapes.day_and_night, WEDNESDAY - 4 * DAY, 0.15)
    account = case.account(Stream("agents", "core-2", case.usd, shape))
    usual = case.account(Stream("agents", "core-2", case.usd, shapes.day_and_night))
    month = datetime(2026, 11, 1, tzinfo=UTC)
    limit = usual.usd_between(month, month + 30 * DAY) * 1.25
    # The first hour at whose rate of the last day the rest of the month would exceed the limit by more than 5 %.
    start = next(
        hour
        for hour in (month + number * HOUR for number in range(24, 720))
        if account.usd_between(month, hour) + account.usd_between(hour - DAY, hour) * ((month + 30 * DAY - hour) / DAY)
        > 1.05 * limit
    )
    budget = BudgetConfig(case.name, limit)
    alerts = ("AIBudgetForecastExceeded", "AIBudgetBurnSlow", "AIBudgetNearlySpent", "AIBudgetExceeded")
    return case.incident(account, start, INCIDENTS_END, *alerts, budgets=[budget], budget=budget.name)


def _budget_crossing(case: _Case, percent: int) -> Incident:
    start = WEDNESDAY + 10 * HOUR
    account = case.account(Stream("agents", "core-2", case.usd, shapes.day_and_night))
    spent = account.usd_between(datetime(2026, 11, 1, tzinfo=UTC), start)
    limit = spent / (percent / 100)
    budget = BudgetConfig(case.name, limit, nearly_spent_ratio=0.5 if percent == 50 else None)
    alert = "AIBudgetExceeded" if percent == 100 else "AIBudgetNearlySpent"
    return case.incident(account, start, INCIDENTS_END, alert, budgets=[budget], budget=budget.name)


_KINDS: Mapping[str, Callable[[_Case], Incident]] = {
    "runaway at night": _runaway,
    "spike on a Saturday": _weekend_spike,
    "new expensive model": _new_model,
    "cache broken": _broken_cache,
    "context five times as long": _long_context,
    "workspace silent": _silent,
    "new level, six times": _level_shift,
    "slow creep, 15 % a day": _slow_creep,
    "price change, 40 %": _price_change,
    "one-time charge": _one_time_charge,
    "late bill": _late_bill,
    "key revoked": _key_revoked,
    "outage of six hours": _outage,
    "budget crosses 50 %": lambda case: _budget_crossing(case, 50),
    "budget crosses 80 %": lambda case: _budget_crossing(case, 80),
    "budget crosses 100 %": lambda case: _budget_crossing(case, 100),
}
_ALSO_LATE = ("runaway at night", "spike on a Saturday", "new expensive model", "cache broken", "workspace silent",
              "new level, six times", "context five times as long")  # fmt: skip
"""Kinds that are also played with a provider that reports three hours late: what they are found by is usage."""


def incidents() -> Iterator[Incident]:
    """Yield every incident."""
    for kind, make in _KINDS.items():
        for size in USD_PER_HOUR:
            yield make(_Case(kind, size))
        if kind in _ALSO_LATE:
            for size in USD_PER_HOUR:
                yield make(_Case(kind, size, late=True))


def normal_accounts(copies: int = 1) -> Iterator[NormalAccount]:
    """Yield the accounts with normal weeks, each so often with other seeds."""
    start = NORMAL_START
    thanksgiving = {start + 17 * DAY, start + 18 * DAY}
    week_off = {start + number * DAY for number in range(14, 19)}
    for copy in range(copies):
        for size, usd in USD_PER_HOUR.items():
            seed = f"{size} {copy}"
            streams: dict[str, tuple[Stream, ...]] = {
                "office hours": (Stream("app", "core-2", usd, shapes.office_hours),),
                "24x7": (
                    Stream("app", "core-2", usd, shapes.flat, 0.1),
                    Stream("web", "mini-2", usd, shapes.day_and_night),
                ),
                "24x7, volatile": (Stream("app", "core-2", usd, shapes.day_and_night, 0.6),),
                "batch at night": (Stream("jobs", "mini-2", usd, shapes.nightly_batch),),
                "batch at weekends": (Stream("jobs", "core-2", usd, shapes.weekend_batch),),
                "low volume with bursts": (Stream("lab", "core-2", usd / 3, shapes.bursts(seed), 0.4),),
                "growing 3 % a day": (
                    Stream("app", "core-2", usd / 2, shapes.growing(shapes.office_hours, start - 30 * DAY, 0.03)),
                ),
                "two holidays": (
                    Stream("app", "core-2", usd, shapes.with_holidays(shapes.office_hours, thanksgiving)),
                ),
                "a week of holidays": (
                    Stream("app", "core-2", usd, shapes.with_holidays(shapes.office_hours, week_off)),
                ),
                "new account": (
                    Stream("app", "core-2", usd, shapes.starting(shapes.day_and_night, start + 2 * DAY + 9 * HOUR)),
                ),
                "reports at the start of a month": (Stream("app", "core-2", usd, shapes.first_of_month_batch),),
                "24x7, three hours late": (Stream("app", "core-2", usd, shapes.day_and_night),),
                "office hours, three hours late": (Stream("app", "core-2", usd, shapes.office_hours),),
            }
            for shape, shape_streams in streams.items():
                name = _name(shape.replace("x", "x"), size, number=copy)
                late = "late" in shape
                account = PastAccount(name, shape_streams, delay=LATE if late else timedelta(minutes=3))
                months = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
                usual = max(account.usd_between(month, month + 30 * DAY) for month in months)
                yield NormalAccount(shape, account, [BudgetConfig(name, 1.6 * usual)])
