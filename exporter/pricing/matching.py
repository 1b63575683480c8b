"""Finds what a row of a bill pays for among what was used: the words of the two need not be the same."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

from exporter.model import TOKEN_METERS, UNIT_METERS, Row
from exporter.pricing.list_prices import Rates
from exporter.pricing.usage import DailyUsage, PriceKey, rate_weights, weights

_UsageKey = tuple[str, str, str]
"""Workspace, model, meter."""
_WeightedUsage = list[tuple[DailyUsage, int]]
"""What is paid for, with the weight of one unit of each."""

_ANY = "*"


class BillMatcher:
    """A billed day's use, found by what a bill's row says of it."""

    def __init__(self, daily_usage: Sequence[DailyUsage], bill: Sequence[Row], rates: Rates) -> None:
        self._rates = rates
        self._usage_by_key: defaultdict[_UsageKey, list[DailyUsage]] = defaultdict(list)
        for use in daily_usage:
            model, meter, _ = use.price_key
            for labels in product((use.workspace,), (model, _normalize_model(model), _ANY), (meter, _ANY)):
                self._usage_by_key[labels].append(use)
        self._hourly_weights: dict[str, dict[int, int]] = {}
        self._tier_matches: set[tuple[str, PriceKey]] = set()
        met: set[_UsageKey] = set()
        for row in bill:
            found, own_meter = self._match_model_and_meter(row)
            met.update(_usage_key(use) for use in found)
            if row.tier and own_meter:
                self._tier_matches.update(use[:2] for use in found if use.price_key[2] == row.tier)
        self._unmatched_usage: defaultdict[str, list[DailyUsage]] = defaultdict(list)
        for use in daily_usage:
            if use.price_key[1] in TOKEN_METERS and _usage_key(use) not in met and rates.rate(*use.price_key) != 0:
                self._unmatched_usage[use.workspace].append(use)

    def match(self, row: Row) -> _WeightedUsage:
        """Return what a bill's row pays for; nothing where its model and meter say nothing.

        The first that is there wins: the meter of the model; the meter of the model spelled otherwise; the tokens of
        the model, by worth; those of the model spelled otherwise. A row without a model pays for its meter in every
        model. Of what is found, the row pays for its tier; several kinds that have rates share by worth, else by
        units. A model that nobody used pays for the tokens of its workspace that no other row names.
        """
        found, own_meter = self._match_model_and_meter(row)
        if not found:
            found, own_meter = self._match_unknown_model(row)
        uses = self._select_tier(found, row.tier)
        kinds = [use.price_key for use in uses]
        if not own_meter:
            usage_weights = weights(kinds, self._rates) if uses else []
        elif len(set(kinds)) > 1 and all(self._rates.rate(*kind) is not None for kind in kinds):
            usage_weights = rate_weights(kinds, self._rates)
        else:
            usage_weights = []
        return list(zip(uses, usage_weights if any(usage_weights) else [1] * len(uses), strict=True))

    def hourly_weights(self, workspace: str) -> dict[int, int]:
        """Return hour -> weight of all that a workspace used; empty where it used nothing."""
        if workspace not in self._hourly_weights:
            uses = self._usage_by_key.get((workspace, _ANY, _ANY), [])
            hours: defaultdict[int, int] = defaultdict(int)
            for use, weight in zip(
                uses, weights([use.price_key for use in uses], self._rates) if uses else [], strict=True
            ):
                for hour, _, units in use.hourly_units:
                    hours[hour] += units * weight
            self._hourly_weights[workspace] = {hour: hours[hour] for hour in sorted(hours)}
        return self._hourly_weights[workspace]

    def _match_model_and_meter(self, row: Row) -> tuple[list[DailyUsage], bool]:
        """Return what a row's model and meter match, and whether by its own meter."""
        models = (row.model, _normalize_model(row.model)) if row.model else (_ANY,)
        for model in models:
            if found := self._usage_by_key.get((row.workspace, model, row.meter)):
                return found, True
        for model in models if row.model else ():
            if found := self._usage_by_key.get((row.workspace, model, _ANY)):
                return [use for use in found if use.price_key[1] in TOKEN_METERS] or found, False
        return [], False

    def _match_unknown_model(self, row: Row) -> tuple[list[DailyUsage], bool]:
        """Return what a model that nobody used may pay for: the bill and the use may name one model differently."""
        if row.meter in UNIT_METERS or not (row.model or row.meter in TOKEN_METERS):
            return [], False
        unmet = self._unmatched_usage.get(row.workspace, [])
        if found := [use for use in unmet if use.price_key[1] == row.meter]:
            return found, True
        return unmet, False

    def _select_tier(self, daily_usage: list[DailyUsage], tier: str) -> list[DailyUsage]:
        """Narrow to a tier: an unsaid one takes what no other row of the bill claims, a said one its nearest."""
        if not tier:
            return [use for use in daily_usage if use[:2] not in self._tier_matches] or daily_usage
        for nearest in (tier, tier.removesuffix("_long_context"), ""):
            if found := [use for use in daily_usage if use.price_key[2] == nearest]:
                return found
        return daily_usage


def _usage_key(use: DailyUsage) -> _UsageKey:
    return use.workspace, use.price_key[0], use.price_key[1]


_SNAPSHOT_SUFFIX = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8}|latest)$")


@lru_cache(maxsize=4096)
def _normalize_model(model: str) -> str:
    """Return what all spellings of a model have in common, marked so that it is no model's name."""
    return "~" + _SNAPSHOT_SUFFIX.sub("", model.lower())
