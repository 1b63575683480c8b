"""Baselines of every workspace of an account: of its newest hours, and of past ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from exporter.analysis.baselines import Baseline, HourlySeries, baseline, excess
from exporter.model import HOUR, NANO
from exporter.snapshot.account_snapshot import RECENT_WINDOWS, HourlyTotals, WorkspaceSignals
from exporter.snapshot.labels import LabelMapper
from exporter.windows import calendar_windows, floor

MIN_COST_INCREASE = 1 * NANO
"""An hour is unusual only where it cost at least a dollar more than expected, however steady its workspace is."""
MIN_REQUESTS_INCREASE = 100
MIN_TOKENS_INCREASE = 100_000


@dataclass(frozen=True, slots=True)
class WorkspaceBaselines:
    """The baselines of one hour of a workspace. A value is None where too little history is known."""

    cost: Baseline | None
    """In nano-USD, fixed costs of the hour included."""
    requests: Baseline | None
    tokens: Baseline | None
    """Only where the provider reports no requests."""


def workspace_baselines(hourly: HourlyTotals, workspace: str, hour: datetime) -> WorkspaceBaselines:
    """Return the baselines of the hour that starts at `hour`."""
    return WorkspaceBaselines(
        cost=_cost_baseline(hourly, workspace, hour),
        requests=_baseline(hourly.requests, workspace, hour, MIN_REQUESTS_INCREASE),
        tokens=_baseline(hourly.tokens, workspace, hour, MIN_TOKENS_INCREASE),
    )


def _baseline(values: Mapping[str, HourlySeries], workspace: str, hour: datetime, min_increase: int) -> Baseline | None:
    return baseline(values[workspace], hour, min_increase) if workspace in values else None


def _cost_baseline(hourly: HourlyTotals, workspace: str, hour: datetime) -> Baseline | None:
    """Return the baseline of the usage, and the fixed costs that the hour has: those are known, not expected."""
    known = _baseline(hourly.usage_cost, workspace, hour, MIN_COST_INCREASE)
    if known is None or workspace not in hourly.fixed_cost:
        return known
    fixed = hourly.fixed_cost[workspace].at(hour)
    return Baseline(known.expected + fixed, known.upper_bound + fixed)


def compute_signals(
    hourly: HourlyTotals, label_mapper: LabelMapper, watermark: datetime | None, now: datetime
) -> tuple[WorkspaceSignals, ...]:
    """Return the signals of every workspace with recent usage; none without a watermark."""
    if watermark is None:
        return ()
    last_hour, this_hour = floor(min(watermark, now), HOUR) - HOUR, floor(now, HOUR)
    signals = []
    for workspace in _recent_workspaces(hourly, now):
        baselines = workspace_baselines(hourly, workspace, last_hour)
        usage_cost = hourly.usage_cost.get(workspace)
        signals.append(
            WorkspaceSignals(
                workspace=label_mapper.workspace_name(workspace),
                cost=baselines.cost,
                this_hour_cost=_cost_baseline(hourly, workspace, this_hour),
                requests=baselines.requests,
                tokens=baselines.tokens,
                excess=None if usage_cost is None else excess(usage_cost, watermark, MIN_COST_INCREASE),
                last_hour_cost=hourly.cost_at(workspace, last_hour),
            )
        )
    return tuple(signals)


def _recent_workspaces(hourly: HourlyTotals, now: datetime) -> list[str]:
    windows = calendar_windows(now, None)
    since = min(windows[name].start for name in RECENT_WINDOWS)
    return sorted(
        {
            workspace
            for values in (hourly.usage_cost, hourly.fixed_cost, hourly.requests, hourly.tokens)
            for workspace, series in values.items()
            if any(series.values[max(0, (since - series.since) // HOUR) :])
        }
    )
