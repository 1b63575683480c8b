"""Conditions that need attention, as the exporter itself knows them from snapshots and budgets.

The values are those of the gauges: baselines of the snapshots, evaluated budgets, health. The conditions are those of
the alert rules of the same names, without their waiting times: Prometheus notifies, the page shows what holds now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from exporter.analysis.baselines import Baseline
from exporter.analysis.budgets import BudgetStatus, budget_status
from exporter.analysis.thresholds import (
    BUDGET_FAST_BURN_RATE,
    BUDGET_FAST_SIX_HOURS_BURN_RATE,
    BUDGET_FORECAST_RATIO,
    BUDGET_NEARLY_SPENT_RATIO,
    BUDGET_SLOW_BURN_RATE,
    MIN_BALANCE_LEFT,
    MIN_EXCESS_USD,
    MIN_RUNAWAY_USD,
    MIN_SPIKE_USD,
    RUNAWAY_TIMES,
)
from exporter.config.configuration import Budget
from exporter.errors import KeyRejected, ProviderError
from exporter.model import COST, HOUR, NANO
from exporter.snapshot.account_snapshot import AccountSnapshot, WorkspaceSignals
from exporter.snapshot.budgets import EvaluatedBudget
from exporter.snapshot.estimates import unpriced_usage
from exporter.snapshot.signals import cost_baseline
from exporter.ui.format import (
    format_count,
    format_day,
    format_money,
    format_percent,
    format_time,
    humanize_duration,
)
from exporter.ui.links import ACCOUNT_DASHBOARD, BUDGETS_DASHBOARD, SIGNALS_DASHBOARD, TELEMETRY_DASHBOARD
from exporter.windows import floor

State = Literal["good", "wait", "bad"]
Severity = Literal["critical", "warning", "info"]

PERIODS = {"day": "today", "week": "this week", "month": "this month"}
"""The running period of a budget in words."""
STATE_ORDER = {"bad": 0, "wait": 1, "good": 2}
"""The worst first."""


@dataclass(frozen=True, slots=True)
class AlertKind:
    """The properties that all alerts of a kind share."""

    noun: str
    """In the headline, of one alert: `budget exceeded`."""
    plural: str
    severity: Severity
    """That of the rule."""
    rule: str
    """The alert rule of the same condition, which names the runbook."""

    @property
    def state(self) -> State:
        """The colour: only what requires immediate action is red."""
        return "bad" if self.severity == "critical" else "wait"


# In the order of the page: critical first; then cost of this moment, accounts whose cost is unknown, uncertain cost.
RUNAWAY = AlertKind("runaway cost", "runaway costs", "critical", "AIRunawaySpend")
FAST_BURN = AlertKind("budget burning fast", "budgets burning fast", "critical", "AIBudgetBurnFast")
EXCEEDED = AlertKind("budget exceeded", "budgets exceeded", "critical", "AIBudgetExceeded")
BALANCE_EXHAUSTED = AlertKind("exhausted balance", "exhausted balances", "critical", "AIBalanceExhausted")
SPIKE = AlertKind("cost spike", "cost spikes", "warning", "AICostSpike")
KEY_REJECTED = AlertKind("key rejected", "keys rejected", "warning", "AIAccountKeyRejected")
POLLS_FAIL = AlertKind("account failing", "accounts failing", "warning", "AIAccountStale")
BALANCE_LOW = AlertKind("low balance", "low balances", "warning", "AIBalanceLow")
EXCESS = AlertKind("unexpected cost", "unexpected costs", "warning", "AIUnexpectedSpend")
NEARLY_SPENT = AlertKind("budget nearly spent", "budgets nearly spent", "warning", "AIBudgetNearlySpent")
FORECAST = AlertKind(
    "budget forecast to be exceeded", "budgets forecast to be exceeded", "warning", "AIBudgetForecastExceeded"
)
SLOW_BURN = AlertKind("budget above its pace", "budgets above their pace", "warning", "AIBudgetBurnSlow")
NEW_KEY_REJECTED = AlertKind("new key rejected", "new keys rejected", "warning", "AIAccountKeyRejected")
DATA_LATE = AlertKind("account with late data", "accounts with late data", "warning", "AIAccountDataLate")
UNPRICED = AlertKind("account without a price", "accounts without a price", "warning", "AIUnpricedTokens")
RATE_LIMITED = AlertKind("account rate limited", "accounts rate limited", "info", "AIProviderRateLimited")
UNITS_ABOVE_BOUND = AlertKind("usage spike", "usage spikes", "info", "AIRequestSpike")
BILL_INCOMPLETE = AlertKind("incomplete bill", "incomplete bills", "info", "AIBillIncomplete")
KINDS = (
    *(RUNAWAY, FAST_BURN, EXCEEDED, BALANCE_EXHAUSTED),
    *(SPIKE, KEY_REJECTED, POLLS_FAIL, BALANCE_LOW, EXCESS, NEARLY_SPENT, FORECAST, SLOW_BURN, NEW_KEY_REJECTED),
    DATA_LATE,
    *(UNPRICED, RATE_LIMITED, UNITS_ABOVE_BOUND, BILL_INCOMPLETE),
)


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition that holds now. All texts are plain text, not HTML."""

    kind: AlertKind
    title: str
    """The event and its place: `Cost spike: acme / Web`."""
    owner: str
    """Who is responsible; empty where nobody is configured."""
    details: tuple[str, ...]
    """The amounts, or the messages of failures; only the first is open."""
    since: str
    """Since when, or until when; empty where that is not known."""
    action: str
    """One next step."""
    dashboard: str = ""
    """Uid."""
    variables: Mapping[str, str] | None = None
    """Template variables of the dashboard."""
    account: tuple[str, str] | None = None
    """Name and provider of the account; None for a budget."""
    weight: float = 0.0
    """Alerts of one kind are shown in descending order of this."""


def collect_alerts(
    snapshots: Iterable[AccountSnapshot], budgets: Iterable[EvaluatedBudget], now: datetime
) -> tuple[Alert, ...]:
    """Return everything that needs attention, the worst first."""
    snapshots = list(snapshots)
    alerts = [alert for snapshot in snapshots for alert in _account_alerts(snapshot, now)]
    alerts += [alert for evaluated in budgets if (alert := _budget_alert(evaluated, snapshots, now)) is not None]
    return tuple(sorted(alerts, key=lambda alert: (KINDS.index(alert.kind), -alert.weight, alert.title)))


def count_alerts(alerts: Iterable[Alert]) -> list[str]:
    """Return the number of alerts of each kind in words, the worst first: `2 budgets exceeded`."""
    counts = Counter(alert.kind.noun for alert in alerts)
    plurals = {kind.noun: kind.plural for kind in KINDS}
    return [
        f"{counts[noun]:,} {noun if counts[noun] == 1 else plural}" for noun, plural in plurals.items() if counts[noun]
    ]


def _account_alerts(snapshot: AccountSnapshot, now: datetime) -> Iterator[Alert]:
    yield from _problem_alerts(snapshot, now)
    if snapshot.health.pending_key_error is not None:
        yield _pending_key_alert(snapshot, snapshot.health.pending_key_error)
    is_late = snapshot.is_late(now)
    if is_late and not snapshot.health.current_problems and snapshot.complete_until is not None:
        yield _late_alert(snapshot, snapshot.complete_until, now)
    last_hour = snapshot.last_hour
    if not is_late and last_hour is not None:
        # As in the rules: late hours are compared when they have been read.
        ids = _workspace_ids(snapshot) if snapshot.signals else {}
        for signals in snapshot.signals:
            hours = _Hours(snapshot, signals, ids.get(signals.workspace, ""), last_hour.start)
            alert = _signal_alert(hours, now)
            if alert is not None:
                yield alert
    balance_alert = _balance_alert(snapshot, now)
    if balance_alert is not None:
        yield balance_alert
    yield from _estimate_alerts(snapshot)


# Signals


def _workspace_ids(snapshot: AccountSnapshot) -> dict[str, str]:
    """Return exported name -> id of every workspace: hourly totals are kept by id."""
    hourly, name_of = snapshot.hourly, snapshot.label_mapper.workspace_name
    ids = {*hourly.usage_cost, *hourly.fixed_cost, *hourly.requests, *hourly.tokens}
    return {name_of(workspace): workspace for workspace in ids}


@dataclass(frozen=True, slots=True)
class _Hours:
    """The newest hours of one workspace."""

    snapshot: AccountSnapshot
    signals: WorkspaceSignals
    workspace: str
    """Its id."""
    last_hour: datetime
    """The start of the newest complete hour."""

    def alert(self, kind: AlertKind, what: str, details: Sequence[str], since: str, action: str, weight: int) -> Alert:
        """Return an alert of this workspace."""
        account, workspace = self.snapshot.account, self.signals.workspace
        place = account.name + (f" / {workspace}" if workspace else "")
        return Alert(
            kind=kind,
            title=f"{what}: {place}",
            owner=account.owner,
            details=tuple(details),
            since=since,
            action=action,
            dashboard=SIGNALS_DASHBOARD,
            variables={"account": account.name, "workspace": workspace},
            account=self.snapshot.key,
            weight=float(weight),
        )

    def since(self, now: datetime) -> str:
        """Return since when its hours cost more than their upper bounds, and how much they cost; empty if unknown."""
        incident = self.signals.incident
        return "" if incident is None else f"{_since(incident.start, now)}, {format_money(incident.cost)} in total"

    def is_above_bound(self, hour: datetime) -> bool:
        """Return whether an hour cost more than its upper bound."""
        hourly = self.snapshot.hourly
        bound = cost_baseline(hourly, self.workspace, hour)
        return bound is not None and hourly.cost_at(self.workspace, hour) > bound.upper_bound


def _signal_alert(hours: _Hours, now: datetime) -> Alert | None:
    """Return the worst alert of a workspace; None where its hours are usual."""
    return (
        _runaway_alert(hours, now) or _spike_alert(hours, now) or _excess_alert(hours, now) or _units_alert(hours, now)
    )


def _runaway_alert(hours: _Hours, now: datetime) -> Alert | None:
    this_hour, bound = floor(hours.snapshot.time, HOUR), hours.signals.this_hour_cost
    if bound is None or this_hour != floor(now, HOUR):
        return None
    cost = hours.snapshot.hourly.cost_at(hours.workspace, this_hour)
    min_cost = _nano_usd(hours.snapshot.account.alerts.runaway_spend_usd, MIN_RUNAWAY_USD)
    if cost <= RUNAWAY_TIMES * bound.upper_bound or cost <= min_cost:
        return None
    running = (
        f"{format_money(cost)} in the running hour so far; expected of the whole hour: {format_money(bound.expected)}, "
        f"upper bound {format_money(bound.upper_bound)}."
    )
    details = [running]
    if hours.signals.is_spike and hours.signals.cost is not None:
        details.append(_describe_spike(hours, hours.signals.cost))
    action = _intent_action(hours.snapshot.account.owner)
    return hours.alert(RUNAWAY, "Runaway cost", details, hours.since(now), action, cost - bound.upper_bound)


def _spike_alert(hours: _Hours, now: datetime) -> Alert | None:
    signals = hours.signals
    if not signals.is_spike or signals.cost is None:
        return None
    min_increase = _nano_usd(hours.snapshot.account.alerts.cost_spike_usd, MIN_SPIKE_USD)
    if signals.last_hour_cost - signals.cost.expected <= min_increase:
        return None
    action = _intent_action(hours.snapshot.account.owner)
    excess = signals.last_hour_cost - signals.cost.upper_bound
    return hours.alert(SPIKE, "Cost spike", [_describe_spike(hours, signals.cost)], hours.since(now), action, excess)


def _describe_spike(hours: _Hours, cost: Baseline) -> str:
    signals = hours.signals
    models: Counter[str] = Counter()
    mapper = hours.snapshot.label_mapper
    for labels, value in hours.snapshot.windows.get("last_hour", {}).items():
        series = mapper.label_values(mapper.remap(labels))
        if labels.meter == COST and series.workspace == signals.workspace:
            models[series.model] += value
    largest = "".join(f" Largest: {model or '-'} {format_money(value)}." for model, value in models.most_common(1))
    return (
        f"{format_money(signals.last_hour_cost)} in the hour from {format_time(hours.last_hour)}; expected "
        f"{format_money(cost.expected)}, upper bound {format_money(cost.upper_bound)}.{largest}"
    )


def _excess_alert(hours: _Hours, now: datetime) -> Alert | None:
    excess = hours.signals.excess
    min_excess = _nano_usd(hours.snapshot.account.alerts.unexpected_spend_usd, MIN_EXCESS_USD)
    if excess is None or excess <= min_excess:
        return None
    newest_first = [hours.last_hour - number * HOUR for number in range(24)]
    above = [hour for hour in newest_first if hours.is_above_bound(hour)]
    details = [f"{format_money(excess)} above the upper bounds, in {len(above)} of the 24 newest complete hours."]
    since = _since(above[-1], now) if above else ""
    return hours.alert(EXCESS, "Unexpected cost", details, since, _intent_action(hours.snapshot.account.owner), excess)


def _units_alert(hours: _Hours, now: datetime) -> Alert | None:
    signals, hourly = hours.signals, hours.snapshot.hourly
    for noun, bound, totals in (
        ("request", signals.requests, hourly.requests),
        ("token", signals.tokens, hourly.tokens),
    ):
        if bound is None or hours.workspace not in totals:
            continue
        units = totals[hours.workspace].at(hours.last_hour)
        if units > bound.upper_bound:
            detail = (
                f"{format_count(units, noun)} in the hour from {format_time(hours.last_hour)}; expected "
                f"{bound.expected:,}, upper bound {bound.upper_bound:,}. Their cost is not unusual."
            )
            action = "Find out whether a retry loop or a new job sends them."
            since = _since(hours.last_hour, now)
            return hours.alert(UNITS_ABOVE_BOUND, f"Unusually many {noun}s", [detail], since, action, units)
    return None


def _nano_usd(own_usd: Decimal | None, default_usd: int) -> int:
    """Return an account's own threshold in nano-USD, or the default."""
    return int((default_usd if own_usd is None else own_usd) * NANO)


def _intent_action(owner: str) -> str:
    who = f"Ask {owner}" if owner else "Find out"
    return f"{who} whether this is intended. If not, stop the job or revoke the application's key at the provider."


# Budgets


@dataclass(frozen=True, slots=True)
class BudgetCondition:
    """A budget's state in colour and words."""

    state: State
    text: str
    kind: AlertKind | None
    """None where nothing needs attention."""


def assess_budget(budget: Budget, status: BudgetStatus) -> BudgetCondition:
    """Return a budget's state; known spend takes precedence over rates, and those over the forecast."""
    forecast_ratio = budget.alerts.forecast_exceeded_ratio or BUDGET_FORECAST_RATIO
    burn_rates = status.burn_rates
    fast_burn = burn_rates.get("1h", 0.0)
    # As in the rules: a day is too short for an average of days.
    slow_burn = min(burn_rates.get("3d", 0.0), burn_rates.get("1d", 0.0)) if budget.period != "day" else 0.0
    if status.spent > status.limit:
        return BudgetCondition("bad", "exceeded", EXCEEDED)
    lasts = budget.period == "day" or burn_rates.get("6h", 0.0) > BUDGET_FAST_SIX_HOURS_BURN_RATE
    if fast_burn > BUDGET_FAST_BURN_RATE and lasts:
        return BudgetCondition("bad", f"burning at {fast_burn:.1f} times the even pace", FAST_BURN)
    if status.spent >= _nearly_spent_ratio(budget) * status.limit:
        return BudgetCondition("wait", "nearly spent", NEARLY_SPENT)
    if status.forecast is None:
        return BudgetCondition("wait", "no forecast: no complete hour has been read", None)
    if status.forecast > forecast_ratio * status.limit:
        return BudgetCondition("wait", "forecast above the limit", FORECAST)
    if slow_burn > BUDGET_SLOW_BURN_RATE:
        return BudgetCondition("wait", f"burning at {slow_burn:.1f} times the even pace", SLOW_BURN)
    if status.forecast > status.limit:
        return BudgetCondition("wait", "forecast slightly above the limit", None)
    return BudgetCondition("good", "on pace", None)


def assess_budgets(evaluated_budgets: Iterable[EvaluatedBudget]) -> list[tuple[EvaluatedBudget, BudgetCondition]]:
    """Return every budget with its state: the worst first, then the largest share of the limit."""
    assessed = [(evaluated, assess_budget(evaluated.budget, evaluated.status)) for evaluated in evaluated_budgets]
    assessed.sort(
        key=lambda item: (STATE_ORDER[item[1].state], -spent_ratio(item[0].status.spent, item[0]), item[0].budget.name)
    )
    return assessed


def spent_ratio(nano_usd: int, evaluated: EvaluatedBudget) -> float:
    """Return an amount relative to a budget's limit, at least 0: a credit may make the spend negative."""
    limit = evaluated.status.limit
    return max(0, nano_usd) / limit if limit else float(nano_usd > 0)


def _nearly_spent_ratio(budget: Budget) -> Decimal:
    return budget.alerts.nearly_spent_ratio or BUDGET_NEARLY_SPENT_RATIO


def _budget_alert(evaluated: EvaluatedBudget, snapshots: Sequence[AccountSnapshot], now: datetime) -> Alert | None:
    budget, status = evaluated.budget, evaluated.status
    condition = assess_budget(budget, status)
    if condition.kind is None:
        return None
    title = {
        EXCEEDED.noun: f"Budget exceeded: {budget.name}",
        NEARLY_SPENT.noun: f"Budget nearly spent: {budget.name}",
        FORECAST.noun: f"Budget forecast to be exceeded: {budget.name}",
    }.get(condition.kind.noun, f"Budget {budget.name} is {condition.text}")
    forecast = (
        ""
        if status.forecast is None
        else f"; forecast {format_money(status.forecast)} ({format_percent(status.forecast, status.limit)})"
    )
    spent = (
        f"{format_money(status.spent)} of {format_money(status.limit)} "
        f"({format_percent(status.spent, status.limit)}) spent {PERIODS[budget.period]}{forecast}."
    )
    owner = budget.owner or "those who spend it"
    action = f"Agree with {owner} on less spend or a higher limit_usd."
    if condition.kind is FAST_BURN:
        action = _intent_action(budget.owner)
    return Alert(
        kind=condition.kind,
        title=title,
        owner=budget.owner,
        details=(spent,),
        since=_budget_since(condition.kind, evaluated, snapshots, now),
        action=action,
        dashboard=BUDGETS_DASHBOARD,
        variables={"budget": budget.name},
        weight=status.spent / status.limit if status.limit else float("inf"),
    )


def _budget_since(
    kind: AlertKind, evaluated: EvaluatedBudget, snapshots: Sequence[AccountSnapshot], now: datetime
) -> str:
    exhausted_at = evaluated.status.exhausted_at
    if kind is EXCEEDED:
        return "" if exhausted_at is None or exhausted_at > now else _since(exhausted_at, now)
    texts = []
    if kind is NEARLY_SPENT:
        # A budget of that share of this one was exhausted when this one became nearly spent.
        name, period = evaluated.budget.name, evaluated.budget.period
        shares = [snapshot.budget_shares[name] for snapshot in snapshots if name in snapshot.budget_shares]
        limit = round(evaluated.status.limit * _nearly_spent_ratio(evaluated.budget))
        reached_at = budget_status(limit, period, shares, now).exhausted_at
        if reached_at is not None and reached_at <= now:
            texts.append(_since(reached_at, now))
    if exhausted_at is not None and exhausted_at > now:
        texts.append(f"runs out {format_time(exhausted_at)} UTC, in {humanize_duration(exhausted_at - now)}")
    return "; ".join(texts)


# Accounts


def _problem_alerts(snapshot: AccountSnapshot, now: datetime) -> Iterator[Alert]:
    """Yield the present problems; reports that fail for one reason are one problem."""
    problems = snapshot.health.problems
    coverage = {known.report.name: known.coverage for known in snapshot.reports}
    reports_by_advice: dict[tuple[str, str], list[str]] = {}
    for report in sorted(problems):
        error = problems[report]
        reports_by_advice.setdefault((error.reason, _advice(error)), []).append(report)
    for (reason, advice), failing in reports_by_advice.items():
        # A problem of the whole account, such as a rejected key, is recorded under a name that is no report.
        reports = [report for report in failing if report in coverage]
        read = [known for report in reports or coverage if (known := coverage[report]) is not None]
        last_read = max((known.until for known in read), default=None)
        since = "Never read successfully"
        if last_read is not None:
            since = f"Not read since {format_time(last_read)} UTC ({humanize_duration(now - last_read)})"
        error = problems[failing[0]]
        kind = (
            KEY_REJECTED if isinstance(error, KeyRejected) else RATE_LIMITED if reason == "rate_limited" else POLLS_FAIL
        )
        what = {KEY_REJECTED.noun: "Key rejected", RATE_LIMITED.noun: "Rate limited"}.get(kind.noun, "Polls fail")
        yield Alert(
            kind=kind,
            title=f"{what}: {snapshot.account.name}" + (f" · {', '.join(reports)}" if reports else ""),
            owner=snapshot.account.owner,
            details=tuple(dict.fromkeys(str(problems[report]) for report in failing)),
            since=since,
            action=advice,
            dashboard=TELEMETRY_DASHBOARD,
            variables={"account": snapshot.account.name},
            account=snapshot.key,
        )


def _pending_key_alert(snapshot: AccountSnapshot, error: ProviderError) -> Alert:
    return Alert(
        kind=NEW_KEY_REJECTED,
        title=f"New key rejected: {snapshot.account.name}",
        owner=snapshot.account.owner,
        details=(f"{str(error).rstrip('.')}. The previous key is still in use.",),
        since="",
        action=_advice(error),
        dashboard=TELEMETRY_DASHBOARD,
        variables={"account": snapshot.account.name},
        account=snapshot.key,
    )


def _late_alert(snapshot: AccountSnapshot, complete_until: datetime, now: datetime) -> Alert:
    return Alert(
        kind=DATA_LATE,
        title=f"Data is late: {snapshot.account.name}",
        owner=snapshot.account.owner,
        details=("Newer usage is not included yet, and no spike would be found.",),
        since=f"Complete until {format_time(complete_until)} UTC ({humanize_duration(now - complete_until)} ago)",
        action="Compare with the usage page of the provider, and look at its status page.",
        dashboard=TELEMETRY_DASHBOARD,
        variables={"account": snapshot.account.name},
        account=snapshot.key,
        weight=(now - complete_until).total_seconds(),
    )


def _balance_alert(snapshot: AccountSnapshot, now: datetime) -> Alert | None:
    """Return whether the prepaid balance is used up or will soon be; None where neither is known."""
    balance, exhausted_at = snapshot.view.balance, snapshot.balance_exhausted_at
    if balance is None:
        return None
    is_exhausted = balance.total <= 0
    if not is_exhausted and (exhausted_at is None or exhausted_at - now >= MIN_BALANCE_LEFT):
        return None
    account, since = snapshot.account, ""
    if exhausted_at is not None and exhausted_at > now:
        since = f"runs out {format_time(exhausted_at)} UTC, in {humanize_duration(exhausted_at - now)}"
    consequence = "The provider may reject requests." if is_exhausted else "Then the provider may reject requests."
    return Alert(
        kind=BALANCE_EXHAUSTED if is_exhausted else BALANCE_LOW,
        title=f"Balance {'exhausted' if is_exhausted else 'low'}: {account.name}",
        owner=account.owner,
        details=(f"{format_money(balance.total)} left at {format_time(balance.read_at)} UTC. {consequence}",),
        since=since,
        action="Pay in advance again at the provider, or set up automatic payment there.",
        dashboard=ACCOUNT_DASHBOARD,
        variables={"account": account.name},
        account=snapshot.key,
        weight=-float(balance.total),
    )


def _estimate_alerts(snapshot: AccountSnapshot) -> Iterator[Alert]:
    """Yield why the cost of unbilled days is uncertain: usage without a price, incomplete bills."""
    account, unpriced = snapshot.account, unpriced_usage(snapshot)
    variables = {"account": account.name}
    if unpriced.tokens:
        by_tokens = sorted(unpriced.tokens.items(), key=lambda item: -item[1])
        models = ", ".join(f"{model} ({format_count(tokens, 'token')})" for model, tokens in by_tokens)
        billed = {day.start for day in snapshot.day_costs if day.billed}
        first = min(day for day in snapshot.unpriced_tokens if day not in billed)
        yield Alert(
            kind=UNPRICED,
            title=f"No known price: {account.name}",
            owner=account.owner,
            details=(f"{models}: about {unpriced.cost_ratio * 100:.0f} % of its unbilled cost is missing.",),
            since=f"since {format_day(first)}",
            action="Set a price under prices: in the configuration; the bill corrects these days later.",
            dashboard=ACCOUNT_DASHBOARD,
            variables=variables,
            account=snapshot.key,
            weight=unpriced.cost_ratio,
        )
    incomplete = [day.start for day in snapshot.day_costs if day.bill_is_incomplete]
    if incomplete:
        yield Alert(
            kind=BILL_INCOMPLETE,
            title=f"Bill incomplete: {account.name}",
            owner=account.owner,
            details=(
                f"{', '.join(map(format_day, incomplete))}: not all usage is on the bill; the cost stays estimated.",
            ),
            since=f"since {format_day(incomplete[0])}",
            action="Wait: parts of a bill may come up to 72 hours late.",
            dashboard=ACCOUNT_DASHBOARD,
            variables=variables,
            account=snapshot.key,
            weight=float(len(incomplete)),
        )


_ADVICE = {
    "rate_limited": "The poll is retried automatically. If it fails again, raise poll_interval or use a separate key.",
    "unavailable": "The poll is retried automatically. If it fails again, check the provider's status page and the "
    "network.",
    "unsupported": "The previous numbers are kept. Check base_url, and whether the plan includes this report.",
    "malformed": "The previous numbers are kept. If the problem persists, update this exporter or report the error.",
    "internal_error": "The previous numbers are kept, and the poll is retried every 15 minutes. Update this exporter, "
    "or report the error with its log.",
    "ledger_unavailable": "The previous numbers are kept, and the poll is retried automatically. No restart is needed.",
}


def _advice(error: ProviderError) -> str:
    return error.advice if isinstance(error, KeyRejected) else _ADVICE.get(error.reason, "")


def _since(time: datetime, now: datetime) -> str:
    return f"since {format_time(time)} UTC ({humanize_duration(now - time)})"
