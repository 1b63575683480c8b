"""Samples of an account's polling: last success, watermarks, present problems, counts, crosschecks."""

from __future__ import annotations

from exporter.errors import PROBLEM_REASONS
from exporter.metrics.exposition import format_usd
from exporter.metrics.families import (
    ACCOUNT_ALERT_THRESHOLD,
    ACCOUNT_INFO,
    ACCOUNT_PROBLEM,
    ACCOUNT_UP,
    API_REQUESTS,
    BALANCE,
    BALANCE_EXHAUSTION,
    COMPLETE_UNTIL,
    CROSSCHECK,
    LAST_SUCCESS,
    POLL_DURATION,
    POLL_FAILURES,
    POLLS,
)
from exporter.metrics.label_text import LabelText, SampleFunctions, Samples
from exporter.model import DAY, Report
from exporter.snapshot.account_snapshot import AccountSnapshot


def _report_labels(report: Report) -> tuple[str, str, str]:
    return (report.name, report.kind, "day" if report.width >= DAY else "hour")


def _up_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    yield text.account, str(int(snapshot.up))


def _info_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    yield text.with_account(ACCOUNT_INFO, snapshot.account.owner), "1"


def _alert_threshold_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    thresholds = snapshot.account.alerts
    for alert, threshold in (
        ("AIRunawaySpend", thresholds.runaway_spend_usd),
        ("AICostSpike", thresholds.cost_spike_usd),
        ("AIUnexpectedSpend", thresholds.unexpected_spend_usd),
        ("AISpendStopped", thresholds.spend_stopped_usd),
        ("AIHighCostModel", thresholds.high_cost_model_usd),
        ("AINewModel", thresholds.new_model_usd),
        ("AIOneTimeCost", thresholds.one_time_cost_usd),
    ):
        if threshold is not None:
            yield text.with_account(ACCOUNT_ALERT_THRESHOLD, alert), f"{threshold:f}"


def _last_success_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    for known in snapshot.reports:
        if known.coverage is not None:
            labels = text.with_account(LAST_SUCCESS, *_report_labels(known.report))
            yield labels, f"{known.coverage.until.timestamp():.3f}"


def _complete_until_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    for known in snapshot.reports:
        if known.complete_until is not None:
            labels = text.with_account(COMPLETE_UNTIL, *_report_labels(known.report))
            yield labels, f"{known.complete_until.timestamp():.0f}"


def _problem_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    health = snapshot.health
    reasons = {error.reason for error in (*health.current_problems, health.pending_key_error) if error is not None}
    # An account of pushed events is not polled: it has neither problems nor polls.
    for reason in PROBLEM_REASONS if snapshot.view.polled_reports else ():
        yield text.with_account(ACCOUNT_PROBLEM, reason), str(int(reason in reasons))


def _polls_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    for report in snapshot.view.polled_reports:
        yield text.with_account(POLLS, report.name), str(snapshot.health.polls.get(report.name, 0))


def _poll_failures_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    if snapshot.view.polled_reports:
        for reason, count in (dict.fromkeys(PROBLEM_REASONS, 0) | dict(snapshot.health.failures)).items():
            yield text.with_account(POLL_FAILURES, reason), str(count)


def _api_requests_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    if snapshot.view.polled_reports:
        for code, count in sorted({"200": 0, **snapshot.health.requests}.items()):
            yield text.with_account(API_REQUESTS, code), str(count)


def _poll_duration_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    for report, seconds in sorted(snapshot.health.last_poll_seconds.items()):
        yield text.with_account(POLL_DURATION, report), f"{seconds:.3f}"


def _crosscheck_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    for source, ratio in snapshot.crosscheck_ratios.items():
        yield text.with_account(CROSSCHECK, source), f"{ratio:.6f}" if ratio != float("inf") else "+Inf"


def _balance_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    for part in () if snapshot.view.balance is None else snapshot.view.balance.parts:
        yield text.with_account(BALANCE, part.type), format_usd(part.value)


def _balance_exhaustion_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    if snapshot.balance_exhausted_at is not None:
        yield text.account, f"{snapshot.balance_exhausted_at.timestamp():.0f}"


STATUS_SAMPLES: SampleFunctions = {
    ACCOUNT_UP: _up_samples,
    ACCOUNT_INFO: _info_samples,
    ACCOUNT_ALERT_THRESHOLD: _alert_threshold_samples,
    LAST_SUCCESS: _last_success_samples,
    COMPLETE_UNTIL: _complete_until_samples,
    ACCOUNT_PROBLEM: _problem_samples,
    POLLS: _polls_samples,
    POLL_FAILURES: _poll_failures_samples,
    API_REQUESTS: _api_requests_samples,
    POLL_DURATION: _poll_duration_samples,
    CROSSCHECK: _crosscheck_samples,
    BALANCE: _balance_samples,
    BALANCE_EXHAUSTION: _balance_exhaustion_samples,
}
