"""The OpenAPI document of the JSON API, generated from the models of its requests and responses."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from exporter.push.models import MAX_EVENTS_PER_BATCH, ChangeEventBody, UsageBatchBody, UsageEventBody
from exporter.web.api import (
    BATCH_PATH,
    CHANGES_PATH,
    DEFAULT_SUMMARY_DAYS,
    EVENT_PATH,
    OPENAPI_PATH,
    REREAD_PATH,
    SUMMARY_PATH,
    BatchResponse,
    ErrorResponse,
    RereadResponse,
    StatusResponse,
    SummaryResponse,
)
from exporter.windows import DAYS_EXPORTED

JSON = Mapping[str, Any]

_REQUEST_MODELS: tuple[type[BaseModel], ...] = (UsageEventBody, UsageBatchBody, ChangeEventBody)
_RESPONSE_MODELS: tuple[type[BaseModel], ...] = (
    StatusResponse,
    BatchResponse,
    SummaryResponse,
    RereadResponse,
    ErrorResponse,
)
_REFERENCE = "#/components/schemas/{model}"


def _content(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}}


def _response(description: str, model: type[BaseModel]) -> dict[str, Any]:
    return {"description": description, "content": _content(model)}


_LEDGER_UNAVAILABLE = {
    "503": _response("The ledger cannot be read or written; nothing of this request was stored.", ErrorResponse)
}
_REJECTED = {
    "400": _response("The body is not JSON, or has an object with a key twice.", ErrorResponse),
    "401": _response("The token belongs to no configured source.", ErrorResponse),
    "413": {"description": "The body, or the batch, is too long."},
    "415": _response("The body has a Content-Encoding other than gzip.", ErrorResponse),
    "422": _response("The body is invalid; nothing of it is stored.", ErrorResponse),
} | _LEDGER_UNAVAILABLE
_RATE_LIMITED = {"429": _response("Too many events; retry after Retry-After seconds.", ErrorResponse)}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Identifies the request: events without an id are counted once, even if it is sent again.",
    "schema": {"type": "string", "maxLength": 255, "pattern": "^[!-~]*$"},
}
_DAYS = {
    "name": "days",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "maximum": DAYS_EXPORTED, "default": DEFAULT_SUMMARY_DAYS},
}


def _day_parameter(name: str, description: str) -> dict[str, Any]:
    schema = {"type": "string", "format": "date"}
    return {"name": name, "in": "query", "required": True, "description": description, "schema": schema}


def _name_parameter(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", "minLength": 1}}


_REREAD = {
    "summary": "Read past days of polled accounts from their providers again.",
    "parameters": [
        _day_parameter("from", "The first UTC day."),
        _day_parameter("to", "The last UTC day."),
        _name_parameter("account", "Only this account; all without it."),
        _name_parameter("provider", "Only the accounts of this provider."),
    ],
    "responses": {
        "202": _response("The poller will read these days as soon as rate limits allow.", RereadResponse),
        "400": _response("The days are no days, or none of them can be read.", ErrorResponse),
        "403": _response("The exporter runs without --web.enable-lifecycle.", ErrorResponse),
        "404": _response("There is no such polled account.", ErrorResponse),
    }
    | _LEDGER_UNAVAILABLE,
}


def _post(summary: str, body: type[BaseModel], responses: JSON, **fields: Any) -> dict[str, Any]:
    operation = {
        "summary": summary,
        "security": [{"token": []}],
        "requestBody": {"required": True, "content": _content(body)},
        "responses": responses,
        **fields,
    }
    return {"post": operation}


def _get(summary: str, responses: JSON, **fields: Any) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": responses, **fields}}


def _schemas() -> Any:
    """Return name -> JSON schema of every model. Requests also take field names in snake_case: not in the schema."""
    modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((model, "validation") for model in _REQUEST_MODELS),
        *((model, "serialization") for model in _RESPONSE_MODELS),
    ]
    _, definitions = models_json_schema(modes, by_alias=True, ref_template=_REFERENCE)
    return definitions["$defs"]


@functools.cache
def build_openapi_document(version: str) -> JSON:
    """Return the OpenAPI 3.1 document; `version` is the exporter's."""
    stored = _response("Stored. duplicate: the same event had been stored before.", StatusResponse)
    conflict = _response("A different event with this id was stored before.", ErrorResponse)
    partly_stored = _response("Some events are not stored; they are listed with the reason.", BatchResponse)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ai-spend-exporter", "version": version},
        "paths": {
            EVENT_PATH: _post(
                "Push the usage of one request.",
                UsageEventBody,
                {"202": stored, "409": conflict} | _RATE_LIMITED | _REJECTED,
                parameters=[_IDEMPOTENCY_KEY],
            ),
            BATCH_PATH: _post(
                f"Push the usage of up to {MAX_EVENTS_PER_BATCH} requests.",
                UsageBatchBody,
                {"202": _response("All events are stored.", BatchResponse), "207": partly_stored}
                | _RATE_LIMITED
                | _REJECTED,
                parameters=[_IDEMPOTENCY_KEY],
            ),
            CHANGES_PATH: _post(
                "Report a change to a system, such as a deployment.",
                ChangeEventBody,
                {"202": _response("Stored.", StatusResponse)} | _REJECTED,
            ),
            SUMMARY_PATH: _get(
                "Cost and usage of the last days, today included (UTC).",
                {
                    "200": _response("Sums by provider, account, workspace, model and day.", SummaryResponse),
                    "422": _response("days is out of range.", ErrorResponse),
                }
                | _LEDGER_UNAVAILABLE,
                parameters=[_DAYS],
            ),
            REREAD_PATH: {"post": _REREAD},
            OPENAPI_PATH: _get("This document.", {"200": {"description": "OpenAPI 3.1."}}),
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
