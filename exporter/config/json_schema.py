"""The configuration as a JSON Schema, for editors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from exporter.config.durations import format_duration
from exporter.config.schema import KEY_FIELDS, Account, Config, NoOptions


class _SchemaGenerator(GenerateJsonSchema):
    """Writes default durations as users do, and omits defaults that are empty."""

    def encode_default(self, dft: Any) -> Any:
        match dft:
            case timedelta():
                return format_duration(dft)
            case BaseModel():
                return None
            case _:
                return super().encode_default(dft)

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        json_schema = super().default_schema(schema)
        if not json_schema.get("default"):
            json_schema.pop("default", None)
        return json_schema

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False


def render_json_schema(providers: Mapping[str, object]) -> str:
    """Return the schema of the main file, which is also valid for account files, as JSON text.

    `providers` are the provider classes by name; the schema of an account's options depends on its provider.
    """
    schema = Config.model_json_schema(schema_generator=_SchemaGenerator)
    definitions = schema["$defs"]
    account = definitions[Account.__name__]
    account["properties"]["provider"]["enum"] = sorted(providers)
    account["oneOf"] = [{"required": [name]} for name in KEY_FIELDS]
    account["allOf"] = [
        _options_condition(name, getattr(providers[name], "options_model", NoOptions), definitions)
        for name in sorted(providers)
    ]
    for definition in definitions.values():
        definition.pop("title", None)
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "ai-spend-exporter"}
    return json.dumps(document, indent=2) + "\n"


def _options_condition(provider: str, options_model: type[BaseModel], definitions: dict[str, Any]) -> JsonSchemaValue:
    """Return the rule that an account with this provider has options of this model; adds the models that it uses."""
    options = options_model.model_json_schema(schema_generator=_SchemaGenerator)
    nested = options.pop("$defs", {})
    options.pop("title", None)
    for definition in (options, *nested.values()):
        if "properties" in definition:
            # Unknown options are errors, whatever the models' own configuration is.
            definition["additionalProperties"] = False
    definitions |= nested
    required = {"required": ["options"]} if options.get("required") else {}
    return {
        "if": {"properties": {"provider": {"const": provider}}},
        "then": {"properties": {"options": options}, **required},
    }
