"""How an account fares, as sample lines: sync times, watermarks, problems, counts."""

from __future__ import annotations

from collections.abc import Iterable

from exporter.errors import PROBLEM_REASONS
from exporter.ledger import Ledger
from exporter.metrics.exposition import labelled, render
from exporter.metrics.families import (
    ACCOUNT,
    CALLS,
    COMPLETE_UNTIL,
    DURATION,
    FAILURES,
    INFO,
    LAST_SUCCESS,
    POLLS,
    PROBLEM,
    UP,
    Family,
)
from exporter.polling.account_state import Member

Samples = Iterable[tuple[str, str]]
"""The value of the family's last label, and the sample's value."""


def state_chunks(member: Member, ledger: Ledger) -> dict[Family, bytes]:
    """Return the lines of every family that changes with each poll: family -> lines."""
    health = member.health
    owner = (member.account.provider, member.account.name)

    def by(family: Family, samples: Samples) -> bytes:
        return render(family, ((labelled(family.labels, (*owner, key)), value) for key, value in samples))

    covered = member.covered(ledger)
    reasons = {error.reason for error in (*health.reasons(), health.spare) if error is not None}
    failures = dict.fromkeys(PROBLEM_REASONS, 0)
    for (_, reason), count in health.failures.copy().items():
        failures[reason] = failures.get(reason, 0) + count
    chunks = {
        UP: render(UP, [(labelled(ACCOUNT, owner), str(int(member.up(ledger))))]),
        INFO: by(INFO, [(member.account.owner, "1")]),
        LAST_SUCCESS: by(
            LAST_SUCCESS,
            ((report.name, f"{one.until.timestamp():.3f}") for report, one in covered.items() if one is not None),
        ),
        COMPLETE_UNTIL: by(
            COMPLETE_UNTIL, ((name, f"{mark.timestamp():.0f}") for name, mark in member.watermarks(ledger).items())
        ),
    }
    if not member.asked:
        return chunks
    return chunks | {
        PROBLEM: by(PROBLEM, ((reason, str(int(reason in reasons))) for reason in PROBLEM_REASONS)),
        POLLS: by(POLLS, ((report.name, str(health.polls[report.name])) for report in member.asked)),
        FAILURES: by(FAILURES, ((reason, str(count)) for reason, count in failures.items())),
        CALLS: by(CALLS, ((code, str(count)) for code, count in sorted({"200": 0, **health.requests.copy()}.items()))),
        DURATION: by(DURATION, ((name, f"{seconds:.3f}") for name, seconds in sorted(health.seconds.copy().items()))),
    }
