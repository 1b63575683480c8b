"""History as a file: valid OpenMetrics with the same samples as remote read."""

from __future__ import annotations

from itertools import groupby, pairwise
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exporter.history.openmetrics import render_history
from exporter.metrics.families import HOURLY_FAMILIES
from exporter.model import DAY, HOUR, NANO, REQUESTS, Row
from exporter.windows import TimeRange
from tests.history.ledger_days import DAY1, EQUAL, LedgerHistory, cost_row, open_ledger

ParsedSamples = dict[frozenset[tuple[str, str]], dict[int, float]]


def write_history(history: LedgerHistory, days: int = 2) -> str:
    """Return the file of the first days."""
    return "".join(
        render_history(history.ledger, history.history_accounts(), TimeRange(DAY1, DAY1 + days * DAY), lambda: None)
    )


def parse_openmetrics(text: str) -> ParsedSamples:
    """Parse a file as OpenMetrics: labels with the name -> time in ms -> value."""
    parsed: ParsedSamples = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            labels = frozenset({"__name__": sample.name, **sample.labels}.items())
            assert sample.timestamp is not None
            time = round(float(str(sample.timestamp)) * 1000)
            assert time not in parsed.setdefault(labels, {})
            parsed[labels][time] = sample.value
    return parsed


def fill_two_days(history: LedgerHistory) -> None:
    """Store two days of several series, of which a name has to be escaped."""
    history.put_usage(
        DAY1 + HOUR, Row("output", 5, "w", 'm"\\\n'), Row("cache_read", 6, "w", "n"), Row(REQUESTS, 2, "w", "n")
    )
    history.put_usage(DAY1 + 30 * HOUR, Row("output", 8, "w", "n"))
    history.put_cost(DAY1, {1: [cost_row(1, 'm"\\\n'), cost_row(NANO // 3, "n")], 2: [cost_row(-NANO, "n")]})
    history.put_cost(DAY1 + DAY, {6: [cost_row(123456789123456789, "n")]})


def test_the_file_matches_remote_read(tmp_path: Path) -> None:
    """Series, times and values are the same in both, to the last bit."""
    with open_ledger(tmp_path) as past:
        fill_two_days(past)
        read: ParsedSamples = {}
        for family in HOURLY_FAMILIES:
            read |= past.read((EQUAL, "__name__", family.name))
        assert parse_openmetrics(write_history(past)) == read
        assert len(read) == 6


def test_samples_of_a_series_are_adjacent_and_ordered_by_time(tmp_path: Path) -> None:
    """Neither families nor series are interleaved, their times increase, and the file ends with `# EOF`."""
    with open_ledger(tmp_path) as past:
        fill_two_days(past)
        lines = write_history(past).splitlines()
    assert lines[-1] == "# EOF"
    samples = [tuple(line.rsplit(" ", 2)) for line in lines if not line.startswith("#")]
    series = [name for name, _ in groupby(samples, key=lambda sample: sample[0])]
    assert len(series) == len(set(series)) == 6
    families = [family for family, _ in groupby(series, key=lambda name: name.partition("{")[0])]
    assert families == [family.name for family in HOURLY_FAMILIES]
    for sample, following in pairwise(samples):
        assert sample[0] != following[0] or float(sample[2]) < float(following[2])


def test_only_complete_days_are_written(tmp_path: Path) -> None:
    """Days outside the time range are not written, nor hours after the newest complete hour."""
    with open_ledger(tmp_path) as past:
        fill_two_days(past)
        first_day = parse_openmetrics(write_history(past, days=1))
        assert {time for samples in first_day.values() for time in samples} == {
            int((DAY1 + (hour + 1) * HOUR).timestamp()) * 1000 - 1000 for hour in range(24)
        }
        past.until = DAY1 + 2 * HOUR
        assert {len(samples) for samples in parse_openmetrics(write_history(past)).values()} == {2}


def test_a_rolled_day_is_one_sample(tmp_path: Path) -> None:
    """A day of which only the sum is kept is written at its end."""
    with open_ledger(tmp_path) as past:
        fill_two_days(past)
        past.ledger.retention.apply(DAY1 + 40 * DAY, 39 * DAY, 1000 * DAY)
        parsed = parse_openmetrics(write_history(past, days=1))
    assert {time for samples in parsed.values() for time in samples} == {int((DAY1 + DAY).timestamp()) * 1000 - 1000}


def test_progress_counts_every_account_and_family(tmp_path: Path) -> None:
    """The progress callback is called once for every account and family."""
    steps: list[int] = []
    with open_ledger(tmp_path) as past:
        fill_two_days(past)
        list(render_history(past.ledger, past.history_accounts(), TimeRange(DAY1, DAY1 + DAY), lambda: steps.append(1)))
    assert len(steps) == 3
