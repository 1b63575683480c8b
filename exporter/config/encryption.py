"""Keys encrypted in the YAML: the master keys that open them, newest first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from exporter.config.messages import unreadable
from exporter.errors import ConfigError, Problem
from exporter.model import Secret

VARIABLE = "AI_SPEND_MASTER_KEY"
"""Holds the master keys, with white space between them."""
FILE_VARIABLE = f"{VARIABLE}_FILE"
"""Names the file that holds them, one per line."""

_LONGEST = 4096


class MasterKeys:
    """What encrypts and opens: the first key encrypts, all of them open, so that one can follow another."""

    def __init__(self, keys: list[Fernet]) -> None:
        self._newest = keys[0]
        self._all = MultiFernet(keys)

    def encrypted(self, secret: Secret) -> str:
        """Return a secret as the text that stands in the YAML."""
        return self._newest.encrypt(secret.reveal().encode()).decode()

    def opened(self, token: str) -> Secret:
        """Return what was encrypted. Raises ValueError with the reason where no master key opens it."""
        try:
            return Secret(self._all.decrypt(token).decode())
        except (InvalidToken, UnicodeDecodeError):
            raise ValueError(
                "no master key that is there opens it: it was encrypted with another one, or is not whole"
            ) from None

    def rotated(self, token: str) -> str:
        """Return a token encrypted anew with the newest master key. Raises ValueError as `opened` does."""
        return self.encrypted(self.opened(token))

    def is_newest(self, token: str) -> bool:
        """Tell whether the newest master key opens a token."""
        try:
            self._newest.decrypt(token)
        except InvalidToken:
            return False
        return True


def master_keys(environ: Mapping[str, str]) -> MasterKeys:
    """Read the master keys as they are now, from their file or from the environment. Raises ConfigError."""
    file = environ.get(FILE_VARIABLE)
    if file and VARIABLE in environ:
        raise _refusal(VARIABLE, f"{FILE_VARIABLE} is set too; keep one")
    place = f"{FILE_VARIABLE} {file}" if file else VARIABLE
    words = (_read(Path(file), place) if file else environ.get(VARIABLE, "")).split()
    if not words:
        lack = "holds no master key" if file or VARIABLE in environ else "is not set, so there is no master key"
        raise _refusal(place, f"{lack}; make one with `ai-spend-exporter encrypt --new-master-key`")
    try:
        return MasterKeys([Fernet(word) for word in words])
    except ValueError:
        complaint = "holds what is no master key; `ai-spend-exporter encrypt --new-master-key` makes one"
        raise _refusal(place, complaint) from None


def master_file(environ: Mapping[str, str]) -> Path | None:
    """Return the file that holds the master keys, if they are in one."""
    return Path(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE) else None


def new_master_key() -> str:
    """Return a master key that nobody has had before."""
    return Fernet.generate_key().decode()


def _read(file: Path, place: str) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(_LONGEST + 1)
    except OSError as error:
        raise _refusal(place, unreadable(error)) from None
    if len(data) > _LONGEST:
        raise _refusal(place, "it holds more than 4 KiB; put only master keys there")
    return data.decode("latin-1")


def _refusal(place: str, complaint: str) -> ConfigError:
    return ConfigError([Problem(place, complaint)])
