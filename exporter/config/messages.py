"""How a complaint speaks of a value, of its place and of a file, without ever showing what may be a key."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection

YamlPath = tuple[str | int, ...]
"""Where a value stands in a file: `("accounts", 2, "name")`."""

_MAX_VALUE_LENGTH = 40
_KEY_PATTERN = re.compile(r"(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{20}")
_CHARACTER_CLASSES = (re.compile("[A-Z]"), re.compile("[a-z]"), re.compile("[0-9]"))


def looks_like_key(text: str) -> bool:
    """Tell whether a word of a text has the looks of an API key: long, and random rather than spelled."""
    return any(map(_is_random, text.split()))


def redact(text: str) -> str:
    """Return a text as it is, or `<secret>` where it looks like a key."""
    return "<secret>" if looks_like_key(text) else text


def _is_random(word: str) -> bool:
    if len(word) < 20:
        return False
    return bool(_KEY_PATTERN.search(word)) or all(kind.search(word) for kind in _CHARACTER_CLASSES)


def format_value(value: object) -> str:
    """Return a value as a message may show it: quoted, short, and hidden where it looks like a key."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case str() if looks_like_key(value):
            return "<secret>"
        case str() if len(value) > _MAX_VALUE_LENGTH:
            return quote(f"{value[:_MAX_VALUE_LENGTH]}…")
        case str():
            return quote(value)
        case _:
            return str(value)


def quote(text: str) -> str:
    """Return the text in double quotes on one line, whatever it holds."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def format_problem(yaml_path: YamlPath, message: str) -> str:
    """Return the complaint behind what it is about: `accounts[2].name: is missing`."""
    names = [f"[{step}]" if isinstance(step, int) else f".{_format_key(step)}" for step in yaml_path]
    subject = "".join(names).removeprefix(".")
    return f"{subject}: {message}" if subject else message


def _format_key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]{1,40}", name) and not looks_like_key(name) else format_value(name)


def suggest(word: str, known: Collection[str]) -> str:
    """Return `did you mean …?`, or nothing where no known word is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else ""


def describe_os_error(error: OSError) -> str:
    """Say in plain words why a file or directory cannot be read, and what to do."""
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "it does not exist; create it or correct the path"
        case IsADirectoryError():
            return "it is a directory; name the file in it"
        case PermissionError():
            return "this user may not read it; check its owner and mode"
        case _:
            return f"it cannot be read ({error.strerror or type(error).__name__}); check the path"
