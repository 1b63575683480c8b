"""The configuration: YAML files -> one frozen Config, or every problem at once, each with its file and line."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Literal

from exporter.config import yaml_document as document
from exporter.config.keys import KeySource
from exporter.config.messages import Steps, hidden, nearest, shown, unreadable
from exporter.config.schema import (
    AccountsFile,
    AccountShape,
    BudgetShape,
    MainFile,
    Pace,
    PriceShape,
    SourceShape,
    fit,
)
from exporter.config.yaml_document import Document
from exporter.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class Price:
    """A price that an account has agreed on with its provider."""

    model: str
    """A glob, such as `claude-*`."""
    meter: str
    tier: str
    """Empty for every tier."""
    usd_per_million: Decimal


@dataclass(frozen=True, slots=True)
class Account:
    """One key at one provider, with everything that `defaults` said filled in."""

    name: str
    provider: str
    api_key: KeySource
    poll_interval: timedelta
    history: timedelta
    max_series: int
    timeout: timedelta
    place: str = field(compare=False)
    """The `file:line` where the account begins; an account that only moved is the same account."""
    owner: str = ""
    base_url: str | None = None
    """Without a slash at its end; None means the provider's published address."""
    labels: frozenset[str] = frozenset()
    prices: tuple[Price, ...] = ()
    """The first that fits counts."""

    @property
    def key(self) -> tuple[str, str]:
        """Return what tells it from all others: a source's accounts share a name, each with a provider of its own."""
        return self.name, self.provider

    def asks_like(self, other: Account) -> bool:
        """Tell whether two accounts of one name are asked for the same things at the same place; keys aside."""
        return all(getattr(self, one) == getattr(other, one) for one in ("provider", "base_url", "labels", "timeout"))


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit for a day, week or month (UTC) over a selection of spend."""

    name: str
    owner: str
    period: Literal["day", "week", "month"]
    limit_usd: Decimal
    match: Mapping[str, str]
    """account, provider, workspace (by name), model, owner -> glob; what is left out may be anything."""


@dataclass(frozen=True, slots=True)
class Source:
    """Somebody who pushes usage events; each provider that they name is an account of this name."""

    name: str
    token: KeySource
    place: str = field(compare=False)
    owner: str = ""
    max_series: int = 2000
    labels: frozenset[str] = frozenset()
    prices: tuple[Price, ...] = ()
    witness_of: str = ""
    """The account that it is compared with instead of being added to spend; empty for none."""


@dataclass(frozen=True, slots=True)
class Config:
    """What the user wrote, checked."""

    accounts: tuple[Account, ...]
    """In the order of the files, and of the accounts in each; names are unique."""
    path: Path
    files: tuple[Path, ...]
    """Every file that was read, `path` first."""
    patterns: tuple[str, ...] = ()
    """What `account_files` says."""
    budgets: tuple[Budget, ...] = ()
    """Names are unique; several may count the same spend."""
    sources: tuple[Source, ...] = ()
    """Names are unique, among accounts too."""


def load(path: Path, providers: Collection[str]) -> Config:
    """Read the configuration and the account files that it names; `providers` are the known ones.

    Keys are not read: a key's file need not exist. Raises ConfigError with every problem, by file and line.
    """
    main = document.read(path)
    shape, problems = fit(main, MainFile, providers)
    parts = [(main, shape.accounts if shape else [])]
    for extra in _account_files(main, problems):
        fitted, more = fit(extra, AccountsFile, providers)
        parts.append((extra, fitted.accounts if fitted else []))
        problems += more
    problems += _names_given_twice([part for part, _ in parts], "account")
    problems += _names_given_twice([main], "budget")
    names = {
        name: part.place(("accounts", index)) for part, _ in parts for index, name in _told(part, "account", "name")
    }
    problems += _sources_in_the_way(main, names)
    problems += _budgets_of_nobody(main, {*names, *(str(one.get("name")) for _, one in _told_sources(main))})
    if problems or shape is None:
        raise ConfigError(sorted(problems, key=_file_and_line))
    accounts = [
        _account(part, index, account, shape.defaults)
        for part, accounts in parts
        for index, account in enumerate(accounts)
    ]
    sources = tuple(_source(main, index, source) for index, source in enumerate(shape.ingest.sources))
    if not accounts and not sources:
        complaint = "there is no account; add one here or in a file that account_files finds"
        raise ConfigError([main.problem(("accounts",), complaint)])
    files = tuple(part.path for part, _ in parts)
    budgets = tuple(map(_budget, shape.budgets))
    return Config(tuple(accounts), path, files, tuple(shape.account_files), budgets, sources)


def files_now(config: Config) -> tuple[Path, ...]:
    """Return the files that were read, and those that `account_files` finds by now."""
    files = dict.fromkeys(config.files)
    for pattern in config.patterns:
        with contextlib.suppress(OSError):
            files |= dict.fromkeys(_matching(config.path, pattern))
    return tuple(files)


def _account_files(main: Document, problems: list[Problem]) -> list[Document]:
    """Read every file that `account_files` finds, once each; what cannot be found or read joins the problems."""
    patterns = main.value.get("account_files") if isinstance(main.value, dict) else None
    files: dict[Path, None] = {}
    for index, pattern in enumerate(patterns if isinstance(patterns, list) else []):
        if not isinstance(pattern, str) or not pattern or not pattern.isprintable():
            continue
        try:
            files |= dict.fromkeys(_matching(main.path, pattern))
        except OSError as error:
            problems.append(main.problem(("account_files", index), f"{_named(error)}: {unreadable(error)}"))
    documents = []
    for file in files:
        try:
            documents.append(document.read(file))
        except ConfigError as error:
            problems += error.problems
    return documents


def _named(error: OSError) -> str:
    """Return the path that an error is about, without what may be a key in the place of a name."""
    path = Path(str(error.filename))
    return str(path.with_name(hidden(path.name))) if path.name else str(path)


def _matching(main: Path, pattern: str) -> list[Path]:
    """Return the pattern's files, sorted. Raises OSError where a plain name, or a pattern's directory, is not there."""
    if glob.escape(pattern) == pattern:
        (main.parent / pattern).stat()
        return [main.parent / pattern]
    plain = itertools.takewhile(lambda part: glob.escape(part) == part, Path(pattern).parts)
    with os.scandir(main.parent.joinpath(*plain)):
        # Unlike Path.glob, this takes an absolute pattern and leaves hidden files (editors, Kubernetes mounts) alone.
        names = glob.glob(pattern, root_dir=main.parent, recursive=True)  # noqa: PTH207
    files = (main.parent / name for name in sorted(names))
    return [file for file in files if file != main]


def _names_given_twice(documents: Sequence[Document], what: str) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for part in documents:
        for index, name in _told(part, what, "name"):
            steps = (f"{what}s", index, "name")
            if name in first:
                complaint = f"{shown(name)} is also the {what} at {first[name]}; give each its own name"
                yield part.problem(steps, complaint)
            first.setdefault(name, part.place(steps))


def _budgets_of_nobody(main: Document, accounts: Collection[str]) -> Iterator[Problem]:
    """A budget that counts an account by its plain name has to find it; a glob may wait for one."""
    for index, name in _told(main, "budget", "match", "account"):
        if name and glob.escape(name) == name and name not in accounts:
            hint = nearest(name, accounts) or "name one that is configured, or use a glob"
            yield main.problem(("budgets", index, "match", "account"), f"there is no account {shown(name)}; {hint}")


def _sources_in_the_way(main: Document, accounts: Mapping[str, str]) -> Iterator[Problem]:
    """A source has a name of its own, and is a witness of an account that there is."""
    known = dict(accounts)
    for index, source in _told_sources(main):
        steps, name, of = ("ingest", "sources", index), source.get("name"), source.get("witness_of")
        if isinstance(name, str) and name in known:
            yield main.problem((*steps, "name"), f"{shown(name)} is taken at {known[name]}; give each its own name")
        if isinstance(name, str):
            known.setdefault(name, main.place((*steps, "name")))
        if isinstance(of, str) and of and of not in accounts:
            hint = nearest(of, accounts) or "name one that is polled"
            yield main.problem((*steps, "witness_of"), f"there is no account {shown(of)}; {hint}")


def _told_sources(main: Document) -> Iterator[tuple[int, Mapping[str, object]]]:
    ingest = main.value.get("ingest") if isinstance(main.value, dict) else None
    sources = ingest.get("sources") if isinstance(ingest, dict) else None
    for index, source in enumerate(sources if isinstance(sources, list) else []):
        if isinstance(source, dict):
            yield index, source


def _told(part: Document, what: str, *steps: str) -> Iterator[tuple[int, str]]:
    """Yield a text of every account or budget that has it, whatever else may be wrong with them."""
    items = part.value.get(f"{what}s") if isinstance(part.value, dict) else None
    for index, item in enumerate(items if isinstance(items, list) else []):
        found = item
        for step in steps:
            found = found.get(step) if isinstance(found, dict) else None
        if isinstance(found, str):
            yield index, found


def _budget(shape: BudgetShape) -> Budget:
    match = {name: getattr(shape.match, name) for name in sorted(shape.match.model_fields_set)}
    return Budget(shape.name, shape.owner, shape.period, shape.limit_usd, match)


def _account(part: Document, index: int, shape: AccountShape, defaults: Pace) -> Account:
    steps = ("accounts", index)
    pace = {
        field: getattr(shape if field in shape.model_fields_set else defaults, field) for field in Pace.model_fields
    }
    return Account(
        name=shape.name,
        provider=shape.provider,
        api_key=_key(part, steps, shape),
        place=part.place(steps),
        owner=shape.owner,
        base_url=shape.base_url or None,
        labels=frozenset(shape.labels),
        prices=_prices(shape.prices),
        **pace,
    )


def _source(main: Document, index: int, shape: SourceShape) -> Source:
    steps = ("ingest", "sources", index)
    token = KeySource(main.place((*steps, "token_file")), file=main.path.parent / shape.token_file, what="token")
    return Source(
        name=shape.name,
        token=token,
        place=main.place(steps),
        owner=shape.owner,
        max_series=shape.max_series,
        labels=frozenset(shape.labels),
        prices=_prices(shape.prices),
        witness_of=shape.witness_of,
    )


def _prices(shapes: Sequence[PriceShape]) -> tuple[Price, ...]:
    return tuple(Price(one.model, one.meter, one.tier, one.usd_per_million) for one in shapes)


def _key(part: Document, steps: Steps, shape: AccountShape) -> KeySource:
    if shape.api_key_file:
        return KeySource(part.place((*steps, "api_key_file")), file=part.path.parent / shape.api_key_file)
    if shape.api_key_encrypted:
        return KeySource(part.place((*steps, "api_key_encrypted")), encrypted=shape.api_key_encrypted)
    return KeySource(part.place((*steps, "api_key_env")), env=shape.api_key_env)


def _file_and_line(problem: Problem) -> tuple[str, int, str]:
    file, _, line = problem.place.rpartition(":")
    return (file, int(line), problem.message) if line.isdecimal() else (problem.place, 0, problem.message)
