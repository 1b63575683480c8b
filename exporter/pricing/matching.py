"""Matching: the usage that each row of a bill pays for, although bill and usage may name models and tiers differently.

Bills write a model with a snapshot date where usage does not, or the other way round; they leave the tier out, or state
one that usage does not report; they charge for a whole model instead of a meter. So a row is matched step by step,
from the exact names to the vaguest, and the first step that finds usage of the same workspace wins. A row never pays
for usage of another workspace: the workspaces' shares of a bill are exact.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from exporter.model import TOKEN_METERS, UNIT_METERS, Row
from exporter.pricing.list_prices import Rates
from exporter.pricing.usage import DailyUsage, UsageKey, rate_weights, unit_weights, weights

_ANY = "*"
"""A model or meter in an index key: all of the workspace."""


class WeightedUsage(NamedTuple):
    """Usage that a row of a bill pays for."""

    usage: DailyUsage
    unit_weight: int
    """Weight of one unit beside the units of the row's other usage."""


class _IndexKey(NamedTuple):
    """A model, as written, normalized or `_ANY`, and a meter or `_ANY`, in a workspace."""

    workspace: str
    model: str
    meter: str


class _Match(NamedTuple):
    """Usage that a row's model and meter lead to."""

    usage: list[DailyUsage]
    by_meter: bool
    """Whether all of it has the row's own meter, so that its units can be compared without rates."""


_NO_MATCH = _Match([], by_meter=False)


class BillMatcher:
    """The usage of a billed day, matched to the rows of its bill.

    The whole bill is needed before the first row is matched: a row without a tier pays for the tiers that no other row
    states, and a row with an unknown model pays for the usage that no other row matches.
    """

    def __init__(self, daily_usage: Sequence[DailyUsage], bill: Sequence[Row], rates: Rates) -> None:
        self._rates = rates
        self._index = _build_index(daily_usage)
        self._hourly_weights: dict[str, dict[int, int]] = {}
        self._usage_with_stated_tier: set[UsageKey] = set()
        matched: set[_IndexKey] = set()
        for row in bill:
            match = self._match_model_and_meter(row)
            matched.update(_index_key(usage) for usage in match.usage)
            if row.tier and match.by_meter:
                self._usage_with_stated_tier.update(
                    usage.key for usage in match.usage if usage.price_key.tier == row.tier
                )
        self._unmatched_tokens = self._find_unmatched_tokens(daily_usage, matched)

    def match(self, row: Row) -> list[WeightedUsage]:
        """Return the usage that a row of the bill pays for; empty where neither its model nor its meter was used.

        The first that exists wins: the meter of the model; the meter of the model in another spelling; all tokens of
        the model; those of the model in another spelling. A row without a model pays for its meter in every model. A
        row whose model nobody used pays for the tokens of its workspace that no other row matches. Of these, the row
        pays for its own tier.

        Usage of several meters is weighted by its value, else by tokens, else by units. Usage of one meter is weighted
        by its value where all of it has a rate, and by units otherwise.
        """
        match = self._match_model_and_meter(row)
        if not match.usage:
            match = self._match_unknown_model(row)
        daily_usage = self._select_tier(match.usage, row.tier)
        usage_weights = self._weigh(daily_usage, by_meter=match.by_meter)
        return [WeightedUsage(usage, weight) for usage, weight in zip(daily_usage, usage_weights, strict=True)]

    def hourly_weights(self, workspace: str) -> dict[int, int]:
        """Return hour -> weight of all usage of a workspace, sorted by hour; empty where it used nothing."""
        if workspace not in self._hourly_weights:
            daily_usage = self._index.get(_IndexKey(workspace, _ANY, _ANY), [])
            usage_weights = weights([usage.price_key for usage in daily_usage], self._rates)
            weight_by_hour: defaultdict[int, int] = defaultdict(int)
            for usage, weight in zip(daily_usage, usage_weights, strict=True):
                for hourly in usage.hourly_units:
                    weight_by_hour[hourly.hour] += hourly.units * weight
            self._hourly_weights[workspace] = dict(sorted(weight_by_hour.items()))
        return self._hourly_weights[workspace]

    def _match_model_and_meter(self, row: Row) -> _Match:
        if not row.model:
            return _Match(self._index.get(_IndexKey(row.workspace, _ANY, row.meter), []), by_meter=True)
        spellings = (row.model, _normalize_model(row.model))
        for model in spellings:
            usage = self._index.get(_IndexKey(row.workspace, model, row.meter))
            if usage:
                return _Match(usage, by_meter=True)
        for model in spellings:
            usage = self._index.get(_IndexKey(row.workspace, model, _ANY))
            if usage:
                # Searches and the like have rows of their own; a model without tokens is paid for by its other units.
                tokens = [used for used in usage if used.price_key.meter in TOKEN_METERS]
                return _Match(tokens or usage, by_meter=False)
        return _NO_MATCH

    def _match_unknown_model(self, row: Row) -> _Match:
        """Match a row whose model nobody used: bill and usage may have entirely different names for it."""
        names_a_model = bool(row.model) or row.meter in TOKEN_METERS
        if row.meter in UNIT_METERS or not names_a_model:
            return _NO_MATCH
        unmatched = self._unmatched_tokens.get(row.workspace, [])
        of_meter = [usage for usage in unmatched if usage.price_key.meter == row.meter]
        return _Match(of_meter, by_meter=True) if of_meter else _Match(unmatched, by_meter=False)

    def _find_unmatched_tokens(
        self, daily_usage: Sequence[DailyUsage], matched: set[_IndexKey]
    ) -> dict[str, list[DailyUsage]]:
        """Return workspace -> usage of tokens that no row matches by name, without usage that is known to be free."""
        unmatched: defaultdict[str, list[DailyUsage]] = defaultdict(list)
        for usage in daily_usage:
            is_token = usage.price_key.meter in TOKEN_METERS
            if is_token and _index_key(usage) not in matched and self._rates.rate(*usage.price_key) != 0:
                unmatched[usage.workspace].append(usage)
        return unmatched

    def _select_tier(self, daily_usage: list[DailyUsage], tier: str) -> list[DailyUsage]:
        """Narrow matched usage to the row's tier; never to nothing, for the row has to pay for something."""
        if not tier:
            # A row without a tier pays for the tiers that no other row states.
            remaining = [usage for usage in daily_usage if usage.key not in self._usage_with_stated_tier]
            return remaining or daily_usage
        # Usage may not report that a request was long, or no tier at all.
        for similar_tier in (tier, tier.removesuffix("_long_context"), ""):
            of_tier = [usage for usage in daily_usage if usage.price_key.tier == similar_tier]
            if of_tier:
                return of_tier
        return daily_usage

    def _weigh(self, daily_usage: list[DailyUsage], *, by_meter: bool) -> list[int]:
        price_keys = [usage.price_key for usage in daily_usage]
        if not by_meter:
            return weights(price_keys, self._rates)
        # With a single price the value is in proportion to the units; with a rate unknown, units are the fairer guess.
        has_several_prices = len(set(price_keys)) > 1
        if has_several_prices and all(self._rates.rate(*price_key) is not None for price_key in price_keys):
            by_value = rate_weights(price_keys, self._rates)
            if any(by_value):
                return by_value
        return unit_weights(price_keys, self._rates)


def _build_index(daily_usage: Sequence[DailyUsage]) -> dict[_IndexKey, list[DailyUsage]]:
    """Index usage by everything that a row may say of it: its model as written, in any spelling, or none; its meter."""
    index: defaultdict[_IndexKey, list[DailyUsage]] = defaultdict(list)
    for usage in daily_usage:
        price_key = usage.price_key
        for model in (price_key.model, _normalize_model(price_key.model), _ANY):
            for meter in (price_key.meter, _ANY):
                index[_IndexKey(usage.workspace, model, meter)].append(usage)
    return dict(index)


def _index_key(usage: DailyUsage) -> _IndexKey:
    return _IndexKey(usage.workspace, usage.price_key.model, usage.price_key.meter)


_SNAPSHOT_SUFFIX = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8}|latest)$")


@lru_cache(maxsize=4096)
def _normalize_model(model: str) -> str:
    """Return the common form of all spellings of a model; the prefix keeps it apart from models as written."""
    return "~" + _SNAPSHOT_SUFFIX.sub("", model.lower())
