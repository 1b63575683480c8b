"""The landing page: what it says of simulated accounts, and that it is sound HTML whatever they are called."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from exporter.analysis.budgets import BudgetStatus, PeriodType, current_period
from exporter.config.configuration import Budget, BudgetAlerts, BudgetMatch
from exporter.model import DAY, HOUR, NANO
from exporter.polling.reread import RereadRequest
from exporter.simulator.accounts import ExtraCharge, Stream
from exporter.simulator.billing_terms import LineDelay
from exporter.simulator.world import World
from exporter.snapshot.budgets import EvaluatedBudget
from exporter.ui import render_page
from exporter.ui.alerts import FAST_BURN, POLLS_FAIL, SLOW_BURN, Alert, AlertKind, assess_budget
from exporter.ui.budgets import render_budget_bars
from exporter.ui.chart import axis_ticks, describe_bar, render_chart
from exporter.ui.format import DASH, format_money, format_percent, humanize_duration
from exporter.ui.links import ACCOUNT_DASHBOARD, PageLinks
from exporter.ui.page_data import AccountRow, Bar, PageData
from exporter.windows import floor
from tests.benchmarks.many_accounts import build_app
from tests.system import NOON, Clock, System, make_account, make_small_world, midnight, start_small_system, start_system

HOSTILE = "<script>alert('&\"')</script>"
VOID_TAGS = {"meta", "rect", "line", "path", "br"}
LINKS = PageLinks("https://grafana.example", "https://docs.example/main")


class ParsedPage(HTMLParser):
    """A page as a reader finds it; fails where tags do not balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.html = text
        self.tags: list[str] = []
        self.titles: list[str] = []
        self._open: list[str] = []
        self._text_parts: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open
        self.text = " ".join("".join(self._text_parts).split())

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 - the parser's signature
        """Note a tag, and open it unless it holds nothing."""
        self.tags.append(tag)
        if tag not in VOID_TAGS:
            self._open.append(tag)
        if tag in ("p", "div", "td", "th", "dd", "dt", "li", "summary", "span", "small", "h2", "h3", "strong"):
            self._text_parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        """Close the tag that was opened last."""
        if tag not in VOID_TAGS:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep what is shown."""
        if "title" in self._open:
            self.titles.append(data)
        elif "style" not in self._open:
            self._text_parts.append(data)

    def row(self, account: str) -> str:
        """Return an account's row of the table in words."""
        table = self.html.partition('class="cards accounts"')[2].partition("</table>")[0]
        name = f'<span class="name">{re.escape(account)}</span>'
        (row,) = re.findall(rf'<tr role="row"><th[^>]*><span[^>]*>.</span> {name}(.*?)</tr>', table)
        return " ".join(unescape(re.sub("<title>.*?</title>|<[^>]*>", " ", row)).split())


def fetch_page(system: System) -> ParsedPage:
    """Read the page over HTTP."""
    answer = httpx.get(system.url + "/")
    assert answer.status_code == 200
    for account in system.world.accounts.values():
        assert account.key not in answer.text
    return ParsedPage(answer.text)


def format_metric(system: System, name: str, **labels: str) -> str:
    """Return a sum of /metrics as the page writes it."""
    nano = system.nano_usd(name, **labels)
    assert nano is not None
    return format_money(nano)


@pytest.fixture(name="system", scope="module")
def _start_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    clock = Clock()
    with (
        start_system(tmp_path_factory.mktemp("small"), make_small_world(clock), clock) as system,
        system.run_exporter(),
    ):
        system.poll_until_idle()
        yield system


def test_sums_are_those_of_metrics(system: System) -> None:
    """Today, month, 30 days, what is billed, every account and every model are the same as on /metrics."""
    page = fetch_page(system)
    assert f"Today {format_metric(system, 'ai_cost_today_usd')}" in page.text
    assert f"This month {format_metric(system, 'ai_cost_month_usd')}" in page.text
    assert f"{format_metric(system, 'ai_cost_month_billed_usd')} billed" in page.text
    assert f"30 days {format_metric(system, 'ai_cost_30d_usd')}" in page.text
    for account in system.world.accounts:
        sums = (
            f"{format_metric(system, 'ai_cost_today_usd', account=account)} "
            f"{format_metric(system, 'ai_cost_month_usd', account=account)}"
        )
        forecast = format_metric(system, "ai_cost_month_forecast_usd", account=account)
        assert f" up {sums} {forecast} " in page.row(account)
    assert (
        f"Month forecast {format_metric(system, 'ai_cost_month_forecast_usd')} expected by the end of Nov 30"
        in page.text
    )
    models = re.findall(r'<span class="name">([^<]*)</span>', page.html.partition('class="cards models"')[2])
    assert len(models) == 10
    for model in models:
        assert f" {model} {format_metric(system, 'ai_cost_30d_usd', model=model)} " in page.text


def test_every_day_is_a_bar_with_a_title(system: System) -> None:
    """There are thirty bars; each is shown with its date, its cost as on /metrics, and whether it is billed."""
    titles = fetch_page(system).titles
    for number in range(30):
        date = f"{NOON - number * DAY:%Y-%m-%d}"
        (title,) = (title for title in titles if title.startswith(date))
        assert title.startswith(f"{date}: {format_metric(system, 'ai_cost_daily_usd', date=date)}, ")
        assert ("still running" in title) is (number == 0)
        assert ("estimated" in title) is (number == 0)
        assert ("billed" in title) is (number > 0)


def test_healthy_accounts_take_one_line(system: System) -> None:
    """Where nothing is wrong the headline is green, and there is no alert, no notice and no budget."""
    page = fetch_page(system)
    assert "● No alerts 3 accounts: all up." in page.text
    assert not re.search(r'class="(alerts|notice|budgets)"', page.html)
    names = re.findall(r"<summary>([^ ]*) · ", page.html)
    assert names == sorted(
        system.world.accounts, key=lambda name: -(system.value("ai_cost_month_usd", account=name) or 0)
    )


def test_the_page_is_self_contained(system: System) -> None:
    """Nothing is loaded from anywhere and nothing runs: no script, no address, no event, no picture."""
    page = fetch_page(system)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?:|@import|\son\w+=|javascript:", page.html)
    assert re.findall(r"url\(([^)]*)\)", page.html) == ["#hatch"]
    assert re.findall(r'href="([^"]*)"', page.html) == ["api/v1/ai/usage/summary?days=30", "metrics"]


def test_budgets_match_metrics(system: System) -> None:
    """A budget's spend, limit, forecast and state are on the page from the reload on, and gone with it."""
    one = Budget(
        name="all",
        owner="platform",
        period="month",
        limit_usd=Decimal(90_000),
        match=BudgetMatch(workspace=HOSTILE + "*"),
    )
    two = Budget(name="labs", owner="", period="month", limit_usd=Decimal(1), match=BudgetMatch(account="labs-*"))
    before = system.config
    try:
        system.app.apply(system.config.model_copy(update={"budgets": (one, two)}))
        page = fetch_page(system)
        spent, forecast = (
            format_metric(system, f"ai_budget_{name}_usd", budget="labs") for name in ("spent", "forecast")
        )
        assert f"labs · no owner · this month ✖ exceeded {spent} of $1.00 (" in page.text
        assert f"forecast {forecast} (" in page.text
        assert "ran out Nov 1 " in page.text
        assert "all · owner platform · this month ● on pace $0.00 of $90,000.00 (0 %)" in page.text
        assert page.text.index("labs · no owner") < page.text.index("all · owner")
    finally:
        system.app.apply(before)
    assert "Budgets" not in fetch_page(system).text


def test_the_first_poll_is_shown(tmp_path: Path) -> None:
    """Before anything was read the account is neither up nor failing, and no day is drawn."""
    with start_small_system(tmp_path, make_account("openai")) as system:
        page = fetch_page(system)
        assert "▲ No alerts, but not everything has been read yet 1 account: 0 up, 1 in the first poll." in page.text
        assert "First poll under way: solo." in page.text
        assert f"first poll under way not read not read not read {DASH} {DASH} not yet never read" in page.row("solo")
        assert "No day has been read yet." in page.text
        assert "$0.00" not in page.text
        system.poll_until_idle()
        assert "● No alerts 1 account: up." in fetch_page(system).text


def test_a_rejected_key_comes_with_advice(tmp_path: Path) -> None:
    """On top stand account, owner, the provider's status and code, what to do, and since when nothing was read."""
    with start_small_system(tmp_path, make_account("openai"), make_account("cursor", "crew")) as system:
        system.poll_until_idle()
        system.simulator.add_fault("solo", "revoked")
        system.advance(6 * HOUR)
        page = fetch_page(system)
    assert "▲ 1 key rejected 2 accounts: 1 up, 1 failing." in page.text
    assert "Key rejected: solo owner platform · Not read since Nov 18 12:07 UTC (6 h)" in page.text
    assert "answered 401 (invalid_request_error, invalid_api_key)" in page.text
    assert "Next step: The key was revoked. Create an admin key: platform.openai.com" in page.text
    assert "stopped: key rejected 1 alert" in page.row("solo")
    assert "Data is late" not in page.text
    assert page.text.index("Next step") < page.text.index("Daily cost")


def test_a_provider_that_is_down_is_one_problem(tmp_path: Path) -> None:
    """However many of an account's reports fail in the same way, it has one problem, with every answer in it."""
    with start_small_system(tmp_path, make_account("openai")) as system:
        system.simulator.add_fault("solo", "server_error")
        system.poll_until_idle()
        page = fetch_page(system)
    assert page.html.count('class="alert wait-alert"') == 1
    assert "failing: unavailable" in page.row("solo")
    assert "The poll is retried automatically." in page.text
    assert "Never read successfully" in page.text
    assert "1 account: 0 up, 1 failing." in page.text
    assert "not read not read not read" in page.row("solo")
    assert "$0.00" not in page.text
    assert "/organization/costs answered 500" in page.text


def test_sums_name_the_accounts_that_they_leave_out(tmp_path: Path) -> None:
    """Where an account was never read, today, month and forecast are sums of the others, and say so."""
    with start_small_system(tmp_path, make_account("openai"), make_account("cursor", "crew")) as system:
        system.simulator.add_fault("solo", "server_error")
        system.poll_until_idle()
        page = fetch_page(system)
    assert page.text.count(", without 1 account not read") == 3
    assert re.search(r"not read not read not read", page.row("solo"))
    assert re.search(r"\$[\d.]+ \$[\d.]+ \$[\d.]+ ", page.row("crew"))


def test_late_data_is_a_notice(tmp_path: Path) -> None:
    """A watermark more than four hours old is shown, though nothing has failed."""
    with start_small_system(tmp_path, make_account("anthropic")) as system:
        system.poll_until_idle()
        system.clock.now += 5 * HOUR
        page = fetch_page(system)
    assert "▲ 1 account with late data 1 account: up, 1 with late data." in page.text
    assert re.search(r"Data is late: solo owner platform · Complete until Nov 18 1[12]:00 UTC \(\d h ago\)", page.text)
    assert "up, data late" in page.row("solo")


def test_tokens_without_a_price_are_a_notice(tmp_path: Path) -> None:
    """A model without a known price is shown with its tokens and what to do."""
    secret = Stream("proj_web", "gpt-99-secret", api_key="key_web", daily_requests=50, load_profile="steady")
    account, clock = replace(make_account("openai"), streams=(*make_account("openai").streams, secret)), Clock()
    with (
        start_system(tmp_path, World([account], clock, start_time=midnight(NOON)), clock, history="1d") as system,
        system.run_exporter(),
    ):
        system.poll_until_idle()
        page, tokens = fetch_page(system), system.value("ai_account_unpriced_tokens", model="gpt-99-secret")
        share = system.value("ai_account_unpriced_cost_ratio")
    assert share is not None
    assert 0 < share < 1
    assert "▲ 1 account without a price" in page.text
    assert "No known price: solo owner platform · since Nov 18" in page.text
    detail = f"gpt-99-secret ({tokens:,.0f} tokens): about {share:.0%} of its unbilled cost is missing."
    assert detail.replace("%", " %") in page.text
    assert "Set a price under prices:" in page.text


def test_aggregated_series_are_a_notice(tmp_path: Path) -> None:
    """Where series are shown as `other` their number is shown, and the models keep their own names."""
    with start_small_system(tmp_path, make_account("cursor"), max_series="1") as system:
        system.poll_until_idle()
        page, folded = fetch_page(system), system.value("ai_account_aggregated_series")
    assert f"Series aggregated into other: solo ({folded:.0f} series)." in page.text
    assert "claude-5-sonnet" in page.html


def test_a_corrected_day_is_marked(tmp_path: Path) -> None:
    """A bill that was changed has a star, and the first amount stands beside it."""
    with start_small_system(tmp_path, make_account("openai")) as system:
        system.poll_until_idle()
        day = midnight(NOON) - 2 * DAY
        before = format_metric(system, "ai_cost_daily_usd", date=f"{day:%Y-%m-%d}")
        system.world.restate("solo", day, 1.5)
        system.advance(65 * timedelta(minutes=1))
        page, now = fetch_page(system), format_metric(system, "ai_cost_daily_usd", date=f"{day:%Y-%m-%d}")
    assert f"Mon 11-16 {now}* billed, corrected, first {before}" in page.text
    assert "Wed 11-18 ≈ $" in page.text
    assert f"Thu 11-12 {DASH} not read" in page.text


def test_one_time_costs_and_incomplete_bills_are_shown(tmp_path: Path) -> None:
    """A charge of a single day is listed with its item; a day whose bill lacks a row stays estimated and says so."""
    charged, incomplete = midnight(NOON) - 2 * DAY, midnight(NOON) - DAY
    charge = ExtraCharge("proj_web", "Onboarding", usd_per_day=250.0, dates=frozenset({charged.date()}))
    storage = ExtraCharge("proj_web", "Vector storage", usd_per_day=40.0)
    account = replace(
        make_account("openai"), extra_charges=(charge, storage), line_delays=(LineDelay("Vector*", 30 * HOUR),)
    )
    clock = Clock()
    with (
        start_system(
            tmp_path, World([account], clock, start_time=midnight(NOON) - 9 * DAY), clock, history="9d"
        ) as system,
        system.run_exporter(),
    ):
        system.poll_until_idle()
        page, summary = fetch_page(system), httpx.get(f"{system.url}/api/v1/ai/usage/summary?days=7").json()
        one_time = system.value("ai_cost_month_one_time_usd")
        incomplete_bills = system.value("ai_account_incomplete_bills")
    assert "One-time costs, 30 days" in page.text
    assert re.search(r"Mon 11-16 solo \S+ Onboarding \$250\.00", page.text)
    assert one_time == 250
    assert [(cost["item"], cost["date"], cost["costUsd"]) for cost in summary["oneTimeCosts"]] == [
        ("Onboarding", f"{charged:%Y-%m-%d}", 250.0)
    ]
    assert "Bill incomplete: solo owner platform · since Nov 17" in page.text
    assert "Nov 17: not all usage is on the bill; the cost stays estimated." in page.text
    assert re.search(r"Tue 11-17 ≈ \$[\d.]+ estimated, bill incomplete", page.text)
    assert incomplete_bills == 1
    assert [freshness["incompleteBills"] for freshness in summary["freshness"]] == [[f"{incomplete:%Y-%m-%d}"]]


def test_each_day_has_the_time_at_which_it_was_read(tmp_path: Path) -> None:
    """The days of an account say when their usage and bill were last read; pushed accounts have no such columns."""
    with start_small_system(tmp_path, make_account("openai"), make_account("cursor", "crew")) as system:
        assert "Usage read" not in fetch_page(system).text
        system.poll_until_idle()
        page = fetch_page(system)
        assert re.search(r"Mon 11-16 \$[\d.]+ billed Nov 18 12:07 Nov 18 12:07 ", page.text)
        assert f"Thu 11-12 {DASH} not read {DASH} {DASH} " in page.text
        assert page.text.count("Usage read") == 2
        assert page.text.count("Bill read") == 1

        system.advance(65 * timedelta(minutes=1))
        polled = fetch_page(system).text
        assert re.search(r"Wed 11-18 ≈ \$[\d.]+ estimated, still running Nov 18 13:12 Nov 18 13:12 ", polled)
        assert re.search(r"Mon 11-16 \$[\d.]+ billed Nov 18 12:07 Nov 18 13:12 ", polled), "the bill was read again"

        day = midnight(NOON) - 2 * DAY
        system.app.reread(RereadRequest(day, day, "solo"))
        system.poll_until_idle()
        assert re.search(r"Mon 11-16 \$[\d.]+ billed Nov 18 13:12 Nov 18 13:12 ", fetch_page(system).text)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    """A model, an owner or a budget that is called like a script is shown, not run."""
    one = make_account("cursor")
    odd = replace(one, streams=tuple(replace(stream, model=HOSTILE) for stream in one.streams))
    with start_small_system(tmp_path, odd) as system:
        system.change_account("solo", lambda account: account.model_copy(update={"owner": HOSTILE}))
        match = BudgetMatch.model_construct(model=HOSTILE)
        budget = Budget.model_construct(name=HOSTILE, owner=HOSTILE, period="day", limit_usd=Decimal(5), match=match)
        system.config = system.config.model_copy(update={"budgets": (budget,)})
        system.app.apply(system.config)
        system.poll_until_idle()
        page = fetch_page(system)
    assert page.text.count(HOSTILE) == 5
    assert "script" not in page.tags


def test_what_a_provider_says_is_text() -> None:
    """The provider's words, advice, reports and states cannot become tags either."""
    alert = make_alert(HOSTILE)
    page = ParsedPage(
        render_page(PageData(NOON, (make_page_account(HOSTILE, alerts=(alert,)),), (), (), (alert,), LINKS))
    )
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) > 8


def make_alert(text: str, kind: AlertKind = POLLS_FAIL) -> Alert:
    """Return an alert all of whose texts are the same."""
    return Alert(
        kind, text, text, (text, text, text), text, text, ACCOUNT_DASHBOARD, {"account": text}, (text, "openai")
    )


def make_page_account(name: str = "solo", *, alerts: tuple[Alert, ...] = (), month: int = 0) -> AccountRow:
    """Return an account that was read and used nothing, or that has alerts."""
    return AccountRow(
        name=name,
        provider="openai",
        owner="platform",
        state="bad" if alerts else "good",
        state_text="failing" if alerts else "up",
        today=0,
        month=month,
        month_billed=0,
        month_forecast=None,
        trend=None,
        complete_until=NOON - HOUR,
        last_sync=NOON,
        days={midnight(NOON): None},
        models={},
        one_time_costs=(),
        aggregated_series=0,
        late=False,
        alerts=alerts,
    )


def test_a_thousand_accounts_with_alerts_have_a_page_of_bounded_size() -> None:
    """Ten alerts are open, ninety unfold, fifty accounts are listed; the rest is counted, with a link to it."""
    alerts = tuple(make_alert(f"a{number:04}" + 50 * "-name") for number in range(1000))
    accounts = tuple(make_page_account(alert.title, alerts=(alert,), month=NANO) for alert in alerts)
    page = ParsedPage(render_page(PageData(NOON, accounts, (), (), alerts, LINKS)))
    assert "▲ 1,000 accounts failing 1,000 accounts: 0 up, 1,000 failing." in page.text
    opened, _, folded = page.html.partition("990 more")
    assert opened.count('class="alert wait-alert"') == 10
    assert folded.count('class="alert wait-alert"') == 90
    assert "900 more alerts: see the summary" in page.text
    assert page.html.count('class="name"') == 50
    assert "950 more accounts" in page.text
    assert "$950.00 this month" in page.text
    assert len(page.html) < 500_000


@pytest.mark.parametrize(
    ("spent", "forecast", "state"),
    [
        (0, None, "no forecast: no complete hour has been read"),
        (799, 1000, "on pace"),
        (799, 1001, "forecast slightly above the limit"),
        (799, 1050, "forecast slightly above the limit"),
        (799, 1051, "forecast above the limit"),
        (800, 1001, "nearly spent"),
        (800, None, "nearly spent"),
        (1000, 1000, "nearly spent"),
        (1001, 1001, "exceeded"),
        (-5, 0, "on pace"),
    ],
)
def test_budget_status(spent: int, forecast: int | None, state: str) -> None:
    """Nearly spent from 80 % on, exceeded above 100 %, as the alert rules have it; below that the forecast counts."""
    assert assess_budget(_budget("month"), BudgetStatus(1000, spent, forecast, {}, None)).text == state


def _budget(period: PeriodType, **ratios: Decimal) -> Budget:
    return Budget(name="b", period=period, limit_usd=Decimal(1), alerts=BudgetAlerts.model_validate(ratios))


def test_a_budget_has_thresholds_of_its_own() -> None:
    """Those of its configuration take the place of the defaults, as in the alert rules."""
    half, double = Decimal("0.5"), Decimal(2)
    early = _budget("month", nearly_spent_ratio=half)
    assert assess_budget(early, BudgetStatus(1000, 500, 900, {}, None)).text == "nearly spent"
    assert assess_budget(early, BudgetStatus(1000, 499, 900, {}, None)).text == "on pace"
    late = _budget("month", forecast_exceeded_ratio=double)
    assert assess_budget(late, BudgetStatus(1000, 100, 2000, {}, None)).kind is None
    assert assess_budget(late, BudgetStatus(1000, 100, 2001, {}, None)).text == "forecast above the limit"


def test_burn_rates_need_attention() -> None:
    """The rates are those of the alert rules: 14.4 in an hour and 7.2 in six, 1.5 in three days and in the last."""

    def assess(period: PeriodType, **burn_rates: float) -> AlertKind | None:
        windows = {f"{name[1:]}": rate for name, rate in burn_rates.items()}
        return assess_budget(_budget(period), BudgetStatus(1000, 100, 900, windows, None)).kind

    assert assess("month", _1h=14.5, _6h=7.3) is FAST_BURN
    assert assess("month", _1h=14.4, _6h=7.3) is None
    assert assess("month", _1h=14.5, _6h=7.2) is None
    assert assess("day", _1h=14.5) is FAST_BURN
    assert assess("month", _1d=1.6, _3d=1.6) is SLOW_BURN
    assert assess("month", _1d=1.4, _3d=1.6) is None
    assert assess("day", _1d=1.6, _3d=1.6) is None


def test_when_a_budget_runs_out() -> None:
    """It is shown with its time, or since when, or that it is only expected; a mark is where an even pace would be."""
    budget = Budget(name="b", owner="", period="day", limit_usd=Decimal(10))

    def bar(spent: int, hours: int) -> str:
        at = floor(NOON, DAY) + hours * HOUR
        standing = BudgetStatus(10 * NANO, spent * NANO, 12 * NANO, {}, at)
        return render_budget_bars([EvaluatedBudget(budget, current_period("day", NOON), standing)], NOON, PageLinks())

    assert "runs out Nov 18 20:00 UTC, in 7 h" in bar(5, 20)
    assert "ran out Nov 18 10:00 UTC, 2 h ago" in bar(11, 10)
    assert "by forecast ran out Nov 18 10:00 UTC" in bar(5, 10)
    assert 'class="limit" x1="83.33%"' in bar(5, 20), "a forecast of 120 % is the full width"
    assert 'class="pace" x1="42.10%"' in bar(5, 20), "half of the day is over: half of the way to the limit"
    assert 'class="spent" width="91.67%"' in bar(11, 10)


def test_how_far_a_budget_is_exceeded_can_be_seen() -> None:
    """At 105 % the mark of the limit is near the end of the bar, at 627 % near its begin; below 100 % at its end."""

    def limit_mark(percent: int) -> str:
        standing = BudgetStatus(100 * NANO, percent * NANO, percent * NANO, {}, None)
        evaluated = EvaluatedBudget(
            Budget(name="b", owner="", period="day", limit_usd=Decimal(100)), current_period("day", NOON), standing
        )
        (x,) = re.findall(r'class="limit" x1="([\d.]+)%"', render_budget_bars([evaluated], NOON, PageLinks()))[1:]
        return str(x)

    assert [limit_mark(percent) for percent in (50, 100, 105, 627)] == ["100.00", "100.00", "95.24", "15.95"]


def test_a_day_may_be_half_billed_or_a_credit() -> None:
    """A day of two accounts of which one is billed shows both parts; a credit is shown and nothing is drawn of it."""
    half, credit = Bar(NOON, 2 * NANO, NANO, has_data=True), Bar(NOON, -NANO, 0, has_data=True)
    assert describe_bar(half, running=False) == "2026-11-18: $3.00, $2.00 billed, $1.00 estimated"
    assert describe_bar(credit, running=False) == "2026-11-18: -$1.00, billed"
    assert describe_bar(Bar(NOON, 0, 0, has_data=True), running=False) == "2026-11-18: $0.00, nothing used"
    assert describe_bar(Bar(NOON, 0, 0, has_data=False), running=False) == "2026-11-18: not read"
    assert render_chart([half, half]).count('class="billed"') == render_chart([half, half]).count('class="open"') == 3
    assert 'height="-' not in render_chart([credit, credit])


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (0, [0, 0.01]),
        (0.004, [0, 0.01]),
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (3187.5, [0, 1000, 2000, 3000, 4000]),
        (11, [0, 2.5, 5, 7.5, 10, 12.5]),
        (10**7, [0, 2 * 10**6, 4 * 10**6, 6 * 10**6, 8 * 10**6, 10**7]),
    ],
)
def test_the_scale_has_round_amounts(most: float, ticks: list[float]) -> None:
    """The scale goes from 0 to at least the highest day in at most five round steps."""
    assert axis_ticks(round(most * NANO)) == [round(tick * NANO) for tick in ticks]


def test_how_amounts_read() -> None:
    """Dollars have commas and cents, and no cent is negative that rounds to nothing."""
    assert format_money(1_234_567_890_000) == "$1,234.57"
    assert format_money(-70_000_000) == "-$0.07"
    assert format_money(-1) == "$0.00"
    assert [format_percent(nano_usd, 1000) for nano_usd in (0, 4, 99, 100, 12_345)] == [
        "0 %",
        "0.4 %",
        "9.9 %",
        "10 %",
        "1,234 %",
    ]
    assert format_percent(1, 0) == "0 %"
    spans = (timedelta(seconds=40), timedelta(minutes=25), 7 * HOUR, 50 * HOUR, -HOUR)
    assert [humanize_duration(span) for span in spans] == ["40 s", "25 min", "7 h", "2 days", "0 s"]


def test_no_account_at_all() -> None:
    """An empty configuration has a page that says so."""
    page = ParsedPage(render_page(PageData(NOON, (), ())))
    assert "No account is configured Add accounts to the configuration" in page.text
    assert "$" not in page.text


def test_a_page_of_two_hundred_accounts_is_rendered_in_little_time(tmp_path: Path) -> None:
    """Rendering 200 accounts with thirty days each takes less than twice the CPU time of parsing the page."""
    app = build_app(tmp_path, {f"a{number:03}": 8 for number in range(200)})
    try:
        started = time.process_time()
        html = app.handlers().landing_page()
        rendered = time.process_time()
        page = ParsedPage(html)
        parsed = time.process_time()
    finally:
        app.stop()
    assert rendered - started < 2 * (parsed - rendered)
    assert "200 accounts" in page.text
