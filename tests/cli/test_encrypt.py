"""Encrypted keys in the YAML: `encrypt`, master keys, and an exporter that reads encrypted keys."""

from __future__ import annotations

import os
import pty
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from cryptography.fernet import Fernet

from tests.command import COMMAND, ENVIRONMENT, Sandbox, run_command, start_exporter, start_sandbox
from tests.system import make_account

KEY = "sk-admin-4fD9kQ2mZx7Tb1Lw"
OLD_KEY, NEW_KEY = Fernet.generate_key().decode(), Fernet.generate_key().decode()


def _environment(*keys: str) -> dict[str, str]:
    return {**ENVIRONMENT, "AI_SPEND_MASTER_KEY": " ".join(keys)}


def _encrypt(key: str, *masters: str) -> str:
    """Return the token that `encrypt` prints for a key."""
    result = run_command("encrypt", env=_environment(*masters), stdin=f"{key}\n")
    assert (result.returncode, result.stderr) == (0, "")
    return str(yaml.safe_load(result.stdout)["api_key_encrypted"])


def _write_config(folder: Path, **tokens: str) -> Path:
    """Write a configuration with a comment, and one account per token."""
    lines = ["# Accounts of the company.", "accounts:"]
    for name, token in tokens.items():
        lines += [f"- name: {name}", "  provider: openai", f"  api_key_encrypted: {token}  # of {name}"]
    path = folder / "config.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_key_from_stdin_becomes_a_line_of_yaml() -> None:
    """The output is a line for the YAML, different each time, which the master key decrypts."""
    first, second = _encrypt(KEY, NEW_KEY, OLD_KEY), _encrypt(f"  {KEY}\r\n", NEW_KEY)
    assert first != second
    assert [Fernet(NEW_KEY).decrypt(token).decode() for token in (first, second)] == [KEY, KEY]


def test_a_key_is_entered_without_an_echo() -> None:
    """In a terminal there is a prompt for the key, and the input is not shown."""
    ours, theirs = pty.openpty()
    with closing(os.fdopen(ours, "rb+", buffering=0)) as terminal:
        process = subprocess.Popen(
            [*COMMAND, "encrypt"],
            env=_environment(NEW_KEY),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
        )
        os.close(theirs)
        shown = b""
        while b"Key:" not in shown:
            shown += terminal.read(100)
        terminal.write(KEY.encode() + b"\n")
        printed, _ = process.communicate(timeout=20)
        shown += terminal.read(100)
    assert process.returncode == 0
    assert KEY.encode() not in shown
    token = yaml.safe_load(printed)["api_key_encrypted"]
    assert Fernet(NEW_KEY).decrypt(token).decode() == KEY


def test_a_new_master_key_works() -> None:
    """`encrypt --new-master-key` prints a valid master key, different each time."""
    made = [run_command("encrypt", "--new-master-key").stdout.strip() for _ in range(2)]
    assert made[0] != made[1]
    assert Fernet(made[0]).decrypt(_encrypt(KEY, made[0])).decode() == KEY


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "AI_SPEND_MASTER_KEY_FILE {file}: it does not exist; create it or correct the path"),
        ("", "AI_SPEND_MASTER_KEY_FILE {file}: contains no master key; create one with `ai-spend-exporter encrypt --n"),
        ("hunter2", "AI_SPEND_MASTER_KEY_FILE {file}: contains an invalid master key; `ai-spend-exporter encrypt --n"),
        ("k" * 5000, "it is larger than 4 KiB; write only master keys to it"),
    ],
)
def test_an_invalid_master_key_is_reported(tmp_path: Path, content: str | None, message: str) -> None:
    """Without a valid master key there is no output but an error with advice, without the master key itself."""
    file = tmp_path / "master.key"
    if content is not None:
        file.write_text(content)
    failed = run_command("encrypt", env={**ENVIRONMENT, "AI_SPEND_MASTER_KEY_FILE": str(file)}, stdin=KEY)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert message.format(file=file) in failed.stderr
    assert "hunter2" not in failed.stderr


def test_master_keys_have_a_single_source(tmp_path: Path) -> None:
    """It is an error to set both variables, or neither."""
    (tmp_path / "master.key").write_text(NEW_KEY)
    both = run_command(
        "encrypt", env={**_environment(NEW_KEY), "AI_SPEND_MASTER_KEY_FILE": str(tmp_path / "master.key")}, stdin=KEY
    )
    assert "AI_SPEND_MASTER_KEY: AI_SPEND_MASTER_KEY_FILE is set too; keep one" in both.stderr
    neither = run_command("encrypt", stdin=KEY)
    assert neither.returncode == 1
    assert "AI_SPEND_MASTER_KEY: is not set, so there is no master key" in neither.stderr


@pytest.mark.parametrize("text", ["", "two words", "two\nlines"])
def test_text_that_is_no_key_is_not_encrypted(text: str) -> None:
    """There is no output for an empty key or a text that cannot be a key."""
    failed = run_command("encrypt", env=_environment(NEW_KEY), stdin=text)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("Error: This is not a key: it ")


def test_rotate_encrypts_every_key_again(tmp_path: Path) -> None:
    """Each key of each file is encrypted with the first master key; all other bytes and the mode stay the same."""
    path = _write_config(tmp_path, acme=_encrypt(KEY, OLD_KEY), labs=_encrypt(KEY[::-1], NEW_KEY))
    (tmp_path / "more").mkdir()
    more = _write_config(tmp_path / "more", crew=_encrypt(KEY.upper(), OLD_KEY))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"account_files: [more/*.yaml]\r\n")
    path.chmod(0o640)
    before = path.read_bytes()

    result = run_command("encrypt", "--rotate", f"--config.file={path}", env=_environment(NEW_KEY, OLD_KEY))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[:2] == [f"{path}: 1 encrypted again", f"{more}: 1 encrypted again"]
    assert path.stat().st_mode & 0o777 == 0o640
    accounts = [account for file in (path, more) for account in yaml.safe_load(file.read_text())["accounts"]]
    keys = {account["name"]: Fernet(NEW_KEY).decrypt(account["api_key_encrypted"]).decode() for account in accounts}
    assert keys == {"acme": KEY, "labs": KEY[::-1], "crew": KEY.upper()}
    after = path.read_bytes()
    old, new = (yaml.safe_load(text)["accounts"][0]["api_key_encrypted"].encode() for text in (before, after))
    assert after == before.replace(old, new)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.yaml", "more"]


def test_rotate_changes_nothing_where_a_key_cannot_be_read(tmp_path: Path) -> None:
    """A key that no master key decrypts is reported with file and line, and no file is changed."""
    path = _write_config(tmp_path, acme=_encrypt(KEY, OLD_KEY), labs=_encrypt(KEY, Fernet.generate_key().decode()))
    before = path.read_bytes()
    failed = run_command("encrypt", "--rotate", f"--config.file={path}", env=_environment(NEW_KEY, OLD_KEY))
    assert failed.returncode == 1
    assert f"{path}:8: api_key_encrypted: no available master key decrypts it" in failed.stderr
    assert path.read_bytes() == before


def test_check_config_reports_keys_that_no_master_key_decrypts(tmp_path: Path) -> None:
    """There is a warning without the master key, with another one, and with an old one that should be rotated."""
    path = _write_config(tmp_path, acme=_encrypt(KEY, OLD_KEY))
    location = f"warning: {path}:5: api_key_encrypted: "
    for masters, message in (
        ((), "AI_SPEND_MASTER_KEY: is not set, so there is no master key"),
        ((NEW_KEY,), "no available master key decrypts it"),
        ((NEW_KEY, OLD_KEY), "it is encrypted with an old master key; run `ai-spend-exporter encrypt --rotate`"),
    ):
        result = run_command("check", "config", str(path), env=_environment(*masters) if masters else ENVIRONMENT)
        assert result.returncode == 0
        assert f"{location}{message}" in result.stderr
    assert run_command("check", "config", str(path), env=_environment(OLD_KEY)).stderr == ""


def _encrypt_keys(sandbox: Sandbox, *masters: str) -> None:
    """Replace the key file of every account by the encrypted key."""
    document = yaml.safe_load(sandbox.config.read_text())
    for account in document["accounts"]:
        account["api_key_encrypted"] = _encrypt(Path(account.pop("api_key_file")).read_text(), *masters)
    sandbox.config.write_text(yaml.safe_dump(document))


def test_an_exporter_reads_accounts_with_encrypted_keys(tmp_path: Path) -> None:
    """The exporter polls with encrypted keys; master keys can be rotated while it runs."""
    master = tmp_path / "master.key"
    master.touch(mode=0o600)
    master.write_text(OLD_KEY)
    environment = {**ENVIRONMENT, "AI_SPEND_MASTER_KEY_FILE": str(master)}
    with start_sandbox(tmp_path, make_account("openai", "acme"), make_account("anthropic", "labs")) as here:
        _encrypt_keys(here, OLD_KEY)
        with start_exporter(*here.flags, "--config.auto-reload-interval=1s", env=environment) as exporter:
            exporter.wait_until_up("acme", "labs")
            request_count = len(here.simulator.requests)
            master.write_text(f"{NEW_KEY}\n{OLD_KEY}\n")
            assert run_command("encrypt", "--rotate", f"--config.file={here.config}", env=environment).returncode == 0
            exporter.wait_for_log("Configuration reloaded")
            assert exporter.accounts("ai_account_up", "1") == {"acme", "labs"}
            assert len(here.simulator.requests) == request_count
            assert exporter.stop() == 0
        master.write_text(NEW_KEY)
        with start_exporter(*here.flags, env=environment) as again:
            again.wait_until_up("acme", "labs")
            assert again.stop() == 0
    assert not [
        line for line in exporter.stderr_lines + again.stderr_lines if "level=error" in line or "level=warn" in line
    ]


def test_a_start_without_the_master_key_fails(tmp_path: Path) -> None:
    """`run` exits with an error where a key cannot be decrypted."""
    with start_sandbox(tmp_path, make_account("openai", "acme")) as here:
        _encrypt_keys(here, OLD_KEY)
        failed = run_command("run", "--web.listen-address=127.0.0.1:0", *here.flags)
    assert failed.returncode == 1
    assert "api_key_encrypted: AI_SPEND_MASTER_KEY: is not set, so there is no master key" in failed.stderr
