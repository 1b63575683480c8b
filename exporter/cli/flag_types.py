"""Parsers of flag values, as click's callbacks; each raises BadParameter with an example of a valid value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b

import click

from exporter.config.durations import parse_duration
from exporter.model import DAY

MAX_RETENTION = 100 * 365 * DAY
SECOND = timedelta(seconds=1)


def parse_retention(_context: click.Context, _parameter: click.Parameter, value: str) -> timedelta:
    """Parse a retention time in whole days, such as `93d`."""
    duration = parse_duration(value)
    if not duration or (duration % DAY and duration <= MAX_RETENTION):
        raise click.BadParameter(f"{value!r} is not a duration such as 93d, 12w or 3y")
    if duration > MAX_RETENTION:
        raise click.BadParameter(f"{value} is more than 100y")
    return duration


def parse_interval(_context: click.Context, _parameter: click.Parameter, value: str | None) -> timedelta | None:
    """Parse an interval in whole seconds, such as `30s`; None where the flag is not given."""
    if value is None:
        return None
    duration = parse_duration(value)
    if not duration or duration % SECOND:
        raise click.BadParameter(f"{value!r} is not a duration in whole seconds such as 30s or 5m")
    return duration


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts of the accounts. An account's part follows from a hash of its name."""

    number: int
    total: int

    def __contains__(self, name: str) -> bool:
        return int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) % self.total == self.number - 1


def parse_shard(_context: click.Context, _parameter: click.Parameter, value: str) -> Shard:
    """Parse the number of a shard and the number of all shards, such as `2/8`."""
    match = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", value)
    if match is None or int(match[1]) > int(match[2]):
        raise click.BadParameter(f"{value!r} is not I/N with I from 1 to N, such as 2/8")
    return Shard(int(match[1]), int(match[2]))
