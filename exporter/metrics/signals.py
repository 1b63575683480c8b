"""Samples of baselines: expected value and upper bound of the newest hours of each workspace."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from exporter.analysis.baselines import Baseline
from exporter.metrics.exposition import format_usd
from exporter.metrics.families import (
    COST_EXCESS,
    COST_EXPECTED,
    COST_THIS_HOUR_UPPER_BOUND,
    COST_UPPER_BOUND,
    INCIDENT_COST,
    INCIDENT_START,
    REQUESTS_EXPECTED,
    REQUESTS_UPPER_BOUND,
    TOKENS_EXPECTED,
    TOKENS_UPPER_BOUND,
    Family,
)
from exporter.metrics.label_text import LabelText, SampleFunction, SampleFunctions, Samples
from exporter.snapshot.account_snapshot import AccountSnapshot, WorkspaceSignals


def _samples(
    family: Family,
    get_value: Callable[[WorkspaceSignals], int | None],
    format_value: Callable[[int], str],
    snapshot: AccountSnapshot,
    text: LabelText,
) -> Samples:
    for signals in snapshot.signals:
        value = get_value(signals)
        if value is not None:
            yield text.with_account(family, signals.workspace), format_value(value)


def _usd(family: Family, get_value: Callable[[WorkspaceSignals], int | None]) -> SampleFunction:
    return partial(_samples, family, get_value, format_usd)


def _units(family: Family, get_value: Callable[[WorkspaceSignals], int | None]) -> SampleFunction:
    return partial(_samples, family, get_value, str)


def _expected(baseline: Baseline | None) -> int | None:
    return None if baseline is None else baseline.expected


def _upper_bound(baseline: Baseline | None) -> int | None:
    return None if baseline is None else baseline.upper_bound


def _incident_cost(signals: WorkspaceSignals) -> int | None:
    return None if signals.incident is None else signals.incident.cost


def _incident_start(signals: WorkspaceSignals) -> int | None:
    return None if signals.incident is None else round(signals.incident.start.timestamp())


SIGNAL_SAMPLES: SampleFunctions = {
    COST_EXPECTED: _usd(COST_EXPECTED, lambda signals: _expected(signals.cost)),
    COST_UPPER_BOUND: _usd(COST_UPPER_BOUND, lambda signals: _upper_bound(signals.cost)),
    COST_THIS_HOUR_UPPER_BOUND: _usd(COST_THIS_HOUR_UPPER_BOUND, lambda signals: _upper_bound(signals.this_hour_cost)),
    COST_EXCESS: _usd(COST_EXCESS, lambda signals: signals.excess),
    INCIDENT_COST: _usd(INCIDENT_COST, _incident_cost),
    INCIDENT_START: _units(INCIDENT_START, _incident_start),
    REQUESTS_EXPECTED: _units(REQUESTS_EXPECTED, lambda signals: _expected(signals.requests)),
    REQUESTS_UPPER_BOUND: _units(REQUESTS_UPPER_BOUND, lambda signals: _upper_bound(signals.requests)),
    TOKENS_EXPECTED: _units(TOKENS_EXPECTED, lambda signals: _expected(signals.tokens)),
    TOKENS_UPPER_BOUND: _units(TOKENS_UPPER_BOUND, lambda signals: _upper_bound(signals.tokens)),
}
