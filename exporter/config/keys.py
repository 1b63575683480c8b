"""Reading API keys and bearer tokens, and recognising their kind by prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.config.encryption import MAX_KEY_BYTES, master_key_file, read_master_keys
from exporter.config.files import WORLD_READABLE, FileError, format_size, is_world_readable, read_file
from exporter.errors import ConfigError, ConfigProblem, KeyRejected
from exporter.model import KeyKind, Secret

if TYPE_CHECKING:
    from exporter.config.schema import Config

MIN_TOKEN_LENGTH = 20
"""The minimum number of characters of a bearer token: a shorter one could be guessed."""
_TOO_LONG_ADVICE = "no key is that long; write only the key there"


@dataclass(frozen=True, slots=True)
class KeySource:
    """The file or environment variable with a key, or the encrypted key itself."""

    location: str = field(compare=False)
    """The `file:line` of the configuration that names it; a key source that only moved there is the same."""
    file: Path | None = None
    env: str | None = None
    encrypted: str | None = field(default=None, repr=False)
    setting: str = "api_key"
    """The name in the configuration, without `_file`, `_env` or `_encrypted`."""

    def __str__(self) -> str:
        if self.encrypted is not None:
            return f"{self.setting}_encrypted"
        return f"{self.setting}_env {self.env}" if self.file is None else f"{self.setting}_file {self.file}"

    def read(self, environ: Mapping[str, str]) -> Secret:
        """Read the key, without the white space around it. Raises ConfigError.

        An encrypted key is decrypted with the master keys from `environ`.
        """
        if self.encrypted is not None:
            text = self._decrypt(self.encrypted, environ)
        elif self.file is not None:
            text = self._read_file(self.file)
        else:
            text = self._read_environment(environ)
        try:
            return parse_key(text)
        except ValueError as error:
            raise self._config_error(str(error)) from None

    def warning(self, environ: Mapping[str, str]) -> str | None:
        """Return a warning about a world-readable file or an old master key; None where there is nothing to warn of."""
        if self.encrypted is not None and self._uses_old_master_key(self.encrypted, environ):
            message = "it is encrypted with an old master key; run `ai-spend-exporter encrypt --rotate`"
        elif self.file is not None and is_world_readable(self.file):
            message = WORLD_READABLE
        else:
            return None
        return f"{self.location}: {self}: {message}"

    def _decrypt(self, token: str, environ: Mapping[str, str]) -> str:
        try:
            return read_master_keys(environ).decrypt(token).reveal()
        except ConfigError as error:
            (problem,) = error.problems
            raise self._config_error(str(problem)) from None
        except ValueError as error:
            message = f"{error}; encrypt the key again, or add the master key that encrypted it"
            raise self._config_error(message) from None

    def _uses_old_master_key(self, token: str, environ: Mapping[str, str]) -> bool:
        try:
            return not read_master_keys(environ).uses_newest_key(token)
        except ConfigError:
            return False

    def _read_environment(self, environ: Mapping[str, str]) -> str:
        try:
            return environ[self.env or ""]
        except KeyError as error:
            raise self._config_error("the environment variable is not set; set it or correct its name") from error

    def _read_file(self, file: Path) -> str:
        try:
            return read_file(file, MAX_KEY_BYTES, advice=_TOO_LONG_ADVICE, regular=True).decode("latin-1")
        except FileError as error:
            raise self._config_error(str(error)) from error

    def _config_error(self, message: str) -> ConfigError:
        return ConfigError([ConfigProblem(self.location, f"{self}: {message}")])


def parse_key(text: str) -> Secret:
    """Return a key without the white space around it. Raises ValueError with the reason where the text is no key."""
    key = text.strip()
    if reason := _invalid_reason(text, key):
        raise ValueError(reason)
    return Secret(key)


def _invalid_reason(text: str, key: str) -> str:
    if not key:
        return "it is empty; write the key there"
    if len(text) > MAX_KEY_BYTES:
        return f"it is larger than {format_size(MAX_KEY_BYTES)}; {_TOO_LONG_ADVICE}"
    if "\n" in key or "\r" in key:
        return "it has several lines; write only the key there"
    if not all("!" <= character <= "~" for character in key):
        return "it contains a space, a control character or a character outside ASCII; paste the key again"
    return ""


def find_key_kind(secret: Secret, kinds: Sequence[KeyKind]) -> KeyKind | None:
    """Return the kind whose prefix is the longest that the key starts with; None where there is no such kind."""
    known = [kind for kind in kinds if secret.reveal().startswith(kind.prefix)]
    return max(known, key=lambda kind: len(kind.prefix), default=None)


def diagnose(secret: Secret, kinds: Sequence[KeyKind]) -> KeyRejected | None:
    """Return why a key of its kind is rejected, judged by its prefix; None where it may work."""
    kind = find_key_kind(secret, kinds)
    if kind is None or not kind.advice:
        return None
    return KeyRejected("wrong_key_kind", f"the key starts with {kind.prefix}: {kind.name}", kind.advice)


def check(config: Config, environ: Mapping[str, str]) -> list[ConfigProblem]:
    """Return a problem for every key and token of the configuration that cannot be read, in their order."""
    problems: list[ConfigProblem] = []
    for key_source in _key_sources(config):
        try:
            key_source.read(environ)
        except ConfigError as error:
            problems += error.problems
    return problems


def _key_sources(config: Config) -> tuple[KeySource, ...]:
    accounts, sources = config.accounts, config.sources
    return (*(account.api_key for account in accounts), *(source.token for source in sources))


def read_bearer_tokens(config: Config, environ: Mapping[str, str]) -> dict[str, Secret]:
    """Return source name -> bearer token. Raises ConfigError with all that cannot be read, are short or not unique."""
    tokens: dict[str, Secret] = {}
    owners: dict[Secret, str] = {}
    problems: list[ConfigProblem] = []
    for source in config.sources:
        try:
            token = source.token.read(environ)
        except ConfigError as error:
            problems += error.problems
            continue
        if len(token.reveal()) < MIN_TOKEN_LENGTH:
            message = f"it has fewer than {MIN_TOKEN_LENGTH} characters; create a token with `openssl rand -hex 32`"
            problems.append(ConfigProblem(source.token.location, f"{source.token}: {message}"))
        if token in owners:
            message = f"it contains the token of {owners[token]}; give each source its own"
            problems.append(ConfigProblem(source.token.location, f"{source.token}: {message}"))
        tokens[source.name] = token
        owners.setdefault(token, source.name)
    if problems:
        raise ConfigError(problems)
    return tokens


def find_warnings(config: Config, environ: Mapping[str, str]) -> list[str]:
    """Return warnings: world-readable files with secrets, old master keys, keys that two accounts share."""
    warnings = [warning for key_source in _key_sources(config) if (warning := key_source.warning(environ))]
    master = master_key_file(environ)
    if master is not None and is_world_readable(master):
        warnings.append(f"{master}: {WORLD_READABLE}")
    first: dict[tuple[str, Secret], str] = {}
    for account in config.accounts:
        try:
            key = (account.provider, account.api_key.read(environ))
        except ConfigError:
            continue
        if key in first:
            message = f"{account.name} has the same key as {first[key]}: what it spends counts twice"
            warnings.append(f"{account.location}: {message}")
        first.setdefault(key, account.name)
    return warnings
