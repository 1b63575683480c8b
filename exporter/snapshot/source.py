"""The stored data of one account, from which its snapshot is built."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from exporter.ledger import Coverage, DayCost, HourlyValues, Ledger
from exporter.model import DAY, GAUGE_METERS, TOKEN_METERS, Report, RowLabels
from exporter.polling.account_state import Crosscheck
from exporter.pricing.valuer import LedgerAccount
from exporter.windows import TimeRange


def sum_hours(hours: HourlyValues) -> dict[RowLabels, int]:
    """Return the sum of a day's hours by row labels; of a gauge meter the largest hour."""
    return {labels: max(values) if labels.meter in GAUGE_METERS else sum(values) for labels, values in hours.items()}


class SnapshotSource(Protocol):
    """The stored data of one account. The ledger as it is now is one implementation, the backtest's past another."""

    def coverage(self, report: Report) -> Coverage | None:
        """Return how far a report has been read; None before the first successful poll."""
        ...

    def last_reads(self, reports: Sequence[str], time_range: TimeRange) -> Mapping[datetime, datetime]:
        """Return the start of a UTC day -> when all of these reports were last read; days without a read are absent."""
        ...

    def day_version(self, day: datetime) -> int:
        """Return a number that changes whenever the cost or usage of a UTC day does."""
        ...

    def hourly_cost(self, day: datetime) -> HourlyValues:
        """Return nano-USD of a UTC day by row labels and hour."""
        ...

    def hourly_usage(self, day: datetime) -> HourlyValues:
        """Return units of a UTC day by row labels and hour."""
        ...

    def daily_usage(self, day: datetime) -> Mapping[RowLabels, int]:
        """Return units of a UTC day by row labels; of a gauge meter the largest hour."""
        ...

    def cost(self, time_range: TimeRange) -> Mapping[RowLabels, int]:
        """Return nano-USD of whole hours by row labels."""
        ...

    def usage(self, time_range: TimeRange) -> Mapping[RowLabels, int]:
        """Return units of whole hours by row labels."""
        ...

    def day_costs(self, time_range: TimeRange) -> Sequence[DayCost]:
        """Return the valued days that start in a time range, oldest first."""
        ...

    def unpriced_tokens(self, time_range: TimeRange) -> Mapping[datetime, Mapping[str, int]]:
        """Return start of a UTC day -> model -> tokens without a known price."""
        ...

    def restated(self) -> int:
        """Return nano-USD by which billed days were ever corrected."""
        ...

    def known_labels(self) -> Collection[RowLabels]:
        """Return the labels of every row that was ever stored, cost included."""
        ...

    def names(self) -> Mapping[str, str]:
        """Return id of a workspace or an API key -> name."""
        ...

    def crosscheck_tokens(self, crosscheck: Crosscheck, hour: TimeRange) -> int | None:
        """Return the tokens that another source reported of an hour; None where that source is not complete."""
        ...


@dataclass(frozen=True, slots=True)
class LedgerSource:
    """The ledger as it is now."""

    ledger: Ledger
    ledger_account: LedgerAccount

    def coverage(self, report: Report) -> Coverage | None:
        """Return how far a report has been read."""
        return self.ledger.buckets.coverage(self.ledger_account.id, report.name)

    def last_reads(self, reports: Sequence[str], time_range: TimeRange) -> Mapping[datetime, datetime]:
        """Return the start of a UTC day -> when all of these reports were last read."""
        return self.ledger.buckets.last_reads(self.ledger_account.id, reports, time_range)

    def day_version(self, day: datetime) -> int:
        """Return the version of a UTC day."""
        return self.ledger.hours.version(self.ledger_account.id, day)

    def hourly_cost(self, day: datetime) -> HourlyValues:
        """Return nano-USD of a UTC day by row labels and hour."""
        return self.ledger.hours.cost(self.ledger_account.id, day)

    def hourly_usage(self, day: datetime) -> HourlyValues:
        """Return units of a UTC day by row labels and hour."""
        return self.ledger.hours.units(self.ledger_account.id, self._usage_reports, day)

    def daily_usage(self, day: datetime) -> Mapping[RowLabels, int]:
        """Return units of a UTC day by row labels."""
        return self.usage(TimeRange(day, day + DAY))

    def cost(self, time_range: TimeRange) -> Mapping[RowLabels, int]:
        """Return nano-USD of whole hours by row labels."""
        return self.ledger.costs.total(self.ledger_account.id, time_range)

    def usage(self, time_range: TimeRange) -> Mapping[RowLabels, int]:
        """Return units of whole hours by row labels."""
        return self.ledger.buckets.units(self.ledger_account.id, self._usage_reports, time_range)

    def day_costs(self, time_range: TimeRange) -> Sequence[DayCost]:
        """Return the valued days that start in a time range, oldest first."""
        return self.ledger.costs.days(self.ledger_account.id, time_range)

    def unpriced_tokens(self, time_range: TimeRange) -> Mapping[datetime, Mapping[str, int]]:
        """Return start of a UTC day -> model -> tokens without a known price."""
        return self.ledger.costs.unpriced_tokens(self.ledger_account.id, time_range)

    def restated(self) -> int:
        """Return nano-USD by which billed days were ever corrected."""
        return self.ledger.costs.total_restatement(self.ledger_account.id)

    def known_labels(self) -> Collection[RowLabels]:
        """Return the labels of every row that was ever stored."""
        return self.ledger.hours.labels(self.ledger_account.id, self._usage_reports)

    def names(self) -> Mapping[str, str]:
        """Return id of a workspace or an API key -> name."""
        return self.ledger.names.all(self.ledger_account.id)

    def crosscheck_tokens(self, crosscheck: Crosscheck, hour: TimeRange) -> int | None:
        """Return the tokens that another source reported of an hour."""
        buckets = self.ledger.buckets
        covered = [buckets.coverage(number, crosscheck.report) for number in crosscheck.account_numbers]
        if not any(known is not None and known.since <= hour.start and known.until >= hour.end for known in covered):
            return None
        return sum(
            value
            for number in crosscheck.account_numbers
            for labels, value in buckets.units(number, [crosscheck.report], hour).items()
            if labels.meter in TOKEN_METERS
        )

    @property
    def _usage_reports(self) -> list[str]:
        return [report.name for report in self.ledger_account.usage_reports]
