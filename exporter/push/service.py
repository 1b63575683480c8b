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
from exporter.errors import IngestError
from exporter.ledger import Ledger
from exporter.ledger.events import REPORT
from exporter.model import HOUR, Event, Report, Row, Secret
from exporter.polling.account_state import Member, Witness
from exporter.pricing.learned_rates import Agreed
from exporter.pricing.valuer import Book, Books
from exporter.push.parse import OLDEST, Refused, batch_of, parsed, read
from exporter.push.tokens import Tokens
from exporter.ratelimit import Allowance

logger = logging.getLogger(__name__)

_MINUTE = timedelta(minutes=1)
EVENTS = Report(REPORT, "usage", HOUR, _MINUTE, timedelta(0), timedelta(0), 5 * _MINUTE, OLDEST)
"""What was pushed, as a report: an hour counts as complete five minutes after its end."""

EVENTS_PER_SECOND = 10_000
EVENTS_AT_ONCE = 30_000
BEAT = 5 * _MINUTE
"""How often an account that nothing is told of is shown anew."""
SHARE = 4
"""Valuing and showing may take one part in so many of the time: what is large is shown anew less often."""
MOST_PROVIDERS = 20
"""That one source may name."""
FOLDED_BEYOND = 10
"""Times max_series: so many combinations of labels a source may have in the ledger, the rest is told as `other`."""
OTHER = "other"

OUTCOMES = ("accepted", "repeated", "conflict", "refused")


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of the events of one request."""

    accepted: int
    repeated: int
    refused: Sequence[Refused]
    """By index."""


@dataclass(slots=True)
class _Sender:
    """A source at work."""

    source: Source
    allowance: Allowance
    members: dict[str, Member] = field(default_factory=dict)
    """By provider."""
    combinations: dict[str, set[tuple[str, str, str, str]]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    """Events by outcome."""


class Sources:
    """Takes events, and has the accounts that they change valued and shown a moment later."""

    def __init__(
        self,
        ledger: Ledger,
        books: Books,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        publish: Callable[[Member], None],
    ) -> None:
        self._ledger = ledger
        self._books = books
        self._clock = clock
        self._monotonic = monotonic
        self._publish = publish
        self._senders: dict[str, _Sender] = {}
        self._tokens = Tokens({})
        self._changed: set[tuple[str, str]] = set()
        self._next_beat = clock()
        self._not_before = 0.0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sources")
        self._work: Future[None] | None = None
        self.appeared: Callable[[], None] = lambda: None
        """Called when there is an account that was not there before."""

    def apply(self, sources: Sequence[Source], tokens: Mapping[str, Secret]) -> None:
        """Take over what the configuration says; what was told before stays."""
        senders = {}
        for source in sources:
            old = self._senders.get(source.name)
            sender = _Sender(source, old.allowance if old else self._allowance())
            sender.counts = old.counts if old else Counter()
            for provider in self._ledger.events.providers(source.name):
                self._join(sender, provider)
            senders[source.name] = sender
        self._senders = senders
        self.know(tokens)
        self.turn()

    def know(self, tokens: Mapping[str, Secret]) -> None:
        """Take over the sources' bearer tokens, of which only digests are kept."""
        self._tokens = Tokens(tokens)

    @property
    def members(self) -> list[Member]:
        """The accounts that are shown; a witness is compared, and not shown."""
        shown = (sender for sender in self._senders.values() if not sender.source.witness_of)
        return [one for sender in shown for one in list(sender.members.values())]

    def witnesses(self, account: str) -> tuple[Witness, ...]:
        """Return those who see this account's use too."""
        return tuple(
            Witness(name, tuple(one.book.number for one in list(sender.members.values())), REPORT)
            for name, sender in self._senders.items()
            if sender.source.witness_of == account
        )

    @property
    def counts(self) -> dict[tuple[str, ...], float]:
        """Events since the process began, by source and outcome."""
        return {
            (name, outcome): float(sender.counts[outcome])
            for name, sender in self._senders.items()
            for outcome in OUTCOMES
        }

    def owner(self, token: str) -> str | None:
        """Return the source whose bearer token this is."""
        return self._tokens.owner(token)

    def take(self, name: str, body: bytes, key: str = "", *, batch: bool = False) -> Taken:
        """Count one event, or each good one of a batch; durable when it returns.

        `key` names the request, so that events without an id are counted once though it is told again. Raises
        IngestError where nothing is taken, LedgerError when the disk is wrong.
        """
        sender, now = self._senders.get(name), self._clock()
        if sender is None:
            raise IngestError(401, "this source is not configured any more")
        told = parsed(body)
        items = batch_of(told) if batch else [told]
        if not sender.allowance.take(len(items)):
            raise IngestError(429, f"more than {EVENTS_PER_SECOND} events per second")
        events, refused = read(items, key=key, api_keys="api_key" in sender.source.labels, now=now)
        kept = self._admitted(sender, events, refused)
        outcomes = dict(zip(kept, self._ledger.events.take(name, list(kept.values()), now), strict=True))
        refused += [
            Refused(index, "this id was given to another event before", conflict=True)
            for index, outcome in outcomes.items()
            if outcome == "conflict"
        ]
        count = Counter(map(str, outcomes.values()))
        with self._lock:
            sender.counts += count + Counter(refused=len(refused) - count["conflict"])
            self._changed |= {(name, kept[index].provider) for index, one in outcomes.items() if one == "accepted"}
        return Taken(count["accepted"], count["repeated"], sorted(refused, key=lambda one: one.index))

    def turn(self) -> None:
        """Have every account valued and shown anew."""
        with self._lock:
            self._changed |= {(name, one) for name, sender in self._senders.items() for one in sender.members}

    def tick(self) -> None:
        """Have what changed valued and shown, in a thread. Raises LedgerError where that failed before."""
        if self._work is not None:
            if not self._work.done():
                return
            work, self._work = self._work, None
            work.result()
        if self._monotonic() < self._not_before:
            return
        if self._clock() >= self._next_beat:
            self._next_beat = self._clock() + BEAT
            self.turn()
        with self._lock:
            changed, self._changed = self._changed, set()
        self._work = self._pool.submit(self._show, changed) if changed else None

    def close(self) -> None:
        """Take no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _show(self, changed: set[tuple[str, str]]) -> None:
        began = self._monotonic()
        for name, provider in sorted(changed):
            sender = self._senders.get(name)
            member = sender.members.get(provider) if sender else None
            if sender is not None and member is not None:
                now = self._clock()
                self._ledger.events.nothing_more(member.book.number, now)
                if not sender.source.witness_of:
                    self._books.value(member.book, now)
                    self._publish(member)
        self._not_before = self._monotonic() + SHARE * (self._monotonic() - began)

    def _admitted(self, sender: _Sender, events: Mapping[int, Event], refused: list[Refused]) -> dict[int, Event]:
        """Return the events that may be kept, as they may be: providers and labels are bounded."""
        kept, new = dict[int, Event](), False
        with self._lock:
            for index, event in events.items():
                if event.provider not in sender.members:
                    if len(sender.members) >= MOST_PROVIDERS:
                        refused.append(Refused(index, f"this source has told of {MOST_PROVIDERS} providers already"))
                        continue
                    self._join(sender, event.provider)
                    new = True
                kept[index] = _folded(event, sender.combinations[event.provider], sender.source.max_series)
        if new:
            self.appeared()
        return kept

    def _join(self, sender: _Sender, provider: str) -> None:
        number = self._ledger.buckets.account(sender.source.name, provider)
        sender.members[provider] = Member(account_of(sender.source, provider), book_of(sender.source, provider, number))
        known = self._ledger.hours.labels(number, [REPORT])
        sender.combinations[provider] = {labels[1:5] for labels in known}

    def _allowance(self) -> Allowance:
        return Allowance(EVENTS_PER_SECOND, EVENTS_AT_ONCE, self._monotonic)


def account_of(source: Source, provider: str) -> Account:
    """Return the account that a source's events of a provider make."""
    return Account(
        name=source.name,
        provider=provider,
        api_key=source.token,
        poll_interval=_MINUTE,
        history=OLDEST,
        max_series=source.max_series,
        timeout=_MINUTE,
        place=source.place,
        owner=source.owner,
        labels=source.labels,
        prices=source.prices,
    )


def book_of(source: Source, provider: str, number: int) -> Book:
    """Return that account's book; `number` is its own in the ledger."""
    agreed = tuple(Agreed(one.model, one.meter, one.tier, one.usd_per_million) for one in source.prices)
    return Book(number, provider, (EVENTS,), agreed, closes=False)


def _folded(event: Event, known: set[tuple[str, str, str, str]], limit: int) -> Event:
    if not event.rows:
        return event
    row = event.rows[0]
    one = (row.workspace, row.model, row.tier, row.api_key)
    if one not in known:
        if len(known) >= FOLDED_BEYOND * limit:
            return replace(event, rows=tuple(Row(row.meter, row.value, "", OTHER, item=row.item) for row in event.rows))
        known.add(one)
    return event
