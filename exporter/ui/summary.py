"""What was spent lately, as plain values: for who wants numbers without Prometheus."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from exporter.errors import PushError
from exporter.ledger import Ledger
from exporter.metrics.exposition import format_usd
from exporter.metrics.signals import Signal
from exporter.model import COST, DAY, REQUESTS, TOKEN_METERS, ChangeEvent, RowLabels
from exporter.polling.account_state import AccountState
from exporter.snapshot.labels import LabelMapper, to_spend_labels
from exporter.windows import DAYS_EXPORTED, TimeRange, days_back, floor

MAX_TOP_MODELS = 20
Group = tuple[tuple[str, str], ...]
"""Names and values that a sum is told under: (("provider", "bedrock"),)."""


@dataclass(slots=True)
class _GroupTotals:
    """Of one group."""

    cost: int = 0
    tokens: int = 0
    requests: int | None = None
    """None where nobody counts them."""

    def add(self, meter: str, value: int) -> None:
        """Add one row."""
        if meter == COST:
            self.cost += value
        elif meter == REQUESTS:
            self.requests = (self.requests or 0) + value
        elif meter in TOKEN_METERS:
            self.tokens += value

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it; money exact to the nano-dollar."""
        return {"costUsd": float(format_usd(self.cost)), "tokens": self.tokens, "requests": self.requests}


@dataclass(slots=True)
class _TotalsByDimension:
    """Sums by group, for every way of grouping."""

    totals: dict[str, dict[Group, _GroupTotals]] = field(default_factory=dict)

    def add(self, dimension: str, group: Group, meter: str, value: int) -> None:
        self.totals.setdefault(dimension, {}).setdefault(group, _GroupTotals()).add(meter, value)

    def to_json(self, dimension: str, limit: int | None = None) -> list[dict[str, Any]]:
        """Return the groups, the dearest first."""
        groups = sorted(self.totals.get(dimension, {}).items(), key=lambda one: (-one[1].cost, one[0]))
        return [dict(group) | sums.to_json() for group, sums in groups[:limit]]


def parse_days(text: str) -> int:
    """Return for how many days a summary is wanted. Raises IngestError."""
    if not re.fullmatch("[1-9][0-9]?", text) or int(text) > DAYS_EXPORTED:
        raise PushError(422, f"days: expected a whole number from 1 to {DAYS_EXPORTED}")
    return int(text)


def build_summary(
    account_states: Iterable[AccountState],
    ledger: Ledger,
    get_label_mapper: Callable[[tuple[str, str]], LabelMapper | None],
    signals: Sequence[Signal],
    change_events: Sequence[ChangeEvent],
    days: int,
    now: datetime,
) -> Mapping[str, Any]:
    """Return what today and the days before it cost (UTC), under the names that /metrics shows."""
    span, grouped, total, freshness = (
        TimeRange(days_back(now, days - 1), floor(now, DAY) + DAY),
        _TotalsByDimension(),
        _GroupTotals(),
        [],
    )
    for member in account_states:
        shown, number = get_label_mapper(member.account.identity), member.ledger_account.id
        for labels, value in _row_totals(member, ledger, span).items():
            total.add(labels[0], value)
            for way, group in _groups(member, shown, labels):
                grouped.add(way, group, labels[0], value)
        for day in ledger.costs.days(number, span):
            grouped.add("day", (("date", f"{day.start:%Y-%m-%d}"),), COST, day.cost)
        freshness.append(_freshness(member, ledger))
    return {
        "from": f"{span.start:%Y-%m-%dT%H:%M:%SZ}",
        "to": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "days": days,
        "totals": total.to_json(),
        "byProvider": grouped.to_json("provider"),
        "byAccount": grouped.to_json("account"),
        "byWorkspace": grouped.to_json("workspace"),
        "byModel": grouped.to_json("model"),
        "topModels": [_with_shares(one, total) for one in grouped.to_json("model", MAX_TOP_MODELS)],
        "byDay": sorted(
            ({"date": one["date"], "costUsd": one["costUsd"]} for one in grouped.to_json("day")),
            key=lambda one: one["date"],
        ),
        "signals": list(map(_signal, signals)),
        "changes": list(map(_change_event, change_events)),
        "freshness": freshness,
    }


def _row_totals(account_state: AccountState, ledger: Ledger, time_range: TimeRange) -> dict[RowLabels, int]:
    reports = [report.name for report in account_state.ledger_account.usage_reports]
    units = ledger.buckets.units(account_state.ledger_account.id, reports, time_range)
    counted = {labels: value for labels, value in units.items() if labels[0] == REQUESTS or labels[0] in TOKEN_METERS}
    return counted | dict(ledger.costs.total(account_state.ledger_account.id, time_range))


def _groups(
    account_state: AccountState, label_mapper: LabelMapper | None, labels: RowLabels
) -> Iterable[tuple[str, Group]]:
    place = label_mapper.remap(labels) if label_mapper else to_spend_labels(labels)
    workspace, model, _, _ = label_mapper.label_values(place) if label_mapper else place
    account = (("provider", account_state.account.provider), ("account", account_state.account.name))
    yield "provider", account[:1]
    yield "account", account
    yield "workspace", (*account, ("workspace", workspace))
    yield "model", (("model", model),)


def _with_shares(model: dict[str, Any], total: _GroupTotals) -> dict[str, Any]:
    whole = total.to_json()
    return model | {
        "costShare": round(model["costUsd"] / whole["costUsd"], 6) if whole["costUsd"] else None,
        "requestShare": round(model["requests"] / whole["requests"], 6)
        if model["requests"] and whole["requests"]
        else None,
    }


def _signal(signal: Signal) -> dict[str, Any]:
    return {
        "kind": "cost_above_upper_bound",
        "provider": signal.provider,
        "account": signal.account,
        "workspace": signal.workspace,
        "hour": f"{signal.hour:%Y-%m-%dT%H:%M:%SZ}",
        "costUsd": float(format_usd(signal.cost)),
        "expectedUsd": float(format_usd(signal.expected)),
        "upperBoundUsd": float(format_usd(signal.upper_bound)),
    }


def _change_event(change_event: ChangeEvent) -> dict[str, Any]:
    time = f"{change_event.time:%Y-%m-%dT%H:%M:%SZ}"
    return {
        "title": change_event.title,
        "time": time,
        "service": change_event.service,
        "account": change_event.account,
        "link": change_event.link,
    }


def _freshness(account_state: AccountState, ledger: Ledger) -> dict[str, Any]:
    until = account_state.complete_until(ledger)
    return {
        "provider": account_state.account.provider,
        "account": account_state.account.name,
        "up": account_state.up(ledger),
        "completeUntil": f"{until:%Y-%m-%dT%H:%M:%SZ}" if until else None,
        "problems": sorted({error.reason for error in account_state.health.current_problems}),
    }
