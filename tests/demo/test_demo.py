"""`demo` as a user runs it: a separate process, real Prometheus and Alertmanager, Ctrl-C at the end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.command import wait_until
from tests.paths import ROOT

ACCOUNTS = 5
TIMEOUT = 180
"""Seconds: far more than a slow machine takes, so that only a failure is a timeout."""
MAX_API_CALLS = 200
"""Of the first complete page: thirty days of every report of five accounts in whole pages, measured at about 160."""
ALERT_DETAILS = ("AICostSpike", "acme-openai / Site search: $", "AIBudgetNearlySpent", "research-month")


@dataclass
class Demo:
    """A running demo, its addresses and its output so far."""

    process: subprocess.Popen[str]
    exporter: str
    prometheus: str
    alertmanager: str
    output_lines: list[str] = field(default_factory=list)
    budget_limits: set[str] = field(default_factory=set)
    """The samples of `ai_budget_limit_usd` on any page that was read until all accounts were complete."""
    client: httpx.Client = field(default_factory=httpx.Client)

    @property
    def output(self) -> str:
        """Everything printed so far."""
        return "".join(self.output_lines)

    def get(self, url: str) -> httpx.Response | None:
        """Return the response, or None while nothing listens."""
        try:
            return self.client.get(url)
        except httpx.TransportError:
            return None

    def metrics(self) -> str:
        """Return the exporter's page; empty while it does not listen."""
        answer = self.get(f"{self.exporter}/metrics")
        return answer.text if answer else ""

    def is_complete(self) -> bool:
        """Return whether every account was polled completely."""
        page = self.metrics()
        self.budget_limits.update(re.findall(r"^ai_budget_limit_usd\{.*$", page, re.MULTILINE))
        return len(re.findall(r"^ai_account_up\{.*\} 1$", page, re.MULTILINE)) == ACCOUNTS

    def query(self, expression: str) -> dict[tuple[str, ...], float]:
        """Run an instant query: label values -> value; empty while Prometheus is not ready."""
        answer = self.get(f"{self.prometheus}/api/v1/query?{httpx.QueryParams(query=expression)}")
        result = answer.json().get("data", {}).get("result", []) if answer else []
        return {tuple(sample["metric"].values()): float(sample["value"][1]) for sample in result}

    def firing_alerts(self) -> set[str]:
        """Return the names of the alerts that fire in Prometheus."""
        return {labels[0] for labels in self.query('count by (alertname) (ALERTS{alertstate="firing"})')}


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in sockets]


@contextmanager
def _start_demo(folder: Path, *, stack: bool = True) -> Iterator[Demo]:
    exporter, prometheus, alertmanager = _free_ports(3)
    command = [sys.executable, "-m", "exporter", "demo", f"--web.listen-address=127.0.0.1:{exporter}"]
    command += [f"--prometheus.port={prometheus}", f"--alertmanager.port={alertmanager}"]
    path = os.environ["PATH"] if stack else "/nonexistent"
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", "PATH": path}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    addresses = [f"http://127.0.0.1:{port}" for port in (exporter, prometheus, alertmanager)]
    demo = Demo(process, exporter=addresses[0], prometheus=addresses[1], alertmanager=addresses[2])
    reader = threading.Thread(target=_collect_output, args=(demo,))
    reader.start()
    try:
        yield demo
    finally:
        # Only a demo that is terminated stops its own children; killed, it would leave them running.
        process.terminate()
        try:
            process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        demo.client.close()
        if process.stdout is not None:
            process.stdout.close()


def _collect_output(demo: Demo) -> None:
    assert demo.process.stdout is not None
    demo.output_lines.extend(iter(demo.process.stdout.readline, ""))


def _sum_samples(page: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}\{{.*\}} (\S+)$", page, re.MULTILINE))


@pytest.fixture(name="demo", scope="module")
def _run_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Run a demo whose accounts are completely polled."""
    with _start_demo(tmp_path_factory.mktemp("demo")) as demo:
        wait_until("a complete page", demo.is_complete, TIMEOUT)
        yield demo


def test_the_first_complete_page_takes_few_api_calls(demo: Demo) -> None:
    """Thirty days of five accounts are fetched in whole pages, without a failed or repeated request."""
    page = demo.metrics()
    assert len(set(re.findall(r'^ai_cost_daily_usd\{.*date="([^"]+)"', page, re.MULTILINE))) >= 30
    assert set(re.findall(r'^ai_account_api_requests_total\{.*code="(\w+)"\}', page, re.MULTILINE)) == {"200"}
    polls = [int(count) for count in re.findall(r"^ai_account_polls_total\{.*\} (\d+)$", page, re.MULTILINE)]
    # A slow machine may poll the hourly reports again meanwhile, which takes a page or two.
    repeated = sum(polls) - len(polls)
    assert _sum_samples(page, "ai_account_api_requests_total") <= MAX_API_CALLS + 2 * repeated


def test_budgets_have_no_limit_before_their_spend_is_known(demo: Demo) -> None:
    """The demo has no budget while its first polls are under way, and then each with its final limit."""
    wait_until("budgets", lambda: "ai_budget_limit_usd{" in demo.metrics(), TIMEOUT)
    limits = set(re.findall(r"^ai_budget_limit_usd\{.*$", demo.metrics(), re.MULTILINE))
    assert len(limits) == 3
    assert demo.budget_limits <= limits
    assert all(float(sample.rpartition(" ")[2]) > 100 for sample in limits)


def test_prometheus_has_the_cost_of_now_and_of_thirty_days(demo: Demo) -> None:
    """Prometheus scrapes the complete page, reads thirty days of history, and sends alerts to Alertmanager."""
    wait_until("a scrape", lambda: demo.query("count(ai_account_up == 1)") == {(): ACCOUNTS}, TIMEOUT)
    series = demo.query("sum by (provider, model, workspace) (ai_cost_today_usd)")
    assert len(series) > 50
    assert {"openai", "anthropic", "cursor"} <= {label for labels in series for label in labels}
    month = sum(demo.query("sum by (account) (ai_cost_month_usd)").values())
    assert month == pytest.approx(_sum_samples(demo.metrics(), "ai_cost_month_usd"), rel=0.01)
    assert len(demo.query("sum by (account) (count_over_time(ai_hourly_cost_usd[30d]))")) == ACCOUNTS
    assert demo.query("count(sum_over_time(ai_hourly_cost_usd[1d] offset 29d))")[()] > 50
    configured = demo.client.get(f"{demo.prometheus}/api/v1/alertmanagers").json()["data"]["activeAlertmanagers"]
    assert configured == [{"url": f"{demo.alertmanager}/api/v2/alerts"}]
    assert demo.client.get(f"{demo.alertmanager}/-/ready").status_code == 200


def test_a_spike_and_a_nearly_spent_budget_fire_and_are_printed(demo: Demo) -> None:
    """A spike and a nearly spent budget fire and are printed with their details, and no unexpected alert fires."""
    wait_until("firing", lambda: {"AICostSpike", "AIBudgetNearlySpent"} <= demo.firing_alerts(), TIMEOUT)
    ratio = demo.query('budget:ai_budget_spent_usd:ratio{budget="research-month"}')
    assert all(0.8 <= value < 0.92 for value in ratio.values())
    wait_until("printed", lambda: all(text in demo.output for text in ALERT_DETAILS), TIMEOUT)
    assert demo.firing_alerts() <= {
        "AICostSpike",
        "AIBudgetThresholdReached",
        "AIBudgetNearlySpent",
        "AIRequestSpike",
        "AIRunawaySpend",
    }
    assert "AIRequestSpike" not in demo.output


def test_ctrl_c_stops_every_server_and_removes_all_files(tmp_path: Path) -> None:
    """After SIGINT the demo ends with status 0, nothing listens, and no file is left."""
    with _start_demo(tmp_path) as demo:
        for url in (f"{demo.prometheus}/-/ready", f"{demo.alertmanager}/-/ready", f"{demo.exporter}/-/healthy"):
            wait_until(url, lambda url=url: (answer := demo.get(url)) and answer.status_code == 200, TIMEOUT)  # type: ignore[misc]
        assert list(tmp_path.iterdir())
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(TIMEOUT) == 0
        for address in (demo.exporter, demo.prometheus, demo.alertmanager):
            with pytest.raises(httpx.ConnectError):
                demo.client.get(address)
    assert list(tmp_path.iterdir()) == []
    assert demo.output.rstrip().endswith("Stopped.")


def test_missing_servers_are_reported_with_one_command_that_installs_them(tmp_path: Path) -> None:
    """Without Prometheus and Alertmanager the demo runs anyway and prints one command that installs both."""
    with _start_demo(tmp_path, stack=False) as demo:
        wait_until("the exporter", lambda: demo.get(f"{demo.exporter}/-/healthy"), TIMEOUT)
        demo.process.send_signal(signal.SIGTERM)
        assert demo.process.wait(TIMEOUT) == 0
    assert "Prometheus and Alertmanager; without them no alert fires." in demo.output
    assert demo.output.count("apt-get install -y prometheus prometheus-alertmanager;") == 1


def test_a_port_in_use_is_reported(tmp_path: Path) -> None:
    """If the port is in use, the message names the address and the flag that changes it."""
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        address = f"127.0.0.1:{occupied.getsockname()[1]}"
        ended = subprocess.run(
            [sys.executable, "-m", "exporter", "demo", f"--web.listen-address={address}"],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    assert ended.returncode == 1
    assert f"Cannot listen on {address}: Address already in use" in ended.stderr
    assert "--web.listen-address" in ended.stderr
    assert "Traceback" not in ended.stderr
