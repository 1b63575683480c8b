"""Usage that a provider reports per day: spread over hours when it is stored, polled and completed by whole days."""

from __future__ import annotations

import http.server
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.configuration import load
from exporter.ledger import Coverage, Ledger
from exporter.model import COST, DAY, HOUR, NANO, REQUESTS, Bucket, KeyKind, Report, Row
from exporter.polling.daily_usage import spread_daily_usage
from exporter.polling.schedule import PollSettings, next_time_range
from exporter.providers.base import NoOptions
from exporter.providers.http import Client, ClientConfig
from exporter.providers.parsing import RawBucket, StoredBuckets, build_buckets, int_field, list_field, str_field
from exporter.simulator.world import World
from exporter.windows import TimeRange
from tests.system import NOON, Clock, System, make_account, midnight, start_system

TODAY = midnight(NOON)
DAILY_USAGE = Report(
    "activity",
    "usage",
    DAY,
    poll_interval=HOUR,
    overlap=2 * DAY,
    settle_period=3 * DAY,
    lag=6 * HOUR,
    history=30 * DAY,
)
HOURLY_USAGE = replace(DAILY_USAGE, width=HOUR)
DAILY_BILL = replace(DAILY_USAGE, kind="bill")

METERS = st.sampled_from(["output", REQUESTS, COST, "images"])
ROWS = st.builds(
    Row,
    METERS,
    st.integers(-(10**15), 10**15),
    st.sampled_from(["", "web"]),
    st.sampled_from(["", "large"]),
    *[st.just("")] * 3,
)
DAYS = st.lists(st.lists(ROWS, max_size=5), min_size=1, max_size=4)
SECONDS_OF_DAY = st.integers(0, 86_399)


def make_days(rows_by_day: list[list[Row]]) -> list[Bucket]:
    """Return consecutive days of which the last is today."""
    first = TODAY - (len(rows_by_day) - 1) * DAY
    return [
        Bucket("activity", first + number * DAY, first + (number + 1) * DAY, tuple(rows))
        for number, rows in enumerate(rows_by_day)
    ]


def sum_units(buckets: Sequence[Bucket]) -> Counter[tuple[datetime, str, str, str]]:
    """Return units by day and labels; labels without units are left out."""
    units: Counter[tuple[datetime, str, str, str]] = Counter()
    for bucket in buckets:
        for row in bucket.rows:
            units[midnight(bucket.start), row.meter, row.workspace, row.model] += row.value
    return Counter({labels: value for labels, value in units.items() if value})


@given(DAYS, SECONDS_OF_DAY)
def test_the_hours_sum_to_the_day(rows_by_day: list[list[Row]], second: int) -> None:
    """Whatever a day holds, its hours sum to it exactly, for every meter and set of labels."""
    days = make_days(rows_by_day)
    hours = spread_daily_usage(DAILY_USAGE, days, TODAY + timedelta(seconds=second))
    assert sum_units(hours) == sum_units(days)


@given(DAYS, SECONDS_OF_DAY)
def test_every_day_yields_each_of_its_hours_once(rows_by_day: list[list[Row]], second: int) -> None:
    """A day is 24 hourly buckets in order: storing them replaces everything that was stored of it."""
    days = make_days(rows_by_day)
    hours = spread_daily_usage(DAILY_USAGE, days, TODAY + timedelta(seconds=second))
    assert [hour.start for hour in hours] == [day.start + number * HOUR for day in days for number in range(24)]
    assert all(hour.end == hour.start + HOUR and hour.report == "activity" for hour in hours)


@given(st.integers(-(10**15), 10**15), SECONDS_OF_DAY)
def test_the_running_day_is_spread_evenly_over_the_hours_that_have_begun(units: int, second: int) -> None:
    """No hour after now holds anything, and the others differ by one unit at most."""
    now = TODAY + timedelta(seconds=second)
    hours = spread_daily_usage(DAILY_USAGE, make_days([[Row("output", units)]]), now)
    values = [sum(row.value for row in hour.rows) for hour in hours]
    begun = now.hour + 1
    assert values[begun:] == [0] * (24 - begun)
    assert max(values[:begun]) - min(values[:begun]) <= 1


@given(st.integers(0, 10**15), SECONDS_OF_DAY)
def test_a_gauge_keeps_its_value_in_every_hour(size: int, second: int) -> None:
    """Stored bytes are a level: each hour that has begun has the day's value."""
    now = TODAY + timedelta(seconds=second)
    hours = spread_daily_usage(DAILY_USAGE, make_days([[Row("bytes", size)]]), now)
    values = [[row.value for row in hour.rows] for hour in hours]
    assert values == [[size]] * (now.hour + 1) + [[]] * (23 - now.hour)


@pytest.mark.parametrize("report", [HOURLY_USAGE, DAILY_BILL])
def test_other_reports_are_stored_as_they_are(report: Report) -> None:
    """Hourly usage is not touched, and a bill stays a day: pricing allocates it to the hours of the usage."""
    days = make_days([[Row(COST, 5)]])
    assert spread_daily_usage(report, days, NOON) is days


def test_daily_usage_is_polled_by_whole_days() -> None:
    """The first poll and every overlap begin at a midnight, so that no day is stored in part."""
    settings = PollSettings(5 * timedelta(minutes=1), 30 * DAY)
    first = next_time_range(DAILY_USAGE, None, settings, NOON, max_range=3 * DAY)
    assert first == TimeRange(TODAY - 3 * DAY, NOON)
    coverage = Coverage(TODAY - 30 * DAY, NOON - HOUR, NOON - HOUR)
    assert next_time_range(DAILY_USAGE, coverage, settings, NOON) == TimeRange(TODAY - 2 * DAY, NOON)


@dataclass
class FakeApi:
    """A provider's API that reports usage per day; values may be changed at any time."""

    url: str = ""
    days: dict[str, dict[str, int]] = field(default_factory=dict)
    """Date -> meter -> units; cost in nano-USD."""


@contextmanager
def serve_fake_api() -> Iterator[FakeApi]:
    """Serve the days on a port of loopback."""
    api = FakeApi()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"data": [{"date": date, **units} for date, units in sorted(api.days.items())]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()


class DailyProvider:
    """A provider whose API knows whole days only; its usage carries its cost."""

    reports: ClassVar[tuple[Report, ...]] = (DAILY_USAGE,)
    key_kinds: ClassVar[tuple[KeyKind, ...]] = ()
    base_url = "https://daily.example"

    def __init__(self, client_config: ClientConfig, options: NoOptions) -> None:  # noqa: ARG002 - the interface
        self._client = Client(client_config, {})
        self.stored_buckets = StoredBuckets()

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Yield the days of a time range."""
        days = []
        for day in list_field(self._client.get("/activity"), "data"):
            start = datetime.fromisoformat(str_field(day, "date")).replace(tzinfo=UTC)
            rows = [
                Row(meter, int_field(day, meter), "web", "large-1") for meter in ("output", REQUESTS, COST, "bytes")
            ]
            days.append(RawBucket(start, start + DAY, rows, digest=repr(day).encode()))
        return build_buckets(report, since, until, days, self.stored_buckets)

    def names(self) -> Mapping[str, str]:
        """Return no names."""
        return {}

    def verify(self) -> str:
        """Accept any key."""
        return "ok"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


@dataclass
class DailySystem:
    """An exporter with one account of that provider."""

    api: FakeApi
    system: System

    def set_day(self, day: datetime, output: int, requests: int, cost: int) -> None:
        """Set the usage that the API reports of a day; cost in nano-USD."""
        self.api.days[f"{day:%Y-%m-%d}"] = {"output": output, REQUESTS: requests, COST: cost, "bytes": STORED_BYTES}

    def hours_of(self, day: datetime, meter: str) -> list[int]:
        """Return the units of a day's hours as the ledger has them."""
        with closing(Ledger(self.system.folder / "ledger", read_only=True)) as ledger:
            number = ledger.buckets.find_account("solo", "daily")
            assert number is not None
            rows = ledger.buckets.rows(number, DAILY_USAGE.name, day)
        return [sum(row.value for row in rows.get(hour, []) if row.meter == meter) for hour in range(24)]


STORED_BYTES = 5000
YESTERDAY = TODAY - DAY


@pytest.fixture(name="daily")
def _start_daily_system(tmp_path: Path) -> Iterator[DailySystem]:
    """Ten days of which each has 2401 tokens, 25 requests and 12 dollars; of today half of that is reported."""
    clock = Clock()
    world = World([make_account("openai")], clock, start_time=TODAY)
    with serve_fake_api() as api, start_system(tmp_path, world, clock) as system:
        daily = DailySystem(api, system)
        for number in range(1, 10):
            daily.set_day(TODAY - number * DAY, 2401, 25, 12 * NANO)
        daily.set_day(TODAY, 1200, 13, 6 * NANO)
        path, key_file = tmp_path / "daily.yaml", tmp_path / "daily.key"
        key_file.write_text("a-key-of-daily")
        account = {
            "name": "solo",
            "provider": "daily",
            "api_key_file": str(key_file),
            "owner": "web",
            "base_url": api.url,
        }
        path.write_text(yaml.safe_dump({"accounts": [account]}))
        system.providers = {"daily": DailyProvider}
        system.config = load(path, system.providers)
        with system.run_exporter():
            system.poll_until_idle()
            yield daily


def test_windows_show_daily_usage(daily: DailySystem) -> None:
    """Today and 30 days are the days' sums; the last hour is the newest one of the newest complete day."""
    system = daily.system
    assert system.value("ai_account_up", account="solo") == 1
    assert system.value("ai_tokens_today") == 1200
    assert system.value("ai_requests_today") == 13
    assert system.nano_usd("ai_cost_today_usd") == 6 * NANO
    assert system.value("ai_tokens_30d") == 9 * 2401 + 1200
    assert system.value("ai_requests_30d") == 9 * 25 + 13
    assert system.nano_usd("ai_cost_30d_usd") == (9 * 12 + 6) * NANO
    assert system.value("ai_tokens_last_hour") == daily.hours_of(YESTERDAY, "output")[23]
    assert system.nano_usd("ai_cost_last_hour_usd") == NANO // 2
    assert system.nano_usd("ai_cost_daily_usd", date=f"{YESTERDAY:%Y-%m-%d}") == 12 * NANO
    assert system.value("ai_units_today", unit="bytes") == STORED_BYTES


def test_the_watermark_is_the_end_of_the_newest_complete_day(daily: DailySystem) -> None:
    """A day is complete when the report's lag has passed after its end, and never by the hour."""

    def watermark() -> float | None:
        return daily.system.value("ai_account_complete_until_timestamp_seconds", report=DAILY_USAGE.name)

    assert watermark() == TODAY.timestamp()
    daily.system.advance(12 * HOUR)
    assert daily.system.clock.now > TODAY + DAY
    assert watermark() == TODAY.timestamp()
    daily.system.advance(6 * HOUR)
    assert watermark() == (TODAY + DAY).timestamp()


def test_the_hours_of_a_stored_day_sum_to_the_day(daily: DailySystem) -> None:
    """Yesterday is spread over 24 hours, today over the hours that have begun."""
    for meter, units in (("output", 2401), (REQUESTS, 25), (COST, 12 * NANO)):
        hours = daily.hours_of(YESTERDAY, meter)
        assert sum(hours) == units
        assert max(hours) - min(hours) <= 1
    today = daily.hours_of(TODAY, "output")
    assert sum(today) == 1200
    assert all(today[: NOON.hour + 1])
    assert today[NOON.hour + 1 :] == [0] * (23 - NOON.hour)
    assert daily.hours_of(YESTERDAY, "bytes") == [STORED_BYTES] * 24


def test_an_equal_answer_is_spread_over_further_hours(daily: DailySystem) -> None:
    """A running day of which the provider reports the same usage later is spread over the hours until then."""
    daily.system.advance(3 * HOUR)
    today = daily.hours_of(TODAY, "output")
    assert sum(today) == 1200
    assert all(today[: NOON.hour + 4])


def test_a_later_poll_replaces_the_hours_of_the_running_day(daily: DailySystem) -> None:
    """Usage that the provider adds or revises downward is in all hours of the day after the next poll, only once."""
    daily.set_day(TODAY, 2000, 20, 8 * NANO)
    daily.set_day(YESTERDAY, 1000, 10, 4 * NANO)
    daily.system.advance(3 * HOUR)
    assert daily.system.value("ai_tokens_today") == 2000
    assert daily.system.nano_usd("ai_cost_today_usd") == 8 * NANO
    assert sum(daily.hours_of(TODAY, "output")) == 2000
    assert sum(daily.hours_of(YESTERDAY, "output")) == 1000
    assert daily.system.value("ai_tokens_30d") == 8 * 2401 + 3000
