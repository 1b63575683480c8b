"""History as an OpenMetrics file, for engines that cannot read it remotely."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence

from exporter.history.hourly import Shown, Teller, account_labels, hourly, series_labels, stamps
from exporter.ledger import Ledger
from exporter.metrics.exposition import dollars, header, labelled
from exporter.metrics.families import HISTORY_FAMILIES, HOURLY_COST, Family
from exporter.windows import Span

END = "# EOF\n"


def history_lines(ledger: Ledger, tellers: Sequence[Teller], span: Span, step: Callable[[], object]) -> Iterator[str]:
    """Yield the file in pieces, whole UTC days of a span; `step` is called once per account and family.

    A family's series come one after the other, each with its samples in order of time, as the format wants it.
    """
    for family in HISTORY_FAMILIES:
        yield header(family, openmetrics=True).decode()
        for teller in tellers:
            yield from _account(ledger, family, teller, span)
            step()
    yield END


def _account(ledger: Ledger, family: Family, teller: Teller, span: Span) -> Iterator[str]:
    series: dict[Shown, list[tuple[list[str], array[int]]]] = {}
    shared, until = account_labels(teller), int(teller.until.timestamp()) * 1000
    for day in ledger.hours.days(teller.book.number, span):
        times = [stamp for stamp in stamps(day) if stamp < until]
        texts = [f"{stamp // 1000}.{stamp % 1000:03d}" for stamp in times]
        for shown, values in hourly(ledger, family, teller, day).items():
            # Where only the day's sum is kept, it stands at the day's end.
            at = texts if len(values) > 1 else texts[23:]
            series.setdefault(shown, []).append((at, array("q", values[: len(at)])))
    tell = dollars if family is HOURLY_COST else str
    for shown, days in sorted(series.items(), key=lambda one: one[0]):
        labels = {**shared, **series_labels(teller, shown)}
        name = f"{family.name}{{{labelled(list(labels), list(labels.values()))}}}"
        yield "".join(
            f"{name} {tell(value)} {at}\n" for ats, values in days for at, value in zip(ats, values, strict=True)
        )
