"""The shapes of the configuration's files, and pydantic's objections to them in plain words."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from exporter.config.messages import Steps, nearest, quoted, shown
from exporter.config.validators import (
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
    Token,
    Variable,
    told,
)
from exporter.config.yaml_document import Document
from exporter.errors import Problem

_EXPECTED = {"string_type": "text", "int_type": "a whole number", "list_type": "a list", "model_type": "a mapping"}
KEY_FIELDS = ("api_key_file", "api_key_env", "api_key_encrypted")
"""An account has exactly one of them."""
_KEYS_THEMSELVES = ("api_key", "api-key", "apikey", "key", "secret", "token")


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


class Pace(_Shape):
    """What `defaults` may set for every account, and an account for itself."""

    poll_interval: Interval = timedelta(minutes=5)
    """How often the provider is asked, 1s to 1d."""
    history: History = timedelta(days=30)
    """How far back the first poll reaches, 1d to 365d."""
    max_series: Positive = 2000
    """Beyond it, the account's smallest series are folded into model="other"."""
    timeout: Timeout = timedelta(seconds=30)
    """For one answer of the provider, 1s to 10m."""


class PriceShape(_Shape):
    """A price that was agreed on, for days that are not billed yet."""

    model: Line
    """A glob, such as claude-*."""
    meter: Meter
    """A type of tokens, or another unit."""
    tier: Line = ""
    """Every tier unless said."""
    usd_per_million: Dollars
    """USD for a million of the units."""


class AccountShape(Pace):
    """One admin key at one provider."""

    name: AccountName
    """The label `account`; unique."""
    provider: str
    """Who is asked."""
    owner: Line = ""
    """The team that pays and is told."""
    api_key_file: FileName = ""
    """The file that holds the key alone; relative to this one."""
    api_key_env: Variable = ""
    """The environment variable that holds the key."""
    api_key_encrypted: Token = ""
    """The key as `ai-spend-exporter encrypt` prints it."""
    base_url: BaseUrl = ""
    """Only for a proxy or a regional host: the provider's published address is known."""
    labels: list[Label] = []
    """Labels beyond the usual ones."""
    prices: list[PriceShape] = []
    """Agreed prices; the first that fits counts."""

    @field_validator("provider")
    @classmethod
    def _known_provider(cls, value: str, info: ValidationInfo) -> str:
        known: Collection[str] = info.context or ()
        if value not in known:
            hint = " ".join(filter(None, [nearest(value, known), f"known: {', '.join(sorted(known))}"]))
            raise told(f"unknown provider {shown(value)}; {hint}")
        return value


class MatchShape(_Shape):
    """What a budget counts: globs (wild: * ?), all of which have to fit."""

    account: Glob = "*"
    """The account's name."""
    provider: Glob = "*"
    """Who is asked."""
    workspace: Glob = "*"
    """The workspace's name."""
    model: Glob = "*"
    """The model, as the provider writes it."""
    owner: Glob = "*"
    """The account's owner."""


class BudgetShape(_Shape):
    """A limit to be warned about; several may count the same spend."""

    name: AccountName
    """The label `budget`; unique."""
    owner: Line = ""
    """Who is told."""
    period: Period
    """UTC; weeks begin on Monday."""
    limit_usd: Limit
    """USD per period."""
    match: MatchShape = MatchShape()
    """What counts; everything unless said."""


class SourceShape(_Shape):
    """Somebody who pushes what was used: a gateway, or a system of your own."""

    name: AccountName
    """The label `account`; unique, among accounts too."""
    token_file: FileName
    """The file that holds the bearer token alone; relative to this one."""
    owner: Line = ""
    """The team that pays and is told."""
    max_series: Positive = 2000
    """Beyond it, the smallest series are folded into model="other"."""
    labels: list[Label] = []
    """Labels beyond the usual ones."""
    prices: list[PriceShape] = []
    """Agreed prices, for events that come without their cost; the first that fits counts."""
    witness_of: Glob = ""
    """The account whose use this source sees too: it is compared with it, and not added to spend."""


class IngestShape(_Shape):
    """Who may push usage events."""

    sources: list[SourceShape] = []
    """Each with a token of its own."""


class AccountsFile(_Shape):
    """A file that `account_files` finds."""

    accounts: list[AccountShape]


class MainFile(_Shape):
    """The configuration of ai-spend-exporter: the file that is named on the command line."""

    defaults: Pace = Pace()
    """For every account that does not say otherwise."""
    account_files: list[FileName] = []
    """Globs of files that hold more `accounts:`; relative to this one."""
    budgets: list[BudgetShape] = []
    """Limits to be warned about."""
    ingest: IngestShape = IngestShape()
    """Who may push usage events."""
    accounts: list[AccountShape] = []
    """Whose spend is told."""


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
        given = [name for name in KEY_FIELDS if name in account]
        if len(given) > 1:
            both = "both" if len(given) == 2 else "all"
            yield document.problem(("accounts", index), f"{' and '.join(given)} are {both} given; keep one")
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
            name = "token_file" if error["loc"][0] == "ingest" else "api_key_file"
            return f"a key never stands in this file; put it into a file and name it with {name}"
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
        case ("ingest", _):
            return IngestShape
        case ("ingest", "sources", int(), _):
            return SourceShape
        case _:
            return AccountShape
