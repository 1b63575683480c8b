"""`demo`: simulated providers, this exporter and, where they are installed, Prometheus and Alertmanager."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import yaml

from exporter.app import App, Dependencies
from exporter.backtest.rule_files import find_prometheus_folder
from exporter.config import configuration as settings
from exporter.demo.alert_webhook import serve_webhook
from exporter.errors import ExporterError, LedgerError
from exporter.providers import PROVIDERS
from exporter.simulator.accounts import SimAccount
from exporter.simulator.server import base_url
from exporter.simulator.world import demo_world
from exporter.web.server import listen, serve

PrintLine = Callable[[str], object]
READY_TIMEOUT = 60
"""Seconds to wait for the first complete page before saying that something is slow."""


class DemoError(ExporterError):
    """The demo cannot start here."""


def run_demo(
    address: str, prometheus_port: int, alertmanager_port: int, clock: Callable[[], datetime], print_line: PrintLine
) -> None:
    """Run until SIGINT or SIGTERM, then leave nothing behind. Raises ExporterError with what to do."""
    opened = listen(address)
    here = _reachable_address(opened)
    with tempfile.TemporaryDirectory(prefix="ai-spend-demo-") as temporary, _run_simulator() as url:
        folder = Path(temporary)
        accounts = demo_world(clock).accounts.values()
        config = settings.load(write_config(folder, accounts, url), PROVIDERS)
        print_line(
            f"Simulated admin APIs       {url}  ({len(config.accounts)} accounts, 30 days of past, a spike going on)"
        )
        app = App(folder / "ledger", Dependencies(clock, time.monotonic, {}, PROVIDERS))
        app.apply(config)
        with _run_stack(folder, here, prometheus_port, alertmanager_port, print_line):
            threading.Thread(target=_print_when_complete, args=(app, config, here, print_line), daemon=True).start()
            serve(app, app.handlers(), opened, lambda: None)
    print_line("Stopped.")


def write_config(folder: Path, accounts: Iterable[SimAccount], url: str) -> Path:
    """Write a configuration of simulated accounts, each key in a file of its own; return its path."""
    written = []
    for account in accounts:
        key = folder / f"{account.name}.key"
        key.touch(mode=0o600)
        key.write_text(account.key)
        written.append(
            {
                "name": account.name,
                "provider": account.provider,
                "owner": account.owner,
                "api_key_file": str(key),
                "base_url": base_url(url, account),
            }
        )
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"defaults": {"poll_interval": "15s"}, "accounts": written}, sort_keys=False))
    return path


@contextlib.contextmanager
def _run_simulator() -> Iterator[str]:
    """Run the simulator beside us, on a core of its own; tell its address."""
    command = [sys.executable, "-m", "exporter.simulator", "--incident"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        url = process.stdout.readline().strip()
        if not url:
            raise DemoError("The simulator did not start; what it said stands above.")
        yield url
        process.communicate()


def _reachable_address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104 - compared, not bound


def _print_when_complete(app: App, config: settings.Config, exporter_address: str, print_line: PrintLine) -> None:
    began = time.monotonic()
    while not app.up_to_date and time.monotonic() - began < READY_TIMEOUT:
        time.sleep(0.1)
    with contextlib.suppress(LedgerError):  # the demo has been ended meanwhile
        app.apply(config.model_copy(update={"budgets": _create_budgets(app, config)}))
    if app.up_to_date:
        print_line(f"Thirty days read in {time.monotonic() - began:.1f} s. Open")
    else:
        print_line(f"Still reading after {READY_TIMEOUT} s; what is there already is on")
    print_line(f"  http://{exporter_address}/            accounts, their health and their money")
    print_line(f"  http://{exporter_address}/metrics     what Prometheus scrapes")
    print_line("Ctrl-C stops everything.")


def _create_budgets(app: App, config: settings.Config) -> tuple[settings.Budget, ...]:
    """Return budgets that are worth looking at whatever the day of the month: one is nearly spent."""

    def budget(name: str, owner: str, part: float, match: Mapping[str, str]) -> settings.Budget:
        one = settings.Budget(
            name=name, owner=owner, period="month", limit_usd=Decimal(1), match=settings.BudgetMatch(**match)
        )
        app.apply(config.model_copy(update={"budgets": (one,)}))
        found = re.search(rb"^ai_budget_spent_usd\{.*\} (\S+)$", app.handlers().page().spend.plain, re.MULTILINE)
        spent = float(found[1]) if found else 0.0
        return one.model_copy(update={"limit_usd": Decimal(max(10, round(spent / part, -1)))})

    return (
        budget("everything", "platform", 0.55, {}),
        budget("research-month", "research", 0.86, {"owner": "research"}),
        budget("agents-month", "platform", 0.5, {"workspace": "Coding agents"}),
    )


@contextlib.contextmanager
def _run_stack(
    folder: Path, exporter_address: str, prometheus_port: int, alertmanager_port: int, print_line: PrintLine
) -> Iterator[None]:
    """Run Prometheus and Alertmanager on the repository's own files, where they are installed."""
    with contextlib.ExitStack() as stack:
        files = _copy_files(folder, exporter_address, alertmanager_port, _start_webhook(stack, print_line))
        for name, port, arguments in (
            ("alertmanager", alertmanager_port, ["--cluster.listen-address="]),
            ("prometheus", prometheus_port, ["--storage.tsdb.retention.time=40d"]),
        ):
            program = shutil.which(name) or shutil.which(f"prometheus-{name}")
            if program is None:
                print_line(
                    f"{name.capitalize():<26} not installed here, left out (apt-get install {_DEBIAN_PACKAGES[name]})"
                )
                continue
            _check_port_free(name, port)
            config = f"--config.file={files / name}.yml"
            storage = f"--storage.{'tsdb.' if name == 'prometheus' else ''}path={folder / name}"
            listening = f"--web.listen-address=127.0.0.1:{port}"
            command = [program, config, storage, listening, "--log.level=error", *arguments]
            stack.enter_context(_run_process(command, folder / f"{name}.log"))
            print_line(f"{name.capitalize():<26} http://127.0.0.1:{port}")
        yield


_DEBIAN_PACKAGES = {"prometheus": "prometheus", "alertmanager": "prometheus-alertmanager"}


def _start_webhook(stack: contextlib.ExitStack, print_line: PrintLine) -> str:
    """Print what Alertmanager sends; return where it has to send to."""
    opened = listen("127.0.0.1:0")
    stack.enter_context(serve_webhook(opened, print_line))
    return _reachable_address(opened)


def _copy_files(folder: Path, exporter_address: str, alertmanager_port: int, webhook_address: str) -> Path:
    """Copy prometheus/ and put the demo's addresses in the place of the usual ones."""
    target = folder / "files"
    shutil.copytree(find_prometheus_folder(), target)
    usual = {
        "ai-spend-exporter:10042": exporter_address,
        "alertmanager:9093": f"127.0.0.1:{alertmanager_port}",
        "notices:10043": webhook_address,
        "group_wait: 30s": "group_wait: 5s",  # nobody waits for a demo
    }
    for name in ("prometheus.yml", "alertmanager.yml"):
        path = target / name
        text = path.read_text()
        for old, new in usual.items():
            text = text.replace(old, new)
        path.write_text(text)
    return target


def _check_port_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise DemoError(
                f"Port {port} is in use, so {name} cannot have it. Stop what listens there, or give another port with "
                f"--{name}.port."
            )


@contextlib.contextmanager
def _run_process(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as stream:
        # A session of its own: Ctrl-C reaches only us, and we end it in order.
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)  # noqa: S603
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
