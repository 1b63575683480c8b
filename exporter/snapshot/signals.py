"""Baselines of every workspace of an account: of its newest hours, and of past ones."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from exporter.analysis.baselines import Baseline, HourlySeries, baseline, excess
from exporter.model import HOUR, NANO
from exporter.snapshot.account_snapshot import RECENT_WINDOWS, HourlyTotals, Incident, WorkspaceSignals
from exporter.snapshot.labels import LabelMapper
from exporter.windows import calendar_windows

MIN_COST_INCREASE = 1 * NANO
"""An hour is unusual only where it cost at least a dollar more than expected, however steady its workspace is."""
MIN_REQUESTS_INCREASE = 100
MIN_TOKENS_INCREASE = 100_000
INCIDENT_GAP = 3 * HOUR
"""Hours within their bounds that do not end an incident: as long as the alerts of hours keep firing."""
MAX_INCIDENT = 48 * HOUR
"""How far back the beginning of an incident is searched: the time whose hours have a baseline."""


def cost_baseline(hourly: HourlyTotals, workspace: str, hour: datetime) -> Baseline | None:
    """Return the baseline of the hour that starts at `hour`, in nano-USD; None where too little history is known.

    It has the expected usage, and the fixed costs that the hour has: those are known, not expected.
    """
    known = _baseline(hourly.usage_cost, workspace, hour, MIN_COST_INCREASE)
    if known is None or workspace not in hourly.fixed_cost:
        return known
    fixed = hourly.fixed_cost[workspace].at(hour)
    return Baseline(known.expected + fixed, known.upper_bound + fixed)


def requests_baseline(hourly: HourlyTotals, workspace: str, hour: datetime) -> Baseline | None:
    """Return the same of requests."""
    return _baseline(hourly.requests, workspace, hour, MIN_REQUESTS_INCREASE)


def tokens_baseline(hourly: HourlyTotals, workspace: str, hour: datetime) -> Baseline | None:
    """Return the same of tokens; only where the provider reports no requests."""
    return _baseline(hourly.tokens, workspace, hour, MIN_TOKENS_INCREASE)


def _baseline(values: Mapping[str, HourlySeries], workspace: str, hour: datetime, min_increase: int) -> Baseline | None:
    return baseline(values[workspace], hour, min_increase) if workspace in values else None


def compute_signals(
    hourly: HourlyTotals, label_mapper: LabelMapper, watermark: datetime | None, now: datetime
) -> tuple[WorkspaceSignals, ...]:
    """Return the signals of every workspace with recent usage; none without a watermark."""
    if watermark is None:
        return ()
    windows = calendar_windows(now, watermark)
    last_hour, this_hour = windows["last_hour"].start, windows["this_hour"].start
    signals = []
    for workspace in _recent_workspaces(hourly, now):
        usage_cost = hourly.usage_cost.get(workspace)
        signals.append(
            WorkspaceSignals(
                workspace=label_mapper.workspace_name(workspace),
                cost=cost_baseline(hourly, workspace, last_hour),
                this_hour_cost=cost_baseline(hourly, workspace, this_hour),
                requests=requests_baseline(hourly, workspace, last_hour),
                tokens=tokens_baseline(hourly, workspace, last_hour),
                excess=None if usage_cost is None else excess(usage_cost, watermark, MIN_COST_INCREASE),
                last_hour_cost=hourly.cost_at(workspace, last_hour),
                incident=find_incident(hourly, workspace, last_hour, this_hour),
            )
        )
    return tuple(signals)


def find_incident(hourly: HourlyTotals, workspace: str, last_hour: datetime, this_hour: datetime) -> Incident | None:
    """Return the newest incident of a workspace, whose newest hour is one of the 24 newest complete ones or later."""
    hour, oldest = this_hour, last_hour - 23 * HOUR
    while not _is_above_bound(hourly, workspace, hour):
        hour -= HOUR
        if hour < oldest:
            return None
    start, earlier = hour, hour - HOUR
    while start - earlier <= INCIDENT_GAP and this_hour - earlier <= MAX_INCIDENT:
        if _is_above_bound(hourly, workspace, earlier):
            start = earlier
        earlier -= HOUR
    hours = (hour - start) // HOUR + 1
    return Incident(start, sum(hourly.cost_at(workspace, start + number * HOUR) for number in range(hours)))


def _is_above_bound(hourly: HourlyTotals, workspace: str, hour: datetime) -> bool:
    cost = hourly.cost_at(workspace, hour)
    # The upper bound is at least this high: most hours need no baseline.
    if cost <= MIN_COST_INCREASE:
        return False
    bound = cost_baseline(hourly, workspace, hour)
    return bound is not None and cost > bound.upper_bound


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
