"""Those who push: what becomes of their events, and their accounts, which are shown like all others."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from exporter.config.configuration import Account, Source
from exporter.errors import PushError
from exporter.ledger import Ledger
from exporter.ledger.events import EVENTS_REPORT_NAME
from exporter.model import HOUR, Report, Row, Secret, UsageEvent
from exporter.polling.account_state import AccountState, Crosscheck
from exporter.pricing.learned_rates import NegotiatedPrice
from exporter.pricing.valuer import LedgerAccount, Valuer
from exporter.push.parse import MAX_EVENT_AGE, Rejected, parse_batch, parse_events, parse_json
from exporter.push.tokens import BearerTokens
from exporter.ratelimit import TokenBucket

logger = logging.getLogger(__name__)

_MINUTE = timedelta(minutes=1)
EVENTS_REPORT = Report(
    EVENTS_REPORT_NAME, "usage", HOUR, _MINUTE, timedelta(0), timedelta(0), 5 * _MINUTE, MAX_EVENT_AGE
)
"""What was pushed, as a report: an hour counts as complete five minutes after its end."""

EVENTS_PER_SECOND = 10_000
EVENTS_BURST = 30_000
IDLE_REFRESH_INTERVAL = 5 * _MINUTE
"""How often an account that nothing is told of is shown anew."""
REFRESH_PAUSE_FACTOR = 4
"""Valuing and showing may take one part in so many of the time: what is large is shown anew less often."""
MAX_PROVIDERS_PER_SOURCE = 20
"""That one source may name."""
MAX_SERIES_FACTOR = 10
"""Times max_series: so many combinations of labels a source may have in the ledger, the rest is told as `other`."""
OTHER = "other"

OUTCOMES = ("accepted", "duplicate", "conflict", "rejected")


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of the events of one request."""

    accepted: int
    duplicates: int
    rejected: Sequence[Rejected]
    """By index."""


@dataclass(slots=True)
class _Source:
    """A source at work."""

    config: Source
    rate_limiter: TokenBucket
    account_states: dict[str, AccountState] = field(default_factory=dict)
    """By provider."""
    label_sets: dict[str, set[tuple[str, str, str, str]]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    """Events by outcome."""


class PushService:
    """Takes events, and has the accounts that they change valued and shown a moment later."""

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
        self._next_idle_refresh = clock()
        self._not_before = 0.0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sources")
        self._refresh_task: Future[None] | None = None
        self.on_new_account: Callable[[], None] = lambda: None
        """Called when there is an account that was not there before."""

    def apply(self, sources: Sequence[Source], tokens: Mapping[str, Secret]) -> None:
        """Take over what the configuration says; what was told before stays."""
        senders = {}
        for source in sources:
            old = self._sources.get(source.name)
            sender = _Source(source, old.rate_limiter if old else self._new_rate_limiter())
            sender.counts = old.counts if old else Counter()
            for provider in self._ledger.events.providers(source.name):
                self._add_account(sender, provider)
            senders[source.name] = sender
        self._sources = senders
        self.set_tokens(tokens)
        self.mark_all_changed()

    def set_tokens(self, tokens: Mapping[str, Secret]) -> None:
        """Take over the sources' bearer tokens, of which only digests are kept."""
        self._bearer_tokens = BearerTokens(tokens)

    @property
    def account_states(self) -> list[AccountState]:
        """The accounts that are shown; a witness is compared, and not shown."""
        shown = (sender for sender in self._sources.values() if not sender.config.crosscheck_of)
        return [one for sender in shown for one in list(sender.account_states.values())]

    def crosschecks(self, account: str) -> tuple[Crosscheck, ...]:
        """Return those who see this account's use too."""
        return tuple(
            Crosscheck(
                name, tuple(one.ledger_account.id for one in list(sender.account_states.values())), EVENTS_REPORT_NAME
            )
            for name, sender in self._sources.items()
            if sender.config.crosscheck_of == account
        )

    @property
    def counts(self) -> dict[tuple[str, ...], float]:
        """Events since the process began, by source and outcome."""
        return {
            (name, outcome): float(sender.counts[outcome])
            for name, sender in self._sources.items()
            for outcome in OUTCOMES
        }

    def authenticate(self, token: str) -> str | None:
        """Return the source whose bearer token this is."""
        return self._bearer_tokens.authenticate(token)

    def accept_events(
        self, source_name: str, body: bytes, idempotency_key: str = "", *, batch: bool = False
    ) -> Accepted:
        """Count one event, or each good one of a batch; durable when it returns.

        `key` names the request, so that events without an id are counted once though it is told again. Raises
        IngestError where nothing is taken, LedgerError when the disk is wrong.
        """
        sender, now = self._sources.get(source_name), self._clock()
        if sender is None:
            raise PushError(401, "this source is not configured any more")
        told = parse_json(body)
        items = parse_batch(told) if batch else [told]
        if not sender.rate_limiter.take(len(items)):
            raise PushError(429, f"more than {EVENTS_PER_SECOND} events per second")
        events, refused = parse_events(
            items, idempotency_key=idempotency_key, include_api_keys="api_key" in sender.config.labels, now=now
        )
        kept = self._apply_limits(sender, events, refused)
        outcomes = dict(zip(kept, self._ledger.events.add(source_name, list(kept.values()), now), strict=True))
        refused += [
            Rejected(index, "this id was given to another event before", conflict=True)
            for index, outcome in outcomes.items()
            if outcome == "conflict"
        ]
        count = Counter(map(str, outcomes.values()))
        with self._lock:
            sender.counts += count + Counter(rejected=len(refused) - count["conflict"])
            self._changed_accounts |= {
                (source_name, kept[index].provider) for index, one in outcomes.items() if one == "accepted"
            }
        return Accepted(count["accepted"], count["duplicate"], sorted(refused, key=lambda one: one.index))

    def mark_all_changed(self) -> None:
        """Have every account valued and shown anew."""
        with self._lock:
            self._changed_accounts |= {
                (name, one) for name, sender in self._sources.items() for one in sender.account_states
            }

    def tick(self) -> None:
        """Have what changed valued and shown, in a thread. Raises LedgerError where that failed before."""
        if self._refresh_task is not None:
            if not self._refresh_task.done():
                return
            work, self._refresh_task = self._refresh_task, None
            work.result()
        if self._monotonic() < self._not_before:
            return
        if self._clock() >= self._next_idle_refresh:
            self._next_idle_refresh = self._clock() + IDLE_REFRESH_INTERVAL
            self.mark_all_changed()
        with self._lock:
            changed, self._changed_accounts = self._changed_accounts, set()
        self._refresh_task = self._pool.submit(self._refresh_accounts, changed) if changed else None

    def close(self) -> None:
        """Take no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _refresh_accounts(self, changed: set[tuple[str, str]]) -> None:
        began = self._monotonic()
        for name, provider in sorted(changed):
            sender = self._sources.get(name)
            member = sender.account_states.get(provider) if sender else None
            if sender is not None and member is not None:
                now = self._clock()
                self._ledger.events.mark_complete(member.ledger_account.id, now)
                if not sender.config.crosscheck_of:
                    self._valuer.value_days(member.ledger_account, now)
                    self._publish(member)
        self._not_before = self._monotonic() + REFRESH_PAUSE_FACTOR * (self._monotonic() - began)

    def _apply_limits(
        self, source: _Source, events: Mapping[int, UsageEvent], rejected: list[Rejected]
    ) -> dict[int, UsageEvent]:
        """Return the events that may be kept, as they may be: providers and labels are bounded."""
        kept, new = dict[int, UsageEvent](), False
        with self._lock:
            for index, event in events.items():
                if event.provider not in source.account_states:
                    if len(source.account_states) >= MAX_PROVIDERS_PER_SOURCE:
                        rejected.append(
                            Rejected(index, f"this source has told of {MAX_PROVIDERS_PER_SOURCE} providers already")
                        )
                        continue
                    self._add_account(source, event.provider)
                    new = True
                kept[index] = _aggregate_excess_labels(
                    event, source.label_sets[event.provider], source.config.max_series
                )
        if new:
            self.on_new_account()
        return kept

    def _add_account(self, source: _Source, provider: str) -> None:
        number = self._ledger.buckets.register_account(source.config.name, provider)
        source.account_states[provider] = AccountState(
            build_account(source.config, provider), build_ledger_account(source.config, provider, number)
        )
        known = self._ledger.hours.labels(number, [EVENTS_REPORT_NAME])
        source.label_sets[provider] = {labels[1:5] for labels in known}

    def _new_rate_limiter(self) -> TokenBucket:
        return TokenBucket(EVENTS_PER_SECOND, EVENTS_BURST, self._monotonic)


def build_account(source: Source, provider: str) -> Account:
    """Return the account that a source's events of a provider make."""
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
    )


def build_ledger_account(source: Source, provider: str, number: int) -> LedgerAccount:
    """Return that account's book; `number` is its own in the ledger."""
    agreed = tuple(NegotiatedPrice(one.model, one.meter, one.tier, one.usd_per_million) for one in source.prices)
    return LedgerAccount(number, provider, (EVENTS_REPORT,), agreed, days_close=False)


def _aggregate_excess_labels(
    event: UsageEvent, known_label_sets: set[tuple[str, str, str, str]], max_series: int
) -> UsageEvent:
    if not event.rows:
        return event
    row = event.rows[0]
    one = (row.workspace, row.model, row.tier, row.api_key)
    if one not in known_label_sets:
        if len(known_label_sets) >= MAX_SERIES_FACTOR * max_series:
            return replace(event, rows=tuple(Row(row.meter, row.value, "", OTHER, item=row.item) for row in event.rows))
        known_label_sets.add(one)
    return event
