"""Keys encrypted in the YAML: the master keys that open them, newest first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from exporter.config.messages import describe_os_error
from exporter.errors import ConfigError, ConfigProblem
from exporter.model import Secret

MASTER_KEY_VARIABLE = "AI_SPEND_MASTER_KEY"
"""Holds the master keys, with white space between them."""
MASTER_KEY_FILE_VARIABLE = f"{MASTER_KEY_VARIABLE}_FILE"
"""Names the file that holds them, one per line."""

_MAX_FILE_BYTES = 4096


class MasterKeys:
    """What encrypts and opens: the first key encrypts, all of them open, so that one can follow another."""

    def __init__(self, keys: list[Fernet]) -> None:
        self._newest = keys[0]
        self._all = MultiFernet(keys)

    def encrypt(self, secret: Secret) -> str:
        """Return a secret as the text that stands in the YAML."""
        return self._newest.encrypt(secret.reveal().encode()).decode()

    def decrypt(self, token: str) -> Secret:
        """Return what was encrypted. Raises ValueError with the reason where no master key opens it."""
        try:
            return Secret(self._all.decrypt(token).decode())
        except (InvalidToken, UnicodeDecodeError):
            raise ValueError(
                "no master key that is there opens it: it was encrypted with another one, or is not whole"
            ) from None

    def rotate(self, token: str) -> str:
        """Return a token encrypted anew with the newest master key. Raises ValueError as `opened` does."""
        return self.encrypt(self.decrypt(token))

    def uses_newest_key(self, token: str) -> bool:
        """Tell whether the newest master key opens a token."""
        try:
            self._newest.decrypt(token)
        except InvalidToken:
            return False
        return True


def read_master_keys(environ: Mapping[str, str]) -> MasterKeys:
    """Read the master keys as they are now, from their file or from the environment. Raises ConfigError."""
    file = environ.get(MASTER_KEY_FILE_VARIABLE)
    if file and MASTER_KEY_VARIABLE in environ:
        raise _config_error(MASTER_KEY_VARIABLE, f"{MASTER_KEY_FILE_VARIABLE} is set too; keep one")
    place = f"{MASTER_KEY_FILE_VARIABLE} {file}" if file else MASTER_KEY_VARIABLE
    words = (_read_file(Path(file), place) if file else environ.get(MASTER_KEY_VARIABLE, "")).split()
    if not words:
        lack = (
            "holds no master key" if file or MASTER_KEY_VARIABLE in environ else "is not set, so there is no master key"
        )
        raise _config_error(place, f"{lack}; make one with `ai-spend-exporter encrypt --new-master-key`")
    try:
        return MasterKeys([Fernet(word) for word in words])
    except ValueError:
        complaint = "holds what is no master key; `ai-spend-exporter encrypt --new-master-key` makes one"
        raise _config_error(place, complaint) from None


def master_key_file(environ: Mapping[str, str]) -> Path | None:
    """Return the file that holds the master keys, if they are in one."""
    return Path(environ[MASTER_KEY_FILE_VARIABLE]) if environ.get(MASTER_KEY_FILE_VARIABLE) else None


def generate_master_key() -> str:
    """Return a master key that nobody has had before."""
    return Fernet.generate_key().decode()


def _read_file(file: Path, location: str) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _config_error(location, describe_os_error(error)) from None
    if len(data) > _MAX_FILE_BYTES:
        raise _config_error(location, "it holds more than 4 KiB; put only master keys there")
    return data.decode("latin-1")


def _config_error(location: str, message: str) -> ConfigError:
    return ConfigError([ConfigProblem(location, message)])
