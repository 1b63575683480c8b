"""The usage of a stream in an hour, and when the provider reports it: pure functions of seed and hour."""

from __future__ import annotations

import hashlib
from datetime import date

from exporter.model import GAUGE_METERS
from exporter.simulator.accounts import REPORTS_WITH_REQUESTS, Stream

HOUR_SECONDS = 3600
REPORT_DELAY_SECONDS = 180
"""Seconds until most of a minute's usage is reported."""
SETTLE_SECONDS = 2 * HOUR_SECONDS
"""Seconds after the end of an hour until all of its usage is reported."""

_MASK = (1 << 64) - 1
_OFFICE_DAY = (2, 2, 1, 1, 1, 2, 4, 8, 14, 20, 23, 22, 19, 21, 23, 22, 19, 14, 10, 8, 6, 5, 4, 3)
_NIGHT_DAY = (20, 24, 24, 22, 16, 8, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 8, 14)
_STEADY_DAY = (9, 9, 9, 9, 9, 9, 10, 10, 11, 11, 11, 11, 11, 11, 11, 11, 11, 10, 10, 10, 10, 9, 9, 9)
_WEEKEND_FACTORS = {"office": 0.25, "nightly": 1.0, "steady": 0.8}
_EPOCH_HOUR_OF_WEEK = 72
"""The epoch began on a Thursday; profiles begin on Monday."""
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


def _week_profile(load_profile: str, hourly_weights: tuple[int, ...]) -> tuple[float, ...]:
    share = [weight / sum(hourly_weights) for weight in hourly_weights]
    return tuple(share * 5 + [weight * _WEEKEND_FACTORS[load_profile] for weight in share] * 2)


_WEEK_PROFILES = {
    "office": _week_profile("office", _OFFICE_DAY),
    "nightly": _week_profile("nightly", _NIGHT_DAY),
    "steady": _week_profile("steady", _STEADY_DAY),
}


def stream_salt(seed: int, account: str, position: int, stream: Stream) -> int:
    """Return 64 bits that seed the numbers of this stream."""
    text = f"{seed}|{account}|{position}|{stream.workspace}|{stream.model}|{stream.report}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def scramble(number: int) -> int:
    """Return 64 well-distributed bits of a whole number (splitmix64)."""
    mixed = (number * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def count_requests(stream: Stream, bits: int, hour: int) -> int:
    """Return the number of requests in the hour that starts at epoch second `hour`."""
    if stream.since is not None and hour < _epoch(stream.since):
        return 0
    slot = (hour // HOUR_SECONDS + _EPOCH_HOUR_OF_WEEK) % 168
    size = (
        stream.daily_requests * stream.weekday_factors[slot // 24] if stream.weekday_factors else stream.daily_requests
    )
    noise = 0.8 + 0.4 * (bits & 0xFFFF) / 0xFFFF
    # The fraction is rounded at random, so that a stream with one request per day has one on most days.
    return int(size * _WEEK_PROFILES[stream.load_profile][slot] * noise + (bits >> 48) / 0x10000)


def _epoch(day: date) -> int:
    return (day.toordinal() - _EPOCH_ORDINAL) * 24 * HOUR_SECONDS


def hour_usage(stream: Stream, salt: int, hour: int) -> dict[str, int]:
    """Return meter -> units in the hour that starts at epoch second `hour`; {} without a request."""
    bits = scramble(salt + hour)
    requests = count_requests(stream, bits, hour)
    if not requests:
        return {}
    usage = {"requests": requests} if stream.report in REPORTS_WITH_REQUESTS else {}
    for position, (meter, mean) in enumerate(stream.mix):
        noise = ((bits >> (8 + 5 * position)) & 0xFF) / 0xFF
        # A level does not grow with the number of requests.
        flow = 1 if meter in GAUGE_METERS else requests
        units = mean * flow if mean == 1.0 else mean * flow * (0.85 + 0.3 * noise)
        if whole := int(units):
            usage[meter] = whole
    return usage


def late_reporting(salt: int, hour: int) -> tuple[float, int]:
    """Return the share of the hour's usage that is reported late, and the delay in seconds after the hour's end."""
    bits = scramble(salt ^ (hour + 1))
    return 0.03 + 0.03 * (bits & 0xFFFF) / 0xFFFF, 900 + (bits >> 40) % (SETTLE_SECONDS - 1200)


def elapsed_share(hour: int, until: float) -> float:
    """Return the part of the hour that has passed at the time `until` (epoch seconds), from 0 to 1."""
    return min(1.0, max(0.0, (until - hour) / HOUR_SECONDS))


def reported_share(salt: int, hour: int, until: float, now: float) -> float:
    """Return the part of the hour's usage up to `until` that the provider reports at `now`.

    It never decreases as `now` grows.
    """
    end = hour + HOUR_SECONDS
    if now >= end + SETTLE_SECONDS:
        return elapsed_share(hour, until)
    late, seconds = late_reporting(salt, hour)
    visible = 1.0 if now >= end + seconds else 1.0 - late
    return visible * elapsed_share(hour, min(until, now - REPORT_DELAY_SECONDS))
