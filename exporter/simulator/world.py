"""The simulated world: the real usage of every account, the part that its provider reports now, and the bills."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from exporter.model import COST, DAY, GAUGE_METERS, HOUR, Row, utc
from exporter.simulator.accounts import ExtraCharge, Member, PriceChange, SimAccount, Stream, StreamLabels
from exporter.simulator.billing import Charge, compute_charges, issued_charges, sum_tokens
from exporter.simulator.demo_accounts import demo_accounts
from exporter.simulator.events import CursorEvent, hour_events
from exporter.simulator.rates import stream_costs
from exporter.simulator.usage_model import (
    HOUR_SECONDS,
    SETTLE_SECONDS,
    elapsed_share,
    hour_usage,
    reported_share,
    stream_salt,
)

__all__ = ["ExtraCharge", "Member", "PriceChange", "SimAccount", "Stream", "World", "demo_world", "start_incident"]

UsageByStream = tuple[tuple[Stream, Mapping[str, int]], ...]
"""(stream, meter -> units) of every stream with usage."""


class _Cache:
    """Computed values; a change of the world replaces all of it, so that a running call cannot store old values."""

    def __init__(self) -> None:
        self.usage: dict[tuple[str, int, int], dict[str, int]] = {}
        self.reported_usage: dict[tuple[str, str, int, int], UsageByStream] = {}
        self.events: dict[tuple[str, int], tuple[CursorEvent, ...]] = {}
        self.charges: dict[tuple[str, datetime], tuple[Charge, ...]] = {}
        self.day_tokens: dict[tuple[str, datetime], dict[str, int]] = {}


@dataclass(frozen=True, slots=True)
class _View:
    """The usage at a time (epoch seconds): all usage until then, or only what the provider reports of it."""

    now: float
    reported_only: bool

    def share(self, account: SimAccount, salt: int, hour: int) -> float:
        if self.reported_only:
            return _reported_share(account, salt, hour, self.now, self.now)
        return elapsed_share(hour, self.now)

    def includes(self, event: CursorEvent) -> bool:
        return (event.visible_from_ms if self.reported_only else event.time_ms) <= self.now * 1000


class World:
    """All accounts at one clock, deterministic by seed and hour: equal seeds and clocks give equal answers.

    Usage begins at `start_time`, by default 30 whole UTC days before the first reading of the clock.
    """

    def __init__(
        self,
        accounts: Sequence[SimAccount],
        clock: Callable[[], datetime],
        seed: int = 7,
        start_time: datetime | None = None,
    ) -> None:
        self.accounts: Mapping[str, SimAccount] = {account.name: account for account in accounts}
        self.clock = clock
        self.start_time = start_time or clock().replace(hour=0, minute=0, second=0, microsecond=0) - 30 * DAY
        self._first_hour = _epoch(self.start_time)
        self._salts = {
            account.name: [
                stream_salt(seed, account.name, position, stream) for position, stream in enumerate(account.streams)
            ]
            for account in accounts
        }
        self._usage_factors: dict[tuple[str, str | None, int], float] = {}
        self._bill_factors: dict[tuple[str, datetime], float] = {}
        self._cache = _Cache()

    def ground_truth(self, account: str, since: datetime, until: datetime) -> Iterator[tuple[datetime, Row]]:
        """Yield (hour, row) of the real usage in the hours that start in [since, until), up to the current time.

        Meters are those of `exporter.model`; `cost` (nano-USD) only for Cursor, whose events contain their cost, and
        for xAI, which reports nothing else.
        """
        return self._rows(account, since, until, _View(self.clock().timestamp(), reported_only=False))

    def reported_rows(self, account: str, since: datetime, until: datetime) -> Iterator[tuple[datetime, Row]]:
        """Yield the part of `ground_truth` that the provider reports at the current time."""
        return self._rows(account, since, until, _View(self.clock().timestamp(), reported_only=True))

    def bill(self, account: str, day: datetime) -> tuple[Row, ...]:
        """Return the final bill of a UTC day, even before it is issued: rows of `cost` in nano-USD.

        `item` is the provider's line item. Cursor has no bill: the rows are sums of the day's events by kind.
        """
        if self.accounts[account].provider == "cursor":
            return self._event_bill(account, day)
        return tuple(charge.to_row() for charge in self.charges(account, day))

    def reported_cost(self, account: str) -> int:
        """Return the nano-USD of all usage of an xAI account that is reported at the current time."""
        now = self.clock()
        return sum(row.value for _, row in self.reported_rows(account, self.start_time, now))

    def revise(self, account: str, hour: datetime, factor: float, workspace: str | None = None) -> None:
        """Multiply the usage of an hour, as reported and billed, by `factor` from now on.

        For a future hour, that is more or less usage than usual. A Cursor account can only be revised as a whole.
        """
        if workspace is not None and self.accounts[account].provider == "cursor":
            raise ValueError("Cursor events can be revised by account, not by workspace")
        key = (account, workspace, _epoch(hour))
        self._usage_factors[key] = self._usage_factors.get(key, 1.0) * factor
        self._cache = _Cache()

    def restate(self, account: str, day: datetime, factor: float) -> None:
        """Multiply the cost on a day's bill by `factor` from now on; its units stay the same.

        Raises ValueError for a Cursor account, where `revise` changes cost.
        """
        if self.accounts[account].provider == "cursor":
            raise ValueError("Cursor has no bills: revise an hour instead")
        self._bill_factors[account, day] = self._bill_factors.get((account, day), 1.0) * factor
        self._cache = _Cache()

    def is_billed(self, account: str, day: datetime) -> bool:
        """Return whether the whole bill of a UTC day has been issued."""
        return self.clock() >= day + DAY and self.issued_charges(account, day) == self.charges(account, day)

    def issued_charges(self, account: str, day: datetime) -> tuple[Charge, ...]:
        """Return the lines of the bill of a UTC day that the provider answers at the current time."""
        if self.clock() < day + DAY:
            return ()
        return issued_charges(self.accounts[account], day, self.charges(account, day), self.clock())

    def charges(self, account: str, day: datetime) -> tuple[Charge, ...]:
        """Return the lines of the final bill of a UTC day, even before it is issued."""
        cache, key = self._cache.charges, (account, day)
        if key not in cache:
            factor = self._bill_factors.get(key, 1.0)
            is_simulated = day + DAY > self.start_time
            charges = (
                compute_charges(
                    self.accounts[account],
                    day.date(),
                    self._day_usage(account, day),
                    factor,
                    self._month_tokens(account, day),
                )
                if is_simulated
                else ()
            )
            cache[key] = tuple(charges)
        return cache[key]

    def _day_usage(self, account: str, day: datetime) -> list[tuple[Stream, Mapping[str, int]]]:
        start = _epoch(day)
        return [
            (stream, self._final_usage(account, position, hour))
            for position, stream in enumerate(self.accounts[account].streams)
            for hour in range(start, start + 24 * HOUR_SECONDS, HOUR_SECONDS)
        ]

    def _month_tokens(self, account: str, day: datetime) -> dict[str, int]:
        """Return model -> tokens of the UTC month before a day; {} where no price depends on them."""
        tokens: dict[str, int] = {}
        if not self.accounts[account].volume_discounts:
            return tokens
        cache = self._cache.day_tokens
        for number in range(1, day.day):
            earlier = day.replace(day=number)
            if (account, earlier) not in cache:
                cache[account, earlier] = sum_tokens(self._day_usage(account, earlier))
            for model, count in cache[account, earlier].items():
                tokens[model] = tokens.get(model, 0) + count
        return tokens

    def usage(self, account: str, report: str, start: int, end: int) -> UsageByStream:
        """Return the usage in [start, end), epoch seconds, that one report contains at the current time."""
        now, cache, key = self.clock().timestamp(), self._cache.reported_usage, (account, report, start, end)
        if key in cache:
            return cache[key]
        usage_by_stream = (
            (stream, self._reported_usage(account, position, start, end, now))
            for position, stream in enumerate(self.accounts[account].streams)
            if stream.report == report
        )
        usage = tuple((stream, units) for stream, units in usage_by_stream if units)
        if now >= end + HOUR_SECONDS + SETTLE_SECONDS:
            cache[key] = usage
        return usage

    def events(self, account: str, hour: int) -> Sequence[CursorEvent]:
        """Return the reported calls of the hour that starts at epoch second `hour`, oldest first."""
        now = self.clock().timestamp()
        events = self._all_events(account, hour)
        if now >= hour + HOUR_SECONDS + SETTLE_SECONDS:
            return events
        return [event for event in events if event.visible_from_ms <= now * 1000]

    def _rows(self, account: str, since: datetime, until: datetime, view: _View) -> Iterator[tuple[datetime, Row]]:
        is_cursor = self.accounts[account].provider == "cursor"
        visible = self._visible_events if is_cursor else self._visible_usage
        for hour in _hours(max(since, self.start_time), min(until, utc(view.now))):
            yield from ((utc(hour), row) for row in _sum_rows(visible(account, hour, view)))

    def _visible_events(self, account: str, hour: int, view: _View) -> Iterator[tuple[StreamLabels, Mapping[str, int]]]:
        for event in self._all_events(account, hour):
            if view.includes(event):
                yield _event_labels(event), event.units()

    def _visible_usage(self, account: str, hour: int, view: _View) -> Iterator[tuple[StreamLabels, Mapping[str, int]]]:
        for position, stream in enumerate(self.accounts[account].streams):
            share = view.share(self.accounts[account], self._salts[account][position], hour)
            usage = _slice_usage(self._final_usage(account, position, hour), 0.0, share)
            is_xai = self.accounts[account].provider == "xai"
            yield stream.labels(), {COST: sum(stream_costs(stream, usage).values())} if is_xai else usage

    def _reported_usage(self, account: str, position: int, start: int, end: int, now: float) -> dict[str, int]:
        salt = self._salts[account][position]
        units: dict[str, int] = {}
        for hour in range(start - start % HOUR_SECONDS, end, HOUR_SECONDS):
            usage = self._final_usage(account, position, hour)
            if not usage:
                continue
            is_whole_hour = start <= hour and end >= hour + HOUR_SECONDS
            if not is_whole_hour or now < hour + HOUR_SECONDS + SETTLE_SECONDS:
                before = _reported_share(self.accounts[account], salt, hour, start, now)
                usage = _slice_usage(usage, before, _reported_share(self.accounts[account], salt, hour, end, now))
            for meter, count in usage.items():
                so_far = units.get(meter, 0)
                units[meter] = max(so_far, count) if meter in GAUGE_METERS else so_far + count
        return units

    def _final_usage(self, account: str, position: int, hour: int) -> dict[str, int]:
        cache, key = self._cache.usage, (account, position, hour)
        usage = cache.get(key)
        if usage is None:
            stream = self.accounts[account].streams[position]
            usage = hour_usage(stream, self._salts[account][position], hour) if hour >= self._first_hour else {}
            factor = self._usage_factor(account, hour) * self._usage_factor(account, hour, stream.workspace)
            if factor != 1.0:
                usage = {meter: round(count * factor) for meter, count in usage.items()}
            cache[key] = usage
        return usage

    def _all_events(self, account: str, hour: int) -> tuple[CursorEvent, ...]:
        cache, key = self._cache.events, (account, hour)
        if hour < self._first_hour:
            return ()
        if key not in cache:
            factor = self._usage_factor(account, hour)
            cache[key] = hour_events(self.accounts[account], self._salts[account], hour, factor)
        return cache[key]

    def _usage_factor(self, account: str, hour: int, workspace: str | None = None) -> float:
        return self._usage_factors.get((account, workspace, hour), 1.0)

    def _event_bill(self, account: str, day: datetime) -> tuple[Row, ...]:
        costs: dict[tuple[StreamLabels, str], int] = {}
        for hour in _hours(day, day + DAY):
            for event in self._all_events(account, hour):
                key = (_event_labels(event), event.kind)
                costs[key] = costs.get(key, 0) + event.charged_nano
        return tuple(Row(COST, nano, *labels, kind) for (labels, kind), nano in costs.items())


def demo_world(clock: Callable[[], datetime], seed: int = 7) -> World:
    """Return the world of the demo: two accounts at OpenAI, two at Anthropic and a team at Cursor."""
    return World(demo_accounts(), clock, seed)


def start_incident(world: World) -> None:
    """Multiply the usage of a workspace of the demo by eight, for six hours from two hours ago."""
    current_hour = world.clock().replace(minute=0, second=0, microsecond=0)
    for number in range(-2, 4):
        world.revise("acme-openai", current_hour + number * HOUR, 8.0, "proj_siteSearch")


def _reported_share(account: SimAccount, salt: int, hour: int, until: float, now: float) -> float:
    """Return the part of the hour's usage up to `until` that the account's provider reports at `now`."""
    if account.prompt_usage:
        return elapsed_share(hour, min(until, now))
    return reported_share(salt, hour, until, now)


def _sum_rows(usage: Iterable[tuple[StreamLabels, Mapping[str, int]]]) -> Iterator[Row]:
    sums: dict[tuple[StreamLabels, str], int] = {}
    for labels, units in usage:
        for meter, count in units.items():
            sums[labels, meter] = sums.get((labels, meter), 0) + count
    return (Row(meter, count, *labels) for (labels, meter), count in sums.items() if count)


def _slice_usage(usage: Mapping[str, int], start_share: float, end_share: float) -> dict[str, int]:
    """Return the part of an hour's usage between two shares of it; adjacent parts add up exactly."""
    if end_share <= start_share:
        return {}
    if start_share == 0.0 and end_share == 1.0:
        return dict(usage)
    parts = {
        meter: count if meter in GAUGE_METERS else int(count * end_share) - int(count * start_share)
        for meter, count in usage.items()
    }
    return {meter: count for meter, count in parts.items() if count}


def _event_labels(event: CursorEvent) -> StreamLabels:
    return StreamLabels(event.member.group, event.model, event.tier, event.member.service_account)


def _hours(since: datetime, until: datetime) -> Iterator[int]:
    hour = since.replace(minute=0, second=0, microsecond=0)
    if hour < since:
        hour += HOUR
    while hour < until:
        yield _epoch(hour)
        hour += HOUR


def _epoch(time: datetime) -> int:
    return int(time.timestamp())
