"""The kinds of values that flags take, as click's callbacks: each raises BadParameter with what it would have taken."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b

import click

from exporter.config.validators import parse_duration

MAX_RETENTION = timedelta(days=100 * 365)
SECOND = timedelta(seconds=1)


def parse_retention(_context: click.Context, _parameter: click.Parameter, value: str) -> timedelta:
    """How long something is kept, in days, weeks or years: `93d`."""
    found = re.fullmatch(r"([1-9]\d{0,4})([dwy])", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is not a duration such as 93d, 12w or 3y")
    span = int(found[1]) * {"d": timedelta(days=1), "w": timedelta(weeks=1), "y": timedelta(days=365)}[found[2]]
    if span > MAX_RETENTION:
        raise click.BadParameter(f"{value} is more than 100y")
    return span


def parse_interval(_context: click.Context, _parameter: click.Parameter, value: str | None) -> timedelta | None:
    """How often something is done, in whole seconds: `30s`; None where it is not said."""
    found = None if value is None else parse_duration(value)
    if value is not None and (found is None or found < SECOND or found % SECOND):
        raise click.BadParameter(f"{value!r} is not a duration in whole seconds such as 30s or 5m")
    return found


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several equal parts of the accounts, shared out by their names."""

    number: int
    total: int

    def __contains__(self, name: str) -> bool:
        return int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) % self.total == self.number - 1


def parse_shard(_context: click.Context, _parameter: click.Parameter, value: str) -> Shard:
    """Which part of how many: `2/8`."""
    found = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", value)
    if found is None or int(found[1]) > int(found[2]):
        raise click.BadParameter(f"{value!r} is not I/N with I from 1 to N, such as 2/8")
    return Shard(int(found[1]), int(found[2]))
