"""The README says what there is: every metric, every flag, every report, and nothing that is not."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import click
import pytest

from exporter.cli import main
from exporter.expose.metrics import FAMILIES
from exporter.providers import PROVIDERS
from exporter.settings.config import load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_metric_is_in_the_readme_and_no_other() -> None:
    """The table of metrics holds the families that are exposed, by their whole names."""
    assert set(re.findall(r"`(ai_[a-z0-9_]+)`", README)) == {family.name for family in FAMILIES}


def test_every_flag_of_run_is_in_the_readme_with_its_default() -> None:
    """A flag that is added or changes its default changes the README."""
    run = main.commands["run"]
    for option in run.params:
        assert isinstance(option, click.Option)
        row = next((line for line in README.splitlines() if line.startswith(f"| `{option.opts[0]}` |")), "")
        default = "off" if option.is_flag else str(option.default)
        assert default in row, f"{option.opts[0]} | {default}"
        assert option.help


def test_every_report_of_every_provider_is_in_the_readme() -> None:
    """What is asked of a provider is told before a key is handed over."""
    for name, kind in PROVIDERS.items():
        assert name in README.lower()
        for report in kind.reports:
            assert f"`{report.name}`" in README, report.name


def test_the_example_configuration_loads() -> None:
    """config.example.yaml is a good configuration that shows every provider."""
    config = load(ROOT / "config.example.yaml", PROVIDERS)
    assert {account.provider for account in config.accounts} == set(PROVIDERS)
    assert config.accounts[0].poll_interval == timedelta(minutes=5)


def test_the_readme_tells_the_measured_errors() -> None:
    """The README's table of estimates is that of docs/estimates.md, which a test compares with what is measured."""
    measured = [_cells(line) for line in (ROOT / "docs" / "estimates.md").read_text().splitlines()]
    told = {tuple(_cells(line)) for line in README.splitlines()}
    rows = [(cells[0], *cells[3:]) for cells in measured if len(cells) == 6 and cells[0] not in ("situation", "---")]
    assert len(rows) > 15
    assert set(rows) <= told


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_every_link_into_the_repository_leads_somewhere(target: str) -> None:
    """A relative link names a file that is here."""
    assert (ROOT / target).exists()
