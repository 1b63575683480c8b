"""The composition root: builds the parts, starts them, applies a new configuration, stops them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from exporter.config.configuration import Account, Config
from exporter.config.keys import read_bearer_tokens as bearer_tokens
from exporter.config.messages import format_value, suggest
from exporter.errors import ConfigError, LedgerError, LedgerUnavailable, RereadRejected
from exporter.history.hourly import history_accounts
from exporter.history.remote_read import RemoteReadHandler
from exporter.history.sources import History
from exporter.ledger import Ledger, LedgerLocation
from exporter.logs import log_event
from exporter.metrics.cache import MetricsCache
from exporter.metrics.families import (
    CHANGE_TIME,
    INGEST_EVENTS,
    INTERNAL_ERRORS,
    LEDGER_BYTES,
    RELOAD_SUCCESSFUL,
    RELOAD_TIME,
)
from exporter.metrics.self_metrics import SelfMetrics, ValueReaders
from exporter.model import DAY, HOUR
from exporter.polling.account_state import AccountState, PolledAccount, PolledAccountConfig
from exporter.polling.connection import build_account_config
from exporter.polling.jobs import Jobs
from exporter.polling.poller import Poller
from exporter.polling.reread import RereadPlan, RereadRequest, check_days, format_days, plan_account
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuer import PriceList, Valuer
from exporter.providers import ProviderType
from exporter.push.parse import MAX_EVENT_AGE
from exporter.push.service import PushService
from exporter.snapshot.store import SnapshotStore
from exporter.ui import render_landing_page
from exporter.ui.links import PageLinks
from exporter.ui.summary import build_summary
from exporter.web import Handlers
from exporter.windows import floor

logger = logging.getLogger(__name__)

MAX_REMOTE_READ_SAMPLES = 5_000_000
"""In the response to a remote read, 18 bytes each: a year of 570 series."""

MAX_REASONS = 5
"""Reasons in the answer to a request that is rejected, of which there may be some for each account."""

TICK_INTERVAL = timedelta(seconds=1)
TOKEN_RELOAD_INTERVAL = timedelta(seconds=10)
"""Between two reads of the sources' bearer tokens."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the process depends on: clocks, environment, providers, list prices, retention, limits and addresses."""

    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    environ: Mapping[str, str]
    providers: Mapping[str, ProviderType]
    price_list: PriceList = list_rates
    hourly_retention: timedelta = 93 * DAY
    daily_retention: timedelta = 1096 * DAY
    max_remote_read_samples: int = MAX_REMOTE_READ_SAMPLES
    """Limit of samples in the response to a remote read."""
    page_links: PageLinks = field(default_factory=PageLinks)
    """Addresses that the landing page links to."""


@dataclass(slots=True)
class _ReloadStatus:
    succeeded: bool = True
    timestamp: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class App:
    """A running exporter, without its HTTP server."""

    def __init__(self, location: LedgerLocation, dependencies: Dependencies) -> None:
        """Open the ledger. Raises LedgerError."""
        self._dependencies = dependencies
        self.ledger = Ledger(location)
        """Open until `stop`."""
        self._valuer = Valuer(self.ledger, dependencies.price_list)
        self._metrics_cache = MetricsCache(dependencies.clock, dependencies.monotonic)
        self.snapshots = SnapshotStore(self.ledger, dependencies.clock, on_change=self._metrics_cache.update)
        """The newest snapshot of every account."""
        self._hour: datetime | None = None
        self._poller = Poller(
            self.ledger, self._valuer, dependencies.clock, dependencies.monotonic, publish=self._publish
        )
        self._push_service = PushService(
            self.ledger, self._valuer, dependencies.clock, dependencies.monotonic, publish=self.snapshots.update
        )
        self._push_service.on_new_account = self._update_accounts
        self._config: Config | None = None
        self._remote_read = RemoteReadHandler(self.ledger, self._history, dependencies.max_remote_read_samples)
        self._self_metrics = SelfMetrics(self._self_metric_readers())
        self.polled_accounts: Mapping[str, PolledAccount] = {}
        """The configured accounts by name; replaced as a whole by `apply`."""
        self._reload_status = _ReloadStatus()
        self._jobs = Jobs(dependencies.monotonic)
        self._failed_jobs = 0
        self._failed_publications = 0
        self._stop = threading.Event()
        self._timer = threading.Thread(target=self._run_timer, name="timer", daemon=True)
        self.fatal: LedgerError | None = None
        self.on_fatal: Callable[[], None] = lambda: None
        """Called when the process must end because of `fatal`."""
        self.web_config_healthy: Callable[[], bool] = lambda: True
        """Returns whether the newest version of the web configuration is in use."""

    def apply(self, config: Config) -> None:
        """Apply a configuration: unchanged accounts are polled without interruption, removed accounts leave /metrics.

        Raises ConfigError where a source's token cannot be read; then nothing has changed.
        """
        tokens = bearer_tokens(config, self._dependencies.environ)
        changed = self._reconfigure_accounts(config)
        self._push_service.apply(config.sources, tokens)
        self._update_accounts()
        self._poller.set_accounts(list(self.polled_accounts.values()))
        new_sources = [
            account_state
            for account_state in self._push_service.account_states
            if self.snapshots.get(account_state.account.identity) is None
        ]
        for account_state in (*changed, *new_sources):
            self._publish_applied(account_state)
        self.refresh_metrics()
        self._reload_status.succeeded, self._reload_status.timestamp = True, self._dependencies.clock().timestamp()

    def _publish_applied(self, account_state: AccountState) -> None:
        """Publish an account while a configuration is applied. Raises LedgerError."""
        try:
            self.snapshots.update(account_state)
        except LedgerError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug in one account must end neither the start nor a reload
            # Its next poll or refresh meets the same error, and exports it as the account's problem.
            self._failed_publications += 1
            fields = {"account": account_state.account.name, "error": error}
            log_event(logger, "error", "Account not published because of an internal error", **fields)

    def _reconfigure_accounts(self, config: Config) -> list[PolledAccount]:
        """Replace the configuration and its accounts; return those that are new or configured differently."""
        accounts: dict[str, PolledAccount] = {}
        changed: list[PolledAccount] = []
        for account in config.accounts:
            polled_account = self.polled_accounts.get(account.name)
            if polled_account is None or not account.has_same_connection(polled_account.account):
                polled_account = PolledAccount(self._account_config(account))
                changed.append(polled_account)
            elif polled_account.account != account:
                polled_account.reconfigure(self._account_config(account))
                changed.append(polled_account)
            polled_account.retry_rejected_key()
            accounts[account.name] = polled_account
        self.polled_accounts, self._config = accounts, config
        return changed

    def _account_config(self, account: Account) -> PolledAccountConfig:
        return build_account_config(
            account,
            self._dependencies.providers,
            self.ledger.buckets.register_account(account.name, account.provider),
            self._dependencies.environ,
            self._dependencies.monotonic,
            self._dependencies.hourly_retention,
        )

    def _update_accounts(self) -> None:
        for name, polled_account in self.polled_accounts.items():
            polled_account.set_crosschecks(self._push_service.crosschecks(name))
        budgets = self._config.budgets if self._config else ()
        removed = self.snapshots.configure(self._exported_accounts(), budgets)
        self._metrics_cache.configure(budgets, removed)

    def reload_tokens(self) -> None:
        """Read the sources' bearer tokens again; where one cannot be read, the previous tokens stay valid."""
        if self._config is not None and self._config.sources:
            try:
                self._push_service.set_tokens(bearer_tokens(self._config, self._dependencies.environ))
            except ConfigError as error:
                log_event(
                    logger, "warn", "Reloading ingest tokens failed; keeping the previous tokens", problems=str(error)
                )

    def _exported_accounts(self) -> list[AccountState]:
        return [*self.polled_accounts.values(), *self._push_service.account_states]

    def reload(self, load: Callable[[], Config]) -> str:
        """Load and apply the configuration, all or nothing; return the problems for which the previous one stays."""
        with self._reload_status.lock:
            try:
                self.apply(load())
            except ConfigError as error:
                self._reload_status.succeeded = False
                log_event(
                    logger, "error", "Reloading the configuration failed; keeping the previous one", problems=str(error)
                )
                return str(error)
            except LedgerError as error:
                self._reload_status.succeeded = False
                self._handle_ledger_error(error)
                return str(error)
            log_event(logger, "info", "Configuration reloaded", accounts=len(self.polled_accounts))
            return ""

    def reread(self, request: RereadRequest) -> RereadPlan:
        """Have the poller read past days of polled accounts again, and return what it will read.

        Raises RereadRejected where nothing can be read, and LedgerError.
        """
        now = self._dependencies.clock()
        check_days(request, self._dependencies.hourly_retention, now)
        accounts = self._accounts_to_reread(request)
        plans = []
        messages: list[str] = []
        for account in accounts:
            number, reports = account.ledger_account.id, account.reports
            coverages = {report.name: self.ledger.buckets.coverage(number, report.name) for report in reports}
            identity = account.account.identity
            plan, account_messages = plan_account(*identity, reports, coverages, request, now)
            messages += account_messages
            if account.key_rejected:
                messages.append(f"{identity[0]}: its key is rejected; the days are read again once the key works")
            if plan.reports:
                plans.append(plan)
                account.request_reread(plan.reports)
        if not plans:
            reasons = "; ".join(messages[:MAX_REASONS]) + ("; …" if len(messages) > MAX_REASONS else "")
            raise RereadRejected(400, f"nothing can be read again: {reasons}")
        days = format_days(request.time_range)
        fields = {"days": days, "account": request.account, "provider": request.provider, "accounts": len(plans)}
        log_event(logger, "info", "Reading days again requested", **fields)
        return RereadPlan(request, tuple(plans), tuple(messages))

    def _accounts_to_reread(self, request: RereadRequest) -> list[PolledAccount]:
        accounts = self.polled_accounts
        providers = {polled.account.provider for polled in accounts.values()}
        if request.provider is not None and request.provider not in providers:
            reason = f"no polled account has the provider {format_value(request.provider)}"
            raise RereadRejected(404, _with_hint(reason, request.provider, providers))
        if request.account is not None and request.account not in accounts:
            reason = f"there is no polled account {format_value(request.account)}"
            pushed = {state.account.name for state in self._push_service.account_states}
            if request.account in pushed:
                reason = f"{format_value(request.account)} is a source: its usage is pushed, not polled"
            raise RereadRejected(404, _with_hint(reason, request.account, accounts))
        selected = [
            polled
            for name, polled in accounts.items()
            if request.account in (None, name) and request.provider in (None, polled.account.provider)
        ]
        if not selected:
            reason = "there is no polled account"
            if request.account is not None:
                reason = f"the provider of {request.account} is {accounts[request.account].account.provider}"
            raise RereadRejected(404, reason)
        return selected

    def run_every(self, interval: timedelta, job: Callable[[], object]) -> None:
        """Run a job at an interval, once the exporter has started."""
        self._jobs.add(interval, job)

    def start(self) -> None:
        """Start polling."""
        self._timer.start()

    def stop(self) -> None:
        """Abort running requests and close the ledger."""
        self._stop.set()
        if self._timer.ident is not None:
            self._timer.join()
        self._poller.close()
        self._push_service.close()
        self.ledger.close()

    def handlers(self, reload: Callable[[], str] | None = None) -> Handlers:
        """Return the handlers of the HTTP routes; `reload` handles POST /-/reload.

        Where `reload` is None, neither it nor POST /-/reread is allowed.
        """
        return Handlers(
            page=lambda: self._metrics_cache.page,
            self_metrics=lambda openmetrics: self._self_metrics.render(openmetrics=openmetrics),
            landing_page=self._landing_page,
            not_ready_reason=lambda: str(self.fatal or self.ledger.unavailable_reason),
            remote_read=self._remote_read.handle,
            push=self._push_service,
            summarize=self._summarize,
            on_ledger_error=self._handle_ledger_error,
            reload=reload,
            reread=None if reload is None else self.reread,
        )

    def refresh_metrics(self) -> None:
        """Assemble /metrics now, without the pause that follows the assembly of a large page."""
        self._metrics_cache.refresh(force=True)

    def _landing_page(self) -> str:
        now = self._dependencies.clock()
        try:
            change_events = self.ledger.change_events.recent(now)
        except LedgerUnavailable as error:
            # The page is where an operator looks when something is wrong: it says so in the accounts' problems.
            self._handle_ledger_error(error)
            change_events = []
        budgets, links = self._metrics_cache.evaluated_budgets, self._dependencies.page_links
        return render_landing_page(self.snapshots.all(), budgets, change_events, now, links)

    def _hour_changed(self) -> bool:
        """Return True once per UTC hour: the windows have moved, so every account needs a new snapshot."""
        hour = floor(self._dependencies.clock(), HOUR)
        changed, self._hour = self._hour is not None and hour != self._hour, hour
        return changed

    def tick(self) -> None:
        """Do what is due: polls, the change of the hour, assembling /metrics. Raises LedgerError."""
        self.ledger.check()
        if self._hour_changed():
            self._poller.on_hour_change()
            self._push_service.mark_all_changed()
        self._poller.tick()
        self._push_service.tick()
        self._metrics_cache.refresh()
        if self._poller.fatal is not None:
            raise self._poller.fatal

    @property
    def idle(self) -> bool:
        """Whether no poll is under way."""
        return self._poller.idle

    @property
    def active_polls(self) -> int:
        """How many accounts are being polled."""
        return self._poller.active_polls

    @property
    def internal_errors(self) -> int:
        """How many polls, refreshes, publications, timed jobs and readings of metrics failed unexpectedly."""
        # A counter for each thread that increases it: `+=` of several threads on one attribute may lose an increase.
        return (
            self._poller.internal_errors
            + self._push_service.internal_errors
            + self._failed_jobs
            + self._failed_publications
            + self._self_metrics.failures
        )

    @property
    def up_to_date(self) -> bool:
        """Whether the newest poll of every report of every account succeeded and is on /metrics."""
        snapshots = [self.snapshots.get(state.account.identity) for state in self.polled_accounts.values()]
        return (
            self.idle
            and all(snapshot is not None and snapshot.up for snapshot in snapshots)
            and self._metrics_cache.up_to_date
        )

    def _publish(self, account_state: AccountState) -> None:
        if self.polled_accounts.get(account_state.account.name) is account_state:
            self.snapshots.update(account_state)

    def _history(self) -> History:
        budgets = self._config.budgets if self._config else ()
        return History(history_accounts(self.snapshots.all(), budgets), budgets, self._dependencies.clock())

    def _self_metric_readers(self) -> ValueReaders:
        return {
            RELOAD_SUCCESSFUL: lambda: float(self._reload_status.succeeded and self.web_config_healthy()),
            RELOAD_TIME: lambda: self._reload_status.timestamp,
            LEDGER_BYTES: lambda: float(self.ledger.size()),
            INTERNAL_ERRORS: lambda: float(self.internal_errors),
            INGEST_EVENTS: lambda: self._push_service.counts,
            CHANGE_TIME: self._change_times,
        }

    def _change_times(self) -> dict[tuple[str, ...], float]:
        newest_first = self.ledger.change_events.recent(self._dependencies.clock())
        # Of events with equal labels the newest time is exported: later assignments win.
        return {
            (event.title, event.service, event.account, event.link): event.time.timestamp()
            for event in reversed(newest_first)
        }

    def _summarize(self, days: int) -> Mapping[str, Any]:
        now = self._dependencies.clock()
        return build_summary(self.snapshots.all(), self.ledger.change_events.recent(now), days, now)

    def _run_timer(self) -> None:
        self._jobs.add(TICK_INTERVAL, self.tick)
        self._jobs.add(TOKEN_RELOAD_INTERVAL, self.reload_tokens)
        self._jobs.add(HOUR, self.apply_retention)
        while self.fatal is None:
            self._jobs.run_due(self._handle_job_error)
            if self._stop.wait(0.2):
                break

    def _handle_job_error(self, error: Exception) -> None:
        if isinstance(error, LedgerError):
            self._handle_ledger_error(error)
        else:
            self._failed_jobs += 1
            log_event(logger, "error", "A timed job failed with an internal error", error=error)

    def _handle_ledger_error(self, error: LedgerError) -> None:
        """End the process where the ledger cannot be used any more; where it may be later, only log the reason.

        The process that is ending already has closed the ledger itself.
        """
        if self._stop.is_set():
            return
        if isinstance(error, LedgerUnavailable):
            log_event(logger, "error", "Ledger unavailable; it is tried again", error=error)
            return
        self.fatal = error
        self.on_fatal()

    def apply_retention(self) -> None:
        """Roll up and delete what is older than the retention. Raises LedgerError."""
        now = self._dependencies.clock()
        newest = self.ledger.retention.newest_bucket()
        if newest is not None and now - newest > self._dependencies.hourly_retention:
            # A clock that is years ahead must not delete everything; pushed usage could not be read again. Nothing is
            # lost by waiting either: without new usage the ledger does not grow.
            fields = {"newest_usage": newest.isoformat(), "now": now.isoformat()}
            log_event(logger, "warn", "Retention not applied: there is no recent usage; check the clock", **fields)
            return
        self.ledger.retention.apply(now, self._dependencies.hourly_retention, self._dependencies.daily_retention)
        self.ledger.events.delete_old_ids(now - MAX_EVENT_AGE - DAY)


def _with_hint(reason: str, name: str, known: Collection[str]) -> str:
    hint = suggest(name, known)
    return f"{reason}; {hint}" if hint else reason
