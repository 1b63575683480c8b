"""The README says what there is: every metric, every flag, every report, and nothing that is not."""

from __future__ import annotations

import re
import subprocess
from datetime import timedelta
from pathlib import Path

import click
import pytest
import yaml

from exporter.cli import main
from exporter.config.configuration import load
from exporter.metrics.families import FAMILIES
from exporter.providers import PROVIDERS
from tests.paths import ROOT

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
        default = str(option.default) if isinstance(option.default, str | int) and not option.is_flag else "off"
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


def test_the_readme_lists_the_measured_errors() -> None:
    """The README's table of estimates is that of docs/estimates.md, which a test compares with what is measured."""
    measured = [_cells(line) for line in (ROOT / "docs" / "estimates.md").read_text().splitlines()]
    told = {tuple(_cells(line)) for line in README.splitlines()}
    rows = [(cells[0], *cells[3:]) for cells in measured if len(cells) == 6 and cells[0] not in ("situation", "---")]
    assert len(rows) > 15
    assert set(rows) <= told


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("document", "target"),
    [
        (path.relative_to(ROOT), target)
        for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", path.read_text())
    ],
)
def test_every_link_into_the_repository_leads_somewhere(document: Path, target: str) -> None:
    """A relative link names a file that is here."""
    assert ((ROOT / document).parent / target).exists()


@pytest.mark.parametrize("document", ["README.md", "docs/history.md"])
def test_every_documented_query_is_valid(document: str, tmp_path: Path) -> None:
    """Every line of PromQL in the documents is understood by Prometheus and names metrics that there are."""
    blocks = re.findall(r"```promql\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    queries = [line.replace("$__range", "7d") for block in blocks for line in block.splitlines()]
    assert len(queries) >= 4
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    checked = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    told = {name for query in queries for name in re.findall(r"\bai_[a-z0-9_]+", query)}
    assert told <= {family.name for family in FAMILIES}
