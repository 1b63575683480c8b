"""Accounts at work: what is shown of each, and what the poller keeps in mind about those that it asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from exporter.config.configuration import Account
from exporter.ledger import Coverage, Ledger
from exporter.model import Provider, Report, Secret
from exporter.polling.health import Health
from exporter.polling.schedule import NAMES, WHOLE, Pace, Walk, complete_until
from exporter.pricing.valuer import Book
from exporter.windows import Span


@dataclass(slots=True)
class Pending:
    """What the poller keeps in mind about one report of one account between two polls."""

    failures: int = 0
    not_before: datetime | None = None
    at_most: timedelta = WHOLE
    walk: Walk | None = None


@dataclass(frozen=True, slots=True)
class Witness:
    """A source that sees an account's use too: its own accounts in the ledger, and their report."""

    source: str
    numbers: tuple[int, ...]
    report: str


@dataclass(slots=True, eq=False)
class Member:
    """One account: what the configuration says of it, its book, and how it fares."""

    account: Account
    book: Book
    health: Health = field(default_factory=Health)
    stopped: bool = False
    """The key was rejected: nothing is asked until it changes."""
    witnesses: tuple[Witness, ...] = ()

    @property
    def told(self) -> tuple[Report, ...]:
        """The reports that this account has: all but those refused as not in its plan."""
        refused = set(self.health.refused)
        return tuple(report for report in self.book.reports if report.name not in refused)

    @property
    def asked(self) -> tuple[Report, ...]:
        """What is polled; nothing where everything is pushed."""
        return ()

    def covered(self, ledger: Ledger) -> dict[Report, Coverage | None]:
        """Return what the tellings of each report that this account has cover."""
        return {report: ledger.buckets.coverage(self.book.number, report.name) for report in self.told}

    def watermarks(self, ledger: Ledger) -> dict[str, datetime]:
        """Return report -> the time up to which it is complete, for the reports that were ever told."""
        marks = {report.name: complete_until(report, one) for report, one in self.covered(ledger).items()}
        return {name: mark for name, mark in marks.items() if mark is not None}

    def complete_until(self, ledger: Ledger) -> datetime | None:
        """Return the time up to which all of the account's use is known; None before that can be said."""
        marks = self.watermarks(ledger)
        usage = [report for report in self.told if report.kind == "usage"]
        # An optional report that has failed from the start may not be in this plan: it holds nothing up.
        problems = dict(self.health.problems)
        due = [one.name for one in usage if one.name in marks or not (one.optional and one.name in problems)]
        return min((marks[name] for name in due), default=None) if all(name in marks for name in due) else None

    def told_span(self, ledger: Ledger) -> Span | None:
        """Return the stretch of time of which all of the account's use was told; None before there is one."""
        usage = [one for report, one in self.covered(ledger).items() if report.kind == "usage"]
        known = [one for one in usage if one is not None]
        if not known or len(known) < len(usage):
            return None
        return Span(max(one.since for one in known), min(one.until for one in known))

    def up(self, ledger: Ledger) -> bool:
        """Tell whether the newest poll of every report succeeded."""
        return not self.health.problems and None not in self.covered(ledger).values()


@dataclass(slots=True, eq=False, kw_only=True)
class Polled(Member):
    """An account whose provider is asked."""

    pace: Pace
    read_key: Callable[[], Secret]
    """Raises ConfigError where the key cannot be read."""
    connect: Callable[[Secret, Health], Provider]
    """Build the provider for a key; raises KeyRejected where its prefix already tells that it is of the wrong kind."""
    pending: dict[str, Pending] = field(default_factory=dict)
    key: Secret | None = None
    provider: Provider | None = None
    spare: Secret | None = None
    """A key that was put in the place of the working one and was rejected: it is not tried again."""
    quiet_until: datetime | None = None
    """Set by what concerns the whole account: a rate limit, a network that is down, a rejected key."""
    wake_at: datetime | None = None
    """When the next report is due; None before the first visit."""
    turned: bool = False
    """An hour has turned since the account was last put on the page."""

    @property
    def agenda(self) -> tuple[Report, ...]:
        """What is asked on a visit, in this order."""
        return (NAMES, *self.book.reports)

    @property
    def asked(self) -> tuple[Report, ...]:
        """Names are asked for like a report."""
        return (NAMES, *self.told)

    def try_again(self) -> None:
        """Try again what was rejected: somebody may have mended it at the provider.

        Its problem stays until the answer is there: an alert must not resolve because of a reload.
        """
        self.spare = None
        if self.stopped:
            self.key = self.quiet_until = self.wake_at = None

    def renew(self, other: Polled) -> None:
        """Take over what another configuration says of this account and go on as before, with all that is in mind."""
        self.account, self.book, self.pace, self.read_key = other.account, other.book, other.pace, other.read_key
        self.wake_at = None

    def of(self, report: Report) -> Pending:
        """Return what is in mind about a report."""
        return self.pending.setdefault(report.name, Pending())
