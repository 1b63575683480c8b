"""The minimum of calls that the providers' documented limits allow, for a first poll and for steady polling.

Everything here follows from the limits and from how often data can change; nothing is taken from the exporter.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from exporter.model import DAY, HOUR
from exporter.simulator.accounts import Member, SimAccount, Stream
from exporter.simulator.world import World
from exporter.simulator.xai import TEAM
from exporter.windows import floor, slots

HOURS_PER_PAGE, EVENTS_PER_PAGE, MAX_RANGE = 168, 1000, 30 * DAY
BILL_DAYS_PER_PAGE = {"openai": 180, "anthropic": 31}
NAMES_PER_PAGE = {"openai": 100, "anthropic": 1000}
MAIN_REPORT = {"openai": "completions", "anthropic": "messages"}
BILL_REPORT = {"openai": "costs", "anthropic": "cost_report"}
NAMES_ENDPOINT = {"openai": "projects", "anthropic": "workspaces", "cursor": "groups", "openrouter": "workspaces"}
EVENTS_ENDPOINT = "filtered-usage-events"
BALANCE_ENDPOINT = {"openrouter": "credits", "xai": "balance", "deepseek": "balance"}
"""Balances have no history: a call returns all that there is."""
HOURLY_REPORTS = {
    "openai": (
        "embeddings",
        "moderations",
        "images",
        "audio_speeches",
        "audio_transcriptions",
        "vector_stores",
        "code_interpreter_sessions",
        "file_search_calls",
        "web_search_calls",
    ),
    "anthropic": (),
}
"""Kinds of use that change no alarm within minutes: hourly, as bills and events are."""

MAIN_INTERVAL, NAMES_INTERVAL = timedelta(minutes=5), 6 * HOUR
BALANCE_INTERVAL = timedelta(minutes=15)
EVENTS_OVERLAP, EVENTS_SETTLE_PERIOD = 6 * HOUR, 3 * DAY
REREAD_PART = 7 * DAY
HISTORY = 30 * DAY

CallCounts = Counter[tuple[str, str]]
"""(account, the last word of the path) -> requests; the accounts are called like their providers."""


def make_accounts() -> tuple[SimAccount, ...]:
    """Return an account of each provider, with more names and events than a page holds."""
    office = tuple(
        Stream("", model, "included", report="usage_events", daily_requests=200) for model in ("composer-2", "default")
    )
    return (
        SimAccount(
            "openai",
            "openai",
            "platform",
            "sk-admin-calls-0000",
            "Acme",
            (Stream("proj_1", "gpt-5.4-2026-03-05"), Stream("proj_2", "text-embedding-3-small", "", "", "embeddings")),
            {f"proj_{number}": f"Project {number}" for number in range(NAMES_PER_PAGE["openai"] + 1)},
        ),
        SimAccount(
            "anthropic",
            "anthropic",
            "platform",
            "sk-ant-admin01-calls-0000",
            "Acme",
            (Stream("wrkspc_1", "claude-sonnet-5", report="messages"),),
            {f"wrkspc_{number}": f"Workspace {number}" for number in range(NAMES_PER_PAGE["anthropic"] + 1)},
        ),
        SimAccount(
            "cursor",
            "cursor",
            "engineering",
            "crsr_" + "0c" * 32,
            "Acme",
            office,
            members=(Member("user_ada", "Ada Brandt", "ada@acme.example"),),
        ),
        SimAccount(
            "openrouter",
            "openrouter",
            "platform",
            "sk-or-v1-calls",
            "Acme",
            (Stream("w1", "gpt-5.4-2026-03-05", "OpenAI", report="openrouter_usage", load_profile="steady"),),
            {"w1": "Web"},
            prepaid_usd=1000,
            bill_delay=timedelta(minutes=30),
        ),
        SimAccount(
            "xai",
            "xai",
            "research",
            "xai-token-calls",
            "Acme",
            (Stream("", "grok-4.3", "", "key-web", "xai_usage"),),
            prepaid_usd=1000,
            options={"team_id": TEAM},
        ),
        SimAccount("deepseek", "deepseek", "research", "sk-calls", "Acme", (), prepaid_usd=10),
    )


@dataclass
class MinimumCalls:
    """The minimum of calls, counted along with a world and its clock."""

    world: World
    calls: CallCounts = field(default_factory=Counter)
    _last_read: datetime = field(init=False)
    _last_settle_read: datetime = field(init=False)
    _first_day: datetime = field(init=False)

    def add_first_poll(self) -> None:
        """Count thirty complete days and the current day: hours, bills, events, names."""
        now = self.world.clock()
        self._first_day = since = floor(now, DAY) - HISTORY
        for provider, main in MAIN_REPORT.items():
            hours = _count_pages(-((since - now) // HOUR), HOURS_PER_PAGE)
            self.calls.update({(provider, kind): hours for kind in (main, *HOURLY_REPORTS[provider])})
            days = -((since - now) // DAY)
            self.calls[provider, BILL_REPORT[provider]] += _count_pages(days, BILL_DAYS_PER_PAGE[provider])
        self._add_names()
        # 744 rows of the first poll of OpenRouter are in one answer; the names of its metrics are read once.
        self.calls.update({("openrouter", name): 1 for name in ("meta", "query", "activity")})
        # xAI answers any range at once, unless it is cut, which an account of this size is not.
        self.calls["xai", "usage"] += 1
        self.calls.update(dict.fromkeys(BALANCE_ENDPOINT.items(), 1))
        self._last_read = self._last_settle_read = now
        self._add_events(since, now)

    def add_steady_polling(self, duration: timedelta) -> None:
        """Count polls that read the newest few hours again, a page at each poll, and the names."""
        for provider, main in MAIN_REPORT.items():
            self.calls[provider, main] += duration // MAIN_INTERVAL
            for kind in (*HOURLY_REPORTS[provider], BILL_REPORT[provider]):
                self.calls[provider, kind] += duration // HOUR
        self.calls["xai", "usage"] += duration // HOUR
        self.calls["openrouter", "activity"] += duration // HOUR
        self.calls["openrouter", "query"] += duration // BALANCE_INTERVAL
        for provider, endpoint in BALANCE_ENDPOINT.items():
            self.calls[provider, endpoint] += duration // BALANCE_INTERVAL
        for _ in range(duration // NAMES_INTERVAL):
            self._add_names()

    def add_hourly_events(self) -> None:
        """Count a read of Cursor's events at the clock's time; once a day it covers the settle period."""
        now = self.world.clock()
        since = floor(self._last_read - EVENTS_OVERLAP, HOUR)
        if now - self._last_settle_read >= DAY:
            since, self._last_settle_read = floor(now, DAY) - EVENTS_SETTLE_PERIOD, now
        self._last_read = now
        self._add_events(since, now)

    def add_weekly_reread(self, provider: str) -> None:
        """Count a read of the bills that are older than what is read again every day."""
        today = floor(self.world.clock(), DAY)
        if provider == "openai":
            self.calls[provider, BILL_REPORT[provider]] += 1
        if provider == "cursor":
            # A week at a time, so that whatever becomes due meanwhile is read between two parts.
            for start in slots(self._first_day, today - EVENTS_SETTLE_PERIOD, REREAD_PART):
                self._add_events(start, min(start + REREAD_PART, today - EVENTS_SETTLE_PERIOD))

    def _add_names(self) -> None:
        for provider, page_size in NAMES_PER_PAGE.items():
            self.calls[provider, NAMES_ENDPOINT[provider]] += _count_pages(
                len(self.world.accounts[provider].workspaces), page_size
            )
        for provider in ("cursor", "openrouter"):
            self.calls[provider, NAMES_ENDPOINT[provider]] += 1

    def _add_events(self, since: datetime, until: datetime) -> None:
        """Count time ranges of the maximum length, oldest first: nothing is known of events before they are read."""
        while since < until:
            end = min(since + MAX_RANGE, until)
            self.calls["cursor", EVENTS_ENDPOINT] += _count_pages(self._count_events(since, end), EVENTS_PER_PAGE)
            since = end

    def _count_events(self, since: datetime, until: datetime) -> int:
        first, end = int(since.timestamp()), int(until.timestamp())
        return sum(
            first * 1000 <= event.time_ms < end * 1000
            for hour in range(first - first % 3600, end, 3600)
            for event in self.world.events("cursor", hour)
        )


def _count_pages(items: int, page_size: int) -> int:
    return max(1, -(-items // page_size))
