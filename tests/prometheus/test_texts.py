"""The texts of every alert are those that were reviewed: `make golden` updates them."""

from __future__ import annotations

import re

import pytest

from tests.prometheus.test_rules import ALERTS, TESTS
from tests.prometheus.texts import GOLDEN_FOLDER, render_golden, rewrite_expectations


@pytest.fixture(name="expectations", scope="module", autouse=True)
def _update_expectations(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--write-golden"):
        for path in TESTS:
            rewrite_expectations(path)


@pytest.mark.parametrize("name", ALERTS)
def test_the_texts_are_those_that_were_reviewed(name: str, request: pytest.FixtureRequest) -> None:
    """The golden file of an alert shows every text that the rule tests expect, in which the alert fires."""
    path = GOLDEN_FOLDER / f"{name}.txt"
    text = render_golden(name, TESTS)
    if request.config.getoption("--write-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text, "make golden updates the file; review the difference"


def test_every_golden_file_belongs_to_an_alert() -> None:
    """There is no golden file of an alert that does not exist."""
    assert {path.stem for path in GOLDEN_FOLDER.glob("*.txt")} == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_a_text_says_since_when_and_what_to_do(name: str) -> None:
    """Each alert has a text with a time in UTC and its age, one next step, and no time in another format."""
    text = (GOLDEN_FOLDER / f"{name}.txt").read_text()
    assert re.search(r"(Since|since|Last success:|Complete until) \d{4}-\d\d-\d\d \d\d:\d\d UTC \(\d+[dhm]", text)
    assert not re.search(r"\+0000|\d{9}", text)
    for block in text.split("\n\n"):
        assert len(re.findall(r"^Next: ", block, re.MULTILINE)) == 1
        assert block.splitlines()[-2].startswith("https://")
        assert "no value" not in block
        assert "<" not in block


@pytest.mark.parametrize("name", ALERTS)
def test_the_dashboard_link_has_the_labels_of_the_subject(name: str) -> None:
    """The link carries the account and the workspace, or the budget, where the alert has them."""
    url = ALERTS[name]["annotations"]["dashboard_url"]
    description = ALERTS[name]["annotations"]["description"]
    for label in ("account", "workspace", "budget"):
        if f"$labels.{label} }}}}" in description or f"with $labels.{label} }}}}" in description:
            assert f"var-{label}={{{{ $labels.{label} | urlquery }}}}" in url
