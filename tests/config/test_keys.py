"""Where keys come from, and what their prefixes say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporter.config.configuration import Config, load
from exporter.config.keys import KeySource, check, diagnose, find_warnings, read_bearer_tokens
from exporter.errors import ConfigError
from exporter.model import KeyKind, Secret
from exporter.providers import PROVIDERS

LOCATION = "config.yaml:4"
KEY_KINDS = (
    KeyKind("sk-", "a personal key", "create an admin key"),
    KeyKind("sk-admin-", "an admin key"),
    KeyKind("sk-proj-", "a project key", "a project cannot see the bill; create an admin key"),
)


UNUSABLE_MESSAGE = "it holds a space, a control character or one beyond ASCII, and no key does; paste the key again"


def write_key_file(folder: Path, content: bytes, mode: int = 0o400) -> KeySource:
    file = folder / "acme.key"
    file.unlink(missing_ok=True)
    file.write_bytes(content)
    file.chmod(mode)
    return KeySource(LOCATION, file=file)


@contextmanager
def drop_privileges() -> Iterator[None]:
    """Root may read every file, so for a while it acts as nobody."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    yield
    os.seteuid(user)


def read_error(source: KeySource, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        source.read(environ or {})
    return str(caught.value)


@pytest.mark.parametrize("content", [b"sk-admin-1", b"sk-admin-1\n", b"\r\n  sk-admin-1 \t\r\n\n"])
def test_key_from_a_file(tmp_path: Path, content: bytes) -> None:
    """A key is what its file holds, without the white space around it."""
    assert write_key_file(tmp_path, content).read({}) == Secret("sk-admin-1")


def test_key_from_the_environment() -> None:
    """A key is what its environment variable holds, without the white space around it."""
    assert KeySource(LOCATION, env="ACME").read({"ACME": " sk-admin-1\n"}) == Secret("sk-admin-1")


def test_changed_key(tmp_path: Path) -> None:
    """A key is read anew each time, so a rotated key is seen."""
    source = write_key_file(tmp_path, b"old")
    assert source.read({}) == Secret("old")
    write_key_file(tmp_path, b"new")
    assert source.read({}) == Secret("new")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it is empty; put the key there"),
        (b" \n\n", "it is empty; put the key there"),
        (b"one\ntwo\n", "it holds several lines; put only the key there"),
        (b"one\rtwo", "it holds several lines; put only the key there"),
        (b"k" * 4097, "it holds more than 4 KiB, and no key is that long; put only the key there"),
        (b"one two", "it holds a space, a control character or one beyond ASCII, and no key does; paste the key again"),
        (
            b"one\0two",
            "it holds a space, a control character or one beyond ASCII, and no key does; paste the key again",
        ),
        (
            b"\xef\xbb\xbfone",
            "it holds a space, a control character or one beyond ASCII, and no key does; paste the key again",
        ),
    ],
)
def test_unusable_content(tmp_path: Path, content: bytes, fault: str) -> None:
    """What cannot be a key is refused with the reason and without being shown."""
    source = write_key_file(tmp_path, content)
    assert read_error(source) == f"{LOCATION}: api_key_file {source.file}: {fault}"


def test_same_rules_for_the_environment() -> None:
    """A variable's content is judged as a file's."""
    told = read_error(KeySource(LOCATION, env="ACME"), {"ACME": "grüße"})
    assert told == f"{LOCATION}: api_key_env ACME: {UNUSABLE_MESSAGE}"
    assert read_error(KeySource(LOCATION, env="ACME"), {"ACME": ""}).endswith("it is empty; put the key there")


def test_missing_variable() -> None:
    """A variable that is not set is told by its name."""
    told = read_error(KeySource(LOCATION, env="ACME"))
    assert told == f"{LOCATION}: api_key_env ACME: the environment variable is not set; set it or correct its name"


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is told by its path."""
    file = tmp_path / "none.key"
    told = read_error(KeySource(LOCATION, file=file))
    assert told == f"{LOCATION}: api_key_file {file}: it does not exist; create it or correct the path"


@pytest.mark.parametrize("name", ["folder", "pipe"])
def test_not_a_plain_file(tmp_path: Path, name: str) -> None:
    """A directory, or a pipe that would be waited for, is refused at once."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    told = read_error(KeySource(LOCATION, file=tmp_path / name))
    assert told.endswith("this is a directory or a device; name the file that holds the key")


def test_forbidden_file(tmp_path: Path) -> None:
    """A file that this user may not read is told as such."""
    source = write_key_file(tmp_path, b"sk-admin-1", 0o000)
    with drop_privileges():
        told = read_error(source)
    assert told.endswith("this user may not read it; check its owner and mode")


def test_warning(tmp_path: Path) -> None:
    """A key file that everyone may read is warned of; one for its owner or group is not."""
    source = write_key_file(tmp_path, b"sk-admin-1", 0o444)
    expected = f"{LOCATION}: api_key_file {source.file}: everyone on this machine may read it; give it mode 0400"
    assert source.warning({}) == expected
    assert write_key_file(tmp_path, b"sk-admin-1", 0o440).warning({}) is None


def test_no_warning(tmp_path: Path) -> None:
    """A variable and a missing file are no matter of modes."""
    assert KeySource(LOCATION, env="ACME").warning({}) is None
    assert KeySource(LOCATION, file=tmp_path / "none").warning({}) is None


def test_diagnosis() -> None:
    """A key is judged by the longest prefix that fits it, and only the prefix is told."""
    refusal = diagnose(Secret("sk-proj-hidden"), KEY_KINDS)
    assert refusal is not None
    assert (refusal.reason, str(refusal)) == ("wrong_key_kind", "the key starts with sk-proj-: a project key")
    assert refusal.advice == "a project cannot see the bill; create an admin key"
    personal = diagnose(Secret("sk-hidden"), KEY_KINDS)
    assert personal is not None
    assert personal.advice == "create an admin key"


@pytest.mark.parametrize("key", ["sk-admin-hidden", "unheard-of", "s"])
def test_no_diagnosis(key: str) -> None:
    """A key of the right kind, or of none that is known, is left for the provider to judge."""
    assert diagnose(Secret(key), KEY_KINDS) is None


def test_check(tmp_path: Path) -> None:
    """Every key that cannot be read is told at once, at the line that names it."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "accounts:\n"
        "- {name: a, provider: openai, api_key_file: none.key}\n"
        "- {name: b, provider: openai, api_key_env: GOOD}\n"
        "- {name: c, provider: openai, api_key_env: ABSENT}\n"
    )
    problems = check(load(path, ["openai"]), {"GOOD": "sk-admin-1"})
    assert [problem.location for problem in problems] == [f"{path}:2", f"{path}:4"]
    assert check(load(path, ["openai"]), {"GOOD": "k", "ABSENT": "k"}) == problems[:1]


def test_two_accounts_with_one_key_are_reported(tmp_path: Path) -> None:
    """What one organisation spends would be counted twice; the key is not shown, and another provider's is another."""
    accounts = [("a", "openai", "one"), ("b", "openai", "two"), ("c", "openai", "one"), ("d", "anthropic", "one")]
    lines = [f"  - {{name: {name}, provider: {kind}, api_key_file: {key}}}" for name, kind, key in accounts]
    (tmp_path / "config.yaml").write_text("\n".join(["accounts:", *lines]))
    for key in ("one", "two"):
        (tmp_path / key).write_text(f"sk-admin-{key}")
        (tmp_path / key).chmod(0o400)

    config = load(tmp_path / "config.yaml", ("openai", "anthropic"))
    place = f"{tmp_path / 'config.yaml'}:4"
    assert find_warnings(config, {}) == [f"{place}: c has the same key as a: what it spends counts twice"]


def _load_sources(folder: Path, **contents: str) -> Config:
    lines = ["accounts: [{name: acme, provider: openai, api_key_env: KEY}]", "ingest:", "  sources:"]
    for name, content in contents.items():
        (folder / f"{name}.token").write_text(content)
        lines.append(f"  - {{name: {name}, token_file: {name}.token}}")
    (folder / "config.yaml").write_text("\n".join(lines))
    return load(folder / "config.yaml", PROVIDERS)


def test_every_source_has_a_token_of_its_own(tmp_path: Path) -> None:
    """Tokens are read from their files; one that is short, shared or not there is told by file and line."""
    good = _load_sources(tmp_path, one="a" * 20, two="b" * 40 + "\n")
    assert read_bearer_tokens(good, {}) == {"one": Secret("a" * 20), "two": Secret("b" * 40)}
    bad = _load_sources(tmp_path, one="a" * 20, two="a" * 20, three="guess", four="")
    (tmp_path / "one.token").chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        read_bearer_tokens(bad, {})
    place = tmp_path / "config.yaml"
    weak = "it holds fewer than 20 characters; make one with `openssl rand -hex 32`"
    assert str(caught.value).splitlines() == [
        f"{place}:5: token_file {tmp_path}/two.token: it holds the token of one; give each source its own",
        f"{place}:6: token_file {tmp_path}/three.token: {weak}",
        f"{place}:7: token_file {tmp_path}/four.token: it is empty; put the key there",
    ]
    assert "guess" not in str(caught.value)
    assert any("one.token: everyone on this machine may read it" in one for one in find_warnings(bad, {"KEY": "x"}))
