"""The types of the configuration: pydantic models of its files, used as they are by the rest of the program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    Strict,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails

from exporter.config.keys import KeySource
from exporter.config.messages import (
    YamlPath,
    describe_error,
    find_field,
    find_model,
    format_value,
    suggest,
    validation_error,
)
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
    KeyFile,
    Label,
    Limit,
    LoadContext,
    Meter,
    OptionalKeyFile,
    PositiveInt,
    PrintableStr,
    RatioThreshold,
    RatioThresholds,
    Timeout,
    UsdThreshold,
    check_period,
)
from exporter.config.yaml_document import YamlDocument
from exporter.errors import ConfigProblem

KEY_FIELDS = ("api_key_file", "api_key_env", "api_key_encrypted")
"""An account has exactly one of them."""
DEFAULT_MAX_SERIES = 2000
_PLAINTEXT_KEY_FIELDS = ("api_key", "api-key", "apikey", "key", "secret", "token")

_Item = TypeVar("_Item")
# A tuple is hashable and cannot change; lax, because YAML's lists are lists.
_Items = Annotated[tuple[_Item, ...], Strict(False)]
_Labels = Annotated[frozenset[Label], Strict(False)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class _Location:
    """Where an object is written, as `file:line`. All are equal: an object that only moved has not changed."""

    item: str = field(default="", compare=False)
    key: str = field(default="", compare=False)
    """Where its key or token is named."""


class Defaults(_Model):
    """Settings of every account; an account may have its own."""

    poll_interval: Interval = timedelta(minutes=5)
    """Time between two polls of the provider, 1s to 1d."""
    history: History = timedelta(days=30)
    """How far back the first poll reaches, 1d to 365d."""
    max_series: PositiveInt = DEFAULT_MAX_SERIES
    """Above it, the account's smallest series are aggregated into model="other"."""
    timeout: Timeout = timedelta(seconds=30)
    """For one response of the provider, 1s to 10m."""


class Price(_Model):
    """A negotiated price, used for days that are not billed yet."""

    model: PrintableStr
    """A glob, such as claude-*."""
    meter: Meter
    """A type of tokens, or another unit."""
    tier: PrintableStr = ""
    """Every tier, unless given."""
    usd_per_million: Dollars
    """USD per million units."""


class AccountAlerts(_Model):
    """Thresholds of one account's alerts; where none is given, the default of the alert rules applies."""

    runaway_spend_usd: UsdThreshold = None
    """USD in the current hour of a workspace."""
    cost_spike_usd: UsdThreshold = None
    """USD by which the newest complete hour of a workspace exceeds its expected cost."""
    unexpected_spend_usd: UsdThreshold = None
    """USD by which 24 hours of a workspace exceed their upper bounds."""
    spend_stopped_usd: UsdThreshold = None
    """Expected USD per hour of a workspace, above which no cost at all is reported."""
    high_cost_model_usd: UsdThreshold = None
    """USD of the account today, above which a model that took over is reported."""
    new_model_usd: UsdThreshold = None
    """USD today on a model that is used for the first time."""
    one_time_cost_usd: UsdThreshold = None
    """USD charged once on a day."""


class BudgetAlerts(_Model):
    """Thresholds of one budget's alerts; where none is given, the default of the alert rules applies."""

    nearly_spent_ratio: RatioThreshold = None
    """Spend relative to the limit."""
    threshold_ratios: RatioThresholds = None
    """Spend relative to the limit: a notification for each, in ascending order."""
    forecast_exceeded_ratio: RatioThreshold = None
    """Forecast relative to the limit."""


class NoOptions(_Model):
    """The options of a provider that declares none; any key is an error."""


def _validate_options(value: object, info: ValidationInfo) -> BaseModel:
    """Validate the options with the model that the account's provider declares as `options_model`.

    The provider's model decides how strict it is: YAML's numbers with a point arrive as text.
    """
    if isinstance(value, BaseModel):
        return value
    if not isinstance(value, Mapping):
        raise validation_error(f"expected a mapping, got {format_value(value)}")
    context: LoadContext | None = info.context
    if context is None or "provider" not in info.data:
        # The account is built by code, or its provider is unknown, which is reported already.
        return NoOptions()
    model: type[BaseModel] = getattr(context.providers[info.data["provider"]], "options_model", NoOptions)
    errors: list[ErrorDetails] = []
    options: BaseModel = NoOptions()
    try:
        options = model.model_validate(value)
    except ValidationError as error:
        errors = error.errors()
    errors += _find_unknown_options(value, model, ())
    if errors:
        # Described here, where the model is known; the account's own path is put before each error's by pydantic.
        raise ValidationError.from_exception_data(
            model.__name__,
            [
                InitErrorDetails(
                    type=validation_error(_describe_error(error, model)), loc=error["loc"], input=error["input"]
                )
                for error in errors
            ],
        )
    return options


def _find_unknown_options(value: object, model: type[BaseModel], path: YamlPath) -> Iterator[ErrorDetails]:
    """Yield an error for every unknown key that pydantic does not report, because a model does not forbid it."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find_unknown_options(item, model, (*path, index))
    if not isinstance(value, Mapping):
        return
    for key, inner in value.items():
        field = find_field(model, key)
        if field is None and model.model_config.get("extra") != "forbid":
            yield ErrorDetails(type="extra_forbidden", loc=(*path, key), msg="", input=inner)
        inner_model = find_model(field.annotation) if field else None
        if inner_model is not None:
            yield from _find_unknown_options(inner, inner_model, (*path, key))


_Options = Annotated[
    BaseModel,
    PlainValidator(_validate_options),
    # The default serializer writes the fields of BaseModel, which has none.
    PlainSerializer(lambda options: options.model_dump(), return_type=dict[str, Any]),
    WithJsonSchema({"type": "object"}),
]


class Account(Defaults):
    """A credential of one provider, usually an admin key."""

    name: AccountName
    """The label `account`; unique."""
    provider: str
    """The kind of API."""
    owner: PrintableStr = ""
    """The team that pays and receives alerts."""
    api_key_file: OptionalKeyFile = None
    """The file that holds only the key; relative to this one."""
    api_key_env: EnvVarName = ""
    """The environment variable that holds the key."""
    api_key_encrypted: EncryptedKey = Field(default="", repr=False)
    """The key as `ai-spend-exporter encrypt` prints it."""
    base_url: BaseUrl = ""
    """Only for a proxy or a regional host: the provider's published address is known."""
    labels: _Labels = frozenset()
    """Optional labels."""
    prices: _Items[Price] = ()
    """Negotiated prices; the first that matches applies."""
    alerts: AccountAlerts = AccountAlerts()
    """Thresholds of its own, for an account that is much smaller or larger than others."""
    options: _Options = Field(default_factory=dict, validate_default=True)
    """The provider's own settings, where it has any."""

    _location: _Location = PrivateAttr(default_factory=_Location)

    @field_validator("provider")
    @classmethod
    def _known_provider(cls, value: str, info: ValidationInfo) -> str:
        # Accounts that code builds for pushed events name any provider.
        context: LoadContext | None = info.context
        if context is not None and value not in context.providers:
            known = f"known: {', '.join(sorted(context.providers))}"
            hint = " ".join(filter(None, [suggest(value, context.providers), known]))
            raise validation_error(f"unknown provider {format_value(value)}; {hint}")
        return value

    @property
    def location(self) -> str:
        """The `file:line` where the account begins; empty for an account that code has built."""
        return self._location.item

    @property
    def api_key(self) -> KeySource:
        """Where the key is read from."""
        return KeySource(
            self._location.key,
            file=self.api_key_file,
            env=self.api_key_env or None,
            encrypted=self.api_key_encrypted or None,
        )

    @property
    def identity(self) -> tuple[str, str]:
        """Name and provider, which are unique: the accounts of a source share its name, each with its own provider."""
        return self.name, self.provider

    def has_same_connection(self, other: Account) -> bool:
        """Return whether the provider is polled in the same way for both accounts, whatever their keys."""
        names = ("provider", "base_url", "labels", "timeout", "options")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def with_defaults(self, defaults: Defaults) -> Account:
        """Return the account with the defaults for the settings that it does not have itself."""
        missing = Defaults.model_fields.keys() - self.model_fields_set
        return self.model_copy(update={name: getattr(defaults, name) for name in missing})

    def locate(self, location: str, key_location: str) -> None:
        """Set where the account and its key are written."""
        self._location = _Location(location, key_location)


class BudgetMatch(_Model):
    """The spend that a budget counts: globs (with * and ?), all of which have to match. Without a glob, all match."""

    account: Glob = ""
    """The account's name."""
    provider: Glob = ""
    """The account's provider."""
    workspace: Glob = ""
    """The workspace's name."""
    model: Glob = ""
    """The model, as the provider writes it."""
    owner: Glob = ""
    """The account's owner."""

    @property
    def globs(self) -> Mapping[str, str]:
        """Label -> glob, sorted by label, for the labels that have a glob."""
        return {label: glob for label in sorted(type(self).model_fields) if (glob := getattr(self, label))}


class Budget(_Model):
    """A limit that alerts warn about; several budgets may count the same spend."""

    name: AccountName
    """The label `budget`; unique."""
    owner: PrintableStr = ""
    """Who receives the alerts."""
    period: Annotated[Literal["day", "week", "month"], BeforeValidator(check_period)]
    """In UTC; weeks begin on Monday."""
    limit_usd: Limit
    """USD per period."""
    match: BudgetMatch = BudgetMatch()
    """The spend that counts; all of it, unless given."""
    alerts: BudgetAlerts = BudgetAlerts()
    """Thresholds of its own."""


class Source(_Model):
    """A sender of usage events: a gateway, or a system of your own. Each provider in its events makes an account."""

    name: AccountName
    """The label `account`; unique, among accounts too."""
    token_file: KeyFile
    """The file that holds only the bearer token; relative to this one."""
    owner: PrintableStr = ""
    """The team that pays and receives alerts."""
    max_series: PositiveInt = DEFAULT_MAX_SERIES
    """Above it, the smallest series are aggregated into model="other"."""
    labels: _Labels = frozenset()
    """Optional labels."""
    prices: _Items[Price] = ()
    """Negotiated prices for events without a cost; the first that matches applies."""
    alerts: AccountAlerts = AccountAlerts()
    """Thresholds of its own."""
    crosscheck_of: Glob = ""
    """The account whose usage this source sees too: the source is compared with it and not added to spend."""

    _location: _Location = PrivateAttr(default_factory=_Location)

    @property
    def location(self) -> str:
        """The `file:line` where the source begins."""
        return self._location.item

    @property
    def token(self) -> KeySource:
        """Where the bearer token is read from."""
        return KeySource(self._location.key, file=self.token_file, setting="token")

    def locate(self, location: str, key_location: str) -> None:
        """Set where the source and its token are written."""
        self._location = _Location(location, key_location)


class Ingest(_Model):
    """Pushed usage events."""

    sources: _Items[Source] = ()
    """Who may push, each with its own token."""


class AccountsFile(_Model):
    """A file that a pattern of `account_files` matches."""

    accounts: _Items[Account]


class Config(_Model):
    """The configuration of ai-spend-exporter: the file that is named on the command line."""

    defaults: Defaults = Defaults()
    """For every account without its own setting."""
    account_files: _Items[FileName] = ()
    """Files with more accounts, or patterns (with * and ?) of such files; relative to this one."""
    accounts: _Items[Account] = ()
    """The accounts; names are unique in all files."""
    budgets: _Items[Budget] = ()
    """Limits; names are unique."""
    ingest: Ingest = Ingest()
    """Pushed usage events."""

    _path: Path = PrivateAttr(default_factory=Path)
    _files: tuple[Path, ...] = PrivateAttr(default=())

    @property
    def path(self) -> Path:
        """The main file."""
        return self._path

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that was read, `path` first."""
        return self._files

    @property
    def sources(self) -> tuple[Source, ...]:
        """Who may push; names are unique, among accounts too."""
        return self.ingest.sources

    def set_files(self, files: tuple[Path, ...]) -> None:
        """Set the files that were read, the main file first."""
        self._path, self._files = files[0], files


FileModel = TypeVar("FileModel", Config, AccountsFile)


def validate(
    document: YamlDocument, model: type[FileModel], providers: Mapping[str, object]
) -> tuple[FileModel | None, list[ConfigProblem]]:
    """Return a document as its model, or None where it is invalid, and all problems of the document.

    `providers` are the known provider classes by name; `options_model` is read from them.
    """
    problems: list[ConfigProblem] = list(document.problems)
    if document.value is None:
        return None, [document.problem_at((), "the file is empty; list accounts in it, as config.example.yaml does")]
    if not isinstance(document.value, dict):
        found = format_value(document.value)
        message = f"expected a mapping with accounts, got {found}; begin with `accounts:`"
        return None, [*problems, document.problem_at((), message)]
    problems += _check_keys(document, document.value.get("accounts"))
    try:
        context = LoadContext(providers, document.path.parent)
        return model.model_validate(document.value, context=context), problems
    except ValidationError as error:
        problems += [document.problem_at(detail["loc"], _describe_error(detail, model)) for detail in error.errors()]
        return None, problems


def _check_keys(document: YamlDocument, accounts: object) -> Iterator[ConfigProblem]:
    """Check that each account has one key, whatever else is wrong with it."""
    for index, account in enumerate(accounts if isinstance(accounts, list) else []):
        if not isinstance(account, dict):
            continue
        given = [name for name in KEY_FIELDS if name in account]
        if len(given) > 1:
            both = "both" if len(given) == 2 else "all"
            yield document.problem_at(("accounts", index), f"{' and '.join(given)} are {both} given; keep one")
        if not any(key.startswith("api_key") or key in _PLAINTEXT_KEY_FIELDS for key in account):
            message = "there is no key; name its file with api_key_file, or an environment variable with api_key_env"
            yield document.problem_at(("accounts", index), message)


def _describe_error(error: ErrorDetails, model: type[BaseModel]) -> str:
    if error["type"] == "extra_forbidden" and error["loc"][-1] in _PLAINTEXT_KEY_FIELDS:
        name = "token_file" if error["loc"][0] == "ingest" else "api_key_file"
        return f"a key in plain text is not allowed here; write it to a file of its own and name that file with {name}"
    return describe_error(error, model)
