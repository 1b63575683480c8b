"""The landing page in a real browser, narrow and wide, light and dark: nothing is cut, links answer, axe passes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from exporter.config.configuration import Budget, BudgetMatch
from exporter.model import DAY
from exporter.simulator.world import World
from exporter.ui import render_page
from exporter.ui.page_data import PageData
from tests.browser.chromium import Tab, start_chromium
from tests.browser.pages import LINKS, hard_page
from tests.paths import ROOT
from tests.system import NOON, Clock, make_account, midnight, start_small_system, start_system
from tests.web_server import make_handlers, serve

AXE = ROOT / ".tools" / "axe" / "axe_playwright_python" / "axe.min.js"
"""Installed by `.ci/axe`."""
WIDTHS = {390: 844, 1400: 900}
"""Width of the window -> its height: a phone and a desktop."""
SCHEMES = ("light", "dark")

FIND_CUT_TEXT = """
[...document.querySelectorAll('body *')].filter(element =>
  !(element instanceof SVGElement) && element.checkVisibility()
  && !element.closest('thead')
  && [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim())
  && getComputedStyle(element).textOverflow !== 'ellipsis'
  && (element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).display !== 'inline'
    || element.getBoundingClientRect().right > innerWidth + 1 || element.getBoundingClientRect().left < -1)
).map(element => element.outerHTML.slice(0, 200))
"""
"""Elements with text of their own that does not fit. Heads of tables are hidden on a phone: cells have labels there."""
RUN_AXE = """
axe.run(document, {resultTypes: ['violations']}).then(results =>
  results.violations.map(violation => violation.id + ': ' + violation.help + ': '
    + violation.nodes.map(node => node.target + ' ' + node.failureSummary).slice(0, 5).join('; ')))
"""


@pytest.fixture(name="tab", scope="module")
def _start_tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with start_chromium(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


def _check_layout(tab: Tab) -> None:
    """Fail where the page in the tab scrolls sideways or cuts text, also of what can be unfolded."""
    tab.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    width, window = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= window, "the page scrolls sideways"
    assert tab.evaluate(FIND_CUT_TEXT) == []


def _find_violations(tab: Tab) -> Any:
    assert AXE.is_file(), "axe-core is not installed: run .ci/axe"
    tab.evaluate(AXE.read_text() + "; 0")
    return tab.evaluate(RUN_AXE)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_and_is_accessible(tab: Tab, width: int, scheme: str) -> None:
    """Nothing is cut and nothing scrolls sideways, whatever the names are, and axe-core finds no violation."""
    with serve(handlers=replace(make_handlers(), landing_page=lambda: render_page(hard_page()))) as address:
        tab.open(f"http://{address}/", width, WIDTHS[width], scheme)
        background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")
        _check_layout(tab)
        assert _find_violations(tab) == []


def test_the_page_fits_windows_of_any_width(tab: Tab) -> None:
    """Between a small phone and a desktop, too, nothing is cut and nothing scrolls sideways."""
    with serve(handlers=replace(make_handlers(), landing_page=lambda: render_page(hard_page()))) as address:
        for width in (320, 768, 1024):
            tab.open(f"http://{address}/", width, 900, "light")
            _check_layout(tab)


def test_a_page_without_any_account_fits_and_is_accessible(tab: Tab) -> None:
    """It says what to do, with a link."""
    empty = PageData(NOON, (), (), links=LINKS)
    with serve(handlers=replace(make_handlers(), landing_page=lambda: render_page(empty))) as address:
        tab.open(f"http://{address}/", 390, 844, "dark")
        _check_layout(tab)
        assert _find_violations(tab) == []
        assert "No account is configured" in tab.evaluate("document.body.innerText")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_failing_account_and_budgets_without_history_are_sentences(tab: Tab, tmp_path: Path, width: int) -> None:
    """Of an exporter that was just started and cannot read an account, the page shows sentences instead of zeros."""
    with start_small_system(tmp_path, make_account("openai"), make_account("cursor", "crew")) as system:
        system.simulator.add_fault("solo", "revoked")
        system.simulator.add_fault("crew", "server_error")
        budget = Budget(name="all", owner="", period="month", limit_usd=Decimal(10), match=BudgetMatch())
        system.app.apply(system.config.model_copy(update={"budgets": (budget,)}))
        system.poll_until_idle()
        tab.open(system.url, width, WIDTHS[width], "light")
        _check_layout(tab)
        text = tab.evaluate("document.body.innerText")
        assert _find_violations(tab) == []
    assert re.search(r"1 key rejected, 1 account failing", text)
    assert "no forecast: no complete hour has been read" in text
    assert "not read" in text
    assert "No day has been read yet." in text
    assert "No usage has been read yet." in text
    assert re.findall(r"\$[\d.,]+", text) == ["$10.00"], "the limit is the only known amount"


def test_every_link_answers(tab: Tab, tmp_path: Path) -> None:
    """Internal links answer; those to Grafana and documents lead to dashboards, variables and sections that exist."""
    clock = Clock()
    accounts = make_account("openai"), make_account("cursor", "crew")
    world = World(accounts, clock, start_time=midnight(NOON) - 5 * DAY)
    with start_system(tmp_path, world, clock, history="2d") as system:
        system.page_links = LINKS
        with system.run_exporter():
            budget = Budget(name="all", owner="", period="month", limit_usd=Decimal(1), match=BudgetMatch())
            system.app.apply(system.config.model_copy(update={"budgets": (budget,)}))
            system.simulator.add_fault("crew", "server_error")
            system.poll_until_idle()
            tab.open(system.url, 1400, 900, "light")
            links = set(tab.evaluate("[...document.links].map(link => link.href)"))
            internal = {link for link in links if link.startswith(system.url)}
            for link in internal:
                assert httpx.get(link).status_code == 200, link
                fragment = urlsplit(link).fragment
                assert not fragment or tab.evaluate(f"document.getElementById({json.dumps(fragment)}) !== null")
    assert {urlsplit(link).path for link in internal} == {"/", "/metrics", "/api/v1/ai/usage/summary"}
    kinds = {_check_external_link(link) for link in links - internal}
    dashboards = {"ai-spend", "ai-spend-account", "ai-spend-budgets", "ai-spend-telemetry"}
    assert kinds == {*dashboards, "prometheus/runbooks.md", "docs/metrics.md"}


def _check_external_link(link: str) -> str:
    """Return the dashboard or the file of a link; fail where it does not exist in this repository."""
    url = urlsplit(link)
    if link.startswith(f"{LINKS.docs_url}/"):
        name = link.removeprefix(f"{LINKS.docs_url}/").partition("#")[0]
        headings = re.findall(r"^## (.*)$", (ROOT / name).read_text(), re.MULTILINE)
        assert not url.fragment or url.fragment in {heading.lower() for heading in headings}, link
        return name
    assert link.startswith(f"{LINKS.grafana_url}/d/"), link
    uid = url.path.rpartition("/")[2]
    (dashboard,) = (
        dashboard
        for path in (ROOT / "grafana" / "dashboards").glob("*.json")
        if (dashboard := json.loads(path.read_text()))["uid"] == uid
    )
    variables = {f"var-{variable['name']}" for variable in dashboard["templating"]["list"]}
    assert {name for name, _ in parse_qsl(url.query)} <= variables, link
    return uid


def test_alerts_link_to_dashboards_and_runbooks_that_exist(tab: Tab) -> None:
    """Whatever is unusual, its alert links to a dashboard with its variables set and to the section of its rule."""
    page_data = hard_page()
    with serve(handlers=replace(make_handlers(), landing_page=lambda: render_page(page_data))) as address:
        tab.open(f"http://{address}/", 1400, 900, "light")
        links = tab.evaluate("[...document.querySelectorAll('.alert a')].map(link => link.href)")
    assert len(links) == 2 * len(page_data.alerts)
    for link in set(links):
        _check_external_link(link)


def test_the_keyboard_reaches_every_link_visibly(tab: Tab) -> None:
    """The first link has a visible outline when it gets the focus by keyboard."""
    with serve(handlers=replace(make_handlers(), landing_page=lambda: render_page(hard_page()))) as address:
        tab.open(f"http://{address}/", 1400, 900, "light")
        for kind in ("keyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        outline = tab.evaluate(
            "[document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle]"
        )
    assert outline == ["A", "solid"]
