"""Sums of cost, tokens and requests over days, accounts and labels: for the landing page, the summary and `check`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from exporter.model import COST, REQUESTS, TOKEN_METERS, RowLabels
from exporter.snapshot.account_snapshot import AccountSnapshot, merge_totals
from exporter.snapshot.labels import SpendLabels
from exporter.windows import TimeRange

Group = TypeVar("Group")


@dataclass(frozen=True, slots=True)
class Totals:
    """Cost and usage of a group."""

    cost: int = 0
    """nano-USD."""
    tokens: int = 0
    requests: int | None = None
    """None where no provider of the group reports requests."""

    def __add__(self, other: Totals) -> Totals:
        requests = [count for count in (self.requests, other.requests) if count is not None]
        return Totals(self.cost + other.cost, self.tokens + other.tokens, sum(requests) if requests else None)


def aggregate_days(
    snapshots: Iterable[AccountSnapshot],
    time_range: TimeRange,
    group_of: Callable[[AccountSnapshot, SpendLabels], Group],
) -> dict[Group, Totals]:
    """Return group -> totals of the UTC days that start in a time range.

    `group_of` is called with the exported labels of each series, as on /metrics: names, and `other` for what is
    aggregated there.
    """
    groups: dict[Group, Totals] = {}
    for snapshot in snapshots:
        for labels, value in sum_days(snapshot, time_range).items():
            totals = _row_totals(labels, value)
            if totals is not None:
                mapper = snapshot.label_mapper
                group = group_of(snapshot, mapper.label_values(mapper.remap(labels)))
                groups[group] = groups.get(group, Totals()) + totals
    return groups


def sum_days(snapshot: AccountSnapshot, time_range: TimeRange) -> Mapping[RowLabels, int]:
    """Return the sum of every row of the UTC days that start in a time range."""
    sums: dict[RowLabels, int] = {}
    for day, totals in snapshot.days.items():
        if time_range.start <= day < time_range.end:
            merge_totals(sums, totals.items())
    return sums


def _row_totals(labels: RowLabels, value: int) -> Totals | None:
    if labels.meter == COST:
        return Totals(cost=value)
    if labels.meter == REQUESTS:
        return Totals(requests=value)
    return Totals(tokens=value) if labels.meter in TOKEN_METERS else None
