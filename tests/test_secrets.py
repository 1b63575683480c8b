"""Keys, tokens and passwords show nowhere: lists of all that comes out of us, and one search through it."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cryptography.fernet import Fernet

from exporter.app import App, Dependencies
from exporter.config import yaml_document
from exporter.config.configuration import load
from exporter.config.encryption import MASTER_KEY_VARIABLE, read_master_keys
from exporter.config.schema import AccountSchema, MainFile, validate
from exporter.config.web_configuration import load as load_web
from exporter.errors import ConfigError, ProviderError
from exporter.model import Bucket, Provider, Report, Secret, utc
from exporter.providers import PROVIDERS
from exporter.providers.http import Client, ClientConfig
from exporter.simulator.faults import FAULT_KINDS
from exporter.simulator.server import Simulator
from exporter.windows import floor
from tests.command import ENVIRONMENT, ExporterProcess, Sandbox, run_command, start_exporter, start_sandbox
from tests.history.ledger_days import REGEX, decode_read_response, encode_read_request
from tests.providers.canned import start_canned_server
from tests.secret_scan import (
    ECHO_FORMS,
    KEYS,
    MASTER_KEY,
    PASSWORD,
    PASSWORD_HASH,
    REVOKED_KEY,
    SECRETS,
    TOKEN,
    UNPREFIXED_KEY,
    WRONG_KIND_KEY,
    echo_key,
    find_leaks,
)
from tests.system import make_account
from tests.web_server import write_web_config

ACME_KEY = "ACME_KEY"
"""The environment variable with Anthropic's key."""
ALICE = ("alice", PASSWORD)
TOKEN_HEADER, WRONG_TOKEN_HEADER = ({"authorization": f"Bearer {one}"} for one in (TOKEN, MASTER_KEY))
EVENT = {"provider": "bedrock", "model": "our-own", "timestamp": int(time.time()), "promptTokens": 9}
READ_REQUEST = encode_read_request((REGEX, "__name__", "ai_hourly_.+"))

ROUTES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("GET", "/", {}),
    ("GET", "/metrics", {}),
    ("GET", "/metrics", {"headers": {"accept": "application/openmetrics-text"}}),
    ("GET", "/metrics", {"auth": ("alice", PASSWORD[:-1])}),
    ("GET", "/metrics", {"auth": (PASSWORD, "alice")}),
    ("DELETE", "/metrics", {}),
    ("GET", "/nothing", {}),
    ("GET", "/-/healthy", {}),
    ("GET", "/-/ready", {}),
    ("POST", "/-/reload", {}),
    ("POST", "/api/v1/read", {"content": READ_REQUEST}),
    ("POST", "/api/v1/read", {"content": TOKEN}),
    ("GET", "/api/v1/openapi.json", {}),
    ("GET", "/api/v1/ai/usage/summary", {}),
    ("GET", "/api/v1/ai/usage/summary", {"params": {"days": TOKEN}}),
    ("POST", "/api/v1/ai/usage/events", {"json": EVENT, "headers": TOKEN_HEADER, "auth": None}),
    (
        "POST",
        "/api/v1/ai/usage/events",
        {"json": EVENT, "headers": {"authorization": f"Bearer {MASTER_KEY}"}, "auth": None},
    ),
    ("POST", "/api/v1/ai/usage/events", {"json": EVENT | {TOKEN: TOKEN}, "headers": TOKEN_HEADER, "auth": None}),
    (
        "POST",
        "/api/v1/ai/usage/events",
        {"json": EVENT | {"apiKey": REVOKED_KEY}, "headers": TOKEN_HEADER, "auth": None},
    ),
    ("POST", "/api/v1/ai/usage/events/batch", {"json": [EVENT, TOKEN], "headers": TOKEN_HEADER, "auth": None}),
    (
        "POST",
        "/api/v1/ai/changes",
        {"json": {"title": "Release 7", "time": TOKEN}, "headers": TOKEN_HEADER, "auth": None},
    ),
)
"""What is asked of a running exporter; by alice, unless said."""
STATUSES = {"200", "202", "207", "400", "401", "404", "405", "422"}
"""All that it is answered with."""

COMMANDS = (
    "check config {folder}/config.yaml",
    "check config {folder}/broken.yaml",
    "check keys --config.file={folder}/config.yaml",
    "check account openai --days=2 --config.file={folder}/config.yaml",
    "check account cursor --days=2 --config.file={folder}/config.yaml",
    "check account revoked --config.file={folder}/config.yaml",
    "check account anthropic-whole --config.file={folder}/config.yaml",
    "history --config.file={folder}/config.yaml --storage.path={folder}/logfmt",
    "encrypt",
    "encrypt --rotate --config.file={folder}/config.yaml",
    "run --config.file={folder}/broken.yaml",
    "run --config.file={folder}/config.yaml --web.config.file={folder}/broken.yaml",
)
"""Each gets a key on stdin."""

REPRESENTATIONS: Mapping[str, Callable[[Any], str | bytes]] = {
    "repr": repr,
    "str": str,
    "format": "{}".format,
    "copy": lambda one: repr(copy.deepcopy(one)),
    "pickle": pickle.dumps,
    "json": partial(json.dumps, default=str),
    "fields": lambda one: repr(asdict(one)),
    "pydantic": lambda one: repr(one.model_dump()),
}
"""How an object may end up in a text; those that it does not have show nothing."""

BROKEN_CONFIG = f"""
accounts:
- {{name: one, provider: openai, api_key: {KEYS["openai"]}}}
- {{name: two, provider: {KEYS["anthropic"]}, api_key_env: {KEYS["cursor"]}}}
- {{name: three, provider: openai, api_key_encrypted: {WRONG_KIND_KEY}, {REVOKED_KEY}: 1}}
basic_auth_users: {{alice: {PASSWORD}}}
"""


REJECTED_ACCOUNTS = len(KEYS) * len(ECHO_FORMS) + 1
"""Accounts whose provider repeats the key in its answer."""


@dataclass(frozen=True)
class SecretsSetup:
    """A folder with a configuration in which every kind of secret has its place, and simulated providers."""

    sandbox: Sandbox
    env: Mapping[str, str]

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.sandbox.config


@pytest.fixture(scope="module", name="setup")
def _start_setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecretsSetup]:
    folder = tmp_path_factory.mktemp("secrets")
    good = [replace(make_account(provider, provider), key=key) for provider, key in KEYS.items()]  # type: ignore[arg-type]
    files = {"revoked": REVOKED_KEY, "wrong": WRONG_KIND_KEY, "plain": UNPREFIXED_KEY, "gateway": TOKEN, **KEYS}
    for name, secret in files.items():
        (folder / f"{name}.key").touch(mode=0o600)
        (folder / f"{name}.key").write_text(secret)
    (folder / "broken.yaml").write_text(BROKEN_CONFIG)
    write_web_config(folder, basic_auth_users={"alice": PASSWORD_HASH})
    with (
        start_sandbox(folder, *good, replace(make_account("openai", "revoked"), key=REVOKED_KEY)) as here,
        start_canned_server(echo_key) as server,
    ):
        here.simulator.add_fault("revoked", "revoked")
        here.config.write_text(yaml.safe_dump(_make_config(here.simulator, server.url)))
        yield SecretsSetup(here, {**ENVIRONMENT, ACME_KEY: KEYS["anthropic"], MASTER_KEY_VARIABLE: MASTER_KEY})


def _make_config(simulator: Simulator, echo_url: str) -> dict[str, Any]:
    urls = {name: simulator.base_url(name) for name in (*KEYS, "revoked")}
    sources = {
        "openai": {"api_key_file": "openai.key"},
        "anthropic": {"api_key_env": ACME_KEY},
        "cursor": {"api_key_encrypted": Fernet(MASTER_KEY).encrypt(KEYS["cursor"].encode()).decode()},
    }
    accounts = [
        *({"name": one, "provider": one, "base_url": urls[one], "labels": ["api_key"], **sources[one]} for one in KEYS),
        {"name": "revoked", "provider": "openai", "base_url": urls["revoked"], "api_key_file": "revoked.key"},
        {"name": "wrong", "provider": "openai", "base_url": urls["openai"], "api_key_file": "wrong.key"},
        {"name": "plain", "provider": "openai", "base_url": f"{echo_url}/whole", "api_key_file": "plain.key"},
        *(
            {"name": f"{one}-{way}", "provider": one, "base_url": f"{echo_url}/{way}", **sources[one]}
            for one in KEYS
            for way in ECHO_FORMS
        ),
    ]
    return {
        "defaults": {"history": "2d"},
        "accounts": accounts,
        "ingest": {"sources": [{"name": "gateway", "token_file": "gateway.key", "labels": ["api_key"]}]},
    }


def _request_all(exporter: ExporterProcess) -> dict[str, str]:
    """Ask for everything; return what comes back, heads included."""
    exporter.client.auth = httpx.BasicAuth(*ALICE)
    answers = {}
    for method, path, given in ROUTES:
        answer = exporter.client.request(method, exporter.url + path, timeout=10, **given)
        binary = answer.headers.get("content-type") == "application/x-protobuf"
        body = repr(decode_read_response(answer.content)) if binary else answer.text
        answers[f"{method} {path} {given}"] = f"{answer.status_code} {answer.headers.raw!r}\n{body}"
    return answers


@pytest.fixture(scope="module", name="outputs")
def _collect_outputs(setup: SecretsSetup) -> Mapping[str, Mapping[str, str | bytes]]:
    """Let an exporter run through good and bad times, once in each format of the log; return all that it says."""
    return {form: dict(_run_exporter(setup, form)) for form in ("logfmt", "json")}


def _run_exporter(setup: SecretsSetup, log_format: str) -> Iterator[tuple[str, str | bytes]]:
    folder, key = setup.config.parent, setup.config.with_name("openai.key")
    ledger, good = folder / log_format, setup.config.read_text()
    flags = [f"--config.file={setup.config}", f"--storage.path={ledger}", f"--web.config.file={folder / 'web.yml'}"]
    with start_exporter(
        *flags,
        "--web.enable-lifecycle",
        "--log.level=debug",
        f"--log.format={log_format}",
        env=setup.env,
        new_interpreter=True,
    ) as it:
        it.client.auth = ALICE
        it.wait_until_up(*KEYS)
        it.wait_for_log("Key rejected", times=REJECTED_ACCOUNTS + 2)
        yield from _request_all(it).items()

        key.write_text(REVOKED_KEY)
        setup.config.write_text(good.replace("history: 2d", "history: 3d"))
        it.reload()
        it.wait_for_log("New key rejected")
        setup.config.write_text(BROKEN_CONFIG)
        yield "a broken file", it.reload().text
        yield from ((f"{page} afterwards", it.get(page).text) for page in ("/", "/metrics"))
        yield from ((name, Path(f"/proc/{it.process.pid}/{name}").read_bytes()) for name in ("cmdline", "environ"))
        assert it.stop() == 0
    key.write_text(KEYS["openai"])
    setup.config.write_text(good)
    yield "log", "".join(it.stderr_lines)
    yield "stdout", "".join(it.stdout_lines)
    yield from ((file.name, file.read_bytes()) for file in ledger.iterdir())


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_a_running_exporter_shows_no_secret(outputs: Mapping[str, Mapping[str, str | bytes]], form: str) -> None:
    """Not in its answers, log, ledger or process, though keys are refused and repeated by providers, or misplaced."""
    given = {"environ": {"anthropic key", "master key"}}
    assert {str(text)[:3] for text in outputs[form].values()} >= STATUSES
    assert str(outputs[form]["log"]).count("Incorrect API key provided") >= REJECTED_ACCOUNTS
    for name, text in outputs[form].items():
        secrets = {one: secret for one, secret in SECRETS.items() if one not in given.get(name, ())}
        assert (name, find_leaks(text, secrets=secrets)) == (name, [])


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_no_secret(setup: SecretsSetup, command: str) -> None:
    """Whether it succeeds or fails, neither its results nor its messages hold any."""
    arguments = command.format(folder=setup.config.parent).split()
    told = run_command(*arguments, env=setup.env, stdin=KEYS["openai"])
    assert told.returncode in (0, 1)
    assert told.stdout + told.stderr
    assert find_leaks(told.stdout, told.stderr) == []


PUBLIC_FIELDS = {"name", "owner"}
"""Fields that are meant to be shown: what stands there is no secret."""

FAILURE_MODES = (*sorted(FAULT_KINDS), *ECHO_FORMS, "elsewhere", "nobody")
"""In which a provider fails: the simulator's faults, keys repeated, an unknown path, and no answer."""


@pytest.fixture(scope="module", name="failures")
def _collect_failures(setup: SecretsSetup) -> list[ProviderError]:
    """Have every provider asked for everything, while it fails in every way."""
    simulator, found = setup.sandbox.simulator, list[ProviderError]()
    with start_canned_server(echo_key) as server:
        urls = {way: f"{server.url}/{way}" for way in ECHO_FORMS} | {"nobody": "http://127.0.0.1:9"}
        for provider, key in KEYS.items():
            for way in FAILURE_MODES:
                base = simulator.base_url(provider)
                if way in FAULT_KINDS:
                    simulator.add_fault(provider, way, seconds=0.3 if way == "slow" else 0)
                access = ClientConfig(
                    Secret(key), urls.get(way, f"{base}/x" if way == "elsewhere" else base), timeout=0.2
                )
                found += _provoke_errors(provider, access)
                simulator.clear_faults(provider)
    return found


def _provoke_errors(provider: str, access: ClientConfig) -> Iterator[ProviderError]:
    with closing(PROVIDERS[provider](access)) as session:
        asks: list[Callable[[], object]] = [session.verify, session.names]
        asks += [partial(_fetch, session, report) for report in session.reports[:2]]
        for ask in asks:
            try:
                ask()
            except ProviderError as error:
                yield error


def _fetch(session: Provider, report: Report) -> list[Bucket]:
    now = utc(time.time())
    return list(session.fetch(report, floor(now, report.width), now))


def test_no_error_holds_a_secret(failures: list[ProviderError]) -> None:
    """Whatever a provider answers, the error has no key in its words, its fields, its pickle or its traceback."""
    assert {type(one) for one in failures} == {*ProviderError.__subclasses__()}
    for error in failures:
        told = "".join(traceback.format_exception(error))
        assert find_leaks(told, *_represent(error), *_represent(vars(error))) == []


def _represent(value: object) -> Iterator[str | bytes]:
    for show in REPRESENTATIONS.values():
        with suppress(AttributeError, TypeError, pickle.PicklingError):
            yield show(value)


@pytest.fixture(name="app")
def _build_app(setup: SecretsSetup, tmp_path: Path) -> Iterator[App]:
    """Build an exporter that has read every secret."""
    app = App(tmp_path, Dependencies(lambda: utc(time.time()), time.monotonic, setup.env, PROVIDERS))
    app.apply(load(setup.config, PROVIDERS))
    yield app
    app.stop()


def test_no_object_shows_its_secret(setup: SecretsSetup, app: App) -> None:
    """Whatever holds one shows none: as text, copied, pickled, or written field by field."""
    config = load(setup.config, PROVIDERS)
    shape, _ = validate(yaml_document.read(setup.config), MainFile, PROVIDERS)
    web = load_web(setup.config.with_name("web.yml"))
    held: list[object] = [config, shape, web, app, app.handlers(), read_master_keys(setup.env), *config.sources]
    for account in config.accounts[: len(KEYS)]:
        key, member = account.api_key.read(setup.env), app._polled_accounts[account.name]
        assert key.reveal() == KEYS[account.provider]
        access = ClientConfig(key, "http://127.0.0.1:9")
        member.key, member.provider = key, member.connect(key, member.health)
        client = Client(access, {"Authorization": f"Bearer {key.reveal()}"})
        held += [key, account.api_key, account, access, client, member, member.provider]
    texts = [text for one in held for text in _represent(one)]
    assert len(texts) > 4 * len(held)
    assert find_leaks(*texts) == []


@pytest.mark.parametrize(
    "field", sorted({*AccountSchema.model_fields, "api_key", "token", KEYS["cursor"]} - PUBLIC_FIELDS)
)
def test_a_key_in_the_wrong_place_is_not_repeated(tmp_path: Path, field: str) -> None:
    """Where a field of an account is or holds the key itself, the complaint does not."""
    path = tmp_path / "config.yaml"
    for key in (f"{before}{key}" for key in KEYS.values() for before in ("", "Bearer ")):
        account = {"name": "acme", "provider": "openai", "api_key_file": "acme.key", field: key}
        path.write_text(yaml.safe_dump({"accounts": [account]}))
        with pytest.raises(ConfigError) as refused:
            load(path, PROVIDERS)
        assert find_leaks(str(refused.value)) == []


@pytest.mark.parametrize(
    "text",
    [
        f"the letters {KEYS['openai'][-9:-3]} of a key",
        f"Incorrect API key provided: sk-admin-…{REVOKED_KEY[-4:]}",
        b"Authorization: Basic " + base64.b64encode(f"{KEYS['cursor']}:".encode()),
        f"?key=%{TOKEN.encode().hex('%')}",
        PASSWORD.encode().hex(),
        MASTER_KEY.encode(),
        f"alice: {PASSWORD_HASH}",
    ],
)
def test_the_search_finds_every_form(text: str | bytes) -> None:
    """Six letters are enough, and so are four behind a mask; base64, hex and a URL's escapes hide nothing."""
    assert len(find_leaks(text)) == 1


def test_the_search_finds_a_planted_leak(tmp_path: Path) -> None:
    """An account whose name holds six letters of its key is found in every answer that tells of accounts."""
    name = f"acme-{KEYS['openai'][-6:]}"
    with (
        start_sandbox(tmp_path, replace(make_account("openai", name), key=KEYS["openai"])) as here,
        start_exporter(*here.flags) as it,
    ):
        it.wait_until_up(name)
        found = {path.split()[1] for path, text in _request_all(it).items() if find_leaks(text)}
    assert found == {"/", "/metrics", "/api/v1/read", "/api/v1/ai/usage/summary"}
