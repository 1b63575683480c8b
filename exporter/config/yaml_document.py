"""A YAML file as plain values with the line of each, or in plain words what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from exporter.config.messages import Steps, hidden, spoken, unreadable
from exporter.errors import ConfigError, Problem

_LARGEST_FILE = 4 << 20
_MOST_VALUES = 100_000
_CORE = "tag:yaml.org,2002:"
_KINDS = ("null", "bool", "int", "float", "str", "timestamp", "merge", "value", "seq", "map")
_TAGS = frozenset(_CORE + kind for kind in _KINDS)

_VARIABLE = re.compile(r"\$\{[A-Za-z_]\w{0,63}\}|\$\([A-Za-z_]\w{0,63}\)")

_PLAIN_WORDS = {
    "scanning a quoted scalar found unexpected end": "a quote is opened here and never closed",
    "scanning a quoted scalar found unexpected document": "a quote is opened here and never closed",
    "scanning a double-quoted scalar": "an unknown escape after a backslash; single quotes take a backslash as it is",
    "scanning an alias": "text that starts with * must stand in quotes",
    "scanning an anchor": "text that starts with & must stand in quotes",
    "undefined alias": "text that starts with * must stand in quotes",
    "duplicate anchor": "one anchor (&) is set twice",
    "cannot start any token": "text that starts with this character must stand in quotes",
    "mapping values are not allowed": "no colon is expected here; check the indentation, or quote the text",
    "could not find expected ':'": "a key lacks its colon, or the indentation is wrong",
    "expected ',' or ']'": "a list opened with [ lacks a comma or its ]",
    "expected ',' or '}'": "a mapping opened with { lacks a comma or its }",
    "expected <block end>": "the indentation does not fit the lines above",
    "expected a single document": "a second document begins here; a file holds one",
}


@dataclass(frozen=True, slots=True)
class Document:
    """One file as read; `value` holds None, bool, int, str, list and dict with text keys only."""

    path: Path
    value: object
    lines: Mapping[Steps, int]
    problems: tuple[Problem, ...]
    """What is wrong with the YAML itself though it could be read, such as a key written twice."""

    def problem(self, steps: Steps, complaint: str) -> Problem:
        """Return a complaint about the value at these steps, placed at its line."""
        return Problem(self.place(steps), spoken(steps, complaint))

    def place(self, steps: Steps) -> str:
        """Return `file:line` of the value at these steps, or of the nearest thing around it that is there."""
        while steps and steps not in self.lines:
            steps = steps[:-1]
        return f"{self.path}:{self.lines.get(steps, 1)}"


def read(path: Path) -> Document:
    """Read a YAML file; its values are text, whole numbers, true, false, null, lists and mappings.

    Raises ConfigError where nothing can be read: no file, not UTF-8, not YAML, or beyond all measure.
    """
    text = _text(path)
    walk = _Walk(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = None if node is None else walk.value(node, ())
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax(path, text, error)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError([Problem(f"{path}:{line}", "a control character stands here; remove it")]) from None
    except RecursionError:
        raise ConfigError([Problem(str(path), "the values are nested too deeply; flatten them")]) from None
    except (ValueError, OverflowError):
        raise ConfigError([Problem(str(path), "a backslash escape names no character; correct it")]) from None
    return Document(path, value, walk.lines, tuple(walk.problems))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError([Problem(str(path), unreadable(error))]) from error
    if len(data) > _LARGEST_FILE:
        raise ConfigError([Problem(str(path), "the file is larger than 4 MiB; split it with account_files")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(f"{path}:{line}", "this is not UTF-8 text; save the file as UTF-8")]) from None


def _syntax(path: Path, text: str, error: yaml.MarkedYAMLError) -> Problem:
    told = f"{error.context} {error.problem}"
    complaint = next(
        (plain for theirs, plain in _PLAIN_WORDS.items() if theirs in told),
        "this is not YAML; check quotes, brackets and indentation",
    )
    mark = error.context_mark if "never closed" in complaint else error.problem_mark
    if mark is None:
        return Problem(str(path), complaint)
    line = text[: mark.index].rpartition("\n")[2] + text[mark.index :].partition("\n")[0]
    if "\t" in line[: len(line) - len(line.lstrip())]:
        complaint = "the line is indented with a tab; YAML takes spaces only"
    return Problem(f"{path}:{mark.line + 1}", f"column {mark.column + 1}: {complaint}")


class _Walk:
    """Turns nodes into values, and notes lines and oddities on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Steps, int] = {}
        self.problems: list[Problem] = []
        self._values = 0

    def value(self, node: yaml.Node, steps: Steps) -> object:
        self._values += 1
        if self._values > _MOST_VALUES:
            # An alias is a few letters and stands for a tree, so a small file can mean billions of values.
            complaint = f"the file means more than {_MOST_VALUES} values; remove its aliases (*)"
            raise ConfigError([Problem(str(self.path), complaint)])
        if node.tag not in _TAGS:
            self._complain(node, steps, "a tag (!) has no meaning here; remove it")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, steps)
        if isinstance(node, yaml.SequenceNode):
            return [self._inner(item, item, (*steps, index)) for index, item in enumerate(node.value)]
        if variable := _VARIABLE.search(node.value):
            self._complain(node, steps, f"{hidden(variable[0])} is not filled in here; write what it stands for")
        return _scalar(node.tag, node.value)

    def _mapping(self, node: yaml.MappingNode, steps: Steps) -> dict[str, object]:
        mapping = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._complain(key, steps, "a key must be plain text; quote what starts with { or [")
                continue
            inner = (*steps, key.value)
            if key.value in mapping:
                self._complain(key, inner, f"written twice, first in line {self.lines[inner]}; keep one")
            mapping[key.value] = self._inner(key, value, inner)
        return mapping

    def _inner(self, start: yaml.Node, value: yaml.Node, steps: Steps) -> object:
        self.lines[steps] = _line(start)
        return self.value(value, steps)

    def _complain(self, node: yaml.Node, steps: Steps, complaint: str) -> None:
        self.problems.append(Problem(f"{self.path}:{_line(node)}", spoken(steps, complaint)))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _scalar(tag: str, text: str) -> str | int | bool | None:
    # Narrower than YAML 1.1 on purpose: there an owner called `no` is false, and 010 is 8.
    if tag == f"{_CORE}null":
        return None
    if tag == f"{_CORE}bool" and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if tag == f"{_CORE}int" and re.fullmatch("-?(0|[1-9][0-9]{0,17})", text):
        return int(text)
    return text
