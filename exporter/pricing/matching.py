"""Finds what a row of a bill pays for among what was used: the words of the two need not be the same."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

from exporter.model import TOKEN_METERS, UNIT_METERS, Row
from exporter.pricing.list_prices import Rates
from exporter.pricing.usage import Kind, Use, by_worth, weigh

_Labels = tuple[str, str, str]
"""Workspace, model, meter."""
_Paid = list[tuple[Use, int]]
"""What is paid for, with the weight of one unit of each."""

_ANY = "*"


class Matching:
    """A billed day's use, found by what a bill's row says of it."""

    def __init__(self, uses: Sequence[Use], bill: Sequence[Row], rates: Rates) -> None:
        self._rates = rates
        self._uses: defaultdict[_Labels, list[Use]] = defaultdict(list)
        for use in uses:
            model, meter, _ = use.kind
            for labels in product((use.workspace,), (model, _alike(model), _ANY), (meter, _ANY)):
                self._uses[labels].append(use)
        self._pace: dict[str, dict[int, int]] = {}
        self._claimed: set[tuple[str, Kind]] = set()
        met: set[_Labels] = set()
        for row in bill:
            found, own_meter = self._said(row)
            met.update(_labels(use) for use in found)
            if row.tier and own_meter:
                self._claimed.update(use[:2] for use in found if use.kind[2] == row.tier)
        self._unmet: defaultdict[str, list[Use]] = defaultdict(list)
        for use in uses:
            if use.kind[1] in TOKEN_METERS and _labels(use) not in met and rates.rate(*use.kind) != 0:
                self._unmet[use.workspace].append(use)

    def paid_by(self, row: Row) -> _Paid:
        """Return what a bill's row pays for; nothing where its model and meter say nothing.

        The first that is there wins: the meter of the model; the meter of the model spelled otherwise; the tokens of
        the model, by worth; those of the model spelled otherwise. A row without a model pays for its meter in every
        model. Of what is found, the row pays for its tier; several kinds that have rates share by worth, else by
        units. A model that nobody used pays for the tokens of its workspace that no other row names.
        """
        found, own_meter = self._said(row)
        if not found:
            found, own_meter = self._nameless(row)
        uses = self._of_tier(found, row.tier)
        kinds = [use.kind for use in uses]
        if not own_meter:
            weights = weigh(kinds, self._rates) if uses else []
        elif len(set(kinds)) > 1 and all(self._rates.rate(*kind) is not None for kind in kinds):
            weights = by_worth(kinds, self._rates)
        else:
            weights = []
        return list(zip(uses, weights if any(weights) else [1] * len(uses), strict=True))

    def pace(self, workspace: str) -> dict[int, int]:
        """Return hour -> weight of all that a workspace used; empty where it used nothing."""
        if workspace not in self._pace:
            uses = self._uses.get((workspace, _ANY, _ANY), [])
            hours: defaultdict[int, int] = defaultdict(int)
            for use, weight in zip(uses, weigh([use.kind for use in uses], self._rates) if uses else [], strict=True):
                for hour, _, units in use.parts:
                    hours[hour] += units * weight
            self._pace[workspace] = {hour: hours[hour] for hour in sorted(hours)}
        return self._pace[workspace]

    def _said(self, row: Row) -> tuple[list[Use], bool]:
        """Return what a row's model and meter match, and whether by its own meter."""
        models = (row.model, _alike(row.model)) if row.model else (_ANY,)
        for model in models:
            if found := self._uses.get((row.workspace, model, row.meter)):
                return found, True
        for model in models if row.model else ():
            if found := self._uses.get((row.workspace, model, _ANY)):
                return [use for use in found if use.kind[1] in TOKEN_METERS] or found, False
        return [], False

    def _nameless(self, row: Row) -> tuple[list[Use], bool]:
        """Return what a model that nobody used may pay for: the bill and the use may name one model differently."""
        if row.meter in UNIT_METERS or not (row.model or row.meter in TOKEN_METERS):
            return [], False
        unmet = self._unmet.get(row.workspace, [])
        if found := [use for use in unmet if use.kind[1] == row.meter]:
            return found, True
        return unmet, False

    def _of_tier(self, uses: list[Use], tier: str) -> list[Use]:
        """Narrow to a tier: an unsaid one takes what no other row of the bill claims, a said one its nearest."""
        if not tier:
            return [use for use in uses if use[:2] not in self._claimed] or uses
        for nearest in (tier, tier.removesuffix("_long_context"), ""):
            if found := [use for use in uses if use.kind[2] == nearest]:
                return found
        return uses


def _labels(use: Use) -> _Labels:
    return use.workspace, use.kind[0], use.kind[1]


_SNAPSHOT = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8}|latest)$")


@lru_cache(maxsize=4096)
def _alike(model: str) -> str:
    """Return what all spellings of a model have in common, marked so that it is no model's name."""
    return "~" + _SNAPSHOT.sub("", model.lower())
