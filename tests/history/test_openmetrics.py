"""History as a file: what the format wants, and the same numbers as over remote read."""

from __future__ import annotations

from itertools import groupby, pairwise
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exporter.history.openmetrics import history_lines
from exporter.metrics.families import HISTORY_FAMILIES
from exporter.model import DAY, HOUR, NANO, REQUESTS, Row
from exporter.windows import Span
from tests.history.ledger_days import DAY1, EQUAL, Past, dollars, opened

Told = dict[frozenset[tuple[str, str]], dict[int, float]]


def written(past: Past, last: int = 2) -> str:
    """Write the first days of a past."""
    return "".join(history_lines(past.ledger, past.tellers(), Span(DAY1, DAY1 + last * DAY), lambda: None))


def parsed(text: str) -> Told:
    """Read a file as OpenMetrics: labels with the name -> time in ms -> value."""
    found: Told = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            labels = frozenset({"__name__": sample.name, **sample.labels}.items())
            stamp = sample.timestamp
            assert stamp is not None
            time = round(float(str(stamp)) * 1000)
            assert time not in found.setdefault(labels, {})
            found[labels][time] = sample.value
    return found


def filled(past: Past) -> None:
    """Tell two days of several series, one of them with a name that has to be escaped."""
    past.use(DAY1 + HOUR, Row("output", 5, "w", 'm"\\\n'), Row("cache_read", 6, "w", "n"), Row(REQUESTS, 2, "w", "n"))
    past.use(DAY1 + 30 * HOUR, Row("output", 8, "w", "n"))
    past.cost(DAY1, {1: [dollars(1, 'm"\\\n'), dollars(NANO // 3, "n")], 2: [dollars(-NANO, "n")]})
    past.cost(DAY1 + DAY, {6: [dollars(123456789123456789, "n")]})


def test_the_file_tells_what_remote_read_tells(tmp_path: Path) -> None:
    """Series, times and values are the same in both, to the last bit."""
    with opened(tmp_path) as past:
        filled(past)
        read: Told = {}
        for family in HISTORY_FAMILIES:
            read |= past.read((EQUAL, "__name__", family.name))
        assert parsed(written(past)) == read
        assert len(read) == 6


def test_samples_of_a_series_stand_together_in_order_of_time(tmp_path: Path) -> None:
    """Neither families nor series are interleaved, their times grow, and the file ends with its mark."""
    with opened(tmp_path) as past:
        filled(past)
        lines = written(past).splitlines()
    assert lines[-1] == "# EOF"
    samples = [tuple(line.rsplit(" ", 2)) for line in lines if not line.startswith("#")]
    series = [one for one, _ in groupby(samples, key=lambda sample: sample[0])]
    assert len(series) == len(set(series)) == 6
    families = [one for one, _ in groupby(series, key=lambda one: one.partition("{")[0])]
    assert families == [family.name for family in HISTORY_FAMILIES]
    assert all(one[0] != after[0] or float(one[2]) < float(after[2]) for one, after in pairwise(samples))


def test_only_whole_days_that_are_complete_are_written(tmp_path: Path) -> None:
    """Days outside the span are not written, nor hours after the newest complete one."""
    with opened(tmp_path) as past:
        filled(past)
        assert {time for told in parsed(written(past, last=1)).values() for time in told} == {
            int((DAY1 + (hour + 1) * HOUR).timestamp()) * 1000 - 1 for hour in range(24)
        }
        past.until = DAY1 + 2 * HOUR
        assert {len(told) for told in parsed(written(past)).values()} == {2}


def test_a_rolled_day_is_one_sample(tmp_path: Path) -> None:
    """A day of which only the sum is kept is written at its end."""
    with opened(tmp_path) as past:
        filled(past)
        past.ledger.retention.apply(DAY1 + 40 * DAY, 39 * DAY, 1000 * DAY)
        told = parsed(written(past, last=1))
    assert {time for times in told.values() for time in times} == {int((DAY1 + DAY).timestamp()) * 1000 - 1}


def test_every_account_and_family_is_a_step(tmp_path: Path) -> None:
    """Whoever waits is told of every account and family that is done."""
    steps: list[int] = []
    with opened(tmp_path) as past:
        filled(past)
        list(history_lines(past.ledger, past.tellers(), Span(DAY1, DAY1 + DAY), lambda: steps.append(1)))
    assert len(steps) == 3
