"""Time ranges as Grafana sends them to real Prometheus servers: each hour of the range is counted exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from exporter.model import DAY, HOUR, TOKEN_METERS
from exporter.simulator.world import World
from exporter.windows import floor, slots
from tests.servers import VERSIONS, Prometheus, start_prometheus, write_prometheus_config
from tests.system import Clock, System, make_account, midnight, start_system

NOW = datetime(2027, 3, 2, 12, 7, 30, tzinfo=UTC)
"""In March, because all of February and some of January fit into a history of 36 days."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND, MILLISECOND = timedelta(seconds=1), timedelta(milliseconds=1)
STEPS = (timedelta(seconds=15), timedelta(minutes=2), timedelta(minutes=30), HOUR, DAY)
MAX_POINTS = 11_000
"""Points of a range query's series that Prometheus returns at most."""

NOW_TIMES = tuple(
    datetime(2027, 3, 2, 9, tzinfo=UTC) + offset
    for offset in (
        timedelta(0),
        -MILLISECOND,
        MILLISECOND,
        timedelta(minutes=30, milliseconds=499),
        timedelta(minutes=30, milliseconds=500),
        timedelta(minutes=30, milliseconds=999),
    )
)
"""Times at which a dashboard is opened: Grafana's `now` has milliseconds, so rounding moves both ends of a range."""


@dataclass(frozen=True)
class GrafanaTimeRange:
    """The start and the end of a dashboard's time range, both to the millisecond."""

    start: datetime
    end: datetime

    @property
    def milliseconds(self) -> int:
        """The range's length."""
        return (self.end - self.start) // MILLISECOND

    @property
    def seconds(self) -> int:
        """The range's length as Grafana rounds it: half a second upwards."""
        return (self.milliseconds + 500) // 1000

    def interpolate(self, expression: str, step: timedelta = HOUR) -> str:
        """Replace Grafana's variables by their values."""
        values = {
            "${__range_s}": str(self.seconds),
            "${__range_ms}": str(self.milliseconds),
            "$__range": f"{self.seconds}s",
            "$__interval": f"{step // SECOND}s",
        }
        for variable, value in values.items():
            expression = expression.replace(variable, value)
        return expression


def align(time: datetime, width: timedelta) -> datetime:
    """Return the newest multiple of `width` since 1970 that is not after a time."""
    return time - (time - EPOCH) % width


def _end_of_day(time: datetime) -> datetime:
    return midnight(time) + DAY - MILLISECOND


def _month_start(time: datetime) -> datetime:
    return midnight(time).replace(day=1)


TIME_RANGES: Mapping[str, Callable[[datetime], GrafanaTimeRange]] = {
    "Last 24 hours": lambda now: GrafanaTimeRange(now - DAY, now),
    "Last 7 days": lambda now: GrafanaTimeRange(now - 7 * DAY, now),
    "Today": lambda now: GrafanaTimeRange(midnight(now), _end_of_day(now)),
    "Today so far": lambda now: GrafanaTimeRange(midnight(now), now),
    "Yesterday": lambda now: GrafanaTimeRange(midnight(now) - DAY, _end_of_day(now - DAY)),
    "This month so far": lambda now: GrafanaTimeRange(_month_start(now), now),
    "Previous month": lambda now: GrafanaTimeRange(
        _month_start(_month_start(now) - DAY), _month_start(now) - MILLISECOND
    ),
    # The calendar of the time picker fills in whole seconds.
    "A day from the calendar": lambda now: GrafanaTimeRange(midnight(now) - 3 * DAY, midnight(now) - 2 * DAY - SECOND),
}
"""Quick range -> the range that Grafana, with the time zone UTC, sends for it at a time."""


@dataclass(frozen=True)
class ServedTokens:
    """An exporter that serves tokens, and their ground truth."""

    system: System
    reported_until: datetime
    """The end of the newest hour that has ended."""
    tokens_by_hour: Mapping[datetime, int]
    """Start of each hour -> tokens of the account according to the simulator."""

    def hours(self, start: datetime, end: datetime) -> list[datetime]:
        """Return the starts of the served hours between two times; the last second of an hour means the full hour."""
        first, last = floor(start + SECOND, HOUR), floor(end + SECOND, HOUR)
        return [*slots(first, min(last, self.reported_until), HOUR)]

    def tokens(self, hours: list[datetime]) -> int:
        """Return the tokens of these hours."""
        return sum(self.tokens_by_hour[hour] for hour in hours)


@pytest.fixture(scope="module", name="served")
def _serve_tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedTokens]:
    """Run an exporter that has polled 36 days of an account whose two workspaces are used in every hour."""
    clock = Clock(NOW)
    world = World([make_account("openai")], clock, start_time=midnight(NOW) - 38 * DAY)
    with start_system(tmp_path_factory.mktemp("ranges"), world, clock, history="36d") as system, system.run_exporter():
        system.poll_until_idle()
        tokens: Counter[datetime] = Counter()
        for hour, row in world.reported_rows("solo", midnight(NOW) - 36 * DAY, NOW):
            if row.meter in TOKEN_METERS:
                tokens[hour] += row.value
        assert floor(NOW, HOUR) > max(NOW_TIMES)
        yield ServedTokens(system, floor(NOW, HOUR), tokens)


@pytest.fixture(scope="module", name="start_server")
def _start_servers(
    served: ServedTokens, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Prometheus]]:
    """Yield a function that returns a Prometheus of a version on the exporter, started at the first call."""
    folder, running = tmp_path_factory.mktemp("servers"), dict[str, Prometheus]()
    config = write_prometheus_config(folder, served.system.url.removeprefix("http://"))
    with ExitStack() as stack:

        def get(version: str) -> Prometheus:
            if version not in running:
                running[version] = stack.enter_context(start_prometheus(version, folder, config))
            return running[version]

        yield get


@pytest.mark.parametrize("variable", ["$__range", "${__range_s}s", "${__range_ms}ms"])
@pytest.mark.parametrize("name", TIME_RANGES)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_range_holds_each_of_its_hours_once(
    served: ServedTokens, start_server: Callable[[str], Prometheus], version: str, name: str, variable: str
) -> None:
    """An instant query over the dashboard's range sums each ended hour of the range once, at any millisecond."""
    server = start_server(version)
    for now in NOW_TIMES:
        time_range = TIME_RANGES[name](now)
        hours = served.hours(time_range.start, time_range.end)
        total = time_range.interpolate(f"sum(sum_over_time(ai_hourly_tokens[{variable}]))")
        counts = time_range.interpolate(f"count_over_time(ai_hourly_tokens[{variable}])")
        assert set(server.query(counts, time_range.end).values()) == {len(hours)}, now
        assert list(server.query(total, time_range.end).values()) == [served.tokens(hours)], now


@pytest.mark.parametrize("name", [name for name in TIME_RANGES if name != "Previous month"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_range_before_holds_each_of_its_hours_once(
    served: ServedTokens, start_server: Callable[[str], Prometheus], version: str, name: str
) -> None:
    """`offset $__range` compares with the hours directly before the dashboard's range, none of them in both."""
    for now in NOW_TIMES:
        time_range = TIME_RANGES[name](now)
        hours = served.hours(time_range.start - timedelta(seconds=time_range.seconds), time_range.start)
        expression = time_range.interpolate("sum(sum_over_time(ai_hourly_tokens[$__range] offset $__range))")
        (total,) = start_server(version).query(expression, time_range.end).values()
        assert total == served.tokens(hours), now


@pytest.mark.parametrize(
    "step", [timedelta(seconds=15), timedelta(minutes=2), timedelta(minutes=30), HOUR, DAY], ids=str
)
@pytest.mark.parametrize("name", TIME_RANGES)
@pytest.mark.parametrize("version", VERSIONS)
def test_intervals_hold_each_hour_once(
    served: ServedTokens, start_server: Callable[[str], Prometheus], version: str, name: str, step: timedelta
) -> None:
    """The points of a graph of `[$__interval]` sum each hour once; Grafana aligns both ends to the step."""
    time_range = TIME_RANGES[name](NOW_TIMES[-1])
    if (time_range.end - time_range.start) / step > MAX_POINTS:
        # Grafana requests no more points than a panel has pixels: a long range has longer steps.
        step = timedelta(minutes=10)
    start, end = align(time_range.start, step), align(time_range.end, step)
    answer = start_server(version).call_api(
        "query_range",
        query=time_range.interpolate("sum(sum_over_time(ai_hourly_tokens[$__interval]))", step),
        start=start.timestamp(),
        end=end.timestamp(),
        step=step / SECOND,
    )
    assert not answer.get("warnings")
    points = [float(value) for series in answer["data"]["result"] for _, value in series["values"]]
    assert sum(points) == served.tokens(served.hours(start - step, end))
