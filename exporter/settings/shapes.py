"""The shapes of the configuration's files, and pydantic's objections to them in plain words."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from exporter.errors import Problem
from exporter.settings.document import Document
from exporter.settings.values import (
    AccountName,
    BaseUrl,
    Dollars,
    FileName,
    Glob,
    History,
    Interval,
    Label,
    Limit,
    Line,
    Meter,
    Period,
    Positive,
    Timeout,
    Variable,
    told,
)
from exporter.settings.words import Steps, nearest, quoted, shown

_EXPECTED = {"string_type": "text", "int_type": "a whole number", "list_type": "a list", "model_type": "a mapping"}
_KEYS_THEMSELVES = ("api_key", "api-key", "apikey", "key", "secret", "token")


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Pace(_Shape):
    """What `defaults` may set for every account, and an account for itself."""

    poll_interval: Interval = timedelta(minutes=5)
    history: History = timedelta(days=30)
    max_series: Positive = 2000
    timeout: Timeout = timedelta(seconds=30)


class PriceShape(_Shape):
    """One item of an account's `prices`: what was negotiated, whatever the list says."""

    model: Line
    meter: Meter
    tier: Line = ""
    usd_per_million: Dollars


class AccountShape(Pace):
    """One item of `accounts`."""

    name: AccountName
    provider: str
    owner: Line = ""
    api_key_file: FileName = ""
    api_key_env: Variable = ""
    base_url: BaseUrl = ""
    labels: list[Label] = []
    prices: list[PriceShape] = []

    @field_validator("provider")
    @classmethod
    def _known_provider(cls, value: str, info: ValidationInfo) -> str:
        known: Collection[str] = info.context or ()
        if value not in known:
            hint = " ".join(filter(None, [nearest(value, known), f"known: {', '.join(sorted(known))}"]))
            raise told(f"unknown provider {shown(value)}; {hint}")
        return value


class MatchShape(_Shape):
    """What a budget counts: globs, all of which have to fit."""

    account: Glob = "*"
    provider: Glob = "*"
    workspace: Glob = "*"
    model: Glob = "*"
    owner: Glob = "*"


class BudgetShape(_Shape):
    """One item of `budgets`."""

    name: AccountName
    owner: Line = ""
    period: Period
    limit_usd: Limit
    match: MatchShape = MatchShape()


class AccountsFile(_Shape):
    """A file that `account_files` finds."""

    accounts: list[AccountShape]


class MainFile(_Shape):
    """The file that is named on the command line."""

    defaults: Pace = Pace()
    account_files: list[FileName] = []
    budgets: list[BudgetShape] = []
    accounts: list[AccountShape] = []


Shape = TypeVar("Shape", AccountsFile, MainFile)


def fit(document: Document, shape: type[Shape], providers: Collection[str]) -> tuple[Shape | None, list[Problem]]:
    """Return a document in its shape, or None where it does not fit, and everything that is wrong with it."""
    problems: list[Problem] = list(document.problems)
    if document.value is None:
        return None, [document.problem((), "the file is empty; list accounts in it, as config.example.yaml does")]
    if not isinstance(document.value, dict):
        found = shown(document.value)
        complaint = f"expected a mapping that holds accounts, got {found}; begin with `accounts:`"
        return None, [*problems, document.problem((), complaint)]
    problems += _key_problems(document, document.value.get("accounts"))
    try:
        return shape.model_validate(document.value, context=providers), problems
    except ValidationError as error:
        problems += [document.problem(each["loc"], _in_plain_words(each, shape)) for each in error.errors()]
        return None, problems


def _key_problems(document: Document, accounts: object) -> Iterator[Problem]:
    for index, account in enumerate(accounts if isinstance(accounts, list) else []):
        if not isinstance(account, dict):
            continue
        if "api_key_file" in account and "api_key_env" in account:
            yield document.problem(("accounts", index), "api_key_file and api_key_env are both given; keep one")
        if not any(key.startswith("api_key") or key in _KEYS_THEMSELVES for key in account):
            complaint = "there is no key; name its file with api_key_file, or a variable with api_key_env"
            yield document.problem(("accounts", index), complaint)


def _in_plain_words(error: ErrorDetails, shape: type[_Shape]) -> str:
    match error["type"]:
        case "told":
            return error["msg"]
        case "missing":
            return "is missing; add it"
        case "extra_forbidden" if error["loc"][-1] in _KEYS_THEMSELVES:
            return "a key never stands in this file; put it into a file and name it with api_key_file"
        case "extra_forbidden":
            known = tuple(_shape_around(error["loc"], shape).model_fields)
            hint = nearest(str(error["loc"][-1]), known) or f"known here: {', '.join(known)}"
            return f"unknown key; {hint}"
        case kind:
            found = error["input"]
            write = f" (write {quoted(str(found))})" if kind == "string_type" and type(found) is int else ""
            return f"expected {_EXPECTED.get(kind, 'another kind of value')}, got {shown(found)}{write}"


def _shape_around(steps: Steps, shape: type[_Shape]) -> type[_Shape]:
    match steps:
        case (_,):
            return shape
        case ("defaults", _):
            return Pace
        case (*_, "prices", int(), _):
            return PriceShape
        case ("budgets", int(), "match", _):
            return MatchShape
        case ("budgets", int(), _):
            return BudgetShape
        case _:
            return AccountShape
