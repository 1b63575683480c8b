"""`digest`: the daily summary as text, as JSON and as a webhook."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from exporter.config.configuration import Budget, BudgetMatch
from exporter.model import DAY, HOUR, NANO
from exporter.simulator.world import World
from exporter.snapshot.budgets import evaluate_budgets
from exporter.ui.digest import Digest, build_digest, render_text, to_plain
from exporter.ui.format import format_money
from exporter.ui.links import PageLinks
from tests.command import Sandbox, run_command, start_exporter, start_sandbox
from tests.system import NOON, Clock, System, make_account, midnight, start_system

TODAY = midnight(NOON)
YESTERDAY = TODAY - DAY
LINKS = PageLinks("https://grafana.example", "https://docs.example")


@contextmanager
def start_with_past(folder: Path, *providers: str, now: timedelta = timedelta(0)) -> Iterator[System]:
    """Run an exporter that has polled twenty days, in the second week of which Web is used three times as much."""
    clock = Clock(NOON + now)
    world = World([make_account(name, name) for name in providers], clock, start_time=TODAY - 25 * DAY)  # type: ignore[arg-type]
    for hours in range(7 * 24):
        if "openai" in providers:
            world.revise("openai", TODAY - 7 * DAY + hours * HOUR, 30, "proj_web")
    with start_system(folder, world, clock, history="20d") as system, system.run_exporter():
        system.poll_until_idle()
        yield system


def digest_of(system: System, *budgets: Budget) -> Digest:
    """Return the digest of a system's newest snapshots."""
    system.config = system.config.model_copy(update={"budgets": budgets})
    system.app.apply(system.config)
    snapshots, now = system.app.snapshots.all(), system.clock.now
    return build_digest(snapshots, evaluate_budgets(budgets, snapshots, now), now, LINKS)


def test_the_digest_has_the_numbers_of_the_gauges(tmp_path: Path) -> None:
    """Yesterday, the month, its billed part and its forecast are those of /metrics."""
    with start_with_past(tmp_path, "openai", "anthropic") as system:
        digest = digest_of(system)
        assert digest.day == YESTERDAY
        assert digest.cost == system.nano_usd("ai_cost_daily_usd", date=f"{YESTERDAY:%Y-%m-%d}")
        assert digest.cost_week_before == system.nano_usd("ai_cost_daily_usd", date=f"{YESTERDAY - 7 * DAY:%Y-%m-%d}")
        assert digest.month == system.nano_usd("ai_cost_month_usd")
        assert digest.month_billed == system.nano_usd("ai_cost_month_billed_usd")
        assert digest.month_forecast == system.nano_usd("ai_cost_month_forecast_usd")
        text = render_text(digest)
        assert text.startswith("AI spend of Tuesday, 2026-11-17 (UTC)\n")
        for amount in (digest.cost, digest.month, digest.month_forecast):
            assert format_money(amount or 0) in text
        assert max(map(len, text.splitlines())) < 160


def test_the_largest_changes_come_first(tmp_path: Path) -> None:
    """A workspace whose week cost more, or less, than the one before is listed with both amounts."""
    with start_with_past(tmp_path, "openai", "anthropic") as system:
        digest = digest_of(system)
        mover = digest.movers[0]
        assert (mover.account, mover.workspace) == ("openai", "Web")
        assert mover.last > 5 * mover.previous > 0
        line = f"+{format_money(mover.change)}  openai / Web  ({format_money(mover.last)}, +"
        assert line in render_text(digest)
        assert all(abs(mover.change) >= NANO for mover in digest.movers)


def test_budgets_and_alerts_say_what_to_do(tmp_path: Path) -> None:
    """An exceeded budget comes first, with its alert, a next step and a link to its dashboard."""
    limits = {"large": Decimal(100_000), "small": Decimal("0.01")}
    budgets = [Budget(name=name, period="month", limit_usd=usd, match=BudgetMatch()) for name, usd in limits.items()]
    with start_with_past(tmp_path, "anthropic") as system:
        digest = digest_of(system, *budgets)
        assert [evaluated.budget.name for evaluated in digest.budgets] == ["small", "large"]
        text = render_text(digest)
        assert "  small: exceeded: " in text
        assert "  large: on pace: " in text
        assert "Needs attention (1)\n  Budget exceeded: small\n" in text
        assert "    Next step: Agree with" in text
        assert "https://grafana.example/d/ai-spend-budgets?var-budget=small" in text


def test_a_quiet_day_is_short(tmp_path: Path) -> None:
    """Without budgets, changes and problems the summary is a few lines."""
    with start_with_past(tmp_path, "anthropic") as system:
        text = render_text(digest_of(system))
        assert text.endswith("\nNothing needs attention.\n")
        assert len(text.splitlines()) < 10


def test_a_day_that_is_not_complete_is_said_to_be(tmp_path: Path) -> None:
    """Shortly after midnight the last hours of yesterday have not been reported: the account is named."""
    with start_with_past(tmp_path, "openai", now=midnight(NOON) + timedelta(minutes=3) - NOON) as system:
        digest = digest_of(system)
        assert digest.unread == ("openai",)
        assert "not known completely of: openai" in render_text(digest)


def test_without_any_account_nothing_is_invented() -> None:
    """A ledger without usage has no zeros."""
    digest = build_digest([], (), NOON, PageLinks())
    text = render_text(digest)
    assert "$" not in text
    assert "No account has any usage in this ledger." in text
    assert to_plain(digest)["cost_usd"] is None


@dataclass
class Webhook:
    """A receiver that answers every request with a status."""

    status: int = 200
    bodies: list[Any] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve_webhook(status: int) -> Iterator[Webhook]:
    """Serve a webhook on a free loopback port."""
    webhook = Webhook(status)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            webhook.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(webhook.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        webhook.url = f"http://127.0.0.1:{server.server_port}/services/very-secret"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield webhook
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module", name="sandbox")
def _start_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A configuration whose account has been polled; the exporter has ended."""
    with start_sandbox(tmp_path_factory.mktemp("digest"), make_account("openai", "acme")) as sandbox:
        with start_exporter(*sandbox.flags) as exporter:
            exporter.wait_until_up("acme")
            assert exporter.stop() == 0
        yield sandbox


def test_the_command_prints_text_and_json(sandbox: Sandbox) -> None:
    """Both formats have the same text."""
    text = run_command("digest", *sandbox.flags)
    assert text.returncode == 0, text.stderr
    assert text.stdout.startswith("AI spend of ")
    document = json.loads(run_command("digest", *sandbox.flags, "--format=json").stdout)
    assert document["text"] == text.stdout
    assert document["cost_usd"] > 0


def test_a_webhook_receives_the_summary(sandbox: Sandbox, tmp_path: Path) -> None:
    """The document is posted once; its field text is the text."""
    with serve_webhook(200) as webhook:
        (tmp_path / "url").write_text(webhook.url + "\n")
        sent = run_command("digest", *sandbox.flags, f"--webhook.url-file={tmp_path / 'url'}")
    assert sent.returncode == 0, sent.stderr
    (body,) = webhook.bodies
    assert body["text"] == sent.stdout


@pytest.mark.parametrize("content", ["", "not an address", "ftp://example.com/x", "http://[bad"])
def test_a_wrong_address_is_an_error(sandbox: Sandbox, tmp_path: Path, content: str) -> None:
    """The message names the file and not its content."""
    (tmp_path / "url").write_text(content)
    failed = run_command("digest", *sandbox.flags, f"--webhook.url-file={tmp_path / 'url'}")
    assert failed.returncode == 1
    assert "does not contain an address" in failed.stderr
    assert "bad" not in failed.stderr.replace(str(tmp_path), "")


def test_a_webhook_that_does_not_accept_is_an_error_without_the_address(sandbox: Sandbox, tmp_path: Path) -> None:
    """The status and the host are named, the secret path is not; the same where nothing listens."""
    with serve_webhook(404) as webhook:
        (tmp_path / "url").write_text(webhook.url)
        rejected = run_command("digest", *sandbox.flags, f"--webhook.url-file={tmp_path / 'url'}")
    unreachable = run_command("digest", *sandbox.flags, f"--webhook.url-file={tmp_path / 'url'}")
    missing = run_command("digest", *sandbox.flags, f"--webhook.url-file={tmp_path / 'none'}")
    assert "answered with status 404" in rejected.stderr
    assert "cannot be reached" in unreachable.stderr
    assert "cannot be read" in missing.stderr
    for failed in (rejected, unreachable, missing):
        assert failed.returncode == 1
        assert "very-secret" not in failed.stderr + failed.stdout
        assert "Traceback" not in failed.stderr
