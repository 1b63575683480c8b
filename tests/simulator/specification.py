"""The providers' published specifications, as far as the simulator serves them: specs/*.yaml, in a short notation.

`endpoints` maps a path to its query parameters, the labels of `group_by`, the object that it answers (`answer`) and
the object that stands for `item` in there. `objects` maps a name to fields; a name with `?` may be missing from an
answer. The type of a field is one of the following, or several of them separated by `|`:

- `string`, `integer`, `number`, `boolean`, `null`
- `time` (RFC 3339 in UTC), `decimal` (a number as text), `texts` (an object of strings)
- `=value`, exactly this string
- the name of an object, a list of one type `[type]`, or an object without a name `{field: type}`
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import yaml

FOLDER = Path(__file__).parent / "specs"

Schema = dict[str, Any]

_BASIC_TYPES: Mapping[str, Schema] = {
    **{name: {"type": name} for name in ("string", "integer", "number", "boolean", "null")},
    "time": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"},
    "decimal": {"type": "string", "pattern": r"^-?\d+(\.\d+)?$"},
    "texts": {"type": "object", "additionalProperties": {"type": "string"}},
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path of an API."""

    answer: str
    item: str = ""
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    group_by: tuple[str, ...] = ()

    @property
    def parameters(self) -> frozenset[str]:
        """The names of all query parameters."""
        return frozenset((*self.required, *self.optional))


@dataclass(frozen=True, slots=True)
class Specification:
    """The endpoints and objects of one API."""

    endpoints: Mapping[str, Endpoint]
    objects: Mapping[str, object] = field(repr=False)

    def check_answer(self, path: str, body: object) -> None:
        """Raise jsonschema.ValidationError where `body` is not an answer of the endpoint `path`."""
        endpoint = self.endpoints[path]
        definitions = {name: self._schema(definition) for name, definition in self.objects.items()}
        if endpoint.item:
            definitions["item"] = definitions[endpoint.item]
        schema = {"$ref": f"#/$defs/{endpoint.answer}", "$defs": definitions}
        jsonschema.Draft202012Validator(schema).validate(body)

    def _schema(self, definition: object) -> Schema:
        if isinstance(definition, list):
            (item,) = definition
            return {"type": "array", "items": self._schema(item)}
        if isinstance(definition, dict):
            return self._object_schema(definition)
        alternatives = [self._named_schema(name.strip()) for name in str(definition).split("|")]
        return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}

    def _object_schema(self, fields: Mapping[str, object]) -> Schema:
        return {
            "type": "object",
            "properties": {name.removesuffix("?"): self._schema(definition) for name, definition in fields.items()},
            "required": [name for name in fields if not name.endswith("?")],
            "additionalProperties": False,
        }

    def _named_schema(self, name: str) -> Schema:
        if name.startswith("="):
            return {"const": name[1:]}
        if name in _BASIC_TYPES:
            return dict(_BASIC_TYPES[name])
        if name != "item" and name not in self.objects:
            raise ValueError(f"unknown type {name!r}")
        return {"$ref": f"#/$defs/{name}"}


@functools.cache
def load_specification(api: str) -> Specification:
    """Read specs/`api`.yaml."""
    document = yaml.safe_load((FOLDER / f"{api}.yaml").read_text())
    endpoints = {
        path: Endpoint(
            answer=facts["answer"],
            item=facts.get("item", ""),
            required=tuple(facts.get("required", ())),
            optional=tuple(facts.get("optional", ())),
            group_by=tuple(facts.get("group_by", ())),
        )
        for path, facts in document["endpoints"].items()
    }
    return Specification(endpoints, document["objects"])
