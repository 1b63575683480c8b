"""The contract test of the built-in providers, against an account of the simulator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import ClassVar

import pytest

from exporter.errors import KeyRejected
from exporter.model import COST, DAY, Row
from exporter.providers.testing import ContractApi, ProviderContract
from exporter.simulator.server import Simulator
from exporter.windows import floor

NOW = datetime(2026, 11, 20, 13, 22, 11, tzinfo=UTC)
TODAY = floor(NOW, DAY)


class SimulatedApi:
    """The simulator as the contract test uses it, for one of its accounts."""

    def __init__(self, simulator: Simulator, account: str) -> None:
        self.simulator = simulator
        self.account = account
        self.key = simulator.world.accounts[account].key
        self.base_url = simulator.base_url(account)

    @property
    def statuses(self) -> Sequence[int]:
        """Return the status of every answer so far."""
        return [logged.status for logged in self.simulator.requests]

    def add_fault(
        self, kind: str, *, page: int | None = None, retry_after: int | None = None, seconds: float = 0
    ) -> None:
        """Let the account's requests fail."""
        self.simulator.add_fault(self.account, kind, page=page, retry_after=retry_after, seconds=seconds)

    def clear_faults(self) -> None:
        """Answer normally again."""
        self.simulator.clear_faults(self.account)

    def expected_usage(self, since: datetime, until: datetime) -> Iterable[tuple[datetime, Row]]:
        """Return the usage that the simulated provider reports at the current time."""
        return self.simulator.world.reported_rows(self.account, since, until)

    def expected_bill(self, day: datetime) -> Iterable[Row]:
        """Return the simulated bill of a day, which is empty before it is issued."""
        world = self.simulator.world
        return world.bill(self.account, day) if world.is_billed(self.account, day) else ()


class SimulatedProviderContract(ProviderContract):
    """The contract, and what holds for the built-in providers beyond it; `account` is one of the simulator's."""

    account: ClassVar[str]
    now = NOW

    @pytest.fixture
    def api(self, simulator: Simulator) -> ContractApi:
        """Use the simulator that all tests share."""
        return SimulatedApi(simulator, self.account)

    @contextmanager
    def slow_api(self, api: ContractApi) -> Iterator[ContractApi]:
        """Use a simulator of its own, whose late answers are in no other test's log."""
        assert isinstance(api, SimulatedApi)
        with Simulator(api.simulator.world) as simulator:
            yield SimulatedApi(simulator, self.account)

    def check_key_rejection(self, fault: str, error: KeyRejected) -> None:
        """Check that the advice links to the page for keys, and explains why a revoked or expired key fails."""
        assert "Create a" in error.advice
        assert fault not in {"revoked", "expired"} or fault in error.advice

    def test_time_before_any_usage_has_empty_buckets(self, api: ContractApi) -> None:
        """Buckets are oldest first, and those before the first usage have no rows."""
        for report in self.provider_type.reports[:2]:
            buckets = self.fetch_days(api, report, 32)
            assert buckets[0].start == TODAY - 32 * DAY
            assert buckets[0].rows == ()

    def test_every_line_of_the_bill_is_understood(self, api: ContractApi) -> None:
        """No row of a bill falls back to the meter `cost`."""
        for report in self.provider_type.reports:
            for bucket in self.fetch_days(api, report, 8) if report.kind == "bill" else ():
                assert all(row.meter != COST for row in bucket.rows)

    def test_every_workspace_is_listed(self, api: ContractApi) -> None:
        """The names include the usage without a workspace, where there is some."""
        with self.connect(api) as provider:
            names = provider.names()
        buckets = self.fetch_days(api, self.main_report, 2)
        assert {row.workspace for bucket in buckets for row in bucket.rows} <= names.keys()

    def test_a_steady_poll_is_one_request(self, api: ContractApi) -> None:
        """After the first poll, reading the overlap of the main report is exactly one request."""
        hour = floor(NOW, self.main_report.width)
        with self.connect(api) as provider:
            list(provider.fetch(self.main_report, hour, NOW))
            before = len(api.statuses)
            list(provider.fetch(self.main_report, hour - self.main_report.overlap, NOW))
        assert len(api.statuses) - before == 1
