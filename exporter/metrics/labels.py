"""Under which labels an account's series are shown: names put on ids, the small ones folded when there are too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exporter.ledger.series import Labels

OTHER = "other"

SpendLabels = tuple[str, str, str, str]
"""workspace, model, tier, api_key: the labels of a spend series, besides provider and account."""


def to_spend_labels(labels: Labels) -> SpendLabels:
    """Return a row's labels as shown; money that has no model is shown under its item."""
    _, workspace, model, tier, api_key, item = labels
    return (workspace, model or item, tier, api_key)


@dataclass(frozen=True, slots=True)
class LabelMapper:
    """Where each combination of ids is shown: on the page and in history alike."""

    remapped: Mapping[SpendLabels, SpendLabels]
    """Those that are not shown under their own labels, and under which they are."""
    aggregated_series: int
    """How many of late are not shown under their own labels."""
    names: Mapping[str, str]
    """Id of a workspace or an API key -> name."""

    @classmethod
    def build(
        cls,
        recent_cost: Mapping[SpendLabels, int],
        known: Iterable[SpendLabels],
        names: Mapping[str, str],
        max_series: int,
    ) -> LabelMapper:
        """Decide for what was active of late (with its cost), and for all else that the ledger knows.

        What is no longer active is shown in history only: it takes neither room nor a name from what is.
        """
        idle = set(known).difference(recent_cost)
        moved = aggregate(recent_cost, max_series, idle)
        shown = dict[str, str]()
        for part in (0, 3):
            shown |= unique_names(names, {one[part] for one in recent_cost}, {one[part] for one in idle})
        return cls(moved, len(moved.keys() & recent_cost.keys()), shown)

    def remap(self, labels: Labels) -> SpendLabels:
        """Return the combination under which a row is shown."""
        wanted = to_spend_labels(labels)
        return self.remapped.get(wanted, wanted)

    def label_values(self, spend_labels: SpendLabels) -> tuple[str, str, str, str]:
        """Return the label values of a place: workspace, model, tier, api_key."""
        workspace, model, tier, api_key = spend_labels
        # A key that nobody told has no name, though the default workspace, whose id is as empty, may have one.
        return (self.names.get(workspace, workspace), model, tier, api_key and self.names.get(api_key, api_key))


def aggregate(
    cost: Mapping[SpendLabels, int], max_series: int, idle: Iterable[SpendLabels] = ()
) -> dict[SpendLabels, SpendLabels]:
    """Keep the `limit` combinations of the largest 30-day cost and fold the rest; every sum stays what it is.

    Returns where the rest is shown: as model `other` of its workspace, or of workspace `other` where even those are
    too many. What is idle comes after all that cost.
    """
    rest = [*sorted(cost, key=lambda one: (-cost[one], one)), *sorted(idle)][max_series:]
    workspaces = {one[0] for one in rest}
    return {one: (one[0] if len(workspaces) <= max_series else OTHER, OTHER, "", "") for one in rest}


def unique_names(names: Mapping[str, str], ids: Iterable[str], idle: Iterable[str] = ()) -> dict[str, str]:
    """Return id -> name as shown: an id without a name shows itself; two of one name get their ids' tails.

    An idle id leaves the bare name to one that is not.
    """
    wanted = {one: names.get(one) or one for one in ids}
    rest = {one: names.get(one) or one for one in idle if one not in wanted}
    count = Counter(wanted.values())
    every = count + Counter(rest.values())
    return {
        one: name if counted[name] == 1 else f"{name} ({one[-6:] or 'none'})"
        for some, counted in ((wanted, count), (rest, every))
        for one, name in some.items()
    }
