"""Cursor's usage events: the calls of a stream in an hour, each with its time, member, tokens and cost."""

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
    """One call; times are epoch milliseconds, costs whole nano-USD."""

    time_ms: int
    visible_from_ms: int
    """The time from which the provider reports it."""
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
        """The event's `kind` in Cursor's API."""
        return _EVENT_KINDS[self.tier]

    def units(self) -> dict[str, int]:
        """Return meter -> units of this call, including its cost."""
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
        time_ms = hour * 1000 + bits % (HOUR_SECONDS * 1000)
        visible_from_ms = time_ms + 60_000 + (bits >> 20) % 180_000
        if ((bits >> 30) & 0xFFF) / 0x1000 < late:
            visible_from_ms = (hour + HOUR_SECONDS + delay) * 1000
        caller = callers[(bits >> 8) % len(callers)]
        yield _build_event(stream, caller, bits, (time_ms, visible_from_ms), factor)


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
        meter: int(mean * scale * (0.6 + 0.8 * ((bits >> (7 * position)) & 0x7F) / 0x7F))
        for position, (meter, mean) in enumerate(stream.mix)
    }
    return {meter: count for meter, count in tokens.items() if count}


def _callers(account: SimAccount, stream: Stream) -> list[Member]:
    service_account = stream.api_key
    callers = [
        member
        for member in account.members
        if member.group == stream.workspace and member.service_account == service_account
    ]
    if not callers:
        raise ValueError(
            f"account {account.name}: group {stream.workspace!r} has no member for service account {service_account!r}"
        )
    return callers
