"""What an account's newest hours were expected to be, as sample lines, and by how much the last day was above it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from exporter.analysis.baselines import Baseline, HourlySeries, baseline, excess
from exporter.metrics.exposition import format_labels, format_usd, render_samples
from exporter.metrics.families import (
    COST_EXCESS,
    COST_EXPECTED,
    COST_THIS_HOUR_UPPER_BOUND,
    COST_UPPER_BOUND,
    REQUESTS_EXPECTED,
    REQUESTS_UPPER_BOUND,
    TOKENS_EXPECTED,
    TOKENS_UPPER_BOUND,
    Family,
)
from exporter.metrics.hourly_totals import HourlyTotals
from exporter.model import HOUR, NANO
from exporter.polling.account_state import AccountState
from exporter.snapshot.labels import LabelMapper
from exporter.windows import calendar_windows, floor

MIN_COST_DEVIATION = 1 * NANO
"""An hour is unusual when it cost at least a dollar more than expected, however steady its workspace is."""
MIN_REQUESTS_DEVIATION = 100
MIN_TOKENS_DEVIATION = 100_000


@dataclass(frozen=True, slots=True)
class Signal:
    """A workspace whose newest complete hour cost more than is usual; money in nano-USD."""

    provider: str
    account: str
    workspace: str
    hour: datetime
    cost: int
    expected: int
    upper_bound: int


def render_signals(
    account_state: AccountState,
    hourly_totals: HourlyTotals,
    label_mapper: LabelMapper,
    until: datetime | None,
    now: datetime,
) -> tuple[dict[Family, bytes], tuple[Signal, ...]]:
    """Return the lines of every family about what was expected, and what was unusual.

    None of it without enough past to tell.
    """
    if until is None:
        return {}, ()
    newest, running = floor(min(until, now), HOUR) - HOUR, floor(now, HOUR)
    values = (account_state.account.provider, account_state.account.name)
    shown = _recent_workspaces(hourly_totals, now)

    def lines(family: Family, told: Iterable[tuple[str, int | None]]) -> bytes:
        tell = format_usd if family in _USD_FAMILIES else str
        return render_samples(
            family,
            (
                (format_labels(family.labels, (*values, label_mapper.workspace_name(one))), tell(value))
                for one, value in told
                if value is not None
            ),
        )

    def judged(hours: Mapping[str, HourlySeries], hour: datetime, least: int) -> dict[str, Baseline]:
        found = ((one, baseline(hours[one], hour, least)) for one in shown if one in hours)
        return {one: told for one, told in found if told is not None}

    cost = judged(hourly_totals.cost, newest, MIN_COST_DEVIATION)
    this = judged(hourly_totals.cost, running, MIN_COST_DEVIATION)
    requests = judged(hourly_totals.requests, newest, MIN_REQUESTS_DEVIATION)
    tokens = judged(hourly_totals.tokens, newest, MIN_TOKENS_DEVIATION)
    above = {
        one: excess(hourly_totals.cost[one], until, MIN_COST_DEVIATION) for one in shown if one in hourly_totals.cost
    }
    chunks = {
        COST_THIS_HOUR_UPPER_BOUND: lines(
            COST_THIS_HOUR_UPPER_BOUND, ((one, told.upper_bound) for one, told in this.items())
        ),
        COST_EXCESS: lines(COST_EXCESS, above.items()),
    }
    for expected, high, told in (
        (COST_EXPECTED, COST_UPPER_BOUND, cost),
        (REQUESTS_EXPECTED, REQUESTS_UPPER_BOUND, requests),
        (TOKENS_EXPECTED, TOKENS_UPPER_BOUND, tokens),
    ):
        chunks[expected] = lines(expected, ((one, two.expected) for one, two in told.items()))
        chunks[high] = lines(high, ((one, two.upper_bound) for one, two in told.items()))
    signals = (
        Signal(*values, label_mapper.workspace_name(one), newest, spent, told.expected, told.upper_bound)
        for one, told in cost.items()
        if (spent := hourly_totals.cost[one].at(newest)) > told.upper_bound
    )
    return chunks, tuple(signals)


_USD_FAMILIES = (COST_EXPECTED, COST_UPPER_BOUND, COST_THIS_HOUR_UPPER_BOUND, COST_EXCESS)


def _recent_workspaces(hourly_totals: HourlyTotals, now: datetime) -> list[str]:
    """Return the workspaces that are on the page: those with anything in the last month or thirty days."""
    windows = calendar_windows(now, None)
    since = min(windows["month"].start, windows["30d"].start)
    hours = (hourly_totals.cost, hourly_totals.requests, hourly_totals.tokens)
    return sorted({name for some in hours for name, one in some.items() if any(one.values[_index_at(one, since) :])})


def _index_at(hourly_series: HourlySeries, since: datetime) -> int:
    return max(0, (since - hourly_series.since) // HOUR)
