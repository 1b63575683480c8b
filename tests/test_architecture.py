"""Rules of the code base that a program can check: layers, imports, places of SQL, metric names and the clock."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.paths import ROOT

MAX_TOP_LEVEL_MODULES = 8
"""Modules directly under exporter/: the others lie in a folder that names their subject."""
MODULES = sorted((ROOT / "exporter").rglob("*.py"))
"""Every module of the exporter."""
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
"""Folder or module -> its layer; a module imports only from lower layers and from its own folder."""
BASE_LAYERS = {
    "exporter.model": 0,
    "exporter": 0,
    "exporter.errors": 0.1,
    "exporter.windows": 0.1,
    "exporter.logs": 0.1,
    "exporter.backtest.rule_files": 0.1,
}
"""Modules that every layer may import -> their order among themselves."""


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _folder(module: str) -> str:
    while module not in LAYERS:
        module = module.rpartition(".")[0]
    return module


def _imports(path: Path, *, for_annotations: bool = True) -> Iterator[str]:
    """Yield the modules of the exporter that a file imports, with or without those for annotations only."""
    tree = ast.parse(path.read_text())
    skipped = set[ast.AST]()
    if not for_annotations:
        blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and _is_type_checking(node)]
        skipped = {inner for block in blocks for inner in ast.walk(block)}
    for node in set(ast.walk(tree)) - skipped:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "exporter":
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if _is_module(submodule) else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "exporter")


def _is_type_checking(block: ast.If) -> bool:
    return isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"


def _is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _third_party_imports(path: Path) -> Iterator[str]:
    """Yield the top-level names that a file imports from outside the standard library and this repository."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            package = name.split(".")[0]
            if package != "exporter" and package not in sys.stdlib_module_names:
                yield package


@pytest.mark.parametrize("path", MODULES, ids=_module_name)
def test_a_module_imports_only_from_lower_layers(path: Path) -> None:
    """A module imports only from lower layers or from its own folder; the simulator imports only the model."""
    module = _module_name(path)
    for imported in _imports(path):
        if module.startswith("exporter.simulator"):
            assert imported == "exporter.model" or imported.startswith("exporter.simulator"), imported
        elif imported.startswith("exporter.simulator"):
            assert _folder(module) == "exporter.demo", f"{module} imports the simulator"
        elif _folder(imported) != _folder(module):
            is_lower = LAYERS[_folder(imported)] < LAYERS[_folder(module)]
            is_base = BASE_LAYERS.get(imported, 9) < BASE_LAYERS.get(module, 0)
            assert is_lower or is_base, f"{module} imports {imported}"


def test_no_import_is_circular() -> None:
    """No module imports itself, directly or through others; imports for annotations only do not count."""
    graph = {_module_name(path): set(_imports(path, for_annotations=False)) for path in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these modules import each other: {' <- '.join(error.args[1])}")


def test_few_modules_lie_directly_under_the_package() -> None:
    """At most eight modules are in no folder."""
    top_level = sorted(path.name for path in MODULES if path.parent == ROOT / "exporter")
    assert len(top_level) <= MAX_TOP_LEVEL_MODULES, top_level


def test_every_third_party_import_is_declared() -> None:
    """The distribution of every imported package is among the dependencies of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [requirement for group in project["optional-dependencies"].values() for requirement in group]
    requirements = [*project["dependencies"], *extras]
    declared = {_normalize(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}
    distributions = packages_distributions()
    for path in MODULES:
        for package in _third_party_imports(path):
            candidates = {_normalize(name) for name in distributions.get(package, [package])}
            assert candidates & declared, (
                f"{_module_name(path)} imports {package}, which pyproject.toml does not declare"
            )


def _normalize(distribution: str) -> str:
    """Return a distribution's name as package indexes compare names."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize("path", MODULES, ids=_module_name)
def test_every_module_has_a_docstring(path: Path) -> None:
    """Every module has a docstring."""
    assert ast.get_docstring(ast.parse(path.read_text()))


def _find_words(path: Path, *words: str) -> list[str]:
    text = path.read_text()
    return [word for word in words if word in text]


@pytest.mark.parametrize("path", MODULES, ids=_module_name)
def test_words_stay_in_their_folders(path: Path) -> None:
    """SQL is only in the ledger, metric names only in their table, and only the command line reads the clock."""
    module = _module_name(path)
    if not module.startswith("exporter.ledger"):
        assert not _find_words(path, "SELECT ", "INSERT INTO", "DELETE FROM")
    if module != "exporter.metrics.families":
        assert not _find_words(path, '"ai_cost', '"ai_tokens', '"ai_account', '"ai_exporter')
    if module not in ("exporter.cli.command", "exporter.simulator.__main__"):
        assert not _find_words(path, "datetime.now(", "time.time(")


@pytest.mark.parametrize("path", MODULES, ids=_module_name)
def test_providers_are_named_only_in_their_folders(path: Path) -> None:
    """No string in the code is a provider's name outside providers/ and simulator/."""
    if _module_name(path).startswith(("exporter.providers", "exporter.simulator")):
        return
    tree = ast.parse(path.read_text())
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if _has_docstring(node)}  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            assert node.value.lower() not in ("openai", "anthropic", "cursor")


def _has_docstring(node: ast.AST) -> bool:
    body = getattr(node, "body", None)
    return isinstance(body, list) and bool(body) and isinstance(body[0], ast.Expr)
