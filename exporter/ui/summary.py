"""The JSON summary: cost and usage of the newest days, for clients without Prometheus."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from exporter.errors import PushError
from exporter.model import ChangeEvent
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.aggregation import Totals, aggregate_days
from exporter.snapshot.estimates import one_time_costs
from exporter.snapshot.labels import SpendLabels
from exporter.ui.format import to_usd
from exporter.windows import DAYS_EXPORTED, TimeRange, days_back

MAX_TOP_MODELS = 20

_Group = tuple[tuple[str, str], ...]
"""Names and values of a group: (("provider", "bedrock"),)."""


def parse_days(text: str) -> int:
    """Return the number of days of a summary. Raises PushError."""
    if not re.fullmatch("[1-9][0-9]?", text) or int(text) > DAYS_EXPORTED:
        raise PushError(422, f"days: expected a whole number from 1 to {DAYS_EXPORTED}")
    return int(text)


def build_summary(
    snapshots: Sequence[AccountSnapshot], change_events: Sequence[ChangeEvent], days: int, now: datetime
) -> Mapping[str, Any]:
    """Return cost and usage of today and the UTC days before it, under the labels of /metrics."""
    time_range = TimeRange(days_back(now, days - 1), days_back(now, -1))

    def by(group_of: Callable[[AccountSnapshot, SpendLabels], _Group]) -> list[dict[str, Any]]:
        groups = aggregate_days(snapshots, time_range, group_of)
        ranked = sorted(groups.items(), key=lambda item: (-item[1].cost, item[0]))
        return [dict(group) | _totals_json(totals) for group, totals in ranked]

    total = sum(aggregate_days(snapshots, time_range, lambda *_: ()).values(), Totals())
    models = by(lambda _, labels: (("model", labels.model),))
    return {
        "from": _format_time(time_range.start),
        "to": _format_time(now),
        "days": days,
        "totals": _totals_json(total),
        "byProvider": by(lambda snapshot, _: (("provider", snapshot.account.provider),)),
        "byAccount": by(lambda snapshot, _: _account_group(snapshot)),
        "byWorkspace": by(lambda snapshot, labels: (*_account_group(snapshot), ("workspace", labels.workspace))),
        "byModel": models,
        "topModels": [_with_shares(model, total) for model in models[:MAX_TOP_MODELS]],
        "byDay": _cost_by_day(snapshots, time_range),
        "signals": [signal for snapshot in snapshots for signal in _spikes(snapshot)],
        "oneTimeCosts": [cost for snapshot in snapshots for cost in _one_time_costs(snapshot, time_range)],
        "changes": [_change_event(event) for event in change_events],
        "freshness": [_freshness(snapshot, time_range) for snapshot in snapshots],
    }


def _account_group(snapshot: AccountSnapshot) -> _Group:
    return (("provider", snapshot.account.provider), ("account", snapshot.account.name))


def _totals_json(totals: Totals) -> dict[str, Any]:
    return {"costUsd": to_usd(totals.cost), "tokens": totals.tokens, "requests": totals.requests}


def _with_shares(model: dict[str, Any], total: Totals) -> dict[str, Any]:
    cost, requests = model["costUsd"], model["requests"]
    return model | {
        "costShare": round(cost / to_usd(total.cost), 6) if total.cost else None,
        "requestShare": round(requests / total.requests, 6) if requests and total.requests else None,
    }


def _cost_by_day(snapshots: Sequence[AccountSnapshot], time_range: TimeRange) -> list[dict[str, Any]]:
    cost: dict[datetime, int] = {}
    for snapshot in snapshots:
        for day in snapshot.day_costs:
            if time_range.start <= day.start < time_range.end:
                cost[day.start] = cost.get(day.start, 0) + day.cost
    return [{"date": f"{day:%Y-%m-%d}", "costUsd": to_usd(nano_usd)} for day, nano_usd in sorted(cost.items())]


def _spikes(snapshot: AccountSnapshot) -> Iterator[dict[str, Any]]:
    """Yield the workspaces whose newest complete hour cost more than its upper bound."""
    for signals in snapshot.signals:
        if signals.is_spike and signals.cost is not None and snapshot.last_hour is not None:
            yield {
                "kind": "cost_above_upper_bound",
                "provider": snapshot.account.provider,
                "account": snapshot.account.name,
                "workspace": signals.workspace,
                "hour": _format_time(snapshot.last_hour.start),
                "costUsd": to_usd(signals.last_hour_cost),
                "expectedUsd": to_usd(signals.cost.expected),
                "upperBoundUsd": to_usd(signals.cost.upper_bound),
            }


def _one_time_costs(snapshot: AccountSnapshot, time_range: TimeRange) -> Iterator[dict[str, Any]]:
    for cost in one_time_costs(snapshot):
        if time_range.start <= cost.day < time_range.end:
            yield {
                "provider": snapshot.account.provider,
                "account": snapshot.account.name,
                "workspace": cost.workspace,
                "item": cost.item,
                "date": f"{cost.day:%Y-%m-%d}",
                "costUsd": to_usd(cost.nano_usd),
            }


def _change_event(event: ChangeEvent) -> dict[str, Any]:
    return {
        "title": event.title,
        "time": _format_time(event.time),
        "service": event.service,
        "account": event.account,
        "link": event.link,
    }


def _freshness(snapshot: AccountSnapshot, time_range: TimeRange) -> dict[str, Any]:
    return {
        "provider": snapshot.account.provider,
        "account": snapshot.account.name,
        "up": snapshot.up,
        "completeUntil": _format_time(snapshot.complete_until) if snapshot.complete_until else None,
        "incompleteBills": [f"{day.start:%Y-%m-%d}" for day in snapshot.day_costs if day.bill_is_incomplete],
        "problems": sorted({error.reason for error in snapshot.health.current_problems}),
        "days": [
            {
                "date": f"{day:%Y-%m-%d}",
                "usageReadAt": _format_time(reads.usage) if reads.usage else None,
                "billReadAt": _format_time(reads.bill) if reads.bill else None,
            }
            for day, reads in snapshot.day_reads.items()
            if time_range.start <= day < time_range.end
        ],
    }


def _format_time(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
