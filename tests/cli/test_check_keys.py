"""Messages of `check keys` and `run` about keys that do not work."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from exporter.simulator.accounts import SimAccount, Stream
from exporter.simulator.openrouter import REPORT
from exporter.simulator.xai import TEAM
from tests.command import ENVIRONMENT, run_command, start_exporter, start_sandbox
from tests.secret_scan import WRONG_KIND_KEY, find_leaks
from tests.system import make_account


def _write_config(folder: Path, accounts: Mapping[str, Mapping[str, object]]) -> Path:
    """Write a configuration; the field `key` of an account becomes a key file."""
    written = []
    for name, fields in accounts.items():
        path = folder / f"{name}.secret"
        path.touch(mode=0o600)
        path.write_text(str(fields["key"]))
        rest = {field: value for field, value in fields.items() if field != "key"}
        written.append({"name": name, "provider": "openai", "api_key_file": str(path), **rest})
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"accounts": written}, sort_keys=False))
    return path


@contextmanager
def _start_silent_server() -> Iterator[str]:
    """Accept connections and never respond."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


SLOW_ACCOUNTS = 30


@contextmanager
def _start_server_that_waits_for(connections: int) -> Iterator[str]:
    """Respond 503 to all connections once so many are open at the same time, and to none before."""

    def respond() -> None:
        with ExitStack() as stack:
            clients = [stack.enter_context(server.accept()[0]) for _ in range(connections)]
            for client in clients:
                client.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        threading.Thread(target=respond, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _parse_rows(table: str) -> dict[str, str]:
    """Return account -> its row, with the lines of the last column joined."""
    head, *lines = table.splitlines()
    column = head.index("Result")
    rows: dict[str, str] = {}
    for line in lines:
        name = line.partition(" ")[0]
        if name:
            rows[name] = " ".join(line.split())
        else:
            assert not line[:column].strip()
            rows[list(rows)[-1]] += f" {line.strip()}"
    return rows


FAILURES: dict[str, tuple[str, ...]] = {
    "revoked": ("FAILED", "401", "revoked", "Create an admin key: platform.openai.com"),
    "expired": ("FAILED", "401", "expired", "Create an admin key: platform.claude.com"),
    "missing-scope": ("FAILED", "401", "scope", "Create a team key with the admin:* scope"),
    "wrong-prefix": ("FAILED", "starts with sk-proj-: project key", "A project key cannot read usage. Create an admin"),
    "wrong-provider": ("FAILED", "starts with sk-ant-", "This is a key of anthropic: give the account `provider: ant"),
    "wrong-answer": ("FAILED", "401", "This is not a team key. Create a team key"),
    "refusing": ("FAILED", "127.0.0.1 refuses the connection", "Check base_url, and the network, firewall and proxy"),
    "no-tls": ("FAILED", "no TLS connection to 127.0.0.1 can be made", "Check base_url, and the network, firewall"),
    "no-host": ("FAILED", "no.such.host.invalid cannot be resolved (DNS)", "Check base_url, and the network"),
    "silent": ("FAILED", "sent no complete answer within 1 s", "Check base_url, and the network, firewall and proxy"),
    "html": ("FAILED", "a web page", "Check that base_url is the provider's address"),
    "limited": ("FAILED", "429", "The key was not checked: try again in a minute."),
    "overloaded": ("FAILED", "500", "the key was not checked: try again later."),
    "no-key": ("FAILED", "no-key.secret: it is empty; write the key there"),
    "fine": ("openai", "good", "ok"),
    "labs": ("anthropic", "good", "ok, organization Acme"),
    "crew": ("cursor", "good", "ok"),
}


def test_check_keys_reports_every_failure(tmp_path: Path) -> None:
    """There is a row per account, in the configuration's order, each failure with advice; the status is 1."""
    accounts = {
        "revoked": make_account("openai", "revoked"),
        "expired": make_account("anthropic", "expired"),
        "missing-scope": make_account("cursor", "missing-scope"),
        "wrong-answer": make_account("cursor", "wrong-answer"),
        "html": make_account("openai", "html"),
        "limited": make_account("openai", "limited"),
        "overloaded": make_account("anthropic", "overloaded"),
        "fine": make_account("openai", "fine"),
        "labs": make_account("anthropic", "labs"),
        "crew": make_account("cursor", "crew"),
    }
    faults = {"missing-scope": "missing_scope", "wrong-answer": "wrong_key", "limited": "rate_limited"}
    with start_sandbox(tmp_path, *accounts.values()) as here, _start_silent_server() as silent:
        for name in ("revoked", "expired", "missing-scope", "wrong-answer", "html", "limited"):
            here.simulator.add_fault(name, faults.get(name, name))
        here.simulator.add_fault("overloaded", "server_error")
        fields: dict[str, dict[str, object]] = {
            name: {"provider": account.provider, "key": account.key, "base_url": here.simulator.base_url(name)}
            for name, account in accounts.items()
        }
        good = fields["fine"]
        fields |= {
            "wrong-prefix": {**good, "key": WRONG_KIND_KEY},
            "wrong-provider": {**good, "key": "sk-ant-admin01-mine"},
            "refusing": {**good, "base_url": "http://127.0.0.1:9/v1"},
            "no-tls": {**good, "base_url": str(good["base_url"]).replace("http:", "https:")},
            "no-host": {**good, "base_url": "https://no.such.host.invalid/v1"},
            "silent": {**good, "base_url": silent, "timeout": "1s"},
            "no-key": {**good, "key": ""},
        }
        path = _write_config(tmp_path, {name: fields[name] for name in FAILURES})
        result = run_command("check", "keys", f"--config.file={path}", env={**ENVIRONMENT, "TERM": "xterm-256color"})
    assert result.returncode == 1
    assert result.stderr == ""
    assert all(line.isprintable() and len(line) <= 160 for line in result.stdout.splitlines())
    assert "sk-admin-demo" not in result.stdout
    assert find_leaks(result.stdout) == []
    verdicts = _parse_rows(result.stdout)
    assert list(verdicts) == list(FAILURES)
    for name, words in FAILURES.items():
        assert [word for word in words if word not in verdicts[name]] == [], verdicts[name]


def test_check_keys_succeeds_when_all_keys_are_valid(tmp_path: Path) -> None:
    """The status is 0 if every key works."""
    with start_sandbox(
        tmp_path, make_account("openai", "acme"), make_account("anthropic", "labs"), make_account("cursor", "crew")
    ) as here:
        result = run_command("check", "keys", f"--config.file={here.config}")
    assert result.returncode == 0
    assert all(" good " in row for row in _parse_rows(result.stdout).values())
    assert len(_parse_rows(result.stdout)) == 3


def test_keys_of_providers_with_a_balance(tmp_path: Path) -> None:
    """What can be read includes the balance; wrong teams and wrong keys each have their advice."""
    xai = SimAccount("team", "xai", "platform", "xai-token-team", "Acme", (Stream("", "grok-4.3", report="xai_usage"),))
    deepseek = SimAccount("credits", "deepseek", "platform", "sk-0123", "Acme", (), prepaid_usd=5)
    router = SimAccount("router", "openrouter", "platform", "sk-or-v1-a", "Acme", (Stream("", "m", report=REPORT),))
    with start_sandbox(tmp_path, deepseek, router, replace(xai, options={"team_id": TEAM})) as here:
        urls = {name: here.simulator.base_url(name) for name in ("team", "credits", "router")}
        team: dict[str, object] = {"provider": "xai", "key": xai.key, "base_url": urls["team"]}
        accounts: dict[str, dict[str, object]] = {
            "team": {**team, "options": {"team_id": TEAM}},
            "other-team": {**team, "options": {"team_id": "other"}},
            "unknown": {**team, "key": "xai-token-unknown", "options": {"team_id": TEAM}},
            "inference": {**team, "key": "xai-inference", "options": {"team_id": TEAM}},
            "credits": {"provider": "deepseek", "key": deepseek.key, "base_url": urls["credits"]},
            "deleted": {"provider": "deepseek", "key": "sk-other", "base_url": urls["credits"]},
            "router": {"provider": "openrouter", "key": router.key, "base_url": urls["router"]},
            "requests": {"provider": "openrouter", "key": "sk-or-v1-inference", "base_url": urls["router"]},
            "router-at-openai": {"key": router.key, "base_url": urls["router"]},
            "other-provider": {"provider": "deepseek", "key": xai.key, "base_url": urls["credits"]},
        }
        result = run_command("check", "keys", f"--config.file={_write_config(tmp_path, accounts)}")
    assert result.returncode == 1
    verdicts = _parse_rows(result.stdout)
    for name, words in {
        "team": ("good", "ok, team team-acme", "management key; reads usage, names, balance"),
        "other-team": ("FAILED", "404", "Set options.team_id to the team of the key"),
        "unknown": ("FAILED", "401", "The key is unknown or one for inference. Create a management key"),
        "inference": ("FAILED", "401", "An inference key cannot read billing. Create a management key"),
        "credits": ("good", "ok, an account with a balance", "API key; reads names, balance"),
        "deleted": ("FAILED", "401", "The key is unknown or was deleted. Create an API key"),
        "router": ("good", "ok, management key router exporter", "key; reads analytics, activity, names, balance"),
        "requests": ("FAILED", "403", "A key for requests cannot read usage. Create a management key"),
        "router-at-openai": ("FAILED", "This is a key of openrouter: give the account `provider: openrouter`."),
        "other-provider": ("FAILED", "This is a key of xai: give the account `provider: xai`."),
    }.items():
        assert [word for word in words if word not in verdicts[name]] == [], verdicts[name]


def test_slow_accounts_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Accounts are checked concurrently: a server that responds to none before the thirtieth connects serves all."""
    with (
        start_sandbox(tmp_path, make_account("openai", "acme")) as here,
        _start_server_that_waits_for(SLOW_ACCOUNTS) as slow,
    ):
        account = here.simulator.world.accounts["acme"]
        waiting = {
            f"slow-{number}": {"key": account.key, "base_url": slow, "timeout": "60s"}
            for number in range(SLOW_ACCOUNTS)
        }
        good = {"acme": {"key": account.key, "base_url": here.simulator.base_url("acme")}}
        result = run_command("check", "keys", f"--config.file={_write_config(tmp_path, {**waiting, **good})}")
    assert result.returncode == 1
    verdicts = _parse_rows(result.stdout)
    assert " good " in verdicts["acme"]
    assert sum("503" in row for row in verdicts.values()) == SLOW_ACCOUNTS


def test_a_key_of_the_wrong_kind_is_rejected_without_an_api_call(tmp_path: Path) -> None:
    """`run` rejects a key by its prefix without a request; log and landing page have the reason and advice."""
    with start_sandbox(tmp_path, make_account("openai", "acme"), make_account("anthropic", "labs")) as here:
        (here.folder / "acme.key").write_text(WRONG_KIND_KEY)
        with start_exporter(*here.flags, "--log.level=debug") as exporter:
            exporter.wait_until_up("labs")
            exporter.wait_for_log("Key rejected")
            landing, page = exporter.get("/").text, exporter.get().text
            assert 'ai_account_problem{provider="openai",account="acme",reason="wrong_key_kind"} 1' in page
            assert 'ai_account_up{provider="openai",account="acme"} 0' in page
            assert exporter.stop() == 0
        assert {served.account for served in here.simulator.requests} == {"labs"}
    (line,) = (text for text in exporter.stderr_lines if "Key rejected" in text)
    for text in (line, landing):
        assert "the key starts with sk-proj-: project key" in text
        assert "Create an admin key: platform.openai.com" in text
    assert "account=acme reason=wrong_key_kind" in line
    assert find_leaks(*exporter.stderr_lines, *exporter.stdout_lines, landing, page) == []
