"""Where an account's key comes from, and what its prefix says about it."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.config.encryption import master_key_file, read_master_keys
from exporter.config.messages import describe_os_error
from exporter.errors import ConfigError, ConfigProblem, KeyRejected
from exporter.model import KeyKind, Secret

if TYPE_CHECKING:
    from exporter.config.configuration import Config

_MAX_KEY_LENGTH = 4096
MIN_TOKEN_LENGTH = 20
"""Characters of a bearer token: what can be guessed is none."""


@dataclass(frozen=True, slots=True)
class KeySource:
    """The file or environment variable that holds a key, or the key encrypted; and the `file:line` that says so."""

    location: str = field(compare=False)
    file: Path | None = None
    env: str | None = None
    encrypted: str | None = field(default=None, repr=False)
    setting: str = "api_key"
    """What the configuration calls it."""

    def __str__(self) -> str:
        if self.encrypted is not None:
            return f"{self.setting}_encrypted"
        return f"{self.setting}_env {self.env}" if self.file is None else f"{self.setting}_file {self.file}"

    def read(self, environ: Mapping[str, str]) -> Secret:
        """Return the key as it is now, without the white space around it. Raises ConfigError.

        An encrypted one is opened with the master keys that `environ` holds or names.
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
        """Return what is unsafe but works, if anything: a file for everyone, a master key that is not the newest."""
        if self.encrypted is not None and self._uses_old_master_key(self.encrypted, environ):
            return f"{self.location}: {self}: an older master key opens it; run `ai-spend-exporter encrypt --rotate`"
        return (
            f"{self.location}: {self}: {_WORLD_READABLE}"
            if self.file is not None and is_world_readable(self.file)
            else None
        )

    def _decrypt(self, token: str, environ: Mapping[str, str]) -> str:
        try:
            return read_master_keys(environ).decrypt(token).reveal()
        except ConfigError as error:
            (problem,) = error.problems
            raise self._config_error(str(problem)) from None
        except ValueError as error:
            raise self._config_error(f"{error}; encrypt the key again, or add the master key of then") from None

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
            if file.exists() and not file.is_file():
                raise self._config_error("this is a directory or a device; name the file that holds the key")
            with file.open("rb") as stream:
                return stream.read(_MAX_KEY_LENGTH + 1).decode("latin-1")
        except OSError as error:
            raise self._config_error(describe_os_error(error)) from error

    def _config_error(self, message: str) -> ConfigError:
        return ConfigError([ConfigProblem(self.location, f"{self}: {message}")])


_WORLD_READABLE = "everyone on this machine may read it; give it mode 0400"


def is_world_readable(file: Path) -> bool:
    """Tell whether everyone on this machine may read a file; not where it cannot be looked at."""
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def parse_key(text: str) -> Secret:
    """Return a key without the white space around it. Raises ValueError with the reason where it cannot be one."""
    key = text.strip()
    if fault := _invalid_reason(text, key):
        raise ValueError(fault)
    return Secret(key)


def _invalid_reason(text: str, key: str) -> str:
    if not key:
        return "it is empty; put the key there"
    if len(text) > _MAX_KEY_LENGTH:
        return "it holds more than 4 KiB, and no key is that long; put only the key there"
    if "\n" in key or "\r" in key:
        return "it holds several lines; put only the key there"
    if not all("!" <= character <= "~" for character in key):
        return "it holds a space, a control character or one beyond ASCII, and no key does; paste the key again"
    return ""


def find_key_kind(secret: Secret, kinds: Sequence[KeyKind]) -> KeyKind | None:
    """Return what a key's longest known prefix says about it; None where none is known."""
    known = [kind for kind in kinds if secret.reveal().startswith(kind.prefix)]
    return max(known, key=lambda kind: len(kind.prefix), default=None)


def diagnose(secret: Secret, kinds: Sequence[KeyKind]) -> KeyRejected | None:
    """Say why a key cannot work, judged by its prefix; None where it may, or where none is known."""
    kind = find_key_kind(secret, kinds)
    if kind is None or not kind.advice:
        return None
    return KeyRejected("wrong_key_kind", f"the key starts with {kind.prefix}: {kind.name}", kind.advice)


def check(config: Config, environ: Mapping[str, str]) -> list[ConfigProblem]:
    """Return a problem for every key and token of the configuration that cannot be read now, in their order."""
    problems: list[ConfigProblem] = []
    for one in (*(account.api_key for account in config.accounts), *(source.token for source in config.sources)):
        try:
            one.read(environ)
        except ConfigError as error:
            problems += error.problems
    return problems


def read_bearer_tokens(config: Config, environ: Mapping[str, str]) -> dict[str, Secret]:
    """Return source -> bearer token. Raises ConfigError with every one that cannot be read, is weak or not its own."""
    found, owners, problems = dict[str, Secret](), dict[Secret, str](), list[ConfigProblem]()
    for source in config.sources:
        try:
            token = source.token.read(environ)
        except ConfigError as error:
            problems += error.problems
            continue
        if len(token.reveal()) < MIN_TOKEN_LENGTH:
            complaint = f"it holds fewer than {MIN_TOKEN_LENGTH} characters; make one with `openssl rand -hex 32`"
            problems.append(ConfigProblem(source.token.location, f"{source.token}: {complaint}"))
        if token in owners:
            complaint = f"it holds the token of {owners[token]}; give each source its own"
            problems.append(ConfigProblem(source.token.location, f"{source.token}: {complaint}"))
        found[source.name] = token
        owners.setdefault(token, source.name)
    if problems:
        raise ConfigError(problems)
    return found


def find_warnings(config: Config, environ: Mapping[str, str]) -> list[str]:
    """Return what is unsafe but works: files that everyone may read, old master keys, keys that two accounts share."""
    sources = (*(account.api_key for account in config.accounts), *(source.token for source in config.sources))
    found = [warning for one in sources if (warning := one.warning(environ))]
    master = master_key_file(environ)
    if master is not None and is_world_readable(master):
        found.append(f"{master}: {_WORLD_READABLE}")
    first: dict[tuple[str, Secret], str] = {}
    for account in config.accounts:
        try:
            key = (account.provider, account.api_key.read(environ))
        except ConfigError:
            continue
        if key in first:
            found.append(
                f"{account.location}: {account.name} has the same key as {first[key]}: what it spends counts twice"
            )
        first.setdefault(key, account.name)
    return found
