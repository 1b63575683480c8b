"""The complete demo at a fixed time: thirty days over HTTP, every total correct, every line as reviewed."""

from __future__ import annotations

import difflib
import re
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from exporter.config.configuration import Budget, BudgetMatch
from exporter.config.schema import AccountAlerts, BudgetAlerts
from exporter.metrics.families import ACCOUNT_FAMILIES, SELF_FAMILIES, SPEND_FAMILIES
from tests.system import System, start_system

GOLDEN = Path(__file__).parent / "golden" / "metrics.txt"
BUDGETS = (
    Budget(
        name="everything",
        owner="platform",
        period="month",
        limit_usd=Decimal(80_000),
        alerts=BudgetAlerts(nearly_spent_ratio=Decimal("0.9"), threshold_ratios=(Decimal("0.5"), Decimal("0.75"))),
    ),
    Budget(
        name="research-week",
        owner="research",
        period="week",
        limit_usd=Decimal("499.95"),
        match=BudgetMatch(owner="research", model="claude-*"),
    ),
    Budget(
        name="agents-day", owner="", period="day", limit_usd=Decimal(500), match=BudgetMatch(workspace="Coding agents")
    ),
)
VARYING_LINES = re.compile(
    r"^((?:process|python)_\w+|ai_exporter_ledger_bytes|ai_exporter_build_info|ai_account_poll_duration_seconds)"
    r"(\{.*\})? .*$",
    re.MULTILINE,
)


@pytest.fixture(name="system", scope="module")
def _start_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with start_system(tmp_path_factory.mktemp("demo")) as system:
        first, *others = system.config.accounts
        first = first.model_copy(update={"alerts": AccountAlerts(cost_spike_usd=Decimal(50))})
        system.config = system.config.model_copy(update={"accounts": (first, *others), "budgets": BUDGETS})
        with system.run_exporter():
            system.poll_until_idle()
            yield system


def test_after_the_backfill_every_total_is_the_simulators(system: System) -> None:
    """The first complete /metrics has thirty days: each series of each window, for each account."""
    assert list(system.samples()["ai_account_up"].values()) == [1] * len(system.world.accounts)
    assert sum(system.expected_totals("30d")[0].values()) > 10**9
    for window in ("last_hour", "today", "month", "30d"):
        tokens, requests = system.expected_totals(window)
        assert system.exported_totals(f"ai_tokens_{window}") == tokens
        assert system.exported_totals(f"ai_requests_{window}") == requests


def test_the_page_is_the_one_that_was_reviewed(system: System, request: pytest.FixtureRequest) -> None:
    """Every line equals the golden file's, except values that differ between machines and runs."""
    page = VARYING_LINES.sub(lambda found: f"{re.sub('{.*}', '', found[0].split(' ')[0])} 0", _fetch_metrics(system))
    page = re.sub(r"^(process|python).*\n|^# \w+ (process|python).*\n", "", page, flags=re.MULTILINE)
    if request.config.getoption("--write-golden"):
        GOLDEN.write_text(page)
    difference = list(difflib.unified_diff(GOLDEN.read_text().splitlines(), page.splitlines(), "golden", "now", n=0))

    assert not difference, "\n".join(difference[:40]) + "\n(make golden updates the file)"


def test_promtool_reports_no_problem(system: System) -> None:
    """`promtool check metrics` reports no error and no hint about names, types, units and help."""
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=_fetch_metrics(system), capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_every_family_of_the_table_is_on_the_page(system: System) -> None:
    """The demo has a series of every metric, except of what does not occur in it, such as incidents and balances."""
    page = _fetch_metrics(system)
    families = (*SPEND_FAMILIES, *ACCOUNT_FAMILIES, *SELF_FAMILIES)
    missing = [family.name for family in families if f"# TYPE {family.name} " not in page]
    assert missing == [
        "ai_cost_daily_one_time_usd",
        "ai_cost_incident_usd",
        "ai_cost_incident_start_timestamp_seconds",
        "ai_account_crosscheck_ratio",
        "ai_account_balance_usd",
        "ai_account_balance_exhaustion_timestamp_seconds",
        "ai_account_unpriced_tokens",
        "ai_exporter_ingest_events_total",
        "ai_change_timestamp_seconds",
    ]


def test_no_key_is_on_any_page(system: System) -> None:
    """Neither /metrics nor the landing page contains the end of any API key."""
    pages = _fetch_metrics(system) + httpx.get(system.url).text
    for account in system.world.accounts.values():
        assert account.key[-12:] not in pages


def _fetch_metrics(system: System) -> str:
    return httpx.get(f"{system.url}/metrics", timeout=60).text
