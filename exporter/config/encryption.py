"""Encryption of keys in the YAML, with master keys that can be rotated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from exporter.config.files import FileError, read_file
from exporter.errors import ConfigError, ConfigProblem
from exporter.model import Secret

MASTER_KEY_VARIABLE = "AI_SPEND_MASTER_KEY"
"""The environment variable with the master keys, newest first, separated by white space."""
MASTER_KEY_FILE_VARIABLE = f"{MASTER_KEY_VARIABLE}_FILE"
"""The environment variable with the path of the file that contains the master keys, one per line."""

MAX_KEY_BYTES = 4096
"""The size limit of a file or variable with a key, a token or master keys."""


class MasterKeys:
    """The master keys: the first encrypts, each of them decrypts, so that they can be rotated."""

    def __init__(self, keys: list[Fernet]) -> None:
        self._newest = keys[0]
        self._all = MultiFernet(keys)

    def encrypt(self, secret: Secret) -> str:
        """Return the encrypted secret, as text for the YAML."""
        return self._newest.encrypt(secret.reveal().encode()).decode()

    def decrypt(self, token: str) -> Secret:
        """Return the decrypted secret. Raises ValueError with the reason where no master key decrypts it."""
        try:
            return Secret(self._all.decrypt(token).decode())
        except (InvalidToken, UnicodeDecodeError):
            raise ValueError(
                "no available master key decrypts it: it was encrypted with another one, or is incomplete"
            ) from None

    def rotate(self, token: str) -> str:
        """Return a token encrypted with the newest master key. Raises ValueError like `decrypt`."""
        return self.encrypt(self.decrypt(token))

    def uses_newest_key(self, token: str) -> bool:
        """Return whether the newest master key decrypts a token."""
        try:
            self._newest.decrypt(token)
        except InvalidToken:
            return False
        return True


def read_master_keys(environ: Mapping[str, str]) -> MasterKeys:
    """Read the master keys from their file or from the environment. Raises ConfigError."""
    file = environ.get(MASTER_KEY_FILE_VARIABLE)
    if file and MASTER_KEY_VARIABLE in environ:
        raise _config_error(MASTER_KEY_VARIABLE, f"{MASTER_KEY_FILE_VARIABLE} is set too; keep one")
    location = f"{MASTER_KEY_FILE_VARIABLE} {file}" if file else MASTER_KEY_VARIABLE
    text = _read_file(Path(file), location) if file else environ.get(MASTER_KEY_VARIABLE, "")
    keys = text.split()
    if not keys:
        is_set = file or MASTER_KEY_VARIABLE in environ
        problem = "contains no master key" if is_set else "is not set, so there is no master key"
        raise _config_error(location, f"{problem}; create one with `ai-spend-exporter encrypt --new-master-key`")
    try:
        return MasterKeys([Fernet(key) for key in keys])
    except ValueError:
        message = "contains an invalid master key; `ai-spend-exporter encrypt --new-master-key` creates a valid one"
        raise _config_error(location, message) from None


def master_key_file(environ: Mapping[str, str]) -> Path | None:
    """Return the file with the master keys; None where they are not in a file."""
    return Path(environ[MASTER_KEY_FILE_VARIABLE]) if environ.get(MASTER_KEY_FILE_VARIABLE) else None


def generate_master_key() -> str:
    """Return a new random master key."""
    return Fernet.generate_key().decode()


def _read_file(file: Path, location: str) -> str:
    try:
        return read_file(file, MAX_KEY_BYTES, advice="write only master keys to it").decode("latin-1")
    except FileError as error:
        raise _config_error(location, str(error)) from None


def _config_error(location: str, message: str) -> ConfigError:
    return ConfigError([ConfigProblem(location, message)])
