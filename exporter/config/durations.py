"""Durations as text: the one parser for configuration files, flags and the web configuration."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

# In microseconds, from the largest unit to the smallest: the order in which they have to be written.
_PROMETHEUS_UNITS = {
    "y": 365 * 86_400_000_000,
    "w": 7 * 86_400_000_000,
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1000,
}
# Go has no unit above the hour, which does not depend on the calendar, but takes fractions and any order.
_GO_UNITS = {unit: Decimal(_PROMETHEUS_UNITS[unit]) for unit in ("h", "m", "s", "ms")}
_GO_UNITS |= {"us": Decimal(1), "ns": Decimal("0.001")}
_GO_ITEM = re.compile(rf"([0-9]{{1,9}}(?:[.][0-9]{{1,9}})?)({'|'.join(reversed(_GO_UNITS))})")

MAX_DURATION_LENGTH = 1000
"""Characters; a duration with every unit of either format has far fewer."""

DURATION_PATTERN = re.compile("".join(f"(?:([0-9]{{1,9}}){unit})?" for unit in _PROMETHEUS_UNITS))
"""Matches every duration in Prometheus's format, and the empty text, which is none."""


def parse_duration(text: str, *, go_format: bool = False) -> timedelta | None:
    """Return a duration in Prometheus's format (`1h30m`), or in Go's (`1.5h`, `100us`); None where the text is none.

    Prometheus takes whole numbers and the units y, w, d, h, m, s and ms in this order, each at most once.
    """
    if len(text) > MAX_DURATION_LENGTH:
        return None
    if go_format:
        if not re.fullmatch(f"(?:{_GO_ITEM.pattern})+", text):
            return None
        items = _GO_ITEM.findall(text)
        return _to_timedelta(sum((Decimal(count) * _GO_UNITS[unit] for count, unit in items), Decimal(0)))
    match = DURATION_PATTERN.fullmatch(text)
    if match is None or not text:
        return None
    counts = zip(match.groups(), _PROMETHEUS_UNITS.values(), strict=True)
    return _to_timedelta(sum(int(count or 0) * microseconds for count, microseconds in counts))


def format_duration(duration: timedelta) -> str:
    """Return a duration of whole seconds in Prometheus's format."""
    remaining, text = duration // timedelta(microseconds=1), ""
    for unit in ("d", "h", "m", "s"):
        count, remaining = divmod(remaining, _PROMETHEUS_UNITS[unit])
        text += f"{count}{unit}" if count else ""
    return text


def _to_timedelta(microseconds: int | Decimal) -> timedelta:
    try:
        return timedelta(microseconds=int(microseconds))
    except OverflowError:
        # Every limit on a duration is far below this, so the caller reports it as too long.
        return timedelta.max
