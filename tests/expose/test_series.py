"""Names put on ids, and small series folded without losing a cent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.expose.series import OTHER, Combination, combination, fold, unique_names

combinations = st.tuples(st.sampled_from("abcd"), st.sampled_from("mnopq"), st.sampled_from(["", "batch"]), st.just(""))


@given(st.dictionaries(combinations, st.integers(0, 10**12)), st.integers(1, 20))
def test_folding_keeps_every_sum_and_the_largest_names(cost: dict[Combination, int], limit: int) -> None:
    """Whatever is folded, the total stays, the largest keep their labels, and what is shown is bounded."""
    folding = fold(cost, limit)
    shown: dict[Combination, int] = {}
    for one, value in cost.items():
        shown[folding.place(one)] = shown.get(folding.place(one), 0) + value

    assert sum(shown.values()) == sum(cost.values())
    assert len(shown) <= 2 * limit
    assert folding.folded == max(0, len(cost) - limit)
    largest = sorted(cost, key=lambda one: (-cost[one], one))[:limit]
    assert all(folding.place(one) == one for one in largest)


def test_the_rest_stays_with_its_workspace_where_that_is_bounded() -> None:
    """Folded series keep their workspace, so a workspace's sum stays what it is."""
    cost = {("a", "m", "", ""): 9, ("a", "n", "", ""): 2, ("b", "m", "", ""): 1}
    folding = fold(cost, 2)
    assert folding.place(("b", "m", "", "")) == ("b", OTHER, "", "")


def test_workspaces_of_one_name_stay_apart() -> None:
    """Two workspaces of one name get the tails of their ids; a workspace without a name shows its id."""
    names = {"proj_aaa111": "web", "proj_bbb222": "web", "": "default"}
    assert unique_names(names, ["proj_aaa111", "proj_bbb222", "proj_ccc333", ""]) == {
        "proj_aaa111": "web (aaa111)",
        "proj_bbb222": "web (bbb222)",
        "proj_ccc333": "proj_ccc333",
        "": "default",
    }


def test_money_without_a_model_is_shown_under_its_item() -> None:
    """A bill row that no model explains is shown under the provider's own words for it."""
    assert combination(("cost", "w", "", "", "", "web search tool calls")) == ("w", "web search tool calls", "", "")
