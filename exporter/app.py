"""The composition root: builds the parts, starts them, applies a new configuration, stops them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import schedule

from exporter import __version__
from exporter.config.configuration import Account, Config
from exporter.config.keys import diagnose
from exporter.config.keys import tokens as bearer_tokens
from exporter.errors import ConfigError, IngestError, LedgerError
from exporter.history.hourly import Teller
from exporter.history.remote_read import Reader
from exporter.ledger import Ledger
from exporter.logs import say
from exporter.metrics.cache import Board
from exporter.metrics.families import (
    CHANGE_TIME,
    DEFECTS,
    INGEST_EVENTS,
    LEDGER_BYTES,
    RELOAD_SUCCESSFUL,
    RELOAD_TIME,
    Family,
)
from exporter.metrics.self_metrics import Own, Samples
from exporter.model import DAY, Provider, Secret
from exporter.polling.account_state import Member, Polled
from exporter.polling.health import Health
from exporter.polling.poller import Poller
from exporter.polling.schedule import Pace
from exporter.pricing.learned_rates import Agreed
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuer import Book, Books, PriceList
from exporter.providers import ProviderType
from exporter.providers.http import Access
from exporter.push.parse import OLDEST, deed_of
from exporter.push.service import Sources, Taken
from exporter.ui import landing_page
from exporter.ui.summary import days_asked, summary
from exporter.web import Views
from exporter.web.openapi import document
from exporter.web.push_routes import Desk

logger = logging.getLogger(__name__)

MOST_SAMPLES = 5_000_000
"""In the answer to one remote read, 18 bytes each: a year of 570 series."""

TOKENS_READ = 10
"""Every so many seconds the tokens of sources are read again."""

SPREAD = 120
"""Seconds over which accounts that are due at the same time of the hour are spread."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the process is given: time, environment, providers, prices, and how long the ledger keeps things."""

    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    environ: Mapping[str, str]
    providers: Mapping[str, ProviderType]
    prices: PriceList = list_rates
    keep_hours: timedelta = 93 * DAY
    keep_days: timedelta = 1096 * DAY
    most_samples: int = MOST_SAMPLES
    """How many samples one remote read may be answered with."""


@dataclass(slots=True)
class _Reloads:
    succeeded: bool = True
    at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class App:
    """One running exporter, without its HTTP server."""

    def __init__(self, folder: Path, surroundings: Surroundings) -> None:
        """Open the ledger. Raises LedgerError."""
        self._with = surroundings
        self._ledger = Ledger(folder)
        self._books = Books(self._ledger, surroundings.prices)
        self._board = Board(self._ledger, surroundings.clock, surroundings.monotonic)
        self._poller = Poller(
            self._ledger, self._books, surroundings.clock, surroundings.monotonic, publish=self._publish
        )
        self._sources = Sources(
            self._ledger, self._books, surroundings.clock, surroundings.monotonic, publish=self._board.hang
        )
        self._sources.appeared = self._expect
        self._config: Config | None = None
        self._reader = Reader(self._ledger, self._tellers, surroundings.most_samples)
        self._own = Own(self._own_values)
        self._members: dict[str, Polled] = {}
        self._reloads = _Reloads()
        self._jobs = schedule.Scheduler()
        self._stop = threading.Event()
        self._timer = threading.Thread(target=self._run_timer, name="timer", daemon=True)
        self.fatal: LedgerError | None = None
        self.ended: Callable[[], None] = lambda: None
        """Called when the process has to end because of `fatal`."""
        self.web_in_order: Callable[[], bool] = lambda: True
        """Tells whether the web configuration could be used when it was read last."""

    def apply(self, config: Config) -> None:
        """Take over a configuration: who is asked as before goes on undisturbed, who is removed leaves the page.

        Raises ConfigError where a source's token cannot be read; then nothing has changed.
        """
        tokens = bearer_tokens(config, self._with.environ)
        members, changed = dict[str, Polled](), list[Polled]()
        for account in config.accounts:
            member = self._members.get(account.name)
            if member is None or not account.asks_like(member.account):
                member = self._member(account)
                changed.append(member)
            elif member.account != account:
                member.renew(self._member(account))
                changed.append(member)
            member.try_again()
            members[account.name] = member
        self._members, self._config = members, config
        self._sources.apply(config.sources, tokens)
        self._expect()
        self._poller.enrol(list(members.values()))
        for member in changed:
            self._publish(member)
        for one in self._sources.members:
            if self._board.places(one.account.key) is None:
                self._board.hang(one)
        self._board.refresh(at_once=True)
        self._reloads.succeeded, self._reloads.at = True, self._with.clock().timestamp()

    def _expect(self) -> None:
        for name, member in self._members.items():
            member.witnesses = self._sources.witnesses(name)
        self._board.expect(self._shown(), self._config.budgets if self._config else ())

    def _read_tokens(self) -> None:
        """Take tokens over that have changed in their files; where one cannot be read, the old ones hold."""
        if self._config is not None and self._config.sources:
            try:
                self._sources.know(bearer_tokens(self._config, self._with.environ))
            except ConfigError as error:
                say(logger, "warn", "Tokens of sources not read again; the old ones hold", problems=str(error))

    def _shown(self) -> list[Member]:
        return [*self._members.values(), *self._sources.members]

    def reload(self, load: Callable[[], Config]) -> str:
        """Load and apply anew, all or nothing; return every problem, and then the old configuration stays."""
        with self._reloads.lock:
            try:
                self.apply(load())
            except ConfigError as error:
                self._reloads.succeeded = False
                say(logger, "error", "Configuration not reloaded; the old one stays", problems=str(error))
                return str(error)
            except LedgerError as error:
                self._break(error)
                return str(error)
            say(logger, "info", "Configuration reloaded", accounts=len(self._members))
            return ""

    def every(self, interval: timedelta, job: Callable[[], object]) -> None:
        """Have something done regularly, once it has started."""
        self._jobs.every(int(interval.total_seconds())).seconds.do(job)

    def start(self) -> None:
        """Begin to poll."""
        self._timer.start()

    def stop(self) -> None:
        """Cut the requests under way and close the ledger."""
        self._stop.set()
        if self._timer.ident is not None:
            self._timer.join()
        self._poller.close()
        self._sources.close()
        self._ledger.close()

    def views(self, reload: Callable[[], str] | None = None) -> Views:
        """Return what the HTTP routes show; `reload` is what POST /-/reload does, None where it is not allowed."""
        return Views(
            page=lambda: self._board.page,
            tail=lambda openmetrics: self._own.tail(openmetrics=openmetrics),
            landing=lambda: landing_page(
                self._shown(), self._ledger, self._board.places, self._board.budgets, self._with.clock()
            ),
            ready=lambda: str(self.fatal or ""),
            read=self._reader.answer,
            desk=Desk(
                owner=self._sources.owner,
                take=self._take,
                note=self._note,
                summary=self._summary,
                document=lambda: document(__version__),
            ),
            reload=reload,
        )

    def tick(self) -> None:
        """Do what is due now: visits, the turn of the hour, the page."""
        if self._board.turned():
            self._poller.turn()
            self._sources.turn()
        self._poller.tick()
        self._sources.tick()
        self._board.refresh()
        if self._poller.fatal is not None:
            raise self._poller.fatal

    @property
    def idle(self) -> bool:
        """Whether no account is being visited."""
        return self._poller.idle

    @property
    def complete(self) -> bool:
        """Whether the newest poll of every report of every account succeeded and is on the page."""
        return self.idle and all(member.up(self._ledger) for member in self._members.values()) and self._board.current

    def _member(self, account: Account) -> Polled:
        kind = self._with.providers[account.provider]
        number = self._ledger.buckets.account(account.name, account.provider)
        agreed = tuple(Agreed(one.model, one.meter, one.tier, one.usd_per_million) for one in account.prices)
        offset = int.from_bytes(blake2b(account.name.encode(), digest_size=4).digest()) % SPREAD

        def connect(key: Secret, health: Health) -> Provider:
            if (rejected := diagnose(key, kind.key_kinds)) is not None:
                raise rejected
            return kind(
                Access(
                    key=key,
                    base_url=account.base_url or kind.base_url,
                    api_keys="api_key" in account.labels,
                    observe=lambda code: health.requests.update([code]),
                    timeout=account.timeout.total_seconds(),
                    monotonic=self._with.monotonic,
                )
            )

        return Polled(
            account=account,
            book=Book(number, account.provider, kind.reports, agreed),
            pace=Pace(account.poll_interval, account.history, timedelta(seconds=offset)),
            read_key=lambda: account.api_key.read(self._with.environ),
            connect=connect,
        )

    def _publish(self, member: Member) -> None:
        if self._members.get(member.account.name) is member:
            self._board.hang(member)

    def _tellers(self) -> Iterator[Teller]:
        for member in self._shown():
            places, until = self._board.places(member.account.key), member.complete_until(self._ledger)
            if places is not None and until is not None:
                yield Teller(member.account.name, member.book, places, until)

    def _own_values(self) -> dict[Family, float | Samples]:
        return {
            RELOAD_SUCCESSFUL: float(self._reloads.succeeded and self.web_in_order()),
            RELOAD_TIME: self._reloads.at,
            LEDGER_BYTES: float(self._ledger.size()),
            DEFECTS: float(self._poller.defects),
            INGEST_EVENTS: self._sources.counts,
            CHANGE_TIME: self._changes(),
        }

    def _changes(self) -> dict[tuple[str, ...], float]:
        told = self._ledger.timeline.newest(self._with.clock())
        # Of one thing done twice the newest time.
        return {(one.title, one.service, one.account, one.link): one.moment.timestamp() for one in reversed(told)}

    def _take(self, source: str, body: bytes, key: str, batch: bool) -> Taken:  # noqa: FBT001
        try:
            return self._sources.take(source, body, key, batch=batch)
        except LedgerError as error:
            raise self._broken(error) from error

    def _note(self, body: bytes) -> None:
        now = self._with.clock()
        deed = deed_of(body, now)
        try:
            self._ledger.timeline.put(deed, now)
        except LedgerError as error:
            raise self._broken(error) from error

    def _summary(self, days: str) -> Mapping[str, Any]:
        now, board, asked = self._with.clock(), self._board, days_asked(days)
        try:
            deeds = self._ledger.timeline.newest(now)
            return summary(self._shown(), self._ledger, board.places, board.signals, deeds, asked, now)
        except LedgerError as error:
            raise self._broken(error) from error

    def _broken(self, error: LedgerError) -> IngestError:
        self._break(error)
        return IngestError(503, "the ledger cannot be written; nothing of this was kept")

    def _run_timer(self) -> None:
        self._jobs.every(1).seconds.do(self.tick)
        self._jobs.every(TOKENS_READ).seconds.do(self._read_tokens)
        self._jobs.every(1).hours.do(self._retain)
        due: Callable[[], object] = self._jobs.run_all
        while self.fatal is None:
            try:
                due()
            except LedgerError as error:
                self._break(error)
            except Exception as error:  # noqa: BLE001 - a thread's top: the clock must go on ticking
                self._poller.defects += 1
                say(logger, "error", "A timed job broke off", error=error)
            due = self._jobs.run_pending
            if self._stop.wait(0.2):
                break

    def _break(self, error: LedgerError) -> None:
        """Have the process end: the disk is wrong. One that is ending already has closed the ledger itself."""
        if self._stop.is_set():
            return
        self.fatal = error
        self.ended()

    def _retain(self) -> None:
        self._ledger.retention.apply(self._with.clock(), self._with.keep_hours, self._with.keep_days)
        self._ledger.events.forget(self._with.clock() - OLDEST - DAY)
