"""Which series an account shows: names put on ids, and the small ones folded when there are too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exporter.ledger.series import Labels

OTHER = "other"

Combination = tuple[str, str, str, str]
"""workspace, model, tier, api_key: the labels of a spend series, besides provider and account."""


def combination(labels: Labels) -> Combination:
    """Return a row's labels as shown; money that has no model is shown under its item."""
    _, workspace, model, tier, api_key, item = labels
    return (workspace, model or item, tier, api_key)


@dataclass(frozen=True, slots=True)
class Folding:
    """Where each combination is shown: under its own labels, or under `other`."""

    moved: Mapping[Combination, Combination]

    @property
    def folded(self) -> int:
        """How many combinations are not shown under their own labels."""
        return len(self.moved)

    def place(self, wanted: Combination) -> Combination:
        """Return the combination under which this one is shown."""
        return self.moved.get(wanted, wanted)


def fold(cost: Mapping[Combination, int], limit: int) -> Folding:
    """Keep the `limit` combinations of the largest 30-day cost and fold the rest; every sum stays what it is.

    The rest is shown as model `other` of its workspace, or of workspace `other` where even those are too many.
    """
    rest = sorted(cost, key=lambda one: (-cost[one], one))[limit:]
    workspaces = {one[0] for one in rest}
    return Folding({one: (one[0] if len(workspaces) <= limit else OTHER, OTHER, "", "") for one in rest})


def unique_names(names: Mapping[str, str], ids: Iterable[str]) -> dict[str, str]:
    """Return id -> name as shown: an id without a name shows itself; two of one name get their ids' tails."""
    wanted = {one: names.get(one) or one for one in ids}
    count = Counter(wanted.values())
    return {one: name if count[name] == 1 else f"{name} ({one[-6:] or 'none'})" for one, name in wanted.items()}
