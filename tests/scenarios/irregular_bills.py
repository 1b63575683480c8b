"""Accounts with irregular bills: charges that occur once, bills that arrive in parts, prices that depend on volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from exporter.model import DAY, HOUR
from exporter.simulator.accounts import ExtraCharge, SimAccount, Stream
from exporter.simulator.billing_terms import BillOutage, BillStage, FreeTokens, LineDelay, VolumeDiscount

FIRST_USAGE = datetime(2026, 10, 19, tzinfo=UTC)
"""A Monday: the first day with usage, before the history that the exporter reads."""
EXPORTER_START = datetime(2026, 11, 9, 12, 7, 30, tzinfo=UTC)
"""Until then the exporter knows nothing; its first poll reads HISTORY."""
HISTORY = "15d"
FIRST_DAY = datetime(2026, 11, 10, tzinfo=UTC)
"""A Tuesday, the first observed day; the history before it contains no event."""
OBSERVED_DAYS = 6
EVENT_DAY = FIRST_DAY + DAY

NO_LIST_PRICE = "gpt-nova"
"""A model without a list price."""
_GPT, _MINI = "gpt-5.4-2026-03-05", "gpt-5.4-mini-2026-03-17"
_SHIFTING = (1.0, 0.6, 1.3, 0.7, 1.4, 0.9, 1.2)
"""Factors of usage, Monday first, of a workspace whose usage varies from day to day."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The largest errors of a run, as parts of the true value, and counts of wrong hours, spikes and days."""

    yesterday: float
    today: float
    month: float
    """Cost of the month so far."""
    forecast: float
    """Forecast of the month."""
    burn_rate: float
    wrong_hours: int
    """Complete hours of the day of an observation, or the day before, whose exported cost was wrong by more than 5 %
    and 0.05 USD."""
    spikes: int
    """Observations at which a workspace's running or newest hour, or one of its newest 24, was above its upper bound,
    although no usage had increased."""
    premature_days: int
    """Days that were exported as billed before their whole bill had been issued."""


@dataclass(frozen=True, slots=True)
class IrregularScenario:
    """One irregular bill, with the errors that are accepted."""

    name: str
    description: str
    """For the table."""
    account: SimAccount
    bounds: Measurement
    restatements: Mapping[datetime, tuple[datetime, float]] = field(default_factory=dict)
    """Time -> the day whose bill is changed from then on, and the factor of the change."""
    unpriced_from: datetime | None = None
    """The first usage without any known price, which must be visible until a bill reveals the price."""
    unpredictable_days: frozenset[datetime] = frozenset()
    """Days whose bill nothing could show in advance: it may lie outside of the range that was expected."""


_CONTROL = Measurement(
    yesterday=0.001,
    today=0.001,
    month=0.001,
    forecast=0.05,
    burn_rate=0.01,
    wrong_hours=0,
    spikes=0,
    premature_days=0,
)
_EXACT = replace(_CONTROL, yesterday=0.01, today=0.01, month=0.01)


def _stream(workspace: str, model: str, daily_requests: float, **options: Any) -> Stream:
    return Stream(workspace, model, daily_requests=daily_requests, **{"load_profile": "steady", **options})


_PROJECT_A = (_stream("proj_a", _GPT, 3300.0), _stream("proj_a", _MINI, 2700.0))
"""About 37 USD on a working day."""
_PROJECT_B = (_stream("proj_b", _MINI, 2500.0, weekday_factors=_SHIFTING),)


def _account(*streams: Stream, **options: Any) -> SimAccount:
    return SimAccount(
        name="acme",
        provider="openai",
        owner="platform",
        key="sk-admin-scenario",
        organization="Acme",
        streams=streams,
        workspaces={workspace: workspace.upper() for workspace in ("proj_a", "proj_b")},
        prompt_usage=True,
        discount=0.1,
        **options,
    )


def _hours(count: float) -> timedelta:
    return count * HOUR


def _charge_scenarios() -> list[IrregularScenario]:
    return [
        IrregularScenario("ordinary bills", "nothing irregular", _account(*_PROJECT_A, *_PROJECT_B), _CONTROL),
        IrregularScenario(
            "one-off charge",
            "500 USD billed on a single day in a project that costs 37 USD a day",
            _account(
                *_PROJECT_A,
                extra_charges=(
                    ExtraCharge("proj_a", "Prepaid capacity", usd_per_day=500.0, dates=frozenset({EVENT_DAY.date()})),
                ),
            ),
            _EXACT,
            unpredictable_days=frozenset({EVENT_DAY}),
        ),
        IrregularScenario(
            "training jobs",
            "30 USD for a training job on a third of the days",
            _account(
                *_PROJECT_A,
                extra_charges=(ExtraCharge("proj_a", "Reinforcement fine-tuning", usd_per_day=30.0, day_share=1 / 3),),
            ),
            _EXACT,
        ),
        IrregularScenario(
            "fixed fee",
            "a scale tier of 480 USD a day in a project whose usage varies",
            _account(
                *_PROJECT_A,
                _stream("proj_b", _MINI, 2500.0, load_profile="office"),
                extra_charges=(ExtraCharge("proj_b", "Scale tier", usd_per_day=480.0),),
            ),
            _EXACT,
        ),
        IrregularScenario(
            "minimum charge",
            "a day costs at least 40 USD, also with less usage",
            _account(_stream("proj_a", _GPT, 4000.0, weekday_factors=_SHIFTING), minimum_charge_usd=40.0),
            replace(_EXACT, today=0.4, month=0.04, forecast=0.1, burn_rate=0.45, wrong_hours=130),
        ),
    ]


def _late_bill_scenarios() -> list[IrregularScenario]:
    growing = tuple(
        BillStage(_hours(delay), amount_share=share)
        for delay, share in ((6, 0.6), (8, 0.73), (12, 0.85), (16, 0.94), (20, 1.0))
    )
    return [
        IrregularScenario(
            "half of the lines late",
            "five of nine lines of the bill 8 hours after the day, the others after 20 hours",
            _account(
                *_PROJECT_A, *_PROJECT_B, bill_stages=(BillStage(_hours(8), line_share=0.55), BillStage(_hours(20)))
            ),
            _EXACT,
        ),
        IrregularScenario(
            "growing bill",
            "every line grows from 60 % after 6 hours to its final amount after 20 hours",
            _account(*_PROJECT_A, *_PROJECT_B, bill_stages=growing),
            _EXACT,
        ),
        IrregularScenario(
            "line 40 hours late",
            "the output tokens of a model are billed 40 hours after the day, all else after 6 hours",
            _account(*_PROJECT_A, *_PROJECT_B, line_delays=(LineDelay(f"{_MINI}, output", _hours(40)),)),
            _EXACT,
        ),
        IrregularScenario(
            "emptied bill",
            "the bills, of which one has a credit of 10 USD, are answered without lines for eight hours",
            _account(
                *_PROJECT_A,
                *_PROJECT_B,
                extra_charges=(
                    ExtraCharge("proj_a", "Credit", usd_per_day=-10.0, dates=frozenset({FIRST_DAY.date()})),
                ),
                bill_outages=(BillOutage(EVENT_DAY + _hours(20), EVENT_DAY + _hours(28)),),
            ),
            _EXACT,
            unpredictable_days=frozenset({FIRST_DAY}),
        ),
        IrregularScenario(
            "restated day",
            "the newest bill is raised by 20 % a few hours after it was issued",
            _account(*_PROJECT_A, *_PROJECT_B),
            _EXACT,
            restatements={EVENT_DAY + _hours(11): (EVENT_DAY - DAY, 1.2)},
            unpredictable_days=frozenset({EVENT_DAY - DAY}),
        ),
    ]


def _price_scenarios() -> list[IrregularScenario]:
    return [
        IrregularScenario(
            "no project",
            "no line of the bill has a project",
            _account(*_PROJECT_A, *_PROJECT_B, unassigned_line_share=1.0),
            _EXACT,
        ),
        IrregularScenario(
            "no project, some lines",
            "half of the bill's lines have no project",
            _account(*_PROJECT_A, *_PROJECT_B, unassigned_line_share=0.5),
            _EXACT,
        ),
        IrregularScenario(
            "model without price",
            "a quarter of a day's cost is of a new model without a list price",
            _account(*_PROJECT_A, _stream("proj_a", NO_LIST_PRICE, 1100.0, since=date(2026, 11, 11))),
            replace(_EXACT, yesterday=0.3, today=0.3, month=0.1, forecast=0.3, burn_rate=0.3, wrong_hours=48),
            unpriced_from=EVENT_DAY,
            unpredictable_days=frozenset({EVENT_DAY}),
        ),
        IrregularScenario(
            "free tokens",
            "the first six million tokens of a model are free on each day, and its usage varies",
            _account(
                *_PROJECT_A[:1],
                *_PROJECT_B,
                free_tokens=(FreeTokens(_MINI, 6_000_000),),
            ),
            _EXACT,
        ),
        IrregularScenario(
            "volume tier",
            "a model costs 20 % less after 155 million tokens in a month",
            _account(
                *_PROJECT_A,
                volume_discounts=(VolumeDiscount(_GPT, 155_000_000, 0.8),),
            ),
            replace(_EXACT, yesterday=0.2, today=0.2, month=0.03, forecast=0.15, burn_rate=0.25, wrong_hours=36),
            unpredictable_days=frozenset({FIRST_DAY + 3 * DAY}),
        ),
    ]


SCENARIOS = {
    scenario.name: scenario for scenario in (*_charge_scenarios(), *_late_bill_scenarios(), *_price_scenarios())
}
