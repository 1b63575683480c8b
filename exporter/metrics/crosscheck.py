"""What a witness saw of an account's use, beside what the provider told."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from exporter.ledger import Ledger
from exporter.metrics.exposition import labelled, render
from exporter.metrics.families import WITNESS, Family
from exporter.model import TOKEN_METERS
from exporter.polling.account_state import Member, Witness
from exporter.windows import Span, calendar


def witness_chunks(member: Member, ledger: Ledger, now: datetime) -> dict[Family, bytes]:
    """Return a line per witness whose own hour is complete too."""
    until = member.complete_until(ledger)
    if not member.witnesses or until is None:
        return {}
    hour = calendar(now, until)["last_hour"]
    told = _tokens(ledger, member.book.number, [report.name for report in member.book.usage], hour)
    values = (member.account.provider, member.account.name)
    lines = [
        (labelled(WITNESS.labels, (*values, one.source)), f"{seen / told:.6f}" if told else "+Inf")
        for one in member.witnesses
        if _is_complete(one, ledger, hour)
        and ((seen := sum(_tokens(ledger, number, [one.report], hour) for number in one.numbers)) or told)
    ]
    return {WITNESS: render(WITNESS, lines)}


def _is_complete(witness: Witness, ledger: Ledger, hour: Span) -> bool:
    covered = [ledger.buckets.coverage(number, witness.report) for number in witness.numbers]
    return any(one is not None and one.since <= hour.start and one.until >= hour.end for one in covered)


def _tokens(ledger: Ledger, number: int, reports: Iterable[str], hour: Span) -> int:
    units = ledger.buckets.units(number, list(reports), hour)
    return sum(value for labels, value in units.items() if labels[0] in TOKEN_METERS)
