"""No key, token or password is in any output: every kind of output is collected and searched."""

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
from exporter.config.schema import Account, Config, validate
from exporter.config.web_configuration import load as load_web
from exporter.errors import ConfigError, InternalError, ProviderError, StorageError
from exporter.model import Bucket, Report, Secret, utc
from exporter.polling.poll_session import PollSession
from exporter.providers import PROVIDERS, create_provider
from exporter.providers.base import Provider
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
from tests.system import make_account, polled_account
from tests.web_server import write_web_config

ACME_KEY = "ACME_KEY"
"""The environment variable with Anthropic's key."""
ALICE = ("alice", PASSWORD)
TOKEN_HEADER = {"authorization": f"Bearer {TOKEN}"}
WRONG_TOKEN_HEADER = {"authorization": f"Bearer {MASTER_KEY}"}
TODAY = time.strftime("%Y-%m-%d", time.gmtime())
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
    ("POST", "/-/reread", {"params": {"from": TODAY, "to": TODAY}}),
    ("POST", "/-/reread", {"params": {"from": TODAY, "to": TODAY, "account": REVOKED_KEY}}),
    ("POST", "/-/reread", {"params": {"from": TODAY, "to": TODAY, "provider": UNPREFIXED_KEY}}),
    ("POST", "/-/reread", {"params": {"from": TOKEN, "to": TODAY}}),
    ("POST", "/-/reread", {"params": {"from": TODAY, "to": TODAY, TOKEN: PASSWORD}}),
    ("POST", "/api/v1/read", {"content": READ_REQUEST}),
    ("POST", "/api/v1/read", {"content": TOKEN}),
    ("GET", "/api/v1/openapi.json", {}),
    ("GET", "/api/v1/ai/usage/summary", {}),
    ("GET", "/api/v1/ai/usage/summary", {"params": {"days": TOKEN}}),
    ("POST", "/api/v1/ai/usage/events", {"json": EVENT, "headers": TOKEN_HEADER, "auth": None}),
    (
        "POST",
        "/api/v1/ai/usage/events",
        {"json": EVENT, "headers": WRONG_TOKEN_HEADER, "auth": None},
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
"""Requests to a running exporter: method, path, options of httpx; as user alice, unless `auth` is given."""
STATUSES = {"200", "202", "207", "400", "401", "404", "405", "422"}
"""The statuses of the responses."""

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
"""Each command gets a key on stdin."""

REPRESENTATIONS: Mapping[str, Callable[[Any], str | bytes]] = {
    "repr": repr,
    "str": str,
    "format": "{}".format,
    "copy": lambda value: repr(copy.deepcopy(value)),
    "pickle": pickle.dumps,
    "json": partial(json.dumps, default=str),
    "fields": lambda value: repr(asdict(value)),
    "pydantic": lambda value: repr(value.model_dump()),
}
"""Ways to turn an object into text; those that an object does not support are left out."""

BROKEN_CONFIG = f"""
accounts:
- {{name: one, provider: openai, api_key: {KEYS["openai"]}}}
- {{name: two, provider: {KEYS["anthropic"]}, api_key_env: {KEYS["cursor"]}}}
- {{name: three, provider: openai, api_key_encrypted: {WRONG_KIND_KEY}, {REVOKED_KEY}: 1}}
basic_auth_users: {{alice: {PASSWORD}}}
"""


REJECTED_ACCOUNTS = len(KEYS) * len(ECHO_FORMS) + 1
"""Accounts whose provider repeats the key in its response."""


@dataclass(frozen=True)
class SecretsSetup:
    """A folder with a configuration that contains every kind of secret, and simulated providers."""

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
        start_sandbox(folder, *good, replace(make_account("openai", "revoked"), key=REVOKED_KEY)) as sandbox,
        start_canned_server(echo_key) as server,
    ):
        sandbox.simulator.add_fault("revoked", "revoked")
        sandbox.config.write_text(yaml.safe_dump(_make_config(sandbox.simulator, server.url)))
        yield SecretsSetup(sandbox, {**ENVIRONMENT, ACME_KEY: KEYS["anthropic"], MASTER_KEY_VARIABLE: MASTER_KEY})


def _make_config(simulator: Simulator, echo_url: str) -> dict[str, Any]:
    urls = {name: simulator.base_url(name) for name in (*KEYS, "revoked")}
    sources = {
        "openai": {"api_key_file": "openai.key"},
        "anthropic": {"api_key_env": ACME_KEY},
        "cursor": {"api_key_encrypted": Fernet(MASTER_KEY).encrypt(KEYS["cursor"].encode()).decode()},
    }
    accounts = [
        *(
            {"name": provider, "provider": provider, "base_url": urls[provider], "labels": ["api_key"], **source}
            for provider, source in sources.items()
        ),
        {"name": "revoked", "provider": "openai", "base_url": urls["revoked"], "api_key_file": "revoked.key"},
        {"name": "wrong", "provider": "openai", "base_url": urls["openai"], "api_key_file": "wrong.key"},
        {"name": "plain", "provider": "openai", "base_url": f"{echo_url}/whole", "api_key_file": "plain.key"},
        *(
            {"name": f"{provider}-{form}", "provider": provider, "base_url": f"{echo_url}/{form}", **source}
            for provider, source in sources.items()
            for form in ECHO_FORMS
        ),
    ]
    return {
        "defaults": {"history": "2d"},
        "accounts": accounts,
        "ingest": {"sources": [{"name": "gateway", "token_file": "gateway.key", "labels": ["api_key"]}]},
    }


def _request_all(exporter: ExporterProcess) -> dict[str, str]:
    """Make every request; return the responses with their headers."""
    exporter.client.auth = httpx.BasicAuth(*ALICE)
    responses = {}
    for method, path, options in ROUTES:
        response = exporter.client.request(method, exporter.url + path, timeout=60, **options)
        binary = response.headers.get("content-type") == "application/x-protobuf"
        body = repr(decode_read_response(response.content)) if binary else response.text
        responses[f"{method} {path} {options}"] = f"{response.status_code} {response.headers.raw!r}\n{body}"
    return responses


@pytest.fixture(scope="module", name="outputs")
def _collect_outputs(setup: SecretsSetup) -> Mapping[str, Mapping[str, str | bytes]]:
    """Run an exporter through successes and failures, with each log format; return all its output."""
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
    ) as exporter:
        exporter.client.auth = ALICE
        exporter.wait_until_up(*KEYS)
        exporter.wait_for_log("Key rejected", times=REJECTED_ACCOUNTS + 2)
        yield from _request_all(exporter).items()

        key.write_text(REVOKED_KEY)
        setup.config.write_text(good.replace("history: 2d", "history: 3d"))
        exporter.reload()
        exporter.wait_for_log("New key not used")
        setup.config.write_text(BROKEN_CONFIG)
        yield "a broken file", exporter.reload().text
        yield from ((f"{page} afterwards", exporter.get(page).text) for page in ("/", "/metrics"))
        yield from (
            (name, Path(f"/proc/{exporter.process.pid}/{name}").read_bytes()) for name in ("cmdline", "environ")
        )
        assert exporter.stop() == 0
    key.write_text(KEYS["openai"])
    setup.config.write_text(good)
    yield "log", "".join(exporter.stderr_lines)
    yield "stdout", "".join(exporter.stdout_lines)
    yield from ((file.name, file.read_bytes()) for file in ledger.iterdir())


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_a_running_exporter_shows_no_secret(outputs: Mapping[str, Mapping[str, str | bytes]], form: str) -> None:
    """Responses, log, ledger and process contain no secret, even if providers repeat keys or keys are misplaced."""
    expected = {"environ": {"anthropic key", "master key"}}
    assert {str(text)[:3] for text in outputs[form].values()} >= STATUSES
    assert str(outputs[form]["log"]).count("answered 401 (invalid_api_key)") >= REJECTED_ACCOUNTS
    for name, text in outputs[form].items():
        secrets = {kind: secret for kind, secret in SECRETS.items() if kind not in expected.get(name, ())}
        assert (name, find_leaks(text, secrets=secrets)) == (name, [])


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_no_secret(setup: SecretsSetup, command: str) -> None:
    """Neither the results nor the messages of a command contain a secret, whether it succeeds or fails."""
    arguments = command.format(folder=setup.config.parent).split()
    completed = run_command(*arguments, env=setup.env, stdin=KEYS["openai"])
    assert completed.returncode in (0, 1)
    assert completed.stdout + completed.stderr
    assert find_leaks(completed.stdout, completed.stderr) == []


PUBLIC_FIELDS = {"name", "owner"}
"""Fields whose values are meant to be displayed."""

FAILURE_MODES = (*sorted(FAULT_KINDS), *ECHO_FORMS, "elsewhere", "nobody")
"""Ways in which a provider fails: the simulator's faults, repeated keys, an unknown path, and no server."""


@pytest.fixture(scope="module", name="failures")
def _collect_failures(setup: SecretsSetup) -> list[ProviderError]:
    """Request every report of every provider while the provider fails in every way; return the errors."""
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
    with closing(create_provider(PROVIDERS[provider], access)) as session:
        calls: list[Callable[[], object]] = [session.verify, session.names]
        calls += [partial(_fetch, session, report) for report in session.reports[:2]]
        for call in calls:
            try:
                call()
            except ProviderError as error:
                yield error


def _fetch(session: Provider, report: Report) -> list[Bucket]:
    now = utc(time.time())
    return list(session.fetch(report, floor(now, report.width), now))


def test_no_error_holds_a_secret(failures: list[ProviderError]) -> None:
    """No error contains a key in its message, fields, pickle or traceback, whatever a provider responds."""
    # No answer of a provider is an internal error or one of the ledger.
    own_errors = {InternalError, StorageError}
    assert {type(error) for error in failures} == {*ProviderError.__subclasses__()} - own_errors
    for error in failures:
        text = "".join(traceback.format_exception(error))
        assert find_leaks(text, *_represent(error), *_represent(vars(error))) == []


def _represent(value: object) -> Iterator[str | bytes]:
    for represent in REPRESENTATIONS.values():
        with suppress(AttributeError, TypeError, pickle.PicklingError):
            yield represent(value)


@pytest.fixture(name="app")
def _build_app(setup: SecretsSetup, tmp_path: Path) -> Iterator[App]:
    """Build an exporter that has read every secret."""
    app = App(tmp_path, Dependencies(lambda: utc(time.time()), time.monotonic, setup.env, PROVIDERS))
    app.apply(load(setup.config, PROVIDERS))
    yield app
    app.stop()


def test_no_object_shows_its_secret(setup: SecretsSetup, app: App) -> None:
    """No object that holds a secret reveals it: as text, copied, pickled, or written field by field."""
    config = load(setup.config, PROVIDERS)
    model, _ = validate(yaml_document.read(setup.config), Config, PROVIDERS)
    web = load_web(setup.config.with_name("web.yml"))
    held: list[object] = [config, model, web, app, app.handlers(), read_master_keys(setup.env), *config.sources]
    for account in config.accounts[: len(KEYS)]:
        key, state = account.api_key.read(setup.env), polled_account(app, account.name)
        assert key.reveal() == KEYS[account.provider]
        access = ClientConfig(key, "http://127.0.0.1:9")
        session = PollSession(state, state.config, key=key, pending_key=key)
        session.provider = state.config.connect(key, state.record_request)
        client = Client(access, {"Authorization": f"Bearer {key.reveal()}"})
        held += [key, account.api_key, account, access, client, state, state.view(), session, session.provider]
    texts = [text for value in held for text in _represent(value)]
    assert len(texts) > 4 * len(held)
    assert find_leaks(*texts) == []


@pytest.mark.parametrize("field", sorted({*Account.model_fields, "api_key", "token", KEYS["cursor"]} - PUBLIC_FIELDS))
def test_a_key_in_the_wrong_place_is_not_repeated(tmp_path: Path, field: str) -> None:
    """An error about a field that is or contains a key does not repeat the key."""
    path = tmp_path / "config.yaml"
    for key in (f"{before}{key}" for key in KEYS.values() for before in ("", "Bearer ")):
        account = {"name": "acme", "provider": "openai", "api_key_file": "acme.key", field: key}
        path.write_text(yaml.safe_dump({"accounts": [account]}))
        with pytest.raises(ConfigError) as raised:
            load(path, PROVIDERS)
        assert find_leaks(str(raised.value)) == []


@pytest.mark.parametrize(
    "text",
    [
        f"the letters {KEYS['openai'][-9:-3]} of a key",
        f"Incorrect API key provided: sk-admin-…{REVOKED_KEY[-4:]}",
        b"Authorization: Basic " + base64.b64encode(f"{KEYS['cursor']}:".encode()),
        f"?key=%{TOKEN.encode().hex('%')}",
        PASSWORD.encode().hex(),
        f"{REVOKED_KEY[-9:-2]}"[::-1],
        KEYS["openai"][-9:].upper(),
        MASTER_KEY.encode(),
        f"alice: {PASSWORD_HASH}",
    ],
)
def test_the_search_finds_every_form(text: str | bytes) -> None:
    """Six letters of a secret are found, and four behind a mask, also encoded, reversed and in upper case."""
    assert len(find_leaks(text)) == 1


def test_the_search_finds_a_planted_leak(tmp_path: Path) -> None:
    """An account whose name contains six letters of its key is found in every response with account names."""
    name = f"acme-{KEYS['openai'][-6:]}"
    with (
        start_sandbox(tmp_path, replace(make_account("openai", name), key=KEYS["openai"])) as sandbox,
        start_exporter(*sandbox.flags) as exporter,
    ):
        exporter.wait_until_up(name)
        found = {path.split()[1] for path, text in _request_all(exporter).items() if find_leaks(text)}
    assert found == {"/", "/metrics", "/api/v1/read", "/api/v1/ai/usage/summary"}
