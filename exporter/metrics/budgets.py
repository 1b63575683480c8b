"""Samples of budgets: limit, spend, forecast, burn rates and the time of exhaustion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from exporter.analysis.budgets import BudgetStatus, format_threshold, glob_to_regex
from exporter.metrics.exposition import escape_label_value, format_labels, format_usd, render_samples
from exporter.metrics.families import (
    BUDGET_ACCOUNT_SPENT,
    BUDGET_ALERT_THRESHOLD,
    BUDGET_BURN_RATE,
    BUDGET_EXHAUSTION_TIME,
    BUDGET_FAMILIES,
    BUDGET_FORECAST,
    BUDGET_INFO,
    BUDGET_LIMIT,
    BUDGET_SPENT,
    BUDGET_SPENT_THRESHOLD,
    Family,
)
from exporter.snapshot.budgets import EvaluatedBudget


class _Sample(NamedTuple):
    """A sample of one budget; `labels` are those after the budget's own."""

    family: Family
    labels: tuple[str, ...]
    value: str


def render_budgets(evaluated_budgets: Iterable[EvaluatedBudget]) -> dict[Family, bytes]:
    """Return the sample lines of every budget family."""
    samples: dict[Family, list[tuple[str, str]]] = {family: [] for family in BUDGET_FAMILIES}
    for evaluated in evaluated_budgets:
        budget = evaluated.budget
        for sample in (
            _Sample(BUDGET_INFO, (promql_selector(budget.match.globs),), "1"),
            *_status_samples(evaluated.status),
            *_account_samples(evaluated),
            *_threshold_samples(evaluated),
        ):
            labels = format_labels(sample.family.labels, (budget.name, budget.owner, budget.period, *sample.labels))
            samples[sample.family].append((labels, sample.value))
    return {family: render_samples(family, lines) for family, lines in samples.items()}


def promql_selector(match: Mapping[str, str]) -> str:
    """Return globs as the matchers of a PromQL selector."""
    matchers = [f'{name}=~"{escape_label_value(glob_to_regex(glob))}"' for name, glob in sorted(match.items())]
    return "{" + ",".join(matchers) + "}"


def _status_samples(status: BudgetStatus) -> Iterator[_Sample]:
    yield _Sample(BUDGET_LIMIT, (), format_usd(status.limit))
    yield _Sample(BUDGET_SPENT, (), format_usd(status.spent))
    if status.forecast is not None:
        yield _Sample(BUDGET_FORECAST, (), format_usd(status.forecast))
    for window, rate in status.burn_rates.items():
        yield _Sample(BUDGET_BURN_RATE, (window,), f"{rate:.4f}")
    if status.exhausted_at is not None:
        yield _Sample(BUDGET_EXHAUSTION_TIME, (), f"{status.exhausted_at.timestamp():.0f}")


def _account_samples(evaluated: EvaluatedBudget) -> Iterator[_Sample]:
    for share in evaluated.accounts:
        yield _Sample(BUDGET_ACCOUNT_SPENT, (share.provider, share.account), format_usd(share.spent))


def _threshold_samples(evaluated: EvaluatedBudget) -> Iterator[_Sample]:
    thresholds = evaluated.budget.alerts
    for alert, threshold in (
        ("AIBudgetForecastExceeded", thresholds.forecast_exceeded_ratio),
        ("AIBudgetNearlySpent", thresholds.nearly_spent_ratio),
    ):
        if threshold is not None:
            yield _Sample(BUDGET_ALERT_THRESHOLD, (alert,), f"{threshold:f}")
    for ratio in thresholds.threshold_ratios or ():
        yield _Sample(BUDGET_SPENT_THRESHOLD, (format_threshold(ratio),), f"{ratio:f}")
