"""docs/push.md and docs/examples: every command and example prints the output in the document."""

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
from exporter.web.api import REREAD_PATH
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
    """Yield every command of the document and the output below it."""
    for block in _blocks("console"):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            found = _COMMAND.fullmatch(example)
            assert found is not None
            yield found[1], found[2]


def _scripts(node: object) -> Iterator[str]:
    if isinstance(node, str) and "curl" in node:
        yield node
    elif isinstance(node, list | dict):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _scripts(child)


MAKE_TOKEN, *COMMANDS = _commands()
YAML = [yaml.safe_load(block) for block in _blocks("yaml")]
CI_STEPS = list(_scripts(YAML))


@dataclass(frozen=True)
class ExampleSetup:
    """An exporter that runs with the document's configuration, and the folder of its secrets."""

    exporter: ExporterProcess
    secrets: Path

    def localize(self, command: str) -> str:
        """Replace the document's address and folder in a command."""
        return command.replace("http://ai-spend-exporter:10042", self.exporter.url).replace(
            "/run/secrets", str(self.secrets)
        )

    @property
    def env(self) -> dict[str, str]:
        """The environment that every example requires."""
        token = (self.secrets / "gateway").read_text().strip()
        return {"PATH": ENVIRONMENT["PATH"], "AI_SPEND_URL": self.exporter.url, "AI_SPEND_TOKEN": token}

    def value(self, name: str, **labels: str) -> float | None:
        """Return the sum of a metric over the series with these labels, rounded to the nano; None without any."""
        families = text_string_to_metric_families(self.exporter.get().text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        values = [sample.value for sample in samples if labels.items() <= sample.labels.items()]
        return round(sum(values), 9) if values else None

    def wait_until_value(self, value: float, name: str, **labels: str) -> None:
        """Wait until /metrics has a value."""
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
        examples = [example for example in YAML if "ingest" in example]
        document["ingest"] = {"sources": [source for example in examples for source in example["ingest"]["sources"]]}
        document["budgets"] = [budget for example in examples for budget in example.get("budgets", [])]
        at.config.write_text(yaml.safe_dump(document).replace("/run/secrets", str(secrets)))
        with start_exporter(*at.flags) as exporter:
            exporter.wait_until_up("acme-openai")
            yield ExampleSetup(exporter, secrets)


@contextmanager
def _start_shell(folder: Path) -> Iterator[Callable[[str], str]]:
    """Start a shell that keeps its variables; yield a function that runs a command in it and returns the output."""
    with subprocess.Popen(
        ["sh"], cwd=folder, env={"PATH": ENVIRONMENT["PATH"]}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def run(command: str) -> str:
            stdin.write(f"{command}\nprintf '\\0'\n")
            stdin.flush()
            return "".join(iter(lambda: stdout.read(1), "\0"))

        yield run


def test_every_command_prints_the_output_of_the_document(setup: ExampleSetup, tmp_path: Path) -> None:
    """The commands, run one after the other, print the output in the document."""
    with _start_shell(tmp_path) as run:
        for command, printed in COMMANDS:
            assert printed or "curl" not in command
            expected = re.escape(printed.strip()).replace("…", ".*")
            output = run(setup.localize(command)).strip()
            end = time.monotonic() + 60
            # Pushed events are exported a moment later: commands that only read are repeated until then.
            while "-d @" not in command and not re.fullmatch(expected, output) and time.monotonic() < end:
                output = run(setup.localize(command)).strip()
            assert re.fullmatch(expected, output), f"{command}{output}"


def test_no_command_of_the_document_is_left_out() -> None:
    """Every curl command of the document is run."""
    run = [*(command for command, _ in COMMANDS), *CI_STEPS]
    assert len(CI_STEPS) == 2
    assert sum(command.count("curl -") for command in run) == PUSH_DOC.count("curl -") >= 7


@pytest.mark.parametrize("script", CI_STEPS, ids=["github", "gitlab"])
def test_a_ci_step_reports_a_change_event(setup: ExampleSetup, script: str) -> None:
    """The steps for GitHub Actions and GitLab, with the variables of these systems, report a change event."""
    github = {"REF_NAME": "v1.2", "REPOSITORY": "acme/search", "SERVER_URL": "https://github.com", "RUN_ID": "77"}
    gitlab = {"COMMIT_REF_NAME": "v1.3", "PROJECT_PATH": "acme/web", "PIPELINE_URL": "https://gitlab.com/acme/web/78"}
    env = {f"GITHUB_{name}": value for name, value in github.items()}
    env |= {f"CI_{name}": value for name, value in gitlab.items()}
    began = int(time.time())
    result = subprocess.run(["sh", "-ec", script], env=setup.env | env, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ('{"status":"accepted"}', "")
    title, service, link = (
        ("deploy v1.2", "acme/search", "https://github.com/acme/search/actions/runs/77")
        if "GITHUB" in script
        else ("deploy v1.3", "acme/web", "https://gitlab.com/acme/web/78")
    )
    timestamp = setup.value("ai_change_timestamp_seconds", title=title, service=service, link=link)
    assert timestamp is not None
    assert began <= timestamp <= time.time()
    changes = setup.exporter.get("/api/v1/ai/usage/summary").json()["changes"]
    assert (title, service, link) in [(change["title"], change["service"], change["link"]) for change in changes]


def test_the_document_lists_every_field_and_no_other() -> None:
    """The table has the fields of the model, with their defaults."""
    section = PUSH_DOC.split("## Fields")[1].split("\n## ")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| `?(\w*)`? ?\|", section, re.MULTILINE))
    assert documented == {to_camel(name): _default(field) for name, field in UsageEventBody.model_fields.items()}


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return {None: "", "": "empty"}.get(field.default, str(field.default))


def test_the_document_lists_every_response_and_no_other(setup: ExampleSetup) -> None:
    """The table of responses has the status codes of the OpenAPI document."""
    paths = setup.exporter.get("/api/v1/openapi.json").json()["paths"]
    pushes = [operations["post"] for path, operations in paths.items() if path != REREAD_PATH and "post" in operations]
    described = {status for push in pushes for status in push["responses"]}
    assert set(re.findall(r"^\| (\d{3}) \|", PUSH_DOC, re.MULTILINE)) == described


def _run_push_sh(setup: ExampleSetup, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(EXAMPLES / "push.sh"), *arguments]
    return subprocess.run(command, env=setup.env | env, capture_output=True, text=True, check=False, timeout=30)


def test_the_shell_script_pushes_one_job(setup: ExampleSetup) -> None:
    """push.sh pushes an event with or without a cost; a repeated one is counted once, also in the document's budget."""
    now = str(int(time.time()))
    for status in ("accepted", "duplicate"):
        result = _run_push_sh(setup, "sh-1", now, "vllm", "llama-sh", "1000000", "500000")
        assert (result.returncode, result.stdout, result.stderr) == (0, f'{{"status":"{status}"}}\n', "")
    assert _run_push_sh(setup, "sh-2", now, "vllm", "llama-sh", "7", "0", "0.25").returncode == 0
    # The document's negotiated prices: $0.20 and $0.60 per million.
    setup.wait_until_value(0.75, "ai_cost_30d_usd", account="gateway", provider="vllm", model="llama-sh")
    setup.wait_until_value(1_500_007, "ai_tokens_30d", account="gateway", provider="vllm", model="llama-sh")
    wait_until(
        "spent", lambda: setup.value("ai_budget_spent_usd") == setup.value("ai_cost_month_usd", account="gateway")
    )


def test_the_shell_script_fails_with_the_reason(setup: ExampleSetup) -> None:
    """push.sh fails with its usage, or with the response of the exporter."""
    result = _run_push_sh(setup, "only-an-id")
    assert (result.returncode, result.stdout) == (2, "")
    assert "push.sh ID TIME PROVIDER MODEL" in result.stderr
    result = _run_push_sh(setup, "sh-3", str(int(time.time())), "vllm", "llama", "-1", "0")
    assert result.returncode != 0
    assert "promptTokens must be at least 0" in result.stdout
    assert _run_push_sh(setup, "sh-3", "0", "vllm", "llama", "1", "0", AI_SPEND_TOKEN="another").returncode != 0


@dataclass
class LossyProxy:
    """A proxy before the exporter that forwards everything but the first response."""

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


def test_the_python_script_counts_once_what_it_sends_twice(setup: ExampleSetup) -> None:
    """push.py sends a batch again after a lost response; each event is counted once, with or without an id."""
    event = {"provider": "vllm", "model": "llama-py", "timestamp": int(time.time()), "completionTokens": 1000}
    lines = [json.dumps(event | ({"id": f"py-{n}"} if n % 2 else {})) for n in range(301)]
    with _start_lossy_proxy(setup.exporter) as proxy:
        result = _run_push_py(setup.env | {"AI_SPEND_URL": proxy.url}, lines)
    assert (result.returncode, result.stderr) == (0, "")
    assert [len(json.loads(body)["events"]) for body in proxy.bodies] == [300, 300, 1]
    assert proxy.bodies[0] == proxy.bodies[1]
    setup.wait_until_value(301, "ai_requests_30d", account="gateway", model="llama-py")
    setup.wait_until_value(301_000, "ai_tokens_30d", account="gateway", model="llama-py", type="output")


def test_the_python_script_reports_rejected_events(setup: ExampleSetup) -> None:
    """push.py exits with 1 and the reason if an event is rejected, the token is unknown or a line is not JSON."""
    bad = json.dumps({"id": "py-bad", "provider": "vllm", "model": "llama"})
    result = _run_push_py(setup.env, [bad])
    assert (result.returncode, result.stderr) == (1, "py-bad: timestamp is missing\n")
    result = _run_push_py(setup.env | {"AI_SPEND_TOKEN": "another"}, [bad])
    assert result.returncode == 1
    assert result.stderr.startswith('not pushed: 401: {"error":')
    result = _run_push_py(setup.env, ["{"])
    assert result.returncode == 1
    assert result.stderr.startswith("not pushed: ")
    assert "Traceback" not in result.stderr


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
    """Return the kwargs and the response of a call, with some of the keys that LiteLLM documents."""
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
    """Return the environment for a process with LiteLLM, or a stand-in for it, and the callback."""
    if importlib.util.find_spec("litellm") is None:
        (tmp_path / "litellm" / "integrations").mkdir(parents=True)
        (tmp_path / "litellm" / "integrations" / "custom_logger.py").write_text("class CustomLogger: pass\n")
    return setup.env | {"PYTHONPATH": f"{EXAMPLES}:{tmp_path}", "PYTHONDONTWRITEBYTECODE": "1"}


def test_a_litellm_proxy_pushes_the_cost_of_its_calls(setup: ExampleSetup, gateway_environment: dict[str, str]) -> None:
    """A call that is logged and sent twice is counted once, before the process exits; no prompt or reply is sent."""
    calls = [
        _make_litellm_call("chatcmpl-1", 0.021),
        _make_litellm_call("chatcmpl-2", 0.004),
        _make_litellm_call("chatcmpl-3", 0.0, cache_hit=True),
        _make_litellm_call("chatcmpl-4", None, model="llama-lite", custom_llm_provider="hosted_vllm"),
        ({"standard_logging_object": None}, {}),
        ({"standard_logging_object": {"model": "without all else"}}, {}),
    ]
    command = [sys.executable, "-c", _GATEWAY_SCRIPT]
    with _start_lossy_proxy(setup.exporter) as proxy:
        env = gateway_environment | {"AI_SPEND_URL": proxy.url}
        result = subprocess.run(
            command, env=env, input=json.dumps(calls), capture_output=True, text=True, check=False, timeout=30
        )
    assert (result.returncode, result.stdout) == (0, "answered\n")
    assert result.stderr.count("the usage of a call is lost: KeyError('id')") == 2
    sent = b"".join(proxy.bodies).decode()
    assert "chatcmpl-1" in sent
    assert [word for word in (_PROMPT, _REPLY, "chatcmpl-3", "e3b0c442") if word in sent] == []
    labels = {"account": "gateway", "provider": "bedrock", "model": "claude-lite", "workspace": "Search"}
    labels |= {"api_key": "search-prod"}
    setup.wait_until_value(0.025, "ai_cost_30d_usd", **labels)
    setup.wait_until_value(2, "ai_requests_30d", **labels)
    tokens = {"uncached_input": 4000, "cache_read": 18000, "cache_write": 2000, "output": 1600}
    assert {token_type: setup.value("ai_tokens_30d", type=token_type, **labels) for token_type in tokens} == tokens
    # LiteLLM has no price for it: the cost is not 0, but priced with the document's negotiated price.
    setup.wait_until_value(0.00088, "ai_cost_30d_usd", account="gateway", provider="hosted_vllm", model="llama-lite")


def test_a_litellm_proxy_does_not_wait_for_the_exporter(gateway_environment: dict[str, str]) -> None:
    """If the exporter does not respond, calls continue and the log reports it."""
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
        # A callback that waited would retry for ever: the watchdog then ends the process without this line.
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        assert process.stdout.readline() == "answered\n"
        watchdog.cancel()
        assert "ai-spend-exporter did not respond, retrying" in process.stderr.readline()
        process.kill()
