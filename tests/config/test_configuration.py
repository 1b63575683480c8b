"""Loading the configuration, and the error messages of invalid files."""

from __future__ import annotations

import traceback
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from string import ascii_letters, digits
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from exporter.config.configuration import Account, Config, load
from exporter.config.schema import NoOptions
from exporter.errors import ConfigError, ConfigProblem
from exporter.providers import PROVIDERS
from exporter.providers.deepseek import DeepSeekOptions
from exporter.providers.openrouter import OpenRouterOptions
from exporter.providers.xai import XaiOptions
from tests.paths import ROOT

INVALID_DIR = Path(__file__).parent / "bad"
INVALID_OPTIONS_DIR = Path(__file__).parent / "bad_options"
EXAMPLE = ROOT / "config.example.yaml"
ACCOUNT = "{name: %s, provider: openai, api_key_file: openai.key}"


def write_config(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def load_config(folder: Path, text: str | bytes) -> Config:
    return load(write_config(folder, text), PROVIDERS)


def config_problems(folder: Path, text: str | bytes) -> tuple[ConfigProblem, ...]:
    try:
        load_config(folder, text)
    except ConfigError as error:
        return error.problems
    return ()


def load_account(folder: Path, extra: str = "") -> Account:
    text = f"accounts:\n- name: acme\n  provider: openai\n  api_key_file: openai.key\n  {extra}\n"
    (account,) = load_config(folder, text).accounts
    return account


@pytest.mark.parametrize("name", sorted(path.stem for path in INVALID_DIR.glob("*.yaml")))
def test_bad_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every problem of an invalid file is reported with its file and line."""
    monkeypatch.chdir(INVALID_DIR)
    with pytest.raises(ConfigError) as caught:
        load(Path(f"{name}.yaml"), PROVIDERS)
    assert f"{caught.value}\n" == Path(f"{name}.txt").read_text()


def test_no_error_shows_a_key() -> None:
    """No message contains a value from a place where a key may have been pasted."""
    messages = "".join(path.read_text() for path in INVALID_DIR.glob("*.txt"))
    assert "eal-secret" not in messages.lower()
    assert "realsecret" not in messages.lower()


def test_traceback_shows_no_key(tmp_path: Path) -> None:
    """A traceback, which is logged at level debug, does not contain lines of the file."""
    path = write_config(tmp_path, "api_key: hidden-value: oops")
    with pytest.raises(ConfigError) as caught:
        load(path, PROVIDERS)
    assert "hidden-value" not in "".join(traceback.format_exception(caught.value))


def test_example() -> None:
    """The example configuration is valid and has the values that its comments describe."""
    openai, anthropic, cursor, openrouter, xai, deepseek, encrypted = load(EXAMPLE, PROVIDERS).accounts
    assert (openai.name, openai.provider, openai.owner) == ("acme-openai", "openai", "platform")
    assert openai.api_key.file == Path("/run/secrets/openai")
    assert openai.base_url == "https://api.openai.com/v1"
    assert openai.labels == {"api_key"}
    assert openai.poll_interval == timedelta(minutes=5)
    assert (anthropic.poll_interval, anthropic.history) == (timedelta(minutes=10), timedelta(days=90))
    assert (anthropic.max_series, anthropic.timeout) == (500, timedelta(minutes=1))
    assert cursor.api_key.env == "CURSOR_ADMIN_KEY"
    assert openrouter.options == OpenRouterOptions(byok=False)
    assert xai.options == XaiOptions(team_id="0b53c0de-0000-4000-8000-000000000000")
    assert deepseek.options == DeepSeekOptions(usd_per_cny=Decimal("0.14"))
    assert str(encrypted.api_key) == "api_key_encrypted"


def test_unset_options(tmp_path: Path) -> None:
    """An account with only the required settings has the documented defaults."""
    account = load_account(tmp_path)
    assert (account.owner, account.base_url, account.labels) == ("", "", frozenset())
    assert (account.poll_interval, account.timeout) == (timedelta(minutes=5), timedelta(seconds=30))
    assert (account.history, account.max_series) == (timedelta(days=30), 2000)


def test_defaults(tmp_path: Path) -> None:
    """Defaults apply to every account without its own setting, also in account files."""
    (tmp_path / "more.yaml").write_text(f"accounts: [{ACCOUNT % 'c'}]")
    text = "defaults: {max_series: 7, history: 60d}\naccount_files: [more.yaml]\naccounts:\n"
    text += f"- {ACCOUNT % 'a'}\n- {{name: b, provider: openai, api_key_env: K, max_series: 2000}}"
    accounts = load_config(tmp_path, text).accounts
    assert [account.max_series for account in accounts] == [7, 2000, 7]
    assert {account.history for account in accounts} == {timedelta(days=60)}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1h30m", 5400), ("1d", 86_400), ("1500ms", 1.5), ("24h", 86_400), ("0h90s", 90)],
)
def test_durations(tmp_path: Path, text: str, seconds: float) -> None:
    """Durations have Prometheus's format."""
    assert load_account(tmp_path, f"poll_interval: {text}").poll_interval == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["2w", "14d", "1w7d"])
def test_weeks(tmp_path: Path, text: str) -> None:
    """A week is seven days."""
    assert load_account(tmp_path, f"history: {text}").history == timedelta(days=14)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com",
        "https://proxy.example.com:8443/openai/v1",
        "http://localhost:8080/v1",
        "http://127.0.0.1:1",
        "http://[::1]:8080",
    ],
)
def test_base_urls(tmp_path: Path, url: str) -> None:
    """A base URL is https, or http on this machine; a slash at its end is removed."""
    assert load_account(tmp_path, f'base_url: "{url}/"').base_url == url


@pytest.mark.parametrize("name", ["no", "on", "null-island", "1.5", "2026-11-20", "0x1f"])
def test_text_stays_text(tmp_path: Path, name: str) -> None:
    """Text that is a boolean, a number or a date in YAML 1.1 stays text."""
    (account,) = load_config(tmp_path, f"accounts: [{ACCOUNT % name}]").accounts
    assert account.name == name


def test_locations(tmp_path: Path) -> None:
    """An account has the line where it begins, and its key the line where it is named."""
    path = write_config(
        tmp_path, "# first\naccounts:\n\n- name: acme\n  provider: openai\n  api_key_file: openai.key\n"
    )
    (account,) = load(path, PROVIDERS).accounts
    assert (account.location, account.api_key.location) == (f"{path}:4", f"{path}:6")


def test_account_files(tmp_path: Path) -> None:
    """Account files match patterns and are read in order, once each; hidden files are ignored."""
    folder = tmp_path / "accounts.d"
    for name in ("b.yaml", "a.yaml", ".hidden.yaml", "notes.txt", "deep/c.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"accounts: [{ACCOUNT % (folder / name).stem.strip('.')}]")
    config = load_config(tmp_path, "account_files: ['accounts.d/*.yaml', accounts.d/a.yaml, './accounts.d/**/*.yaml']")
    assert [account.name for account in config.accounts] == ["a", "b", "c"]
    found = [folder / "a.yaml", folder / "b.yaml", folder / "deep/c.yaml"]
    assert config.files == (tmp_path / "config.yaml", *found)
    assert config.path == tmp_path / "config.yaml"


def test_pattern_that_matches_the_main_file(tmp_path: Path) -> None:
    """A pattern may match the main file, which is not read twice."""
    config = load_config(tmp_path, f"account_files: ['*.yaml']\naccounts: [{ACCOUNT % 'acme'}]")
    assert len(config.accounts) == 1


def test_absolute_pattern(tmp_path: Path) -> None:
    """A pattern may be absolute."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "a.yaml").write_text(f"accounts: [{ACCOUNT % 'acme'}]")
    assert len(load_config(tmp_path, f"account_files: ['{folder}/*.yaml']").accounts) == 1


def test_relative_key_files(tmp_path: Path) -> None:
    """The path of a key file is relative to the file that names it, or absolute."""
    (tmp_path / "team").mkdir()
    absolute = "{name: b, provider: openai, api_key_file: /run/b.key}"
    (tmp_path / "team/accounts.yaml").write_text(f"accounts: [{ACCOUNT % 'a'}, {absolute}]")
    first, second = load_config(tmp_path, "account_files: [team/accounts.yaml]").accounts
    assert first.api_key.file == tmp_path / "team/openai.key"
    assert second.api_key.file == Path("/run/b.key")


def test_empty_directory(tmp_path: Path) -> None:
    """A pattern in an empty directory is valid."""
    (tmp_path / "accounts.d").mkdir()
    assert load_config(tmp_path, f"account_files: ['accounts.d/*']\naccounts: [{ACCOUNT % 'acme'}]").accounts


def test_aliases(tmp_path: Path) -> None:
    """Anchors and aliases are supported."""
    text = f"defaults: {{history: &long 90d, poll_interval: 5m}}\naccounts:\n- {ACCOUNT % 'acme'}\n"
    text += "- {name: b, provider: openai, api_key_env: K, history: *long}\n"
    assert load_config(tmp_path, text).accounts[1].history == timedelta(days=90)


def test_byte_order_mark(tmp_path: Path) -> None:
    """A byte order mark, which some editors write, is ignored."""
    assert load_config(tmp_path, b"\xef\xbb\xbf" + f"accounts: [{ACCOUNT % 'acme'}]".encode()).accounts


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.yaml", "it does not exist; create it or correct the path"),
        ("folder", "it is a directory; name a file in it"),
        ("file/inside", "it does not exist; create it or correct the path"),
        ("loop", "it cannot be read (Too many levels of symbolic links); check the path"),
        ("large", "it is larger than 4 MiB; split it with account_files"),
    ],
)
def test_unreadable_file(tmp_path: Path, name: str, message: str) -> None:
    """The error of an unreadable file contains the reason."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_bytes(b"#" * (4 << 20) + b"\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / name, PROVIDERS)
    assert str(caught.value) == f"{tmp_path / name}: {message}"


def test_order_of_errors(tmp_path: Path) -> None:
    """Problems are sorted by line number: line 9 comes before line 10."""
    text = "accounts:\n" + "".join(f"- {{name: a{index}, colour: blue}}\n" for index in range(12))
    lines = [int(problem.location.rpartition(":")[2]) for problem in config_problems(tmp_path, text)]
    assert lines == sorted(lines)
    assert set(lines) == set(range(2, 14))


class Region(BaseModel):
    """A nested model, which ignores unknown keys when it is used alone."""

    name: Literal["eu", "us"] = "us"
    zones: list[str] = []


class HostedOptions(BaseModel):
    """The options of a provider as a plug-in author may write them."""

    model_config = ConfigDict(frozen=True)

    organisation: str
    team_id: int = Field(default=0, ge=0)
    share: float = 1.0
    region: Region = Region()

    @field_validator("organisation")
    @classmethod
    def _no_slash(cls, value: str) -> str:
        if "/" in value:
            raise ValueError("must not contain a slash")
        return value


class Hosted:
    """The class attribute of a provider that the configuration reads."""

    options_model = HostedOptions


PROVIDERS_WITH_OPTIONS = {**PROVIDERS, "hosted": Hosted}


def load_hosted_accounts(folder: Path, *options: str) -> tuple[Account, ...]:
    accounts = "\n".join(
        f"- {{name: a{index}, provider: hosted, api_key_env: KEY, options: {text}}}"
        for index, text in enumerate(options)
    )
    return load(write_config(folder, f"accounts:\n{accounts}\n"), PROVIDERS_WITH_OPTIONS).accounts


def test_provider_options(tmp_path: Path) -> None:
    """An account's options are an instance of the provider's model, with its defaults and conversions."""
    (account,) = load_hosted_accounts(tmp_path, "{organisation: acme, share: 0.25, region: {name: eu}}")
    assert account.options == HostedOptions(organisation="acme", share=0.25, region=Region(name="eu"))


def test_no_options(tmp_path: Path) -> None:
    """An account of a provider without options has an empty model; the key `options` may be given without content."""
    assert load_account(tmp_path).options == load_account(tmp_path, "options: {}").options == NoOptions()


def test_changed_options_are_another_connection(tmp_path: Path) -> None:
    """Accounts with different options are different and do not share a connection."""
    first, second, third = load_hosted_accounts(tmp_path, *(f"{{organisation: {name}}}" for name in ("a", "b", "a")))
    assert not first.has_same_connection(second)
    assert first.has_same_connection(third)


@pytest.mark.parametrize("name", sorted(path.stem for path in INVALID_OPTIONS_DIR.glob("*.yaml")))
def test_bad_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every problem of a provider's options is reported with its file and line."""
    monkeypatch.chdir(INVALID_OPTIONS_DIR)
    with pytest.raises(ConfigError) as caught:
        load(Path(f"{name}.yaml"), PROVIDERS_WITH_OPTIONS)
    assert f"{caught.value}\n" == Path(f"{name}.txt").read_text()


def test_moved_account(tmp_path: Path) -> None:
    """An account that only moved within its file is equal to the previous one, and has the same hash."""
    before = load_account(tmp_path)
    moved = load_config(tmp_path, f"# comment\naccounts:\n\n- {ACCOUNT % 'acme'}\n").accounts[0]
    assert moved.location != before.location
    assert (moved, hash(moved)) == (before, hash(before))


def test_key_file_of_another_directory(tmp_path: Path) -> None:
    """Accounts with the same relative key file in different directories are different."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert load_account(tmp_path / "one") != load_account(tmp_path / "two")


YAML_LIKE = st.text(alphabet=st.sampled_from("ab:- \n\t\"'#&*!|>%@`{}[],?\\xuU0\0\x85\u2028é😀<"), max_size=60)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
KEYS = st.sampled_from(("defaults", "account_files", "accounts", "api_key", *Account.model_fields))
IDENTIFIERS = st.text(alphabet=ascii_letters + digits + "-_./:@[]", max_size=12)
VALUES = st.recursive(
    SCALARS | IDENTIFIERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | IDENTIFIERS, inner, max_size=4),
    max_leaves=20,
)


@given(text=st.binary(max_size=80) | st.text(max_size=80).map(str.encode) | YAML_LIKE.map(str.encode))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    """Any bytes are a valid configuration, or a ConfigError with messages of one line."""
    assert all(problem.message.isprintable() for problem in config_problems(tmp_path_factory.getbasetemp(), text))


@given(value=st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_values(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    """Any YAML values are a valid configuration, or a ConfigError with messages of one line."""
    text = yaml.safe_dump(value).encode()
    assert all(problem.message.isprintable() for problem in config_problems(tmp_path_factory.getbasetemp(), text))
