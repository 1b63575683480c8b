"""What an account's newest hours were expected to be, as sample lines, and by how much the last day was above it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from exporter.analysis.baselines import Baseline, Hourly, baseline, excess
from exporter.metrics.exposition import dollars, labelled, render
from exporter.metrics.families import (
    COST_EXPECTED,
    COST_HIGH,
    COST_THIS_HIGH,
    EXCESS,
    REQUESTS_EXPECTED,
    REQUESTS_HIGH,
    TOKENS_EXPECTED,
    TOKENS_HIGH,
    Family,
)
from exporter.metrics.hourly_totals import Trail
from exporter.metrics.labels import Places
from exporter.model import HOUR, NANO
from exporter.polling.account_state import Member
from exporter.windows import calendar, floor

COST_LEAST = 1 * NANO
"""An hour is unusual when it cost at least a dollar more than expected, however steady its workspace is."""
REQUESTS_LEAST = 100
TOKENS_LEAST = 100_000


@dataclass(frozen=True, slots=True)
class Signal:
    """A workspace whose newest complete hour cost more than is usual; money in nano-USD."""

    provider: str
    account: str
    workspace: str
    hour: datetime
    cost: int
    expected: int
    high: int


def signal_chunks(
    member: Member, trail: Trail, places: Places, until: datetime | None, now: datetime
) -> tuple[dict[Family, bytes], tuple[Signal, ...]]:
    """Return the lines of every family about what was expected, and what was unusual.

    None of it without enough past to tell.
    """
    if until is None:
        return {}, ()
    newest, running = floor(min(until, now), HOUR) - HOUR, floor(now, HOUR)
    values = (member.account.provider, member.account.name)
    shown = _lately(trail, now)

    def lines(family: Family, told: Iterable[tuple[str, int | None]]) -> bytes:
        tell = dollars if family in _MONEY else str
        return render(
            family,
            (
                (labelled(family.labels, (*values, places.values((one, "", "", ""))[0])), tell(value))
                for one, value in told
                if value is not None
            ),
        )

    def judged(hours: Mapping[str, Hourly], hour: datetime, least: int) -> dict[str, Baseline]:
        found = ((one, baseline(hours[one], hour, least)) for one in shown if one in hours)
        return {one: told for one, told in found if told is not None}

    cost = judged(trail.cost, newest, COST_LEAST)
    this = judged(trail.cost, running, COST_LEAST)
    requests = judged(trail.requests, newest, REQUESTS_LEAST)
    tokens = judged(trail.tokens, newest, TOKENS_LEAST)
    above = {one: excess(trail.cost[one], until, COST_LEAST) for one in shown if one in trail.cost}
    chunks = {
        COST_THIS_HIGH: lines(COST_THIS_HIGH, ((one, told.high) for one, told in this.items())),
        EXCESS: lines(EXCESS, above.items()),
    }
    for expected, high, told in (
        (COST_EXPECTED, COST_HIGH, cost),
        (REQUESTS_EXPECTED, REQUESTS_HIGH, requests),
        (TOKENS_EXPECTED, TOKENS_HIGH, tokens),
    ):
        chunks[expected] = lines(expected, ((one, two.expected) for one, two in told.items()))
        chunks[high] = lines(high, ((one, two.high) for one, two in told.items()))
    signals = (
        Signal(*values, places.values((one, "", "", ""))[0], newest, spent, told.expected, told.high)
        for one, told in cost.items()
        if (spent := trail.cost[one].at(newest)) > told.high
    )
    return chunks, tuple(signals)


_MONEY = (COST_EXPECTED, COST_HIGH, COST_THIS_HIGH, EXCESS)


def _lately(trail: Trail, now: datetime) -> list[str]:
    """Return the workspaces that are on the page: those with anything in the last month or thirty days."""
    windows = calendar(now, None)
    since = min(windows["month"].start, windows["30d"].start)
    hours = (trail.cost, trail.requests, trail.tokens)
    return sorted({name for some in hours for name, one in some.items() if any(one.values[_from(one, since) :])})


def _from(hours: Hourly, since: datetime) -> int:
    return max(0, (since - hours.since) // HOUR)
