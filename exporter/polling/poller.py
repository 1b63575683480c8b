"""Polls providers: when each account is polled, and what follows from each kind of error.

This is the only place that tries anything again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from random import SystemRandom
from typing import NamedTuple

from exporter.errors import (
    ConfigError,
    InternalError,
    KeyRejected,
    LedgerError,
    LedgerUnavailable,
    Malformed,
    ProviderError,
    RateLimited,
    StorageError,
    Unavailable,
    Unsupported,
)
from exporter.ledger import Coverage, DaysRead, Ledger
from exporter.logs import log_event
from exporter.model import DAY, HOUR, Report, RowLabels, Secret
from exporter.polling.account_state import (
    INTERNAL_ERROR_PROBLEM,
    KEY_PROBLEM,
    LEDGER_PROBLEM,
    AccountBalance,
    PolledAccount,
)
from exporter.polling.daily_usage import spread_daily_usage
from exporter.polling.poll_session import PollSession
from exporter.polling.reread import PendingReread, format_days
from exporter.polling.schedule import (
    BALANCE_REPORT,
    NAMES_REPORT,
    PartialRefresh,
    completed_days,
    completes_refresh,
    history_start,
    next_due,
    next_partial,
    next_time_range,
    next_weekly_range,
    reread_time,
    weekly_window,
)
from exporter.pricing.valuer import Valuer
from exporter.providers.base import Provider, ProviderWithBalance
from exporter.providers.parsing import Ambiguities, StoredBuckets, clean_balance, clean_bucket, clean_names
from exporter.windows import TimeRange

logger = logging.getLogger(__name__)

_random = SystemRandom()

INITIAL_BACKOFF = timedelta(seconds=30)
MAX_BACKOFF = timedelta(minutes=15)
UNSUPPORTED_RETRY_INTERVAL = timedelta(days=1)
KEY_RETRY_INTERVAL = HOUR
"""A key that the provider rejected is tried again after this time: it may have been repaired at the provider."""
MIN_REQUESTS_TO_SPLIT = 20
"""A time range that took this many requests before it met a rate limit is halved for the next attempt."""
MAX_REREAD_PARTS = 8
"""Parts of past days that are read again before the account is valued and published in between."""
MAX_REREAD_FAILURES = 24
"""Failures in a row after which days are not read again any more, about five hours after the first."""
MIN_CLOCK_STEP = timedelta(seconds=1)
"""A clock that is set back by less only makes waits longer by as much."""
MAX_CLOCK_ERROR = timedelta(minutes=1)
"""After a clock was ahead by more, what was read meanwhile is read again: too little of it was complete."""


class _ActivePoll(NamedTuple):
    session: PollSession
    was_failing: bool
    """Whether the account had a problem when the poll began."""
    rereads: bool
    """Whether the poll also reads past days again, after everything that is due."""


class _TickTime(NamedTuple):
    now: datetime
    monotonic: float


class Poller:
    """Polls accounts with a small pool of threads; an account is polled by one thread at a time.

    `jitter` returns a random number in [0, 1): it spreads the retries of accounts that failed together.
    """

    def __init__(
        self,
        ledger: Ledger,
        valuer: Valuer,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        publish: Callable[[PolledAccount], None],
        workers: int = 16,
        jitter: Callable[[], float] = _random.random,
    ) -> None:
        self._ledger = ledger
        self._valuer = valuer
        self._clock = clock
        self._monotonic = monotonic
        self._publish = publish
        self._jitter = jitter
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="poll")
        self._max_failing = max(1, workers // 2)
        self._max_rereading = max(1, workers // 2)
        # Guards _sessions, _active, and the fields `provider`, `due_at` and `removed` of sessions. An account's lock
        # may be taken under it, never the other way round.
        self._condition = threading.Condition()
        self._sessions: tuple[PollSession, ...] = ()
        self._active: dict[str, _ActivePoll] = {}
        """By account name: after a reload two sessions of one name write to the same account of the ledger."""
        self._closing = threading.Event()
        self.fatal: LedgerError | None = None
        """Set when the ledger cannot be read or written: the process has to end."""
        self._last_tick: _TickTime | None = None
        self.internal_errors = 0

    def set_accounts(self, accounts: Sequence[PolledAccount]) -> None:
        """Replace the accounts that are polled; an account that stays keeps its session."""
        with self._condition:
            known = {session.account: session for session in self._sessions}
            self._sessions = tuple(
                known.pop(account) if account in known else PollSession(account, account.config) for account in accounts
            )
            for session in known.values():
                session.removed = True
            active = [poll.session for poll in self._active.values()]
        for session in known.values():
            # The provider of a session with a poll under way is closed at the end of that poll.
            if session not in active:
                self._attach(session, None)

    def tick(self) -> None:
        """Start a poll of every account that is due. Returns at once.

        Accounts that failed last time may hold half of the threads at most: providers that hang never delay those
        that answer. So may accounts of which past days are read again: a request for all accounts delays no poll.
        """
        now = self._clock()
        self._detect_clock_step(now)
        for session in self._sessions:
            was_failing = session.account.failing
            requested = session.account.poll_requested
            reread_requested = session.account.reread_requested
            name = session.account.account.name
            with self._condition:
                if self._closing.is_set():
                    return
                reread_due = reread_requested or (session.reread_at is not None and session.reread_at <= now)
                rereads = reread_due and self._may_reread()
                due = requested or session.due_at is None or session.due_at <= now or rereads
                blocked = name in self._active or (was_failing and not self._may_poll_failing())
                if session.removed or not due or blocked:
                    continue
                self._active[name] = _ActivePoll(session, was_failing, rereads)
            self._pool.submit(self._poll_account, session, rereads=rereads)

    def _detect_clock_step(self, now: datetime) -> None:
        """Where the clock was set back since the last tick, have every account's waits moved with it.

        Due times are times of day, since polls follow the providers' hours. Without this, everything would wait until
        the clock has made up for the step. A step forwards needs nothing: what it makes due is polled.
        """
        last, self._last_tick = self._last_tick, _TickTime(now, self._monotonic())
        if last is None:
            return
        elapsed = timedelta(seconds=max(0.0, self._last_tick.monotonic - last.monotonic))
        step = last.now + elapsed - now
        if step >= MIN_CLOCK_STEP:
            log_event(logger, "warn", "The clock was set back", seconds=round(step.total_seconds(), 3))
            for session in self._sessions:
                session.account.on_clock_set_back(step)

    def _may_poll_failing(self) -> bool:
        return sum(poll.was_failing for poll in self._active.values()) < self._max_failing

    def _may_reread(self) -> bool:
        return sum(poll.rereads for poll in self._active.values()) < self._max_rereading

    def on_hour_change(self) -> None:
        """Have every account valued and published at the next tick, also those of which nothing is due."""
        for session in self._sessions:
            session.account.on_hour_change()

    @property
    def idle(self) -> bool:
        """Whether no poll is under way."""
        return self.active_polls == 0

    @property
    def active_polls(self) -> int:
        """How many accounts are being polled."""
        with self._condition:
            return len(self._active)

    def wait_until_idle(self, timeout: float) -> bool:
        """Block until no poll is under way, at most `timeout` seconds; return whether none is."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._active, timeout)

    @property
    def next_poll_at(self) -> datetime | None:
        """When the next account is due; None while a poll is under way, and where one is due at once."""
        with self._condition:
            times = [session.due_at for session in self._sessions]
            known = [time for time in times if time is not None]
            return None if self._active or len(known) < len(times) else min(known, default=None)

    def close(self) -> None:
        """Cut the requests under way, and start no other poll."""
        self._closing.set()
        for session in self._sessions:
            self._attach(session, None)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _attach(self, session: PollSession, provider: Provider | None) -> None:
        """Replace the provider of a session, and close the one before."""
        with self._condition:
            previous = session.provider
            # Once closing has begun nobody would close another provider, and its requests would delay the stop.
            unusable = provider if self._closing.is_set() else None
            # While a poll runs it keeps its provider, closed or not: a closed one fails, an absent one would not.
            if provider is not None or session not in [poll.session for poll in self._active.values()]:
                session.provider = provider
        for closed in (previous, unusable):
            if closed is not None:
                closed.close()

    def _coverage(self, session: PollSession, report: Report) -> Coverage | None:
        if report is BALANCE_REPORT:
            return session.balance_coverage  # not stored: after a start, and with another key, it is read at once
        return self._ledger.buckets.coverage(session.config.ledger_account.id, report.name)

    def _next_time_range(self, session: PollSession, report: Report, now: datetime) -> TimeRange | None:
        state = session.report_state(report.name)
        if state.not_before is not None and now < state.not_before:
            return None
        return next_time_range(
            report,
            self._coverage(session, report),
            session.config.poll_settings,
            now,
            state.max_range,
            state.partial_refresh,
        )

    def _next_poll_at(self, session: PollSession, now: datetime) -> datetime:
        times = []
        for report in session.config.scheduled_reports:
            due = next_due(report, self._coverage(session, report), session.config.poll_settings, now)
            times.append(max(due, session.report_state(report.name).not_before or now))
        return min(times)

    def _poll_account(self, session: PollSession, *, rereads: bool) -> None:
        account = session.account
        try:
            requests = account.take_requests()
            session.accept_requests(requests)
            self._restore_rereads(session)
            self._truncate_coverages(session)
            if self._may_request(session, rereads=rereads) and self._connect(session):
                may_go_on = self._poll_reports(session)
                if may_go_on:
                    self._schedule_weekly_rereads(session)
                if may_go_on and rereads:
                    self._reread(session)
            self._valuer.value_days(session.config.ledger_account, self._clock(), hour_changed=requests.hour_changed)
            session.next_poll_at = self._next_poll_at(session, self._clock())
            account.record_success(INTERNAL_ERROR_PROBLEM)
            self._record_storage(session)
            self._publish(account)
        except LedgerUnavailable as error:
            self._record_storage_failure(session, error)
        except LedgerError as error:
            self.fatal = error
        except Exception as error:  # noqa: BLE001 - the top of a thread: a bug in one account must not end the others
            # Counted, logged and exported as the account's problem. While closing, connections are closed under the
            # poll, so that any error may follow.
            if not self._closing.is_set():
                self._record_internal_error(session, error)
        finally:
            with self._condition:
                del self._active[session.config.account.name]
                session.due_at = session.earliest_poll()
                session.reread_at = session.earliest_reread(self._clock())
                removed = session.removed
                self._condition.notify_all()
            if removed:
                self._attach(session, None)

    def _restore_rereads(self, session: PollSession) -> None:
        """Have read again what an earlier process found to be read while the clock was wrong, and did not finish."""
        if session.rereads_restored:
            return
        account = session.config.account.name
        for report, time_range in self._ledger.buckets.pending_rereads(session.config.ledger_account.id).items():
            session.add_reread(report, [time_range])
            fields = {"account": account, "report": report, "days": format_days(time_range)}
            log_event(logger, "info", "Reading again what was read while the clock was ahead", **fields)
        session.rereads_restored = True

    def _truncate_coverages(self, session: PollSession) -> None:
        """Cut back coverages that lie beyond now, and have read again what was read while the clock was ahead."""
        config, now = session.config, self._clock()
        for report in config.scheduled_reports:
            coverage = self._coverage(session, report)
            if coverage is None or coverage.until <= now:
                continue
            if report is BALANCE_REPORT:
                session.balance_coverage = None
                continue
            ahead = coverage.until - now
            needs_refresh = ahead > MAX_CLOCK_ERROR
            session.report_state(report.name).partial_refresh = None
            reread = None
            if needs_refresh and report is not NAMES_REPORT:
                # For how long the clock was ahead is not known: the refresh reads what may still be revised, and this
                # the rest of the history, in the background.
                start = max(coverage.since, history_start(report, config.poll_settings, now))
                reread = TimeRange(start, now) if start < now else None
            self._ledger.buckets.truncate_coverage(
                config.ledger_account.id, report.name, now, needs_refresh=needs_refresh, reread=reread
            )
            if reread is not None:
                session.add_reread(report.name, [reread])
            fields = {"account": config.account.name, "report": report.name, "seconds": round(ahead.total_seconds(), 3)}
            log_event(logger, "warn", "The clock was ahead at an earlier poll; reading again", **fields)

    def _may_request(self, session: PollSession, *, rereads: bool) -> bool:
        """Return whether anything may be requested of the provider now."""
        now = self._clock()
        times = [session.earliest_poll()]
        if rereads:
            times.append(session.earliest_reread(now))
        # No time for a poll is at once, and no time for a reread is never.
        return times[0] is None or any(time is not None and time <= now for time in times)

    def _record_internal_error(self, session: PollSession, error: Exception) -> None:
        with self._condition:
            self.internal_errors += 1
        # The exception's text may hold anything that the provider sent: it is for the log alone.
        problem = InternalError("the poll failed with an internal error of this exporter; see its log")
        session.account.record_failure(INTERNAL_ERROR_PROBLEM, problem)
        session.backoff_until = self._clock() + MAX_BACKOFF
        # If days that were to be read again are the cause, they must not stop the account's polls for good.
        dropped = ", ".join(session.rereads) or None
        session.rereads.clear()
        name = session.config.account.name
        fields = {"account": name, "reason": problem.reason, "dropped_rereads": dropped, "error": error}
        log_event(logger, "error", "Poll failed with an internal error", **fields)
        self._publish_failure(session)

    def _record_storage(self, session: PollSession) -> None:
        """End the problem of a ledger that was unavailable, once everything of a poll is stored."""
        session.report_state(LEDGER_PROBLEM).failures = 0
        if session.account.record_success(LEDGER_PROBLEM):
            log_event(logger, "info", "Ledger available again", account=session.config.account.name)

    def _record_storage_failure(self, session: PollSession, error: LedgerUnavailable) -> None:
        """Report that a poll could not be stored: the stored buckets stay, and it is tried again after the back-off."""
        session.backoff_until = self._record_failure(session, LEDGER_PROBLEM, StorageError(str(error)))
        self._publish_failure(session)

    def _publish_failure(self, session: PollSession) -> None:
        """Export the failure. What ended the poll may end this as well: then the previous numbers stand beside it."""
        try:
            self._publish(session.account)
        except LedgerUnavailable as error:
            # Its problem is exported with the previous numbers; the next poll tries again.
            log_event(logger, "debug", "The account cannot be read", account=session.config.account.name, error=error)
        except LedgerError as error:
            self.fatal = error
        except Exception as error:  # noqa: BLE001 - still at the top of the thread: nothing above handles it
            # Not counted again: it is the poll that was counted before.
            fields = {"account": session.config.account.name, "error": error}
            log_event(logger, "error", "The account's numbers cannot be brought up to date", **fields)

    def _connect(self, session: PollSession) -> bool:
        """Read the key, which may have changed, and connect where needed; return whether reports can be polled."""
        account = session.account
        working = session.provider is not None and not account.key_rejected
        try:
            key = session.config.read_key()
        except ConfigError as error:
            unreadable = KeyRejected("key_rejected", str(error), "Make the key readable; no restart is needed.")
            if working:
                self._keep_current_key(session, unreadable)
                return True
            session.key = None
            self._reject_key(session, unreadable, count=False)
            return False
        if key == session.key:
            session.pending_key = None
            account.set_pending_key_error(None)
            if account.key_rejected:
                return self._may_retry_key(session)
            return True
        if working:
            self._replace_key(session, key)
            return True
        return self._connect_with(session, key)

    def _connect_with(self, session: PollSession, key: Secret) -> bool:
        """Use a key where there is no working one; return whether reports can be polled."""
        try:
            provider = session.config.connect(key, session.observe_request)
        except KeyRejected as error:
            session.key = key  # from now on only another key is tried
            self._reject_key(session, error, count=False, new_key=True)
            return False
        except ProviderError as error:
            session.backoff_until = self._record_failure(session, KEY_PROBLEM, error)
            return False
        self._use_key(session, key, provider)
        return True

    def _replace_key(self, session: PollSession, key: Secret) -> None:
        """Replace the working key by another one, once the provider has accepted that one."""
        if key == session.pending_key:
            return
        provider = None
        try:
            provider = session.config.connect(key, session.observe_request)
            provider.verify()
        except ProviderError as error:
            if provider is not None:
                provider.close()
            # Only a rejection is about the key itself; after any other failure it is tried again at the next poll.
            session.pending_key = key if isinstance(error, KeyRejected) else None
            self._keep_current_key(session, error)
            return
        self._use_key(session, key, provider)
        log_event(logger, "info", "Key changed", account=session.config.account.name)

    def _use_key(self, session: PollSession, key: Secret, provider: Provider) -> None:
        self._attach(session, provider)
        session.key = key
        session.pending_key = session.key_retry_at = None
        session.balance_coverage = None
        session.report_states.clear()
        session.account.accept_key()

    def _keep_current_key(self, session: PollSession, error: ProviderError) -> None:
        if session.account.set_pending_key_error(error):
            fields = {"account": session.config.account.name, "reason": error.reason, "error": error}
            log_event(logger, "error", "New key not used; the previous key stays in use", **fields)

    def _reject_key(self, session: PollSession, error: KeyRejected, *, count: bool, new_key: bool = False) -> None:
        if session.account.reject_key(error, count=count) or new_key:
            fields = {"account": session.config.account.name, "reason": error.reason, "error": error}
            # `count`: the provider rejected it. A key of the wrong kind, or an unreadable one, was never sent.
            consequence = "it is tried again once an hour" if count else "polling stops until the key changes"
            log_event(logger, "error", f"Key rejected; {consequence}", **fields, advice=error.advice)
        self._schedule_key_check(session)

    def _may_retry_key(self, session: PollSession) -> bool:
        """Return whether a rejected key is due to be tried again; schedule the next look at the key otherwise.

        The problem stays until the provider has accepted the key, so that its alert does not resolve every hour.
        """
        if session.key is None or session.key_retry_at is None or self._clock() < session.key_retry_at:
            self._schedule_key_check(session)
            return False
        session.key_retry_at = self._clock() + KEY_RETRY_INTERVAL
        try:
            # Another object: the present one may have concluded from the rejection what the plan includes.
            self._attach(session, session.config.connect(session.key, session.observe_request))
        except ProviderError:
            self._schedule_key_check(session)
            return False
        session.report_states.clear()
        return True

    def _schedule_key_check(self, session: PollSession) -> None:
        """Have the key read again after a poll interval: it may have been replaced."""
        session.backoff_until = self._clock() + session.config.poll_settings.poll_interval

    def _poll_reports(self, session: PollSession) -> bool:
        """Poll every report that is due; return whether the account may be requested further."""
        for report in session.config.scheduled_reports:
            while not self._closing.is_set():
                now = self._clock()
                time_range = self._next_time_range(session, report, now)
                if time_range is None:
                    break
                if not self._poll_time_range(session, report, time_range, now):
                    return False
        return not self._closing.is_set()

    def _schedule_weekly_rereads(self, session: PollSession) -> None:
        """Once a week, have older bills read again: providers correct them after the settle period too."""
        config = session.config
        now = self._clock()
        due_since = reread_time(config.poll_settings, now)
        for report in config.ledger_account.final_reports:
            coverage = self._coverage(session, report)
            if coverage is None or session.weekly_reread_times.get(report.name) == due_since:
                continue
            session.weekly_reread_times[report.name] = due_since
            window = weekly_window(report, coverage, config.poll_settings, now)
            last_reads = self._ledger.buckets.last_reads(config.ledger_account.id, [report.name], window)
            time_range = next_weekly_range(report, coverage, config.poll_settings, last_reads, now)
            if time_range is not None:
                session.add_reread(report.name, [time_range])

    def _reread(self, session: PollSession) -> None:
        """Read waiting days again, part by part, until polls are due again or a few parts were read."""
        reports = {report.name: report for report in session.config.ledger_account.reports}
        for _ in range(MAX_REREAD_PARTS):
            now = self._clock()
            due = [name for name, pending in session.rereads.items() if (pending.not_before or now) <= now]
            if not due or self._closing.is_set() or self._next_poll_at(session, now) <= now:
                return
            name = due[0]
            report, pending = reports.get(name), session.rereads[name]
            coverage = None if report is None else self._coverage(session, report)
            if report is None or coverage is None:
                del session.rereads[name]
                continue
            part = pending.next_part(report, coverage, session.report_state(name).max_range)
            if part is None:
                if pending.time_ranges:
                    # After an outage the coverage ends before these days: polls have to reach them first.
                    pending.not_before = now + session.config.poll_settings.poll_interval
                else:
                    del session.rereads[name]
            elif not self._reread_part(session, report, pending, part, coverage, now):
                return

    def _reread_part(
        self,
        session: PollSession,
        report: Report,
        pending: PendingReread,
        part: TimeRange,
        coverage: Coverage,
        now: datetime,
    ) -> bool:
        """Read one part of past days again; return whether the account may be requested further."""
        requests_before = session.request_count
        session.account.record_poll(report.name)
        try:
            changed = self._fetch_buckets(session, report, part, now, pending.as_refresh(part), coverage)
        except RateLimited as error:
            self._reduce_max_range(session, report, part, session.request_count - requests_before)
            session.backoff_until = self._record_reread_failure(session, report, pending, error)
            return False
        except (KeyRejected, Unsupported) as error:
            if isinstance(error, Unsupported) or error.reason == "missing_scope":
                # The next poll of the report handles it: it may concern these days only.
                del session.rereads[report.name]
                self._log_reread(session, "warn", "Reading days again failed", report, part, error=error)
                session.account.record_reread_failure(error)
                return True
            return self._handle_rejection(session, report, error)
        except (Unavailable, Malformed) as error:
            until = self._record_reread_failure(session, report, pending, error)
            if isinstance(error, Unavailable) and not error.reached:
                session.backoff_until = until
                return False
            return True
        pending.changed_days |= changed
        changed_days = len(pending.changed_days)
        finished = pending.advance(part, coverage)
        if finished is not None:
            fields = {"changed_days": changed_days}
            self._log_reread(session, "info", "Reading days again finished", report, finished, **fields)
        if not pending.time_ranges:
            del session.rereads[report.name]
        return True

    def _record_reread_failure(
        self, session: PollSession, report: Report, pending: PendingReread, error: ProviderError
    ) -> datetime:
        """Record and log that days could not be read again, and return when to try again. Failures are not endless."""
        pending.failures += 1
        pending.not_before = self._clock() + self._backoff(pending.failures, error)
        if not self._closing.is_set():  # while closing, the failure is our own doing
            session.account.record_reread_failure(error)
            message = "Reading days again failed"
            # A rate limit is waited for as long as the provider says, and an outage of the network until it has ended:
            # neither says anything about these days.
            about_days = isinstance(error, Malformed) or (isinstance(error, Unavailable) and error.reached)
            if pending.failures >= MAX_REREAD_FAILURES and about_days:
                message = "Reading days again failed for the last time; request it again once the cause is repaired"
                session.rereads.pop(report.name, None)
            self._log_reread(session, "warn", message, report, pending.time_ranges[0], reason=error.reason, error=error)
        return pending.not_before

    def _log_reread(
        self, session: PollSession, level: str, message: str, report: Report, time_range: TimeRange, **fields: object
    ) -> None:
        account = session.config.account.name
        log_event(logger, level, message, account=account, report=report.name, days=format_days(time_range), **fields)

    def _poll_time_range(self, session: PollSession, report: Report, time_range: TimeRange, now: datetime) -> bool:
        """Poll one time range of a report; return whether the account's other reports may be polled after it."""
        account = session.account
        requests_before = session.request_count
        started = self._monotonic()
        account.record_poll(report.name)
        try:
            self._fetch_and_store(session, report, time_range, now)
        except RateLimited as error:
            self._reduce_max_range(session, report, time_range, session.request_count - requests_before)
            until = self._record_failure(session, report.name, error)
            if report in (NAMES_REPORT, BALANCE_REPORT):
                return True  # these matter least: where only they are limited, usage is still polled
            session.backoff_until = until
            return False
        except (KeyRejected, Unsupported) as error:
            return self._handle_rejection(session, report, error)
        except (Unavailable, Malformed) as error:
            until = self._record_failure(session, report.name, error)
            if isinstance(error, Unavailable) and not error.reached:
                session.backoff_until = until
                return False
            return True
        finally:
            account.record_duration(report.name, self._monotonic() - started)
        return True

    def _fetch_and_store(self, session: PollSession, report: Report, time_range: TimeRange, now: datetime) -> None:
        assert session.provider is not None  # noqa: S101 - _connect came first
        config = session.config
        account_number = config.ledger_account.id
        state = session.report_state(report.name)
        coverage = self._coverage(session, report)
        if report is NAMES_REPORT:
            self._ledger.names.put(account_number, clean_names(session.provider.names()))
            self._ledger.buckets.put(account_number, report.name, time_range, ())
        elif report is BALANCE_REPORT:
            self._read_balance(session, time_range, coverage, now)
        else:
            complete = completes_refresh(report, config.poll_settings, time_range, now, state.partial_refresh)
            self._fetch_buckets(
                session, report, time_range, now, state.partial_refresh, coverage, completes_refresh=complete
            )
        self._log_ambiguities(session)
        state.partial_refresh = next_partial(time_range, coverage, now, state.partial_refresh)
        state.failures = 0
        state.not_before = None
        if session.account.key_rejected and report is not NAMES_REPORT:
            session.account.accept_key()
            session.key_retry_at = None
            log_event(logger, "info", "Key accepted again", account=config.account.name)
        if session.account.record_success(report.name):
            log_event(logger, "info", "Poll succeeded again", account=config.account.name, report=report.name)

    def _log_ambiguities(self, session: PollSession) -> None:
        """Log what the provider has found out about its API, once for an account."""
        ambiguities: Ambiguities | None = getattr(session.provider, "ambiguities", None)
        for text in ambiguities.take() if ambiguities is not None else ():
            if text not in session.logged_ambiguities:
                session.logged_ambiguities.add(text)
                fields = {"account": session.config.account.name, "found": text}
                log_event(logger, "info", "The documentation of the provider's API leaves this open", **fields)

    def _read_balance(
        self, session: PollSession, time_range: TimeRange, coverage: Coverage | None, now: datetime
    ) -> None:
        """Read the balance; `coverage` is the one before. Raises ProviderError."""
        assert isinstance(session.provider, ProviderWithBalance)  # noqa: S101 - the report is scheduled only then
        parts = clean_balance(session.provider.balance())
        session.account.record_balance(AccountBalance(now, parts) if parts else None)
        # Since the first time range began, so that no history seems to be missing.
        since = time_range.start if coverage is None else min(time_range.start, coverage.since)
        session.balance_coverage = Coverage(since, now, now)

    def _fetch_buckets(
        self,
        session: PollSession,
        report: Report,
        time_range: TimeRange,
        now: datetime,
        partial_refresh: PartialRefresh | None,
        coverage: Coverage | None,
        *,
        completes_refresh: bool = False,
    ) -> frozenset[datetime]:
        """Read a time range of a report and store it; return the UTC days that changed. Raises ProviderError."""
        assert session.provider is not None  # noqa: S101 - _connect came first
        provider = session.provider
        # A plug-in need not use our parsing: nothing that it returns may look like a failure of the ledger.
        clean_labels: set[RowLabels] = set()
        fetched = [
            clean_bucket(report, bucket, clean_labels)
            for bucket in provider.fetch(report, time_range.start, time_range.end)
        ]
        buckets = spread_daily_usage(report, fetched, now)
        changed_days = self._ledger.buckets.put(
            session.config.ledger_account.id,
            report.name,
            time_range,
            buckets,
            completes_refresh=completes_refresh,
            days_read=DaysRead(completed_days(time_range, coverage, now, partial_refresh), now),
        )
        stored_buckets: StoredBuckets | None = getattr(provider, "stored_buckets", None)
        # How a day is spread depends on the time: an equal answer may give other hours later.
        if stored_buckets is not None and buckets is fetched:
            stored_buckets.record(report, fetched)
        return changed_days

    def _handle_rejection(self, session: PollSession, report: Report, error: KeyRejected | Unsupported) -> bool:
        """Handle a report that the provider rejects; return whether the others may be polled after it."""
        # Only a missing scope can concern this report alone: a key that is rejected is rejected for every report.
        if report.optional and (isinstance(error, Unsupported) or error.reason == "missing_scope"):
            session.report_state(report.name).not_before = self._clock() + UNSUPPORTED_RETRY_INTERVAL
            if session.account.mark_unsupported(report.name):
                fields = {"account": session.config.account.name, "report": report.name, "error": error}
                log_event(logger, "info", "Report is not available to this account", **fields)
            return True
        if isinstance(error, KeyRejected):
            session.key_retry_at = self._clock() + KEY_RETRY_INTERVAL
            self._reject_key(session, error, count=True)
            return False
        self._record_failure(session, report.name, error)
        return True

    def _record_failure(self, session: PollSession, report: str, error: ProviderError) -> datetime:
        """Record and log a failure, and return when the report may be polled again."""
        if not self._closing.is_set():  # while closing, the failure is our own doing
            session.account.record_failure(report, error)
            fields = {
                "account": session.config.account.name,
                "report": report,
                "reason": error.reason,
                "error": error,
            }
            log_event(logger, "warn", "Poll failed", **fields)
        state = session.report_state(report)
        state.failures += 1
        state.not_before = self._clock() + self._backoff(state.failures, error)
        return state.not_before

    def _reduce_max_range(self, session: PollSession, report: Report, time_range: TimeRange, requests: int) -> None:
        if requests >= MIN_REQUESTS_TO_SPLIT:
            session.report_state(report.name).max_range = max(HOUR, (time_range.end - time_range.start) / 2)

    def _backoff(self, failures: int, error: ProviderError) -> timedelta:
        """Return how long to wait: as long as the provider says (a day at most), else longer with each failure."""
        if isinstance(error, RateLimited | Unavailable) and error.retry_after:
            return min(timedelta(seconds=error.retry_after), DAY) + timedelta(seconds=self._jitter())
        doubled = min(MAX_BACKOFF, INITIAL_BACKOFF * (1 << min(failures - 1, 10)))
        return doubled * (0.75 + 0.5 * self._jitter())
