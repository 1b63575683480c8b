"""Accounts at work: what is shown of each, and what the poller keeps in mind about those that it asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from exporter.config.configuration import Account
from exporter.ledger import Coverage, Ledger
from exporter.model import Report, Secret
from exporter.polling.health import Health, HealthSnapshot
from exporter.polling.schedule import NAMES_REPORT, UNLIMITED, PartialRefresh, PollSettings, complete_until
from exporter.pricing.valuer import LedgerAccount
from exporter.providers.base import Provider
from exporter.windows import TimeRange


@dataclass(slots=True)
class ReportState:
    """What the poller keeps in mind about one report of one account between two polls."""

    failures: int = 0
    not_before: datetime | None = None
    max_range: timedelta = UNLIMITED
    partial_refresh: PartialRefresh | None = None


@dataclass(frozen=True, slots=True)
class Crosscheck:
    """A source that sees an account's use too: its own accounts in the ledger, and their report."""

    source: str
    account_numbers: tuple[int, ...]
    report: str


@dataclass(frozen=True, slots=True)
class AccountView:
    """One account at one moment: its configuration, its reports and its health."""

    account: Account
    ledger_account: LedgerAccount
    reports: tuple[Report, ...]
    """The reports that this account has: all but those that its plan does not support."""
    polled_reports: tuple[Report, ...]
    """The reports that are polled, names among them; empty for an account of pushed events."""
    health: HealthSnapshot
    crosschecks: tuple[Crosscheck, ...]


@dataclass(slots=True, eq=False)
class AccountState:
    """One account: what the configuration says of it, its book, and how it fares."""

    account: Account
    ledger_account: LedgerAccount
    health: Health = field(default_factory=Health)
    key_rejected: bool = False
    """The key was rejected: nothing is asked until it changes."""
    crosschecks: tuple[Crosscheck, ...] = ()

    def view(self) -> AccountView:
        """Return the account as it is now."""
        return AccountView(
            account=self.account,
            ledger_account=self.ledger_account,
            reports=self.reports,
            polled_reports=self.polled_reports,
            health=self.health.snapshot(key_rejected=self.key_rejected),
            crosschecks=self.crosschecks,
        )

    @property
    def reports(self) -> tuple[Report, ...]:
        """The reports that this account has: all but those refused as not in its plan."""
        refused = set(self.health.unsupported)
        return tuple(report for report in self.ledger_account.reports if report.name not in refused)

    @property
    def polled_reports(self) -> tuple[Report, ...]:
        """What is polled; nothing where everything is pushed."""
        return ()

    def coverage(self, ledger: Ledger) -> dict[Report, Coverage | None]:
        """Return what the tellings of each report that this account has cover."""
        return {report: ledger.buckets.coverage(self.ledger_account.id, report.name) for report in self.reports}

    def watermarks(self, ledger: Ledger) -> dict[str, datetime]:
        """Return report -> the time up to which it is complete, for the reports that were ever told."""
        marks = {report.name: complete_until(report, one) for report, one in self.coverage(ledger).items()}
        return {name: mark for name, mark in marks.items() if mark is not None}

    def complete_until(self, ledger: Ledger) -> datetime | None:
        """Return the time up to which all of the account's use is known; None before that can be said."""
        marks = self.watermarks(ledger)
        usage = [report for report in self.reports if report.kind == "usage"]
        # An optional report that has failed from the start may not be in this plan: it holds nothing up.
        problems = dict(self.health.problems)
        due = [one.name for one in usage if one.name in marks or not (one.optional and one.name in problems)]
        return min((marks[name] for name in due), default=None) if all(name in marks for name in due) else None

    def usage_time_range(self, ledger: Ledger) -> TimeRange | None:
        """Return the stretch of time of which all of the account's use was told; None before there is one."""
        usage = [one for report, one in self.coverage(ledger).items() if report.kind == "usage"]
        known = [one for one in usage if one is not None]
        if not known or len(known) < len(usage):
            return None
        return TimeRange(max(one.since for one in known), min(one.until for one in known))

    def up(self, ledger: Ledger) -> bool:
        """Tell whether the newest poll of every report succeeded."""
        return not self.health.problems and None not in self.coverage(ledger).values()


@dataclass(slots=True, eq=False, kw_only=True)
class PolledAccount(AccountState):
    """An account whose provider is asked."""

    poll_settings: PollSettings
    read_key: Callable[[], Secret]
    """Raises ConfigError where the key cannot be read."""
    connect: Callable[[Secret, Health], Provider]
    """Build the provider for a key; raises KeyRejected where its prefix already tells that it is of the wrong kind."""
    report_states: dict[str, ReportState] = field(default_factory=dict)
    key: Secret | None = None
    provider: Provider | None = None
    pending_key: Secret | None = None
    """A key that was put in the place of the working one and was rejected: it is not tried again."""
    backoff_until: datetime | None = None
    """Set by what concerns the whole account: a rate limit, a network that is down, a rejected key."""
    next_poll_at: datetime | None = None
    """When the next report is due; None before the first visit."""
    hour_changed: bool = False
    """An hour has turned since the account was last put on the page."""

    @property
    def scheduled_reports(self) -> tuple[Report, ...]:
        """What is asked on a visit, in this order."""
        return (NAMES_REPORT, *self.ledger_account.reports)

    @property
    def polled_reports(self) -> tuple[Report, ...]:
        """Names are asked for like a report."""
        return (NAMES_REPORT, *self.reports)

    def retry_rejected_key(self) -> None:
        """Try again what was rejected: somebody may have mended it at the provider.

        Its problem stays until the answer is there: an alert must not resolve because of a reload.
        """
        self.pending_key = None
        if self.key_rejected:
            self.key = self.backoff_until = self.next_poll_at = None

    def reconfigure(self, other: PolledAccount) -> None:
        """Take over what another configuration says of this account and go on as before, with all that is in mind."""
        self.account, self.ledger_account, self.poll_settings, self.read_key = (
            other.account,
            other.ledger_account,
            other.poll_settings,
            other.read_key,
        )
        self.next_poll_at = None

    def report_state(self, report: Report) -> ReportState:
        """Return what is in mind about a report."""
        return self.report_states.setdefault(report.name, ReportState())
