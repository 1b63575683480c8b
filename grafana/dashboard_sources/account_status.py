"""Whether accounts are polled with success, and the advice where they are not: a row per account."""

# Queries and descriptions are not wrapped.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.shared import ACCOUNT_MATCHERS, DATA_DELAY_THRESHOLDS, link_to
from grafana.panels import NO_VALUE, SECONDS, Column, PanelSpec, Query, table_panel, table_query

_ADVICE = {
    "ok": (NO_VALUE, "text"),
    "wrong_key_kind": (
        "A personal, project or member key cannot read usage: create an admin key and replace this key with it.",
        "text",
    ),
    "key_rejected": (
        "The key is revoked, expired, unknown or unreadable: create a new admin key and replace this key with it.",
        "text",
    ),
    "missing_scope": (
        "The key lacks a permission that a report requires: grant the scope or role that `check keys` names.",
        "text",
    ),
    "rate_limited": (
        "Wait; nothing is lost. If it persists, check who else uses this key, or raise poll_interval.",
        "text",
    ),
    "unavailable": (
        "Check the provider's status page, then base_url, network, firewall and proxy. Missed data is fetched later.",
        "text",
    ),
    "unsupported": (
        "The address has no such report (404): check base_url and any proxy, then whether the plan includes the report.",
        "text",
    ),
    "malformed": (
        "Check base_url and any proxy. If they are correct, the provider's API has changed: update the exporter.",
        "text",
    ),
    "internal_error": (
        "The exporter has a bug; the previous numbers are kept. Update the exporter, or report the error in its log.",
        "text",
    ),
    "ledger_unavailable": (
        "The ledger's disk is full or fails; the previous numbers are kept. Free some space, or repair the disk.",
        "text",
    ),
}
"""Reason of a problem -> (advice, colour). The landing page and `check keys` add the status and the report."""


def account_status_panel(title: str, height: int) -> PanelSpec:
    """Return the table of the selected accounts, those in trouble first."""

    by = "by (provider, account)"
    # One row per account: of several problems the first by name.
    problem = f"topk {by} (1, max by (provider, account, reason) (ai_account_problem{{{ACCOUNT_MATCHERS}}} == 1))"
    state = f'label_replace({problem} or on (provider, account) label_replace(0 * max {by} (ai_account_up{{{ACCOUNT_MATCHERS}}}), "reason", "ok", "", ""), "action", "$1", "reason", "(.*)")'
    reason = f"group_left (reason, action) 0 * {state}"

    def column(expr: str) -> Query:
        return table_query(f"{expr} + on (provider, account) {reason}")

    usage = f'{ACCOUNT_MATCHERS},kind="usage"'
    return table_panel(
        title,
        f"Every selected account: the newest poll's problem and what to do, the age of its oldest watermark (data is complete until then), the time since a report was last polled with success, and failed polls within the last hour. The landing page and `check keys` show the status that the provider answers. {NO_VALUE}: nothing to do, or not read yet. Delay and age are orange from 3 hours and red from 4 hours.",
        [
            Column("Failing", table_query(state), thresholds=((None, "green"), (1, "red")), width=80),
            Column(
                "Data delay",
                column(f"(time() - min {by} (ai_account_complete_until_timestamp_seconds{{{usage}}}))"),
                SECONDS,
                thresholds=DATA_DELAY_THRESHOLDS,
                width=110,
            ),
            Column(
                "Oldest success",
                column(f"(time() - min {by} (ai_account_last_success_timestamp_seconds{{{ACCOUNT_MATCHERS}}}))"),
                SECONDS,
                thresholds=DATA_DELAY_THRESHOLDS,
                width=120,
            ),
            Column(
                "Failed polls, 1 h",
                column(f"sum {by} (increase(ai_account_poll_failures_total{{{ACCOUNT_MATCHERS}}}[1h]))"),
                "short",
                0,
                ((None, "text"), (1, "orange")),
                width=130,
            ),
        ],
        label_columns={"account": "Account", "provider": "Provider", "reason": "State", "action": "Action"},
        label_widths={"Account": 180, "Provider": 100, "State": 130},
        sort_by="Failing",
        value_mappings={
            "State": {"ok": ("ok", "green")},
            "Action": _ADVICE,
            "Failing": {"0": ("no", "green"), "1": ("yes", "red")},
        },
        links={
            "Account": (
                link_to("ai-spend-account", "Account dashboard", account="${__value.raw}"),
                link_to("ai-spend", "Spend of this account", account="${__value.raw}", group_by="workspace"),
            )
        },
        width=24,
        height=height,
        no_value="No account: add one to accounts in the configuration (docs/configuration.md)",
    )
