"""Keys that do not work: what `check keys` and `run` say about each."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.command import ENVIRONMENT, ended, site, started
from tests.secret_scan import WRONG_KIND, leaks
from tests.system import lone


def _configure(folder: Path, accounts: Mapping[str, Mapping[str, object]]) -> Path:
    """Write a configuration; `key` is put into a file of its own."""
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
def _silent() -> Iterator[str]:
    """Take connections and never answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _verdicts(table: str) -> dict[str, str]:
    """Account -> its row, with the lines that the last column takes put together again."""
    head, *lines = table.splitlines()
    column = head.index("What")
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
    "wrong-provider": ("FAILED", "starts with sk-ant-", "This is an Anthropic key: give the account `provider: anth"),
    "wrong-answer": ("FAILED", "401", "This is no team key. Create a team key"),
    "refusing": ("FAILED", "127.0.0.1 refuses the connection", "Check base_url, and the network, firewall and proxy"),
    "no-tls": ("FAILED", "no TLS connection to 127.0.0.1 can be made", "Check base_url, and the network, firewall"),
    "no-host": ("FAILED", "no.such.host.invalid cannot be resolved (DNS)", "Check base_url, and the network"),
    "silent": ("FAILED", "gave no whole answer within 1 s", "Check base_url, and the network, firewall and proxy"),
    "html": ("FAILED", "a web page", "Check that base_url is the provider's address"),
    "limited": ("FAILED", "429", "The key was not judged: ask again in a minute."),
    "overloaded": ("FAILED", "500", "the key was not judged: ask again later."),
    "no-key": ("FAILED", "no-key.secret: it is empty; put the key there"),
    "fine": ("openai", "good", "ok"),
    "labs": ("anthropic", "good", "ok, organization Acme"),
    "crew": ("cursor", "good", "ok"),
}


def test_check_keys_tells_what_each_account_lacks(tmp_path: Path) -> None:
    """One row per account, in the configuration's order, each failure with advice of its own; status 1."""
    accounts = {
        "revoked": lone("openai", "revoked"),
        "expired": lone("anthropic", "expired"),
        "missing-scope": lone("cursor", "missing-scope"),
        "wrong-answer": lone("cursor", "wrong-answer"),
        "html": lone("openai", "html"),
        "limited": lone("openai", "limited"),
        "overloaded": lone("anthropic", "overloaded"),
        "fine": lone("openai", "fine"),
        "labs": lone("anthropic", "labs"),
        "crew": lone("cursor", "crew"),
    }
    faults = {"missing-scope": "missing_scope", "wrong-answer": "wrong_key", "limited": "rate_limited"}
    with site(tmp_path, *accounts.values()) as here, _silent() as silent:
        for name in ("revoked", "expired", "missing-scope", "wrong-answer", "html", "limited"):
            here.simulator.fault(name, faults.get(name, name))
        here.simulator.fault("overloaded", "server_error")
        fields: dict[str, dict[str, object]] = {
            name: {"provider": one.provider, "key": one.key, "base_url": here.simulator.base_url(name)}
            for name, one in accounts.items()
        }
        good = fields["fine"]
        fields |= {
            "wrong-prefix": {**good, "key": WRONG_KIND},
            "wrong-provider": {**good, "key": "sk-ant-admin01-mine"},
            "refusing": {**good, "base_url": "http://127.0.0.1:9/v1"},
            "no-tls": {**good, "base_url": str(good["base_url"]).replace("http:", "https:")},
            "no-host": {**good, "base_url": "https://no.such.host.invalid/v1"},
            "silent": {**good, "base_url": silent, "timeout": "1s"},
            "no-key": {**good, "key": ""},
        }
        path = _configure(tmp_path, {name: fields[name] for name in FAILURES})
        told = ended("check", "keys", f"--config.file={path}", env={**ENVIRONMENT, "TERM": "xterm-256color"})
    assert told.returncode == 1
    assert told.stderr == ""
    assert all(line.isprintable() and len(line) <= 160 for line in told.stdout.splitlines())
    assert "sk-admin-demo" not in told.stdout
    assert leaks(told.stdout) == []
    verdicts = _verdicts(told.stdout)
    assert list(verdicts) == list(FAILURES)
    for name, words in FAILURES.items():
        assert [word for word in words if word not in verdicts[name]] == [], verdicts[name]


def test_check_keys_is_content_when_all_are_good(tmp_path: Path) -> None:
    """Where every key works, the status is 0."""
    with site(tmp_path, lone("openai", "acme"), lone("anthropic", "labs"), lone("cursor", "crew")) as here:
        told = ended("check", "keys", f"--config.file={here.config}")
    assert told.returncode == 0
    assert all(" good " in row for row in _verdicts(told.stdout).values())
    assert len(_verdicts(told.stdout)) == 3


def test_slow_accounts_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Thirty providers that hang for two seconds each are told together, and those that answer beside them."""
    with site(tmp_path, lone("openai", "acme")) as here, _silent() as silent:
        one = here.simulator.world.accounts["acme"]
        hanging = {f"slow-{n}": {"key": one.key, "base_url": silent, "timeout": "2s"} for n in range(30)}
        good = {"acme": {"key": one.key, "base_url": here.simulator.base_url("acme")}}
        path = _configure(tmp_path, {**hanging, **good})
        began = time.monotonic()
        told = ended("check", "keys", f"--config.file={path}")
        took = time.monotonic() - began
    assert told.returncode == 1
    verdicts = _verdicts(told.stdout)
    assert " good " in verdicts["acme"]
    assert sum("within 2 s" in row for row in verdicts.values()) == 30
    assert took < 6


def test_a_key_of_the_wrong_kind_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    """`run` judges a key by its prefix: log and landing page say what is wrong and what to do; no request is made."""
    with site(tmp_path, lone("openai", "acme"), lone("anthropic", "labs")) as here:
        (here.folder / "acme.key").write_text(WRONG_KIND)
        with started(*here.flags, "--log.level=debug") as it:
            it.until_up("labs")
            it.until_said("Key rejected")
            landing, page = it.get("/").text, it.get().text
            assert 'ai_account_problem{provider="openai",account="acme",reason="wrong_key_kind"} 1' in page
            assert 'ai_account_up{provider="openai",account="acme"} 0' in page
            assert it.end() == 0
        assert {served.account for served in here.simulator.requests} == {"labs"}
    (line,) = (one for one in it.said if "Key rejected" in one)
    for text in (line, landing):
        assert "the key starts with sk-proj-: project key" in text
        assert "Create an admin key: platform.openai.com" in text
    assert "account=acme reason=wrong_key_kind" in line
    assert leaks(*it.said, *it.printed, landing, page) == []
