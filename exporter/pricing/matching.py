"""Matching: the usage that each row of a bill pays for, although bill and usage may name models and tiers differently.

Bills write a model with a snapshot date where usage does not, or the other way round; they leave the tier out, or state
one that usage does not report; they charge for a whole model instead of a meter. So a row is matched step by step,
from the exact names to the vaguest, and the first step that finds usage of the same workspace wins. A row never pays
for usage of another workspace: the workspaces' shares of a bill are exact.

Only a row that states no workspace, such as OpenAI's costs without a project, may be for any of them. Where the usage
without a workspace does not fit, it pays for usage of workspaces that have no row for that usage.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
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


_Index = Mapping[_IndexKey, list[DailyUsage]]


class _UsageIdentity(NamedTuple):
    """Usage of a model and meter in a workspace, in all tiers."""

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
        self._index_without_rows: _Index = {}
        """Usage for which no row of its own workspace pays, as if it had no workspace."""
        self._hourly_weights: dict[str, dict[int, int]] = {}
        self._usage_with_stated_tier: set[UsageKey] = set()
        matched: set[_UsageIdentity] = set()
        self._note_matches(bill, matched)
        rows_without_workspace = [row for row in bill if not row.workspace]
        if rows_without_workspace:
            without_rows = [usage for usage in daily_usage if usage.workspace and _identity(usage) not in matched]
            self._index_without_rows = _build_index(without_rows, workspace="")
            self._note_matches(rows_without_workspace, matched)
        self._unmatched_tokens = self._find_unmatched_tokens(daily_usage, matched)

    def _note_matches(self, rows: Sequence[Row], matched: set[_UsageIdentity]) -> None:
        """Add the usage that rows match by name, and note the usage whose tier they state."""
        for row in rows:
            match = self._match_model_and_meter(row)
            matched.update(_identity(usage) for usage in match.usage)
            if row.tier and match.by_meter:
                self._usage_with_stated_tier.update(
                    usage.key for usage in match.usage if usage.price_key.tier == row.tier
                )

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
                for hour, units in zip(usage.hours, usage.hourly_units, strict=True):
                    weight_by_hour[hour] += units * weight
            self._hourly_weights[workspace] = dict(sorted(weight_by_hour.items()))
        return self._hourly_weights[workspace]

    def _match_model_and_meter(self, row: Row) -> _Match:
        match = _match_names(self._index, row)
        return match if match.usage or row.workspace else _match_names(self._index_without_rows, row)

    def _match_unknown_model(self, row: Row) -> _Match:
        """Match a row whose model nobody used: bill and usage may have entirely different names for it."""
        names_a_model = bool(row.model) or row.meter in TOKEN_METERS
        if row.meter in UNIT_METERS or not names_a_model:
            return _NO_MATCH
        unmatched = self._unmatched_tokens.get(row.workspace, [])
        of_meter = [usage for usage in unmatched if usage.price_key.meter == row.meter]
        return _Match(of_meter, by_meter=True) if of_meter else _Match(unmatched, by_meter=False)

    def _find_unmatched_tokens(
        self, daily_usage: Sequence[DailyUsage], matched: set[_UsageIdentity]
    ) -> dict[str, list[DailyUsage]]:
        """Return workspace -> usage of tokens that no row matches by name, without usage that is known to be free."""
        unmatched: defaultdict[str, list[DailyUsage]] = defaultdict(list)
        for usage in daily_usage:
            is_token = usage.price_key.meter in TOKEN_METERS
            if is_token and _identity(usage) not in matched and self._rates.rate(*usage.price_key) != 0:
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


def _match_names(index: _Index, row: Row) -> _Match:
    """Return the usage of a row's model, or of all models where it names none, in its meter, else in any."""
    if not row.model:
        return _Match(index.get(_IndexKey(row.workspace, _ANY, row.meter), []), by_meter=True)
    spellings = (row.model, _normalize_model(row.model))
    for model in spellings:
        usage = index.get(_IndexKey(row.workspace, model, row.meter))
        if usage:
            return _Match(usage, by_meter=True)
    for model in spellings:
        usage = index.get(_IndexKey(row.workspace, model, _ANY))
        if usage:
            # Searches and the like have rows of their own; a model without tokens is paid for by its other units.
            tokens = [used for used in usage if used.price_key.meter in TOKEN_METERS]
            return _Match(tokens or usage, by_meter=False)
    return _NO_MATCH


def _build_index(daily_usage: Sequence[DailyUsage], workspace: str | None = None) -> _Index:
    """Index usage by everything that a row may say of it: its model as written, in any spelling, or none; its meter.

    With `workspace`, all usage is indexed as if it were that workspace's.
    """
    index: defaultdict[_IndexKey, list[DailyUsage]] = defaultdict(list)
    for usage in daily_usage:
        price_key = usage.price_key
        of_workspace = usage.workspace if workspace is None else workspace
        for model in (price_key.model, _normalize_model(price_key.model), _ANY):
            for meter in (price_key.meter, _ANY):
                index[_IndexKey(of_workspace, model, meter)].append(usage)
    return dict(index)


def _identity(usage: DailyUsage) -> _UsageIdentity:
    return _UsageIdentity(usage.workspace, usage.price_key.model, usage.price_key.meter)


_SNAPSHOT_SUFFIX = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8}|latest)$")


@lru_cache(maxsize=4096)
def _normalize_model(model: str) -> str:
    """Return the common form of all spellings of a model; the prefix keeps it apart from models as written."""
    return "~" + _SNAPSHOT_SUFFIX.sub("", model.lower())
