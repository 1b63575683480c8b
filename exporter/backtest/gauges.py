"""The ledger's past as scraped gauges: what the page would have shown every few minutes, had everything come in time.

An hour's use is told evenly within the hour, and the hour is complete when the provider's usual delay has passed.
Corrections are in it from the beginning: of each hour, the ledger keeps the newest telling only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from exporter.analysis.baselines import Hourly, baseline
from exporter.analysis.budgets import part
from exporter.backtest.account_history import Past
from exporter.backtest.promtool_series import STEP, Course
from exporter.config.configuration import Budget
from exporter.errors import PROBLEM_REASONS
from exporter.metrics import families as metrics
from exporter.metrics.budgets import budget_samples
from exporter.metrics.exposition import dollars, labelled
from exporter.metrics.families import Family
from exporter.metrics.signals import COST_LEAST, REQUESTS_LEAST, TOKENS_LEAST
from exporter.model import HOUR
from exporter.windows import Span, calendar, slots

STEPS = int(HOUR / STEP)
SCRAPED = 'instance="replay",job="ai-spend"'
_BILLED_AFTER = 8 * HOUR


def courses(pasts: Sequence[Past], budgets: Sequence[Budget], span: Span) -> Iterator[Course]:
    """Yield every gauge that rules could look at, from the start of a span of whole hours to its end."""
    hours = list(slots(span.start, span.end, HOUR))
    for name in ("up", metrics.RELOAD_SUCCESSFUL.name):
        yield _steady(f"{name}{{{SCRAPED}}}", len(hours), "1")
    for past in pasts:
        yield from _health(past, hours)
        yield from _windows(past, hours)
        yield from _signals(past, hours)
    for budget in budgets:
        yield from _budget(budget, pasts, hours)


def _course(family: Family, labels: str) -> Course:
    return Course(f"{family.name}{{{labels},{SCRAPED}}}")


def _steady(text: str, hours: int, value: str) -> Course:
    course = Course(text)
    course.stay(hours * STEPS, value)
    return course


def _health(past: Past, hours: Sequence[datetime]) -> Iterator[Course]:
    """Yield an account that was always well: the ledger does not remember how polls went."""
    values = (past.account.provider, past.account.name)
    own, start = labelled(metrics.ACCOUNT, values), hours[0]
    yield _steady(_course(metrics.UP, own).text, len(hours), "1")
    yield _steady(
        _course(metrics.INFO, labelled(metrics.INFO.labels, (*values, past.account.owner))).text, len(hours), "1"
    )
    for reason in PROBLEM_REASONS:
        labels = labelled(metrics.PROBLEM.labels, (*values, reason))
        yield _steady(_course(metrics.PROBLEM, labels).text, len(hours), "0")
    for report in past.reports:
        labels = labelled(metrics.LAST_SUCCESS.labels, (*values, report.name))
        success, complete = _course(metrics.LAST_SUCCESS, labels), _course(metrics.COMPLETE_UNTIL, labels)
        # promtool's clock begins at 0 where the span does.
        success.rise(len(hours) * STEPS, 0, int(STEP.total_seconds()), str)
        for hour in hours:
            for moment, count in _halves(hour, report.lag):
                seen = past.complete(report, moment) - start
                complete.stay(count, f"{seen.total_seconds():.0f}")
        yield success
        yield complete
    error = _course(metrics.ESTIMATE_ERROR, own)
    for hour in hours:
        error.stay(STEPS, past.estimate_error(hour - _BILLED_AFTER))
    if error.told:
        yield error


def _halves(hour: datetime, lag: timedelta) -> Iterator[tuple[datetime, int]]:
    """Yield a moment and the number of steps of both parts of an hour: before and after a watermark moves on in it."""
    before = -(-(lag % HOUR) // STEP)
    if before:
        yield hour, before
    yield hour + before * STEP, STEPS - before


def _windows(past: Past, hours: Sequence[datetime]) -> Iterator[Course]:
    """Yield cost, tokens and requests in their windows."""
    for families, told in ((metrics.COST, past.cost), (metrics.TOKENS, past.tokens), (metrics.REQUESTS, past.requests)):
        tell = dollars if families is metrics.COST else str
        for labels, series in told.items():
            for name, family in families.items():
                course = _course(family, labels)
                for hour in hours:
                    spans = calendar(hour, None)
                    if not series.any(Span(min(spans["month"].start, spans["30d"].start), hour + HOUR)):
                        course.stay(STEPS, None)
                    elif name == "last_hour":
                        for moment, count in _halves(hour, past.lag):
                            end = past.until(moment)
                            course.stay(count, tell(series.total(Span(end - HOUR, end))))
                    else:
                        known, running = series.total(Span(spans[name].start, hour)), series.at(hour)
                        course.rise(STEPS, known, running // STEPS, tell)
                if course.told:
                    yield course


def _signals(past: Past, hours: Sequence[datetime]) -> Iterator[Course]:
    """Yield what was expected, per workspace."""
    for workspace, series in past.workspaces("cost").items():
        judge = _Judge(series.hourly(past.known), COST_LEAST)
        yield from _judged(past, workspace, hours, judge, dollars, metrics.COST_EXPECTED, metrics.COST_HIGH)
        this, excess = (_course(family, workspace) for family in (metrics.COST_THIS_HIGH, metrics.EXCESS))
        for hour in hours:
            this.stay(STEPS, judge.told(hour, dollars)[1])
            for moment, count in _halves(hour, past.lag):
                above = judge.excess(past.until(moment))
                excess.stay(count, None if above is None else dollars(above))
        yield from (course for course in (this, excess) if course.told)
    for workspace, series in past.workspaces("requests").items():
        judge = _Judge(series.hourly(past.known), REQUESTS_LEAST)
        yield from _judged(past, workspace, hours, judge, str, metrics.REQUESTS_EXPECTED, metrics.REQUESTS_HIGH)
    for workspace, series in past.workspaces("tokens").items() if not past.requests else ():
        judge = _Judge(series.hourly(past.known), TOKENS_LEAST)
        yield from _judged(past, workspace, hours, judge, str, metrics.TOKENS_EXPECTED, metrics.TOKENS_HIGH)


@dataclass(slots=True)
class _Judge:
    """Judges the hours of a workspace, each once: whatever came after an hour changes nothing of it."""

    hours: Hourly
    least: int
    _known: dict[datetime, tuple[int, int] | None]

    def __init__(self, hours: Hourly, least: int) -> None:
        self.hours, self.least, self._known = hours, least, {}

    def of(self, hour: datetime) -> tuple[int, int] | None:
        """Return what was expected of an hour, and its high value."""
        if hour not in self._known:
            found = baseline(self.hours, hour, self.least)
            self._known[hour] = None if found is None else (found.expected, found.high)
        return self._known[hour]

    def told(self, hour: datetime, tell: Callable[[int], str]) -> tuple[str | None, str | None]:
        """Return both as they are told."""
        found = self.of(hour)
        return (None, None) if found is None else (tell(found[0]), tell(found[1]))

    def excess(self, until: datetime) -> int | None:
        """Return by how much the 24 hours before were above their high values."""
        judged = [(hour, self.of(hour)) for hour in (until - number * HOUR for number in range(1, 25))]
        above = [max(0, self.hours.at(hour) - one[1]) for hour, one in judged if one is not None]
        return sum(above) if above else None


def _judged(
    past: Past,
    workspace: str,
    hours: Sequence[datetime],
    judge: _Judge,
    tell: Callable[[int], str],
    *families: Family,
) -> Iterator[Course]:
    """Yield expected and high value of the newest complete hour."""
    both = [_course(family, workspace) for family in families]
    for hour in hours:
        for moment, count in _halves(hour, past.lag):
            for course, value in zip(both, judge.told(past.until(moment) - HOUR, tell), strict=True):
                course.stay(count, value)
    yield from (course for course in both if course.told)


def _budget(budget: Budget, pasts: Sequence[Past], hours: Sequence[datetime]) -> Iterator[Course]:
    """Yield a budget as it would have stood; what is spent rises within the hour."""
    counted = [(past, past.counted(budget)) for past in pasts]
    found: defaultdict[str, Course] = defaultdict(lambda: Course(""))
    for place, hour in enumerate(hours):
        parts = [
            part(budget.period, one.hourly(past.known), hour, past.until(hour + HOUR / 2))
            for past, one in counted
            if one is not None
        ]
        running = sum(one.at(hour) for _, one in counted if one is not None)
        told = {_text(family, labels): (family, value) for family, labels, value in budget_samples(budget, parts, hour)}
        for text in told.keys() - found.keys():
            found[text] = Course(text)
            found[text].stay(place * STEPS, None)
        for text, course in found.items():
            family, value = told.get(text, (None, None))
            if family is metrics.BUDGET_SPENT:
                spent = sum(one.spent for one in parts) - running
                course.rise(STEPS, spent, running // STEPS, dollars)
            else:
                course.stay(STEPS, value)
    yield from found.values()


def _text(family: Family, labels: str) -> str:
    return _course(family, labels).text
