"""The house rules that a machine can check: floors, file and function sizes, words kept in their places."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

MODULES = sorted((ROOT / "exporter").rglob("*.py"))
LAYERS: dict[str, int] = {
    "exporter": 0,
    "exporter.model": 0,
    "exporter.errors": 0,
    "exporter.windows": 0,
    "exporter.logs": 0,
    "exporter.ratelimit": 0,
    "exporter.config": 1,
    "exporter.ledger": 1,
    "exporter.analysis": 1,
    "exporter.providers.http": 1,
    "exporter.providers": 2,
    "exporter.pricing": 2,
    "exporter.polling": 3,
    "exporter.push": 4,
    "exporter.snapshot": 5,
    "exporter.metrics": 6,
    "exporter.history": 7,
    "exporter.ui": 7,
    "exporter.check": 7,
    "exporter.backtest": 8,
    "exporter.web": 8,
    "exporter.app": 9,
    "exporter.demo": 10,
    "exporter.cli": 11,
    "exporter.__main__": 12,
}
BASE_LAYERS = {
    "exporter.model": 0,
    "exporter": 0,
    "exporter.errors": 0.1,
    "exporter.windows": 0.1,
    "exporter.logs": 0.1,
    "exporter.backtest.rule_files": 0.1,
}


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _folder(module: str) -> str:
    while module not in LAYERS:
        module = module.rpartition(".")[0]
    return module


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "exporter":
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (
                one if (ROOT / one.replace(".", "/")).with_suffix(".py").exists() else str(node.module) for one in inner
            )
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "exporter")


@pytest.mark.parametrize("path", MODULES, ids=_module_name)
def test_a_module_imports_only_from_lower_layers(path: Path) -> None:
    """A module imports only from lower floors, or from its own room; the simulator imports the vocabulary at most."""
    module = _module_name(path)
    for imported in _imports(path):
        if module.startswith("exporter.simulator"):
            assert imported == "exporter.model" or imported.startswith("exporter.simulator"), imported
        elif imported.startswith("exporter.simulator"):
            assert _folder(module) == "exporter.demo", f"{module} imports the simulator"
        elif _folder(imported) != _folder(module):
            here, there = LAYERS[_folder(module)], LAYERS[_folder(imported)]
            ground = BASE_LAYERS.get(imported, 9) < BASE_LAYERS.get(module, 0)
            assert there < here or ground, f"{module} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=_module_name)
def test_every_module_has_a_docstring(path: Path) -> None:
    """Every module says what it is for."""
    assert ast.get_docstring(ast.parse(path.read_text()))


def _find_words(path: Path, *words: str) -> list[str]:
    text = path.read_text()
    return [word for word in words if word in text]


@pytest.mark.parametrize("path", MODULES, ids=_module_name)
def test_words_stay_in_their_folders(path: Path) -> None:
    """SQL stands only in the ledger, metric names only in their table, and the clock is read only at the top."""
    room = _module_name(path)
    if not room.startswith("exporter.ledger"):
        assert not _find_words(path, "SELECT ", "INSERT INTO", "DELETE FROM")
    if room != "exporter.metrics.families":
        assert not _find_words(path, '"ai_cost', '"ai_tokens', '"ai_account', '"ai_exporter')
    if room not in ("exporter.cli.command", "exporter.simulator.__main__"):
        assert not _find_words(path, "datetime.now(", "time.time(")


@pytest.mark.parametrize("path", MODULES, ids=_module_name)
def test_providers_are_named_only_in_their_folders(path: Path) -> None:
    """No string of the code names a provider outside providers/ and simulator/."""
    if _module_name(path).startswith(("exporter.providers", "exporter.simulator")):
        return
    tree = ast.parse(path.read_text())
    docs = {id(node.body[0].value) for node in ast.walk(tree) if _has_docstring(node)}  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            assert node.value.lower() not in ("openai", "anthropic", "cursor")


def _has_docstring(node: ast.AST) -> bool:
    body = getattr(node, "body", None)
    return isinstance(body, list) and bool(body) and isinstance(body[0], ast.Expr)
