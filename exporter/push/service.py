"""Pushed usage and change events: accepting them, and valuing and exporting the accounts that they change.

Every provider that a source names becomes an account, exported like a polled account.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from exporter.config.configuration import Account, Source
from exporter.errors import InternalError, LedgerError, LedgerUnavailable, ProviderError, PushError, StorageError
from exporter.ledger import Ledger
from exporter.ledger.events import EVENTS_REPORT_NAME
from exporter.logs import log_event
from exporter.model import HOUR, Report, Row, Secret, UsageEvent
from exporter.polling.account_state import (
    INTERNAL_ERROR_PROBLEM,
    LEDGER_PROBLEM,
    AccountConfig,
    AccountState,
    Crosscheck,
)
from exporter.pricing.learned_rates import NegotiatedPrice
from exporter.pricing.valuer import LedgerAccount, Valuer
from exporter.push.parse import MAX_EVENT_AGE, Rejected, parse_batch, parse_change_event, parse_events, parse_json
from exporter.push.tokens import BearerTokens
from exporter.ratelimit import TokenBucket

logger = logging.getLogger(__name__)

_MINUTE = timedelta(minutes=1)
EVENTS_REPORT = Report(
    EVENTS_REPORT_NAME, "usage", HOUR, _MINUTE, timedelta(0), timedelta(0), 5 * _MINUTE, MAX_EVENT_AGE
)
"""Pushed events as a report: an hour counts as complete five minutes after its end."""

EVENTS_PER_SECOND = 10_000
EVENTS_BURST = 30_000
"""Rate limit of each source; both count the events of a request, not requests."""
IDLE_REFRESH_INTERVAL = 5 * _MINUTE
"""How often an account without new events is exported again: its watermark moves on with the clock."""
REFRESH_PAUSE_FACTOR = 4
"""After a refresh that took t seconds the next waits this many times t: large accounts are refreshed less often."""
MAX_REFRESH_PAUSE = 15.0
"""Seconds after which the next refresh begins in any case."""
MAX_PROVIDERS_PER_SOURCE = 20
MAX_SERIES_FACTOR = 10
"""The ledger stores at most this many times `max_series` label sets per account; the others are stored as `other`."""
OTHER = "other"

OUTCOMES = ("accepted", "duplicate", "conflict", "rejected")


@dataclass(frozen=True, slots=True)
class Accepted:
    """Outcome of one request: numbers of events, and the rejected events."""

    accepted: int
    duplicates: int
    rejected: Sequence[Rejected]
    """Sorted by index."""


class LabelSet(NamedTuple):
    """The labels of an event that can make a new series."""

    workspace: str
    model: str
    tier: str
    api_key: str


@dataclass(slots=True)
class _Source:
    """A configured source and its state."""

    config: Source
    rate_limiter: TokenBucket
    account_states: dict[str, AccountState] = field(default_factory=dict)
    """By provider."""
    label_sets: dict[str, set[LabelSet]] = field(default_factory=dict)
    """By provider: the label sets that the ledger has for it."""
    counts: Counter[str] = field(default_factory=Counter)
    """Events by outcome, since the process began."""


class PushService:
    """Accepts pushed events, and values and publishes the changed accounts shortly afterwards in a thread of its own.

    Requests arrive in threads of the HTTP server, `tick` is called by the timer: `_lock` protects counters, label sets
    and the set of changed accounts.
    """

    def __init__(
        self,
        ledger: Ledger,
        valuer: Valuer,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        publish: Callable[[AccountState], None],
    ) -> None:
        self._ledger = ledger
        self._valuer = valuer
        self._clock = clock
        self._monotonic = monotonic
        self._publish = publish
        self._sources: dict[str, _Source] = {}
        self._bearer_tokens = BearerTokens({})
        self._changed_accounts: set[tuple[str, str]] = set()
        self._next_idle_refresh = monotonic()
        self._not_before = 0.0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="push")
        self._refresh_task: Future[None] | None = None
        self._failing_accounts: set[AccountState] = set()
        """Accounts whose newest refresh ended in an internal error; used by the thread of refreshes only."""
        self.internal_errors = 0
        """Refreshes of an account that ended in an unexpected exception; increased by one thread only."""
        self.on_new_account: Callable[[], None] = lambda: None
        """Called when an event has created a new account."""

    def apply(self, sources: Sequence[Source], tokens: Mapping[str, Secret]) -> None:
        """Replace the configuration of sources. Counters and rate limits of known sources, and all events, are kept."""
        configured = {}
        for config in sources:
            previous = self._sources.get(config.name)
            source = _Source(config, previous.rate_limiter if previous else self._new_rate_limiter())
            source.counts = previous.counts if previous else Counter()
            for provider in self._ledger.events.providers(config.name):
                self._add_account(source, provider)
            configured[config.name] = source
        self._sources = configured
        self.set_tokens(tokens)
        self.mark_all_changed()

    def set_tokens(self, tokens: Mapping[str, Secret]) -> None:
        """Replace the bearer tokens, given by source; only digests are kept."""
        self._bearer_tokens = BearerTokens(tokens)

    @property
    def account_states(self) -> list[AccountState]:
        """The accounts to export; the accounts of a crosscheck source are compared, not exported."""
        exported = (source for source in self._sources.values() if not source.config.crosscheck_of)
        return [account for source in exported for account in list(source.account_states.values())]

    def crosschecks(self, account: str) -> tuple[Crosscheck, ...]:
        """Return the sources that are configured as a crosscheck of a polled account."""
        return tuple(
            Crosscheck(
                name,
                tuple(state.ledger_account.id for state in list(source.account_states.values())),
                EVENTS_REPORT_NAME,
            )
            for name, source in self._sources.items()
            if source.config.crosscheck_of == account
        )

    @property
    def counts(self) -> dict[tuple[str, ...], float]:
        """Events since the process began, by (source, outcome)."""
        return {
            (name, outcome): float(source.counts[outcome])
            for name, source in self._sources.items()
            for outcome in OUTCOMES
        }

    def authenticate(self, token: str) -> str | None:
        """Return the name of the source that a bearer token belongs to; None for an unknown token."""
        return self._bearer_tokens.authenticate(token)

    def accept_events(
        self, source_name: str, body: bytes, idempotency_key: str = "", *, batch: bool = False
    ) -> Accepted:
        """Store one event, or each valid event of a batch; they are durable when this returns.

        `body` is JSON. `idempotency_key` identifies the request: events without an id are then counted once, even if
        the request is sent again. Raises PushError if nothing is stored, LedgerError if the ledger cannot be written.
        """
        source, now = self._sources.get(source_name), self._clock()
        if source is None:
            raise PushError(401, "this source is not configured any more")
        payload = parse_json(body)
        items = parse_batch(payload) if batch else [payload]
        if not source.rate_limiter.take(len(items)):
            raise PushError(429, f"more than {EVENTS_PER_SECOND} events per second")
        events, rejected = parse_events(
            items, idempotency_key=idempotency_key, include_api_keys="api_key" in source.config.labels, now=now
        )
        admitted = self._apply_limits(source, events, rejected)
        stored = self._ledger.events.add(source_name, list(admitted.values()), now)
        outcomes = dict(zip(admitted, stored, strict=True))
        conflicts = [index for index, outcome in outcomes.items() if outcome == "conflict"]
        rejected += [
            Rejected(index, "this id was used by a different event before", conflict=True) for index in conflicts
        ]
        count = Counter(map(str, outcomes.values()))
        with self._lock:
            source.counts += count + Counter(rejected=len(rejected) - len(conflicts))
            self._changed_accounts |= {
                (source_name, admitted[index].provider) for index, outcome in outcomes.items() if outcome == "accepted"
            }
        return Accepted(count["accepted"], count["duplicate"], sorted(rejected, key=lambda rejection: rejection.index))

    def record_change(self, body: bytes) -> None:
        """Store a change event, given as JSON; the same event again changes nothing.

        Raises PushError if it is invalid, LedgerError if the ledger cannot be written.
        """
        now = self._clock()
        self._ledger.change_events.put(parse_change_event(body, now), now)

    @property
    def up_to_date(self) -> bool:
        """Whether all accepted events are exported."""
        with self._lock:
            return not self._changed_accounts and (self._refresh_task is None or self._refresh_task.done())

    def mark_all_changed(self) -> None:
        """Schedule a refresh of every account."""
        with self._lock:
            self._changed_accounts |= {
                (name, provider) for name, source in self._sources.items() for provider in source.account_states
            }

    def tick(self) -> None:
        """Start a refresh of the changed accounts, if any. Raises LedgerError if the previous refresh met one."""
        if self._refresh_task is not None:
            if not self._refresh_task.done():
                return
            finished, self._refresh_task = self._refresh_task, None
            finished.result()
        if self._monotonic() < self._not_before:
            return
        if self._monotonic() >= self._next_idle_refresh:
            self._next_idle_refresh = self._monotonic() + IDLE_REFRESH_INTERVAL.total_seconds()
            self.mark_all_changed()
        with self._lock:
            changed, self._changed_accounts = self._changed_accounts, set()
        self._refresh_task = self._pool.submit(self._refresh_accounts, changed) if changed else None

    def close(self) -> None:
        """Wait for the running refresh; no other one starts."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _refresh_accounts(self, changed: set[tuple[str, str]]) -> None:
        began = self._monotonic()
        for name, provider in sorted(changed):
            # A reload may have removed the source, or a new configuration of it may not have the account yet.
            source = self._sources.get(name)
            account_state = source.account_states.get(provider) if source else None
            if source is not None and account_state is not None:
                self._refresh_account(source, account_state)
        ended = self._monotonic()
        self._not_before = ended + min(REFRESH_PAUSE_FACTOR * (ended - began), MAX_REFRESH_PAUSE)

    def _refresh_account(self, source: _Source, account_state: AccountState) -> None:
        """Value and publish one account. Raises LedgerError; any other exception is a problem of this account alone."""
        try:
            now = self._clock()
            self._ledger.events.mark_complete(account_state.ledger_account.id, now)
            if not source.config.crosscheck_of:
                self._valuer.value_days(account_state.ledger_account, now)
                account_state.record_success(INTERNAL_ERROR_PROBLEM)
                account_state.record_success(LEDGER_PROBLEM)
                self._publish(account_state)
            self._failing_accounts.discard(account_state)
        except LedgerUnavailable as error:
            message = "Pushed account not refreshed because the ledger is unavailable"
            self._record_problem(account_state, LEDGER_PROBLEM, StorageError(str(error)), message, error)
            with self._lock:
                # Tried again after the pause: no event may come that would cause it.
                self._changed_accounts.add(account_state.account.identity)
        except LedgerError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug in one account must not end the refresh of the others
            self.internal_errors += 1
            problem = InternalError("pushed events were not valued because of an internal error of this exporter")
            message = "Pushed account not refreshed because of an internal error"
            self._record_problem(account_state, INTERNAL_ERROR_PROBLEM, problem, message, error)

    def _record_problem(
        self, account_state: AccountState, name: str, problem: ProviderError, message: str, error: Exception
    ) -> None:
        """Export a failure as the account's problem, and log the first of several in a row.

        The events stay stored. The account is refreshed again with its next event, or by the idle refresh.
        """
        account_state.record_failure(name, problem)
        account = account_state.account
        fields = {"account": account.name, "provider": account.provider}
        if account_state not in self._failing_accounts:
            self._failing_accounts.add(account_state)
            log_event(logger, "error", message, **fields, error=error)
        try:
            self._publish(account_state)
        except Exception as publish_error:
            # What ended the refresh may end this as well; only a ledger that cannot be used any more matters.
            if isinstance(publish_error, LedgerError) and not isinstance(publish_error, LedgerUnavailable):
                raise
            # Not counted again: it is the same refresh. The problem is exported with the previous numbers.
            log_event(logger, "debug", "The account cannot be read", **fields, error=publish_error)

    def _apply_limits(
        self, source: _Source, events: Mapping[int, UsageEvent], rejected: list[Rejected]
    ) -> dict[int, UsageEvent]:
        """Return the events within the limits of providers and label sets, by index; extend `rejected` by the others.

        A new provider creates an account. A label set beyond the limit is replaced by `other`.
        """
        admitted = dict[int, UsageEvent]()
        has_new_account = False
        with self._lock:
            for index, event in events.items():
                if event.provider not in source.account_states:
                    if len(source.account_states) >= MAX_PROVIDERS_PER_SOURCE:
                        reason = f"this source already has {MAX_PROVIDERS_PER_SOURCE} providers"
                        rejected.append(Rejected(index, reason))
                        continue
                    self._add_account(source, event.provider)
                    has_new_account = True
                label_sets = source.label_sets[event.provider]
                admitted[index] = _aggregate_excess_labels(event, label_sets, source.config.max_series)
        if has_new_account:
            self.on_new_account()
        return admitted

    def _add_account(self, source: _Source, provider: str) -> None:
        number = self._ledger.buckets.register_account(source.config.name, provider)
        stored_labels = self._ledger.hours.labels(number, [EVENTS_REPORT_NAME])
        # The account exists from here on: if the ledger fails above, the next event must try again.
        source.label_sets[provider] = {
            LabelSet(labels.workspace, labels.model, labels.tier, labels.api_key) for labels in stored_labels
        }
        source.account_states[provider] = AccountState(
            AccountConfig(build_account(source.config, provider), build_ledger_account(source.config, provider, number))
        )

    def _new_rate_limiter(self) -> TokenBucket:
        return TokenBucket(EVENTS_PER_SECOND, EVENTS_BURST, self._monotonic)


def build_account(source: Source, provider: str) -> Account:
    """Return the account for a source's events of one provider, as if it were configured."""
    return Account(
        name=source.name,
        provider=provider,
        api_key_file=source.token_file,
        poll_interval=_MINUTE,
        history=MAX_EVENT_AGE,
        max_series=source.max_series,
        timeout=_MINUTE,
        owner=source.owner,
        labels=source.labels,
        prices=source.prices,
        alerts=source.alerts,
    )


def build_ledger_account(source: Source, provider: str, number: int) -> LedgerAccount:
    """Return the ledger account for a source's events of one provider; `number` identifies it in the ledger."""
    prices = tuple(map(NegotiatedPrice.from_config, source.prices))
    # No bill ever arrives for pushed events, so their days stay open and keep their priced or pushed cost.
    return LedgerAccount(number, provider, (EVENTS_REPORT,), prices, days_close=False)


def _aggregate_excess_labels(event: UsageEvent, known_label_sets: set[LabelSet], max_series: int) -> UsageEvent:
    """Return the event, its labels replaced by `other` if they would be one label set too many; add new label sets."""
    if not event.rows:
        return event
    row = event.rows[0]  # All rows of an event have the same labels.
    labels = LabelSet(row.workspace, row.model, row.tier, row.api_key)
    if labels in known_label_sets:
        return event
    if len(known_label_sets) >= MAX_SERIES_FACTOR * max_series:
        return replace(event, rows=tuple(Row(row.meter, row.value, "", OTHER, item=row.item) for row in event.rows))
    known_label_sets.add(labels)
    return event
