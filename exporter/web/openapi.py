"""The API for those who push and those who read sums, as an OpenAPI document made from the shapes that it takes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from exporter.push.models import MOST_EVENTS, Change, UsageEvent
from exporter.ui.summary import MOST_MODELS
from exporter.web.push_routes import BATCH, CHANGES, DOCUMENT, EVENT, SUMMARY
from exporter.windows import DAYS_SHOWN

Shape = Mapping[str, Any]

_TEXT: Shape = {"type": "string"}
_NUMBER: Shape = {"type": "number"}
_COUNT: Shape = {"type": "integer"}
_MAYBE: Shape = {"type": ["integer", "null"]}
_SHARE: Shape = {"type": ["number", "null"]}
_SUMS: Mapping[str, Shape] = {"costUsd": _NUMBER, "tokens": _COUNT, "requests": _MAYBE}


def _object(**fields: Shape) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _list(**fields: Shape) -> dict[str, Any]:
    return {"type": "array", "items": _object(**fields)}


_ERROR = _object(error=_TEXT)
_STATUS = _object(status={"enum": ["accepted", "repeated"]})
_TAKEN = _object(accepted=_COUNT, repeated=_COUNT, refused=_list(index=_COUNT, status=_COUNT, reason=_TEXT))
_ACCOUNT: Mapping[str, Shape] = {"provider": _TEXT, "account": _TEXT}
_SUMMARY = _object(
    **{
        "from": _TEXT,
        "to": _TEXT,
        "days": _COUNT,
        "totals": _object(**_SUMS),
        "byProvider": _list(provider=_TEXT, **_SUMS),
        "byAccount": _list(**_ACCOUNT, **_SUMS),
        "byWorkspace": _list(**_ACCOUNT, workspace=_TEXT, **_SUMS),
        "byModel": _list(model=_TEXT, **_SUMS),
        "topModels": _list(model=_TEXT, **_SUMS, costShare=_SHARE, requestShare=_SHARE) | {"maxItems": MOST_MODELS},
        "byDay": _list(date=_TEXT, costUsd=_NUMBER),
        "signals": _list(
            kind=_TEXT, **_ACCOUNT, workspace=_TEXT, hour=_TEXT, costUsd=_NUMBER, expectedUsd=_NUMBER, highUsd=_NUMBER
        ),
        "changes": _list(title=_TEXT, time=_TEXT, service=_TEXT, account=_TEXT, link=_TEXT),
        "freshness": _list(
            **_ACCOUNT,
            up={"type": "boolean"},
            completeUntil={"type": ["string", "null"]},
            problems={"type": "array", "items": _TEXT},
        ),
    }
)


def _answer(description: str, schema: Shape) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_BROKEN = {"503": _answer("The ledger cannot be read or written; nothing of this was kept.", _ERROR)}
_REFUSED = {
    "400": _answer("The body is no JSON.", _ERROR),
    "401": _answer("The token is that of no source.", _ERROR),
    "413": {"description": "The body, or the batch, is too long."},
    "422": _answer("It does not fit; nothing of it is counted.", _ERROR),
} | _BROKEN
_BUSY = {"429": _answer("Too many events; ask again after Retry-After seconds.", _ERROR)}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Names the request: events without an id are counted once though it is sent again.",
    "schema": {"type": "string", "maxLength": 255, "pattern": "^[!-~]*$"},
}


def _post(summary: str, body: Shape, answers: Shape, **more: Any) -> dict[str, Any]:
    told = {"required": True, "content": {"application/json": {"schema": body}}}
    return {
        "post": {"summary": summary, "security": [{"token": []}], "requestBody": told, "responses": answers, **more}
    }


def _schema(shape: type[BaseModel]) -> dict[str, Any]:
    return shape.model_json_schema(by_alias=True, ref_template="#/components/schemas/{model}")


@functools.cache
def document(version: str) -> Shape:
    """Return the OpenAPI 3.1 document. Names may also be written in snake_case, which it does not tell."""
    event, change = ({"$ref": f"#/components/schemas/{one.__name__}"} for one in (UsageEvent, Change))
    batch = _object(events={"type": "array", "items": event, "minItems": 1, "maxItems": MOST_EVENTS})
    accepted = {"202": _answer("It is counted, and kept. repeated: it was before.", _STATUS)}
    conflict = {"409": _answer("Its id was given to another event before.", _ERROR)}
    some = {"207": _answer("Some are not counted: those that are listed, and why.", _TAKEN)}
    all_of_it = {"202": _answer("All of them are counted, and kept.", _TAKEN)}
    days = {
        "name": "days",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": DAYS_SHOWN, "default": 30},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "ai-spend-exporter", "version": version},
        "paths": {
            EVENT: _post(
                "Tell what one request used.", event, accepted | conflict | _BUSY | _REFUSED, parameters=[_KEY]
            ),
            BATCH: _post(
                f"Tell what up to {MOST_EVENTS} requests used.",
                batch,
                all_of_it | some | _BUSY | _REFUSED,
                parameters=[_KEY],
            ),
            CHANGES: _post(
                "Tell what was done to a system.", change, {"202": _answer("It is kept.", _STATUS)} | _REFUSED
            ),
            SUMMARY: {
                "get": {
                    "summary": "What was spent in the last days, today included (UTC).",
                    "parameters": [days],
                    "responses": {"200": _answer("Sums.", _SUMMARY), "422": _answer("days is out of range.", _ERROR)}
                    | _BROKEN,
                }
            },
            DOCUMENT: {"get": {"summary": "This document.", "responses": {"200": {"description": "OpenAPI 3.1."}}}},
        },
        "components": {
            "schemas": {one.__name__: _schema(one) for one in (UsageEvent, Change)},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
