"""Cursor's usage events: which calls a stream makes in an hour, each with its moment, member, tokens and money."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporter.simulator.accounts import Member, SimAccount, Stream
from exporter.simulator.rates import CALL_PRICE_NANO, TOKEN_FEE_NANO, nano_per_unit
from exporter.simulator.usage_model import HOUR_SECONDS, count_requests, late_reporting, scramble

_ERRORS_IN_256 = 6
_EVENT_KINDS = {
    "included": "Included in Business",
    "on_demand": "Usage-based",
    "not_charged": "Errored, Not Charged",
}


@dataclass(frozen=True, slots=True)
class CursorEvent:
    """One call; moments are epoch milliseconds, money whole nano-USD."""

    time_ms: int
    visible_from_ms: int
    """When the provider begins to tell it."""
    member: Member
    model: str
    tier: str
    tokens: Mapping[str, int]
    """Meter -> units; empty for a call that is not priced by tokens."""
    model_nano: int
    fee_nano: int
    charged_nano: int

    @property
    def kind(self) -> str:
        """Cursor's own words for what happened."""
        return _EVENT_KINDS[self.tier]

    def units(self) -> dict[str, int]:
        """Return every meter of this call, its cost among them."""
        return {"requests": 1, **self.tokens, "cost": self.charged_nano}


def hour_events(account: SimAccount, salts: Sequence[int], hour: int, factor: float) -> tuple[CursorEvent, ...]:
    """Return all calls of the hour that starts at epoch second `hour`, oldest first, scaled by `factor`."""
    events = [
        event
        for stream, salt in zip(account.streams, salts, strict=True)
        for event in _stream_events(account, stream, salt, hour, factor)
    ]
    return tuple(sorted(events, key=lambda event: event.time_ms))


def _stream_events(account: SimAccount, stream: Stream, salt: int, hour: int, factor: float) -> Iterator[CursorEvent]:
    callers = _callers(account, stream)
    late, delay = late_reporting(salt, hour)
    for number in range(count_requests(stream, scramble(salt + hour), hour)):
        bits = scramble(salt ^ (hour * 4096 + number))
        moment = hour * 1000 + bits % (HOUR_SECONDS * 1000)
        told = moment + 60_000 + (bits >> 20) % 180_000
        if ((bits >> 30) & 0xFFF) / 0x1000 < late:
            told = (hour + HOUR_SECONDS + delay) * 1000
        yield _build_event(stream, callers[(bits >> 8) % len(callers)], bits, (moment, told), factor)


def _build_event(stream: Stream, member: Member, bits: int, times_ms: tuple[int, int], factor: float) -> CursorEvent:
    if ((bits >> 44) & 0xFF) < _ERRORS_IN_256:
        return CursorEvent(*times_ms, member, stream.model, "not_charged", {}, 0, 0, 0)
    if not stream.mix:
        nano = round(CALL_PRICE_NANO * factor)
        return CursorEvent(*times_ms, member, stream.model, stream.tier, {}, 0, 0, nano)
    tokens = _sample_tokens(stream, bits, factor)
    model_nano = round(sum(count * nano_per_unit(stream.model, meter) for meter, count in tokens.items()))
    fee = 0 if stream.model.startswith(("composer", "default")) else round(sum(tokens.values()) * TOKEN_FEE_NANO)
    return CursorEvent(*times_ms, member, stream.model, stream.tier, tokens, model_nano, fee, model_nano + fee)


def _sample_tokens(stream: Stream, bits: int, factor: float) -> dict[str, int]:
    scale = factor * 4.0 ** (((bits >> 52) & 0xFF) / 128 - 1)
    tokens = {
        meter: int(mean * scale * (0.6 + 0.8 * ((bits >> (7 * place)) & 0x7F) / 0x7F))
        for place, (meter, mean) in enumerate(stream.mix)
    }
    return {meter: count for meter, count in tokens.items() if count}


def _callers(account: SimAccount, stream: Stream) -> list[Member]:
    wanted = stream.api_key
    callers = [
        member for member in account.members if member.group == stream.workspace and member.service_account == wanted
    ]
    if not callers:
        raise ValueError(f"account {account.name}: nobody in group {stream.workspace!r} makes the calls of {wanted!r}")
    return callers
