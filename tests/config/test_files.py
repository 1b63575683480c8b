"""The reader of files with a size limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exporter.config.files import FileError, format_size, read_file


def test_a_file_up_to_the_limit_is_read(tmp_path: Path) -> None:
    """A file of exactly the limit is read, and one more byte is an error with the limit and the advice."""
    file = tmp_path / "file"
    file.write_bytes(b"x" * 2048)
    assert read_file(file, 2048, advice="split it") == b"x" * 2048
    file.write_bytes(b"x" * 2049)
    with pytest.raises(FileError, match=r"^it is larger than 2 KiB; split it$"):
        read_file(file, 2048, advice="split it")


def test_a_device_without_end_is_read_to_the_limit() -> None:
    """A file without an end does not exhaust memory."""
    with pytest.raises(FileError, match="larger than 4 KiB"):
        read_file(Path("/dev/zero"), 4096, advice="")


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    """Where a regular file is required, a pipe, which would block, is rejected."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="name a regular file"):
        read_file(tmp_path / "pipe", 4096, advice="", regular=True)


@pytest.mark.parametrize(("size", "text"), [(4096, "4 KiB"), (4 << 20, "4 MiB"), (1000, "1000 bytes")])
def test_sizes(size: int, text: str) -> None:
    """A size is written in the largest unit without a fraction."""
    assert format_size(size) == text
