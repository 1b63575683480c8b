"""The shapes of the configuration's files, and pydantic's objections to them in plain words."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from exporter.config.messages import YamlPath, format_value, quote, suggest
from exporter.config.validators import (
    AccountName,
    BaseUrl,
    Dollars,
    EncryptedKey,
    EnvVarName,
    FileName,
    Glob,
    History,
    Interval,
    Label,
    Limit,
    Meter,
    Period,
    PositiveInt,
    PrintableStr,
    Timeout,
    validation_error,
)
from exporter.config.yaml_document import YamlDocument
from exporter.errors import ConfigProblem

_EXPECTED = {"string_type": "text", "int_type": "a whole number", "list_type": "a list", "model_type": "a mapping"}
KEY_FIELDS = ("api_key_file", "api_key_env", "api_key_encrypted")
"""An account has exactly one of them."""
_PLAINTEXT_KEY_FIELDS = ("api_key", "api-key", "apikey", "key", "secret", "token")


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


class DefaultsSchema(_Schema):
    """What `defaults` may set for every account, and an account for itself."""

    poll_interval: Interval = timedelta(minutes=5)
    """How often the provider is asked, 1s to 1d."""
    history: History = timedelta(days=30)
    """How far back the first poll reaches, 1d to 365d."""
    max_series: PositiveInt = 2000
    """Beyond it, the account's smallest series are folded into model="other"."""
    timeout: Timeout = timedelta(seconds=30)
    """For one answer of the provider, 1s to 10m."""


class PriceSchema(_Schema):
    """A price that was agreed on, for days that are not billed yet."""

    model: PrintableStr
    """A glob, such as claude-*."""
    meter: Meter
    """A type of tokens, or another unit."""
    tier: PrintableStr = ""
    """Every tier unless said."""
    usd_per_million: Dollars
    """USD for a million of the units."""


class AccountSchema(DefaultsSchema):
    """One admin key at one provider."""

    name: AccountName
    """The label `account`; unique."""
    provider: str
    """Who is asked."""
    owner: PrintableStr = ""
    """The team that pays and is told."""
    api_key_file: FileName = ""
    """The file that holds the key alone; relative to this one."""
    api_key_env: EnvVarName = ""
    """The environment variable that holds the key."""
    api_key_encrypted: EncryptedKey = ""
    """The key as `ai-spend-exporter encrypt` prints it."""
    base_url: BaseUrl = ""
    """Only for a proxy or a regional host: the provider's published address is known."""
    labels: list[Label] = []
    """Labels beyond the usual ones."""
    prices: list[PriceSchema] = []
    """Agreed prices; the first that fits counts."""

    @field_validator("provider")
    @classmethod
    def _known_provider(cls, value: str, info: ValidationInfo) -> str:
        known: Collection[str] = info.context or ()
        if value not in known:
            hint = " ".join(filter(None, [suggest(value, known), f"known: {', '.join(sorted(known))}"]))
            raise validation_error(f"unknown provider {format_value(value)}; {hint}")
        return value


class MatchSchema(_Schema):
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


class BudgetSchema(_Schema):
    """A limit to be warned about; several may count the same spend."""

    name: AccountName
    """The label `budget`; unique."""
    owner: PrintableStr = ""
    """Who is told."""
    period: Period
    """UTC; weeks begin on Monday."""
    limit_usd: Limit
    """USD per period."""
    match: MatchSchema = MatchSchema()
    """What counts; everything unless said."""


class SourceSchema(_Schema):
    """Somebody who pushes what was used: a gateway, or a system of your own."""

    name: AccountName
    """The label `account`; unique, among accounts too."""
    token_file: FileName
    """The file that holds the bearer token alone; relative to this one."""
    owner: PrintableStr = ""
    """The team that pays and is told."""
    max_series: PositiveInt = 2000
    """Beyond it, the smallest series are folded into model="other"."""
    labels: list[Label] = []
    """Labels beyond the usual ones."""
    prices: list[PriceSchema] = []
    """Agreed prices, for events that come without their cost; the first that fits counts."""
    crosscheck_of: Glob = ""
    """The account whose use this source sees too: it is compared with it, and not added to spend."""


class IngestSchema(_Schema):
    """Who may push usage events."""

    sources: list[SourceSchema] = []
    """Each with a token of its own."""


class AccountsFile(_Schema):
    """A file that `account_files` finds."""

    accounts: list[AccountSchema]


class MainFile(_Schema):
    """The configuration of ai-spend-exporter: the file that is named on the command line."""

    defaults: DefaultsSchema = DefaultsSchema()
    """For every account that does not say otherwise."""
    account_files: list[FileName] = []
    """Globs of files that hold more `accounts:`; relative to this one."""
    budgets: list[BudgetSchema] = []
    """Limits to be warned about."""
    ingest: IngestSchema = IngestSchema()
    """Who may push usage events."""
    accounts: list[AccountSchema] = []
    """Whose spend is told."""


FileSchema = TypeVar("FileSchema", AccountsFile, MainFile)


def validate(
    document: YamlDocument, schema: type[FileSchema], providers: Collection[str]
) -> tuple[FileSchema | None, list[ConfigProblem]]:
    """Return a document in its shape, or None where it does not fit, and everything that is wrong with it."""
    problems: list[ConfigProblem] = list(document.problems)
    if document.value is None:
        return None, [document.problem_at((), "the file is empty; list accounts in it, as config.example.yaml does")]
    if not isinstance(document.value, dict):
        found = format_value(document.value)
        complaint = f"expected a mapping that holds accounts, got {found}; begin with `accounts:`"
        return None, [*problems, document.problem_at((), complaint)]
    problems += _check_keys(document, document.value.get("accounts"))
    try:
        return schema.model_validate(document.value, context=providers), problems
    except ValidationError as error:
        problems += [document.problem_at(each["loc"], _describe_error(each, schema)) for each in error.errors()]
        return None, problems


def _check_keys(document: YamlDocument, accounts: object) -> Iterator[ConfigProblem]:
    for index, account in enumerate(accounts if isinstance(accounts, list) else []):
        if not isinstance(account, dict):
            continue
        given = [name for name in KEY_FIELDS if name in account]
        if len(given) > 1:
            both = "both" if len(given) == 2 else "all"
            yield document.problem_at(("accounts", index), f"{' and '.join(given)} are {both} given; keep one")
        if not any(key.startswith("api_key") or key in _PLAINTEXT_KEY_FIELDS for key in account):
            complaint = "there is no key; name its file with api_key_file, or a variable with api_key_env"
            yield document.problem_at(("accounts", index), complaint)


def _describe_error(error: ErrorDetails, schema: type[_Schema]) -> str:
    match error["type"]:
        case "told":
            return error["msg"]
        case "missing":
            return "is missing; add it"
        case "extra_forbidden" if error["loc"][-1] in _PLAINTEXT_KEY_FIELDS:
            name = "token_file" if error["loc"][0] == "ingest" else "api_key_file"
            return f"a key never stands in this file; put it into a file and name it with {name}"
        case "extra_forbidden":
            known = tuple(_schema_at(error["loc"], schema).model_fields)
            hint = suggest(str(error["loc"][-1]), known) or f"known here: {', '.join(known)}"
            return f"unknown key; {hint}"
        case kind:
            found = error["input"]
            write = f" (write {quote(str(found))})" if kind == "string_type" and type(found) is int else ""
            return f"expected {_EXPECTED.get(kind, 'another kind of value')}, got {format_value(found)}{write}"


def _schema_at(yaml_path: YamlPath, schema: type[_Schema]) -> type[_Schema]:
    match yaml_path:
        case (_,):
            return schema
        case ("defaults", _):
            return DefaultsSchema
        case (*_, "prices", int(), _):
            return PriceSchema
        case ("budgets", int(), "match", _):
            return MatchSchema
        case ("budgets", int(), _):
            return BudgetSchema
        case ("ingest", _):
            return IngestSchema
        case ("ingest", "sources", int(), _):
            return SourceSchema
        case _:
            return AccountSchema
