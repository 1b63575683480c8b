"""Loading the configuration: the main file and the account files, with all problems of all of them at once."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from exporter.config import yaml_document
from exporter.config.files import describe_os_error
from exporter.config.messages import YamlPath, format_value, redact, suggest
from exporter.config.schema import (
    KEY_FIELDS,
    Account,
    AccountsFile,
    Budget,
    BudgetAlerts,
    BudgetMatch,
    Config,
    Ingest,
    Price,
    Source,
    validate,
)
from exporter.config.yaml_document import YamlDocument
from exporter.errors import ConfigError, ConfigProblem

__all__ = [
    "Account",
    "Budget",
    "BudgetAlerts",
    "BudgetMatch",
    "Config",
    "Ingest",
    "Price",
    "Source",
    "current_files",
    "load",
]


def load(path: Path, providers: Mapping[str, object]) -> Config:
    """Read the configuration and its account files; `providers` are the known provider classes by name.

    Every account has the defaults filled in. Keys are not read: the file of a key need not exist.

    Raises ConfigError with every problem, each with its file and line.
    """
    main = yaml_document.read(path)
    config, problems = validate(main, Config, providers)
    parts: list[tuple[YamlDocument, tuple[Account, ...]]] = [(main, config.accounts if config else ())]
    for document in _read_account_files(main, problems):
        accounts_file, more = validate(document, AccountsFile, providers)
        parts.append((document, accounts_file.accounts if accounts_file else ()))
        problems += more
    # These checks read the plain values, so that their problems are reported together with those of the models.
    problems += _check_duplicate_names([document for document, _ in parts], "account")
    problems += _check_duplicate_names([main], "budget")
    account_locations = {
        name: document.location(("accounts", index))
        for document, _ in parts
        for index, name in _raw_values(document, "account", "name")
    }
    problems += _check_sources(main, account_locations)
    source_names = [str(source.get("name")) for _, source in _raw_sources(main)]
    problems += _check_budget_accounts(main, {*account_locations, *source_names})
    if problems or config is None:
        raise ConfigError(sorted(problems, key=_file_and_line))
    for document, accounts in parts:
        _locate_accounts(document, accounts)
    for index, source in enumerate(config.sources):
        yaml_path = ("ingest", "sources", index)
        source.locate(main.location(yaml_path), main.location((*yaml_path, "token_file")))
    every_account = [account.with_defaults(config.defaults) for _, accounts in parts for account in accounts]
    if not every_account and not config.sources:
        message = "there is no account; add one here or in a file that account_files matches"
        raise ConfigError([main.problem_at(("accounts",), message)])
    loaded = config.model_copy(update={"accounts": tuple(every_account)})
    loaded.set_files(tuple(document.path for document, _ in parts))
    return loaded


def current_files(config: Config) -> tuple[Path, ...]:
    """Return the files that were read, and those that `account_files` matches now."""
    files = dict.fromkeys(config.files)
    for pattern in config.account_files:
        with contextlib.suppress(OSError):
            files |= dict.fromkeys(_match_files(config.path, pattern))
    return tuple(files)


def _locate_accounts(document: YamlDocument, accounts: Sequence[Account]) -> None:
    for index, account in enumerate(accounts):
        yaml_path: YamlPath = ("accounts", index)
        (key_field,) = (name for name in KEY_FIELDS if name in account.model_fields_set)
        account.locate(document.location(yaml_path), document.location((*yaml_path, key_field)))


def _read_account_files(main: YamlDocument, problems: list[ConfigProblem]) -> list[YamlDocument]:
    """Read every file that `account_files` matches, once each, and add a problem for each that cannot be read."""
    patterns = main.value.get("account_files") if isinstance(main.value, dict) else None
    files: dict[Path, None] = {}
    for index, pattern in enumerate(patterns if isinstance(patterns, list) else []):
        if not isinstance(pattern, str) or not pattern or not pattern.isprintable():
            continue
        try:
            files |= dict.fromkeys(_match_files(main.path, pattern))
        except OSError as error:
            message = f"{_error_path(error)}: {describe_os_error(error)}"
            problems.append(main.problem_at(("account_files", index), message))
    documents = []
    for file in files:
        try:
            documents.append(yaml_document.read(file))
        except ConfigError as error:
            problems += error.problems
    return documents


def _error_path(error: OSError) -> str:
    """Return the path of an error, redacted where a key may have been pasted instead of a file name."""
    path = Path(str(error.filename))
    return str(path.with_name(redact(path.name))) if path.name else str(path)


def _match_files(main: Path, pattern: str) -> list[Path]:
    """Return the pattern's files, sorted. Raises OSError where a plain name, or a pattern's directory, is missing."""
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
    for document in documents:
        for index, name in _raw_values(document, kind, "name"):
            yaml_path = (f"{kind}s", index, "name")
            if name in first:
                message = f"{format_value(name)} is also the {kind} at {first[name]}; give each its own name"
                yield document.problem_at(yaml_path, message)
            first.setdefault(name, document.location(yaml_path))


def _check_budget_accounts(main: YamlDocument, accounts: Collection[str]) -> Iterator[ConfigProblem]:
    """Check that an account that a budget names exists; a glob may match accounts that are added later."""
    for index, name in _raw_values(main, "budget", "match", "account"):
        if name and glob.escape(name) == name and name not in accounts:
            hint = suggest(name, accounts) or "name a configured account, or use a glob"
            message = f"there is no account {format_value(name)}; {hint}"
            yield main.problem_at(("budgets", index, "match", "account"), message)


def _check_sources(main: YamlDocument, accounts: Mapping[str, str]) -> Iterator[ConfigProblem]:
    """Check that sources have unique names and are compared with accounts that exist; `accounts`: name -> location."""
    locations = dict(accounts)
    for index, source in _raw_sources(main):
        yaml_path = ("ingest", "sources", index)
        name, crosscheck_of = source.get("name"), source.get("crosscheck_of")
        if isinstance(name, str) and name in locations:
            message = f"{format_value(name)} is also the name at {locations[name]}; give each its own name"
            yield main.problem_at((*yaml_path, "name"), message)
        if isinstance(name, str):
            locations.setdefault(name, main.location((*yaml_path, "name")))
        if isinstance(crosscheck_of, str) and crosscheck_of and crosscheck_of not in accounts:
            hint = suggest(crosscheck_of, accounts) or "name an account that is polled"
            message = f"there is no account {format_value(crosscheck_of)}; {hint}"
            yield main.problem_at((*yaml_path, "crosscheck_of"), message)


def _raw_sources(main: YamlDocument) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield index and plain values of every source that is a mapping, whatever else may be wrong with it."""
    ingest = main.value.get("ingest") if isinstance(main.value, dict) else None
    sources = ingest.get("sources") if isinstance(ingest, dict) else None
    for index, source in enumerate(sources if isinstance(sources, list) else []):
        if isinstance(source, dict):
            yield index, source


def _raw_values(document: YamlDocument, kind: str, *yaml_path: str) -> Iterator[tuple[int, str]]:
    """Yield index and a text of every account or budget that has it, whatever else may be wrong with them."""
    items = document.value.get(f"{kind}s") if isinstance(document.value, dict) else None
    for index, item in enumerate(items if isinstance(items, list) else []):
        found = item
        for step in yaml_path:
            found = found.get(step) if isinstance(found, dict) else None
        if isinstance(found, str):
            yield index, found


def _file_and_line(problem: ConfigProblem) -> tuple[str, int, str]:
    """Return a sort key with the line as a number, so that line 9 comes before line 10."""
    file, _, line = problem.location.rpartition(":")
    return (file, int(line), problem.message) if line.isdecimal() else (problem.location, 0, problem.message)
