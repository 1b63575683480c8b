"""Pulls: who is asked when, and what is done with each kind of error. It is the only one that tries again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from random import SystemRandom

from exporter.errors import (
    ConfigError,
    KeyRejected,
    LedgerError,
    Malformed,
    ProviderError,
    RateLimited,
    Unavailable,
    Unsupported,
)
from exporter.ledger import Coverage, Ledger
from exporter.logs import log_event
from exporter.model import DAY, HOUR, Report, Secret
from exporter.polling.account_state import PolledAccount, ReportState
from exporter.polling.schedule import NAMES_REPORT, completes_refresh, next_due, next_partial, next_time_range
from exporter.pricing.valuer import Valuer
from exporter.providers.base import Provider
from exporter.windows import TimeRange

logger = logging.getLogger(__name__)

_random = SystemRandom()

INITIAL_BACKOFF = timedelta(seconds=30)
MAX_BACKOFF = timedelta(minutes=15)
UNSUPPORTED_RETRY_INTERVAL = timedelta(days=1)
MIN_REQUESTS_TO_SPLIT = 20
"""A walk of this many requests that meets a rate limit is cut in halves the next time."""


class Poller:
    """Visits accounts from a small pool of threads; an account is visited by one thread at a time."""

    def __init__(
        self,
        ledger: Ledger,
        valuer: Valuer,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        publish: Callable[[PolledAccount], None],
        workers: int = 16,
    ) -> None:
        self._ledger = ledger
        self._valuer = valuer
        self._clock = clock
        self._monotonic = monotonic
        self._publish = publish
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="poll")
        self._account_states: tuple[PolledAccount, ...] = ()
        self._busy: dict[str, bool] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.fatal: LedgerError | None = None
        """Set when the disk is wrong: the process has to end."""
        self.internal_errors = 0

    def set_accounts(self, account_states: Sequence[PolledAccount]) -> None:
        """Replace the accounts that are visited."""
        with self._lock:
            gone = [
                member
                for member in self._account_states
                if member not in account_states and member.account.name not in self._busy
            ]
            self._account_states = tuple(account_states)
        for member in gone:
            _disconnect(member)

    def tick(self) -> None:
        """Send a thread to every account of which something is due. Returns at once.

        Accounts that failed last time may hold half of the threads at most, so that many hanging ones never
        delay those that answer.
        """
        now = self._clock()
        for member in self._account_states:
            with self._lock:
                name = member.account.name
                ailing = bool(member.health.problems)
                if name in self._busy or (ailing and sum(self._busy.values()) >= self._workers // 2):
                    continue
                if self._closing.is_set() or not (member.hour_changed or self._is_due(member, now)):
                    continue
                self._busy[name] = ailing
            self._pool.submit(self._poll_account, member)

    def on_hour_change(self) -> None:
        """Have every account valued and shown anew at the next tick, also those that are not to be asked."""
        for member in self._account_states:
            member.hour_changed = True

    @property
    def idle(self) -> bool:
        """Whether no account is being visited."""
        return not self._busy

    def close(self) -> None:
        """Cut the requests under way, and ask no more."""
        self._closing.set()
        for member in self._account_states:
            _disconnect(member)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _is_due(self, account_state: PolledAccount, now: datetime) -> bool:
        return all(
            moment is None or moment <= now for moment in (account_state.backoff_until, account_state.next_poll_at)
        )

    def _coverage(self, account_state: PolledAccount, report: Report) -> Coverage | None:
        return self._ledger.buckets.coverage(account_state.ledger_account.id, report.name)

    def _next_time_range(self, account_state: PolledAccount, report: Report, now: datetime) -> TimeRange | None:
        pending = account_state.report_state(report)
        if pending.not_before is not None and now < pending.not_before:
            return None
        return next_time_range(
            report,
            self._coverage(account_state, report),
            account_state.poll_settings,
            now,
            pending.max_range,
            pending.partial_refresh,
        )

    def _next_poll_at(self, account_state: PolledAccount, now: datetime) -> datetime:
        return min(
            max(
                next_due(report, self._coverage(account_state, report), account_state.poll_settings, now),
                account_state.report_state(report).not_before or now,
            )
            for report in account_state.scheduled_reports
        )

    def _poll_account(self, account_state: PolledAccount) -> None:
        turned, account_state.hour_changed = account_state.hour_changed, False
        try:
            if self._is_due(account_state, self._clock()) and self._connect(account_state):
                self._poll_reports(account_state)
            self._valuer.value_days(account_state.ledger_account, self._clock(), hour_changed=turned)
            account_state.next_poll_at = self._next_poll_at(account_state, self._clock())
            account_state.health.record_success("visit")
            self._publish(account_state)
        except LedgerError as error:
            self.fatal = error
        except Exception as error:  # noqa: BLE001 - a thread's top: a defect in one account must not end the others
            if self._closing.is_set():
                return  # its connections were closed under it
            self.internal_errors += 1
            account_state.health.record_failure(
                "visit", Malformed("a visit broke off for a defect of this exporter; its log tells more")
            )
            account_state.backoff_until = self._clock() + MAX_BACKOFF
            log_event(logger, "error", "Visit broke off", account=account_state.account.name, error=error)
        finally:
            with self._lock:
                del self._busy[account_state.account.name]
                gone = account_state not in self._account_states
            if gone:
                _disconnect(account_state)

    def _connect(self, account_state: PolledAccount) -> bool:
        """Read the key again, which may have been changed; tell whether there is someone to ask."""
        working = account_state.provider is not None and not account_state.key_rejected
        try:
            key = account_state.read_key()
            if key == account_state.key:
                account_state.pending_key = account_state.health.pending_key_error = None
                self._schedule_key_check(account_state)
                return not account_state.key_rejected
            if working:
                self._replace_key(account_state, key)
            else:
                _disconnect(account_state)
                account_state.key, account_state.key_rejected, account_state.provider = key, False, None
                self._use_key(account_state, key, account_state.connect(key, account_state.health))
        except ConfigError as error:
            unreadable = KeyRejected("key_rejected", str(error), "Make the key readable; no restart is needed.")
            if not working:
                account_state.key = None
                self._mark_key_rejected(account_state, unreadable)
                return False
            self._keep_current_key(account_state, unreadable)
        except KeyRejected as error:
            self._mark_key_rejected(account_state, error)
            return False
        return True

    def _replace_key(self, account_state: PolledAccount, key: Secret) -> None:
        """Put a new key in the place of the working one once the provider has accepted it."""
        if key == account_state.pending_key:
            return
        provider = None
        try:
            provider = account_state.connect(key, account_state.health)
            provider.verify()
        except ProviderError as error:
            if provider is not None:
                provider.close()
            # Only a rejection is the key's own; after anything else it is tried again on the next visit.
            account_state.pending_key = key if isinstance(error, KeyRejected) else None
            self._keep_current_key(account_state, error)
            return
        _disconnect(account_state)
        self._use_key(account_state, key, provider)
        log_event(logger, "info", "Key changed", account=account_state.account.name)

    def _use_key(self, account_state: PolledAccount, key: Secret, provider: Provider) -> None:
        account_state.key, account_state.provider, account_state.pending_key = key, provider, None
        account_state.report_states.clear()
        account_state.health.reset()

    def _keep_current_key(self, account_state: PolledAccount, error: ProviderError) -> None:
        if str(account_state.health.pending_key_error) != str(error):
            fields = {"account": account_state.account.name, "reason": error.reason, "error": error}
            log_event(logger, "error", "New key not used; the one before it still is", **fields)
        account_state.health.pending_key_error = error

    def _schedule_key_check(self, account_state: PolledAccount) -> None:
        if account_state.key_rejected:
            account_state.backoff_until = self._clock() + account_state.poll_settings.poll_interval

    def _poll_reports(self, account_state: PolledAccount) -> None:
        for report in account_state.scheduled_reports:
            while not self._closing.is_set():
                now = self._clock()
                span = self._next_time_range(account_state, report, now)
                if span is None:
                    break
                if not self._poll_time_range(account_state, report, span, now):
                    return

    def _poll_time_range(
        self, account_state: PolledAccount, report: Report, time_range: TimeRange, now: datetime
    ) -> bool:
        """Ask for one span; tell whether the visit may go on."""
        health, before = account_state.health, account_state.health.requests.total()
        started = self._monotonic()
        health.polls[report.name] += 1
        try:
            self._fetch_and_store(account_state, report, time_range, now)
        except RateLimited as error:
            self._reduce_max_range(account_state, report, time_range, health.requests.total() - before)
            until = self._record_failure(account_state, report, error, error.retry_after)
            if report is NAMES_REPORT:
                return True  # names matter least: where only they are limited, use goes on
            account_state.backoff_until = until
            return False
        except (KeyRejected, Unsupported) as error:
            return self._handle_rejection(account_state, report, error)
        except (Unavailable, Malformed) as error:
            until = self._record_failure(account_state, report, error)
            if isinstance(error, Unavailable) and not error.reached:
                account_state.backoff_until = until
                return False
            return True
        finally:
            health.last_poll_seconds[report.name] = self._monotonic() - started
        return True

    def _fetch_and_store(
        self, account_state: PolledAccount, report: Report, time_range: TimeRange, now: datetime
    ) -> None:
        assert account_state.provider is not None  # noqa: S101 - _connect came first
        number, pending, covered = (
            account_state.ledger_account.id,
            account_state.report_state(report),
            self._coverage(account_state, report),
        )
        if report is NAMES_REPORT:
            self._ledger.names.put(number, account_state.provider.names())
            self._ledger.buckets.put(number, report.name, time_range, ())
        else:
            buckets = list(account_state.provider.fetch(report, time_range.start, time_range.end))
            settled = completes_refresh(report, account_state.poll_settings, time_range, now, pending.partial_refresh)
            self._ledger.buckets.put(number, report.name, time_range, buckets, completes_refresh=settled)
        pending.partial_refresh = next_partial(time_range, covered, now, pending.partial_refresh)
        pending.failures, pending.not_before = 0, None
        if account_state.health.problems.get(report.name) is not None:
            log_event(logger, "info", "Poll succeeded again", account=account_state.account.name, report=report.name)
        account_state.health.record_success(report.name)

    def _handle_rejection(self, account_state: PolledAccount, report: Report, error: KeyRejected | Unsupported) -> bool:
        # Only a missing scope can be a matter of this report: a key that is refused is refused for everything.
        if report.optional and (isinstance(error, Unsupported) or error.reason == "missing_scope"):
            account_state.report_state(report).not_before = self._clock() + UNSUPPORTED_RETRY_INTERVAL
            if account_state.health.mark_unsupported(report.name, error):
                fields = {"account": account_state.account.name, "report": report.name, "error": error}
                log_event(logger, "info", "Report is not available to this account", **fields)
            return True
        if isinstance(error, KeyRejected):
            account_state.health.failures[report.name, error.reason] += 1
            self._mark_key_rejected(account_state, error)
            return False
        self._record_failure(account_state, report, error)
        return True

    def _mark_key_rejected(self, account_state: PolledAccount, error: KeyRejected) -> None:
        if not account_state.key_rejected:
            fields = {
                "account": account_state.account.name,
                "reason": error.reason,
                "error": error,
                "advice": error.advice,
            }
            log_event(logger, "error", "Key rejected; not asking until the key changes", **fields)
        account_state.key_rejected = True
        account_state.health.problems = {"key": error}
        self._schedule_key_check(account_state)

    def _record_failure(
        self, account_state: PolledAccount, report: Report, error: ProviderError, retry_after: float | None = None
    ) -> datetime:
        """Tell of a poll that failed, unless it was cut by us, and return when the report may be asked again."""
        if not self._closing.is_set():
            account_state.health.record_failure(report.name, error)
            fields = {
                "account": account_state.account.name,
                "report": report.name,
                "reason": error.reason,
                "error": error,
            }
            log_event(logger, "warn", "Poll failed", **fields)
        pending = account_state.report_state(report)
        pending.not_before = self._back_off(pending, retry_after)
        return pending.not_before

    def _reduce_max_range(
        self, account_state: PolledAccount, report: Report, time_range: TimeRange, requests: int
    ) -> None:
        if requests >= MIN_REQUESTS_TO_SPLIT:
            account_state.report_state(report).max_range = max(HOUR, (time_range.end - time_range.start) / 2)

    def _back_off(self, report_state: ReportState, retry_after: float | None = None) -> datetime:
        """Back off with jitter, or as long as the provider says (a day at most)."""
        report_state.failures += 1
        if retry_after:
            return self._clock() + timedelta(seconds=min(retry_after, DAY.total_seconds()) + _random.uniform(0, 1))
        grown = min(MAX_BACKOFF, INITIAL_BACKOFF * (1 << min(report_state.failures - 1, 10)))
        return self._clock() + grown * _random.uniform(0.75, 1.25)


def _disconnect(account_state: PolledAccount) -> None:
    if account_state.provider is not None:
        account_state.provider.close()
