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

from exporter.analysis.budgets import Standing, period_of
from exporter.config.configuration import Budget
from exporter.metrics.budgets import Told
from exporter.model import DAY, HOUR, NANO
from exporter.simulator.accounts import Stream
from exporter.simulator.world import World
from exporter.ui import html
from exporter.ui.budgets import budget_state, budgets
from exporter.ui.chart import chart, ticks, words
from exporter.ui.format import lasting, money, percent
from exporter.ui.page_data import Account, Bar, Facts, Trouble
from exporter.windows import floor
from tests.benchmarks.many_accounts import crowd
from tests.system import NOON, Clock, Stage, lone, midnight, play, small_world, stage

HOSTILE = "<script>alert('&\"')</script>"
VOID = {"meta", "rect", "line", "path", "br"}


class Page(HTMLParser):
    """A page as a reader finds it; fails where tags do not balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.html = text
        self.tags: list[str] = []
        self.titles: list[str] = []
        self._open: list[str] = []
        self._said: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open
        self.words = " ".join("".join(self._said).split())

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 - the parser's signature
        """Note a tag, and open it unless it holds nothing."""
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("p", "div", "td", "th", "dd", "dt", "li", "summary", "span"):
            self._said.append(" ")

    def handle_endtag(self, tag: str) -> None:
        """Close the tag that was opened last."""
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep what is shown."""
        if "title" in self._open:
            self.titles.append(data)
        elif "style" not in self._open:
            self._said.append(data)

    def row(self, account: str) -> str:
        """Return an account's row of the table in words."""
        table = self.html.partition('class="accounts"')[2].partition("</table>")[0]
        (row,) = re.findall(rf'<tr><th scope="row"><span[^>]*>.</span> {re.escape(account)}</th>(.*?)</tr>', table)
        return " ".join(unescape(re.sub("<[^>]*>", " ", row)).split())


def page(it: Stage) -> Page:
    """Read the page over HTTP."""
    answer = httpx.get(it.url + "/")
    assert answer.status_code == 200
    for account in it.world.accounts.values():
        assert account.key not in answer.text
    return Page(answer.text)


def dollars(it: Stage, name: str, **labels: str) -> str:
    """Return a sum of /metrics as the page writes it."""
    nano = it.nano(name, **labels)
    assert nano is not None
    return money(nano)


@pytest.fixture(name="it", scope="module")
def _demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    clock = Clock()
    with stage(tmp_path_factory.mktemp("small"), small_world(clock), clock) as it, it.running():
        it.settle()
        yield it


def test_sums_are_those_of_metrics(it: Stage) -> None:
    """Today, month, 30 days, what is billed, every account and every model are told as on /metrics."""
    told = page(it)
    assert f"Today {dollars(it, 'ai_cost_today_usd')}" in told.words
    assert f"This month {dollars(it, 'ai_cost_month_usd')}" in told.words
    assert f"{dollars(it, 'ai_cost_month_billed_usd')} billed" in told.words
    assert f"30 days {dollars(it, 'ai_cost_30d_usd')}" in told.words
    for account in it.world.accounts:
        sums = (
            f"{dollars(it, 'ai_cost_today_usd', account=account)} {dollars(it, 'ai_cost_month_usd', account=account)}"
        )
        assert f" up {sums} Nov 18 " in told.row(account)
    for model in re.findall(r'scope="row">([^<]*)</th>', told.html.partition('class="models"')[2]):
        assert f" {model} {dollars(it, 'ai_cost_30d_usd', model=model)} " in told.words


def test_every_day_is_a_bar_with_a_title(it: Stage) -> None:
    """There are thirty bars; each is told with its date, its cost as on /metrics, and whether it is billed."""
    titles = page(it).titles
    for number in range(30):
        date = f"{NOON - number * DAY:%Y-%m-%d}"
        (told,) = (one for one in titles if one.startswith(date))
        assert told.startswith(f"{date}: {dollars(it, 'ai_cost_daily_usd', date=date)}, ")
        assert ("still running" in told) is (number == 0)
        assert ("estimated" in told) is (number == 0)
        assert ("billed" in told) is (number > 0)


def test_healthy_accounts_are_told_in_one_line(it: Stage) -> None:
    """Where nothing is wrong there is one line of health, no problem, no notice and no budget."""
    told = page(it)
    assert "3 accounts, all up" in told.words
    assert not re.search(r'class="(problem|notice|budgets)"', told.html)
    names = re.findall(r"<summary>([^ ]*) · ", told.html)
    assert names == sorted(it.world.accounts)


def test_the_page_stands_alone(it: Stage) -> None:
    """Nothing is loaded from anywhere and nothing runs: no script, no address, no event, no picture."""
    told = page(it)
    assert not {"script", "link", "img", "iframe", "object"} & set(told.tags)
    assert not re.search(r"https?:|@import|\son\w+=|javascript:", told.html)
    assert re.findall(r"url\(([^)]*)\)", told.html) == ["#hatch"]
    assert re.findall(r'href="([^"]*)"', told.html) == ["metrics"]


def test_budgets_are_told_as_on_metrics(it: Stage) -> None:
    """A budget's spend, limit, forecast and state are on the page from the reload on, and gone with it."""
    one = Budget("all", "platform", "month", Decimal(90_000), {"workspace": HOSTILE + "*"})
    two = Budget("labs", "", "month", Decimal(1), {"account": "labs-*"})
    before = it.config
    try:
        it.app.apply(replace(it.config, budgets=(one, two)))
        told = page(it)
        spent, forecast = (dollars(it, f"ai_budget_{name}_usd", budget="labs") for name in ("spent", "forecast"))
        assert f"labs · no owner · this month ✖ exceeded {spent} of $1.00 (" in told.words
        assert f"forecast {forecast} (" in told.words
        assert "ran out Nov 1 " in told.words
        assert "all · owner platform · this month ● on pace $0.00 of $90,000.00 (0 %)" in told.words
        assert told.words.index("labs · no owner") < told.words.index("all · owner")
    finally:
        it.app.apply(before)
    assert "Budgets" not in page(it).words


def test_the_first_poll_is_told_as_such(tmp_path: Path) -> None:
    """Before anything was read the account is neither up nor failing, and no day is drawn."""
    with play(tmp_path, lone("openai")) as it:
        told = page(it)
        assert "1 account, none fails; 1 in the first poll" in told.words
        assert "First poll under way: solo." in told.words
        assert "first poll under way $0.00 $0.00 not yet never" in told.row("solo")
        assert "No day has been read yet." in told.words
        it.settle()
        assert "1 account, up" in page(it).words


def test_a_rejected_key_comes_with_advice(tmp_path: Path) -> None:
    """On top stand account, owner, the provider's words, what to do, and since when nothing was read."""
    with play(tmp_path, lone("openai"), lone("cursor", "crew")) as it:
        it.settle()
        it.simulator.fault("solo", "revoked")
        it.later(6 * HOUR)
        told = page(it)
    assert "1 of 2 accounts needs somebody" in told.words
    assert "solo (owner platform)" in told.words
    assert "answered 401: Incorrect API key provided: it has been revoked." in told.words
    assert "What to do: The key was revoked. Create an admin key: platform.openai.com" in told.words
    assert "Nothing read since Nov 18 12:07 UTC (6 h)." in told.words
    assert "stopped: key rejected" in told.row("solo")
    assert "Data is late" not in told.words
    assert told.words.index("What to do") < told.words.index("This month")


def test_a_provider_that_is_down_is_one_problem(tmp_path: Path) -> None:
    """However many of an account's reports fail in the same way, it has one problem, with every answer in it."""
    with play(tmp_path, lone("openai")) as it:
        it.simulator.fault("solo", "server_error")
        it.settle()
        told = page(it)
    assert told.html.count('class="problem"') == 1
    assert "failing: unavailable" in told.row("solo")
    assert "It is asked again by itself." in told.words
    assert "Nothing was ever read." in told.words
    assert "/organization/costs answered 500" in told.words


def test_late_data_is_a_notice(tmp_path: Path) -> None:
    """A watermark more than four hours old is told, though nothing has failed."""
    with play(tmp_path, lone("anthropic")) as it:
        it.settle()
        it.clock.now += 5 * HOUR
        told = page(it)
    assert "1 account, none fails; 1 with late data" in told.words
    assert re.search(r"Data is late: solo \(complete until Nov 18 1[12]:00, \d h ago\)", told.words)
    assert "up, data late" in told.row("solo")


def test_tokens_without_a_price_are_a_notice(tmp_path: Path) -> None:
    """A model that nobody knows a price of is told with its tokens of today and what to do."""
    secret = Stream("proj_web", "gpt-99-secret", api_key="key_web", size=50, shape="steady")
    account, clock = replace(lone("openai"), streams=(*lone("openai").streams, secret)), Clock()
    with stage(tmp_path, World([account], clock, began=midnight(NOON)), clock, history="1d") as it, it.running():
        it.settle()
        told, tokens = page(it), it.value("ai_account_unpriced_tokens", model="gpt-99-secret")
    assert f"No price known today: gpt-99-secret of solo ({tokens:,.0f} tokens)." in told.words
    assert "give the price in prices:" in told.words


def test_folded_series_are_a_notice(tmp_path: Path) -> None:
    """Where series are shown as `other` their number is told, and the models keep their own names."""
    with play(tmp_path, lone("cursor"), max_series="1") as it:
        it.settle()
        told, folded = page(it), it.value("ai_account_folded_series")
    assert f"Series folded into other: solo ({folded:.0f} series)." in told.words
    assert "claude-5-sonnet" in told.html


def test_a_corrected_day_is_marked(tmp_path: Path) -> None:
    """A bill that was changed has a star, and the first amount stands beside it."""
    with play(tmp_path, lone("openai")) as it:
        it.settle()
        day = midnight(NOON) - 2 * DAY
        before = dollars(it, "ai_cost_daily_usd", date=f"{day:%Y-%m-%d}")
        it.world.restate("solo", day, 1.5)
        it.later(65 * timedelta(minutes=1))
        told, now = page(it), dollars(it, "ai_cost_daily_usd", date=f"{day:%Y-%m-%d}")
    assert f"Mon 11-16 {now}* billed, corrected, first {before}" in told.words
    assert "Wed 11-18 ≈ $" in told.words
    assert "Thu 11-12 ? not read" in told.words


def test_hostile_names_are_text(tmp_path: Path) -> None:
    """A model, an owner or a budget that is called like a script is shown, not run."""
    one = lone("cursor")
    odd = replace(one, streams=tuple(replace(stream, model=HOSTILE) for stream in one.streams))
    with play(tmp_path, odd) as it:
        it.change("solo", lambda account: replace(account, owner=HOSTILE))
        it.config = replace(it.config, budgets=(Budget(HOSTILE, HOSTILE, "day", Decimal(5), {"model": HOSTILE}),))
        it.app.apply(it.config)
        it.settle()
        told = page(it)
    assert told.words.count(HOSTILE) == 5
    assert "script" not in told.tags


def test_what_a_provider_says_is_text() -> None:
    """The provider's words, advice, reports and states cannot become tags either."""
    trouble = Trouble(HOSTILE, HOSTILE, (HOSTILE, HOSTILE), HOSTILE, (HOSTILE,), None)
    told = Page(html(Facts(NOON, (account(HOSTILE, troubles=(trouble,), unpriced={HOSTILE: 5}),), ())))
    assert "script" not in told.tags
    assert told.words.count(HOSTILE) > 8


def account(
    name: str = "solo", *, troubles: tuple[Trouble, ...] = (), unpriced: dict[str, int] | None = None
) -> Account:
    """Return an account that was read and used nothing, or that has troubles."""
    return Account(
        name=name,
        provider="openai",
        owner="platform",
        state="bad" if troubles else "good",
        words="failing" if troubles else "up",
        today=0,
        month=0,
        month_billed=0,
        complete_until=NOON - HOUR,
        synced=NOON,
        days={midnight(NOON): None},
        models={},
        unpriced=unpriced or {},
        folded=0,
        late=False,
        troubles=troubles,
    )


def test_many_problems_unfold() -> None:
    """Of a thousand failing accounts twenty problems are open and the rest unfolds; the health line counts them."""
    every = tuple(
        account(f"a{number:04}", troubles=(Trouble(f"a{number:04}", "", ("down",), "", (), NOON),))
        for number in range(1000)
    )
    told = Page(html(Facts(NOON, every, ())))
    assert "1,000 of 1,000 accounts need somebody" in told.words
    assert told.html.partition("980 more")[0].count('class="problem"') == 20


@pytest.mark.parametrize(
    ("spent", "forecast", "state"),
    [
        (0, None, "nothing read yet"),
        (799, 1000, "on pace"),
        (799, 1001, "forecast above the limit"),
        (800, 1001, "nearly spent"),
        (800, None, "nearly spent"),
        (1000, 1000, "nearly spent"),
        (1001, 1001, "exceeded"),
        (-5, 0, "on pace"),
    ],
)
def test_how_a_budget_stands(spent: int, forecast: int | None, state: str) -> None:
    """Nearly spent from 80 % on, exceeded above 100 %, as the alert rules have it; below that the forecast counts."""
    assert budget_state(Standing(1000, spent, forecast, {}, None))[1] == state


def test_when_a_budget_runs_out() -> None:
    """It is told in which time, or since when, or that it is only expected; a mark is where an even pace would be."""
    budget = Budget("b", "", "day", Decimal(10), {})

    def bar(spent: int, hours: int) -> str:
        at = floor(NOON, DAY) + hours * HOUR
        standing = Standing(10 * NANO, spent * NANO, 12 * NANO, {}, at)
        return budgets([Told(budget, period_of("day", NOON), standing)], NOON)

    assert "runs out Nov 18 20:00 UTC, in 7 h" in bar(5, 20)
    assert "ran out Nov 18 10:00 UTC, 2 h ago" in bar(11, 10)
    assert "by forecast ran out Nov 18 10:00 UTC" in bar(5, 10)
    assert 'x1="50.52%"' in bar(5, 20)
    assert 'class="spent" width="100.00%"' in bar(11, 10)


def test_a_day_may_be_half_billed_or_a_credit() -> None:
    """A day of two accounts of which one is billed tells both parts; a credit is told and nothing is drawn of it."""
    half, credit = Bar(NOON, 2 * NANO, NANO, told=True), Bar(NOON, -NANO, 0, told=True)
    assert words(half, running=False) == "2026-11-18: $3.00, $2.00 billed, $1.00 estimated"
    assert words(credit, running=False) == "2026-11-18: -$1.00, billed"
    assert words(Bar(NOON, 0, 0, told=True), running=False) == "2026-11-18: $0.00, nothing used"
    assert words(Bar(NOON, 0, 0, told=False), running=False) == "2026-11-18: not read, nobody was asked"
    assert chart([half, half]).count('class="billed"') == chart([half, half]).count('class="open"') == 3
    assert 'height="-' not in chart([credit, credit])


@pytest.mark.parametrize(
    ("most", "told"),
    [
        (0, [0, 0.01]),
        (0.004, [0, 0.01]),
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (3187.5, [0, 1000, 2000, 3000, 4000]),
        (11, [0, 2.5, 5, 7.5, 10, 12.5]),
        (10**7, [0, 2 * 10**6, 4 * 10**6, 6 * 10**6, 8 * 10**6, 10**7]),
    ],
)
def test_the_scale_has_round_amounts(most: float, told: list[float]) -> None:
    """The scale goes from 0 to at least the highest day in at most five round steps."""
    assert ticks(round(most * NANO)) == [round(one * NANO) for one in told]


def test_how_amounts_read() -> None:
    """Dollars have commas and cents, and no cent is negative that rounds to nothing."""
    assert money(1_234_567_890_000) == "$1,234.57"
    assert money(-70_000_000) == "-$0.07"
    assert money(-1) == "$0.00"
    assert [percent(one, 1000) for one in (0, 4, 99, 100, 12_345)] == ["0 %", "0.4 %", "9.9 %", "10 %", "1,234 %"]
    assert percent(1, 0) == "0 %"
    spans = (timedelta(seconds=40), timedelta(minutes=25), 7 * HOUR, 50 * HOUR, -HOUR)
    assert [lasting(one) for one in spans] == ["40 s", "25 min", "7 h", "2 days", "0 s"]


def test_no_account_at_all() -> None:
    """An empty configuration has a page that says so."""
    assert "No account is configured" in Page(html(Facts(NOON, (), ()))).words


def test_two_hundred_accounts_take_no_second(tmp_path: Path) -> None:
    """The page of 200 accounts with thirty days each is written in less than a second."""
    app = crowd(tmp_path, {f"a{number:03}": 8 for number in range(200)})
    try:
        began = time.perf_counter()
        told = Page(app.views().landing())
        assert time.perf_counter() - began < 1
    finally:
        app.stop()
    assert "200 accounts" in told.words
