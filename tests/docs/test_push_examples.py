"""docs/push.md and docs/examples as a stranger uses them: everything is run, and answers what is printed."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from exporter.push.models import UsageEvent
from tests.command import ENVIRONMENT, Exporter, site, started, until
from tests.paths import ROOT
from tests.servers import NOWHERE
from tests.system import lone

PUSH = (ROOT / "docs" / "push.md").read_text()
EXAMPLES = ROOT / "docs" / "examples"
_COMMAND = re.compile(r"(.*<<EOF\n(?:.*\n)*?EOF\n|(?:.*[\\|]\n)*.*\n)((?:.*\n)*)")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PUSH, re.DOTALL)


def _commands() -> Iterator[tuple[str, str]]:
    """Yield every command of the document and what is printed below it."""
    for block in _blocks("console"):
        for one in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            found = _COMMAND.fullmatch(one)
            assert found is not None
            yield found[1], found[2]


def _scripts(told: object) -> Iterator[str]:
    if isinstance(told, str) and "curl" in told:
        yield told
    elif isinstance(told, list | dict):
        for one in told.values() if isinstance(told, dict) else told:
            yield from _scripts(one)


MAKE_TOKEN, *COMMANDS = _commands()
YAML = [yaml.safe_load(block) for block in _blocks("yaml")]
STEPS = list(_scripts(YAML))


@dataclass(frozen=True)
class Place:
    """An exporter that runs with the document's own configuration, and where its secrets are."""

    it: Exporter
    secrets: Path

    def localized(self, command: str) -> str:
        """Put this place's address and folder into a command."""
        return command.replace("http://ai-spend-exporter:10042", self.it.url).replace("/run/secrets", str(self.secrets))

    @property
    def env(self) -> dict[str, str]:
        """What every example wants to be set."""
        token = (self.secrets / "gateway").read_text().strip()
        return {"PATH": ENVIRONMENT["PATH"], "AI_SPEND_URL": self.it.url, "AI_SPEND_TOKEN": token}

    def shown(self, name: str, **labels: str) -> float | None:
        """Return the sum of a metric over the series with these labels, rounded to the nano; None without any."""
        families = text_string_to_metric_families(self.it.get().text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        values = [one.value for one in samples if labels.items() <= one.labels.items()]
        return round(sum(values), 9) if values else None

    def until_shown(self, value: float, name: str, **labels: str) -> None:
        """Wait until /metrics shows a value."""
        until(f"{name}{labels} {value}", lambda: self.shown(name, **labels) == value)


@pytest.fixture(scope="module", name="here")
def _configured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("push")
    secrets = folder / "secrets"
    secrets.mkdir()
    for name in ("gateway", "proxy"):
        command = MAKE_TOKEN[0].replace("/run/secrets/gateway", str(secrets / name))
        subprocess.run(["sh", "-c", command], check=True)
    with site(folder, lone("openai", "acme-openai")) as at:
        document = yaml.safe_load(at.config.read_text())
        told = [one for one in YAML if "ingest" in one]
        document["ingest"] = {"sources": [source for one in told for source in one["ingest"]["sources"]]}
        document["budgets"] = [budget for one in told for budget in one.get("budgets", [])]
        at.config.write_text(yaml.safe_dump(document).replace("/run/secrets", str(secrets)))
        with started(*at.flags) as it:
            it.until_up("acme-openai")
            yield Place(it, secrets)


@contextmanager
def _shell(folder: Path) -> Iterator[Callable[[str], str]]:
    """Start a shell that keeps its variables; what it is called with is run, and the output returned."""
    with subprocess.Popen(
        ["sh"], cwd=folder, env={"PATH": ENVIRONMENT["PATH"]}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        told, said = process.stdin, process.stdout
        assert told is not None
        assert said is not None

        def run(command: str) -> str:
            told.write(f"{command}\nprintf '\\0'\n")
            told.flush()
            return "".join(iter(lambda: said.read(1), "\0"))

        yield run


def test_every_command_of_the_document_answers_what_is_printed(here: Place, tmp_path: Path) -> None:
    """Whoever pastes the commands one after the other sees the answers that the document shows."""
    with _shell(tmp_path) as run:
        for command, printed in COMMANDS:
            assert printed or "curl" not in command
            wanted = re.escape(printed.strip()).replace("…", ".*")
            said = run(here.localized(command)).strip()
            end = time.monotonic() + 10
            # What was pushed is shown a moment later: who only reads may ask again.
            while "-d @" not in command and not re.fullmatch(wanted, said) and time.monotonic() < end:
                said = run(here.localized(command)).strip()
            assert re.fullmatch(wanted, said), f"{command}{said}"


def test_no_command_of_the_document_is_left_out() -> None:
    """Every curl in the document is among those that are run."""
    run = [*(command for command, _ in COMMANDS), *STEPS]
    assert len(STEPS) == 2
    assert sum(one.count("curl -") for one in run) == PUSH.count("curl -") >= 7


@pytest.mark.parametrize("script", STEPS, ids=["github", "gitlab"])
def test_a_step_of_ci_tells_of_a_change(here: Place, script: str) -> None:
    """The steps for GitHub Actions and GitLab, with the variables that those set, show on /metrics and in the sums."""
    github = {"REF_NAME": "v1.2", "REPOSITORY": "acme/search", "SERVER_URL": "https://github.com", "RUN_ID": "77"}
    gitlab = {"COMMIT_REF_NAME": "v1.3", "PROJECT_PATH": "acme/web", "PIPELINE_URL": "https://gitlab.com/acme/web/78"}
    env = {f"GITHUB_{name}": value for name, value in github.items()}
    env |= {f"CI_{name}": value for name, value in gitlab.items()}
    told = subprocess.run(["sh", "-ec", script], env=here.env | env, capture_output=True, text=True, check=False)
    assert (told.stdout, told.stderr) == ('{"status":"accepted"}', "")
    title, service, link = (
        ("deploy v1.2", "acme/search", "https://github.com/acme/search/actions/runs/77")
        if "GITHUB" in script
        else ("deploy v1.3", "acme/web", "https://gitlab.com/acme/web/78")
    )
    moment = here.shown("ai_change_timestamp_seconds", title=title, service=service, link=link)
    assert moment == pytest.approx(time.time(), abs=60)
    changes = here.it.get("/api/v1/ai/usage/summary").json()["changes"]
    assert (title, service, link) in [(one["title"], one["service"], one["link"]) for one in changes]


def test_the_document_tells_every_field_and_no_other() -> None:
    """The table of fields is that of the shape, with the same ones required."""
    section = PUSH.split("## Fields")[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| `?(\w*)`? ?\|", section, re.MULTILINE))
    assert told == {to_camel(name): _default(field) for name, field in UsageEvent.model_fields.items()}


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return {None: "", "": "empty"}.get(field.default, str(field.default))


def test_the_document_tells_every_answer_and_no_other(here: Place) -> None:
    """The table of answers holds the statuses of the API's own description."""
    paths = here.it.get("/api/v1/openapi.json").json()["paths"].values()
    described = {status for path in paths if "post" in path for status in path["post"]["responses"]}
    assert set(re.findall(r"^\| (\d{3}) \|", PUSH, re.MULTILINE)) == described


def _push_sh(here: Place, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(EXAMPLES / "push.sh"), *arguments]
    return subprocess.run(command, env=here.env | env, capture_output=True, text=True, check=False, timeout=30)


def test_the_shell_script_tells_of_one_job(here: Place) -> None:
    """What push.sh pushes, with its cost or without, is counted once however often, and in the document's budget."""
    now = str(int(time.time()))
    for status in ("accepted", "repeated"):
        told = _push_sh(here, "sh-1", now, "vllm", "llama-sh", "1000000", "500000")
        assert (told.returncode, told.stdout, told.stderr) == (0, f'{{"status":"{status}"}}\n', "")
    assert _push_sh(here, "sh-2", now, "vllm", "llama-sh", "7", "0", "0.25").returncode == 0
    # As agreed in the document: $0.20 and $0.60 per million.
    here.until_shown(0.75, "ai_cost_30d_usd", account="gateway", provider="vllm", model="llama-sh")
    here.until_shown(1_500_007, "ai_tokens_30d", account="gateway", provider="vllm", model="llama-sh")
    until("spent", lambda: here.shown("ai_budget_spent_usd") == here.shown("ai_cost_month_usd", account="gateway"))


def test_the_shell_script_fails_with_the_reason(here: Place) -> None:
    """push.sh ends with a status, and says how it is used or what the exporter has answered."""
    told = _push_sh(here, "only-an-id")
    assert (told.returncode, told.stdout) == (2, "")
    assert "push.sh ID TIME PROVIDER MODEL" in told.stderr
    told = _push_sh(here, "sh-3", str(int(time.time())), "vllm", "llama", "-1", "0")
    assert told.returncode != 0
    assert "promptTokens must be at least 0" in told.stdout
    assert _push_sh(here, "sh-3", "0", "vllm", "llama", "1", "0", AI_SPEND_TOKEN="another").returncode != 0


@dataclass
class Front:
    """Something between a sender and the exporter, which hands everything on but the first answer."""

    url: str
    bodies: list[bytes]


@contextmanager
def _forgetful(it: Exporter) -> Iterator[Front]:
    bodies = list[bytes]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {"authorization": self.headers["authorization"]}
            answer = httpx.post(it.url + self.path, content=body, headers=headers)
            bodies.append(body)
            if len(bodies) > 1:
                self.send_response(answer.status_code)
                self.end_headers()
                self.wfile.write(answer.content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server gives it
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Front(f"http://127.0.0.1:{server.server_address[1]}", bodies)
        finally:
            server.shutdown()
            thread.join()


def _push_py(env: Mapping[str, str], lines: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command, text = [sys.executable, str(EXAMPLES / "push.py")], "\n".join(lines)
    return subprocess.run(command, env=env, input=text, capture_output=True, text=True, check=False, timeout=30)


def test_the_python_file_counts_once_what_it_sends_twice(here: Place) -> None:
    """push.py sends a batch again whose answer was lost, with or without ids of its own; each event is counted once."""
    event = {"provider": "vllm", "model": "llama-py", "timestamp": int(time.time()), "completionTokens": 1000}
    lines = [json.dumps(event | ({"id": f"py-{n}"} if n % 2 else {})) for n in range(301)]
    with _forgetful(here.it) as front:
        told = _push_py(here.env | {"AI_SPEND_URL": front.url}, lines)
    assert (told.returncode, told.stderr) == (0, "")
    assert [len(json.loads(body)["events"]) for body in front.bodies] == [300, 300, 1]
    assert front.bodies[0] == front.bodies[1]
    here.until_shown(301, "ai_requests_30d", account="gateway", model="llama-py")
    here.until_shown(301_000, "ai_tokens_30d", account="gateway", model="llama-py", type="output")


def test_the_python_file_says_what_is_refused(here: Place) -> None:
    """push.py ends with 1 and the reason where an event is refused, the token is nobody's or a line is no JSON."""
    bad = json.dumps({"id": "py-bad", "provider": "vllm", "model": "llama"})
    told = _push_py(here.env, [bad])
    assert (told.returncode, told.stderr) == (1, "py-bad: timestamp is missing\n")
    told = _push_py(here.env | {"AI_SPEND_TOKEN": "another"}, [bad])
    assert told.returncode == 1
    assert told.stderr.startswith('not pushed: 401: {"error":')
    told = _push_py(here.env, ["{"])
    assert told.returncode == 1
    assert told.stderr.startswith("not pushed: ")
    assert "Traceback" not in told.stderr


_PROMPT, _REPLY = "Whom shall we acquire?", "The harbour company."
_USED = {"prompt_tokens": 12000, "completion_tokens": 800, "total_tokens": 12800}
_GATEWAY = """
import asyncio, json, sys
from datetime import datetime
from litellm_callback import spend

now = datetime.now()
for kwargs, response in json.load(sys.stdin):
    spend.log_success_event(kwargs, response, now, now)
    asyncio.run(spend.async_log_success_event(kwargs, response, now, now))
print("answered", flush=True)
"""


def _call(name: str, cost: float | None, **told: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the kwargs and the response of a call, as LiteLLM documents them; ours are a few of the many keys."""
    details = {"cached_tokens": 9000, "cache_creation_tokens": 1000, "audio_tokens": None}
    messages = [{"role": "user", "content": _PROMPT}]
    choices = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": _REPLY}}]
    response = {"id": name, "object": "chat.completion", "model": "claude-lite", "choices": choices, "usage": _USED}
    payload = {
        "id": name,
        "trace_id": "5b1d",
        "call_type": "acompletion",
        "status": "success",
        "cache_hit": False,
        "custom_llm_provider": "bedrock",
        "model": "bedrock/claude-lite",
        "model_group": "fast",
        "startTime": time.time() - 2,
        "endTime": time.time(),
        "response_cost": cost or 0.0,
        **_USED,
        "metadata": {
            "user_api_key_hash": "e3b0c442",
            "user_api_key_alias": "search-prod",
            "user_api_key_team_alias": "Search",
            "user_api_key_team_id": "0c4e",
            "usage_object": {**_USED, "prompt_tokens_details": details},
        },
        "messages": messages,
        "response": response,
    }
    kwargs = {"model": "claude-lite", "messages": messages, "litellm_call_id": "6e1f", "response_cost": cost}
    return {**kwargs, "standard_logging_object": payload | told}, response


@pytest.fixture(name="gateway")
def _gateway(here: Place, tmp_path: Path) -> dict[str, str]:
    """Return what a process that has LiteLLM, or what stands in for it, needs to find our callback."""
    if importlib.util.find_spec("litellm") is None:
        (tmp_path / "litellm" / "integrations").mkdir(parents=True)
        (tmp_path / "litellm" / "integrations" / "custom_logger.py").write_text("class CustomLogger: pass\n")
    return here.env | {"PYTHONPATH": f"{EXAMPLES}:{tmp_path}", "PYTHONDONTWRITEBYTECODE": "1"}


def test_a_litellm_proxy_tells_what_its_calls_cost(here: Place, gateway: dict[str, str]) -> None:
    """A call that is told twice and sent twice is counted once, before the process ends; no prompt or reply is sent."""
    calls = [
        _call("chatcmpl-1", 0.021),
        _call("chatcmpl-2", 0.004),
        _call("chatcmpl-3", 0.0, cache_hit=True),
        _call("chatcmpl-4", None, model="llama-lite", custom_llm_provider="hosted_vllm"),
        ({"standard_logging_object": None}, {}),
        ({"standard_logging_object": {"model": "without all else"}}, {}),
    ]
    command = [sys.executable, "-c", _GATEWAY]
    with _forgetful(here.it) as front:
        env = gateway | {"AI_SPEND_URL": front.url}
        told = subprocess.run(
            command, env=env, input=json.dumps(calls), capture_output=True, text=True, check=False, timeout=30
        )
    assert (told.returncode, told.stdout) == (0, "answered\n")
    assert told.stderr.count("the use of a call is lost: KeyError('id')") == 2
    sent = b"".join(front.bodies).decode()
    assert "chatcmpl-1" in sent
    assert [word for word in (_PROMPT, _REPLY, "chatcmpl-3", "e3b0c442") if word in sent] == []
    labels = {"account": "gateway", "provider": "bedrock", "model": "claude-lite", "workspace": "Search"}
    labels |= {"api_key": "search-prod"}
    here.until_shown(0.025, "ai_cost_30d_usd", **labels)
    here.until_shown(2, "ai_requests_30d", **labels)
    tokens = {"uncached_input": 4000, "cache_read": 18000, "cache_write": 2000, "output": 1600}
    assert {one: here.shown("ai_tokens_30d", type=one, **labels) for one in tokens} == tokens
    # LiteLLM knows no price of it: that is no price of zero, and the document's own is taken.
    here.until_shown(0.00088, "ai_cost_30d_usd", account="gateway", provider="hosted_vllm", model="llama-lite")


def test_a_litellm_proxy_does_not_wait_for_the_exporter(gateway: dict[str, str]) -> None:
    """Where nobody answers, calls go on at once and the log says so."""
    with subprocess.Popen(
        [sys.executable, "-c", _GATEWAY],
        env=gateway | {"AI_SPEND_URL": f"http://{NOWHERE}"},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(json.dumps([_call(f"chatcmpl-{n}", 0.01) for n in range(100)]))
        process.stdin.close()
        began = time.monotonic()
        assert process.stdout.readline() == "answered\n"
        assert time.monotonic() - began < 2
        assert "ai-spend-exporter has not answered, trying again" in process.stderr.readline()
        process.kill()
