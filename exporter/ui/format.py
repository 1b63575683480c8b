"""How amounts, moments and counts read on the landing page; everything that leaves here is safe as HTML."""

from __future__ import annotations

from datetime import datetime, timedelta
from html import escape

from exporter.model import DAY, HOUR, NANO

DASH = "\N{EN DASH}"
"""Where there is no value, or where it cannot be counted."""


def format_money(nano_usd: int) -> str:
    """Return nano-USD as dollars and cents: `$1,234.56`, `-$0.07`."""
    cents = round(abs(nano_usd) * 100 / NANO)
    return f"{'-' * (nano_usd < 0 < cents)}${cents // 100:,}.{cents % 100:02}"


def to_usd(nano_usd: int) -> float:
    """Return nano-USD as USD for JSON."""
    return nano_usd / NANO


def format_percent(part: float, total: float) -> str:
    """Return a part in percent: without decimals from 10 on, else with one; `0 %` of nothing."""
    share = 100 * part / total if total else 0.0
    return f"{share:.1f} %" if 0 < abs(share) < 9.95 else f"{share:,.0f} %"


def format_change(value: float, previous: float) -> str:
    """Return a change in percent with its sign: `+12 %`; `new` where there was nothing before."""
    if previous <= 0:
        return "new" if value > 0 else DASH
    change = 100 * (value - previous) / previous
    sign = "+" if change > 0 else "\N{MINUS SIGN}"
    text = f"{abs(change):.1f}" if abs(change) < 9.95 else f"{abs(change):,.0f}"
    return "±0 %" if text == "0.0" else f"{sign}{text} %"


def format_day(time: datetime) -> str:
    """Return `Nov 18`, the same on every system."""
    return f"{_MONTHS[time.month - 1]} {time.day}"


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def format_time(time: datetime) -> str:
    """Return `Nov 18 12:00`."""
    return f"{format_day(time)} {time:%H:%M}"


def humanize_duration(duration: timedelta) -> str:
    """Return a length of time in one unit: `40 s`, `25 min`, `7 h`, `3 days`."""
    duration = max(duration, timedelta(0))
    if duration < timedelta(minutes=2):
        return f"{duration // timedelta(seconds=1)} s"
    if duration < 2 * HOUR:
        return f"{duration // timedelta(minutes=1)} min"
    return f"{duration // HOUR} h" if duration < 2 * DAY else f"{duration // DAY} days"


def format_count(number: int, noun: str) -> str:
    """Return `1 account`, `1,200 accounts`; nouns whose plural ends in s."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def escape_text(value: str) -> str:
    """Escape text for HTML; empty text becomes a dash."""
    return escape(value) or DASH
