"""The JSON API: its paths and the models of its responses, which make both the responses and the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from starlette.responses import Response

from exporter.model import DAY
from exporter.polling.reread import RereadPlan
from exporter.push.models import ApiModel
from exporter.ui.summary import MAX_TOP_MODELS

EVENT_PATH = "/api/v1/ai/usage/events"
BATCH_PATH = "/api/v1/ai/usage/events/batch"
CHANGES_PATH = "/api/v1/ai/changes"
SUMMARY_PATH = "/api/v1/ai/usage/summary"
OPENAPI_PATH = "/api/v1/openapi.json"
REREAD_PATH = "/-/reread"

MAX_PUSH_BODY_BYTES = {EVENT_PATH: 16 << 10, BATCH_PATH: 1 << 20, CHANGES_PATH: 16 << 10}
"""Limit of the request body by path, of the paths that accept pushes."""

DEFAULT_SUMMARY_DAYS = 30


class ResponseModel(ApiModel):
    """A response, or a part of one. Field names are written in camelCase; there are no other fields."""


class ErrorResponse(ResponseModel):
    """A request that was rejected as a whole."""

    error: str
    """The reason."""


class StatusResponse(ResponseModel):
    """One event that is stored."""

    status: Literal["accepted", "duplicate"]
    """`duplicate`: the same event had been stored before."""


class RejectedEvent(ResponseModel):
    """An event of a batch that is not stored."""

    index: int
    """Its position in the batch, from 0."""
    status: int
    """The status code that the event would get on its own."""
    reason: str


class BatchResponse(ResponseModel):
    """Outcome of a batch: numbers of events, and the rejected events."""

    accepted: int
    duplicate: int
    rejected: list[RejectedEvent]


class Totals(ResponseModel):
    """Sums over the requested days."""

    cost_usd: float
    tokens: int
    requests: int | None
    """null: no account of this group counts requests."""


class ProviderTotals(Totals):
    """Sums of a provider."""

    provider: str


class AccountTotals(Totals):
    """Sums of an account."""

    provider: str
    account: str


class WorkspaceTotals(AccountTotals):
    """Sums of a workspace."""

    workspace: str


class ModelTotals(Totals):
    """Sums of a model over all accounts."""

    model: str


class TopModel(ModelTotals):
    """Sums of a model, and its shares of all models' sums."""

    cost_share: float | None
    """From 0 to 1; null: there is no cost."""
    request_share: float | None
    """From 0 to 1; null: no requests are counted."""


class DayTotals(ResponseModel):
    """Cost of a UTC day."""

    date: str
    """YYYY-MM-DD."""
    cost_usd: float


class SignalResponse(ResponseModel):
    """An hour whose cost was unusually high."""

    kind: Literal["cost_above_upper_bound"]
    provider: str
    account: str
    workspace: str
    hour: str
    """Start of the hour, RFC 3339 in UTC."""
    cost_usd: float
    expected_usd: float
    upper_bound_usd: float


class ChangeEventResponse(ResponseModel):
    """A change event of the last seven days."""

    title: str
    time: str
    """RFC 3339 in UTC."""
    service: str
    account: str
    link: str


class OneTimeCostResponse(ResponseModel):
    """A charge or credit that no other day is expected to have."""

    provider: str
    account: str
    workspace: str
    item: str
    """As on the bill."""
    date: str
    """UTC day."""
    cost_usd: float


class DayReadsResponse(ResponseModel):
    """When a UTC day was last read from the provider, from its beginning to its end."""

    date: str
    """YYYY-MM-DD."""
    usage_read_at: str | None
    """When all usage was read last, RFC 3339 in UTC; null: not known."""
    bill_read_at: str | None
    """When the bill was read last, RFC 3339 in UTC; null: not known, or bills are part of the usage."""


class FreshnessResponse(ResponseModel):
    """How current the data of an account is."""

    provider: str
    account: str
    up: bool
    """Whether the newest poll of each of its reports succeeded."""
    complete_until: str | None
    """Until when its usage is complete, RFC 3339 in UTC; null: nothing is known yet."""
    incomplete_bills: list[str]
    """UTC days that stay estimated because their bill does not pay for everything yet."""
    problems: list[str]
    """Reasons for which its polls fail."""
    days: list[DayReadsResponse]
    """The requested days that were read, oldest first; empty for pushed usage."""


class SummaryResponse(ResponseModel):
    """Cost and usage of the last days, today included (UTC)."""

    start: Annotated[str, Field(alias="from")]
    """Start of the first day, RFC 3339 in UTC."""
    to: str
    """Time of the request, RFC 3339 in UTC."""
    days: int
    totals: Totals
    by_provider: list[ProviderTotals]
    by_account: list[AccountTotals]
    by_workspace: list[WorkspaceTotals]
    by_model: list[ModelTotals]
    top_models: Annotated[list[TopModel], Field(max_length=MAX_TOP_MODELS)]
    by_day: list[DayTotals]
    signals: list[SignalResponse]
    one_time_costs: list[OneTimeCostResponse]
    changes: list[ChangeEventResponse]
    freshness: list[FreshnessResponse]


class RereadReport(ResponseModel):
    """The days of a report that will be read again."""

    report: str
    kind: Literal["usage", "bill"]
    start: Annotated[str, Field(alias="from")]
    """The first UTC day, YYYY-MM-DD."""
    to: str
    """The last UTC day, YYYY-MM-DD."""


class RereadAccount(ResponseModel):
    """The reports of an account that will be read again."""

    provider: str
    account: str
    reports: list[RereadReport]


class RereadResponse(ResponseModel):
    """What will be read again."""

    start: Annotated[str, Field(alias="from")]
    """The first UTC day that was requested, YYYY-MM-DD."""
    to: str
    """The last UTC day that was requested, YYYY-MM-DD."""
    accounts: list[RereadAccount]
    messages: list[str]
    """Requested days that will not be read, and why; accounts that have to wait."""

    @classmethod
    def from_plan(cls, plan: RereadPlan) -> RereadResponse:
        """Return the response for a plan."""
        accounts = [
            RereadAccount(
                provider=account.provider,
                account=account.account,
                reports=[
                    RereadReport.model_validate(
                        {
                            "report": days.report.name,
                            "kind": days.report.kind,
                            "from": f"{days.time_range.start:%Y-%m-%d}",
                            "to": f"{days.time_range.end - DAY:%Y-%m-%d}",
                        }
                    )
                    for days in account.reports
                ],
            )
            for account in plan.accounts
        ]
        return cls.model_validate(
            {
                "from": f"{plan.request.first_day:%Y-%m-%d}",
                "to": f"{plan.request.last_day:%Y-%m-%d}",
                "accounts": accounts,
                "messages": list(plan.messages),
            }
        )


def json_response(body: ResponseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response with a model's JSON as its body."""
    return Response(body.model_dump_json(by_alias=True), status, headers, media_type="application/json")
