"""The state of an account that threads share: configuration, health and requests to the poller, behind one lock.

Poll threads record health. The timer thread (an hour has changed) and the reload thread (another configuration) leave
requests, which the next poll takes. Renderers read an immutable `AccountView`. Everything that the poller alone needs
between two polls is in `poll_session` instead.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from exporter.config.configuration import Account
from exporter.errors import KeyRejected, ProviderError
from exporter.model import DAY, Balance, Report, Secret
from exporter.polling.health import HealthSnapshot
from exporter.polling.reread import ReportDays, merge_ranges
from exporter.polling.schedule import BALANCE_REPORT, NAMES_REPORT, PollSettings
from exporter.pricing.valuer import LedgerAccount
from exporter.providers.base import Provider
from exporter.windows import TimeRange

KEY_PROBLEM = "key"
"""Stands in place of a report's name for a problem of the account's key."""
INTERNAL_ERROR_PROBLEM = "internal error"
"""Stands in place of a report's name for a poll, or a refresh of pushed events, that an unexpected exception ended."""
LEDGER_PROBLEM = "ledger"
"""Stands in place of a report's name for a poll, or a refresh of pushed events, that could not be stored."""


@dataclass(frozen=True, slots=True)
class Crosscheck:
    """A source that observes the same usage as an account: the source's accounts in the ledger, and their report."""

    source: str
    account_numbers: tuple[int, ...]
    report: str


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """What was left of an account's prepaid money when it was read last. Not stored: it is read again after a start."""

    read_at: datetime
    parts: tuple[Balance, ...]
    """One for each type."""

    @property
    def total(self) -> int:
        """The nano-USD of all parts."""
        return sum(part.value for part in self.parts)


@dataclass(frozen=True, slots=True)
class AccountConfig:
    """The configuration of one account; a reload replaces it as a whole."""

    account: Account
    ledger_account: LedgerAccount


RequestObserver = Callable[[str], None]
"""Called once per HTTP request with the status code as text, or `error` where no answer came."""


@dataclass(frozen=True, slots=True)
class PolledAccountConfig(AccountConfig):
    """The same for an account that is polled."""

    poll_settings: PollSettings
    read_key: Callable[[], Secret]
    """Raises ConfigError where the key cannot be read."""
    has_balance: bool
    """Whether the provider reports the balance of prepaid accounts."""
    connect: Callable[[Secret, RequestObserver], Provider]
    """Build the provider for a key. Raises KeyRejected where the prefix shows that it is of the wrong kind, and any
    other ProviderError where a request was made and failed: then it is tried again after the back-off."""

    @property
    def scheduled_reports(self) -> tuple[Report, ...]:
        """The reports to poll, in this order; unsupported ones are tried again after a day."""
        balance = (BALANCE_REPORT,) if self.has_balance else ()
        return (NAMES_REPORT, *self.ledger_account.reports, *balance)


@dataclass(frozen=True, slots=True)
class PollRequests:
    """What other threads requested of the poller since the account's last poll began."""

    config: PolledAccountConfig
    configuration_changed: bool
    hour_changed: bool
    retry_rejected_key: bool
    clock_step: timedelta
    """How far the clock was set back; zero where it was not."""
    rereads: Mapping[str, tuple[TimeRange, ...]]
    """Report -> the time ranges to read again, disjoint and oldest first."""


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
    balance: AccountBalance | None = None
    """None before it was read, and where the account is not prepaid."""

    @property
    def has_hourly_usage(self) -> bool:
        """Whether all usage is reported by the hour.

        Usage that is known per day is spread over the day's hours: such an hour says nothing against its baseline.
        """
        return all(report.width < DAY for report in self.reports if report.kind == "usage")


class AccountState:
    """One account. Every access takes the lock, and every value handed out is immutable."""

    _config: AccountConfig

    def __init__(self, config: AccountConfig) -> None:
        # Held for single assignments only, and no other lock is taken while it is held: no order of locks to keep.
        self._lock = threading.Lock()
        self._config = config
        self._crosschecks: tuple[Crosscheck, ...] = ()
        self._polls = Counter[str]()
        self._failures = Counter[str]()
        self._requests = Counter[str]()
        self._last_poll_seconds: dict[str, float] = {}
        self._problems: dict[str, ProviderError] = {}
        self._pending_key_error: ProviderError | None = None
        self._unsupported: frozenset[str] = frozenset()
        self._key_rejected = False
        self._balance: AccountBalance | None = None

    @property
    def account(self) -> Account:
        """The account's entry in the configuration."""
        with self._lock:
            return self._config.account

    @property
    def ledger_account(self) -> LedgerAccount:
        """The account as the ledger and pricing know it."""
        with self._lock:
            return self._config.ledger_account

    @property
    def reports(self) -> tuple[Report, ...]:
        """The reports that this account has: all but those that its plan does not support."""
        with self._lock:
            return self._supported_reports()

    @property
    def polled_reports(self) -> tuple[Report, ...]:
        """The reports that are polled, names among them; empty for an account of pushed events."""
        with self._lock:
            return self._polled_reports()

    @property
    def crosschecks(self) -> tuple[Crosscheck, ...]:
        """The sources that observe the same usage."""
        with self._lock:
            return self._crosschecks

    def set_crosschecks(self, crosschecks: tuple[Crosscheck, ...]) -> None:
        """Replace the sources that observe the same usage."""
        with self._lock:
            self._crosschecks = crosschecks

    @property
    def health(self) -> HealthSnapshot:
        """The account's health now."""
        with self._lock:
            return self._health()

    def view(self) -> AccountView:
        """Return the account as it is now, all of it from the same moment."""
        with self._lock:
            return AccountView(
                account=self._config.account,
                ledger_account=self._config.ledger_account,
                reports=self._supported_reports(),
                polled_reports=self._polled_reports(),
                health=self._health(),
                crosschecks=self._crosschecks,
                balance=self._balance,
            )

    def record_failure(self, report: str, error: ProviderError) -> None:
        """Count a failed poll, and keep the reason until the report succeeds."""
        with self._lock:
            self._failures[error.reason] += 1
            self._problems[report] = error

    def record_success(self, report: str) -> bool:
        """Remove a report's problem; return whether there was one."""
        with self._lock:
            self._unsupported -= {report}
            return self._problems.pop(report, None) is not None

    # The methods below this line need the lock to be held.

    def _supported_reports(self) -> tuple[Report, ...]:
        return tuple(report for report in self._config.ledger_account.reports if report.name not in self._unsupported)

    def _polled_reports(self) -> tuple[Report, ...]:
        return ()

    def _health(self) -> HealthSnapshot:
        return HealthSnapshot(
            polls=self._polls.copy(),
            failures=self._failures.copy(),
            requests=self._requests.copy(),
            last_poll_seconds=self._last_poll_seconds.copy(),
            problems=self._problems.copy(),
            pending_key_error=self._pending_key_error,
            unsupported=self._unsupported,
            key_rejected=self._key_rejected,
        )


class PolledAccount(AccountState):
    """An account whose provider is polled."""

    _config: PolledAccountConfig

    def __init__(self, config: PolledAccountConfig) -> None:
        super().__init__(config)
        self._configuration_changed = False
        self._hour_changed = False
        self._retry_rejected_key = False
        self._clock_step = timedelta(0)
        self._rereads: dict[str, tuple[TimeRange, ...]] = {}

    def _polled_reports(self) -> tuple[Report, ...]:
        has_balance = self._config.has_balance and BALANCE_REPORT.name not in self._unsupported
        return (NAMES_REPORT, *self._supported_reports(), *((BALANCE_REPORT,) if has_balance else ()))

    @property
    def config(self) -> PolledAccountConfig:
        """The newest configuration."""
        with self._lock:
            return self._config

    # Requests to the poller, from any thread.

    def reconfigure(self, config: PolledAccountConfig) -> None:
        """Replace the configuration; health and what the poller knows stay. Takes effect with the next poll."""
        with self._lock:
            self._config = config
            self._configuration_changed = True

    def retry_rejected_key(self) -> None:
        """Request that a rejected key is tried again: it may have been repaired at the provider.

        The problem stays until the provider has answered: an alert must not resolve because of a reload.
        """
        with self._lock:
            self._retry_rejected_key = True

    def on_hour_change(self) -> None:
        """Request that the account is valued and published again, even if nothing is due."""
        with self._lock:
            self._hour_changed = True

    def on_clock_set_back(self, step: timedelta) -> None:
        """Request that the times until which the poller waits are moved with a clock that was set back."""
        with self._lock:
            self._clock_step += step

    def request_reread(self, reports: Iterable[ReportDays]) -> None:
        """Request that days are read again; days that are requested twice before they are read are read once."""
        with self._lock:
            for days in reports:
                waiting = self._rereads.get(days.report.name, ())
                self._rereads[days.report.name] = merge_ranges([*waiting, days.time_range])

    @property
    def reread_requested(self) -> bool:
        """Whether a request to read days again is waiting to be taken."""
        with self._lock:
            return bool(self._rereads)

    @property
    def poll_requested(self) -> bool:
        """Whether a request is waiting that the poller must act on before the next poll is due."""
        with self._lock:
            retry = self._retry_rejected_key and self._key_rejected
            return self._configuration_changed or self._hour_changed or retry or bool(self._clock_step)

    def take_requests(self) -> PollRequests:
        """Return the waiting requests and clear them. A request that comes later is for the next poll."""
        with self._lock:
            requests = PollRequests(
                config=self._config,
                configuration_changed=self._configuration_changed,
                hour_changed=self._hour_changed,
                retry_rejected_key=self._retry_rejected_key,
                clock_step=self._clock_step,
                rereads=self._rereads,
            )
            self._rereads = {}
            self._configuration_changed = self._hour_changed = self._retry_rejected_key = False
            self._clock_step = timedelta(0)
            return requests

    # Results of polls, from the thread that polls the account.

    def record_poll(self, report: str) -> None:
        """Count a poll of a report."""
        with self._lock:
            self._polls[report] += 1

    def record_request(self, code: str) -> None:
        """Count an HTTP request by its status code, or `error` where no answer came."""
        with self._lock:
            self._requests[code] += 1

    def record_balance(self, balance: AccountBalance | None) -> None:
        """Store the newest balance; None for an account that is not prepaid."""
        with self._lock:
            self._balance = balance

    def record_duration(self, report: str, seconds: float) -> None:
        """Store how long the newest poll of a report took."""
        with self._lock:
            self._last_poll_seconds[report] = seconds

    def record_reread_failure(self, error: ProviderError) -> None:
        """Count a failure to read days again. It is no problem of the account, whose polls go on."""
        with self._lock:
            self._failures[error.reason] += 1

    def mark_unsupported(self, report: str) -> bool:
        """Record that this account does not have an optional report; return whether that is new."""
        with self._lock:
            new = report not in self._unsupported
            self._problems.pop(report, None)
            self._unsupported |= {report}
            if report == BALANCE_REPORT.name:
                self._balance = None
            return new

    @property
    def failing(self) -> bool:
        """Whether there is any problem."""
        with self._lock:
            return bool(self._problems)

    @property
    def key_rejected(self) -> bool:
        """Whether the key was rejected: it is tried again once an hour, when it changes, and after a reload."""
        with self._lock:
            return self._key_rejected

    def accept_key(self) -> None:
        """Forget the problems and unsupported reports of the key before: another key may have other permissions."""
        with self._lock:
            self._key_rejected = False
            self._pending_key_error = None
            self._problems = {}
            self._unsupported = frozenset()

    def reject_key(self, error: KeyRejected, *, count: bool) -> bool:
        """Record that the key was rejected, as the account's only problem; return whether that is new.

        `count` says whether a request failed because of it: a rejection by prefix or an unreadable file is none.
        """
        with self._lock:
            new = not self._key_rejected
            self._key_rejected = True
            self._problems = {KEY_PROBLEM: error}
            if count:
                self._failures[error.reason] += 1
            return new

    def set_pending_key_error(self, error: ProviderError | None) -> bool:
        """Record why a changed key is not used, None where there is none; return whether its text is new."""
        with self._lock:
            new = str(self._pending_key_error) != str(error)
            self._pending_key_error = error
            return new
