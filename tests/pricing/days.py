"""Days to value: rates from a table, and random usage and bills whose words meet, nearly meet, or do not."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from hypothesis import settings
from hypothesis import strategies as st

from exporter.model import Row

Usage = dict[int, list[Row]]
no_deadline = settings(deadline=None)


class RateTable:
    """Rates from a table by model, meter and tier, or by model and meter for every tier."""

    def __init__(self, rates: Mapping[tuple[str, ...], Fraction | int]) -> None:
        self._rates = rates

    def rate(self, model: str, meter: str, tier: str) -> Fraction | None:
        rate = self._rates.get((model, meter, tier), self._rates.get((model, meter)))
        return None if rate is None else Fraction(rate)


NO_RATES = RateTable({})
SOME_RATES = RateTable(
    {
        ("m", "output"): 15_000,
        ("m", "output", "batch"): 7_500,
        ("m", "uncached_input"): Fraction(1, 3),
        ("m", "web_searches"): 10**7,
    }
)

WORKSPACES = st.sampled_from(["", "w", "v"])
MODELS = st.sampled_from(["", "m", "M-2025-04-23", "m-latest", "n"])
TIERS = st.sampled_from(["", "standard", "batch", "standard_long_context"])
METERS = st.sampled_from(["uncached_input", "cache_write_1h", "output", "web_searches", "bytes"])
UNITS = st.one_of(st.integers(0, 20), st.integers(0, 10**15))
AMOUNTS = st.one_of(st.integers(0, 20), st.integers(0, 10**18))

USAGE_ROW = st.builds(
    Row,
    st.one_of(METERS, st.just("requests")),
    UNITS,
    WORKSPACES,
    MODELS,
    TIERS,
    st.sampled_from(["", "k"]),
    st.just(""),
)
DAY_USAGE = st.dictionaries(st.integers(0, 23), st.lists(USAGE_ROW, max_size=6), max_size=6)
ITEMS = st.sampled_from(["", "label"])
CHARGE = st.builds(Row, st.one_of(METERS, st.just("cost")), AMOUNTS, WORKSPACES, MODELS, TIERS, st.just(""), ITEMS)
CHARGES = st.lists(CHARGE, max_size=8)
BILL_ROW = st.builds(lambda row, credit: row._replace(value=-row.value) if credit else row, CHARGE, st.booleans())
BILL = st.lists(BILL_ROW, max_size=8)
RATES = st.sampled_from([NO_RATES, SOME_RATES])
