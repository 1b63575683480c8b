"""Metrics about the exporter itself: one that cannot be read hides no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import start_exporter, start_sandbox, unprivileged_prefix, wait_until
from tests.system import make_account, start_small_system


def test_metrics_are_served_while_the_ledgers_folder_cannot_be_read(tmp_path: Path) -> None:
    """Only the metrics that need the folder are missing: every account's numbers are still served."""
    account = make_account("anthropic")
    prefix = unprivileged_prefix()
    with start_sandbox(tmp_path, account) as sandbox, start_exporter(*sandbox.flags, prefix=prefix) as exporter:
        exporter.wait_until_up("solo")
        folder = tmp_path / "ledger"
        assert "ai_exporter_ledger_bytes " in exporter.get().text
        folder.chmod(0)
        try:
            response = exporter.get()
            assert response.status_code == 200
            assert "ai_exporter_ledger_bytes " not in response.text
            assert 'ai_account_up{provider="anthropic",account="solo"} 1' in response.text
            assert "ai_tokens_today" in response.text
            assert "process_open_fds" in response.text
        finally:
            folder.chmod(0o700)
        wait_until("the size again", lambda: "ai_exporter_ledger_bytes " in exporter.get().text)


def test_a_metric_that_fails_hides_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the change events cannot be read, only their times are missing, and the log has the reason once."""
    with start_small_system(tmp_path, make_account("anthropic")) as system:
        system.poll_until_idle()
        with system.ledger._store.write() as db:
            db.execute("ALTER TABLE change_event RENAME TO elsewhere")
        for _ in range(3):
            assert system.value("ai_account_up", account="solo") == 1
            assert system.value("ai_exporter_internal_errors_total") is not None
            assert system.value("ai_exporter_ledger_bytes") is not None
        logged = [record for record in caplog.records if "metric about the exporter" in record.message]
        assert len(logged) == 1
        assert system.value("ai_exporter_internal_errors_total") == 1
