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

from exporter.push.models import UsageEventBody
from tests.command import ENVIRONMENT, ExporterProcess, start_exporter, start_sandbox, wait_until
from tests.paths import ROOT
from tests.servers import UNUSED_ADDRESS
from tests.system import make_account

PUSH_DOC = (ROOT / "docs" / "push.md").read_text()
EXAMPLES = ROOT / "docs" / "examples"
_COMMAND = re.compile(r"(.*<<EOF\n(?:.*\n)*?EOF\n|(?:.*[\\|]\n)*.*\n)((?:.*\n)*)")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PUSH_DOC, re.DOTALL)


def _commands() -> Iterator[tuple[str, str]]:
    """Yield every command of the document and what is printed below it."""
    for block in _blocks("console"):
        for one in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            found = _COMMAND.fullmatch(one)
            assert found is not None
            yield found[1], found[2]


def _scripts(node: object) -> Iterator[str]:
    if isinstance(node, str) and "curl" in node:
        yield node
    elif isinstance(node, list | dict):
        for one in node.values() if isinstance(node, dict) else node:
            yield from _scripts(one)


MAKE_TOKEN, *COMMANDS = _commands()
YAML = [yaml.safe_load(block) for block in _blocks("yaml")]
CI_STEPS = list(_scripts(YAML))


@dataclass(frozen=True)
class ExampleSetup:
    """An exporter that runs with the document's own configuration, and where its secrets are."""

    exporter: ExporterProcess
    secrets: Path

    def localize(self, command: str) -> str:
        """Put this place's address and folder into a command."""
        return command.replace("http://ai-spend-exporter:10042", self.exporter.url).replace(
            "/run/secrets", str(self.secrets)
        )

    @property
    def env(self) -> dict[str, str]:
        """What every example wants to be set."""
        token = (self.secrets / "gateway").read_text().strip()
        return {"PATH": ENVIRONMENT["PATH"], "AI_SPEND_URL": self.exporter.url, "AI_SPEND_TOKEN": token}

    def value(self, name: str, **labels: str) -> float | None:
        """Return the sum of a metric over the series with these labels, rounded to the nano; None without any."""
        families = text_string_to_metric_families(self.exporter.get().text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        values = [one.value for one in samples if labels.items() <= one.labels.items()]
        return round(sum(values), 9) if values else None

    def wait_until_value(self, value: float, name: str, **labels: str) -> None:
        """Wait until /metrics shows a value."""
        wait_until(f"{name}{labels} {value}", lambda: self.value(name, **labels) == value)


@pytest.fixture(scope="module", name="setup")
def _start_setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleSetup]:
    folder = tmp_path_factory.mktemp("push")
    secrets = folder / "secrets"
    secrets.mkdir()
    for name in ("gateway", "proxy"):
        command = MAKE_TOKEN[0].replace("/run/secrets/gateway", str(secrets / name))
        subprocess.run(["sh", "-c", command], check=True)
    with start_sandbox(folder, make_account("openai", "acme-openai")) as at:
        document = yaml.safe_load(at.config.read_text())
        told = [one for one in YAML if "ingest" in one]
        document["ingest"] = {"sources": [source for one in told for source in one["ingest"]["sources"]]}
        document["budgets"] = [budget for one in told for budget in one.get("budgets", [])]
        at.config.write_text(yaml.safe_dump(document).replace("/run/secrets", str(secrets)))
        with start_exporter(*at.flags) as it:
            it.wait_until_up("acme-openai")
            yield ExampleSetup(it, secrets)


@contextmanager
def _start_shell(folder: Path) -> Iterator[Callable[[str], str]]:
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


def test_every_command_of_the_document_answers_what_is_printed(setup: ExampleSetup, tmp_path: Path) -> None:
    """Whoever pastes the commands one after the other sees the answers that the document shows."""
    with _start_shell(tmp_path) as run:
        for command, printed in COMMANDS:
            assert printed or "curl" not in command
            wanted = re.escape(printed.strip()).replace("…", ".*")
            said = run(setup.localize(command)).strip()
            end = time.monotonic() + 10
            # What was pushed is shown a moment later: who only reads may ask again.
            while "-d @" not in command and not re.fullmatch(wanted, said) and time.monotonic() < end:
                said = run(setup.localize(command)).strip()
            assert re.fullmatch(wanted, said), f"{command}{said}"


def test_no_command_of_the_document_is_left_out() -> None:
    """Every curl in the document is among those that are run."""
    run = [*(command for command, _ in COMMANDS), *CI_STEPS]
    assert len(CI_STEPS) == 2
    assert sum(one.count("curl -") for one in run) == PUSH_DOC.count("curl -") >= 7


@pytest.mark.parametrize("script", CI_STEPS, ids=["github", "gitlab"])
def test_a_ci_step_reports_a_change_event(setup: ExampleSetup, script: str) -> None:
    """The steps for GitHub Actions and GitLab, with the variables that those set, show on /metrics and in the sums."""
    github = {"REF_NAME": "v1.2", "REPOSITORY": "acme/search", "SERVER_URL": "https://github.com", "RUN_ID": "77"}
    gitlab = {"COMMIT_REF_NAME": "v1.3", "PROJECT_PATH": "acme/web", "PIPELINE_URL": "https://gitlab.com/acme/web/78"}
    env = {f"GITHUB_{name}": value for name, value in github.items()}
    env |= {f"CI_{name}": value for name, value in gitlab.items()}
    told = subprocess.run(["sh", "-ec", script], env=setup.env | env, capture_output=True, text=True, check=False)
    assert (told.stdout, told.stderr) == ('{"status":"accepted"}', "")
    title, service, link = (
        ("deploy v1.2", "acme/search", "https://github.com/acme/search/actions/runs/77")
        if "GITHUB" in script
        else ("deploy v1.3", "acme/web", "https://gitlab.com/acme/web/78")
    )
    moment = setup.value("ai_change_timestamp_seconds", title=title, service=service, link=link)
    assert moment == pytest.approx(time.time(), abs=60)
    changes = setup.exporter.get("/api/v1/ai/usage/summary").json()["changes"]
    assert (title, service, link) in [(one["title"], one["service"], one["link"]) for one in changes]


def test_the_document_lists_every_field_and_no_other() -> None:
    """The table of fields is that of the shape, with the same ones required."""
    section = PUSH_DOC.split("## Fields")[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| `?(\w*)`? ?\|", section, re.MULTILINE))
    assert told == {to_camel(name): _default(field) for name, field in UsageEventBody.model_fields.items()}


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return {None: "", "": "empty"}.get(field.default, str(field.default))


def test_the_document_lists_every_response_and_no_other(setup: ExampleSetup) -> None:
    """The table of answers holds the statuses of the API's own description."""
    paths = setup.exporter.get("/api/v1/openapi.json").json()["paths"].values()
    described = {status for path in paths if "post" in path for status in path["post"]["responses"]}
    assert set(re.findall(r"^\| (\d{3}) \|", PUSH_DOC, re.MULTILINE)) == described


def _run_push_sh(setup: ExampleSetup, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(EXAMPLES / "push.sh"), *arguments]
    return subprocess.run(command, env=setup.env | env, capture_output=True, text=True, check=False, timeout=30)


def test_the_shell_script_pushes_one_job(setup: ExampleSetup) -> None:
    """What push.sh pushes, with its cost or without, is counted once however often, and in the document's budget."""
    now = str(int(time.time()))
    for status in ("accepted", "duplicate"):
        told = _run_push_sh(setup, "sh-1", now, "vllm", "llama-sh", "1000000", "500000")
        assert (told.returncode, told.stdout, told.stderr) == (0, f'{{"status":"{status}"}}\n', "")
    assert _run_push_sh(setup, "sh-2", now, "vllm", "llama-sh", "7", "0", "0.25").returncode == 0
    # As agreed in the document: $0.20 and $0.60 per million.
    setup.wait_until_value(0.75, "ai_cost_30d_usd", account="gateway", provider="vllm", model="llama-sh")
    setup.wait_until_value(1_500_007, "ai_tokens_30d", account="gateway", provider="vllm", model="llama-sh")
    wait_until(
        "spent", lambda: setup.value("ai_budget_spent_usd") == setup.value("ai_cost_month_usd", account="gateway")
    )


def test_the_shell_script_fails_with_the_reason(setup: ExampleSetup) -> None:
    """push.sh ends with a status, and says how it is used or what the exporter has answered."""
    told = _run_push_sh(setup, "only-an-id")
    assert (told.returncode, told.stdout) == (2, "")
    assert "push.sh ID TIME PROVIDER MODEL" in told.stderr
    told = _run_push_sh(setup, "sh-3", str(int(time.time())), "vllm", "llama", "-1", "0")
    assert told.returncode != 0
    assert "promptTokens must be at least 0" in told.stdout
    assert _run_push_sh(setup, "sh-3", "0", "vllm", "llama", "1", "0", AI_SPEND_TOKEN="another").returncode != 0


@dataclass
class LossyProxy:
    """Something between a sender and the exporter, which hands everything on but the first answer."""

    url: str
    bodies: list[bytes]


@contextmanager
def _start_lossy_proxy(exporter: ExporterProcess) -> Iterator[LossyProxy]:
    bodies = list[bytes]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {"authorization": self.headers["authorization"]}
            answer = httpx.post(exporter.url + self.path, content=body, headers=headers)
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
            yield LossyProxy(f"http://127.0.0.1:{server.server_address[1]}", bodies)
        finally:
            server.shutdown()
            thread.join()


def _run_push_py(env: Mapping[str, str], lines: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command, text = [sys.executable, str(EXAMPLES / "push.py")], "\n".join(lines)
    return subprocess.run(command, env=env, input=text, capture_output=True, text=True, check=False, timeout=30)


def test_the_python_file_counts_once_what_it_sends_twice(setup: ExampleSetup) -> None:
    """push.py sends a batch again whose answer was lost, with or without ids of its own; each event is counted once."""
    event = {"provider": "vllm", "model": "llama-py", "timestamp": int(time.time()), "completionTokens": 1000}
    lines = [json.dumps(event | ({"id": f"py-{n}"} if n % 2 else {})) for n in range(301)]
    with _start_lossy_proxy(setup.exporter) as front:
        told = _run_push_py(setup.env | {"AI_SPEND_URL": front.url}, lines)
    assert (told.returncode, told.stderr) == (0, "")
    assert [len(json.loads(body)["events"]) for body in front.bodies] == [300, 300, 1]
    assert front.bodies[0] == front.bodies[1]
    setup.wait_until_value(301, "ai_requests_30d", account="gateway", model="llama-py")
    setup.wait_until_value(301_000, "ai_tokens_30d", account="gateway", model="llama-py", type="output")


def test_the_python_file_reports_rejected_events(setup: ExampleSetup) -> None:
    """push.py ends with 1 and the reason where an event is refused, the token is nobody's or a line is no JSON."""
    bad = json.dumps({"id": "py-bad", "provider": "vllm", "model": "llama"})
    told = _run_push_py(setup.env, [bad])
    assert (told.returncode, told.stderr) == (1, "py-bad: timestamp is missing\n")
    told = _run_push_py(setup.env | {"AI_SPEND_TOKEN": "another"}, [bad])
    assert told.returncode == 1
    assert told.stderr.startswith('not pushed: 401: {"error":')
    told = _run_push_py(setup.env, ["{"])
    assert told.returncode == 1
    assert told.stderr.startswith("not pushed: ")
    assert "Traceback" not in told.stderr


_PROMPT, _REPLY = "Whom shall we acquire?", "The harbour company."
_USAGE = {"prompt_tokens": 12000, "completion_tokens": 800, "total_tokens": 12800}
_GATEWAY_SCRIPT = """
import asyncio, json, sys
from datetime import datetime
from litellm_callback import spend

now = datetime.now()
for kwargs, response in json.load(sys.stdin):
    spend.log_success_event(kwargs, response, now, now)
    asyncio.run(spend.async_log_success_event(kwargs, response, now, now))
print("answered", flush=True)
"""


def _make_litellm_call(name: str, cost: float | None, **overrides: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the kwargs and the response of a call, as LiteLLM documents them; ours are a few of the many keys."""
    details = {"cached_tokens": 9000, "cache_creation_tokens": 1000, "audio_tokens": None}
    messages = [{"role": "user", "content": _PROMPT}]
    choices = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": _REPLY}}]
    response = {"id": name, "object": "chat.completion", "model": "claude-lite", "choices": choices, "usage": _USAGE}
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
        **_USAGE,
        "metadata": {
            "user_api_key_hash": "e3b0c442",
            "user_api_key_alias": "search-prod",
            "user_api_key_team_alias": "Search",
            "user_api_key_team_id": "0c4e",
            "usage_object": {**_USAGE, "prompt_tokens_details": details},
        },
        "messages": messages,
        "response": response,
    }
    kwargs = {"model": "claude-lite", "messages": messages, "litellm_call_id": "6e1f", "response_cost": cost}
    return {**kwargs, "standard_logging_object": payload | overrides}, response


@pytest.fixture(name="gateway_environment")
def _gateway_environment(setup: ExampleSetup, tmp_path: Path) -> dict[str, str]:
    """Return what a process that has LiteLLM, or what stands in for it, needs to find our callback."""
    if importlib.util.find_spec("litellm") is None:
        (tmp_path / "litellm" / "integrations").mkdir(parents=True)
        (tmp_path / "litellm" / "integrations" / "custom_logger.py").write_text("class CustomLogger: pass\n")
    return setup.env | {"PYTHONPATH": f"{EXAMPLES}:{tmp_path}", "PYTHONDONTWRITEBYTECODE": "1"}


def test_a_litellm_proxy_pushes_the_cost_of_its_calls(setup: ExampleSetup, gateway_environment: dict[str, str]) -> None:
    """A call that is told twice and sent twice is counted once, before the process ends; no prompt or reply is sent."""
    calls = [
        _make_litellm_call("chatcmpl-1", 0.021),
        _make_litellm_call("chatcmpl-2", 0.004),
        _make_litellm_call("chatcmpl-3", 0.0, cache_hit=True),
        _make_litellm_call("chatcmpl-4", None, model="llama-lite", custom_llm_provider="hosted_vllm"),
        ({"standard_logging_object": None}, {}),
        ({"standard_logging_object": {"model": "without all else"}}, {}),
    ]
    command = [sys.executable, "-c", _GATEWAY_SCRIPT]
    with _start_lossy_proxy(setup.exporter) as front:
        env = gateway_environment | {"AI_SPEND_URL": front.url}
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
    setup.wait_until_value(0.025, "ai_cost_30d_usd", **labels)
    setup.wait_until_value(2, "ai_requests_30d", **labels)
    tokens = {"uncached_input": 4000, "cache_read": 18000, "cache_write": 2000, "output": 1600}
    assert {one: setup.value("ai_tokens_30d", type=one, **labels) for one in tokens} == tokens
    # LiteLLM knows no price of it: that is no price of zero, and the document's own is taken.
    setup.wait_until_value(0.00088, "ai_cost_30d_usd", account="gateway", provider="hosted_vllm", model="llama-lite")


def test_a_litellm_proxy_does_not_wait_for_the_exporter(gateway_environment: dict[str, str]) -> None:
    """Where nobody answers, calls go on at once and the log says so."""
    with subprocess.Popen(
        [sys.executable, "-c", _GATEWAY_SCRIPT],
        env=gateway_environment | {"AI_SPEND_URL": f"http://{UNUSED_ADDRESS}"},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(json.dumps([_make_litellm_call(f"chatcmpl-{n}", 0.01) for n in range(100)]))
        process.stdin.close()
        began = time.monotonic()
        assert process.stdout.readline() == "answered\n"
        assert time.monotonic() - began < 2
        assert "ai-spend-exporter has not answered, trying again" in process.stderr.readline()
        process.kill()
