"""The documents agree with the code: metrics, flags, keys, reports, links, queries and YAML; nothing is missing."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from exporter.cli import main
from exporter.config.configuration import load
from exporter.metrics.families import ACCOUNT_LABELS, FAMILIES, SPEND_LABELS
from exporter.providers import PROVIDERS
from tests.docs.documents import (
    DOCUMENTS,
    LINKED_DOCUMENTS,
    read_anchors,
    read_blocks,
    read_links,
    read_table,
    relative_path,
)
from tests.paths import ROOT
from tests.test_architecture import LAYERS

README = ROOT / "README.md"
ARCHITECTURE_DOC = ROOT / "docs" / "architecture.md"
DEVELOPMENT_DOC = ROOT / "docs" / "development.md"
METRICS_DOC = ROOT / "docs" / "metrics.md"
CONFIGURATION_DOC = ROOT / "docs" / "configuration.md"
MAX_README_LINES = 200

METRIC_SECTIONS = (
    "Spend and usage",
    "Daily cost",
    "Signals",
    "Budgets",
    "Accounts",
    "The exporter",
    "Pushed events",
    "Served history",
)
LABEL_SETS = {"spend": SPEND_LABELS, "account": ACCOUNT_LABELS, "none": ()}
"""Short names of label sets in the tables of metrics."""
UNIT_SUFFIXES = {
    "USD": "_usd",
    "Unix time": "_timestamp_seconds",
    "seconds": "_seconds",
    "bytes": "_bytes",
    "polls": "_total",
    "events": "_total",
    "errors": "_total",
}
"""Unit -> the suffix of names with this unit, `_total` of a counter aside."""


def test_the_readme_is_short() -> None:
    """Reference material belongs into docs/."""
    assert len(README.read_text().splitlines()) <= MAX_README_LINES


def test_the_readme_links_every_document() -> None:
    """The README's table of documents has all of docs/."""
    linked = {target.partition("#")[0] for target in read_links(README)}
    assert {relative_path(path) for path in DOCUMENTS if path != README} <= linked


def _metric_rows() -> dict[str, list[str]]:
    """Return metric -> type, unit, labels and meaning."""
    rows = [row for section in METRIC_SECTIONS for row in read_table(METRICS_DOC, section)]
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0].strip("`"): row[1:] for row in rows}


def _expand_labels(cell: str) -> tuple[str, ...]:
    """Return the labels of a cell such as "spend, `type`"."""
    labels: list[str] = []
    for part in cell.split(", "):
        labels += [part.strip("`")] if part.startswith("`") else LABEL_SETS[part]
    return tuple(labels)


def test_every_metric_is_documented_and_no_other() -> None:
    """The tables of docs/metrics.md have every family with its type and labels."""
    documented = {name: (row[0], _expand_labels(row[2])) for name, row in _metric_rows().items()}
    assert documented == {family.name: (family.type, family.labels) for family in FAMILIES}


def test_units_of_metrics_agree_with_their_names() -> None:
    """A metric whose unit has a suffix ends in it, apart from the window."""
    for name, (kind, unit, _labels, meaning) in _metric_rows().items():
        assert meaning
        base = name.removesuffix("_total") if kind == "counter" and unit == "USD" else name
        if unit in UNIT_SUFFIXES:
            assert base.endswith(UNIT_SUFFIXES[unit]), f"{name}: {unit}"
        if unit in ("tokens", "requests", "series"):
            assert f"_{unit}" in name, f"{name}: {unit}"
        assert (kind == "counter") == name.endswith("_total")


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative_path)
def test_every_metric_that_is_mentioned_exists(document: Path) -> None:
    """No document names a metric that there is not; the changelog also names previous ones."""
    text = document.read_text()
    # The table of renamed metrics is part of a list and therefore indented.
    previous = set(re.findall(r"^  \| `(ai_\w+)` \|", text, re.MULTILINE))
    mentioned = set(re.findall(r"`(ai_[a-z0-9_]+)[`{]", text))
    assert mentioned - previous <= {family.name for family in FAMILIES}


def test_every_flag_of_run_is_documented_with_its_default() -> None:
    """The table of flags has every flag of `run` and no other."""
    rows = {row[0].strip("`"): row[1].strip("`") for row in read_table(CONFIGURATION_DOC, "Flags")}
    run = main.get_command(click.Context(main), "run")
    assert run is not None
    defaults = {}
    for option in run.params:
        assert isinstance(option, click.Option)
        assert option.help
        has_default = isinstance(option.default, str | int) and not option.is_flag
        defaults[option.opts[0]] = str(option.default) if has_default else "off"
    assert rows == defaults


def test_every_command_is_documented() -> None:
    """The documentation of the command line names every command."""
    text = CONFIGURATION_DOC.read_text()
    for name in main.list_commands(click.Context(main)):
        assert f"`{name}`" in text, name


def test_every_report_of_every_provider_is_documented() -> None:
    """The table of polled reports has every report of every provider."""
    cells = " ".join(" ".join(row) for row in read_table(CONFIGURATION_DOC, "What is polled"))
    for name, provider in PROVIDERS.items():
        assert f"`{name}`" in cells
        for report in provider.reports:
            assert f"`{report.name}`" in cells, report.name


SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "config.schema.json").read_text())


def _resolve(node: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, and a list to its items."""
    node = node.get("items", node)
    name = node.get("$ref", "").rpartition("/")[2]
    return _resolve(SCHEMA["$defs"][name]) if name else node


def _schema_at(*path: str) -> dict[str, Any]:
    node = SCHEMA
    for key in path:
        node = _resolve(node["properties"][key])
    return node


@pytest.mark.parametrize(
    ("heading", "path"),
    [
        ("Top level", ()),
        ("defaults", ("defaults",)),
        ("accounts", ("accounts",)),
        ("prices", ("accounts", "prices")),
        ("budgets", ("budgets",)),
        ("match", ("budgets", "match")),
        ("alerts of an account", ("accounts", "alerts")),
        ("alerts of a budget", ("budgets", "alerts")),
        ("ingest", ("ingest",)),
        ("sources", ("ingest", "sources")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_configuration_key_is_documented(heading: str, path: tuple[str, ...]) -> None:
    """Each section has a table with every key, its default and whether it is required."""
    schema = _schema_at(*path)
    rows = {row[0].strip("`"): row[2].strip("`") for row in read_table(CONFIGURATION_DOC, heading)}
    assert set(rows) == set(schema["properties"])
    for key, default in rows.items():
        assert (default == "required") == (key in schema.get("required", ())), key
        expected = schema["properties"][key].get("default")
        assert expected is None or default in (str(expected), "from `defaults"), key


def test_the_example_configuration_loads() -> None:
    """config.example.yaml is a valid configuration that shows every provider."""
    config = load(ROOT / "config.example.yaml", PROVIDERS)
    assert {account.provider for account in config.accounts} == set(PROVIDERS)
    assert config.accounts[0].poll_interval == timedelta(minutes=5)


def _yaml_blocks(key: str) -> list[Any]:
    """Return the YAML blocks that have a top-level key."""
    return [
        pytest.param(block, id=f"{relative_path(path)}-{number}")
        for path in DOCUMENTS
        if path.name != "providers.md"  # its example names the plug-in that it explains how to write
        for number, block in enumerate(read_blocks(path, "yaml"))
        if isinstance(yaml.safe_load(block), dict) and key in yaml.safe_load(block)
    ]


@pytest.mark.parametrize("block", [block for key in SCHEMA["properties"] for block in _yaml_blocks(key)])
def test_every_configuration_in_the_documents_is_valid(block: str, tmp_path: Path) -> None:
    """Examples of the configuration load as they are; an account is added where an example has none."""
    document = {"accounts": [{"name": "acme", "provider": "openai", "api_key_file": "key"}]} | yaml.safe_load(block)
    watched = {source.get("crosscheck_of") for source in document.get("ingest", {}).get("sources", [])}
    known = {account["name"] for account in document["accounts"]}
    document["accounts"] += [
        {"name": name, "provider": "openai", "api_key_file": f"key-{name}"} for name in watched - known - {None}
    ]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    load(path, PROVIDERS)


@pytest.mark.parametrize("block", [*_yaml_blocks("scrape_configs"), *_yaml_blocks("remote_read")])
def test_every_prometheus_configuration_in_the_documents_is_valid(block: str, tmp_path: Path) -> None:
    """Prometheus accepts the examples of its configuration."""
    path = tmp_path / "prometheus.yml"
    path.write_text(block)
    command = ["promtool", "check", "config", "--syntax-only", str(path)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_folder_is_described() -> None:
    """The table of folders has every folder and every module of the package's top level."""
    described = {name for row in read_table(ARCHITECTURE_DOC, "Folders") for name in re.findall("`([^`]+)`", row[0])}
    package = ROOT / "exporter"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    modules = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert described == folders | modules


def test_the_dependency_order_is_the_one_that_is_enforced() -> None:
    """The list of folders in docs/architecture.md has one line per layer, highest first."""
    (block,) = read_blocks(ARCHITECTURE_DOC, "text")
    lines = [[f"exporter.{name.replace('/', '.')}" for name in line.split(", ")] for line in block.splitlines()]
    layers = [{LAYERS[name] for name in line} for line in lines]
    assert [sorted(layer) for layer in layers] == [[number] for number in reversed(range(len(lines)))]
    assert {name for line in lines for name in line} == LAYERS.keys() - {"exporter", "exporter.__main__"}


@pytest.mark.parametrize("document", [ARCHITECTURE_DOC, DEVELOPMENT_DOC], ids=relative_path)
def test_every_path_that_is_mentioned_exists(document: Path) -> None:
    """Files and folders are named from the root of the repository or of the package."""
    paths = re.findall(r"`([\w.-]+/[\w./-]*)`", document.read_text())
    missing = [path for path in paths if not (ROOT / path).exists() and not (ROOT / "exporter" / path).exists()]
    assert len(paths) > 10
    assert not missing


def test_every_make_target_is_documented() -> None:
    """The table of targets has every target of the Makefile that has a description."""
    described = {row[0].strip("`") for row in read_table(DEVELOPMENT_DOC, "Make targets")}
    targets = re.findall(r"^([\w-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert described == {f"make {target}" for target in targets}


@pytest.mark.parametrize(
    ("document", "target"),
    [(relative_path(path), target) for path in LINKED_DOCUMENTS for target in read_links(path)],
)
def test_every_relative_link_resolves(document: str, target: str) -> None:
    """A relative link names a file that exists and, in a document, a heading that exists."""
    name, _, anchor = target.partition("#")
    source = ROOT / document
    path = source.parent / name if name else source
    assert path.exists()
    if anchor:
        assert anchor in read_anchors(path)


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if read_blocks(path, "promql")], ids=relative_path)
def test_every_documented_query_is_valid(document: Path, tmp_path: Path) -> None:
    """Prometheus parses every line of PromQL in the documents, and all of their metrics exist."""
    lines = [line for block in read_blocks(document, "promql") for line in block.splitlines()]
    queries = [line.replace("$__range", "7d") for line in lines]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    checked = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    exported = r"(?<![:\w])ai_[a-z0-9_]+\b(?!:)"  # a name with colons is recorded by a rule
    names = {name for query in queries for name in re.findall(exported, query)}
    assert names <= {family.name for family in FAMILIES}


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "images").iterdir()), ids=relative_path)
def test_pictures_are_small(picture: Path) -> None:
    """A picture is a PNG of at most 300 kB that a document shows."""
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")
    assert picture.stat().st_size <= 300_000
    assert any(picture.name in path.read_text() for path in DOCUMENTS)
