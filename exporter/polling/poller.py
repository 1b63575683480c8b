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
from exporter.logs import say
from exporter.model import DAY, HOUR, Provider, Report, Secret
from exporter.polling.account_state import Pending, Polled
from exporter.polling.schedule import NAMES, next_due, next_span, settles, walk_after
from exporter.pricing.valuer import Books
from exporter.windows import Span

logger = logging.getLogger(__name__)

_chance = SystemRandom()

FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(minutes=15)
REFUSED_PAUSE = timedelta(days=1)
LONG_WALK = 20
"""A walk of this many requests that meets a rate limit is cut in halves the next time."""


class Poller:
    """Visits accounts from a small pool of threads; an account is visited by one thread at a time."""

    def __init__(
        self,
        ledger: Ledger,
        books: Books,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        publish: Callable[[Polled], None],
        workers: int = 16,
    ) -> None:
        self._ledger = ledger
        self._books = books
        self._clock = clock
        self._monotonic = monotonic
        self._publish = publish
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="poll")
        self._members: tuple[Polled, ...] = ()
        self._busy: dict[str, bool] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.fatal: LedgerError | None = None
        """Set when the disk is wrong: the process has to end."""
        self.defects = 0

    def enrol(self, members: Sequence[Polled]) -> None:
        """Replace the accounts that are visited."""
        with self._lock:
            gone = [
                member for member in self._members if member not in members and member.account.name not in self._busy
            ]
            self._members = tuple(members)
        for member in gone:
            _disconnect(member)

    def tick(self) -> None:
        """Send a thread to every account of which something is due. Returns at once.

        Accounts that failed last time may hold half of the threads at most, so that many hanging ones never
        delay those that answer.
        """
        now = self._clock()
        for member in self._members:
            with self._lock:
                name = member.account.name
                ailing = bool(member.health.problems)
                if name in self._busy or (ailing and sum(self._busy.values()) >= self._workers // 2):
                    continue
                if self._closing.is_set() or not (member.turned or self._due(member, now)):
                    continue
                self._busy[name] = ailing
            self._pool.submit(self._visit, member)

    def turn(self) -> None:
        """Have every account valued and shown anew at the next tick, also those that are not to be asked."""
        for member in self._members:
            member.turned = True

    @property
    def idle(self) -> bool:
        """Whether no account is being visited."""
        return not self._busy

    def close(self) -> None:
        """Cut the requests under way, and ask no more."""
        self._closing.set()
        for member in self._members:
            _disconnect(member)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _due(self, member: Polled, now: datetime) -> bool:
        return all(moment is None or moment <= now for moment in (member.quiet_until, member.wake_at))

    def _coverage(self, member: Polled, report: Report) -> Coverage | None:
        return self._ledger.buckets.coverage(member.book.number, report.name)

    def _span(self, member: Polled, report: Report, now: datetime) -> Span | None:
        pending = member.of(report)
        if pending.not_before is not None and now < pending.not_before:
            return None
        return next_span(report, self._coverage(member, report), member.pace, now, pending.at_most, pending.walk)

    def _next_visit(self, member: Polled, now: datetime) -> datetime:
        return min(
            max(next_due(report, self._coverage(member, report), member.pace, now), member.of(report).not_before or now)
            for report in member.agenda
        )

    def _visit(self, member: Polled) -> None:
        turned, member.turned = member.turned, False
        try:
            if self._due(member, self._clock()) and self._connect(member):
                self._ask_all(member)
            self._books.value(member.book, self._clock(), turned=turned)
            member.wake_at = self._next_visit(member, self._clock())
            member.health.succeeded("visit")
            self._publish(member)
        except LedgerError as error:
            self.fatal = error
        except Exception as error:  # noqa: BLE001 - a thread's top: a defect in one account must not end the others
            if self._closing.is_set():
                return  # its connections were closed under it
            self.defects += 1
            member.health.failed(
                "visit", Malformed("a visit broke off for a defect of this exporter; its log tells more")
            )
            member.quiet_until = self._clock() + LONGEST_PAUSE
            say(logger, "error", "Visit broke off", account=member.account.name, error=error)
        finally:
            with self._lock:
                del self._busy[member.account.name]
                gone = member not in self._members
            if gone:
                _disconnect(member)

    def _connect(self, member: Polled) -> bool:
        """Read the key again, which may have been changed; tell whether there is someone to ask."""
        working = member.provider is not None and not member.stopped
        try:
            key = member.read_key()
            if key == member.key:
                member.spare = member.health.spare = None
                self._look_again_later(member)
                return not member.stopped
            if working:
                self._change(member, key)
            else:
                _disconnect(member)
                member.key, member.stopped, member.provider = key, False, None
                self._begin(member, key, member.connect(key, member.health))
        except ConfigError as error:
            unreadable = KeyRejected("key_rejected", str(error), "Make the key readable; no restart is needed.")
            if not working:
                member.key = None
                self._stop(member, unreadable)
                return False
            self._keep_old(member, unreadable)
        except KeyRejected as error:
            self._stop(member, error)
            return False
        return True

    def _change(self, member: Polled, key: Secret) -> None:
        """Put a new key in the place of the working one once the provider has accepted it."""
        if key == member.spare:
            return
        provider = None
        try:
            provider = member.connect(key, member.health)
            provider.verify()
        except ProviderError as error:
            if provider is not None:
                provider.close()
            # Only a rejection is the key's own; after anything else it is tried again on the next visit.
            member.spare = key if isinstance(error, KeyRejected) else None
            self._keep_old(member, error)
            return
        _disconnect(member)
        self._begin(member, key, provider)
        say(logger, "info", "Key changed", account=member.account.name)

    def _begin(self, member: Polled, key: Secret, provider: Provider) -> None:
        member.key, member.provider, member.spare = key, provider, None
        member.pending.clear()
        member.health.forget()

    def _keep_old(self, member: Polled, error: ProviderError) -> None:
        if str(member.health.spare) != str(error):
            fields = {"account": member.account.name, "reason": error.reason, "error": error}
            say(logger, "error", "New key not used; the one before it still is", **fields)
        member.health.spare = error

    def _look_again_later(self, member: Polled) -> None:
        if member.stopped:
            member.quiet_until = self._clock() + member.pace.poll_interval

    def _ask_all(self, member: Polled) -> None:
        for report in member.agenda:
            while not self._closing.is_set():
                now = self._clock()
                span = self._span(member, report, now)
                if span is None:
                    break
                if not self._ask(member, report, span, now):
                    return

    def _ask(self, member: Polled, report: Report, span: Span, now: datetime) -> bool:
        """Ask for one span; tell whether the visit may go on."""
        health, before = member.health, member.health.requests.total()
        started = self._monotonic()
        health.polls[report.name] += 1
        try:
            self._take(member, report, span, now)
        except RateLimited as error:
            self._shorten(member, report, span, health.requests.total() - before)
            until = self._fail(member, report, error, error.retry_after)
            if report is NAMES:
                return True  # names matter least: where only they are limited, use goes on
            member.quiet_until = until
            return False
        except (KeyRejected, Unsupported) as error:
            return self._refused(member, report, error)
        except (Unavailable, Malformed) as error:
            until = self._fail(member, report, error)
            if isinstance(error, Unavailable) and not error.reached:
                member.quiet_until = until
                return False
            return True
        finally:
            health.seconds[report.name] = self._monotonic() - started
        return True

    def _take(self, member: Polled, report: Report, span: Span, now: datetime) -> None:
        assert member.provider is not None  # noqa: S101 - _connect came first
        number, pending, covered = member.book.number, member.of(report), self._coverage(member, report)
        if report is NAMES:
            self._ledger.names.put(number, member.provider.names())
            self._ledger.buckets.put(number, report.name, span, ())
        else:
            buckets = list(member.provider.fetch(report, span.start, span.end))
            settled = settles(report, member.pace, span, now, pending.walk)
            self._ledger.buckets.put(number, report.name, span, buckets, settled=settled)
        pending.walk = walk_after(span, covered, now, pending.walk)
        pending.failures, pending.not_before = 0, None
        if member.health.problems.get(report.name) is not None:
            say(logger, "info", "Poll succeeded again", account=member.account.name, report=report.name)
        member.health.succeeded(report.name)

    def _refused(self, member: Polled, report: Report, error: KeyRejected | Unsupported) -> bool:
        # Only a missing scope can be a matter of this report: a key that is refused is refused for everything.
        if report.optional and (isinstance(error, Unsupported) or error.reason == "missing_scope"):
            member.of(report).not_before = self._clock() + REFUSED_PAUSE
            if member.health.without(report.name, error):
                fields = {"account": member.account.name, "report": report.name, "error": error}
                say(logger, "info", "Report is not available to this account", **fields)
            return True
        if isinstance(error, KeyRejected):
            member.health.failures[report.name, error.reason] += 1
            self._stop(member, error)
            return False
        self._fail(member, report, error)
        return True

    def _stop(self, member: Polled, error: KeyRejected) -> None:
        if not member.stopped:
            fields = {"account": member.account.name, "reason": error.reason, "error": error, "advice": error.advice}
            say(logger, "error", "Key rejected; not asking until the key changes", **fields)
        member.stopped = True
        member.health.problems = {"key": error}
        self._look_again_later(member)

    def _fail(self, member: Polled, report: Report, error: ProviderError, told: float | None = None) -> datetime:
        """Tell of a poll that failed, unless it was cut by us, and return when the report may be asked again."""
        if not self._closing.is_set():
            member.health.failed(report.name, error)
            fields = {"account": member.account.name, "report": report.name, "reason": error.reason, "error": error}
            say(logger, "warn", "Poll failed", **fields)
        pending = member.of(report)
        pending.not_before = self._pause(pending, told)
        return pending.not_before

    def _shorten(self, member: Polled, report: Report, span: Span, requests: int) -> None:
        if requests >= LONG_WALK:
            member.of(report).at_most = max(HOUR, (span.end - span.start) / 2)

    def _pause(self, pending: Pending, told: float | None = None) -> datetime:
        """Back off with jitter, or as long as the provider says (a day at most)."""
        pending.failures += 1
        if told:
            return self._clock() + timedelta(seconds=min(told, DAY.total_seconds()) + _chance.uniform(0, 1))
        grown = min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(pending.failures - 1, 10)))
        return self._clock() + grown * _chance.uniform(0.75, 1.25)


def _disconnect(member: Polled) -> None:
    if member.provider is not None:
        member.provider.close()
