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

from exporter.config import yaml_document
from exporter.config.keys import KeySource
from exporter.config.messages import YamlPath, describe_os_error, format_value, redact, suggest
from exporter.config.schema import (
    AccountSchema,
    AccountsFile,
    BudgetSchema,
    DefaultsSchema,
    MainFile,
    PriceSchema,
    SourceSchema,
    validate,
)
from exporter.config.yaml_document import YamlDocument
from exporter.errors import ConfigError, ConfigProblem


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
    location: str = field(compare=False)
    """The `file:line` where the account begins; an account that only moved is the same account."""
    owner: str = ""
    base_url: str | None = None
    """Without a slash at its end; None means the provider's published address."""
    labels: frozenset[str] = frozenset()
    prices: tuple[Price, ...] = ()
    """The first that fits counts."""

    @property
    def identity(self) -> tuple[str, str]:
        """Return what tells it from all others: a source's accounts share a name, each with a provider of its own."""
        return self.name, self.provider

    def has_same_connection(self, other: Account) -> bool:
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
    location: str = field(compare=False)
    owner: str = ""
    max_series: int = 2000
    labels: frozenset[str] = frozenset()
    prices: tuple[Price, ...] = ()
    crosscheck_of: str = ""
    """The account that it is compared with instead of being added to spend; empty for none."""


@dataclass(frozen=True, slots=True)
class Config:
    """What the user wrote, checked."""

    accounts: tuple[Account, ...]
    """In the order of the files, and of the accounts in each; names are unique."""
    path: Path
    files: tuple[Path, ...]
    """Every file that was read, `path` first."""
    account_file_patterns: tuple[str, ...] = ()
    """What `account_files` says."""
    budgets: tuple[Budget, ...] = ()
    """Names are unique; several may count the same spend."""
    sources: tuple[Source, ...] = ()
    """Names are unique, among accounts too."""


def load(path: Path, providers: Collection[str]) -> Config:
    """Read the configuration and the account files that it names; `providers` are the known ones.

    Keys are not read: a key's file need not exist. Raises ConfigError with every problem, by file and line.
    """
    main = yaml_document.read(path)
    shape, problems = validate(main, MainFile, providers)
    parts = [(main, shape.accounts if shape else [])]
    for extra in _read_account_files(main, problems):
        fitted, more = validate(extra, AccountsFile, providers)
        parts.append((extra, fitted.accounts if fitted else []))
        problems += more
    problems += _check_duplicate_names([part for part, _ in parts], "account")
    problems += _check_duplicate_names([main], "budget")
    names = {
        name: part.location(("accounts", index))
        for part, _ in parts
        for index, name in _raw_values(part, "account", "name")
    }
    problems += _check_sources(main, names)
    problems += _check_budget_accounts(main, {*names, *(str(one.get("name")) for _, one in _raw_sources(main))})
    if problems or shape is None:
        raise ConfigError(sorted(problems, key=_file_and_line))
    accounts = [
        _build_account(part, index, account, shape.defaults)
        for part, accounts in parts
        for index, account in enumerate(accounts)
    ]
    sources = tuple(_build_source(main, index, source) for index, source in enumerate(shape.ingest.sources))
    if not accounts and not sources:
        complaint = "there is no account; add one here or in a file that account_files finds"
        raise ConfigError([main.problem_at(("accounts",), complaint)])
    files = tuple(part.path for part, _ in parts)
    budgets = tuple(map(_build_budget, shape.budgets))
    return Config(tuple(accounts), path, files, tuple(shape.account_files), budgets, sources)


def current_files(config: Config) -> tuple[Path, ...]:
    """Return the files that were read, and those that `account_files` finds by now."""
    files = dict.fromkeys(config.files)
    for pattern in config.account_file_patterns:
        with contextlib.suppress(OSError):
            files |= dict.fromkeys(_match_files(config.path, pattern))
    return tuple(files)


def _read_account_files(main: YamlDocument, problems: list[ConfigProblem]) -> list[YamlDocument]:
    """Read every file that `account_files` finds, once each; what cannot be found or read joins the problems."""
    patterns = main.value.get("account_files") if isinstance(main.value, dict) else None
    files: dict[Path, None] = {}
    for index, pattern in enumerate(patterns if isinstance(patterns, list) else []):
        if not isinstance(pattern, str) or not pattern or not pattern.isprintable():
            continue
        try:
            files |= dict.fromkeys(_match_files(main.path, pattern))
        except OSError as error:
            problems.append(
                main.problem_at(("account_files", index), f"{_error_path(error)}: {describe_os_error(error)}")
            )
    documents = []
    for file in files:
        try:
            documents.append(yaml_document.read(file))
        except ConfigError as error:
            problems += error.problems
    return documents


def _error_path(error: OSError) -> str:
    """Return the path that an error is about, without what may be a key in the place of a name."""
    path = Path(str(error.filename))
    return str(path.with_name(redact(path.name))) if path.name else str(path)


def _match_files(main: Path, pattern: str) -> list[Path]:
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


def _check_duplicate_names(documents: Sequence[YamlDocument], kind: str) -> Iterator[ConfigProblem]:
    first: dict[str, str] = {}
    for part in documents:
        for index, name in _raw_values(part, kind, "name"):
            steps = (f"{kind}s", index, "name")
            if name in first:
                complaint = f"{format_value(name)} is also the {kind} at {first[name]}; give each its own name"
                yield part.problem_at(steps, complaint)
            first.setdefault(name, part.location(steps))


def _check_budget_accounts(main: YamlDocument, accounts: Collection[str]) -> Iterator[ConfigProblem]:
    """A budget that counts an account by its plain name has to find it; a glob may wait for one."""
    for index, name in _raw_values(main, "budget", "match", "account"):
        if name and glob.escape(name) == name and name not in accounts:
            hint = suggest(name, accounts) or "name one that is configured, or use a glob"
            yield main.problem_at(
                ("budgets", index, "match", "account"), f"there is no account {format_value(name)}; {hint}"
            )


def _check_sources(main: YamlDocument, accounts: Mapping[str, str]) -> Iterator[ConfigProblem]:
    """A source has a name of its own, and is a witness of an account that there is."""
    known = dict(accounts)
    for index, source in _raw_sources(main):
        steps, name, of = ("ingest", "sources", index), source.get("name"), source.get("crosscheck_of")
        if isinstance(name, str) and name in known:
            yield main.problem_at(
                (*steps, "name"), f"{format_value(name)} is taken at {known[name]}; give each its own name"
            )
        if isinstance(name, str):
            known.setdefault(name, main.location((*steps, "name")))
        if isinstance(of, str) and of and of not in accounts:
            hint = suggest(of, accounts) or "name one that is polled"
            yield main.problem_at((*steps, "crosscheck_of"), f"there is no account {format_value(of)}; {hint}")


def _raw_sources(main: YamlDocument) -> Iterator[tuple[int, Mapping[str, object]]]:
    ingest = main.value.get("ingest") if isinstance(main.value, dict) else None
    sources = ingest.get("sources") if isinstance(ingest, dict) else None
    for index, source in enumerate(sources if isinstance(sources, list) else []):
        if isinstance(source, dict):
            yield index, source


def _raw_values(document: YamlDocument, kind: str, *yaml_path: str) -> Iterator[tuple[int, str]]:
    """Yield a text of every account or budget that has it, whatever else may be wrong with them."""
    items = document.value.get(f"{kind}s") if isinstance(document.value, dict) else None
    for index, item in enumerate(items if isinstance(items, list) else []):
        found = item
        for step in yaml_path:
            found = found.get(step) if isinstance(found, dict) else None
        if isinstance(found, str):
            yield index, found


def _build_budget(budget: BudgetSchema) -> Budget:
    match = {name: getattr(budget.match, name) for name in sorted(budget.match.model_fields_set)}
    return Budget(budget.name, budget.owner, budget.period, budget.limit_usd, match)


def _build_account(document: YamlDocument, index: int, account: AccountSchema, defaults: DefaultsSchema) -> Account:
    steps = ("accounts", index)
    pace = {
        field: getattr(account if field in account.model_fields_set else defaults, field)
        for field in DefaultsSchema.model_fields
    }
    return Account(
        name=account.name,
        provider=account.provider,
        api_key=_key_source(document, steps, account),
        location=document.location(steps),
        owner=account.owner,
        base_url=account.base_url or None,
        labels=frozenset(account.labels),
        prices=_build_prices(account.prices),
        **pace,
    )


def _build_source(main: YamlDocument, index: int, source: SourceSchema) -> Source:
    steps = ("ingest", "sources", index)
    token = KeySource(main.location((*steps, "token_file")), file=main.path.parent / source.token_file, setting="token")
    return Source(
        name=source.name,
        token=token,
        location=main.location(steps),
        owner=source.owner,
        max_series=source.max_series,
        labels=frozenset(source.labels),
        prices=_build_prices(source.prices),
        crosscheck_of=source.crosscheck_of,
    )


def _build_prices(prices: Sequence[PriceSchema]) -> tuple[Price, ...]:
    return tuple(Price(one.model, one.meter, one.tier, one.usd_per_million) for one in prices)


def _key_source(document: YamlDocument, yaml_path: YamlPath, account: AccountSchema) -> KeySource:
    if account.api_key_file:
        return KeySource(
            document.location((*yaml_path, "api_key_file")), file=document.path.parent / account.api_key_file
        )
    if account.api_key_encrypted:
        return KeySource(document.location((*yaml_path, "api_key_encrypted")), encrypted=account.api_key_encrypted)
    return KeySource(document.location((*yaml_path, "api_key_env")), env=account.api_key_env)


def _file_and_line(problem: ConfigProblem) -> tuple[str, int, str]:
    file, _, line = problem.location.rpartition(":")
    return (file, int(line), problem.message) if line.isdecimal() else (problem.location, 0, problem.message)
