"""History as an OpenMetrics file, for engines that cannot read it remotely."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence

from exporter.history.hourly import (
    SAMPLE_LEAD_MS,
    HistoryAccount,
    HistorySeriesKey,
    account_labels,
    read_day,
    sample_timestamps,
    series_labels,
)
from exporter.ledger import Ledger
from exporter.metrics.exposition import format_labels, format_usd, render_header
from exporter.metrics.families import HOURLY_COST, HOURLY_FAMILIES, Family
from exporter.windows import TimeRange

EOF_LINE = "# EOF\n"


def render_history(
    ledger: Ledger, history_accounts: Sequence[HistoryAccount], time_range: TimeRange, on_progress: Callable[[], object]
) -> Iterator[str]:
    """Yield the file in pieces, whole UTC days of a time range; `on_progress` is called once per account and family.

    The format requires all samples of a series together, in order of time.
    """
    for family in HOURLY_FAMILIES:
        yield render_header(family, openmetrics=True).decode()
        for history_account in history_accounts:
            yield from _render_account(ledger, family, history_account, time_range)
            on_progress()
    yield EOF_LINE


def _render_account(
    ledger: Ledger, family: Family, history_account: HistoryAccount, time_range: TimeRange
) -> Iterator[str]:
    series: dict[HistorySeriesKey, list[tuple[list[str], array[int]]]] = {}
    shared, until = account_labels(history_account), int(history_account.complete_until.timestamp()) * 1000
    for day in ledger.hours.days(history_account.ledger_account.id, time_range):
        # Compared by the hour's end: the sample of an incomplete hour may lie before the end of what is known.
        times = [stamp for stamp in sample_timestamps(day) if stamp + SAMPLE_LEAD_MS <= until]
        texts = [f"{stamp // 1000}.{stamp % 1000:03d}" for stamp in times]
        for series_key, values in read_day(ledger, family, history_account, day).items():
            # Where only the day's sum is kept, it is the sample of the day's last hour.
            timestamps = texts if len(values) > 1 else texts[23:]
            series.setdefault(series_key, []).append((timestamps, array("q", values[: len(timestamps)])))
    format_value = format_usd if family is HOURLY_COST else str
    for series_key, days in sorted(series.items(), key=lambda item: item[0]):
        labels = {**shared, **series_labels(history_account, series_key)}
        name = f"{family.name}{{{format_labels(list(labels), list(labels.values()))}}}"
        yield "".join(
            f"{name} {format_value(value)} {timestamp}\n"
            for timestamps, values in days
            for timestamp, value in zip(timestamps, values, strict=True)
        )
