"""How amounts, moments and counts read on the landing page; everything that leaves here is safe as HTML."""

from __future__ import annotations

from datetime import datetime, timedelta
from html import escape

from exporter.model import DAY, HOUR, NANO


def money(nano: int) -> str:
    """Return nano-USD as dollars and cents: `$1,234.56`, `-$0.07`."""
    cents = round(abs(nano) * 100 / NANO)
    return f"{'-' * (nano < 0 < cents)}${cents // 100:,}.{cents % 100:02}"


def percent(part: float, whole: float) -> str:
    """Return a part in percent: whole ones from 10 on, else with one decimal; `0 %` of nothing."""
    share = 100 * part / whole if whole else 0.0
    return f"{share:.1f} %" if 0 < abs(share) < 9.95 else f"{share:,.0f} %"


def day(moment: datetime) -> str:
    """Return `Nov 18`, the same on every system."""
    return f"{_MONTHS[moment.month - 1]} {moment.day}"


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def clock(moment: datetime) -> str:
    """Return `Nov 18 12:00`."""
    return f"{day(moment)} {moment:%H:%M}"


def lasting(passed: timedelta) -> str:
    """Return a length of time in one unit: `40 s`, `25 min`, `7 h`, `3 days`."""
    passed = max(passed, timedelta(0))
    if passed < timedelta(minutes=2):
        return f"{passed // timedelta(seconds=1)} s"
    if passed < 2 * HOUR:
        return f"{passed // timedelta(minutes=1)} min"
    return f"{passed // HOUR} h" if passed < 2 * DAY else f"{passed // DAY} days"


def counted(number: int, noun: str) -> str:
    """Return `1 account`, `1,200 accounts`; nouns whose plural ends in s."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def text(value: str) -> str:
    """Return a name or a sentence of somebody else's as HTML; what is empty as a hyphen."""
    return escape(value) or "-"
