"""How an account fares, as sample lines: sync times, watermarks, problems, counts."""

from __future__ import annotations

from collections.abc import Iterable

from exporter.errors import PROBLEM_REASONS
from exporter.ledger import Ledger
from exporter.metrics.exposition import format_labels, render_samples
from exporter.metrics.families import (
    ACCOUNT_INFO,
    ACCOUNT_LABELS,
    ACCOUNT_PROBLEM,
    ACCOUNT_UP,
    API_REQUESTS,
    COMPLETE_UNTIL,
    LAST_SUCCESS,
    POLL_DURATION,
    POLL_FAILURES,
    POLLS,
    Family,
)
from exporter.polling.account_state import AccountState

Samples = Iterable[tuple[str, str]]
"""The value of the family's last label, and the sample's value."""


def render_account_status(account_state: AccountState, ledger: Ledger) -> dict[Family, bytes]:
    """Return the lines of every family that changes with each poll: family -> lines."""
    health = account_state.health
    owner = (account_state.account.provider, account_state.account.name)

    def by(family: Family, samples: Samples) -> bytes:
        return render_samples(family, ((format_labels(family.labels, (*owner, key)), value) for key, value in samples))

    covered = account_state.coverage(ledger)
    reasons = {error.reason for error in (*health.current_problems, health.pending_key_error) if error is not None}
    failures = dict.fromkeys(PROBLEM_REASONS, 0)
    failures.update(health.failures)
    chunks = {
        ACCOUNT_UP: render_samples(
            ACCOUNT_UP, [(format_labels(ACCOUNT_LABELS, owner), str(int(account_state.up(ledger))))]
        ),
        ACCOUNT_INFO: by(ACCOUNT_INFO, [(account_state.account.owner, "1")]),
        LAST_SUCCESS: by(
            LAST_SUCCESS,
            ((report.name, f"{one.until.timestamp():.3f}") for report, one in covered.items() if one is not None),
        ),
        COMPLETE_UNTIL: by(
            COMPLETE_UNTIL,
            ((name, f"{mark.timestamp():.0f}") for name, mark in account_state.watermarks(ledger).items()),
        ),
    }
    if not account_state.polled_reports:
        return chunks
    return chunks | {
        ACCOUNT_PROBLEM: by(ACCOUNT_PROBLEM, ((reason, str(int(reason in reasons))) for reason in PROBLEM_REASONS)),
        POLLS: by(
            POLLS, ((report.name, str(health.polls.get(report.name, 0))) for report in account_state.polled_reports)
        ),
        POLL_FAILURES: by(POLL_FAILURES, ((reason, str(count)) for reason, count in failures.items())),
        API_REQUESTS: by(
            API_REQUESTS, ((code, str(count)) for code, count in sorted({"200": 0, **health.requests}.items()))
        ),
        POLL_DURATION: by(
            POLL_DURATION,
            ((name, f"{seconds:.3f}") for name, seconds in sorted(health.last_poll_seconds.items())),
        ),
    }
