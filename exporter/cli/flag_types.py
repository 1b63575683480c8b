"""Parsers of flag values, as click's callbacks; each raises BadParameter with an example of a valid value."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from urllib.parse import SplitResult, urlsplit

import click

from exporter.config.durations import parse_duration
from exporter.ledger.locations import find_url_problem
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
    """Parse the number of a shard and the number of all shards, such as `2/8`; `auto/8` takes it from the host name."""
    match = re.fullmatch(r"(auto|[1-9]\d{0,3})/([1-9]\d{0,3})", value)
    if match is None or (match[1] != "auto" and int(match[1]) > int(match[2])):
        raise click.BadParameter(f"{value!r} is not I/N with I from 1 to N, such as 2/8, and not auto/N")
    total = int(match[2])
    return Shard(_shard_of_host(socket.gethostname(), total) if match[1] == "auto" else int(match[1]), total)


def _shard_of_host(host: str, total: int) -> int:
    """Return the number of the shard from the ordinal at the end of a StatefulSet pod's name, which counts from 0."""
    match = re.fullmatch(r".*-(0|[1-9]\d{0,3})", host.partition(".")[0])
    if match is None:
        raise click.BadParameter(f"auto needs a host name with an ordinal, such as exporter-0, and it is {host!r}")
    number = int(match[1]) + 1
    if number > total:
        raise click.BadParameter(f"the host name {host!r} is that of shard {number}, and there are only {total}")
    return number


def split_http_url(value: str) -> SplitResult | None:
    """Return the parts of an http or https address that has a host; None for any other text."""
    try:
        url = urlsplit(value)
        is_valid = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        # An invalid port or IPv6 address.
        return None
    return url if is_valid else None


def parse_storage_url(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Check the URL of a PostgreSQL database, which must not contain a password; None where the flag is not given."""
    if value is not None and (problem := find_url_problem(value)):
        raise click.BadParameter(problem)
    return value


def parse_base_url(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str:
    """Parse an address that paths are appended to, such as `https://grafana.example/prefix`; empty where not given.

    Returned without a slash at the end. It is shown to every reader of the page, so it must not have credentials.
    """
    if value is None:
        return ""
    url = split_http_url(value)
    if url is None or not _URL_CHARACTERS.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not an address such as https://grafana.example.com")
    if url.query or url.fragment or "@" in url.netloc or value.endswith(("?", "#")):
        raise click.BadParameter("paths are appended to the address: it has no user, no ? and no #")
    return value.rstrip("/")


_URL_CHARACTERS = re.compile(r"[!#-;=?-\[\]_a-z~%]+")
"""Of RFC 3986, and no quotes, spaces, control characters or angle brackets."""
