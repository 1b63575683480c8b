"""Open days at rates, billed days to the nano-dollar."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from exporter.model import COST, COST_INCLUDED, TOKEN_METERS, Row
from exporter.pricing.bill_evidence import BillEvidence
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuation import CostLabels, DayValuation, apportion, value_day
from tests.pricing.days import (
    BILL,
    BILL_ROW,
    CHARGES,
    DAY_USAGE,
    NO_RATES,
    RATES,
    SOME_RATES,
    RateTable,
    Usage,
    no_deadline,
)


def _nonzero(value: DayValuation) -> dict[tuple[int, CostLabels], int]:
    return {(hour, labels): nano_usd for (hour, labels), nano_usd in value.hours.items() if nano_usd}


def _total(rows: Iterable[Row]) -> int:
    return sum(row.value for row in rows)


# --- an open day ------------------------------------------------------------------------------------------------------


def test_an_open_day_is_its_tokens_at_rates() -> None:
    """Tokens times rate, per hour and under the labels of the usage."""
    rates = list_rates("anthropic", datetime(2026, 11, 20, tzinfo=UTC))
    usage = {
        3: [
            Row("uncached_input", 1_000_000, "w", "claude-sonnet-4-5", "standard", "k"),
            Row("cache_write_1h", 1_000_000, "w", "claude-sonnet-4-5", "standard", "k"),
        ],
        4: [Row("output", 2_000_000, "w", "claude-sonnet-4-5", "batch", "k")],
    }
    value = value_day(usage, None, rates)
    assert value.hours == {
        (3, CostLabels("w", "claude-sonnet-4-5", "standard", "k")): 9_000_000_000,
        (4, CostLabels("w", "claude-sonnet-4-5", "batch", "k")): 15_000_000_000,
    }
    assert not value.billed
    assert value.unpriced_tokens == {}


def test_tokens_without_a_price_are_reported_by_model() -> None:
    """Usage without a price costs nothing; its tokens are counted, its requests and units are not."""
    rows = [Row("output", 5, model="x"), Row("cache_read", 6, model="x"), Row("output", 0, model="y")]
    usage = {1: [*rows, Row("images", 7, model="x"), Row("requests", 8, model="x")]}
    assert value_day(usage, None, NO_RATES) == DayValuation({}, billed=False, unpriced_tokens={"x": 11})


def test_a_row_is_rounded_half_to_even() -> None:
    """Half a nano-dollar goes to the even neighbour, row by row."""
    usage = {0: [Row("output", 1, "a"), Row("output", 3, "b")]}
    value = value_day(usage, None, RateTable({("", "output"): Fraction(1, 2)}))
    assert value.hours == {(0, CostLabels("a")): 0, (0, CostLabels("b")): 2}


def test_priced_units_are_reported_as_an_item() -> None:
    """Web searches with a price are a cost of their own, separate from the model's tokens."""
    usage = {2: [Row("web_searches", 3, "w", "m"), Row("output", 2, "w", "m")]}
    value = value_day(usage, None, SOME_RATES)
    assert value.hours == {(2, CostLabels("w", "m", item="web_searches")): 3 * 10**7, (2, CostLabels("w", "m")): 30_000}


def test_what_has_no_model_is_called_as_on_the_newest_bill() -> None:
    """Storage is one series: an open day's has the words of the bill, not ours, as soon as there has been a bill."""
    usage, rates = (
        {2: [Row("bytes", 3, "w"), Row("bytes", 3, "w", "m")]},
        RateTable({("", "bytes"): 1, ("m", "bytes"): 1}),
    )
    evidence = [
        BillEvidence(item_by_meter={"bytes": "Vector storage"}),
        BillEvidence(item_by_meter={"bytes": "Files", "sessions": "code"}),
    ]
    assert value_day(usage, None, rates, evidence=evidence).hours == {
        (2, CostLabels("w", item="Vector storage")): 3,
        (2, CostLabels("w", "m", item="bytes")): 3,
    }


def test_a_day_with_reported_cost_is_not_priced_again() -> None:
    """Where usage reports its cost, its tokens are neither priced nor unpriced."""
    usage = {
        1: [Row("cost", 70, "w", "m", "on_demand", "k", "i"), Row("output", 9, "w", "m", "on_demand", "k")],
        2: [Row("output", 9, "w", "x")],
    }
    value = value_day(usage, None, SOME_RATES)
    assert value == DayValuation(
        {CostLabels("w", "m", "on_demand", "k", "i"): {1: 70}}, billed=False, unpriced_tokens={}
    )


def test_money_that_came_with_its_use_leaves_the_rest_of_the_day_to_be_priced() -> None:
    """Rows with an included cost have that cost, other rows their tokens at rates; nothing counts twice."""
    rates = list_rates("anthropic", datetime(2026, 11, 20, tzinfo=UTC))
    paid = (
        Row("output", 9_000_000, "w", "claude-sonnet-4-5", item=COST_INCLUDED),
        Row(COST, 7, "w", "claude-sonnet-4-5", item=COST_INCLUDED),
    )
    priced = Row("output", 1_000_000, "w", "claude-sonnet-4-5")
    value = value_day({3: [*paid, priced], 4: list(paid)}, None, rates)
    assert value.hours == {
        (3, CostLabels("w", "claude-sonnet-4-5")): 15_000_000_007,
        (4, CostLabels("w", "claude-sonnet-4-5")): 7,
    }
    assert value.unpriced_tokens == {}


def test_free_usage_is_reported_as_zero() -> None:
    """A price of zero makes a zero, which is known, and no unpriced tokens."""
    value = value_day({0: [Row("output", 9, "w", "free")]}, None, RateTable({("free", "output"): 0}))
    assert value == DayValuation({CostLabels("w", "free"): {0: 0}}, billed=False, unpriced_tokens={})


# --- a billed day: the usage of a row ---------------------------------------------------------------------------------


def test_a_row_follows_the_units_it_pays_for() -> None:
    """Model, meter and tier of the bill meet those of the usage, hour by hour and key by key."""
    usage = {
        1: [Row("output", 10, "w", "m", "standard", "k1"), Row("output", 99, "w", "m", "batch", "k1")],
        5: [Row("output", 30, "w", "m", "standard", "k2"), Row("uncached_input", 99, "w", "m", "standard", "k2")],
        6: [Row("output", 99, "w", "n", "standard"), Row("output", 99, "v", "m", "standard")],
    }
    value = value_day(usage, [Row("output", 400, "w", "m", "standard", item="label")], NO_RATES)
    assert value.hours == {
        (1, CostLabels("w", "m", "standard", "k1")): 100,
        (5, CostLabels("w", "m", "standard", "k2")): 300,
    }
    assert value.billed


def test_batch_and_one_hour_cache_writes_are_each_paid_by_their_own_row() -> None:
    """Rows of an Anthropic bill are allocated by cache lifetime and tier, in the default workspace too."""
    model = "claude-sonnet-4-5-20250929"
    usage = {
        0: [Row("cache_write_5m", 100, "", model, "standard"), Row("cache_write_1h", 50, "", model, "standard")],
        1: [Row("cache_write_1h", 50, "", model, "standard"), Row("cache_write_1h", 70, "", model, "batch")],
        2: [Row("cache_write_1h", 1000, "wrkspc_1", model, "standard")],
    }
    bill = [
        Row("cache_write_5m", 375_000, "", model, "standard"),
        Row("cache_write_1h", 600_000, "", model, "standard"),
        Row("cache_write_1h", 210_000, "", model, "batch"),
    ]
    standard, batch = CostLabels("", model, "standard"), CostLabels("", model, "batch")
    hours = value_day(usage, bill, NO_RATES).hours
    assert hours == {(0, standard): 675_000, (1, standard): 300_000, (1, batch): 210_000}


def test_a_plain_row_pays_for_the_tiers_that_no_other_row_names() -> None:
    """`priority | m` takes the priority use; plain `m` takes the rest."""
    usage = {h: [Row("output", 10, "p", "m", tier) for tier in ("standard", "batch", "priority")] for h in (1, 2)}
    bill = [Row("output", 40, "p", "m"), Row("output", 50, "p", "m", "priority")]
    hours = value_day(usage, bill, NO_RATES).hours
    by_tier = Counter[str]()
    for (_, key), money in hours.items():
        by_tier[key.tier] += money
    assert by_tier == {"standard": 20, "batch": 20, "priority": 50}


def test_a_plain_row_pays_for_every_tier_when_all_are_named() -> None:
    """Where other rows name every tier there is, a plain row joins them."""
    usage = {1: [Row("output", 10, "p", "m", "priority")]}
    bill = [Row("output", 40, "p", "m"), Row("output", 50, "p", "m", "priority")]
    assert value_day(usage, bill, NO_RATES).hours == {(1, CostLabels("p", "m", "priority")): 90}


def test_a_tier_is_claimed_for_the_meter_it_is_billed_for() -> None:
    """A row with a tier and no known meter takes no use away from a plain row with a meter."""
    usage = {1: [Row("output", 10, "p", "m", "standard"), Row("output", 10, "p", "m", "priority")]}
    bill = [Row("output", 40, "p", "m"), Row("cost", 50, "p", "m", "priority", item="fee")]
    hours = value_day(usage, bill, NO_RATES).hours
    fee = CostLabels("p", "m", "priority", item="fee")
    assert hours == {(1, CostLabels("p", "m", "standard")): 20, (1, CostLabels("p", "m", "priority")): 20, (1, fee): 50}


def test_a_billed_tier_without_usage_is_attributed_to_the_nearest_tier() -> None:
    """Long context falls to its own tier, another tier to use without one, else to any."""
    tiers = {"m": ("standard", "flex", ""), "n": ("", "flex"), "o": ("flex",)}
    usage = {1: [Row("output", 10, "p", model, tier) for model, tier_names in tiers.items() for tier in tier_names]}
    bill = [
        Row("output", 5, "p", "m", "standard_long_context"),
        Row("output", 7, "p", "n", "priority"),
        Row("output", 9, "p", "o", "priority"),
    ]
    hours = value_day(usage, bill, NO_RATES).hours
    assert hours == {
        (1, CostLabels("p", "m", "standard")): 5,
        (1, CostLabels("p", "n")): 7,
        (1, CostLabels("p", "o", "flex")): 9,
    }


def test_a_dated_model_is_its_plain_name() -> None:
    """OpenAI bills `gpt-image-1` for `gpt-image-1-2025-04-23` and the reverse; the cost has the usage's model."""
    usage = {
        4: [Row("image_output", 10, "p", "gpt-image-1-2025-04-23")],
        5: [Row("image_output", 10, "p", "gpt-image-2"), Row("image_output", 10, "p", "gpt-image-1.5")],
    }
    bill = [
        Row("image_output", 8, "p", "GPT-Image-1", item="GPT-Image-1 image, output"),
        Row("image_output", 9, "p", "gpt-image-2-2026-04-21"),
    ]
    hours = value_day(usage, bill, NO_RATES).hours
    assert hours == {(4, CostLabels("p", "gpt-image-1-2025-04-23")): 8, (5, CostLabels("p", "gpt-image-2")): 9}


def test_an_exact_name_wins_over_a_similar_one() -> None:
    """Two snapshots of a model are each paid by their own row."""
    usage = {
        1: [Row("output", 10, "p", "m-2025-01-01"), Row("output", 10, "p", "m-2025-06-01"), Row("output", 10, "p", "m")]
    }
    hours = value_day(usage, [Row("output", 6, "p", "m-2025-06-01"), Row("output", 4, "p", "m")], NO_RATES).hours
    assert hours == {(1, CostLabels("p", "m-2025-06-01")): 6, (1, CostLabels("p", "m")): 4}


def test_searches_are_paid_by_a_row_without_a_model() -> None:
    """The cost of web searches is allocated to the models and hours that searched, and keeps its item."""
    usage = {
        1: [Row("web_searches", 1, "w", "m", "standard"), Row("output", 10**9, "w", "m", "standard")],
        2: [Row("web_searches", 2, "w", "n", "batch")],
    }
    hours = value_day(usage, [Row("web_searches", 30, "w", item="Web Search Usage")], SOME_RATES).hours
    item = "Web Search Usage"
    assert hours == {
        (1, CostLabels("w", "m", "standard", item=item)): 10,
        (2, CostLabels("w", "n", "batch", item=item)): 20,
    }


def test_an_unknown_item_of_a_model_follows_the_value_of_its_tokens() -> None:
    """Money for no known meter of a known model goes by what its tokens would cost, and keeps its item."""
    usage = {
        1: [Row("output", 10, "w", "m")],
        2: [Row("uncached_input", 450_000, "w", "m"), Row("web_searches", 5, "w", "m")],
        3: [Row("output", 9, "w", "n")],
    }
    hours = value_day(usage, [Row("cost", 100, "w", "m", item="m, surcharge")], SOME_RATES).hours
    key = CostLabels("w", "m", item="m, surcharge")
    assert hours == {(1, key): 50, (2, key): 50}


def test_an_unknown_item_of_a_model_without_a_price_follows_its_tokens() -> None:
    """Without any rate, costs are divided by tokens; the cost of a token meter has no item."""
    usage = {1: [Row("output", 10, "w", "x")], 2: [Row("cache_read", 30, "w", "x"), Row("web_searches", 30, "w", "x")]}
    hours = value_day(usage, [Row("cache_write", 100, "w", "x", item="x, cache writes")], NO_RATES).hours
    assert hours == {(1, CostLabels("w", "x")): 25, (2, CostLabels("w", "x")): 75}


def test_money_for_nothing_known_follows_its_workspace() -> None:
    """A row that pays for no usage is spread by the value of the workspace's hours, with its own model and item."""
    usage = {
        1: [Row("output", 10, "w", "m", api_key="k")],
        2: [Row("output", 30, "w", "m")],
        3: [Row("output", 10, "v", "m")],
    }
    hours = value_day(usage, [Row("seconds", 100, "w", "whisper", item="whisper")], SOME_RATES).hours
    key = CostLabels("w", "whisper", item="whisper")
    assert hours == {(1, key): 25, (2, key): 75}


def test_units_are_the_measure_where_there_is_no_other() -> None:
    """Money of a model or a workspace that used neither tokens nor anything with a price follows its units."""
    usage = {1: [Row("images", 1, "w", "dall-e")], 2: [Row("images", 3, "w", "dall-e")]}
    bill = [Row("image_output", 8, "w", "dall-e"), Row("cost", 12, "w", item="fee")]
    key, fee = CostLabels("w", "dall-e"), CostLabels("w", item="fee")
    assert value_day(usage, bill, NO_RATES).hours == {(1, key): 2, (2, key): 6, (1, fee): 3, (2, fee): 9}


def test_tokens_are_the_measure_of_a_workspace_without_a_price() -> None:
    """Money that no model explains goes by tokens, not by other units, where the workspace has no rates."""
    usage = {1: [Row("output", 10, "w", "x"), Row("bytes", 999, "w")], 2: [Row("output", 30, "w", "y")]}
    hours = value_day(usage, [Row("cost", 100, "w", item="fee")], NO_RATES).hours
    assert hours == {(1, CostLabels("w", item="fee")): 25, (2, CostLabels("w", item="fee")): 75}


def test_a_credit_is_taken_off_like_a_charge() -> None:
    """A negative row that pays for no usage lowers the hours in proportion to their value."""
    usage = {1: [Row("output", 10, "w", "m")], 2: [Row("output", 30, "w", "m")]}
    hours = value_day(usage, [Row("cost", -40, "w", item="credit"), Row("output", 80, "w", "m")], SOME_RATES).hours
    credit, key = CostLabels("w", item="credit"), CostLabels("w", "m")
    assert hours == {(1, key): 20, (2, key): 60, (1, credit): -10, (2, credit): -30}


def test_a_day_without_usage_is_spread_evenly() -> None:
    """Money of a workspace that used nothing goes to every hour up to the last."""
    bill = [Row("bytes", 24_000, "w", item="Vector storage")]
    key = CostLabels("w", item="Vector storage")
    assert value_day({}, bill, NO_RATES).hours == {(hour, key): 1000 for hour in range(24)}
    assert value_day({}, bill, NO_RATES, last_hour=3).hours == {(hour, key): 6000 for hour in range(4)}


def test_a_bill_without_rows_is_a_bill() -> None:
    """A day that was billed nothing costs nothing, whatever was used."""
    usage = {1: [Row("output", 10, "w", "m")]}
    assert value_day(usage, [], SOME_RATES) == DayValuation({}, billed=True, unpriced_tokens={})


def test_the_odd_nano_dollar_does_not_depend_on_the_order_of_reports() -> None:
    """Where shares do not come out even, hours and keys have theirs in their own order."""
    rows = [Row("output", 1, "w", "m", api_key=key) for key in ("a", "b")]
    usages = [{1: rows, 2: rows[:1]}, {2: rows[:1], 1: rows[::-1]}]
    values = [value_day(usage, [Row("output", 2, "w", "m")], NO_RATES).hours for usage in usages]
    assert (
        values[0]
        == values[1]
        == {(1, CostLabels("w", "m", api_key="a")): 0, (1, CostLabels("w", "m", api_key="b")): 1}
        | {(2, CostLabels("w", "m", api_key="a")): 1}
    )


def test_an_amount_of_any_size_is_cut_exactly() -> None:
    """Amounts far beyond a float's precision keep every nano-dollar."""
    assert apportion(10**30 + 1, [1, 1]) == [5 * 10**29, 5 * 10**29 + 1]
    assert apportion(-7, [1, 1]) == [-3, -4]


# --- properties -------------------------------------------------------------------------------------------------------


@no_deadline
@given(DAY_USAGE, BILL, RATES)
def test_the_hours_of_a_billed_day_sum_to_its_bill(usage: Usage, bill: list[Row], rates: RateTable) -> None:
    """In all, and for each workspace where every row states one, to the nano-dollar, credits included."""
    totals = Counter[str]()
    for (_, key), money in value_day(usage, bill, rates).hours.items():
        totals[key.workspace] += money
    assert totals.total() == _total(bill)
    if all(row.workspace for row in bill):
        for workspace in {row.workspace for row in bill} | set(totals):
            assert totals[workspace] == _total(row for row in bill if row.workspace == workspace)


def test_a_row_without_a_workspace_pays_for_usage_that_has_no_row_of_its_own() -> None:
    """OpenAI's costs without a project pay for projects without rows, in proportion to their usage."""
    usage = {
        1: [Row("output", 30, "w", "m"), Row("output", 10, "v", "m")],
        2: [Row("output", 99, "x", "m"), Row("output", 20, "v", "m")],
    }
    bill = [Row("output", 600, "", "m"), Row("output", 99, "x", "m")]
    value = value_day(usage, bill, SOME_RATES)
    assert value.hours == {
        (1, CostLabels("w", "m")): 300,
        (1, CostLabels("v", "m")): 100,
        (2, CostLabels("v", "m")): 200,
        (2, CostLabels("x", "m")): 99,
    }
    assert not value.bill_evidence.unattributed_costs


def test_a_row_without_a_workspace_first_pays_for_usage_without_one() -> None:
    """Anthropic's default workspace has no id: its rows pay for its own usage, whatever others lack."""
    usage = {1: [Row("output", 30, "", "m"), Row("output", 10, "v", "m")]}
    value = value_day(usage, [Row("output", 600, "", "m")], SOME_RATES)
    assert value.hours == {(1, CostLabels("", "m")): 600}


def test_a_row_without_a_workspace_that_fits_no_usage_is_unattributed() -> None:
    """A credit without a project belongs to none."""
    usage = {1: [Row("output", 30, "w", "m")]}
    bill = [Row("output", 600, "w", "m"), Row("output", 24, "", "n"), Row("cost", -48, item="credit")]
    totals = Counter[str]()
    for (_, key), money in value_day(usage, bill, SOME_RATES).hours.items():
        totals[key.workspace] += money
    assert totals == {"w": 600, "": 24 - 48}


@no_deadline
@given(DAY_USAGE, BILL, RATES, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(
    usage: Usage, bill: list[Row], rates: RateTable, chance: random.Random
) -> None:
    """The same rows in another order have the same value, open or billed."""
    shuffled = {hour: chance.sample(rows, len(rows)) for hour, rows in chance.sample([*usage.items()], len(usage))}
    assert value_day(shuffled, chance.sample(bill, len(bill)), rates) == value_day(usage, bill, rates)
    assert value_day(shuffled, None, rates) == value_day(usage, None, rates)


@no_deadline
@given(DAY_USAGE, CHARGES, RATES)
def test_a_bill_without_credits_has_no_negative_hour(usage: Usage, bill: list[Row], rates: RateTable) -> None:
    """Charges make charges."""
    assert all(money >= 0 for money in value_day(usage, bill, rates).hours.values())


@no_deadline
@given(DAY_USAGE, CHARGES, RATES)
def test_a_bill_that_is_credited_in_full_costs_nothing_in_any_hour(
    usage: Usage, bill: list[Row], rates: RateTable
) -> None:
    """A credit cancels its charge to the nano-USD in every hour."""
    credits_ = [row._replace(value=-row.value) for row in bill]
    assert _nonzero(value_day(usage, bill + credits_, rates)) == {}


@no_deadline
@given(DAY_USAGE, BILL, BILL_ROW, RATES)
def test_a_withdrawn_row_withdraws_its_money(usage: Usage, bill: list[Row], row: Row, rates: RateTable) -> None:
    """A bill that loses a row is lower by it; other workspaces are unchanged where every row states a workspace."""
    before, after = value_day(usage, [*bill, row], rates), value_day(usage, bill, rates)
    assert sum(before.hours.values()) - sum(after.hours.values()) == row.value

    def elsewhere(value: DayValuation) -> dict[tuple[int, CostLabels], int]:
        return {
            (hour, labels): nano_usd
            for (hour, labels), nano_usd in value.hours.items()
            if labels.workspace != row.workspace
        }

    if all(billed.workspace for billed in (*bill, row)):
        assert elsewhere(before) == elsewhere(after)


@no_deadline
@given(DAY_USAGE, BILL, RATES)
def test_valuing_a_day_twice_changes_nothing(usage: Usage, bill: list[Row], rates: RateTable) -> None:
    """A valuation depends on its arguments alone."""
    assert value_day(usage, bill, rates) == value_day(usage, bill, rates)


@no_deadline
@given(DAY_USAGE)
def test_every_token_of_an_open_day_is_priced_or_reported_as_unpriced(usage: Usage) -> None:
    """At one nano-USD per token of `m`, costs and unpriced tokens sum to all tokens."""
    value = value_day(usage, None, RateTable({("m", meter): 1 for meter in TOKEN_METERS}))
    tokens = Counter[str]()
    for rows in usage.values():
        for row in rows:
            tokens[row.model] += row.value if row.meter in TOKEN_METERS else 0
    assert sum(value.hours.values()) == tokens.pop("m", 0)
    assert value.unpriced_tokens == +tokens


@no_deadline
@given(st.integers(-(10**18), 10**18), st.lists(st.integers(0, 10**15), min_size=1).filter(any))
def test_a_share_is_less_than_one_from_its_proportion(amount: int, weights: Sequence[int]) -> None:
    """Shares sum to the amount, each next to its exact part; nothing goes where the weight is zero."""
    shares = apportion(amount, weights)
    assert sum(shares) == amount
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - Fraction(amount * weight, sum(weights))) < 1
        assert weight or not share
