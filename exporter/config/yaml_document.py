"""A YAML file as plain values with the line of each, or in plain words what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from exporter.config.messages import YamlPath, describe_os_error, format_problem, redact
from exporter.errors import ConfigError, ConfigProblem

_MAX_FILE_BYTES = 4 << 20
_MAX_VALUES = 100_000
_TAG_PREFIX = "tag:yaml.org,2002:"
_TYPES = ("null", "bool", "int", "float", "str", "timestamp", "merge", "value", "seq", "map")
_TAGS = frozenset(_TAG_PREFIX + kind for kind in _TYPES)

_VARIABLE = re.compile(r"\$\{[A-Za-z_]\w{0,63}\}|\$\([A-Za-z_]\w{0,63}\)")

_SYNTAX_MESSAGES = {
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
class YamlDocument:
    """One file as read; `value` holds None, bool, int, str, list and dict with text keys only."""

    path: Path
    value: object
    lines: Mapping[YamlPath, int]
    problems: tuple[ConfigProblem, ...]
    """What is wrong with the YAML itself though it could be read, such as a key written twice."""

    def problem_at(self, yaml_path: YamlPath, message: str) -> ConfigProblem:
        """Return a complaint about the value at these steps, placed at its line."""
        return ConfigProblem(self.location(yaml_path), format_problem(yaml_path, message))

    def location(self, yaml_path: YamlPath) -> str:
        """Return `file:line` of the value at these steps, or of the nearest thing around it that is there."""
        while yaml_path and yaml_path not in self.lines:
            yaml_path = yaml_path[:-1]
        return f"{self.path}:{self.lines.get(yaml_path, 1)}"


def read(path: Path) -> YamlDocument:
    """Read a YAML file; its values are text, whole numbers, true, false, null, lists and mappings.

    Raises ConfigError where nothing can be read: no file, not UTF-8, not YAML, or beyond all measure.
    """
    text = _read_text(path)
    walk = _NodeConverter(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = None if node is None else walk.convert(node, ())
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(path, text, error)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError([ConfigProblem(f"{path}:{line}", "a control character stands here; remove it")]) from None
    except RecursionError:
        raise ConfigError([ConfigProblem(str(path), "the values are nested too deeply; flatten them")]) from None
    except (ValueError, OverflowError):
        raise ConfigError([ConfigProblem(str(path), "a backslash escape names no character; correct it")]) from None
    return YamlDocument(path, value, walk.lines, tuple(walk.problems))


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError([ConfigProblem(str(path), describe_os_error(error))]) from error
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError([ConfigProblem(str(path), "the file is larger than 4 MiB; split it with account_files")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([ConfigProblem(f"{path}:{line}", "this is not UTF-8 text; save the file as UTF-8")]) from None


def _syntax_problem(path: Path, text: str, error: yaml.MarkedYAMLError) -> ConfigProblem:
    told = f"{error.context} {error.problem}"
    complaint = next(
        (plain for theirs, plain in _SYNTAX_MESSAGES.items() if theirs in told),
        "this is not YAML; check quotes, brackets and indentation",
    )
    mark = error.context_mark if "never closed" in complaint else error.problem_mark
    if mark is None:
        return ConfigProblem(str(path), complaint)
    line = text[: mark.index].rpartition("\n")[2] + text[mark.index :].partition("\n")[0]
    if "\t" in line[: len(line) - len(line.lstrip())]:
        complaint = "the line is indented with a tab; YAML takes spaces only"
    return ConfigProblem(f"{path}:{mark.line + 1}", f"column {mark.column + 1}: {complaint}")


class _NodeConverter:
    """Turns nodes into values, and notes lines and oddities on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[YamlPath, int] = {}
        self.problems: list[ConfigProblem] = []
        self._value_count = 0

    def convert(self, node: yaml.Node, yaml_path: YamlPath) -> object:
        self._value_count += 1
        if self._value_count > _MAX_VALUES:
            # An alias is a few letters and stands for a tree, so a small file can mean billions of values.
            complaint = f"the file means more than {_MAX_VALUES} values; remove its aliases (*)"
            raise ConfigError([ConfigProblem(str(self.path), complaint)])
        if node.tag not in _TAGS:
            self._add_problem(node, yaml_path, "a tag (!) has no meaning here; remove it")
        if isinstance(node, yaml.MappingNode):
            return self._convert_mapping(node, yaml_path)
        if isinstance(node, yaml.SequenceNode):
            return [self._convert_item(item, item, (*yaml_path, index)) for index, item in enumerate(node.value)]
        if variable := _VARIABLE.search(node.value):
            self._add_problem(node, yaml_path, f"{redact(variable[0])} is not filled in here; write what it stands for")
        return _convert_scalar(node.tag, node.value)

    def _convert_mapping(self, node: yaml.MappingNode, yaml_path: YamlPath) -> dict[str, object]:
        mapping = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._add_problem(key, yaml_path, "a key must be plain text; quote what starts with { or [")
                continue
            inner = (*yaml_path, key.value)
            if key.value in mapping:
                self._add_problem(key, inner, f"written twice, first in line {self.lines[inner]}; keep one")
            mapping[key.value] = self._convert_item(key, value, inner)
        return mapping

    def _convert_item(self, start: yaml.Node, value: yaml.Node, yaml_path: YamlPath) -> object:
        self.lines[yaml_path] = _line_number(start)
        return self.convert(value, yaml_path)

    def _add_problem(self, node: yaml.Node, yaml_path: YamlPath, message: str) -> None:
        self.problems.append(ConfigProblem(f"{self.path}:{_line_number(node)}", format_problem(yaml_path, message)))


def _line_number(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _convert_scalar(tag: str, text: str) -> str | int | bool | None:
    # Narrower than YAML 1.1 on purpose: there an owner called `no` is false, and 010 is 8.
    if tag == f"{_TAG_PREFIX}null":
        return None
    if tag == f"{_TAG_PREFIX}bool" and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if tag == f"{_TAG_PREFIX}int" and re.fullmatch("-?(0|[1-9][0-9]{0,17})", text):
        return int(text)
    return text
