"""What every provider keeps, whoever it talks to: subclass ProviderContract with an account of the simulator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import ClassVar

import pytest

from exporter.errors import KeyRejected, Malformed, ProviderError, RateLimited, Unavailable
from exporter.model import COST, DAY, HOUR, REQUESTS, TOKEN_METERS, UNIT_METERS, Bucket, Provider, Report, Secret
from exporter.providers import PROVIDERS
from exporter.providers.http import ClientConfig
from exporter.simulator.server import Simulator
from exporter.windows import floor
from tests.providers.canned import ReceivedRequest, Reply, open_provider

NOW = datetime(2026, 11, 20, 13, 22, 11, tzinfo=UTC)
TODAY = floor(NOW, DAY)
KNOWN_METERS = TOKEN_METERS | UNIT_METERS | {COST, REQUESTS}
KEY = "sk-very-secret-0123456789"
UsageTotals = Counter[tuple[datetime, str, str, str, str, str]]


class ProviderContract:
    """Tests that every provider passes; `account` is one of the simulator's, `name` the provider's in the table."""

    name: ClassVar[str]
    account: ClassVar[str]

    @property
    def main_report(self) -> Report:
        """The report that is asked most often."""
        return PROVIDERS[self.name].reports[0]

    @contextmanager
    def session(
        self, simulator: Simulator, timeout: float = 30.0, observe: Callable[[str], None] = lambda _: None
    ) -> Iterator[Provider]:
        """Open the account at the simulator."""
        key = Secret(simulator.world.accounts[self.account].key)
        base_url = simulator.base_url(self.account)
        session = PROVIDERS[self.name](ClientConfig(key, base_url, by_api_key=True, observe=observe, timeout=timeout))
        with closing(session):
            yield session

    def fetch_days(self, simulator: Simulator, report: Report, days: int) -> list[Bucket]:
        """Ask one report for whole days and today so far."""
        with self.session(simulator) as session:
            return list(session.fetch(report, TODAY - days * DAY, NOW))

    def fetch_error(self, simulator: Simulator, timeout: float = 30.0) -> ProviderError:
        """Ask the main report, which must fail, and return the error."""
        with self.session(simulator, timeout) as session, pytest.raises(ProviderError) as caught:
            list(session.fetch(self.main_report, TODAY, NOW))
        return caught.value

    def test_buckets_cover_the_time_range(self, simulator: Simulator) -> None:
        """Every slot of the span is told once, oldest first, in full width, days before any use included."""
        for report in PROVIDERS[self.name].reports[:2]:
            told = self.fetch_days(simulator, report, 32)
            assert told[0].start == TODAY - 32 * DAY
            assert told[-1].start == floor(NOW, report.width)
            assert all(left.end == right.start for left, right in pairwise(told))
            assert {bucket.end - bucket.start for bucket in told} == {report.width}
            assert told[0].rows == ()

    def test_values_are_whole_and_known(self, simulator: Simulator) -> None:
        """Rows hold whole numbers from zero up, of meters that the vocabulary knows, each label set once."""
        for report in PROVIDERS[self.name].reports:
            for bucket in self.fetch_days(simulator, report, 2):
                assert all(row.value >= 0 and type(row.value) is int for row in bucket.rows)
                assert {row.meter for row in bucket.rows} <= KNOWN_METERS
                labels = [(r.meter, r.workspace, r.model, r.tier, r.api_key, r.item) for r in bucket.rows]
                assert len(labels) == len(set(labels))

    def test_repeated_fetches_return_equal_buckets(self, simulator: Simulator) -> None:
        """Asking twice while nothing changed gives equal buckets."""
        for report in PROVIDERS[self.name].reports:
            assert self.fetch_days(simulator, report, 2) == self.fetch_days(simulator, report, 2)

    def test_usage_is_exact_to_the_unit(self, simulator: Simulator) -> None:
        """Every unit that the provider shows arrives, at its hour and labels, and nothing else does."""
        told: UsageTotals = Counter()
        for report in PROVIDERS[self.name].reports:
            for bucket in self.fetch_days(simulator, report, 8) if report.kind == "usage" else ():
                for row in bucket.rows:
                    told[bucket.start, row.meter, row.workspace, row.model, row.tier, row.api_key] += row.value
        shown: UsageTotals = Counter()
        for hour, row in simulator.world.reported_rows(self.account, TODAY - 8 * DAY, NOW):
            shown[hour, row.meter, row.workspace, row.model, row.tier, row.api_key] += row.value
        assert told == shown

    def test_bills_are_exact_to_the_nano_dollar(self, simulator: Simulator) -> None:
        """Each billed day's rows add up to the bill, and every line of the bill is understood."""
        for report in PROVIDERS[self.name].reports:
            for bucket in self.fetch_days(simulator, report, 8) if report.kind == "bill" else ():
                due = simulator.world.is_billed(self.account, bucket.start)
                lines = simulator.world.bill(self.account, bucket.start) if due else ()
                assert sum(row.value for row in bucket.rows) == sum(line.value for line in lines)
                assert {row.item for row in bucket.rows} == {line.item for line in lines}
                assert all(row.meter != COST for row in bucket.rows)

    def test_every_workspace_has_a_name(self, simulator: Simulator) -> None:
        """The ids of workspaces in rows, archived ones included, are named."""
        with self.session(simulator) as session:
            names = session.names()
        ids = {row.workspace for bucket in self.fetch_days(simulator, self.main_report, 2) for row in bucket.rows}
        assert ids
        assert ids <= names.keys()

    def test_verify_makes_one_call(self, simulator: Simulator) -> None:
        """A check of the key costs one request and says whose it is."""
        with self.session(simulator) as session:
            assert session.verify().startswith("ok, ")
        assert len(simulator.requests) == 1

    def test_a_steady_poll_is_one_request(self, simulator: Simulator) -> None:
        """After the first poll, re-reading the overlap of the main report is one request."""
        hour = floor(NOW, HOUR)
        with self.session(simulator) as session:
            list(session.fetch(self.main_report, hour, NOW))
            simulator.requests.clear()
            list(session.fetch(self.main_report, hour - self.main_report.overlap, NOW))
        assert len(simulator.requests) == 1

    def test_a_failed_page_returns_nothing(self, simulator: Simulator) -> None:
        """When the second page of a walk fails, not one bucket of the first is told."""
        simulator.add_fault(self.account, "server_error", page=2)
        with self.session(simulator) as session:
            buckets = session.fetch(self.main_report, TODAY - 10 * DAY, NOW)
            with pytest.raises(Unavailable):
                next(buckets)

    @pytest.mark.parametrize("fault", ["server_error", "overloaded"])
    def test_server_errors(self, simulator: Simulator, fault: str) -> None:
        """A 5xx answer is Unavailable, and the provider was reached."""
        simulator.add_fault(self.account, fault)
        error = self.fetch_error(simulator)
        assert isinstance(error, Unavailable)
        assert error.reached

    @pytest.mark.parametrize("seconds", [None, 7])
    def test_too_many_requests(self, simulator: Simulator, seconds: int | None) -> None:
        """A 429 is RateLimited with the wait that the provider asks for, or none."""
        simulator.add_fault(self.account, "rate_limited", retry_after=seconds)
        error = self.fetch_error(simulator)
        assert isinstance(error, RateLimited)
        assert error.retry_after == seconds

    @pytest.mark.parametrize("fault", ["truncated", "malformed", "mistyped", "html"])
    def test_malformed_answers(self, simulator: Simulator, fault: str) -> None:
        """Cut JSON, a missing list, words for numbers and web pages are Malformed."""
        simulator.add_fault(self.account, fault)
        assert isinstance(self.fetch_error(simulator), Malformed)

    @pytest.mark.parametrize(
        ("fault", "reasons"),
        [
            ("revoked", {"key_rejected"}),
            ("expired", {"key_rejected"}),
            ("missing_scope", {"missing_scope"}),
            ("wrong_key", {"key_rejected", "missing_scope", "wrong_key_kind"}),
        ],
    )
    def test_rejected_keys(self, simulator: Simulator, fault: str, reasons: set[str]) -> None:
        """A refused key is KeyRejected with its reason and advice that says where to make a right one."""
        simulator.add_fault(self.account, fault)
        error = self.fetch_error(simulator)
        assert isinstance(error, KeyRejected)
        assert error.reason in reasons
        assert "Create a" in error.advice
        assert fault not in {"revoked", "expired"} or fault in error.advice

    def test_a_slow_answer_times_out(self, simulator: Simulator) -> None:
        """An answer that takes longer than the timeout is Unavailable, in words that a person understands."""
        with Simulator(simulator.world) as slow:
            slow.add_fault(self.account, "slow", seconds=2)
            error = self.fetch_error(slow, timeout=0.1)
        assert isinstance(error, Unavailable)
        assert "no whole answer within 0.1 s" in str(error)

    def test_every_request_is_observed(self, simulator: Simulator) -> None:
        """Each request is reported once, with the status that came."""
        codes: list[str] = []
        simulator.add_fault(self.account, "server_error", page=2)
        with self.session(simulator, observe=codes.append) as session, pytest.raises(Unavailable):
            list(session.fetch(self.main_report, TODAY - 10 * DAY, NOW))
        assert codes == [str(served.status) for served in simulator.requests]
        assert codes[-1] == "500"

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
    def test_the_key_is_in_no_error(self, status: int) -> None:
        """A provider that sends all headers back in its error does not bring the key into ours."""

        def echo(asked: ReceivedRequest) -> Reply:
            return Reply({"error": {"message": f"odd headers {dict(asked.headers)} {KEY}"}}, status)

        with open_provider(self.name, echo, key=KEY) as (session, server), pytest.raises(ProviderError) as caught:
            list(session.fetch(self.main_report, TODAY, NOW))
        shown = f"{caught.value} {caught.value!r} {vars(caught.value)}"
        sent = [value for asked in server.requests for value in asked.headers.values() if len(value) > 20]
        assert KEY not in shown
        assert not [value for value in sent if "ai-spend" not in value and value.split()[-1] in shown]

    def test_reports_are_sane(self) -> None:
        """A daily re-read reaches at least as far as the overlap, and no report is asked more than once a minute."""
        for report in PROVIDERS[self.name].reports:
            assert report.overlap <= report.settle_period <= report.history
            assert report.poll_interval >= timedelta(minutes=1)
            assert report.settle_period + (DAY if report.width == HOUR else timedelta()) <= 168 * report.width
