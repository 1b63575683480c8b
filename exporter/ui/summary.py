"""What was spent lately, as plain values: for who wants numbers without Prometheus."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from exporter.errors import IngestError
from exporter.ledger import Ledger
from exporter.ledger.series import Labels
from exporter.metrics.exposition import dollars
from exporter.metrics.labels import Places, combination
from exporter.metrics.signals import Signal
from exporter.model import COST, DAY, REQUESTS, TOKEN_METERS, Deed
from exporter.polling.account_state import Member
from exporter.windows import DAYS_SHOWN, Span, days_back, floor

MOST_MODELS = 20
Group = tuple[tuple[str, str], ...]
"""Names and values that a sum is told under: (("provider", "bedrock"),)."""


@dataclass(slots=True)
class _Sums:
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

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it; money exact to the nano-dollar."""
        return {"costUsd": float(dollars(self.cost)), "tokens": self.tokens, "requests": self.requests}


@dataclass(slots=True)
class _Grouped:
    """Sums by group, for every way of grouping."""

    by: dict[str, dict[Group, _Sums]] = field(default_factory=dict)

    def add(self, way: str, group: Group, meter: str, value: int) -> None:
        self.by.setdefault(way, {}).setdefault(group, _Sums()).add(meter, value)

    def plain(self, way: str, most: int | None = None) -> list[dict[str, Any]]:
        """Return the groups, the dearest first."""
        groups = sorted(self.by.get(way, {}).items(), key=lambda one: (-one[1].cost, one[0]))
        return [dict(group) | sums.plain() for group, sums in groups[:most]]


def days_asked(text: str) -> int:
    """Return for how many days a summary is wanted. Raises IngestError."""
    if not re.fullmatch("[1-9][0-9]?", text) or int(text) > DAYS_SHOWN:
        raise IngestError(422, f"days: expected a whole number from 1 to {DAYS_SHOWN}")
    return int(text)


def summary(
    members: Iterable[Member],
    ledger: Ledger,
    places: Callable[[tuple[str, str]], Places | None],
    signals: Sequence[Signal],
    deeds: Sequence[Deed],
    days: int,
    now: datetime,
) -> Mapping[str, Any]:
    """Return what today and the days before it cost (UTC), under the names that /metrics shows."""
    span, grouped, total, freshness = Span(days_back(now, days - 1), floor(now, DAY) + DAY), _Grouped(), _Sums(), []
    for member in members:
        shown, number = places(member.account.key), member.book.number
        for labels, value in _told(member, ledger, span).items():
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
        "totals": total.plain(),
        "byProvider": grouped.plain("provider"),
        "byAccount": grouped.plain("account"),
        "byWorkspace": grouped.plain("workspace"),
        "byModel": grouped.plain("model"),
        "topModels": [_shared(one, total) for one in grouped.plain("model", MOST_MODELS)],
        "byDay": sorted(
            ({"date": one["date"], "costUsd": one["costUsd"]} for one in grouped.plain("day")),
            key=lambda one: one["date"],
        ),
        "signals": list(map(_signal, signals)),
        "changes": list(map(_deed, deeds)),
        "freshness": freshness,
    }


def _told(member: Member, ledger: Ledger, span: Span) -> dict[Labels, int]:
    reports = [report.name for report in member.book.usage]
    units = ledger.buckets.units(member.book.number, reports, span)
    counted = {labels: value for labels, value in units.items() if labels[0] == REQUESTS or labels[0] in TOKEN_METERS}
    return counted | dict(ledger.costs.total(member.book.number, span))


def _groups(member: Member, shown: Places | None, labels: Labels) -> Iterable[tuple[str, Group]]:
    place = shown.place(labels) if shown else combination(labels)
    workspace, model, _, _ = shown.values(place) if shown else place
    account = (("provider", member.account.provider), ("account", member.account.name))
    yield "provider", account[:1]
    yield "account", account
    yield "workspace", (*account, ("workspace", workspace))
    yield "model", (("model", model),)


def _shared(one: dict[str, Any], total: _Sums) -> dict[str, Any]:
    whole = total.plain()
    return one | {
        "costShare": round(one["costUsd"] / whole["costUsd"], 6) if whole["costUsd"] else None,
        "requestShare": round(one["requests"] / whole["requests"], 6)
        if one["requests"] and whole["requests"]
        else None,
    }


def _signal(one: Signal) -> dict[str, Any]:
    return {
        "kind": "cost_above_high",
        "provider": one.provider,
        "account": one.account,
        "workspace": one.workspace,
        "hour": f"{one.hour:%Y-%m-%dT%H:%M:%SZ}",
        "costUsd": float(dollars(one.cost)),
        "expectedUsd": float(dollars(one.expected)),
        "highUsd": float(dollars(one.high)),
    }


def _deed(one: Deed) -> dict[str, Any]:
    time = f"{one.moment:%Y-%m-%dT%H:%M:%SZ}"
    return {"title": one.title, "time": time, "service": one.service, "account": one.account, "link": one.link}


def _freshness(member: Member, ledger: Ledger) -> dict[str, Any]:
    until = member.complete_until(ledger)
    return {
        "provider": member.account.provider,
        "account": member.account.name,
        "up": member.up(ledger),
        "completeUntil": f"{until:%Y-%m-%dT%H:%M:%SZ}" if until else None,
        "problems": sorted({error.reason for error in member.health.reasons()}),
    }
