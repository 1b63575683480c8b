"""`demo`: simulated providers, this exporter and, if installed, Prometheus and Alertmanager."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import yaml

from exporter.analysis.budgets import matches
from exporter.app import App, Dependencies
from exporter.backtest.rule_files import find_prometheus_folder
from exporter.config import configuration as settings
from exporter.demo.alert_webhook import serve_webhook
from exporter.errors import ExporterError, LedgerError
from exporter.model import NANO
from exporter.providers import PROVIDERS
from exporter.simulator.accounts import SimAccount
from exporter.simulator.server import base_url
from exporter.simulator.world import demo_world
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.aggregation import Totals, aggregate_days
from exporter.snapshot.labels import SpendLabels
from exporter.ui.links import PageLinks
from exporter.web.server import listen, serve
from exporter.windows import calendar_windows

PrintLine = Callable[[str], object]
READY_TIMEOUT = 60
"""Seconds to wait for the first complete page before reporting that polling is slow."""


class DemoError(ExporterError):
    """The demo cannot start here."""


def run_demo(
    address: str,
    prometheus_port: int,
    alertmanager_port: int,
    clock: Callable[[], datetime],
    print_line: PrintLine,
    page_links: PageLinks,
) -> None:
    """Run until SIGINT or SIGTERM, then remove all temporary files.

    Raises ExporterError whose text says what to do.
    """
    sock = listen(address)
    exporter_address = _reachable_address(sock)
    with tempfile.TemporaryDirectory(prefix="ai-spend-demo-") as temporary, _run_simulator() as url:
        folder = Path(temporary)
        accounts = demo_world(clock).accounts.values()
        config = settings.load(write_config(folder, accounts, url), PROVIDERS)
        print_line(
            f"Simulated admin APIs       {url}  ({len(config.accounts)} accounts, 30 days of history, an ongoing spike)"
        )
        app = App(folder / "ledger", Dependencies(clock, time.monotonic, {}, PROVIDERS, page_links=page_links))
        app.apply(config)
        with _run_stack(folder, exporter_address, prometheus_port, alertmanager_port, print_line):
            threading.Thread(
                target=_print_when_complete, args=(app, config, clock, exporter_address, print_line), daemon=True
            ).start()
            serve(app, app.handlers(), sock, lambda: None)
    print_line("Stopped.")


def write_config(folder: Path, accounts: Iterable[SimAccount], url: str) -> Path:
    """Write a configuration of simulated accounts, with one file per key; return its path."""
    entries = []
    for account in accounts:
        key = folder / f"{account.name}.key"
        key.touch(mode=0o600)
        key.write_text(account.key)
        entries.append(
            {
                "name": account.name,
                "provider": account.provider,
                "owner": account.owner,
                "api_key_file": str(key),
                "base_url": base_url(url, account),
                **({"options": dict(account.options)} if account.options else {}),
            }
        )
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"defaults": {"poll_interval": "15s"}, "accounts": entries}, sort_keys=False))
    return path


@contextlib.contextmanager
def _run_simulator() -> Iterator[str]:
    """Run the simulator in a separate process; yield its URL."""
    command = [sys.executable, "-m", "exporter.simulator", "--incident"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        url = process.stdout.readline().strip()
        if not url:
            raise DemoError("The simulator did not start; its error message is above.")
        yield url
        process.communicate()


def _reachable_address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104 - compared, not bound


def _print_when_complete(
    app: App, config: settings.Config, clock: Callable[[], datetime], exporter_address: str, print_line: PrintLine
) -> None:
    start = time.monotonic()
    is_complete = _wait_until_complete(app, READY_TIMEOUT)
    if is_complete:
        _apply_budgets(app, config, clock())
        print_line(f"Thirty days of history fetched in {time.monotonic() - start:.1f} s. Open")
    else:
        print_line(f"Still fetching history after {READY_TIMEOUT} s. The data so far is on")
    print_line(f"  http://{exporter_address}/            accounts, their health and spend")
    print_line(f"  http://{exporter_address}/metrics     metrics for Prometheus")
    print_line("Ctrl-C stops everything.")
    if not is_complete:
        _wait_until_complete(app, math.inf)
        _apply_budgets(app, config, clock())


def _wait_until_complete(app: App, timeout: float) -> bool:
    """Wait until every account was polled completely; return False after `timeout` seconds."""
    start = time.monotonic()
    while not app.up_to_date:
        if time.monotonic() - start >= timeout:
            return False
        time.sleep(0.1)
    return True


def _apply_budgets(app: App, config: settings.Config, now: datetime) -> None:
    with contextlib.suppress(LedgerError):  # the demo has been stopped meanwhile
        app.apply(config.model_copy(update={"budgets": _create_budgets(app.snapshots.all(), now)}))


def _create_budgets(snapshots: Sequence[AccountSnapshot], now: datetime) -> tuple[settings.Budget, ...]:
    """Return budgets with limits relative to the spend of this month, so that one is nearly spent on any day.

    They need the complete spend: before the first polls have ended the demo has no budgets.
    """
    month = calendar_windows(now, None)["month"]

    def budget(name: str, owner: str, spent_ratio: float, match: Mapping[str, str]) -> settings.Budget:
        def is_counted(snapshot: AccountSnapshot, labels: SpendLabels) -> bool:
            return matches(match, {"owner": snapshot.account.owner, "workspace": labels.workspace})

        spent = aggregate_days(snapshots, month, is_counted).get(True, Totals()).cost / NANO
        limit = Decimal(max(10, round(spent / spent_ratio, -1)))
        selection = settings.BudgetMatch(**match)
        return settings.Budget(name=name, owner=owner, period="month", limit_usd=limit, match=selection)

    return (
        budget("everything", "platform", 0.55, {}),
        budget("research-month", "research", 0.86, {"owner": "research"}),
        budget("agents-month", "platform", 0.5, {"workspace": "Coding agents"}),
    )


@contextlib.contextmanager
def _run_stack(
    folder: Path, exporter_address: str, prometheus_port: int, alertmanager_port: int, print_line: PrintLine
) -> Iterator[None]:
    """Run Prometheus and Alertmanager, if installed, on copies of the repository's configuration and rules."""
    missing = []
    with contextlib.ExitStack() as stack:
        files = _copy_files(folder, exporter_address, alertmanager_port, _start_webhook(stack, print_line))
        for name, port, arguments in (
            ("alertmanager", alertmanager_port, ["--cluster.listen-address="]),
            ("prometheus", prometheus_port, ["--storage.tsdb.retention.time=40d"]),
        ):
            program = shutil.which(name) or shutil.which(f"prometheus-{name}")
            if program is None:
                missing.append(name)
                continue
            _check_port_free(name, port)
            config = f"--config.file={files / name}.yml"
            storage = f"--storage.{'tsdb.' if name == 'prometheus' else ''}path={folder / name}"
            listen_flag = f"--web.listen-address=127.0.0.1:{port}"
            command = [program, config, storage, listen_flag, "--log.level=error", *arguments]
            stack.enter_context(_run_process(command, folder / f"{name}.log"))
            print_line(f"{name.capitalize():<26} http://127.0.0.1:{port}")
        if missing:
            _print_install_command(missing, print_line)
        yield


_DEBIAN_PACKAGES = {"prometheus": "prometheus", "alertmanager": "prometheus-alertmanager"}


def _print_install_command(missing: Sequence[str], print_line: PrintLine) -> None:
    """Print one command that installs the missing servers on Debian and Ubuntu.

    The packages start services on the ports that the demo uses, so the command stops them.
    """
    names = " and ".join(name.capitalize() for name in reversed(missing))
    packages = " ".join(_DEBIAN_PACKAGES[name] for name in reversed(missing))
    sudo = "" if os.geteuid() == 0 else "sudo "
    print_line(f"{'Not installed':<26} {names}; without them no alert fires. To install, run")
    print_line(f"  {sudo}sh -c 'apt-get update && apt-get install -y {packages}; systemctl disable --now {packages}'")


def _start_webhook(stack: contextlib.ExitStack, print_line: PrintLine) -> str:
    """Start the webhook that prints notifications; return its address."""
    sock = listen("127.0.0.1:0")
    stack.enter_context(serve_webhook(sock, print_line))
    return _reachable_address(sock)


def _copy_files(folder: Path, exporter_address: str, alertmanager_port: int, webhook_address: str) -> Path:
    """Copy prometheus/ with the demo's addresses and shorter intervals."""
    target = folder / "files"
    shutil.copytree(find_prometheus_folder(), target)
    changes = {
        "ai-spend-exporter:10042": exporter_address,
        "alertmanager:9093": f"127.0.0.1:{alertmanager_port}",
        "notices:10043": webhook_address,
        # Alerts should fire while the user watches.
        "scrape_interval: 15s": "scrape_interval: 5s",
        "evaluation_interval: 15s": "evaluation_interval: 5s",
        "group_wait: 30s": "group_wait: 5s",
    }
    for name in ("prometheus.yml", "alertmanager.yml"):
        path = target / name
        text = path.read_text()
        for old, new in changes.items():
            text = text.replace(old, new)
        path.write_text(text)
    return target


def _check_port_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise DemoError(
                f"Port {port} is in use, so {name} cannot listen on it. Stop the process that uses it, or choose "
                f"another port with --{name}.port."
            )


@contextlib.contextmanager
def _run_process(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as stream:
        # In a new session, so that Ctrl-C reaches only this process, which then stops its children in order.
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
