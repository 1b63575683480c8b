"""Names put on ids, and small series folded without losing a cent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.model import RowLabels
from exporter.snapshot.labels import OTHER, LabelMapper, SpendLabels, aggregate, to_spend_labels, unique_names

spend_labels = st.builds(
    SpendLabels, st.sampled_from("abcd"), st.sampled_from("mnopq"), st.sampled_from(["", "batch"]), st.just("")
)


@given(st.dictionaries(spend_labels, st.integers(0, 10**12)), st.sets(spend_labels, max_size=30), st.integers(1, 20))
def test_aggregation_keeps_every_sum_and_the_largest_names(
    cost: dict[SpendLabels, int], known: set[SpendLabels], limit: int
) -> None:
    """Aggregation keeps the total and the labels of the largest series, and bounds the number of series."""
    places = LabelMapper.build(cost, known, {}, limit)
    shown: dict[SpendLabels, int] = {}
    for one, value in cost.items():
        place = places.remap(RowLabels("cost", *one))
        shown[place] = shown.get(place, 0) + value

    assert sum(shown.values()) == sum(cost.values())
    assert len({places.remap(RowLabels("cost", *labels)) for labels in known | cost.keys()}) <= 2 * limit
    assert places.aggregated_series == max(0, len(cost) - limit)
    largest = sorted(cost, key=lambda labels: (-cost[labels], labels))[:limit]
    assert all(places.remap(RowLabels("cost", *labels)) == labels for labels in largest)


def test_aggregated_series_keep_their_workspace_where_bounded() -> None:
    """Aggregated series keep their workspace, so a workspace's sum is unchanged."""
    cost = {SpendLabels("a", "m", "", ""): 9, SpendLabels("a", "n", "", ""): 2, SpendLabels("b", "m", "", ""): 1}
    assert aggregate(cost, 2) == {SpendLabels("b", "m", "", ""): ("b", OTHER, "", "")}


def test_inactive_series_are_aggregated_first() -> None:
    """An idle workspace of an active one's name gets its id's tail; idle series are aggregated first."""
    names = {"proj_old111": "web", "proj_new222": "web", "proj_ccc333": "lab"}
    active_series = {SpendLabels("proj_new222", "m", "", ""): 1}
    places = LabelMapper.build(
        active_series, {SpendLabels("proj_old111", "m", "", ""), SpendLabels("proj_ccc333", "m", "", "")}, names, 2
    )
    assert places.label_values(SpendLabels("proj_new222", "m", "", "")) == ("web", "m", "", "")
    assert places.label_values(SpendLabels("proj_old111", "m", "", "")) == ("web (old111)", "m", "", "")
    assert places.label_values(SpendLabels("proj_ccc333", "m", "", "")) == ("lab", "m", "", "")
    assert places.remap(RowLabels("cost", "proj_old111", "m", "", "", "")) == ("proj_old111", OTHER, "", "")
    assert places.aggregated_series == 0


def test_a_key_without_an_id_is_not_called_as_the_default_workspace() -> None:
    """The empty id is the default workspace's; where no API key is reported, none is shown."""
    places = LabelMapper.build({SpendLabels("", "m", "", ""): 1}, (), {"": "default"}, 9)
    assert places.label_values(SpendLabels("", "m", "", "")) == ("default", "m", "", "")


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
    assert to_spend_labels(RowLabels("cost", "w", "", "", "", "web search tool calls")) == (
        "w",
        "web search tool calls",
        "",
        "",
    )
