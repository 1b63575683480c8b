"""A restart uses the closed days that an earlier process stored, as far as they still fit ledger and configuration."""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
import zlib
from array import array
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.app import App, Dependencies
from exporter.config.configuration import Config
from exporter.config.schema import Budget, BudgetMatch
from exporter.ledger import DayRevision, Ledger
from exporter.model import COST, DAY, HOUR, Bucket, Row, RowLabels
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuer import Valuer
from exporter.providers import PROVIDERS
from exporter.snapshot.account_snapshot import DayTotals
from exporter.snapshot.hourly import HourlyDay
from exporter.snapshot.stored_days import NO_STORED_DAYS, StoredDay, StoredDays, decode_days, encode_days
from exporter.windows import TimeRange, floor
from tests.pricing.days import no_deadline
from tests.system import NOON, Clock, make_account, polled_account, start_small_system

ACCOUNT = "solo"
FIRST_DAY = datetime(2026, 11, 14, tzinfo=UTC)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """Return the folder of a ledger of an exporter that polled five days and stopped, and its configuration."""
    folder = tmp_path_factory.mktemp("stopped")
    with start_small_system(folder, make_account("openai", ACCOUNT), history="5d") as system:
        system.poll_until_idle()
        config = system.config
    return folder / "ledger", config


@pytest.fixture
def folder(stopped: tuple[Path, Config], tmp_path: Path) -> Path:
    """Return a copy of the stopped exporter's ledger."""
    return Path(shutil.copytree(stopped[0], tmp_path / "ledger"))


@pytest.fixture(scope="module")
def config(stopped: tuple[Path, Config]) -> Config:
    """Return the configuration of the stopped exporter."""
    return stopped[1]


def _change_budgets(config: Config) -> Config:
    budgets = (
        Budget(name="all", period="month", limit_usd=Decimal(100)),
        Budget(name="web", period="day", limit_usd=Decimal(1), match=BudgetMatch(workspace="Web")),
    )
    return config.model_copy(update={"budgets": budgets})


def _change_account(config: Config) -> Config:
    accounts = tuple(
        account.model_copy(update={"max_series": 1, "owner": "search"}) if account.name == ACCOUNT else account
        for account in config.accounts
    )
    return config.model_copy(update={"accounts": accounts})


def _page(folder: Path, config: Config, now: datetime) -> bytes:
    """Start an exporter on a ledger, and return its page without the metrics of the process."""
    clock = Clock(now)
    app = App(folder, Dependencies(clock, clock.monotonic, {}, PROVIDERS))
    app.apply(config)
    page = app.handlers().page()
    app.stop()
    return b"".join(page.plain(b"", openmetrics=False))


def _recomputed_page(folder: Path, config: Config, now: datetime) -> bytes:
    """Return the same page from a copy of the ledger without the days that were stored."""
    copy = Path(shutil.copytree(folder, folder.with_name("copy")))
    _replace_content(copy, None)
    page = _page(copy, config, now)
    shutil.rmtree(copy)
    return page


def _replace_content(folder: Path, content: bytes | None) -> None:
    with sqlite3.connect(folder / "ledger.db") as db:
        db.execute("DELETE FROM snapshot_days")
        if content is not None:
            db.execute("INSERT INTO snapshot_days SELECT id, ? FROM account", (content,))
    db.close()


def _read_content(folder: Path) -> bytes:
    with sqlite3.connect(folder / "ledger.db") as db:
        (content,) = db.execute("SELECT content FROM snapshot_days").fetchone()
    db.close()
    return bytes(content)


@pytest.mark.parametrize(
    "now",
    [
        NOON,
        NOON + timedelta(seconds=90),
        NOON + HOUR,
        NOON + DAY,
        NOON + 9 * DAY,
        datetime(2026, 12, 1, 0, 30, tzinfo=UTC),
        NOON + 25 * DAY,
        NOON - DAY,
    ],
    ids=["same time", "same hour", "next hour", "next day", "next week", "next month", "long after", "clock set back"],
)
@pytest.mark.parametrize("change", [None, _change_budgets, _change_account], ids=["as it was", "budgets", "account"])
def test_a_restart_exports_what_a_first_start_does(folder: Path, config: Config, now: datetime, change: object) -> None:
    """At any later time, and with another configuration, the page is the same as without any stored day."""
    changed = change(config) if callable(change) else config
    expected = _recomputed_page(folder, changed, now)
    assert b"ai_cost_daily_usd" in expected
    assert _page(folder, changed, now) == expected
    # What this start stored is right for the next one as well.
    assert _page(folder, config, now + HOUR) == _recomputed_page(folder, config, now + HOUR)


def test_a_changed_ledger_is_read_again(folder: Path, config: Config) -> None:
    """A day that changed after it was stored is exported as the ledger has it."""
    before = _page(folder, config, NOON)
    _change_usage(folder, config)
    changed = _page(folder, config, NOON)
    assert changed != before
    assert changed == _recomputed_page(folder, config, NOON)


def _change_usage(folder: Path, config: Config) -> None:
    """Store other usage of an hour of a closed day, and value it."""
    clock = Clock(NOON)
    app = App(folder, Dependencies(clock, clock.monotonic, {}, PROVIDERS))
    app.apply(config)
    account, start = polled_account(app, ACCOUNT).ledger_account, FIRST_DAY + 3 * DAY + HOUR
    rows = (Row("output", 10**6, "proj_web", "gpt-5-2025-08-07", "standard"),)
    time_range = TimeRange(start, start + HOUR)
    app.ledger.buckets.put(account.id, "completions", time_range, [Bucket("completions", start, start + HOUR, rows)])
    Valuer(app.ledger, list_rates).value_days(account, NOON)
    app.stop()


def test_stored_days_are_used(folder: Path, config: Config) -> None:
    """An amount that is changed in the stored days is exported: the days are not read from the ledger."""
    stored = decode_days(_read_content(folder))
    assert len([day for day in stored.days.values() if day.totals.labels]) >= 4
    _replace_content(folder, encode_days(_double(stored)))
    page, expected = _page(folder, config, NOON), _recomputed_page(folder, config, NOON)
    assert _value(page, b"ai_tokens_30d") > _value(expected, b"ai_tokens_30d")


def _double(stored: StoredDays) -> StoredDays:
    return StoredDays(
        stored.grouping,
        {
            day: StoredDay(
                known.revision,
                DayTotals(known.totals.labels, array("q", [2 * value for value in known.totals.values])),
                known.hourly,
            )
            for day, known in stored.days.items()
        },
    )


def _value(page: bytes, name: bytes) -> float:
    return sum(float(line.rpartition(b" ")[2]) for line in page.splitlines() if line.startswith(name + b"{"))


def test_days_of_another_program_are_not_used(folder: Path, config: Config) -> None:
    """Content of another version, although intact, is ignored and replaced."""
    content = zlib.decompress(_read_content(folder)[16:])
    (size,) = struct.unpack_from("<I", content)
    _, *others = json.loads(content[4 : 4 + size])
    header = json.dumps(["another", *others]).encode()
    compressed = zlib.compress(struct.pack("<I", len(header)) + header + content[4 + size :])
    foreign = blake2b(compressed, digest_size=16).digest() + compressed
    assert decode_days(foreign) == NO_STORED_DAYS
    _replace_content(folder, foreign)
    assert _page(folder, config, NOON) == _recomputed_page(folder, config, NOON)
    assert decode_days(_read_content(folder)).days


@pytest.mark.parametrize("content", [b"", b"x" * 300, b"\0" * 16], ids=["empty", "text", "zeros"])
def test_damaged_content_is_computed_again(folder: Path, config: Config, content: bytes) -> None:
    """Damaged content is no error: the days are read from the ledger, and stored again."""
    _replace_content(folder, content)
    assert _page(folder, config, NOON) == _recomputed_page(folder, config, NOON)
    assert decode_days(_read_content(folder)).days


HOURS = st.lists(st.integers(-(2**62), 2**62), min_size=24, max_size=24).map(lambda values: array("q", values))
SUMS = st.dictionaries(st.text(max_size=3), HOURS, max_size=2)
LABELS = st.builds(RowLabels, st.sampled_from([COST, "output"]), st.text(max_size=3), st.sampled_from(["m", "é"]))
TOTALS = st.dictionaries(LABELS, st.integers(-(2**62), 2**62), max_size=4).map(
    lambda totals: DayTotals(tuple(totals), array("q", totals.values()))
)
DAYS = st.dictionaries(
    st.integers(0, 34).map(lambda number: FIRST_DAY + number * DAY),
    st.builds(
        StoredDay,
        st.builds(DayRevision, st.integers(0, 99), st.integers(0, 99)),
        TOTALS,
        st.builds(HourlyDay, SUMS, SUMS, SUMS, SUMS, SUMS, SUMS, st.booleans()),
    ),
    max_size=4,
)
STORED = st.builds(StoredDays, st.text(max_size=5), DAYS)


@no_deadline
@given(stored=STORED)
def test_stored_days_are_decoded_as_they_were(stored: StoredDays) -> None:
    """Encoding and decoding changes nothing."""
    assert decode_days(encode_days(stored)) == stored


@no_deadline
@given(stored=STORED, data=st.data())
def test_no_damage_is_an_error(stored: StoredDays, data: st.DataObject) -> None:
    """Content with a changed byte, or that ends early, decodes to no days."""
    content = bytearray(encode_days(stored))
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[position] ^= data.draw(st.integers(1, 255))
    else:
        del content[position:]
    assert decode_days(bytes(content)) == NO_STORED_DAYS


def test_days_that_changed_meanwhile_are_not_stored(tmp_path: Path) -> None:
    """Content that was computed from an earlier revision of any day is not stored."""
    ledger = Ledger(tmp_path)
    number = ledger.buckets.register_account("solo", "openai")
    day, until = floor(NOON, DAY), floor(NOON, DAY) + HOUR
    time_range = TimeRange(day, day + DAY)
    revisions = {day: ledger.snapshot_days.revisions(number, time_range).get(day, DayRevision(0, 0))}
    assert ledger.snapshot_days.put(number, b"first", revisions)
    bucket = Bucket("completions", day, until, (Row("output", 1),))
    ledger.buckets.put(number, "completions", TimeRange(day, until), [bucket])
    assert not ledger.snapshot_days.put(number, b"second", revisions)
    content, present = ledger.snapshot_days.read(number, time_range)
    assert (content, present) == (b"first", {day: DayRevision(1, 0)})
    ledger.close()
