"""CPU of a first poll of thirty days and of a steady poll, beside json.loads of the same bytes and the baseline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.polling_cpu import measure_polling
from tests.benchmarks.provider_process import ProviderName

COMBINATIONS = 12
"""Of workspace, model and tier, each used in every hour."""
BASELINE = json.loads(Path(__file__).with_name("first_poll_baseline.json").read_text())
"""Provider -> kind of poll -> its CPU time divided by that of json.loads, before polling was made faster."""
MAX_SHARES = {"first": 0.7, "steady": 0.5}
"""Kind of poll -> the most that it may take of its baseline."""


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_polls_stay_below_their_baseline(tmp_path: Path, provider: ProviderName) -> None:
    """A first and a steady poll take at most a share of the CPU time, beside json.loads, that they once took."""
    costs = measure_polling(tmp_path, provider, COMBINATIONS)
    print(f"\n  {provider}, {COMBINATIONS} combinations; CPU time from received to rendered bytes, medians")
    for name, cost in costs.items():
        print(f"{cost.format_row(name)} (baseline {BASELINE[provider][name]:.1f})")
    for name, cost in costs.items():
        assert cost.ratio <= BASELINE[provider][name] * MAX_SHARES[name], name
