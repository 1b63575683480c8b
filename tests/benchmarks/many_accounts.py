"""An exporter with as many series as wanted, made the way that real ones are: told, valued, hung up, put together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import yaml

from exporter.app import App, Dependencies
from exporter.config.configuration import load
from exporter.model import DAY, HOUR, Bucket, Row
from exporter.providers import PROVIDERS
from exporter.windows import TimeRange, floor

NOW = datetime(2026, 11, 18, 12, 7, 30, tzinfo=UTC)
DAYS = 30
METERS = ("uncached_input", "cache_read", "cache_write_5m", "output")
MODELS = ("claude-opus-5", "claude-sonnet-5", "claude-sonnet-4-6", "claude-haiku-4-5-20251001")
TIERS = ("standard", "batch")
SERIES_PER_LABEL_SET = 5 + 4 * len(METERS)
"""Sample lines of one combination of workspace, model and tier: five windows of money, four of each meter."""


def build_app(folder: Path, sizes: Mapping[str, int]) -> App:
    """Return an exporter whose ledger holds thirty days of accounts: name -> combinations of workspace, model, tier.

    Nothing is on its page yet but how the accounts fare, and nobody is asked.
    """
    accounts = [
        {"name": name, "provider": "anthropic", "owner": "platform", "api_key_env": "KEY", "base_url": "http://[::1]:9"}
        for name in sizes
    ]
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"accounts": accounts}))
    app = App(folder / "ledger", Dependencies(lambda: NOW, time.monotonic, {}, PROVIDERS))
    app.apply(load(path, PROVIDERS))
    for name, size in sizes.items():
        _store_account(app, name, size)
    return app


def render_account(app: App, account: str, now: datetime = NOW) -> float:
    """Render an account's lines anew, as they are then; return the seconds that it took."""
    app.snapshots._clock = lambda: now
    began = time.perf_counter()
    app.snapshots.update(app._polled_accounts[account])
    return time.perf_counter() - began


def refresh_metrics(app: App) -> float:
    """Put the page together; return the seconds that it took."""
    began = time.perf_counter()
    app._metrics_cache.refresh(force=True)
    return time.perf_counter() - began


def _store_account(app: App, account: str, size: int) -> None:
    book = app._polled_accounts[account].ledger_account
    span = TimeRange(floor(NOW, DAY) - DAYS * DAY, NOW)
    for report in book.reports:
        told = _buckets(report.name, span, size) if report.kind == "usage" else ()
        app._ledger.buckets.put(book.id, report.name, span, told, completes_refresh=True)
    app._valuer.value_days(book, NOW)


def _buckets(report: str, time_range: TimeRange, size: int) -> Iterator[Bucket]:
    """Yield every hour of a span; each combination is in use in one hour of the day."""
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
