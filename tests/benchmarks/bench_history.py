"""Thirty days of a thousand series of cost in one remote read, beside an encoder that goes sample by sample."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from statistics import median

import cramjam
import pytest

from exporter.history.hourly import account_labels, read_day, sample_timestamps, series_labels
from exporter.history.remote_read import SAMPLE_BYTES, RemoteReadHandler
from exporter.history.remote_read_protocol import MESSAGES
from exporter.metrics.families import HOURLY_COST
from exporter.model import DAY, NANO, Row
from exporter.windows import TimeRange
from tests.history.ledger_days import (
    DAY1,
    EQUAL,
    LedgerHistory,
    cost_row,
    decode_read_response,
    encode_read_request,
    open_ledger,
)

DAYS, SERIES, RUNS = 30, 1000, 5
SAMPLES = DAYS * 24 * SERIES
REQUEST = encode_read_request((EQUAL, "__name__", HOURLY_COST.name))
MAX_SECONDS, MIN_SPEEDUP = 0.3, 4


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerHistory]:
    """A ledger in which a thousand series cost something in every hour of thirty days."""
    with open_ledger(tmp_path_factory.mktemp("past"), max_series=SERIES, max_samples=SAMPLES) as history:
        history.until = DAY1 + DAYS * DAY
        for number in range(DAYS):
            history.put_cost(DAY1 + number * DAY, {hour: list(_rows(number, hour)) for hour in range(24)})
        past = history.history()
        history.reader = RemoteReadHandler(history.ledger, lambda: past, SAMPLES)
        yield history


def _rows(number: int, hour: int) -> Iterator[Row]:
    for series in range(SERIES):
        nano = 1 + (series * 7919 + number * 104_729 + hour * 1299) % 10**10
        yield cost_row(nano, f"model-{series % 20}", f"team-{series // 20}")


def encode_per_sample(history: LedgerHistory) -> bytes:
    """Encode a response in the simplest way: every sample a message, and nothing kept between requests."""
    (account,) = history.history_accounts()
    response = MESSAGES["ReadResponse"]()
    result = response.results.add()
    series = {}
    for day in history.ledger.hours.days(history.number, TimeRange(DAY1, history.until)):
        times = sample_timestamps(day)
        for key, values in read_day(history.ledger, HOURLY_COST, account, day).items():
            if key not in series:
                series[key] = result.timeseries.add()
                labels = {"__name__": HOURLY_COST.name, **account_labels(account), **series_labels(account, key)}
                for name, value in sorted(labels.items()):
                    series[key].labels.add(name=name, value=value)
            add = series[key].samples.add
            for timestamp, nano in zip(times, values, strict=True):
                add(value=nano / NANO, timestamp=timestamp)
    return bytes(cramjam.snappy.compress_raw(response.SerializeToString()))


def measure_seconds(action: Callable[[], object]) -> float:
    """Return the duration of an action in seconds."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def test_thirty_days_of_a_thousand_series_are_read_in_a_fraction_of_a_second(history: LedgerHistory) -> None:
    """At most 0.3 s and a quarter of the plain encoder's time in the same run; both return the same samples."""
    first = measure_seconds(lambda: history.reader.handle(REQUEST))
    ours, theirs, changed = [], [], []
    for run in range(RUNS):
        ours.append(measure_seconds(lambda: history.reader.handle(REQUEST)))
        theirs.append(measure_seconds(lambda: encode_per_sample(history)))
        history.put_cost(DAY1 + (DAYS - 1) * DAY, {hour: list(_rows(run, hour)) for hour in range(24)})
        changed.append(measure_seconds(lambda: history.reader.handle(REQUEST)))
    body = history.reader.handle(REQUEST)
    assert decode_read_response(body) == decode_read_response(encode_per_sample(history))
    print(f"\n  remote read of {SAMPLES:,} samples, medians of {RUNS}; {len(body) / 1e6:.1f} MB compressed")
    print(f"  sample by sample            {median(theirs) * 1000:8.1f} ms")
    for name, took in (
        ("every day encoded for it", first),
        ("a changed day", median(changed)),
        ("no change", median(ours)),
    ):
        print(f"  here, {name:<24}{took * 1000:6.1f} ms  {median(theirs) / took:6.1f} times as fast")
    assert median(ours) <= MAX_SECONDS
    assert median(ours) * MIN_SPEEDUP <= median(theirs)
    assert median(changed) * MIN_SPEEDUP <= median(theirs)
    assert first <= median(theirs)


def test_the_memory_of_an_answer_is_bounded(history: LedgerHistory) -> None:
    """A response takes at most twice the size of its samples beside the cache, and the cache is bounded."""
    history.reader.handle(REQUEST)
    tracemalloc.start()
    history.reader.handle(REQUEST)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    cache = history.reader.cache
    sizes = [f"{size / 2**20:.0f} MiB" for size in (SAMPLES * SAMPLE_BYTES, peak, cache.size_bytes)]
    print("\n  samples {}, to answer {} of Python's memory, days kept encoded {}".format(*sizes))
    assert peak <= 2 * SAMPLES * SAMPLE_BYTES
    assert cache.size_bytes <= cache._max_bytes
