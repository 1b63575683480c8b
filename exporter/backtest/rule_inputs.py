"""Which alerts a replay can judge: whether the metrics of their expressions have values in it, and since when.

An alert whose inputs are absent from a replay never fires there, whatever happened. This module reads as much of PromQL
as that takes: metric names, `and`, `or`, `unless`, ranges and offsets. Only for rules that promtool has accepted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from exporter.backtest.promtool_series import STEP, PromtoolSeries
from exporter.backtest.rules import AlertRule, Rules
from exporter.config.durations import format_duration, parse_duration
from exporter.metrics.families import (
    ACCOUNT_INFO,
    ACCOUNT_PROBLEM,
    ACCOUNT_UP,
    API_REQUESTS,
    BALANCE,
    BALANCE_EXHAUSTION,
    COMPLETE_UNTIL,
    COST_DAILY_ONE_TIME,
    INCOMPLETE_BILLS,
    LAST_SUCCESS,
    MISSING_BILLS,
    POLL_DURATION,
    POLL_FAILURES,
    POLLS,
    RESTATED_COST,
    UNPRICED_TOKENS,
)

ASSUMED_METRICS = frozenset(
    family.name
    for family in (
        ACCOUNT_PROBLEM,
        ACCOUNT_UP,
        API_REQUESTS,
        BALANCE,
        BALANCE_EXHAUSTION,
        INCOMPLETE_BILLS,
        LAST_SUCCESS,
        MISSING_BILLS,
        POLL_DURATION,
        POLL_FAILURES,
        POLLS,
        RESTATED_COST,
    )
)
"""Metrics that a replay has, but whose past is not recorded: every poll succeeded, and every bill was complete
at once and never restated."""

ON_TIME_METRICS = frozenset({COMPLETE_UNTIL.name, ACCOUNT_INFO.name})
"""Data is complete after its usual delay in every replay. As a condition beside others that is fine: the delay is small
enough. An alert that requires nothing else cannot fire."""

SPARSE_METRICS = frozenset({COST_DAILY_ONE_TIME.name, UNPRICED_TOKENS.name, "ALERTS", "ALERTS_FOR_STATE"})
"""Metrics whose absence means that there is nothing to report, not that nothing is known."""


@dataclass(frozen=True, slots=True)
class InputStatus:
    """Whether the inputs of an expression have values in a replay."""

    first_step: int = 0
    """The first step at which all of them have values."""
    lookback: timedelta = timedelta(0)
    """The longest range and offset together."""
    metrics: frozenset[str] = frozenset()
    """The metrics that the expression reads, in any of its alternatives."""
    unrecorded: frozenset[str] = frozenset()
    """Required metrics of whose past a replay knows nothing."""
    absent: frozenset[str] = frozenset()
    """Required metrics that a replay could have, but that have no value in this one."""

    @property
    def missing(self) -> frozenset[str]:
        """Required metrics without values."""
        return self.unrecorded | self.absent


def _both(left: InputStatus, right: InputStatus) -> InputStatus:
    return InputStatus(
        max(left.first_step, right.first_step),
        max(left.lookback, right.lookback),
        left.metrics | right.metrics,
        left.unrecorded | right.unrecorded,
        left.absent | right.absent,
    )


def _either(left: InputStatus, right: InputStatus) -> InputStatus:
    if left.missing and right.missing:
        return _both(left, right)
    if left.missing or right.missing:
        return right if left.missing else left
    # The alternative that can be judged first; each of them may have a result.
    earlier = min(left, right, key=lambda status: (status.first_step, status.lookback))
    return replace(earlier, metrics=left.metrics | right.metrics)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a replay says about an alert that did not fire."""

    reason: str
    """Why the alert cannot be judged; empty where it can."""
    first_step: int
    """The first step at which its inputs have values."""


class RuleInputs:
    """The inputs of rules, compared with the series of a replay."""

    def __init__(self, rules: Rules, all_series: Iterable[PromtoolSeries], sampled_metrics: Iterable[str]) -> None:
        """`sampled_metrics` are those of which a replay computes the past, whether they have values or not."""
        self._recordings = rules.recordings
        self._sampled_metrics = frozenset(sampled_metrics) - ASSUMED_METRICS
        self._first_steps: dict[str, int] = {}
        for series in all_series:
            name = series.selector.partition("{")[0]
            first_step = series.first_step
            if first_step is not None:
                self._first_steps[name] = min(first_step, self._first_steps.get(name, first_step))
        self._recorded: dict[str, InputStatus] = {}

    def judge(self, rule: AlertRule, duration: timedelta) -> Judgement:
        """Return whether an alert that did not fire in a replay of this duration could have fired."""
        status = self.read(rule.expression)
        needed, available = status.lookback + rule.hold, duration - status.first_step * STEP
        if status.unrecorded:
            reason = f"the ledger does not record the past of {', '.join(sorted(status.unrecorded))}"
        elif status.absent:
            reason = f"no values of {', '.join(sorted(status.absent))} in these days"
        elif COMPLETE_UNTIL.name in status.metrics and status.metrics <= ON_TIME_METRICS:
            reason = "the ledger does not record when data arrived: all of it counts as on time"
        elif needed >= available:
            reason = f"needs {format_duration(needed)} of values; these days have {format_duration(available)}"
        else:
            reason = ""
        return Judgement(reason, status.first_step)

    def read(self, expression: str) -> InputStatus:
        """Return the status of an expression's inputs, through recording rules."""
        return _ExpressionReader(expression, self).read()

    def metric_status(self, name: str) -> InputStatus:
        """Return the status of a metric: recorded by a rule, sampled from the ledger, or unknown."""
        if name in self._recordings:
            if name not in self._recorded:
                # Until it is read, as for a rule that uses its own older values.
                self._recorded[name] = InputStatus()
                statuses = [self.read(expression) for expression in self._recordings[name]]
                combined = statuses[0]
                for status in statuses[1:]:
                    combined = _either(combined, status)
                self._recorded[name] = combined
            return self._recorded[name]
        metrics = frozenset({name})
        if name in SPARSE_METRICS:
            return InputStatus(metrics=metrics)
        if name not in self._sampled_metrics:
            return InputStatus(metrics=metrics, unrecorded=metrics)
        if name not in self._first_steps:
            return InputStatus(metrics=metrics, absent=metrics)
        return InputStatus(self._first_steps[name], metrics=metrics)


_TOKEN = re.compile(
    r"""(?P<space>\s+|\#.*)
    |(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
    |(?P<matchers>\{(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`|[^}"'`])*\})
    |(?P<range>\[[^]]*\])
    |(?P<name>[a-zA-Z_:][\w:]*)
    |(?P<number>[0-9.][\w.]*)
    |(?P<sign>.)""",
    re.VERBOSE,
)
_SET_OPERATORS = frozenset({"and", "or", "unless"})
_LABEL_LISTS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
"""Keywords that labels in parentheses follow."""
_KEYWORDS = _SET_OPERATORS | _LABEL_LISTS | {"offset", "bool", "inf", "nan", "atan2"}


class _ExpressionReader:
    """Reads one expression from left to right; every method reads up to the end of its part."""

    def __init__(self, expression: str, inputs: RuleInputs) -> None:
        tokens = ((match.lastgroup or "", match[0]) for match in _TOKEN.finditer(expression))
        self._tokens: Sequence[tuple[str, str]] = [*(token for token in tokens if token[0] != "space"), ("end", "")]
        self._next = 0
        self._inputs = inputs

    def read(self) -> InputStatus:
        """Return the status of all inputs. `or` has the lowest precedence: one of its sides is enough."""
        status = self._read_conjunction()
        while self._text == "or":
            self._next += 1
            status = _either(status, self._read_conjunction())
        return status

    @property
    def _text(self) -> str:
        return self._tokens[self._next][1].lower()

    def _read_conjunction(self) -> InputStatus:
        """Read operands joined by `and` and `unless`. An operand after `unless` may be absent."""
        status = self._read_operand()
        while self._text in ("and", "unless"):
            is_required = self._text == "and"
            self._next += 1
            operand = self._read_operand()
            if is_required:
                status = _both(status, operand)
        return status

    def _read_operand(self) -> InputStatus:
        """Read arithmetic and comparisons: all their inputs are required."""
        parts = [InputStatus()]
        while True:
            kind, text = self._tokens[self._next]
            if kind == "end" or text in (")", ",") or text.lower() in _SET_OPERATORS:
                break
            self._next += 1
            if text == "(":
                parts.append(self._read_arguments())
            elif self._is_metric(kind, text):
                parts.append(self._inputs.metric_status(text))
            else:
                self._read_modifier(kind, text.lower(), parts)
        status = parts[0]
        for part in parts[1:]:
            status = _both(status, part)
        return status

    def _read_arguments(self) -> InputStatus:
        status = self.read()
        while self._text == ",":
            self._next += 1
            status = _both(status, self.read())
        self._next += 1
        return status

    def _is_metric(self, kind: str, text: str) -> bool:
        """Return whether the token that was read is a metric, not a keyword, a function or an aggregation."""
        return kind == "name" and text.lower() not in _KEYWORDS and self._text not in ("(", "by", "without")

    def _read_modifier(self, kind: str, text: str, parts: list[InputStatus]) -> None:
        """Read what follows a token that changes how operands are read; other tokens are skipped."""
        if kind == "range":
            # A subquery has a resolution after the colon.
            self._look_back(parts, text[1:-1].partition(":")[0])
        elif text == "offset":
            self._look_back(parts, self._text)
            self._next += 1
        elif text == "@":
            # A time, or start() or end().
            self._next += 3 if self._text in ("start", "end") else 1
        elif text in _LABEL_LISTS and self._text == "(":
            while self._text != ")":
                self._next += 1
            self._next += 1

    @staticmethod
    def _look_back(parts: list[InputStatus], duration: str) -> None:
        # A range and an offset belong to the selector or the parentheses before them.
        lookback = parts[-1].lookback + (parse_duration(duration.strip()) or timedelta(0))
        parts[-1] = replace(parts[-1], lookback=lookback)


def judge_silent_alerts(
    rules: Rules, inputs: RuleInputs, fired: Iterable[str], duration: timedelta
) -> Mapping[str, Judgement]:
    """Return name -> judgement of the alerts that did not fire, sorted by name.

    Of several rules with the same name, one that can be judged is enough.
    """
    judgements: dict[str, Judgement] = {}
    names = set(fired)
    for rule in rules.alerts:
        if rule.name not in names:
            judgement = inputs.judge(rule, duration)
            known = judgements.get(rule.name)
            if known is None or (known.reason and not judgement.reason):
                judgements[rule.name] = judgement
    return dict(sorted(judgements.items()))
