"""An exporter with as many series as wanted, made the way that real ones are: told, valued, hung up, put together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import yaml

from exporter.app import App, Surroundings
from exporter.config.configuration import load
from exporter.model import DAY, HOUR, Bucket, Row
from exporter.providers import PROVIDERS
from exporter.windows import Span, floor

NOW = datetime(2026, 11, 18, 12, 7, 30, tzinfo=UTC)
DAYS = 30
METERS = ("uncached_input", "cache_read", "cache_write_5m", "output")
MODELS = ("claude-opus-5", "claude-sonnet-5", "claude-sonnet-4-6", "claude-haiku-4-5-20251001")
TIERS = ("standard", "batch")
LINES = 5 + 4 * len(METERS)
"""Sample lines of one combination of workspace, model and tier: five windows of money, four of each meter."""


def crowd(folder: Path, sizes: Mapping[str, int]) -> App:
    """Return an exporter whose ledger holds thirty days of accounts: name -> combinations of workspace, model, tier.

    Nothing is on its page yet but how the accounts fare, and nobody is asked.
    """
    accounts = [
        {"name": name, "provider": "anthropic", "owner": "platform", "api_key_env": "KEY", "base_url": "http://[::1]:9"}
        for name in sizes
    ]
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"accounts": accounts}))
    app = App(folder / "ledger", Surroundings(lambda: NOW, time.monotonic, {}, PROVIDERS))
    app.apply(load(path, PROVIDERS))
    for name, size in sizes.items():
        _tell(app, name, size)
    return app


def hang(app: App, account: str, now: datetime = NOW) -> float:
    """Render an account's lines anew, as they are then; return the seconds that it took."""
    app._board._clock = lambda: now
    began = time.perf_counter()
    app._board.hang(app._members[account])
    return time.perf_counter() - began


def refresh(app: App) -> float:
    """Put the page together; return the seconds that it took."""
    began = time.perf_counter()
    app._board.refresh(at_once=True)
    return time.perf_counter() - began


def _tell(app: App, account: str, size: int) -> None:
    book = app._members[account].book
    span = Span(floor(NOW, DAY) - DAYS * DAY, NOW)
    for report in book.reports:
        told = _buckets(report.name, span, size) if report.kind == "usage" else ()
        app._ledger.buckets.put(book.number, report.name, span, told, settled=True)
    app._books.value(book, NOW)


def _buckets(report: str, span: Span, size: int) -> Iterator[Bucket]:
    """Yield every hour of a span; each combination is in use in one hour of the day."""
    start = span.start
    while start < span.end:
        rows = [row for number in range(start.hour, size, 24) for row in _rows(number, start)]
        yield Bucket(report, start, start + HOUR, tuple(rows))
        start += HOUR


def _rows(number: int, start: datetime) -> Iterator[Row]:
    rest, tier = divmod(number, len(TIERS))
    workspace, model = divmod(rest, len(MODELS))
    for place, meter in enumerate(METERS):
        value = 1000 + (number * 7919 + start.day * 104_729 + place * 1299) % 9_000_000
        yield Row(meter, value, f"wrkspc_{workspace:04d}", MODELS[model], TIERS[tier])
