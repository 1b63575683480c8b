"""The table of providers, the plug-ins that installed packages add to it, and how a provider is constructed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from pydantic import BaseModel, ValidationError

from exporter.errors import ConfigError, ConfigProblem
from exporter.model import Console, KeyKind
from exporter.providers.anthropic import Anthropic
from exporter.providers.base import NoOptions, Provider, ProviderType
from exporter.providers.cursor import Cursor
from exporter.providers.deepseek import DeepSeek
from exporter.providers.http import ClientConfig
from exporter.providers.openai import OpenAI
from exporter.providers.openrouter import OpenRouter
from exporter.providers.xai import Xai

__all__ = [
    "ENTRY_POINT_GROUP",
    "PROVIDERS",
    "ProviderType",
    "create_provider",
    "known_key_kinds",
    "load_providers",
    "provider_console",
    "provider_options_model",
]

ENTRY_POINT_GROUP = "ai_spend_exporter.providers"
_REQUIRED_ATTRIBUTES = ("reports", "key_kinds", "base_url", "fetch", "names", "verify", "close")

PROVIDERS: Mapping[str, ProviderType] = {
    "openai": OpenAI,
    "anthropic": Anthropic,
    "cursor": Cursor,
    "xai": Xai,
    "deepseek": DeepSeek,
    "openrouter": OpenRouter,
}


def load_providers() -> Mapping[str, ProviderType]:
    """Return PROVIDERS and the plug-ins of installed packages (entry-point group `ai_spend_exporter.providers`).

    Raises ConfigError with every plug-in that cannot be loaded, is not a provider, or has the name of another.
    """
    providers = dict(PROVIDERS)
    problems: list[ConfigProblem] = []
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        problem = _register_plugin(providers, entry_point)
        if problem:
            problems.append(ConfigProblem(f"entry point {entry_point.name} = {entry_point.value}", problem))
    if problems:
        raise ConfigError(problems)
    return providers


def provider_console(provider_type: ProviderType) -> Console | None:
    """Return the provider's own page with the same figures; None where the class has no `console`."""
    return getattr(provider_type, "console", None)


def provider_options_model(provider_type: ProviderType) -> type[BaseModel]:
    """Return the model that validates an account's options; NoOptions where the class has no `options_model`."""
    return getattr(provider_type, "options_model", NoOptions)


def create_provider(
    provider_type: ProviderType, client_config: ClientConfig, options: BaseModel | None = None
) -> Provider:
    """Construct the provider of one account, without a request.

    Without `options`, those of an account that configures none. Raises ConfigError where the provider requires some.
    """
    if options is None:
        options_model = provider_options_model(provider_type)
        try:
            options = options_model()
        except ValidationError as error:
            missing = ", ".join(str(detail["loc"][0]) for detail in error.errors())
            raise ConfigError([ConfigProblem("options", f"the provider requires {missing}")]) from None
    return provider_type(client_config, options)


def known_key_kinds(provider: str, providers: Mapping[str, ProviderType]) -> tuple[KeyKind, ...]:
    """Return the types of keys that an account of `provider` may hold by right or by mistake.

    The provider's own come first. A prefix that only another provider issues carries the advice to change the
    account's provider, so that a new provider's keys are recognised everywhere without a change to the others.
    """
    own = providers[provider].key_kinds
    kinds = {kind.prefix: kind for kind in own}
    for name, provider_type in providers.items():
        for kind in provider_type.key_kinds:
            if kind.prefix and kind.prefix not in kinds:
                advice = f"This is a key of {name}: give the account `provider: {name}`."
                kinds[kind.prefix] = KeyKind(kind.prefix, f"{name} key", advice)
    return tuple(kinds.values())


def _register_plugin(providers: dict[str, ProviderType], entry_point: EntryPoint) -> str:
    """Add one plug-in to `providers`; return why that is impossible, "" where it is added."""
    if entry_point.name in providers:
        return "a provider of this name exists already"
    try:
        loaded = entry_point.load()
    except (ImportError, AttributeError, ValueError) as error:
        return f"cannot be loaded: {error}"
    missing = [name for name in _REQUIRED_ATTRIBUTES if not hasattr(loaded, name)]
    if missing or not callable(loaded):
        return f"is not a provider: it has no {', '.join(missing) or 'constructor'}"
    problem = _invalid_signature(loaded)
    if problem:
        return problem
    providers[entry_point.name] = cast(ProviderType, loaded)
    return ""


def _invalid_signature(provider_type: ProviderType) -> str:
    """Return what is wrong with the constructor or the options model; "" where both fit."""
    try:
        inspect.signature(provider_type).bind("client_config", "options")
    except TypeError:
        return "is not a provider: its constructor does not take (client_config, options)"
    options_model = provider_options_model(provider_type)
    if not (isinstance(options_model, type) and issubclass(options_model, BaseModel)):
        return "is not a provider: its options_model is not a pydantic model"
    return ""
