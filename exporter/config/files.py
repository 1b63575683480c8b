"""Reading the files of a configuration, none of them beyond a size limit."""

from __future__ import annotations

import stat
from pathlib import Path

WORLD_READABLE = "everyone on this machine may read it; give it mode 0400"
"""The warning about a file with secrets for which `is_world_readable` is true."""

_UNITS = ((1 << 20, "MiB"), (1 << 10, "KiB"))


class FileError(Exception):
    """A file that cannot be read; its text gives the reason and what to do, without the file's path or content."""


def read_file(path: Path, max_bytes: int, *, advice: str, regular: bool = False) -> bytes:
    """Return the content of a file.

    `advice` says what to do about a file with more than `max_bytes`. Where `regular` is set, directories, pipes and
    devices are rejected before they are opened, because opening a pipe may block.

    Raises FileError.
    """
    try:
        if regular and path.exists() and not path.is_file():
            raise FileError("this is a directory or a device; name a regular file")
        with path.open("rb") as stream:
            content = stream.read(max_bytes + 1)
    except OSError as error:
        raise FileError(describe_os_error(error)) from error
    if len(content) > max_bytes:
        raise FileError(f"it is larger than {format_size(max_bytes)}; {advice}")
    return content


def format_size(size: int) -> str:
    """Return a number of bytes in the largest unit that it is a multiple of: `4 KiB`."""
    for factor, unit in _UNITS:
        if size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} bytes"


def describe_os_error(error: OSError) -> str:
    """Return why a file or directory cannot be read, and what to do."""
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "it does not exist; create it or correct the path"
        case IsADirectoryError():
            return "it is a directory; name a file in it"
        case PermissionError():
            return "this user may not read it; check its owner and mode"
        case _:
            return f"it cannot be read ({error.strerror or type(error).__name__}); check the path"


def is_world_readable(file: Path) -> bool:
    """Return whether every user of this machine may read a file; False where its mode cannot be read."""
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
