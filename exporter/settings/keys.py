"""Where an account's key comes from, and what its prefix says about it."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import ConfigError, KeyRejected, Problem
from exporter.model import KeyKind, Secret
from exporter.settings.words import unreadable

if TYPE_CHECKING:
    from exporter.settings.config import Config

_LONGEST_KEY = 4096


@dataclass(frozen=True, slots=True)
class KeySource:
    """The file or the environment variable that holds a key, and the `file:line` that says so."""

    place: str = field(compare=False)
    file: Path | None = None
    env: str | None = None

    def __str__(self) -> str:
        return f"api_key_env {self.env}" if self.file is None else f"api_key_file {self.file}"

    def read(self, environ: Mapping[str, str]) -> Secret:
        """Return the key as it is now, without the white space around it. Raises ConfigError."""
        text = self._from_environment(environ) if self.file is None else self._from_file(self.file)
        key = text.strip()
        if fault := _fault(text, key):
            raise self._refusal(fault)
        return Secret(key)

    def warning(self) -> str | None:
        """Return what is unsafe about the key's file, if anything: that everyone may read it."""
        try:
            exposed = self.file is not None and self.file.stat().st_mode & stat.S_IROTH
        except OSError:
            return None
        return f"{self.place}: {self}: everyone on this machine may read it; give it mode 0400" if exposed else None

    def _from_environment(self, environ: Mapping[str, str]) -> str:
        try:
            return environ[self.env or ""]
        except KeyError as error:
            raise self._refusal("the environment variable is not set; set it or correct its name") from error

    def _from_file(self, file: Path) -> str:
        try:
            if file.exists() and not file.is_file():
                raise self._refusal("this is a directory or a device; name the file that holds the key")
            with file.open("rb") as stream:
                return stream.read(_LONGEST_KEY + 1).decode("latin-1")
        except OSError as error:
            raise self._refusal(unreadable(error)) from error

    def _refusal(self, complaint: str) -> ConfigError:
        return ConfigError([Problem(self.place, f"{self}: {complaint}")])


def _fault(text: str, key: str) -> str:
    if not key:
        return "it is empty; put the key there"
    if len(text) > _LONGEST_KEY:
        return "it holds more than 4 KiB, and no key is that long; put only the key there"
    if "\n" in key or "\r" in key:
        return "it holds several lines; put only the key there"
    if not all("!" <= character <= "~" for character in key):
        return "it holds a space, a control character or one beyond ASCII, and no key does; paste the key again"
    return ""


def diagnose(secret: Secret, kinds: Sequence[KeyKind]) -> KeyRejected | None:
    """Say why a key cannot work, judged by its longest known prefix; None where it may, or where none is known."""
    known = [kind for kind in kinds if secret.reveal().startswith(kind.prefix)]
    kind = max(known, key=lambda kind: len(kind.prefix), default=None)
    if kind is None or not kind.advice:
        return None
    return KeyRejected("wrong_key_kind", f"the key starts with {kind.prefix}: {kind.name}", kind.advice)


def check(config: Config, environ: Mapping[str, str]) -> list[Problem]:
    """Return a problem for every key of the configuration that cannot be read now, in the accounts' order."""
    problems: list[Problem] = []
    for account in config.accounts:
        try:
            account.api_key.read(environ)
        except ConfigError as error:
            problems += error.problems
    return problems


def warnings(config: Config, environ: Mapping[str, str]) -> list[str]:
    """Return what is unsafe but works: key files that everyone may read, and keys that two accounts share."""
    found = [warning for account in config.accounts if (warning := account.api_key.warning())]
    first: dict[tuple[str, Secret], str] = {}
    for account in config.accounts:
        try:
            key = (account.provider, account.api_key.read(environ))
        except ConfigError:
            continue
        if key in first:
            found.append(
                f"{account.place}: {account.name} has the same key as {first[key]}: what it spends counts twice"
            )
        first.setdefault(key, account.name)
    return found
