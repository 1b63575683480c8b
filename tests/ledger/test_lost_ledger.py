"""A running exporter whose ledger is removed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.command import ExporterProcess, start_exporter

TOKEN = "gateway-token-7d1f0a55"
EVENT_PATH = "/api/v1/ai/usage/events"


def write_source_config(folder: Path) -> tuple[str, str]:
    """Write a configuration with one source and no polled account; return the flags of `run`."""
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(TOKEN)
    (folder / "config.yaml").write_text("ingest: {sources: [{name: gateway, token_file: token}]}\n")
    return f"--config.file={folder / 'config.yaml'}", f"--storage.path={folder / 'ledger'}"


def push(exporter: ExporterProcess, number: int) -> int:
    """Push an event; return the status, 0 where the exporter has ended."""
    event: dict[str, Any] = {"provider": "vllm", "model": "m", "promptTokens": 3, "id": f"event-{number}"}
    event["timestamp"] = datetime.now(UTC).isoformat()
    try:
        response = httpx.post(
            exporter.url + EVENT_PATH, json=event, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60
        )
    except httpx.TransportError:
        return 0
    return response.status_code


@pytest.mark.parametrize("name", ["ledger.db", "ledger.db-wal", "."])
def test_pushes_are_rejected_once_the_ledger_was_removed(tmp_path: Path, name: str) -> None:
    """No push is acknowledged after a file or the folder of the ledger was moved; the process ends with advice."""
    with start_exporter(*write_source_config(tmp_path)) as exporter:
        assert push(exporter, 1) == 202
        (tmp_path / "ledger" / name).resolve().rename(tmp_path / "moved")
        answers = [push(exporter, number) for number in range(2, 12)]
        assert set(answers) <= {503, 0}
        assert exporter.process.wait(60) == 1
    log = "".join(exporter.stderr_lines)
    assert "was removed while the exporter ran" in log
    assert "Stop the exporter before you move its ledger." in log


def test_an_idle_exporter_ends_when_its_ledger_was_removed(tmp_path: Path) -> None:
    """Without any push or poll the process ends within seconds: nobody has to wait for the next write."""
    with start_exporter(*write_source_config(tmp_path)) as exporter:
        assert push(exporter, 1) == 202
        (tmp_path / "ledger" / "ledger.db").unlink()
        assert exporter.process.wait(60) == 1
    assert not (tmp_path / "ledger" / "ledger.db").exists()
