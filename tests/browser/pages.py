"""Landing pages that are hard to lay out: every kind of alert, long names, nothing at all."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from exporter.analysis.budgets import BudgetStatus, current_period
from exporter.config.configuration import Budget, BudgetMatch
from exporter.ledger import DayCost
from exporter.model import DAY, HOUR, NANO, ChangeEvent
from exporter.snapshot.aggregation import Totals
from exporter.snapshot.budgets import EvaluatedBudget
from exporter.snapshot.day_reads import DayReads
from exporter.snapshot.estimates import OneTimeCost
from exporter.ui.alerts import BILL_INCOMPLETE, EXCEEDED, POLLS_FAIL, RUNAWAY, Alert, AlertKind, State
from exporter.ui.links import ACCOUNT_DASHBOARD, PageLinks
from exporter.ui.page_data import AccountRow, PageData, Trend
from tests.system import NOON, midnight

LINKS = PageLinks("https://grafana.example/prefix", "https://docs.example/main")
LONG_NAME = ("a-very-long-name-without-a-space-" * 7)[:200]
TODAY = midnight(NOON)
ALERTS = 12
"""More than are shown at once."""


def hard_page(accounts: int = 9) -> PageData:
    """Return a page with names of 200 characters and all sections, each with something to unfold."""
    alerts = tuple(_alert(number) for number in range(ALERTS))
    rows = tuple(_account(number, alerts) for number in range(accounts))
    budgets = tuple(
        _budget(f"{percent}-percent" if percent != 105 else LONG_NAME[:63], percent, forecast)
        for percent, forecast in ((0, None), (3, 64), (69, 100), (86, 121), (105, 149), (627, 900), (99_999, 120_000))
    )
    changes = (
        ChangeEvent(LONG_NAME, NOON - HOUR, LONG_NAME, "account-001", "https://ci.example/builds/7"),
        ChangeEvent("prompt rollout B", NOON - 5 * HOUR, "support-bot", "", ""),
    )
    return PageData(NOON, rows, budgets, changes, alerts, LINKS)


def _alert(number: int) -> Alert:
    kinds: tuple[AlertKind, ...] = (RUNAWAY, EXCEEDED, POLLS_FAIL, BILL_INCOMPLETE)
    name = LONG_NAME if number % 5 == 0 else f"account-{number:03}"
    return Alert(
        kind=kinds[number * len(kinds) // ALERTS],
        title=f"Something unusual: {name} / workspace-{number}",
        owner=LONG_NAME if number == 3 else "platform",
        details=(
            f"$1,234,567.89 in the hour from Nov 18 11:00; expected $4.10. Largest: {name} $9.99.",
            "Another one.",
        ),
        since="since Nov 18 09:00 UTC (3 h)",
        action="Ask platform whether this is intended. If not, stop the job or revoke the application's key.",
        dashboard=ACCOUNT_DASHBOARD,
        variables={"account": name},
        account=(f"account-{number:03}", "openai"),
    )


def _account(number: int, alerts: tuple[Alert, ...]) -> AccountRow:
    """Return an account that failed, that was never read, or that is up; some have very long names."""
    state: State = "bad" if number < 2 else "wait" if number == 2 else "good"
    was_read = number not in (1, 2)
    cost = (1_234_567_890_000_000 if number == 0 else 5_000_000_000) * (60 - number)
    days = {TODAY - age * DAY: DayCost(TODAY - age * DAY, cost + age * cost // 40, billed=age > 0) for age in range(35)}
    name = LONG_NAME if number % 7 == 0 else f"account-{number:03}"
    return AccountRow(
        name=name,
        provider="openai",
        owner=LONG_NAME if number == 4 else "platform",
        state=state,
        state_text={"bad": "stopped: wrong key kind", "wait": "first poll under way", "good": "up"}[state],
        today=cost if was_read else None,
        month=18 * cost if was_read else None,
        month_billed=17 * cost if was_read else 0,
        month_forecast=30 * cost if was_read else None,
        trend=Trend(7 * cost, 8 * cost) if number % 3 == 0 else None,
        complete_until=NOON - HOUR if was_read else None,
        last_sync=NOON - timedelta(minutes=2) if was_read else None,
        days=days if was_read else {},
        models={f"model-{number}" if number else LONG_NAME: Totals(30 * cost, 10**9, None if number % 2 else 10**7)}
        if was_read
        else {},
        one_time_costs=[OneTimeCost(TODAY - DAY, LONG_NAME, "Onboarding", 250 * NANO)] if number == 3 else [],
        aggregated_series=12 if number % 5 == 0 else 0,
        late=number == 5,
        alerts=tuple(alert for alert in alerts if alert.account == (f"account-{number:03}", "openai")),
        day_reads={TODAY - age * DAY: DayReads(NOON, NOON) for age in range(7)} if was_read else {},
        has_bills=True,
    )


def _budget(name: str, percent: int, forecast: int | None) -> EvaluatedBudget:
    limit = 12_000 * NANO
    status = BudgetStatus(
        limit,
        limit * percent // 100,
        None if forecast is None else limit * forecast // 100,
        {},
        None if percent < 86 else TODAY if percent > 100 else NOON + 3 * DAY,
    )
    budget = Budget(
        name=name, owner="platform", period="month", limit_usd=Decimal(12_000), match=BudgetMatch(model="claude-*")
    )
    return EvaluatedBudget(budget, current_period("month", NOON), status)
