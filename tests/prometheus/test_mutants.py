"""The rule tests notice changes of the rules; `make mutants` tries all of them, this test a sample."""

from __future__ import annotations

import random

import pytest
import yaml

from tests.prometheus.mutants import EQUIVALENT_FILE, Equivalents, RuleTests, find_mutants, load_rules, rule_name
from tests.prometheus.promql import SyntaxProblem, parse
from tests.servers import BIN_DIRS

RULES = load_rules()
MUTANTS = find_mutants(RULES)
SAMPLE_SIZE = 25
SEED = 18


def test_boundaries_recordings_and_incidents() -> None:
    """Every test of single rules passes, evaluated with no more rules than it needs.

    In one version of Prometheus only: the tests of whole rule files run in both.
    """
    result = RuleTests(RULES, BIN_DIRS["debian"] / "promtool").run()
    assert result.survived, result.output


def test_every_rule_has_a_test_of_its_own() -> None:
    """Each alert and each recording rule is part of a test that names it."""
    assert RuleTests(RULES).untested() == set()


def test_a_sample_of_mutants_dies() -> None:
    """Changed thresholds, comparisons, durations, clauses, matchers and aggregations make a rule test fail."""
    tests, equivalents = RuleTests(RULES, BIN_DIRS["debian"] / "promtool"), Equivalents()
    candidates = [mutant for mutant in MUTANTS if mutant not in equivalents]
    sample = random.Random(SEED).sample(candidates, SAMPLE_SIZE)
    assert [mutant for mutant in sample if tests.run(mutant).survived] == []


def test_equivalent_mutants_exist_and_have_a_reason() -> None:
    """Each pattern of the list matches a mutant, and says why no test can notice it."""
    assert Equivalents().unused(MUTANTS) == []
    assert all(item["reason"].endswith(".") for item in yaml.safe_load(EQUIVALENT_FILE.read_text()))


def test_mutations_change_one_place() -> None:
    """A mutant differs from its rule in one field, and its expression can be read."""
    assert len({(mutant.index, mutant.change) for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        rule = RULES[mutant.index]
        changed = [key for key in {*rule, *mutant.mutated} if rule.get(key) != mutant.mutated.get(key)]
        assert len(changed) == 1, mutant
        parse(mutant.mutated["expr"])
    kinds = {mutant.kind for mutant in MUTANTS}
    assert {"number", "comparison", "duration", "clause", "matcher", "aggregation", "window", "matching"} <= kinds
    assert {rule_name(RULES[mutant.index]) for mutant in MUTANTS} >= {
        rule["alert"] for rule in RULES if "alert" in rule
    }


@pytest.mark.parametrize("text", ["sum(", "a > ", "a{b=1} 5", "(a", "a ~ b"])
def test_the_parser_rejects_what_it_does_not_know(text: str) -> None:
    """An expression that is not complete is an error, so that no mutation is made of it."""
    with pytest.raises((SyntaxProblem, IndexError)):
        parse(text)


def test_operators_bind_as_in_prometheus() -> None:
    """`or` binds weakest, then `and` and `unless`, comparisons, sums and products, all from left to right."""
    text = "a or b and c > 1 + 2 * 3 unless on (x) d"
    tree = parse(text)
    assert tree.token is not None
    assert tree.token.text == "or"
    unless = tree.children[1]
    assert unless.token is not None
    assert (unless.token.text, [label.text for label in unless.labels]) == ("unless", ["x"])
    assert text[unless.children[0].start : unless.children[0].end] == "b and c > 1 + 2 * 3"
