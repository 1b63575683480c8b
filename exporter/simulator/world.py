"""The simulated world: what every account really spent, what its provider tells of that now, and what it bills."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from exporter.model import COST, DAY, HOUR, LEVEL_METERS, Row, utc
from exporter.simulator.accounts import Extra, Member, PriceChange, SimAccount, Stream
from exporter.simulator.billing import Charge, charges_of
from exporter.simulator.demo_accounts import cast
from exporter.simulator.events import Event, hour_events
from exporter.simulator.usage_model import HOUR_SECONDS, SETTLED, hour_use, salt_of, spent_share, told_share

__all__ = ["Extra", "Member", "PriceChange", "SimAccount", "Stream", "World", "demo_world", "incident"]

Use = tuple[tuple[Stream, Mapping[str, int]], ...]
"""Units of each meter by stream; streams without use are left out."""
_Labels = tuple[str, str, str, str]


class _Memory:
    """What was computed once; replaced as a whole, so that a call under way cannot leave what is no longer true."""

    def __init__(self) -> None:
        self.use: dict[tuple[str, int, int], dict[str, int]] = {}
        self.spans: dict[tuple[str, str, int, int], Use] = {}
        self.events: dict[tuple[str, int], tuple[Event, ...]] = {}
        self.charges: dict[tuple[str, datetime], tuple[Charge, ...]] = {}


@dataclass(frozen=True, slots=True)
class _Sight:
    """What is seen at a moment (epoch seconds): all that was spent until then, or what the provider tells of it."""

    now: float
    told: bool

    def share(self, salt: int, hour: int) -> float:
        return told_share(salt, hour, self.now, self.now) if self.told else spent_share(hour, self.now)

    def sees(self, event: Event) -> bool:
        return (event.told if self.told else event.moment) <= self.now * 1000


class World:
    """Deterministic by seed and absolute hour: two worlds of one seed and one clock tell the same bytes.

    Use exists from `began` (30 whole UTC days before the clock's first reading unless said) on, for ever.
    """

    def __init__(
        self,
        accounts: Sequence[SimAccount],
        clock: Callable[[], datetime],
        seed: int = 7,
        began: datetime | None = None,
    ) -> None:
        self.accounts: Mapping[str, SimAccount] = {account.name: account for account in accounts}
        self.clock = clock
        self.began = began or clock().replace(hour=0, minute=0, second=0, microsecond=0) - 30 * DAY
        self._first_hour = _epoch(self.began)
        self._salts = {
            account.name: [
                salt_of(seed, account.name, position, stream) for position, stream in enumerate(account.streams)
            ]
            for account in accounts
        }
        self._revised: dict[tuple[str, str | None, int], float] = {}
        self._restated: dict[tuple[str, datetime], float] = {}
        self._memory = _Memory()

    def truth(self, account: str, since: datetime, until: datetime) -> Iterator[tuple[datetime, Row]]:
        """Yield (hour, row) for what was really spent in the hours that start in [since, until), up to the clock.

        Meters are those of `model`; `cost` (nano-USD) is among them only at Cursor, whose events carry their money.
        """
        return self._rows(account, since, until, _Sight(self.clock().timestamp(), told=False))

    def visible(self, account: str, since: datetime, until: datetime) -> Iterator[tuple[datetime, Row]]:
        """Yield the same rows as `truth`, as far as the provider tells them at the clock's time."""
        return self._rows(account, since, until, _Sight(self.clock().timestamp(), told=True))

    def bill(self, account: str, day: datetime) -> tuple[Row, ...]:
        """Return the final bill of a UTC day, whether it is out yet or not: rows of `cost` in nano-USD.

        `item` is the provider's own label. Cursor's is the sum of the day's events, labelled with their kind.
        """
        if self.accounts[account].provider == "cursor":
            return self._event_bill(account, day)
        return tuple(charge.row() for charge in self.charges(account, day))

    def revise(self, account: str, hour: datetime, factor: float, workspace: str | None = None) -> None:
        """Let the provider correct that hour's use: from now on truth, what is told and the bill are `factor` times.

        For an hour to come it is more or less use than usual. Of a Cursor account only the whole can be revised.
        """
        if workspace is not None and self.accounts[account].provider == "cursor":
            raise ValueError("Cursor's events are revised by the account, not by the workspace")
        key = (account, workspace, _epoch(hour))
        self._revised[key] = self._revised.get(key, 1.0) * factor
        self._memory = _Memory()

    def restate(self, account: str, day: datetime, factor: float) -> None:
        """Let the provider change that day's bill: from now on its money is `factor` times; its units stay.

        Raises ValueError for a Cursor account, where only `revise` changes money.
        """
        if self.accounts[account].provider == "cursor":
            raise ValueError("Cursor has no bills: revise an hour instead")
        self._restated[account, day] = self._restated.get((account, day), 1.0) * factor
        self._memory = _Memory()

    def billed(self, account: str, day: datetime) -> bool:
        """Tell whether the day's bill is out."""
        return self.clock() >= day + DAY + self.accounts[account].bill_after

    def charges(self, account: str, day: datetime) -> tuple[Charge, ...]:
        """Return the lines of the final bill of a UTC day, whether it is out yet or not."""
        memory, key = self._memory.charges, (account, day)
        if key not in memory:
            start = _epoch(day)
            use = [
                (stream, self._final(account, position, hour))
                for position, stream in enumerate(self.accounts[account].streams)
                for hour in range(start, start + 24 * HOUR_SECONDS, HOUR_SECONDS)
            ]
            began = day + DAY > self.began
            restated = self._restated.get(key, 1.0)
            memory[key] = tuple(charges_of(self.accounts[account], day.date(), use, restated)) if began else ()
        return memory[key]

    def use(self, account: str, kind: str, start: int, end: int) -> Use:
        """Return what the provider tells now of the use of one kind in [start, end), epoch seconds."""
        now, memory, key = self.clock().timestamp(), self._memory.spans, (account, kind, start, end)
        if key in memory:
            return memory[key]
        spans = (
            (stream, self._told(account, position, start, end, now))
            for position, stream in enumerate(self.accounts[account].streams)
            if stream.kind == kind
        )
        use = tuple((stream, units) for stream, units in spans if units)
        if now >= end + HOUR_SECONDS + SETTLED:
            memory[key] = use
        return use

    def events(self, account: str, hour: int) -> Sequence[Event]:
        """Return the calls of the hour that starts at epoch second `hour`, oldest first, as told now."""
        now = self.clock().timestamp()
        events = self._all_events(account, hour)
        if now >= hour + HOUR_SECONDS + SETTLED:
            return events
        return [event for event in events if event.told <= now * 1000]

    def _rows(self, account: str, since: datetime, until: datetime, sight: _Sight) -> Iterator[tuple[datetime, Row]]:
        seen = self._seen_events if self.accounts[account].provider == "cursor" else self._seen_use
        for hour in _hours(max(since, self.began), min(until, utc(sight.now))):
            yield from ((utc(hour), row) for row in _summed(seen(account, hour, sight)))

    def _seen_events(self, account: str, hour: int, sight: _Sight) -> Iterator[tuple[_Labels, Mapping[str, int]]]:
        for event in self._all_events(account, hour):
            if sight.sees(event):
                yield _event_labels(event), event.units()

    def _seen_use(self, account: str, hour: int, sight: _Sight) -> Iterator[tuple[_Labels, Mapping[str, int]]]:
        for position, stream in enumerate(self.accounts[account].streams):
            share = sight.share(self._salts[account][position], hour)
            yield stream.labels(), _portion(self._final(account, position, hour), 0.0, share)

    def _told(self, account: str, position: int, start: int, end: int, now: float) -> dict[str, int]:
        salt = self._salts[account][position]
        units: dict[str, int] = {}
        for hour in range(start - start % HOUR_SECONDS, end, HOUR_SECONDS):
            use = self._final(account, position, hour)
            if not use:
                continue
            whole = start <= hour and end >= hour + HOUR_SECONDS
            if not whole or now < hour + HOUR_SECONDS + SETTLED:
                before = told_share(salt, hour, start, now)
                use = _portion(use, before, told_share(salt, hour, end, now))
            for meter, count in use.items():
                units[meter] = max(units.get(meter, 0), count) if meter in LEVEL_METERS else units.get(meter, 0) + count
        return units

    def _final(self, account: str, position: int, hour: int) -> dict[str, int]:
        memory, key = self._memory.use, (account, position, hour)
        use = memory.get(key)
        if use is None:
            stream = self.accounts[account].streams[position]
            use = hour_use(stream, self._salts[account][position], hour) if hour >= self._first_hour else {}
            factor = self._factor(account, hour) * self._factor(account, hour, stream.workspace)
            if factor != 1.0:
                use = {meter: round(count * factor) for meter, count in use.items()}
            memory[key] = use
        return use

    def _all_events(self, account: str, hour: int) -> tuple[Event, ...]:
        memory, key = self._memory.events, (account, hour)
        if hour < self._first_hour:
            return ()
        if key not in memory:
            factor = self._factor(account, hour)
            memory[key] = hour_events(self.accounts[account], self._salts[account], hour, factor)
        return memory[key]

    def _factor(self, account: str, hour: int, workspace: str | None = None) -> float:
        return self._revised.get((account, workspace, hour), 1.0)

    def _event_bill(self, account: str, day: datetime) -> tuple[Row, ...]:
        money: dict[tuple[_Labels, str], int] = {}
        for hour in _hours(day, day + DAY):
            for event in self._all_events(account, hour):
                key = (_event_labels(event), event.kind)
                money[key] = money.get(key, 0) + event.charged_nano
        return tuple(Row(COST, nano, *labels, kind) for (labels, kind), nano in money.items())


def demo_world(clock: Callable[[], datetime], seed: int = 7) -> World:
    """Return the world of `demo`: two accounts at OpenAI, two at Anthropic and a team at Cursor."""
    return World(cast(), clock, seed)


def incident(world: World) -> None:
    """Let a workspace of the demo's world use eight times as much as usual, for six hours that began two hours ago."""
    running = world.clock().replace(minute=0, second=0, microsecond=0)
    for number in range(-2, 4):
        world.revise("acme-openai", running + number * HOUR, 8.0, "proj_siteSearch")


def _summed(use: Iterable[tuple[_Labels, Mapping[str, int]]]) -> Iterator[Row]:
    sums: dict[tuple[_Labels, str], int] = {}
    for labels, units in use:
        for meter, count in units.items():
            sums[labels, meter] = sums.get((labels, meter), 0) + count
    return (Row(meter, count, *labels) for (labels, meter), count in sums.items() if count)


def _portion(use: Mapping[str, int], before: float, until: float) -> dict[str, int]:
    """Return the part of an hour's use between two shares of it, so that adjoining parts add up to the unit."""
    if until <= before:
        return {}
    if before == 0.0 and until == 1.0:
        return dict(use)
    parts = {
        meter: count if meter in LEVEL_METERS else int(count * until) - int(count * before)
        for meter, count in use.items()
    }
    return {meter: count for meter, count in parts.items() if count}


def _event_labels(event: Event) -> _Labels:
    return event.member.group, event.model, event.tier, event.member.service_account


def _hours(since: datetime, until: datetime) -> Iterator[int]:
    hour = since.replace(minute=0, second=0, microsecond=0)
    if hour < since:
        hour += HOUR
    while hour < until:
        yield _epoch(hour)
        hour += HOUR


def _epoch(moment: datetime) -> int:
    return int(moment.timestamp())
