"""The C library's memory allocator: configured by the exporter, unless the environment configures it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.command import ENVIRONMENT, start_exporter, wait_until
from tests.faults.memory import count_thread_arenas


@pytest.mark.parametrize(
    ("variables", "has_several"),
    [({}, False), ({"MALLOC_ARENA_MAX": "8"}, True), ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=8"}, True)],
    ids=["default", "variable", "tunable"],
)
def test_threads_share_an_arena_unless_the_environment_says_otherwise(
    tmp_path: Path, variables: Mapping[str, str], has_several: bool
) -> None:
    """With nothing but the defaults there is one arena; a variable of glibc leaves the number to glibc."""
    config = tmp_path / "config.yaml"
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text("gateway-token-23c09a17")
    config.write_text("ingest: {sources: [{name: gateway, token_file: token}]}\n")
    flags = (f"--config.file={config}", f"--storage.path={tmp_path / 'ledger'}")
    # Not forked from a process that may have arenas already.
    with start_exporter(*flags, env={**ENVIRONMENT, **variables}, new_interpreter=True) as exporter:
        # The page is rendered by a thread of its own.
        assert exporter.get("/").status_code == 200
        if has_several:
            wait_until("an arena of a thread", lambda: count_thread_arenas(exporter.process.pid) > 0)
        else:
            assert count_thread_arenas(exporter.process.pid) == 0
