"""The configuration as a JSON Schema, for editors."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from exporter.config.schema import KEY_FIELDS, MainFile
from exporter.config.validators import format_duration


class _SchemaGenerator(GenerateJsonSchema):
    """Durations are told as they are written; what is empty unless said is not told as a default."""

    def encode_default(self, dft: Any) -> Any:
        match dft:
            case timedelta():
                return format_duration(dft)
            case BaseModel():
                return None
            case _:
                return super().encode_default(dft)

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        told = super().default_schema(schema)
        if not told.get("default"):
            told.pop("default", None)
        return told

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False


def render_json_schema(providers: Collection[str]) -> str:
    """Return the schema of the main file, which fits account files too, as JSON text."""
    told = MainFile.model_json_schema(schema_generator=_SchemaGenerator)
    account = told["$defs"]["AccountSchema"]
    account["properties"]["provider"]["enum"] = sorted(providers)
    account["oneOf"] = [{"required": [name]} for name in KEY_FIELDS]
    for one in told["$defs"].values():
        one.pop("title", None)
    told = {"$schema": "https://json-schema.org/draft/2020-12/schema", **told, "title": "ai-spend-exporter"}
    return json.dumps(told, indent=2) + "\n"
