"""The API for those who push and those who read sums, as an OpenAPI document made from the shapes that it takes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from exporter.push.models import MAX_EVENTS_PER_BATCH, ChangeEventBody, UsageEventBody
from exporter.ui.summary import MAX_TOP_MODELS
from exporter.web.push_routes import BATCH_PATH, CHANGES_PATH, EVENT_PATH, OPENAPI_PATH, SUMMARY_PATH
from exporter.windows import DAYS_EXPORTED

Schema = Mapping[str, Any]

_STRING: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_INTEGER: Schema = {"type": "integer"}
_NULLABLE_INTEGER: Schema = {"type": ["integer", "null"]}
_NULLABLE_NUMBER: Schema = {"type": ["number", "null"]}
_TOTALS: Mapping[str, Schema] = {"costUsd": _NUMBER, "tokens": _INTEGER, "requests": _NULLABLE_INTEGER}


def _object(**fields: Schema) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _list(**fields: Schema) -> dict[str, Any]:
    return {"type": "array", "items": _object(**fields)}


_ERROR = _object(error=_STRING)
_STATUS = _object(status={"enum": ["accepted", "duplicate"]})
_BATCH_RESULT = _object(
    accepted=_INTEGER, duplicate=_INTEGER, rejected=_list(index=_INTEGER, status=_INTEGER, reason=_STRING)
)
_ACCOUNT_FIELDS: Mapping[str, Schema] = {"provider": _STRING, "account": _STRING}
_SUMMARY = _object(
    **{
        "from": _STRING,
        "to": _STRING,
        "days": _INTEGER,
        "totals": _object(**_TOTALS),
        "byProvider": _list(provider=_STRING, **_TOTALS),
        "byAccount": _list(**_ACCOUNT_FIELDS, **_TOTALS),
        "byWorkspace": _list(**_ACCOUNT_FIELDS, workspace=_STRING, **_TOTALS),
        "byModel": _list(model=_STRING, **_TOTALS),
        "topModels": _list(model=_STRING, **_TOTALS, costShare=_NULLABLE_NUMBER, requestShare=_NULLABLE_NUMBER)
        | {"maxItems": MAX_TOP_MODELS},
        "byDay": _list(date=_STRING, costUsd=_NUMBER),
        "signals": _list(
            kind=_STRING,
            **_ACCOUNT_FIELDS,
            workspace=_STRING,
            hour=_STRING,
            costUsd=_NUMBER,
            expectedUsd=_NUMBER,
            upperBoundUsd=_NUMBER,
        ),
        "changes": _list(title=_STRING, time=_STRING, service=_STRING, account=_STRING, link=_STRING),
        "freshness": _list(
            **_ACCOUNT_FIELDS,
            up={"type": "boolean"},
            completeUntil={"type": ["string", "null"]},
            problems={"type": "array", "items": _STRING},
        ),
    }
)


def _response(description: str, schema: Schema) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_LEDGER_UNAVAILABLE = {"503": _response("The ledger cannot be read or written; nothing of this was kept.", _ERROR)}
_REJECTED = {
    "400": _response("The body is no JSON.", _ERROR),
    "401": _response("The token is that of no source.", _ERROR),
    "413": {"description": "The body, or the batch, is too long."},
    "422": _response("It does not fit; nothing of it is counted.", _ERROR),
} | _LEDGER_UNAVAILABLE
_RATE_LIMITED = {"429": _response("Too many events; ask again after Retry-After seconds.", _ERROR)}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Names the request: events without an id are counted once though it is sent again.",
    "schema": {"type": "string", "maxLength": 255, "pattern": "^[!-~]*$"},
}


def _post(summary: str, body: Schema, responses: Schema, **extra: Any) -> dict[str, Any]:
    told = {"required": True, "content": {"application/json": {"schema": body}}}
    return {
        "post": {"summary": summary, "security": [{"token": []}], "requestBody": told, "responses": responses, **extra}
    }


def _model_schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema(by_alias=True, ref_template="#/components/schemas/{model}")


@functools.cache
def build_openapi_document(version: str) -> Schema:
    """Return the OpenAPI 3.1 document. Names may also be written in snake_case, which it does not tell."""
    event, change = ({"$ref": f"#/components/schemas/{one.__name__}"} for one in (UsageEventBody, ChangeEventBody))
    batch = _object(events={"type": "array", "items": event, "minItems": 1, "maxItems": MAX_EVENTS_PER_BATCH})
    accepted = {"202": _response("It is counted, and kept. repeated: it was before.", _STATUS)}
    conflict = {"409": _response("Its id was given to another event before.", _ERROR)}
    some = {"207": _response("Some are not counted: those that are listed, and why.", _BATCH_RESULT)}
    all_of_it = {"202": _response("All of them are counted, and kept.", _BATCH_RESULT)}
    days = {
        "name": "days",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": DAYS_EXPORTED, "default": 30},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "ai-spend-exporter", "version": version},
        "paths": {
            EVENT_PATH: _post(
                "Tell what one request used.",
                event,
                accepted | conflict | _RATE_LIMITED | _REJECTED,
                parameters=[_IDEMPOTENCY_KEY],
            ),
            BATCH_PATH: _post(
                f"Tell what up to {MAX_EVENTS_PER_BATCH} requests used.",
                batch,
                all_of_it | some | _RATE_LIMITED | _REJECTED,
                parameters=[_IDEMPOTENCY_KEY],
            ),
            CHANGES_PATH: _post(
                "Tell what was done to a system.", change, {"202": _response("It is kept.", _STATUS)} | _REJECTED
            ),
            SUMMARY_PATH: {
                "get": {
                    "summary": "What was spent in the last days, today included (UTC).",
                    "parameters": [days],
                    "responses": {
                        "200": _response("Sums.", _SUMMARY),
                        "422": _response("days is out of range.", _ERROR),
                    }
                    | _LEDGER_UNAVAILABLE,
                }
            },
            OPENAPI_PATH: {"get": {"summary": "This document.", "responses": {"200": {"description": "OpenAPI 3.1."}}}},
        },
        "components": {
            "schemas": {one.__name__: _model_schema(one) for one in (UsageEventBody, ChangeEventBody)},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
