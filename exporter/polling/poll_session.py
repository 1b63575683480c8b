"""The poller's memory of one account between two polls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from exporter.ledger import Coverage
from exporter.model import Secret
from exporter.polling.account_state import PolledAccount, PolledAccountConfig, PollRequests
from exporter.polling.reread import PendingReread
from exporter.polling.schedule import PartialRefresh
from exporter.providers.base import Provider
from exporter.windows import TimeRange


@dataclass(slots=True)
class ReportState:
    """One report of one account."""

    max_range: timedelta
    """The longest time range that is requested at a time."""
    failures: int = 0
    """Since the last success: each one lengthens the back-off."""
    not_before: datetime | None = None
    partial_refresh: PartialRefresh | None = None


@dataclass(slots=True, eq=False)
class PollSession:
    """One account. Only the thread that polls the account uses it, except for the four fields that say otherwise."""

    account: PolledAccount
    config: PolledAccountConfig
    """The configuration of the poll under way: a reload meanwhile is for the next poll."""
    provider: Provider | None = None
    """Assigned under the poller's lock only, because `Poller.close` closes it from another thread."""
    due_at: datetime | None = None
    """When the next poll is due, for the timer thread; None is at once. Guarded by the poller's lock."""
    reread_at: datetime | None = None
    """When to read waiting days again, for the timer thread; None where none wait. Guarded by the poller's lock."""
    removed: bool = False
    """The account is not configured any more: its last poll closes the provider. Guarded by the poller's lock."""
    key: Secret | None = None
    """The key of `provider`, or the key that was rejected."""
    key_retry_at: datetime | None = None
    """When to try a key again that the provider rejected; None where the key was never sent, and so stays useless."""
    pending_key: Secret | None = None
    """A key that was to replace the working one and was rejected: it is not tried again."""
    report_states: dict[str, ReportState] = field(default_factory=dict)
    backoff_until: datetime | None = None
    """Set by failures of the whole account: a rate limit, a network that is down, a rejected key."""
    next_poll_at: datetime | None = None
    """When the next report is due; None before the first poll."""
    balance_coverage: Coverage | None = None
    """When the balance was read with this key; None before."""
    rereads: dict[str, PendingReread] = field(default_factory=dict)
    """By report. Kept when the key changes: it was requested of the account."""
    rereads_restored: bool = False
    """Whether the rereads that an earlier process did not finish are among `rereads`."""
    weekly_reread_times: dict[str, datetime] = field(default_factory=dict)
    """By report: the weekly time of which the days to read again are known, in `rereads` or read since."""
    logged_ambiguities: set[str] = field(default_factory=set)
    """What the provider found out about its API and the log has."""
    request_count: int = 0
    """HTTP requests of this account so far."""

    def report_state(self, report: str) -> ReportState:
        """Return the state of a report, new where there is none."""
        if report not in self.report_states:
            self.report_states[report] = ReportState(self.config.poll_settings.max_range)
        return self.report_states[report]

    def accept_requests(self, requests: PollRequests) -> None:
        """Apply what other threads requested since the last poll began."""
        self.config = requests.config
        if requests.clock_step:
            self._move_times(requests.clock_step)
        if requests.configuration_changed:
            self.next_poll_at = None
        for report, time_ranges in requests.rereads.items():
            self.add_reread(report, time_ranges)
        if requests.retry_rejected_key:
            self.pending_key = None
            if self.account.key_rejected:
                # Without a known key the next poll connects as if it were the first.
                self.key = self.backoff_until = self.next_poll_at = None

    def _move_times(self, step: timedelta) -> None:
        """Move the times until which is waited with a clock that was set back: no wait becomes longer or shorter."""
        # The coverage may be cut back, so that reports are due again.
        self.next_poll_at = None
        if self.backoff_until is not None:
            self.backoff_until -= step
        if self.key_retry_at is not None:
            self.key_retry_at -= step
        for state in self.report_states.values():
            if state.not_before is not None:
                state.not_before -= step
        for pending in self.rereads.values():
            if pending.not_before is not None:
                pending.not_before -= step

    def add_reread(self, report: str, time_ranges: Iterable[TimeRange]) -> None:
        """Add time ranges of a report that are to be read again."""
        pending = self.rereads.setdefault(report, PendingReread())
        pending.add(time_ranges)
        # A new request is tried at once, also where an earlier one has failed.
        pending.failures, pending.not_before = 0, None

    def observe_request(self, code: str) -> None:
        """Count an HTTP request."""
        self.request_count += 1
        self.account.record_request(code)

    def earliest_reread(self, now: datetime) -> datetime | None:
        """Return when waiting days may be read again; None where none wait."""
        times = [pending.not_before or now for pending in self.rereads.values()]
        return max(min(times), self.backoff_until or now) if times else None

    def earliest_poll(self) -> datetime | None:
        """Return when the account may be polled again; None is at once."""
        times = [time for time in (self.backoff_until, self.next_poll_at) if time is not None]
        return max(times, default=None)
