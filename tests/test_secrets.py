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

from exporter.app import App, Surroundings
from exporter.config import yaml_document as document
from exporter.config.configuration import load
from exporter.config.encryption import VARIABLE, master_keys
from exporter.config.schema import AccountShape, MainFile, fit
from exporter.config.web_configuration import load as load_web
from exporter.errors import ConfigError, ProviderError
from exporter.model import Bucket, Provider, Report, Secret, utc
from exporter.providers import PROVIDERS
from exporter.providers.http import Access, Client
from exporter.simulator.faults import KINDS
from exporter.simulator.server import Simulator
from exporter.windows import floor
from tests.command import ENVIRONMENT, Exporter, Site, ended, site, started
from tests.history.ledger_days import LIKE, request, results
from tests.providers.canned import canned
from tests.secret_scan import (
    ECHOES,
    HASH,
    KEYS,
    MASTER,
    PASSWORD,
    PLAIN,
    REVOKED,
    SECRETS,
    TOKEN,
    WRONG_KIND,
    echo,
    leaks,
)
from tests.system import lone
from tests.web_server import written

ACME_KEY = "ACME_KEY"
"""The environment variable with Anthropic's key."""
ALICE = ("alice", PASSWORD)
BEARER, STRANGER = ({"authorization": f"Bearer {one}"} for one in (TOKEN, MASTER))
EVENT = {"provider": "bedrock", "model": "our-own", "timestamp": int(time.time()), "promptTokens": 9}
READ = request((LIKE, "__name__", "ai_hourly_.+"))

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
    ("POST", "/api/v1/read", {"content": READ}),
    ("POST", "/api/v1/read", {"content": TOKEN}),
    ("GET", "/api/v1/openapi.json", {}),
    ("GET", "/api/v1/ai/usage/summary", {}),
    ("GET", "/api/v1/ai/usage/summary", {"params": {"days": TOKEN}}),
    ("POST", "/api/v1/ai/usage/events", {"json": EVENT, "headers": BEARER, "auth": None}),
    (
        "POST",
        "/api/v1/ai/usage/events",
        {"json": EVENT, "headers": {"authorization": f"Bearer {MASTER}"}, "auth": None},
    ),
    ("POST", "/api/v1/ai/usage/events", {"json": EVENT | {TOKEN: TOKEN}, "headers": BEARER, "auth": None}),
    ("POST", "/api/v1/ai/usage/events", {"json": EVENT | {"apiKey": REVOKED}, "headers": BEARER, "auth": None}),
    ("POST", "/api/v1/ai/usage/events/batch", {"json": [EVENT, TOKEN], "headers": BEARER, "auth": None}),
    ("POST", "/api/v1/ai/changes", {"json": {"title": "Release 7", "time": TOKEN}, "headers": BEARER, "auth": None}),
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

SHOWING: Mapping[str, Callable[[Any], str | bytes]] = {
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

BROKEN = f"""
accounts:
- {{name: one, provider: openai, api_key: {KEYS["openai"]}}}
- {{name: two, provider: {KEYS["anthropic"]}, api_key_env: {KEYS["cursor"]}}}
- {{name: three, provider: openai, api_key_encrypted: {WRONG_KIND}, {REVOKED}: 1}}
basic_auth_users: {{alice: {PASSWORD}}}
"""


REFUSED = len(KEYS) * len(ECHOES) + 1
"""Accounts whose provider repeats the key in its answer."""


@dataclass(frozen=True)
class House:
    """A folder with a configuration in which every kind of secret has its place, and simulated providers."""

    here: Site
    env: Mapping[str, str]

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.here.config


@pytest.fixture(scope="module", name="house")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("secrets")
    good = [replace(lone(provider, provider), key=key) for provider, key in KEYS.items()]  # type: ignore[arg-type]
    files = {"revoked": REVOKED, "wrong": WRONG_KIND, "plain": PLAIN, "gateway": TOKEN, **KEYS}
    for name, secret in files.items():
        (folder / f"{name}.key").touch(mode=0o600)
        (folder / f"{name}.key").write_text(secret)
    (folder / "broken.yaml").write_text(BROKEN)
    written(folder, basic_auth_users={"alice": HASH})
    with site(folder, *good, replace(lone("openai", "revoked"), key=REVOKED)) as here, canned(echo) as server:
        here.simulator.fault("revoked", "revoked")
        here.config.write_text(yaml.safe_dump(_configuration(here.simulator, server.url)))
        yield House(here, {**ENVIRONMENT, ACME_KEY: KEYS["anthropic"], VARIABLE: MASTER})


def _configuration(simulator: Simulator, echoing: str) -> dict[str, Any]:
    urls = {name: simulator.base_url(name) for name in (*KEYS, "revoked")}
    sources = {
        "openai": {"api_key_file": "openai.key"},
        "anthropic": {"api_key_env": ACME_KEY},
        "cursor": {"api_key_encrypted": Fernet(MASTER).encrypt(KEYS["cursor"].encode()).decode()},
    }
    accounts = [
        *({"name": one, "provider": one, "base_url": urls[one], "labels": ["api_key"], **sources[one]} for one in KEYS),
        {"name": "revoked", "provider": "openai", "base_url": urls["revoked"], "api_key_file": "revoked.key"},
        {"name": "wrong", "provider": "openai", "base_url": urls["openai"], "api_key_file": "wrong.key"},
        {"name": "plain", "provider": "openai", "base_url": f"{echoing}/whole", "api_key_file": "plain.key"},
        *(
            {"name": f"{one}-{way}", "provider": one, "base_url": f"{echoing}/{way}", **sources[one]}
            for one in KEYS
            for way in ECHOES
        ),
    ]
    return {
        "defaults": {"history": "2d"},
        "accounts": accounts,
        "ingest": {"sources": [{"name": "gateway", "token_file": "gateway.key", "labels": ["api_key"]}]},
    }


def _answers(it: Exporter) -> dict[str, str]:
    """Ask for everything; return what comes back, heads included."""
    it.client.auth = httpx.BasicAuth(*ALICE)
    answers = {}
    for method, path, given in ROUTES:
        answer = it.client.request(method, it.url + path, timeout=10, **given)
        binary = answer.headers.get("content-type") == "application/x-protobuf"
        body = repr(results(answer.content)) if binary else answer.text
        answers[f"{method} {path} {given}"] = f"{answer.status_code} {answer.headers.raw!r}\n{body}"
    return answers


@pytest.fixture(scope="module", name="said")
def _said(house: House) -> Mapping[str, Mapping[str, str | bytes]]:
    """Let an exporter run through good and bad times, once in each format of the log; return all that it says."""
    return {form: dict(_outputs(house, form)) for form in ("logfmt", "json")}


def _outputs(house: House, form: str) -> Iterator[tuple[str, str | bytes]]:
    folder, key = house.config.parent, house.config.with_name("openai.key")
    ledger, good = folder / form, house.config.read_text()
    flags = [f"--config.file={house.config}", f"--storage.path={ledger}", f"--web.config.file={folder / 'web.yml'}"]
    with started(*flags, "--web.enable-lifecycle", "--log.level=debug", f"--log.format={form}", env=house.env) as it:
        it.client.auth = ALICE
        it.until_up(*KEYS)
        it.until_said("Key rejected", times=REFUSED + 2)
        yield from _answers(it).items()

        key.write_text(REVOKED)
        house.config.write_text(good.replace("history: 2d", "history: 3d"))
        it.reload()
        it.until_said("New key not used")
        house.config.write_text(BROKEN)
        yield "a broken file", it.reload().text
        yield from ((f"{page} afterwards", it.get(page).text) for page in ("/", "/metrics"))
        yield from ((name, Path(f"/proc/{it.process.pid}/{name}").read_bytes()) for name in ("cmdline", "environ"))
        assert it.end() == 0
    key.write_text(KEYS["openai"])
    house.config.write_text(good)
    yield "log", "".join(it.said)
    yield "stdout", "".join(it.printed)
    yield from ((file.name, file.read_bytes()) for file in ledger.iterdir())


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_a_running_exporter_shows_no_secret(said: Mapping[str, Mapping[str, str | bytes]], form: str) -> None:
    """Not in its answers, log, ledger or process, though keys are refused and repeated by providers, or misplaced."""
    given = {"environ": {"anthropic key", "master key"}}
    assert {str(text)[:3] for text in said[form].values()} >= STATUSES
    assert str(said[form]["log"]).count("Incorrect API key provided") >= REFUSED
    for name, text in said[form].items():
        secrets = {one: secret for one, secret in SECRETS.items() if one not in given.get(name, ())}
        assert (name, leaks(text, secrets=secrets)) == (name, [])


@pytest.mark.usefixtures("said")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_no_secret(house: House, command: str) -> None:
    """Whether it succeeds or fails, neither its results nor its messages hold any."""
    arguments = command.format(folder=house.config.parent).split()
    told = ended(*arguments, env=house.env, stdin=KEYS["openai"])
    assert told.returncode in (0, 1)
    assert told.stdout + told.stderr
    assert leaks(told.stdout, told.stderr) == []


TOLD = {"name", "owner"}
"""Fields that are meant to be shown: what stands there is no secret."""

WAYS = (*sorted(KINDS), *ECHOES, "elsewhere", "nobody")
"""In which a provider fails: the simulator's faults, keys repeated, an unknown path, and no answer."""


@pytest.fixture(scope="module", name="failures")
def _failures(house: House) -> list[ProviderError]:
    """Have every provider asked for everything, while it fails in every way."""
    simulator, found = house.here.simulator, list[ProviderError]()
    with canned(echo) as server:
        urls = {way: f"{server.url}/{way}" for way in ECHOES} | {"nobody": "http://127.0.0.1:9"}
        for provider, key in KEYS.items():
            for way in WAYS:
                base = simulator.base_url(provider)
                if way in KINDS:
                    simulator.fault(provider, way, seconds=0.3 if way == "slow" else 0)
                access = Access(Secret(key), urls.get(way, f"{base}/x" if way == "elsewhere" else base), timeout=0.2)
                found += _errors(provider, access)
                simulator.clear(provider)
    return found


def _errors(provider: str, access: Access) -> Iterator[ProviderError]:
    with closing(PROVIDERS[provider](access)) as session:
        asks: list[Callable[[], object]] = [session.verify, session.names]
        asks += [partial(_read, session, report) for report in session.reports[:2]]
        for ask in asks:
            try:
                ask()
            except ProviderError as error:
                yield error


def _read(session: Provider, report: Report) -> list[Bucket]:
    now = utc(time.time())
    return list(session.fetch(report, floor(now, report.width), now))


def test_no_error_holds_a_secret(failures: list[ProviderError]) -> None:
    """Whatever a provider answers, the error has no key in its words, its fields, its pickle or its traceback."""
    assert {type(one) for one in failures} == {*ProviderError.__subclasses__()}
    for error in failures:
        told = "".join(traceback.format_exception(error))
        assert leaks(told, *_shown(error), *_shown(vars(error))) == []


def _shown(one: object) -> Iterator[str | bytes]:
    for show in SHOWING.values():
        with suppress(AttributeError, TypeError, pickle.PicklingError):
            yield show(one)


@pytest.fixture(name="app")
def _app(house: House, tmp_path: Path) -> Iterator[App]:
    """Build an exporter that has read every secret."""
    app = App(tmp_path, Surroundings(lambda: utc(time.time()), time.monotonic, house.env, PROVIDERS))
    app.apply(load(house.config, PROVIDERS))
    yield app
    app.stop()


def test_no_object_shows_its_secret(house: House, app: App) -> None:
    """Whatever holds one shows none: as text, copied, pickled, or written field by field."""
    config = load(house.config, PROVIDERS)
    shape, _ = fit(document.read(house.config), MainFile, PROVIDERS)
    web = load_web(house.config.with_name("web.yml"))
    held: list[object] = [config, shape, web, app, app.views(), master_keys(house.env), *config.sources]
    for account in config.accounts[: len(KEYS)]:
        key, member = account.api_key.read(house.env), app._members[account.name]
        assert key.reveal() == KEYS[account.provider]
        access = Access(key, "http://127.0.0.1:9")
        member.key, member.provider = key, member.connect(key, member.health)
        client = Client(access, {"Authorization": f"Bearer {key.reveal()}"})
        held += [key, account.api_key, account, access, client, member, member.provider]
    texts = [text for one in held for text in _shown(one)]
    assert len(texts) > 4 * len(held)
    assert leaks(*texts) == []


@pytest.mark.parametrize("field", sorted({*AccountShape.model_fields, "api_key", "token", KEYS["cursor"]} - TOLD))
def test_a_key_in_the_wrong_place_is_not_repeated(tmp_path: Path, field: str) -> None:
    """Where a field of an account is or holds the key itself, the complaint does not."""
    path = tmp_path / "config.yaml"
    for key in (f"{before}{key}" for key in KEYS.values() for before in ("", "Bearer ")):
        account = {"name": "acme", "provider": "openai", "api_key_file": "acme.key", field: key}
        path.write_text(yaml.safe_dump({"accounts": [account]}))
        with pytest.raises(ConfigError) as refused:
            load(path, PROVIDERS)
        assert leaks(str(refused.value)) == []


@pytest.mark.parametrize(
    "text",
    [
        f"the letters {KEYS['openai'][-9:-3]} of a key",
        f"Incorrect API key provided: sk-admin-…{REVOKED[-4:]}",
        b"Authorization: Basic " + base64.b64encode(f"{KEYS['cursor']}:".encode()),
        f"?key=%{TOKEN.encode().hex('%')}",
        PASSWORD.encode().hex(),
        MASTER.encode(),
        f"alice: {HASH}",
    ],
)
def test_the_search_finds_every_form(text: str | bytes) -> None:
    """Six letters are enough, and so are four behind a mask; base64, hex and a URL's escapes hide nothing."""
    assert len(leaks(text)) == 1


def test_the_search_finds_a_planted_leak(tmp_path: Path) -> None:
    """An account whose name holds six letters of its key is found in every answer that tells of accounts."""
    name = f"acme-{KEYS['openai'][-6:]}"
    with site(tmp_path, replace(lone("openai", name), key=KEYS["openai"])) as here, started(*here.flags) as it:
        it.until_up(name)
        found = {path.split()[1] for path, text in _answers(it).items() if leaks(text)}
    assert found == {"/", "/metrics", "/api/v1/read", "/api/v1/ai/usage/summary"}
