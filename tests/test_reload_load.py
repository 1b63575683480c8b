"""Two hundred reloads, good and bad, of an exporter that is polled and scraped all the while."""

from __future__ import annotations

import itertools
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from exporter.expose.exposition import OPENMETRICS, TEXT
from exporter.simulator.server import Served
from tests.command import ENVIRONMENT, Exporter, Site, site, started, until
from tests.stage import lone

ROUNDS = 20
SCRAPERS = 3
INTERVAL = 2
"""Seconds between two polls of a report."""
LATEST = 6
"""Seconds after which a poll is missing: the interval, a second until the clock looks again, and a busy machine."""

STEADY = ("acme", "beta")
"""Accounts that every configuration has, and has alike."""
RENAMED, COMING = "crew", "labs"
"""The account whose owner changes, and the one that comes and goes; what is asked for that one always fails."""

BRISK = """
from dataclasses import replace
from datetime import timedelta

from exporter.providers.openai import OpenAI


class Brisk(OpenAI):
    reports = tuple(replace(one, every=timedelta(seconds=1)) for one in OpenAI.reports if one.name == "completions")
"""


def _plug_in(folder: Path) -> None:
    """Make a package that adds a provider as ours, but whose one report may be asked every second."""
    info = folder / "brisk-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brisk\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ai_spend_exporter.providers]\nbrisk = brisk:Brisk\n")
    (folder / "brisk.py").write_text(BRISK)


@dataclass
class _Versions:
    """The configuration's file, and what stands in it by turns."""

    path: Path
    accounts: Sequence[Mapping[str, Any]]

    def whole(self, **owners: str) -> str:
        """All accounts, some with another owner."""
        return self._text([{**one, "owner": owners.get(one["name"], one["owner"])} for one in self.accounts])

    def without(self, name: str) -> str:
        return self._text([one for one in self.accounts if one["name"] != name])

    def _text(self, accounts: Sequence[Mapping[str, Any]]) -> str:
        defaults = {"poll_interval": f"{INTERVAL}s", "history": "2d"}
        return yaml.safe_dump({"defaults": defaults, "accounts": [*accounts]}, sort_keys=False)

    def write(self, text: str) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)

    def broken(self) -> Iterator[tuple[str, str]]:
        """Configurations that cannot be used, and what is said of each."""
        good = self.whole()
        yield good.replace("provider: brisk", "provider: brsk", 1), "did you mean brisk?"
        yield good.replace("acme.key", "gone.key"), "gone.key: it does not exist"
        yield f"{good}- name: 'half", "a quote is opened here and never closed"


@dataclass
class _Play:
    """An exporter at work, and how it is told to reload."""

    it: Exporter
    here: Site
    versions: _Versions
    reloads: int = 0
    ways: Iterator[str] = field(default_factory=lambda: itertools.cycle(("post", "hangup", "both")))

    def reload(self, text: str, complaint: str = "") -> None:
        """Have a configuration taken over, or refused with a complaint, by the next of the ways."""
        self.versions.write(text)
        way, before = next(self.ways), len(self.it.said)
        self.reloads += 1 + (way == "both")
        if way != "post":
            self.it.send(signal.SIGHUP)
        if way != "hangup":
            answer = self.it.reload()
            assert answer.status_code == (500 if complaint else 200)
            assert complaint in answer.text
        until("the reload", lambda: self.told == self.reloads)
        told = [line for line in self.it.said[before:] if "eloaded" in line]
        assert all(complaint in line if complaint else "msg=\"Configuration reloaded\"" in line for line in told)

    @property
    def told(self) -> int:
        return sum("Configuration reloaded" in line or "not reloaded" in line for line in self.it.said)
