"""YAML files -> Config, or every complaint at its line."""

from __future__ import annotations

import traceback
from datetime import timedelta
from pathlib import Path
from string import ascii_letters, digits

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.configuration import Account, Config, load
from exporter.config.schema import AccountSchema
from exporter.errors import ConfigError, ConfigProblem
from tests.paths import ROOT

PROVIDERS = ("openai", "anthropic", "cursor")
INVALID_DIR = Path(__file__).parent / "bad"
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
    """Each bad file is told everything that is wrong with it, in plain words, by file and line."""
    monkeypatch.chdir(INVALID_DIR)
    with pytest.raises(ConfigError) as caught:
        load(Path(f"{name}.yaml"), PROVIDERS)
    assert f"{caught.value}\n" == Path(f"{name}.txt").read_text()


def test_no_error_shows_a_key() -> None:
    """Whatever stands where a key may have been pasted is never shown again."""
    told = "".join(path.read_text() for path in INVALID_DIR.glob("*.txt"))
    assert "eal-secret" not in told.lower()
    assert "realsecret" not in told.lower()


def test_traceback_shows_no_key(tmp_path: Path) -> None:
    """A traceback, as it is logged at debug, does not quote the file's lines."""
    path = write_config(tmp_path, "api_key: hidden-value: oops")
    with pytest.raises(ConfigError) as caught:
        load(path, PROVIDERS)
    assert "hidden-value" not in "".join(traceback.format_exception(caught.value))


def test_example() -> None:
    """The example configuration is valid and its comments' promises hold."""
    openai, anthropic, cursor, encrypted = load(EXAMPLE, PROVIDERS).accounts
    assert (openai.name, openai.provider, openai.owner) == ("acme-openai", "openai", "platform")
    assert openai.api_key.file == Path("/run/secrets/openai")
    assert openai.base_url == "https://api.openai.com/v1"
    assert openai.labels == {"api_key"}
    assert openai.poll_interval == timedelta(minutes=5)
    assert (anthropic.poll_interval, anthropic.history) == (timedelta(minutes=10), timedelta(days=90))
    assert (anthropic.max_series, anthropic.timeout) == (500, timedelta(minutes=1))
    assert cursor.api_key.env == "CURSOR_ADMIN_KEY"
    assert str(encrypted.api_key) == "api_key_encrypted"


def test_unset_options(tmp_path: Path) -> None:
    """An account that says only what it must has the documented defaults."""
    account = load_account(tmp_path)
    assert (account.owner, account.base_url, account.labels) == ("", None, frozenset())
    assert (account.poll_interval, account.timeout) == (timedelta(minutes=5), timedelta(seconds=30))
    assert (account.history, account.max_series) == (timedelta(days=30), 2000)


def test_defaults(tmp_path: Path) -> None:
    """Defaults hold for every account, those of account files included, until an account says otherwise."""
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
    """Durations are read as Prometheus writes them."""
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
    """An address is https, or http on this machine; a slash at its end is dropped."""
    assert load_account(tmp_path, f'base_url: "{url}/"').base_url == url


@pytest.mark.parametrize("name", ["no", "on", "null-island", "1.5", "2026-11-20", "0x1f"])
def test_text_stays_text(tmp_path: Path, name: str) -> None:
    """What YAML 1.1 would take for a truth, a number or a date is the text that was written."""
    (account,) = load_config(tmp_path, f"accounts: [{ACCOUNT % name}]").accounts
    assert account.name == name


def test_locations(tmp_path: Path) -> None:
    """An account knows where it begins, and its key where it is named."""
    path = write_config(
        tmp_path, "# first\naccounts:\n\n- name: acme\n  provider: openai\n  api_key_file: openai.key\n"
    )
    (account,) = load(path, PROVIDERS).accounts
    assert (account.location, account.api_key.location) == (f"{path}:4", f"{path}:6")


def test_account_files(tmp_path: Path) -> None:
    """Account files are found by pattern, in order, once each; hidden files are left alone."""
    folder = tmp_path / "accounts.d"
    for name in ("b.yaml", "a.yaml", ".hidden.yaml", "notes.txt", "deep/c.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"accounts: [{ACCOUNT % (folder / name).stem.strip('.')}]")
    config = load_config(tmp_path, "account_files: ['accounts.d/*.yaml', accounts.d/a.yaml, './accounts.d/**/*.yaml']")
    assert [account.name for account in config.accounts] == ["a", "b", "c"]
    found = [folder / "a.yaml", folder / "b.yaml", folder / "deep/c.yaml"]
    assert config.files == (tmp_path / "config.yaml", *found)
    assert config.path == tmp_path / "config.yaml"


def test_pattern_that_finds_the_main_file(tmp_path: Path) -> None:
    """A pattern may match the configuration itself, which is not read twice."""
    config = load_config(tmp_path, f"account_files: ['*.yaml']\naccounts: [{ACCOUNT % 'acme'}]")
    assert len(config.accounts) == 1


def test_absolute_pattern(tmp_path: Path) -> None:
    """A pattern may be absolute."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "a.yaml").write_text(f"accounts: [{ACCOUNT % 'acme'}]")
    assert len(load_config(tmp_path, f"account_files: ['{folder}/*.yaml']").accounts) == 1


def test_relative_key_files(tmp_path: Path) -> None:
    """A relative key file lies beside the file that names it; an absolute one lies where it says."""
    (tmp_path / "team").mkdir()
    absolute = "{name: b, provider: openai, api_key_file: /run/b.key}"
    (tmp_path / "team/accounts.yaml").write_text(f"accounts: [{ACCOUNT % 'a'}, {absolute}]")
    first, second = load_config(tmp_path, "account_files: [team/accounts.yaml]").accounts
    assert first.api_key.file == tmp_path / "team/openai.key"
    assert second.api_key.file == Path("/run/b.key")


def test_empty_directory(tmp_path: Path) -> None:
    """A pattern in a directory that holds nothing yet is no complaint."""
    (tmp_path / "accounts.d").mkdir()
    assert load_config(tmp_path, f"account_files: ['accounts.d/*']\naccounts: [{ACCOUNT % 'acme'}]").accounts


def test_aliases(tmp_path: Path) -> None:
    """A few anchors and aliases are read as what they stand for."""
    text = f"defaults: {{history: &long 90d, poll_interval: 5m}}\naccounts:\n- {ACCOUNT % 'acme'}\n"
    text += "- {name: b, provider: openai, api_key_env: K, history: *long}\n"
    assert load_config(tmp_path, text).accounts[1].history == timedelta(days=90)


def test_byte_order_mark(tmp_path: Path) -> None:
    """A byte order mark, as some editors write it, is skipped."""
    assert load_config(tmp_path, b"\xef\xbb\xbf" + f"accounts: [{ACCOUNT % 'acme'}]".encode()).accounts


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("missing.yaml", "it does not exist; create it or correct the path"),
        ("folder", "it is a directory; name the file in it"),
        ("file/inside", "it does not exist; create it or correct the path"),
        ("loop", "it cannot be read (Too many levels of symbolic links); check the path"),
        ("large", "the file is larger than 4 MiB; split it with account_files"),
    ],
)
def test_unreadable_file(tmp_path: Path, name: str, complaint: str) -> None:
    """A file that cannot be read is told with the reason."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_bytes(b"#" * (4 << 20) + b"\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / name, PROVIDERS)
    assert str(caught.value) == f"{tmp_path / name}: {complaint}"


def test_order_of_errors(tmp_path: Path) -> None:
    """Complaints come by line as numbers, so line 9 stands before line 10."""
    text = "accounts:\n" + "".join(f"- {{name: a{index}, colour: blue}}\n" for index in range(12))
    lines = [int(problem.location.rpartition(":")[2]) for problem in config_problems(tmp_path, text)]
    assert lines == sorted(lines)
    assert set(lines) == set(range(2, 14))


YAML_LIKE = st.text(alphabet=st.sampled_from("ab:- \n\t\"'#&*!|>%@`{}[],?\\xuU0\0\x85\u2028é😀<"), max_size=60)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
KEYS = st.sampled_from(("defaults", "account_files", "accounts", "api_key", *AccountSchema.model_fields))
IDENTIFIERS = st.text(alphabet=ascii_letters + digits + "-_./:@[]", max_size=12)
VALUES = st.recursive(
    SCALARS | IDENTIFIERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | IDENTIFIERS, inner, max_size=4),
    max_leaves=20,
)


@given(text=st.binary(max_size=80) | st.text(max_size=80).map(str.encode) | YAML_LIKE.map(str.encode))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    """Whatever stands in the file, it is a configuration or a ConfigError whose complaints are single lines."""
    assert all(problem.message.isprintable() for problem in config_problems(tmp_path_factory.getbasetemp(), text))


@given(value=st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_values(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    """Whatever values stand in whatever place, they are a configuration or a ConfigError."""
    text = yaml.safe_dump(value).encode()
    assert all(problem.message.isprintable() for problem in config_problems(tmp_path_factory.getbasetemp(), text))
