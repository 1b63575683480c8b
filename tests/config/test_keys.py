"""Reading keys and tokens, and recognising kinds of keys by prefix."""

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


UNUSABLE_MESSAGE = "it contains a space, a control character or a character outside ASCII; paste the key again"


def write_key_file(folder: Path, content: bytes, mode: int = 0o400) -> KeySource:
    file = folder / "acme.key"
    file.unlink(missing_ok=True)
    file.write_bytes(content)
    file.chmod(mode)
    return KeySource(LOCATION, file=file)


@contextmanager
def drop_privileges() -> Iterator[None]:
    """Act as another user for a while if this one is root, who may read every file."""
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
    """A key is the content of its file, without the white space around it."""
    assert write_key_file(tmp_path, content).read({}) == Secret("sk-admin-1")


def test_key_from_the_environment() -> None:
    """A key is the value of its environment variable, without the white space around it."""
    assert KeySource(LOCATION, env="ACME").read({"ACME": " sk-admin-1\n"}) == Secret("sk-admin-1")


def test_changed_key(tmp_path: Path) -> None:
    """A key is read every time, so a rotated key is noticed."""
    source = write_key_file(tmp_path, b"old")
    assert source.read({}) == Secret("old")
    write_key_file(tmp_path, b"new")
    assert source.read({}) == Secret("new")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty; write the key there"),
        (b" \n\n", "it is empty; write the key there"),
        (b"one\ntwo\n", "it has several lines; write only the key there"),
        (b"one\rtwo", "it has several lines; write only the key there"),
        (b"k" * 4097, "it is larger than 4 KiB; no key is that long; write only the key there"),
        (b"one two", UNUSABLE_MESSAGE),
        (b"one\0two", UNUSABLE_MESSAGE),
        (b"\xef\xbb\xbfone", UNUSABLE_MESSAGE),
    ],
)
def test_unusable_content(tmp_path: Path, content: bytes, message: str) -> None:
    """Content that cannot be a key is rejected with the reason, and is not in the message."""
    source = write_key_file(tmp_path, content)
    assert read_error(source) == f"{LOCATION}: api_key_file {source.file}: {message}"


def test_same_rules_for_the_environment() -> None:
    """The value of an environment variable is checked like the content of a file."""
    message = read_error(KeySource(LOCATION, env="ACME"), {"ACME": "grüße"})
    assert message == f"{LOCATION}: api_key_env ACME: {UNUSABLE_MESSAGE}"
    assert read_error(KeySource(LOCATION, env="ACME"), {"ACME": ""}).endswith("it is empty; write the key there")


def test_missing_variable() -> None:
    """The error of a variable that is not set contains its name."""
    message = read_error(KeySource(LOCATION, env="ACME"))
    assert message == f"{LOCATION}: api_key_env ACME: the environment variable is not set; set it or correct its name"


def test_missing_file(tmp_path: Path) -> None:
    """The error of a missing file contains its path."""
    file = tmp_path / "none.key"
    message = read_error(KeySource(LOCATION, file=file))
    assert message == f"{LOCATION}: api_key_file {file}: it does not exist; create it or correct the path"


@pytest.mark.parametrize("name", ["folder", "pipe"])
def test_not_a_plain_file(tmp_path: Path, name: str) -> None:
    """A directory, or a pipe, which would block, is rejected."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    message = read_error(KeySource(LOCATION, file=tmp_path / name))
    assert message.endswith("this is a directory or a device; name a regular file")


def test_forbidden_file(tmp_path: Path) -> None:
    """The error of a file without read permission names the reason."""
    source = write_key_file(tmp_path, b"sk-admin-1", 0o000)
    with drop_privileges():
        message = read_error(source)
    assert message.endswith("this user may not read it; check its owner and mode")


def test_warning(tmp_path: Path) -> None:
    """There is a warning about a key file that is readable by everyone, not about one for its owner or group."""
    source = write_key_file(tmp_path, b"sk-admin-1", 0o444)
    expected = f"{LOCATION}: api_key_file {source.file}: everyone on this machine may read it; give it mode 0400"
    assert source.warning({}) == expected
    assert write_key_file(tmp_path, b"sk-admin-1", 0o440).warning({}) is None


def test_no_warning(tmp_path: Path) -> None:
    """There is no warning about a variable or a missing file."""
    assert KeySource(LOCATION, env="ACME").warning({}) is None
    assert KeySource(LOCATION, file=tmp_path / "none").warning({}) is None


def test_diagnosis() -> None:
    """A key's kind is that of the longest matching prefix, and the message contains only the prefix."""
    rejection = diagnose(Secret("sk-proj-hidden"), KEY_KINDS)
    assert rejection is not None
    assert (rejection.reason, str(rejection)) == ("wrong_key_kind", "the key starts with sk-proj-: a project key")
    assert rejection.advice == "a project cannot see the bill; create an admin key"
    personal = diagnose(Secret("sk-hidden"), KEY_KINDS)
    assert personal is not None
    assert personal.advice == "create an admin key"


@pytest.mark.parametrize("key", ["sk-admin-hidden", "unheard-of", "s"])
def test_no_diagnosis(key: str) -> None:
    """A key of the right kind, or of an unknown kind, is not rejected."""
    assert diagnose(Secret(key), KEY_KINDS) is None


def test_check(tmp_path: Path) -> None:
    """Every unreadable key is reported with the line that names it."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "accounts:\n"
        "- {name: a, provider: openai, api_key_file: none.key}\n"
        "- {name: b, provider: openai, api_key_env: GOOD}\n"
        "- {name: c, provider: openai, api_key_env: ABSENT}\n"
    )
    problems = check(load(path, PROVIDERS), {"GOOD": "sk-admin-1"})
    assert [problem.location for problem in problems] == [f"{path}:2", f"{path}:4"]
    assert check(load(path, PROVIDERS), {"GOOD": "k", "ABSENT": "k"}) == problems[:1]


def test_two_accounts_with_one_key_are_reported(tmp_path: Path) -> None:
    """There is a warning where two accounts of a provider have the same key; it does not contain the key."""
    accounts = [("a", "openai", "one"), ("b", "openai", "two"), ("c", "openai", "one"), ("d", "anthropic", "one")]
    lines = [f"  - {{name: {name}, provider: {kind}, api_key_file: {key}}}" for name, kind, key in accounts]
    (tmp_path / "config.yaml").write_text("\n".join(["accounts:", *lines]))
    for key in ("one", "two"):
        (tmp_path / key).write_text(f"sk-admin-{key}")
        (tmp_path / key).chmod(0o400)

    config = load(tmp_path / "config.yaml", PROVIDERS)
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
    """Tokens are read from files; short, shared and missing tokens are reported with file and line."""
    good = _load_sources(tmp_path, one="a" * 20, two="b" * 40 + "\n")
    assert read_bearer_tokens(good, {}) == {"one": Secret("a" * 20), "two": Secret("b" * 40)}
    bad = _load_sources(tmp_path, one="a" * 20, two="a" * 20, three="guess", four="")
    (tmp_path / "one.token").chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        read_bearer_tokens(bad, {})
    place = tmp_path / "config.yaml"
    weak = "it has fewer than 20 characters; create a token with `openssl rand -hex 32`"
    assert str(caught.value).splitlines() == [
        f"{place}:5: token_file {tmp_path}/two.token: it contains the token of one; give each source its own",
        f"{place}:6: token_file {tmp_path}/three.token: {weak}",
        f"{place}:7: token_file {tmp_path}/four.token: it is empty; write the key there",
    ]
    assert "guess" not in str(caught.value)
    warnings = find_warnings(bad, {"KEY": "x"})
    assert any("one.token: everyone on this machine may read it" in warning for warning in warnings)
