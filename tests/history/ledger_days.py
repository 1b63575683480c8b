"""A ledger with hand-written history, and remote reads of it in Prometheus's format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cramjam

from exporter.config.configuration import Account, Budget
from exporter.history.hourly import HistoryAccount
from exporter.history.remote_read import RemoteReadHandler
from exporter.history.remote_read_protocol import MESSAGES
from exporter.history.sources import History
from exporter.ledger import Ledger, ValuedDay
from exporter.model import COST, DAY, HOUR, Bucket, Report, Row, RowLabels
from exporter.polling.account_state import AccountConfig, AccountState
from exporter.pricing.valuer import LedgerAccount
from exporter.snapshot.hourly import matching_budgets
from exporter.snapshot.offline import build_snapshot
from exporter.windows import TimeRange

DAY1 = datetime(2026, 3, 1, tzinfo=UTC)
USAGE_REPORT = Report("use", "usage", HOUR, HOUR, HOUR, DAY, timedelta(0), 30 * DAY)
EQUAL, NOT_EQUAL, REGEX, NOT_REGEX = range(4)
Matcher = tuple[int, str, str]


def to_milliseconds(timestamp: datetime) -> int:
    """Return a time in milliseconds."""
    return int(timestamp.timestamp()) * 1000


def encode_read_request(*matchers: Matcher, since: int = 0, until: int = 2**62, types: Sequence[int] = (1, 0)) -> bytes:
    """Return the body of a request with a single query."""
    request = MESSAGES["ReadRequest"](accepted_response_types=types)
    query = request.queries.add(start_timestamp_ms=since, end_timestamp_ms=until)
    for kind, name, value in matchers:
        query.matchers.add(type=kind, name=name, value=value)
    return bytes(cramjam.snappy.compress_raw(request.SerializeToString()))


def decode_read_response(body: bytes) -> list[dict[frozenset[tuple[str, str]], dict[int, float]]]:
    """Decode a response: per query, labels -> time in ms -> value."""
    response: Any = MESSAGES["ReadResponse"]()
    response.ParseFromString(bytes(cramjam.snappy.decompress_raw(body)))
    return [
        {
            frozenset((label.name, label.value) for label in series.labels): {
                sample.timestamp: sample.value for sample in series.samples
            }
            for series in result.timeseries
        }
        for result in response.results
    ]


@dataclass
class LedgerHistory:
    """The ledger of an account whose usage is complete up to the end of its second day."""

    ledger: Ledger
    max_series: int = 100
    until: datetime = DAY1 + 2 * DAY
    max_samples: int = 10_000
    known_since: datetime = DAY1
    has_hourly_usage: bool = True
    budgets: tuple[Budget, ...] = ()
    number: int = field(init=False)
    reader: RemoteReadHandler = field(init=False)

    def __post_init__(self) -> None:
        """Register the account and build its reader."""
        self.number = self.ledger.buckets.register_account("acme", "maker")
        self.reader = RemoteReadHandler(self.ledger, self.history, self.max_samples)

    def history(self) -> History:
        """Return the account and its budgets."""
        return History(self.history_accounts(), self.budgets, self.until)

    def history_accounts(self) -> list[HistoryAccount]:
        """Return the account with the labels that it has at the end of its second day."""
        ledger_account = LedgerAccount(self.number, "maker", (USAGE_REPORT,))
        account = Account(
            name="acme",
            provider="maker",
            api_key_env="KEY",
            poll_interval=timedelta(minutes=5),
            history=DAY,
            max_series=self.max_series,
            timeout=timedelta(minutes=1),
        )
        view = AccountState(AccountConfig(account, ledger_account)).view()
        snapshot = build_snapshot(self.ledger, view, DAY1 + 2 * DAY)
        mapper, budgets = snapshot.label_mapper, matching_budgets(account, self.budgets)
        return [
            HistoryAccount(
                account,
                ledger_account,
                mapper,
                self.until,
                self.until,
                self.known_since,
                self.has_hourly_usage,
                budgets,
            )
        ]

    def put_usage(self, start: datetime, *rows: Row) -> None:
        """Store the usage of an hour."""
        time_range = TimeRange(start, start + HOUR)
        bucket = Bucket("use", time_range.start, time_range.end, rows)
        self.ledger.buckets.put(self.number, "use", time_range, [bucket])

    def put_cost(self, day: datetime, hours: dict[int, Sequence[Row]]) -> None:
        """Store the cost of a day by hour."""
        revision = self.ledger.costs.revision(self.number, day)
        costs: dict[RowLabels, dict[int, int]] = {}
        for hour, rows in hours.items():
            for row in rows:
                labels = RowLabels(COST, row.workspace, row.model, row.tier, row.api_key, row.item)
                costs.setdefault(labels, {})[hour] = row.value
        self.ledger.costs.put(self.number, day, ValuedDay(costs, {}, "by hand", billed=False), revision)

    def read(
        self, *matchers: Matcher, since: int = 0, until: int = 2**62
    ) -> dict[frozenset[tuple[str, str]], dict[int, float]]:
        """Return the result of a query: labels -> time in ms -> value."""
        request = encode_read_request(*matchers, since=since, until=until)
        (result,) = decode_read_response(self.reader.handle(request))
        return result

    def label_values(self, *matchers: Matcher, label: str = "model") -> set[str]:
        """Return the values of a label of the series that match."""
        return {dict(labels).get(label, "") for labels in self.read(*matchers)}


def cost_row(value: int, model: str = "m", workspace: str = "w", tier: str = "", item: str = "") -> Row:
    """Return a row of cost, in nano-USD."""
    return Row(COST, value, workspace, model, tier, "", item)


@contextmanager
def open_ledger(folder: Path, max_series: int = 100, max_samples: int = 10_000) -> Iterator[LedgerHistory]:
    """Open an empty ledger."""
    ledger = Ledger(folder)
    yield LedgerHistory(ledger, max_series, max_samples=max_samples)
    ledger.close()
