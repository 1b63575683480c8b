"""What a witness saw of an account's use, beside what the provider told."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from exporter.ledger import Ledger
from exporter.metrics.exposition import format_labels, render_samples
from exporter.metrics.families import CROSSCHECK, Family
from exporter.model import TOKEN_METERS
from exporter.polling.account_state import AccountState, Crosscheck
from exporter.windows import TimeRange, calendar_windows


def render_crosscheck(account_state: AccountState, ledger: Ledger, now: datetime) -> dict[Family, bytes]:
    """Return a line per witness whose own hour is complete too."""
    until = account_state.complete_until(ledger)
    if not account_state.crosschecks or until is None:
        return {}
    hour = calendar_windows(now, until)["last_hour"]
    told = _sum_tokens(
        ledger,
        account_state.ledger_account.id,
        [report.name for report in account_state.ledger_account.usage_reports],
        hour,
    )
    values = (account_state.account.provider, account_state.account.name)
    lines = [
        (format_labels(CROSSCHECK.labels, (*values, one.source)), f"{seen / told:.6f}" if told else "+Inf")
        for one in account_state.crosschecks
        if _is_complete(one, ledger, hour)
        and ((seen := sum(_sum_tokens(ledger, number, [one.report], hour) for number in one.account_numbers)) or told)
    ]
    return {CROSSCHECK: render_samples(CROSSCHECK, lines)}


def _is_complete(crosscheck: Crosscheck, ledger: Ledger, hour: TimeRange) -> bool:
    covered = [ledger.buckets.coverage(number, crosscheck.report) for number in crosscheck.account_numbers]
    return any(one is not None and one.since <= hour.start and one.until >= hour.end for one in covered)


def _sum_tokens(ledger: Ledger, account_number: int, reports: Iterable[str], hour: TimeRange) -> int:
    units = ledger.buckets.units(account_number, list(reports), hour)
    return sum(value for labels, value in units.items() if labels[0] in TOKEN_METERS)
