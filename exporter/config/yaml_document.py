"""Reading a YAML file into plain values with the line of each, or an error message for people who do not know YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from exporter.config.files import FileError, read_file
from exporter.config.messages import YamlPath, format_problem, redact
from exporter.errors import ConfigError, ConfigProblem

_MAX_FILE_BYTES = 4 << 20
_MAX_VALUES = 50_000
_MAX_DEPTH = 16
"""Of lists and mappings within each other; the configuration has six. The deeper they are, the slower PyYAML is."""
_TAG_PREFIX = "tag:yaml.org,2002:"
_TYPES = ("null", "bool", "int", "float", "str", "timestamp", "merge", "value", "seq", "map")
_TAGS = frozenset(_TAG_PREFIX + kind for kind in _TYPES)

_VARIABLE = re.compile(r"\$\{[A-Za-z_]\w{0,63}\}|\$\([A-Za-z_]\w{0,63}\)")

_SYNTAX_MESSAGES = {
    "scanning a quoted scalar found unexpected end": "the quote that is opened here is never closed",
    "scanning a quoted scalar found unexpected document": "the quote that is opened here is never closed",
    "scanning a double-quoted scalar": "unknown escape after a backslash; single quotes take a backslash literally",
    "scanning an alias": "text that starts with * must be quoted",
    "scanning an anchor": "text that starts with & must be quoted",
    "undefined alias": "text that starts with * must be quoted",
    "duplicate anchor": "an anchor (&) is defined twice",
    "cannot start any token": "text that starts with this character must be quoted",
    "mapping values are not allowed": "unexpected colon; check the indentation, or quote the text",
    "could not find expected ':'": "a key has no colon, or the indentation is wrong",
    "expected ',' or ']'": "in a list that is opened with [, a comma or the closing ] is missing",
    "expected ',' or '}'": "in a mapping that is opened with {, a comma or the closing } is missing",
    "expected <block end>": "the indentation does not match the lines above",
    "expected a single document": "a second document begins here; a file may contain only one",
}


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """The content of a file; `value` consists of None, bool, int, str, list, and dict with text keys."""

    path: Path
    value: object
    lines: Mapping[YamlPath, int]
    problems: tuple[ConfigProblem, ...]
    """Problems of the YAML itself that do not prevent reading it, such as a duplicate key."""

    def problem_at(self, yaml_path: YamlPath, message: str) -> ConfigProblem:
        """Return a problem of the value at a path, with its line."""
        return ConfigProblem(self.location(yaml_path), format_problem(yaml_path, message))

    def location(self, yaml_path: YamlPath) -> str:
        """Return `file:line` of the value at a path, or of the innermost existing value that would contain it."""
        while yaml_path and yaml_path not in self.lines:
            yaml_path = yaml_path[:-1]
        return f"{self.path}:{self.lines.get(yaml_path, 1)}"


class _TooDeepError(Exception):
    """Values are nested in more than _MAX_DEPTH levels."""


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with a limit of nesting, which it checks before it looks further into the text."""

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:  # noqa: N803 - as in PyYAML
        self._check_depth()
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        self._check_depth()
        return bool(super().add_indent(column))

    def _check_depth(self) -> None:
        if self.flow_level + len(self.indents) > _MAX_DEPTH:
            raise _TooDeepError


def read(path: Path) -> YamlDocument:
    """Read a YAML file; its values are text, whole numbers, true, false, null, lists and mappings.

    Raises ConfigError where the file cannot be read, or is not UTF-8, not YAML, too large or too deeply nested.
    """
    text = _read_text(path)
    converter = _NodeConverter(path)
    try:
        node = yaml.compose(text, Loader=_Loader)
        value = None if node is None else converter.convert(node, ())
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(path, text, error)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        location = f"{path}:{line}"
        raise ConfigError([ConfigProblem(location, "this line contains a control character; remove it")]) from None
    except (_TooDeepError, RecursionError):
        raise ConfigError([ConfigProblem(str(path), "the values are nested too deeply; flatten them")]) from None
    except (ValueError, OverflowError):
        raise ConfigError([ConfigProblem(str(path), "a backslash escape is not a character; correct it")]) from None
    return YamlDocument(path, value, converter.lines, tuple(converter.problems))


def _read_text(path: Path) -> str:
    try:
        data = read_file(path, _MAX_FILE_BYTES, advice="split it with account_files")
    except FileError as error:
        raise ConfigError([ConfigProblem(str(path), str(error))]) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([ConfigProblem(f"{path}:{line}", "this is not UTF-8 text; save the file as UTF-8")]) from None


def _syntax_problem(path: Path, text: str, error: yaml.MarkedYAMLError) -> ConfigProblem:
    parser_message = f"{error.context} {error.problem}"
    message = next(
        (plain for part, plain in _SYNTAX_MESSAGES.items() if part in parser_message),
        "this is not YAML; check quotes, brackets and indentation",
    )
    # An open quote is noticed only at the end of the file; the line to correct is the one where it begins.
    mark = error.context_mark if "never closed" in message else error.problem_mark
    if mark is None:
        return ConfigProblem(str(path), message)
    line = text[: mark.index].rpartition("\n")[2] + text[mark.index :].partition("\n")[0]
    if "\t" in line[: len(line) - len(line.lstrip())]:
        message = "the line is indented with a tab; YAML allows only spaces"
    return ConfigProblem(f"{path}:{mark.line + 1}", f"column {mark.column + 1}: {message}")


class _NodeConverter:
    """Converts YAML nodes to plain values; collects the line of each value, and problems."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[YamlPath, int] = {}
        self.problems: list[ConfigProblem] = []
        self._value_count = 0

    def convert(self, node: yaml.Node, yaml_path: YamlPath) -> object:
        self._value_count += 1
        if self._value_count > _MAX_VALUES:
            # An alias of a few characters can stand for a whole tree, so a small file can expand to billions of values.
            message = f"the file expands to more than {_MAX_VALUES} values; remove its aliases (*)"
            raise ConfigError([ConfigProblem(str(self.path), message)])
        if node.tag not in _TAGS:
            self._add_problem(node, yaml_path, "tags (!) are not supported; remove it")
        if isinstance(node, yaml.MappingNode):
            return self._convert_mapping(node, yaml_path)
        if isinstance(node, yaml.SequenceNode):
            return [self._convert_item(item, item, (*yaml_path, index)) for index, item in enumerate(node.value)]
        if variable := _VARIABLE.search(node.value):
            message = f"variables such as {redact(variable[0])} are not replaced; write the value itself"
            self._add_problem(node, yaml_path, message)
        return _convert_scalar(node.tag, node.value)

    def _convert_mapping(self, node: yaml.MappingNode, yaml_path: YamlPath) -> dict[str, object]:
        mapping = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._add_problem(key, yaml_path, "a key must be plain text; quote a key that starts with { or [")
                continue
            inner = (*yaml_path, key.value)
            if key.value in mapping:
                self._add_problem(key, inner, f"is a duplicate of line {self.lines[inner]}; keep one")
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
    # Narrower than YAML 1.1, where an owner with the name `no` is false, and 010 is 8.
    if tag == f"{_TAG_PREFIX}null":
        return None
    if tag == f"{_TAG_PREFIX}bool" and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if tag == f"{_TAG_PREFIX}int" and re.fullmatch("-?(0|[1-9][0-9]{0,17})", text):
        return int(text)
    return text
