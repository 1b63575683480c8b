"""Mutates every rule, and runs the rule tests that concern it: `python -m tests.prometheus.mutants [FRAGMENT]`.

A mutant dies when a test fails. Survivors have to be equivalent to the rule, and are listed with the reason in
prometheus/tests/equivalent/mutants.yml. `make mutants` runs all of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from exporter.config.durations import format_duration, parse_duration
from tests.paths import ROOT
from tests.prometheus.promql import Node, Token, parse

RULES_FOLDER = ROOT / "prometheus" / "rules"
TESTS_FOLDER = ROOT / "prometheus" / "tests"
EQUIVALENT_FILE = TESTS_FOLDER / "equivalent" / "mutants.yml"

_FLIPPED = {">": "<", "<": ">", ">=": "<=", "<=": ">=", "==": "!=", "!=": "=="}
_EDGE = {">": ">=", "<": "<=", ">=": ">", "<=": "<"}
_ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*"}
_AGGREGATIONS = {
    "sum": ("avg", "max", "min"),
    "max": ("min", "sum"),
    "min": ("max", "sum"),
    "group": ("count",),
    "topk": ("bottomk",),
}
_FUNCTIONS = {
    "max_over_time": "min_over_time",
    "min_over_time": "max_over_time",
    "last_over_time": "sum_over_time",
    "increase": "rate",
    "abs": "-",
}
_NEGATED = {"=": "!=", "!=": "=", "=~": "!~", "!~": "=~"}

Rule = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A rule with one change."""

    rule: str
    """The name of the rule; of several with that name, with its labels."""
    kind: str
    change: str
    """The change in words; unique for the rule."""
    index: int
    """The place of the rule among all rules."""
    mutated: Rule


@dataclass(frozen=True, slots=True)
class Result:
    """Whether a mutant survived; `valid` is false where promtool does not accept it."""

    mutant: Mutant
    survived: bool
    valid: bool = True
    output: str = ""
    """promtool's, of the test that failed."""


def load_rules() -> list[dict[str, Any]]:
    """Return all rules in the order of files and groups."""
    return [
        rule
        for path in sorted(RULES_FOLDER.glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def rule_name(rule: Rule) -> str:
    """Return the name of a rule, with its labels if it is a recording rule with labels."""
    if "alert" in rule:
        return str(rule["alert"])
    labels = ",".join(f"{name}={value}" for name, value in rule.get("labels", {}).items())
    return f"{rule['record']}{{{labels}}}" if labels else str(rule["record"])


def find_mutants(rules: Sequence[Rule]) -> list[Mutant]:
    """Return every mutant of every rule."""
    found = []
    for index, rule in enumerate(rules):
        changes = Counter[str]()
        for kind, change, mutated in _mutate_rule(rule):
            # Several places of a rule may have the same change.
            changes[change] += 1
            number = f" ({changes[change]})" if changes[change] > 1 else ""
            found.append(Mutant(rule_name(rule), kind, change + number, index, mutated))
    return found


def _mutate_rule(rule: Rule) -> Iterator[tuple[str, str, Rule]]:
    for key in ("for", "keep_firing_for"):
        if key in rule:
            without = {name: value for name, value in rule.items() if name != key}
            yield "duration", f"{key} removed", without
            yield "duration", f"{key} doubled", {**rule, key: _scale_duration(str(rule[key]), 2)}
    text = str(rule["expr"])
    tree = parse(text)
    for kind, change, start, end, replacement in _mutate_tree(tree, text):
        yield kind, change, {**rule, "expr": text[:start] + replacement + text[end:]}


_Change = tuple[str, str, int, int, str]
"""Kind, description, start and end of the replaced text, and its replacement."""


def _mutate_tree(tree: Node, text: str) -> Iterator[_Change]:
    counts = {id(node.children[0]) for node in tree.walk() if node.token and node.token.text == "topk"}
    for node in tree.walk():
        match node.kind:
            case "binary":
                yield from _mutate_binary(node, text)
            case "aggregation":
                yield from _mutate_aggregation(node)
            case "call":
                yield from _mutate_call(node, text)
            case "selector":
                yield from _mutate_selector(node)
            case "number":
                yield from _mutate_number(node, is_count=id(node) in counts)


def _mutate_number(node: Node, *, is_count: bool) -> Iterator[_Change]:
    assert node.token is not None
    value = float(node.token.text)
    if is_count:
        changed = [("plus 1", value + 1), ("minus 1", value - 1)]
    elif value:
        changed = [("x0.8", value * 0.8), ("x1.2", value * 1.2), ("x2", value * 2), ("/2", value / 2)]
    else:
        changed = [("plus 0.5", 0.5), ("minus 0.5", -0.5)]
    for name, number in changed:
        yield "number", f"{node.token.text} {name}", node.start, node.end, f"{number:.12g}"


def _mutate_binary(node: Node, text: str) -> Iterator[_Change]:
    assert node.token is not None
    operator, (left, right) = node.token, node.children
    near = _excerpt(text, right)
    if operator.text in _FLIPPED:
        yield "comparison", f"{operator.text} flipped before {near}", *_replace(operator, _FLIPPED[operator.text])
    if operator.text in _EDGE:
        yield "comparison", f"edge of {operator.text} before {near}", *_replace(operator, _EDGE[operator.text])
    if operator.text in _ARITHMETIC:
        replacement = _ARITHMETIC[operator.text]
        yield "arithmetic", f"{operator.text} to {replacement} before {near}", *_replace(operator, replacement)
    if operator.text in ("and", "or", "unless"):
        yield "clause", f"{operator.text} {near} removed", left.end, node.end, ""
        if operator.text == "or":
            yield "clause", f"removed before or {near}", node.start, right.start, ""
        else:
            other = "unless" if operator.text == "and" else "and"
            yield "clause", f"{operator.text} to {other} before {near}", *_replace(operator, other)
    for label in node.labels:
        yield "matching", f"{label.text} dropped from matching before {near}", *_drop(label, node.labels)


def _mutate_aggregation(node: Node) -> Iterator[_Change]:
    assert node.token is not None
    for other in _AGGREGATIONS[node.token.text]:
        yield "aggregation", f"{node.token.text} to {other}", *_replace(node.token, other)
    for label in node.labels:
        yield "aggregation", f"{label.text} dropped from {node.token.text} by", *_drop(label, node.labels)


def _mutate_call(node: Node, text: str) -> Iterator[_Change]:
    assert node.token is not None
    if node.token.text in _FUNCTIONS:
        other = _FUNCTIONS[node.token.text]
        yield (
            "function",
            f"{node.token.text} to {other} of {_excerpt(text, node.children[0])}",
            *_replace(node.token, other),
        )


def _mutate_selector(node: Node) -> Iterator[_Change]:
    for matcher in node.matchers:
        label, operator, value = matcher
        written = f"{label.text}{operator.text}{value.text}"
        starts, ends = [item[0] for item in node.matchers], [item[2] for item in node.matchers]
        place = node.matchers.index(matcher)
        start = starts[place].start if place == 0 else ends[place - 1].end
        end = starts[1].start if place == 0 and len(starts) > 1 else ends[place].end
        yield "matcher", f"{written} dropped", start, end, ""
        yield "matcher", f"{written} negated", *_replace(operator, _NEGATED[operator.text])
    if node.range is not None:
        assert node.token is not None
        for name, factor in (("doubled", 2), ("halved", 0.5)):
            # A subquery has a resolution after the colon.
            window, colon, resolution = node.range.text[1:-1].partition(":")
            scaled = f"[{_scale_duration(window, factor)}{colon}{resolution}]"
            yield "window", f"{node.token.text}{node.range.text} {name}", *_replace(node.range, scaled)


def _replace(token: Token, replacement: str) -> tuple[int, int, str]:
    return token.start, token.end, replacement


def _drop(label: Token, labels: Sequence[Token]) -> tuple[int, int, str]:
    """Return the change that removes a label with its comma."""
    place = labels.index(label)
    if place:
        return labels[place - 1].end, label.end, ""
    return label.start, labels[1].start if len(labels) > 1 else label.end, ""


def _excerpt(text: str, node: Node) -> str:
    plain = " ".join(text[node.start : node.end].split())
    return plain if len(plain) <= 60 else f"{plain[:57]}..."


def _scale_duration(text: str, factor: float) -> str:
    duration = parse_duration(text)
    assert duration is not None
    return format_duration(duration * factor)


class RuleTests:
    """The tests of prometheus/tests, each with the rules that it concerns."""

    def __init__(self, rules: Sequence[Rule], promtool: Path = Path("promtool")) -> None:
        self._rules = rules
        self._promtool = promtool
        self._by_name: dict[str, list[int]] = {}
        for index, rule in enumerate(rules):
            self._by_name.setdefault(rule.get("alert", rule.get("record", "")), []).append(index)
        self._names = re.compile(rf"(?<![\w:])(?:{'|'.join(map(re.escape, self._by_name))})(?![\w:])")
        self._tests: list[tuple[frozenset[int], dict[str, Any], dict[str, Any]]] = []
        for path in sorted(TESTS_FOLDER.glob("*.yml")):
            document = yaml.safe_load(path.read_text())
            for test in document["tests"]:
                concerned = self._concerned_rules(test)
                if concerned:
                    self._tests.append((concerned, test, document))

    def _concerned_rules(self, test: Mapping[str, Any]) -> frozenset[int]:
        """Return the rules that a test evaluates; none where it evaluates all, such as all firing alerts."""
        if "alert_rule_test" in test:
            return frozenset()
        found: set[int] = set()
        for case in test["promql_expr_test"]:
            found |= self._mentioned_rules(case["expr"])
        while True:
            more = found | {other for index in found for other in self._mentioned_rules(self._rules[index]["expr"])}
            if more == found:
                return frozenset(found)
            found = more

    def _mentioned_rules(self, expr: str) -> set[int]:
        return {index for name in self._names.findall(expr) for index in self._by_name[name]}

    def untested(self) -> set[str]:
        """Return the names of the rules that no test concerns."""
        tested = {index for concerned, _, _ in self._tests for index in concerned}
        return {rule_name(rule) for index, rule in enumerate(self._rules) if index not in tested}

    def run(self, mutant: Mutant | None = None) -> Result:
        """Run the tests that concern a mutant's rule on as few rules as they need; without a mutant all tests."""
        tests = [item for item in self._tests if mutant is None or mutant.index in item[0]]
        # The tests of the rule itself first: most mutants die there.
        tests.sort(key=lambda item: len(item[0]))
        with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
            for number, (concerned, test, document) in enumerate(tests):
                output = self._run_test(Path(folder), number, concerned, test, document, mutant)
                if output is not None:
                    return Result(mutant or _NOTHING, survived=False, valid="parse error" not in output, output=output)
        return Result(mutant or _NOTHING, survived=True)

    def _run_test(
        self,
        folder: Path,
        number: int,
        concerned: Iterable[int],
        test: Mapping[str, Any],
        document: Mapping[str, Any],
        mutant: Mutant | None,
    ) -> str | None:
        """Run one test; return promtool's output where it fails."""
        rules = []
        for index in sorted(concerned):
            rule = mutant.mutated if mutant is not None and index == mutant.index else self._rules[index]
            rules.append({key: value for key, value in rule.items() if key != "annotations"})
        (folder / f"rules{number}.yml").write_text(_dump({"groups": [{"name": "mutant", "rules": rules}]}))
        file = folder / f"test{number}.yml"
        file.write_text(_dump({**document, "rule_files": [f"rules{number}.yml"], "tests": [test]}))
        ended = subprocess.run(
            [str(self._promtool), "test", "rules", str(file)], capture_output=True, text=True, check=False, timeout=120
        )
        return None if ended.returncode == 0 else ended.stdout + ended.stderr


_NOTHING = Mutant("", "", "", -1, {})


def _dump(document: object) -> str:
    return yaml.dump(document, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)


class Equivalents:
    """The mutants that are known to be equivalent to their rules, as patterns of rule and change."""

    def __init__(self) -> None:
        self._patterns = [(item["rule"], item["change"]) for item in yaml.safe_load(EQUIVALENT_FILE.read_text()) or ()]

    def __contains__(self, mutant: Mutant) -> bool:
        """Return whether a pattern matches the mutant."""
        return any(_matches(pattern, mutant) for pattern in self._patterns)

    def unused(self, mutants: Sequence[Mutant]) -> list[tuple[str, str]]:
        """Return the patterns that match none of these mutants."""
        return [pattern for pattern in self._patterns if not any(_matches(pattern, mutant) for mutant in mutants)]


def _matches(pattern: tuple[str, str], mutant: Mutant) -> bool:
    return fnmatchcase(mutant.rule, pattern[0]) and fnmatchcase(mutant.change, pattern[1])


def main(arguments: Sequence[str]) -> int:
    """Run all mutants, or those of rules whose names contain an argument; print a table and the survivors."""
    rules = load_rules()
    tests, equivalents = RuleTests(rules), Equivalents()
    if tests.untested():
        print("No test concerns:", ", ".join(sorted(tests.untested())))
    if not tests.run().survived:
        print("The tests fail without any mutation.")
        return 1
    mutants = [mutant for mutant in find_mutants(rules) if all(part in mutant.rule for part in arguments)]
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        results = [result for result in executor.map(tests.run, mutants) if result.valid]
    print(render_table(results, equivalents))
    survivors = [result.mutant for result in results if result.survived]
    wrong = [f"survived: {mutant.rule}: {mutant.change}" for mutant in survivors if mutant not in equivalents]
    wrong += [
        f"listed as equivalent, but dies: {result.mutant.rule}: {result.mutant.change}"
        for result in results
        if not result.survived and result.mutant in equivalents
    ]
    if not arguments:
        wrong += [f"listed as equivalent, but does not exist: {': '.join(p)}" for p in equivalents.unused(survivors)]
    print("\n".join(sorted(wrong)))
    return 1 if wrong else 0


def render_table(results: Sequence[Result], equivalents: Equivalents) -> str:
    """Return the counts of each kind of mutants as a Markdown table."""
    rows = ["| mutation | mutants | killed | equivalent | survived |", "| --- | --- | --- | --- | --- |"]
    kinds = sorted({result.mutant.kind for result in results})
    for kind in (*kinds, "all"):
        some = [result for result in results if kind in (result.mutant.kind, "all")]
        alive = [result.mutant for result in some if result.survived]
        listed = sum(mutant in equivalents for mutant in alive)
        rows.append(f"| {kind} | {len(some)} | {len(some) - len(alive)} | {listed} | {len(alive) - listed} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
