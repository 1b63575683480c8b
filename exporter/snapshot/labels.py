"""The labels under which an account's series are exported: names for ids, small series aggregated into `other`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from exporter.model import RowLabels

OTHER = "other"


class SpendLabels(NamedTuple):
    """The labels of a spend series besides provider and account, as ids."""

    workspace: str
    model: str
    tier: str
    api_key: str


@lru_cache(maxsize=1 << 16)
def to_spend_labels(labels: RowLabels) -> SpendLabels:
    """Return the labels of a row's series; cost that has no model takes the name of its bill item."""
    return SpendLabels(labels.workspace, labels.model or labels.item, labels.tier, labels.api_key)


@dataclass(frozen=True, slots=True)
class LabelMapper:
    """Maps the ids of an account's rows to exported label values: the same in metrics, history and pages."""

    remapped: Mapping[SpendLabels, SpendLabels]
    """Series that are aggregated because of max_series, and the series that holds their sum."""
    aggregated_series: int
    """How many series of the recent windows are aggregated."""
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
        """Build the mapping from the series of the recent windows, with their cost, and all that the ledger knows.

        A series without recent usage exists in history only: it neither counts against `max_series` before a recent
        series nor takes the plain name from one.
        """
        inactive = set(known).difference(recent_cost)
        remapped = aggregate(recent_cost, max_series, inactive)
        unique = unique_names(
            names, {labels.workspace for labels in recent_cost}, {labels.workspace for labels in inactive}
        )
        unique |= unique_names(
            names, {labels.api_key for labels in recent_cost}, {labels.api_key for labels in inactive}
        )
        return cls(remapped, len(remapped.keys() & recent_cost.keys()), unique)

    def remap(self, labels: RowLabels) -> SpendLabels:
        """Return the series that counts a row, as ids."""
        wanted = to_spend_labels(labels)
        return self.remapped.get(wanted, wanted)

    def label_values(self, labels: SpendLabels) -> SpendLabels:
        """Return a series' labels with names in place of ids."""
        # A row without an API key has no name, though the default workspace, whose id is empty too, may have one.
        api_key = labels.api_key and self.names.get(labels.api_key, labels.api_key)
        return SpendLabels(self.workspace_name(labels.workspace), labels.model, labels.tier, api_key)

    def workspace_name(self, workspace: str) -> str:
        """Return the name of a workspace id."""
        return self.names.get(workspace, workspace)


def aggregate(
    cost: Mapping[SpendLabels, int], max_series: int, inactive: Iterable[SpendLabels] = ()
) -> dict[SpendLabels, SpendLabels]:
    """Keep the `max_series` series of the largest cost and aggregate the others; every sum stays the same.

    Returns series -> the series that holds its sum: model `other` of its workspace, or workspace `other` where even
    those are too many. Inactive series rank below every series that had cost.
    """
    ranked = [*sorted(cost, key=lambda labels: (-cost[labels], labels)), *sorted(inactive)]
    aggregated = ranked[max_series:]
    keep_workspace = len({labels.workspace for labels in aggregated}) <= max_series
    return {labels: SpendLabels(labels.workspace if keep_workspace else OTHER, OTHER, "", "") for labels in aggregated}


def unique_names(names: Mapping[str, str], ids: Iterable[str], inactive: Iterable[str] = ()) -> dict[str, str]:
    """Return id -> exported name: an id without a name stands for itself, equal names get the last letters of the id.

    An inactive id leaves the plain name to an active one.
    """
    active_names = {id_: names.get(id_) or id_ for id_ in ids}
    inactive_names = {id_: names.get(id_) or id_ for id_ in inactive if id_ not in active_names}
    active_count = Counter(active_names.values())
    total_count = active_count + Counter(inactive_names.values())
    return {id_: _unique_name(id_, name, active_count) for id_, name in active_names.items()} | {
        id_: _unique_name(id_, name, total_count) for id_, name in inactive_names.items()
    }


def _unique_name(id_: str, name: str, count: Mapping[str, int]) -> str:
    return name if count[name] == 1 else f"{name} ({id_[-6:] or 'none'})"
