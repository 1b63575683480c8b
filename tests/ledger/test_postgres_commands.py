"""Every command that opens a ledger takes --storage.url, beside the running exporter, and none prints the password."""

from __future__ import annotations

from pathlib import Path

from tests.command import run_command, start_exporter, start_sandbox
from tests.postgres import PostgresServer, schema_of
from tests.system import make_account

PASSWORD = "s3cret-of-the-commands"


def test_commands_read_the_ledger_of_a_running_exporter(tmp_path: Path, postgres: PostgresServer) -> None:
    """history, digest and run read the database with a password from a file; a second exporter is rejected."""
    place = postgres.new_location()
    postgres.execute(
        f"CREATE ROLE secured LOGIN PASSWORD '{PASSWORD}'; ALTER SCHEMA {schema_of(place)} OWNER TO secured"
    )
    (tmp_path / "password").write_text(PASSWORD)
    storage = (
        f"--storage.url={place.url.replace('//exporter@', '//secured@')}",
        f"--storage.password-file={tmp_path / 'password'}",
    )
    with start_sandbox(tmp_path, make_account("openai", "acme-openai")) as sandbox:
        config = f"--config.file={sandbox.config}"
        with start_exporter(config, *storage) as exporter:
            exporter.wait_until_up("acme-openai")
            history = run_command("history", config, *storage)
            digest = run_command("digest", config, *storage)
            second = run_command("run", config, *storage, "--web.listen-address=127.0.0.1:0")
    assert (history.returncode, digest.returncode, second.returncode) == (0, 0, 1)
    assert 'ai_hourly_cost_usd{provider="openai",account="acme-openai"' in history.stdout
    assert "Month forecast" in digest.stdout
    assert "is in use by another ai-spend-exporter" in second.stderr
    (tmp_path / "password").write_text("wrong-secret")
    failed = run_command("run", config, *storage)
    assert failed.returncode == 1
    assert "Check the user of --storage.url, the password of --storage.password-file" in failed.stderr
    printed = [history, digest, second, failed]
    output = "".join([*exporter.stderr_lines, *(done.stdout + done.stderr for done in printed)])
    assert PASSWORD not in output
    assert "wrong-secret" not in output
