"""Texts for error messages: values, paths and pydantic's errors, never showing text that may be a key."""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

YamlPath = tuple[str | int, ...]
"""Keys and indexes from the top of a file to a value: `("accounts", 2, "name")`."""

_MAX_VALUE_LENGTH = 40
_MAX_EXAMINED_LENGTH = 1000
"""Characters of a value that are searched for a key: many more than are displayed."""
_MAX_NUMBER_BITS = 1000
_MAX_SUGGESTION_LENGTH = 100
"""A longer word is no misspelling of a known word."""
_MIN_KEY_LENGTH = 20
# The repetitions are bounded: without a bound, a long run of digits alone takes time that grows with its square.
_RANDOM_RUN = re.compile(
    rf"(?=[A-Za-z]{{0,{_MIN_KEY_LENGTH}}}[0-9])(?=[0-9]{{0,{_MIN_KEY_LENGTH}}}[A-Za-z])[A-Za-z0-9]{{{_MIN_KEY_LENGTH}}}"
)
_CHARACTER_CLASSES = (re.compile("[A-Z]"), re.compile("[a-z]"), re.compile("[0-9]"))
_MESSAGE = "message"
"""The type of pydantic errors whose text is a message of ours."""


def looks_like_key(text: str) -> bool:
    """Return whether a word of a text may be an API key: it is long, and random rather than spelled."""
    return any(map(_is_random, text.split()))


def has_random_run(text: str) -> bool:
    """Return whether a text has a run of letters and digits that is as long as in API keys, and mixes both."""
    return bool(_RANDOM_RUN.search(text))


def redact(text: str) -> str:
    """Return a text, or `<secret>` where it looks like a key."""
    return "<secret>" if looks_like_key(text) else text


def _is_random(word: str) -> bool:
    if len(word) < _MIN_KEY_LENGTH:
        return False
    return has_random_run(word) or all(characters.search(word) for characters in _CHARACTER_CLASSES)


def format_value(value: object) -> str:
    """Return a value for a message: quoted, short, and hidden where it looks like a key."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case str() if looks_like_key(value[:_MAX_EXAMINED_LENGTH]):
            return "<secret>"
        case str() if len(value) > _MAX_VALUE_LENGTH:
            return quote(f"{value[:_MAX_VALUE_LENGTH]}…")
        case str():
            return quote(value)
        case int() if value.bit_length() > _MAX_NUMBER_BITS:
            # Python refuses to format an integer of thousands of digits.
            return "a number that is too long"
        case _:
            text = str(value)
            return f"{text[:_MAX_VALUE_LENGTH]}…" if len(text) > _MAX_VALUE_LENGTH else text


def format_type(value: object) -> str:
    """Return the type of a value for a message that must not show the value, which may be a misplaced password."""
    if isinstance(value, str):
        return "text"
    return "a number" if type(value) is int else format_value(value)


def quote(text: str) -> str:
    """Return a text in double quotes, on one line, with control characters escaped."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def format_problem(yaml_path: YamlPath, message: str) -> str:
    """Return a message behind the path that it is about: `accounts[2].name: is missing`."""
    names = [f"[{step}]" if isinstance(step, int) else f".{_format_key(step)}" for step in yaml_path]
    subject = "".join(names).removeprefix(".")
    return f"{subject}: {message}" if subject else message


def _format_key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]{1,40}", name) and not looks_like_key(name) else format_value(name)


def suggest(word: str, known: Collection[str]) -> str:
    """Return `did you mean …?`, or an empty text where no known word is similar."""
    similar = difflib.get_close_matches(word, known, n=1) if len(word) <= _MAX_SUGGESTION_LENGTH else []
    return f"did you mean {similar[0]}?" if similar else ""


def suggest_or_list(word: str, known: Collection[str]) -> str:
    """Return `did you mean …?`, or the known words where none is similar."""
    return suggest(word, known) or f"known: {', '.join(filter(None, known))}"


def validation_error(message: str) -> PydanticCustomError:
    """Return the error for a pydantic validator to raise, so that `describe_error` returns the message unchanged."""
    return PydanticCustomError(_MESSAGE, "{message}", {"message": message})


@dataclass(frozen=True, slots=True)
class Wording:
    """The words of a format for which `describe_error` writes messages."""

    unknown: str = "unknown key"
    mapping: str = "a mapping"
    show_value: Callable[[object], str] = format_value


YAML_WORDING = Wording()
JSON_WORDING = Wording(unknown="is unknown", mapping="an object")

_EXPECTED_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
}
_MAPPING_TYPES = ("model_type", "model_attributes_type", "dict_type")
_LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def describe_error(error: ErrorDetails, model: type[BaseModel], wording: Wording = YAML_WORDING) -> str:
    """Return a pydantic error as a message without its path, such as `is missing`.

    `model` is the model that was validated; the known keys for a suggestion are found in it by the error's path.
    """
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    if kind == _MESSAGE:
        return error["msg"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        known = _known_keys(model, error["loc"])
        hint = suggest(str(error["loc"][-1]), known) or f"known here: {', '.join(known) or 'none'}"
        return f"{wording.unknown}; {hint}"
    if kind == "value_error":
        return redact(str(context["error"]))
    if kind in ("string_too_long", "string_too_short"):
        limit = f"at most {context['max_length']}" if "max_length" in context else f"at least {context['min_length']}"
        return f"must have {limit} characters"
    if kind in ("less_than_equal", "less_than", "greater_than_equal", "greater_than"):
        ((bound, limit),) = ((name, context[name]) for name in _LIMITS if name in context)
        return f"must be {_LIMITS[bound]} {limit}"
    if kind == "string_pattern_mismatch":
        return f"{wording.show_value(found)} does not match {context['pattern']}"
    return f"{_expectation(error, wording)}, got {wording.show_value(found)}{_suggest_quotes(error, wording)}"


def _expectation(error: ErrorDetails, wording: Wording) -> str:
    kind = error["type"]
    if kind in _MAPPING_TYPES:
        return f"expected {wording.mapping}"
    if kind in _EXPECTED_TYPES:
        return f"expected {_EXPECTED_TYPES[kind]}"
    if kind == "literal_error":
        return f"expected {error['ctx']['expected']}".replace("'", '"')
    # Only the models of a provider's options have other types; pydantic's text never holds the value itself.
    return redact(error["msg"].replace("Input should be", "expected"))


def _suggest_quotes(error: ErrorDetails, wording: Wording) -> str:
    """Return how a number is written as text, which names made of digits need."""
    is_number = error["type"] == "string_type" and type(error["input"]) is int
    return f" (write {quote(str(error['input']))})" if is_number and wording.show_value is format_value else ""


def known_keys(model: type[BaseModel]) -> list[str]:
    """Return the keys of a model's fields as users write them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _known_keys(model: type[BaseModel], path: YamlPath) -> list[str]:
    """Return the known keys beside the key at a path."""
    for step in path[:-1]:
        # An index does not lead to another model: the field before it has led to the model of its items.
        field = find_field(model, step) if isinstance(step, str) else None
        if field is not None:
            model = find_model(field.annotation) or model
    return known_keys(model)


def find_field(model: type[BaseModel], key: str) -> FieldInfo | None:
    """Return the field with a name or alias; None where there is none."""
    for name, field in model.model_fields.items():
        if key in (name, field.alias):
            return field
    return None


def find_model(annotation: Any) -> type[BaseModel] | None:
    """Return the model in an annotation such as `tuple[Account, ...]` or `Tls | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Annotated, Union, types.UnionType, list, tuple, dict, frozenset):
        for argument in get_args(annotation):
            if (model := find_model(argument)) is not None:
                return model
    return None
