"""How much a stream uses in an hour, and when the provider learns of it: pure functions of seed and hour."""

from __future__ import annotations

import hashlib
from datetime import date

from exporter.model import LEVEL_METERS
from exporter.simulator.accounts import COUNTED, Stream

HOUR_SECONDS = 3600
DELAY = 180
"""Seconds until an ordinary minute of use is told."""
SETTLED = 2 * HOUR_SECONDS
"""Seconds after an hour's end by which all of its use is told."""

_MASK = (1 << 64) - 1
_OFFICE_DAY = (2, 2, 1, 1, 1, 2, 4, 8, 14, 20, 23, 22, 19, 21, 23, 22, 19, 14, 10, 8, 6, 5, 4, 3)
_NIGHT_DAY = (20, 24, 24, 22, 16, 8, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 8, 14)
_STEADY_DAY = (9, 9, 9, 9, 9, 9, 10, 10, 11, 11, 11, 11, 11, 11, 11, 11, 11, 10, 10, 10, 10, 9, 9, 9)
_WEEKEND = {"office": 0.25, "nightly": 1.0, "steady": 0.8}
_FIRST_HOUR_OF_WEEK = 72
"""The epoch began on a Thursday; weeks here begin on Monday."""
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


def _week(shape: str, day: tuple[int, ...]) -> tuple[float, ...]:
    share = [weight / sum(day) for weight in day]
    return tuple(share * 5 + [weight * _WEEKEND[shape] for weight in share] * 2)


_WEEKS = {
    "office": _week("office", _OFFICE_DAY),
    "nightly": _week("nightly", _NIGHT_DAY),
    "steady": _week("steady", _STEADY_DAY),
}


def salt_of(seed: int, account: str, position: int, stream: Stream) -> int:
    """Return the 64 bits that make this stream's numbers its own."""
    text = f"{seed}|{account}|{position}|{stream.workspace}|{stream.model}|{stream.kind}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def scramble(number: int) -> int:
    """Return 64 well-mixed bits of any whole number."""
    mixed = (number * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def requests_in(stream: Stream, bits: int, hour: int) -> int:
    """Return how many requests the stream makes in the hour that starts at epoch second `hour`."""
    if stream.since is not None and hour < _epoch(stream.since):
        return 0
    slot = (hour // HOUR_SECONDS + _FIRST_HOUR_OF_WEEK) % 168
    size = stream.size * stream.weekdays[slot // 24] if stream.weekdays else stream.size
    swing = 0.8 + 0.4 * (bits & 0xFFFF) / 0xFFFF
    # The fraction is kept on average, so that a stream of one request a day makes one on most days.
    return int(size * _WEEKS[stream.shape][slot] * swing + (bits >> 48) / 0x10000)


def _epoch(day: date) -> int:
    return (day.toordinal() - _EPOCH_ORDINAL) * 24 * HOUR_SECONDS


def hour_use(stream: Stream, salt: int, hour: int) -> dict[str, int]:
    """Return the units of each meter that the stream uses in that hour; empty where it makes no request."""
    bits = scramble(salt + hour)
    requests = requests_in(stream, bits, hour)
    if not requests:
        return {}
    use = {"requests": requests} if stream.kind in COUNTED else {}
    for place, (meter, mean) in enumerate(stream.mix):
        noise = ((bits >> (8 + 5 * place)) & 0xFF) / 0xFF
        flow = 1 if meter in LEVEL_METERS else requests
        units = mean * flow if mean == 1.0 else mean * flow * (0.85 + 0.3 * noise)
        if whole := int(units):
            use[meter] = whole
    return use


def lateness(salt: int, hour: int) -> tuple[float, int]:
    """Return the share of the hour's use that is told late, and how many seconds after the hour's end."""
    bits = scramble(salt ^ (hour + 1))
    return 0.03 + 0.03 * (bits & 0xFFFF) / 0xFFFF, 900 + (bits >> 40) % (SETTLED - 1200)


def spent_share(hour: int, until: float) -> float:
    """Return which part of the hour's use has been made by the moment `until` (epoch seconds)."""
    return min(1.0, max(0.0, (until - hour) / HOUR_SECONDS))


def told_share(salt: int, hour: int, until: float, now: float) -> float:
    """Return which part of the hour's use, made by `until`, the provider tells at `now`; never falls as `now` grows."""
    end = hour + HOUR_SECONDS
    if now >= end + SETTLED:
        return spent_share(hour, until)
    late, seconds = lateness(salt, hour)
    told = 1.0 if now >= end + seconds else 1.0 - late
    return told * spent_share(hour, min(until, now - DELAY))
