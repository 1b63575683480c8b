"""The gauges that would have been scraped over a time range: snapshots of the past, rendered as /metrics renders today.

A snapshot is taken at the beginning of each hour, wherever a watermark moves within it, and at its last scrape. Between
the first and the last, windows that grow with usage rise evenly; everything else holds until the next snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from exporter.backtest.past_source import PastSource
from exporter.backtest.promtool_series import STEP, PromtoolSeries
from exporter.config.configuration import Budget
from exporter.metrics.account import ACCOUNT_SAMPLES, render_account
from exporter.metrics.budgets import render_budgets
from exporter.metrics.exposition import SampleLines
from exporter.metrics.families import (
    BUDGET_FAMILIES,
    BUDGET_SPENT,
    COST,
    INTERNAL_ERRORS,
    LAST_SUCCESS,
    RELOAD_SUCCESSFUL,
    REQUESTS,
    TOKENS,
    UNITS,
    Family,
)
from exporter.model import HOUR
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.budgets import evaluate_budgets
from exporter.snapshot.builder import SnapshotBuilder
from exporter.windows import TimeRange, slots

STEPS_PER_HOUR = int(HOUR / STEP)
TARGET_LABELS = 'instance="replay",job="ai-spend"'

GROWING_FAMILIES = frozenset(
    {
        *(
            family
            for families in (COST, TOKENS, REQUESTS, UNITS)
            for window, family in families.items()
            if window != "last_hour"
        ),
        BUDGET_SPENT,
        LAST_SUCCESS,
    }
)
"""Families whose values rise while an hour passes."""

CONSTANT_SERIES = {"up": "1", RELOAD_SUCCESSFUL.name: "1", INTERNAL_ERRORS.name: "0"}
"""Metrics of the process itself, which the ledger does not record: it counts as healthy throughout."""

SAMPLED_FAMILIES = (*ACCOUNT_SAMPLES, *BUDGET_FAMILIES)
"""Every family that a snapshot renders."""

_SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)


def families_in_rules(text: str) -> list[Family]:
    """Return the families that rules name: the others need not be sampled."""
    return [family for family in SAMPLED_FAMILIES if re.search(rf"\b{family.name}\b", text)]


@dataclass(frozen=True, slots=True)
class PastAccount:
    """An account of which all usage of a time range is known."""

    source: PastSource
    builder: SnapshotBuilder

    def snapshot(self, now: datetime, budgets: Sequence[Budget]) -> AccountSnapshot:
        """Build the account's snapshot of a moment of the past."""
        self.source.now = now
        return self.builder.build(self.source.view, self.source, budgets, now)


def sample_series(
    accounts: Sequence[PastAccount], budgets: Sequence[Budget], families: Collection[Family], time_range: TimeRange
) -> Iterator[PromtoolSeries]:
    """Yield the series of the families over whole hours, and those of the process itself."""
    series: dict[str, PromtoolSeries] = {}
    names = {family.name: family for family in families}
    hour_count = 0
    for hour in slots(time_range.start, time_range.end, HOUR):
        offsets = _sample_offsets(accounts)
        samples = {
            offset: _sample(render_past(accounts, budgets, families, hour + offset), time_range.start)
            for offset in (*offsets, HOUR - STEP)
        }
        _append_hour(series, names, offsets, samples, hour_count)
        hour_count += 1
    for name, value in CONSTANT_SERIES.items():
        constant = PromtoolSeries(f"{name}{{{TARGET_LABELS}}}")
        constant.add_constant(hour_count * STEPS_PER_HOUR, value)
        yield constant
    yield from (sampled for sampled in series.values() if sampled.has_values)


_Samples = dict[str, str]
"""Selector of a series -> value."""


def _sample_offsets(accounts: Sequence[PastAccount]) -> list[timedelta]:
    """Return the steps within an hour at which something other than growth changes: its start, and watermarks."""
    lags = {report.lag % HOUR for account in accounts for report in account.source.view.reports}
    # A scrape sees the first step at or after the moment at which the watermark moved.
    return sorted({timedelta(0)} | {-(-lag // STEP) * STEP for lag in lags if lag + STEP <= HOUR})


def render_past(
    accounts: Sequence[PastAccount], budgets: Sequence[Budget], families: Collection[Family], now: datetime
) -> list[SampleLines]:
    """Return the sample lines of accounts and budgets at a moment of the past."""
    snapshots = [account.snapshot(now, budgets) for account in accounts]
    lines: list[SampleLines] = [render_account(snapshot, families) for snapshot in snapshots]
    budget_lines = render_budgets(evaluate_budgets(budgets, snapshots, now))
    return [*lines, {family: text for family, text in budget_lines.items() if family in families}]


def _sample(rendered: Sequence[SampleLines], start: datetime) -> _Samples:
    samples: _Samples = {}
    for lines in rendered:
        for text in lines.values():
            for name, labels, value in _SAMPLE.findall(text.decode()):
                # promtool's clock begins at 1970 where the time range does.
                is_time = name.endswith("_timestamp_seconds")
                shifted = f"{Decimal(value) - int(start.timestamp()):f}" if is_time else value
                samples[f"{name}{{{labels},{TARGET_LABELS}}}"] = shifted
    return samples


def _append_hour(
    series: dict[str, PromtoolSeries],
    families: dict[str, Family],
    offsets: Sequence[timedelta],
    samples: dict[timedelta, _Samples],
    hour_count: int,
) -> None:
    for selector in {selector for found in samples.values() for selector in found} - series.keys():
        series[selector] = PromtoolSeries(selector)
        series[selector].add_constant(hour_count * STEPS_PER_HOUR, None)
    first, last = samples[offsets[0]], samples[HOUR - STEP]
    for selector, sampled in series.items():
        family = families[selector.partition("{")[0]]
        if family in GROWING_FAMILIES and selector in first and selector in last:
            sampled.add_ramp(STEPS_PER_HOUR, first[selector], last[selector])
            continue
        for offset, following in zip(offsets, (*offsets[1:], HOUR), strict=True):
            sampled.add_constant((following - offset) // STEP, samples[offset].get(selector))
