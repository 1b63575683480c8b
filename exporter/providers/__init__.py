"""Who can be asked: the literal table of providers, and those that installed packages add to it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, cast

from exporter.errors import ConfigError, ConfigProblem
from exporter.model import Console, KeyKind, Provider, Report
from exporter.providers.anthropic import Anthropic
from exporter.providers.cursor import Cursor
from exporter.providers.http import ClientConfig
from exporter.providers.openai import OpenAI

ENTRY_POINT_GROUP = "ai_spend_exporter.providers"
_REQUIRED_ATTRIBUTES = ("reports", "key_kinds", "base_url", "fetch", "names", "verify", "close")


class ProviderType(Protocol):
    """What stands in the table: a class that makes a session out of an access."""

    @property
    def reports(self) -> tuple[Report, ...]:
        """Everything that can be asked."""
        ...

    @property
    def key_kinds(self) -> tuple[KeyKind, ...]:
        """What the prefixes of keys say."""
        ...

    @property
    def base_url(self) -> str:
        """The published address."""
        ...

    def __call__(self, config: ClientConfig) -> Provider:
        """Reach one account. Makes no request yet."""
        ...


PROVIDERS: Mapping[str, ProviderType] = {"openai": OpenAI, "anthropic": Anthropic, "cursor": Cursor}


def load_providers() -> Mapping[str, ProviderType]:
    """Return PROVIDERS and what installed packages add under the entry-point group `ai_spend_exporter.providers`.

    Raises ConfigError, with every problem, where one cannot be loaded, is no provider, or takes a known name.
    """
    found, problems = dict(PROVIDERS), list[ConfigProblem]()
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        problem = _register_plugin(found, entry)
        if problem:
            problems.append(ConfigProblem(f"entry point {entry.name} = {entry.value}", problem))
    if problems:
        raise ConfigError(problems)
    return found


def provider_console(provider_type: ProviderType) -> Console | None:
    """Return where the provider's own pages show the same figures; None where a plug-in has no `console`."""
    return getattr(provider_type, "console", None)


def _register_plugin(providers: dict[str, ProviderType], entry_point: EntryPoint) -> str:
    if entry_point.name in providers:
        return "a provider of this name exists already"
    try:
        loaded = entry_point.load()
    except (ImportError, AttributeError) as error:
        return f"cannot be loaded: {error}"
    missing = [name for name in _REQUIRED_ATTRIBUTES if not hasattr(loaded, name)]
    if missing or not callable(loaded):
        return f"is no provider: it has no {', '.join(missing) or 'constructor'}"
    providers[entry_point.name] = cast(ProviderType, loaded)
    return ""
