"""An exporter with any number of series, through the same steps as in production: store, value, render, assemble."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import yaml

from exporter.app import App, Dependencies
from exporter.config.configuration import load
from exporter.model import DAY, HOUR, Bucket, Row
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuer import Valuer
from exporter.providers import PROVIDERS
from exporter.windows import TimeRange, floor
from tests.system import NOON, Clock, ledger_of, polled_account

DAYS = 30
METERS = ("uncached_input", "cache_read", "cache_write_5m", "output")
MODELS = ("claude-opus-5", "claude-sonnet-5", "claude-sonnet-4-6", "claude-haiku-4-5-20251001")
TIERS = ("standard", "batch")
SERIES_PER_LABEL_SET = 5 + 4 * len(METERS)
"""Sample lines of a combination of workspace, model and tier: five windows of cost, four of each meter."""


def build_app(folder: Path, sizes: Mapping[str, int], clock: Clock | None = None, days: int = DAYS) -> App:
    """Return an exporter whose ledger holds some days of accounts: name -> combinations of workspace, model, tier.

    No usage is on /metrics yet, and no request is made.
    """
    accounts = [
        {"name": name, "provider": "anthropic", "owner": "platform", "api_key_env": "KEY", "base_url": "http://[::1]:9"}
        for name in sizes
    ]
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"accounts": accounts}))
    app = App(folder / "ledger", Dependencies(clock or Clock(NOON), time.monotonic, {}, PROVIDERS))
    app.apply(load(path, PROVIDERS))
    for name, size in sizes.items():
        _store_account(app, name, size, days)
    return app


def render_account(app: App, account: str) -> float:
    """Render an account's lines as they are by the clock; return the duration in seconds."""
    began = time.perf_counter()
    app.snapshots.update(polled_account(app, account))
    return time.perf_counter() - began


def refresh_metrics(app: App) -> float:
    """Assemble /metrics; return the duration in seconds."""
    began = time.perf_counter()
    app.refresh_metrics()
    return time.perf_counter() - began


def _store_account(app: App, account: str, size: int, days: int) -> None:
    ledger, ledger_account = ledger_of(app), polled_account(app, account).ledger_account
    time_range = TimeRange(floor(NOON, DAY) - days * DAY, NOON)
    for report in ledger_account.reports:
        buckets = _buckets(report.name, time_range, size) if report.kind == "usage" else ()
        ledger.buckets.put(ledger_account.id, report.name, time_range, buckets, completes_refresh=True)
    Valuer(ledger, list_rates).value_days(ledger_account, NOON)


def _buckets(report: str, time_range: TimeRange, size: int) -> Iterator[Bucket]:
    """Yield every hour of a time range; each combination has usage in a single hour of the day."""
    start = time_range.start
    while start < time_range.end:
        rows = [row for number in range(start.hour, size, 24) for row in _rows(number, start)]
        yield Bucket(report, start, start + HOUR, tuple(rows))
        start += HOUR


def _rows(number: int, start: datetime) -> Iterator[Row]:
    rest, tier = divmod(number, len(TIERS))
    workspace, model = divmod(rest, len(MODELS))
    for place, meter in enumerate(METERS):
        value = 1000 + (number * 7919 + start.day * 104_729 + place * 1299) % 9_000_000
        yield Row(meter, value, f"wrkspc_{workspace:04d}", MODELS[model], TIERS[tier])
