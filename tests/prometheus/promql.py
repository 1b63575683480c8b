"""Reads PromQL into a tree with the place of every node: enough for the expressions of the rules, and no more."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#.*)
    |(?P<string>"(?:\\.|[^"\\])*")
    |(?P<range>\[[^]]*\])
    |(?P<number>[0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?(?![\w:]))
    |(?P<name>[a-zA-Z_:][\w:]*)
    |(?P<sign>[=!]~|[=!<>]=|[-+*/^%=<>(),{}])""",
    re.VERBOSE,
)
_PRECEDENCE = {
    "or": 1,
    "and": 2,
    "unless": 2,
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), 3),
    **dict.fromkeys(("+", "-"), 4),
    **dict.fromkeys(("*", "/", "%"), 5),
}
AGGREGATIONS = frozenset({"sum", "avg", "min", "max", "count", "group", "topk", "bottomk"})


@dataclass(frozen=True, slots=True)
class Token:
    """A token and its place in the text."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        """The place after the token."""
        return self.start + len(self.text)


@dataclass(slots=True)
class Node:
    """A part of an expression: `kind` is binary, aggregation, call, selector, number, string or parentheses."""

    kind: str
    start: int
    end: int = 0
    token: Token | None = None
    """The operator, the name of the function or the metric, or the number."""
    children: list[Node] = field(default_factory=list)
    matchers: list[Sequence[Token]] = field(default_factory=list)
    """Label, operator and value of each."""
    labels: list[Token] = field(default_factory=list)
    """The labels after by, on or ignoring; not those after group_left."""
    range: Token | None = None

    def walk(self) -> Iterator[Node]:
        """Yield the node and all nodes below it."""
        yield self
        for child in self.children:
            yield from child.walk()


class SyntaxProblem(ValueError):
    """The text has a part that this parser does not know."""


def parse(text: str) -> Node:
    """Return the tree of an expression. Raises SyntaxProblem."""
    parser = _Parser(text)
    node = parser.read_binary(1)
    if parser.text:
        raise SyntaxProblem(f"unexpected {parser.text!r} in {text!r}")
    return node


class _Parser:
    def __init__(self, text: str) -> None:
        tokens, place = [], 0
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise SyntaxProblem(f"unknown text at {place} of {text!r}")
            if match.lastgroup != "space":
                tokens.append(Token(match.lastgroup or "", match[0], place))
            place = match.end()
        self._tokens = tokens
        self._next = 0

    @property
    def text(self) -> str:
        """The text of the next token; empty at the end."""
        return self._tokens[self._next].text if self._next < len(self._tokens) else ""

    def read_binary(self, precedence: int) -> Node:
        """Read operands joined by operators of at least a precedence; all operators are left-associative."""
        left = self._read_operand()
        while _PRECEDENCE.get(self.text, 0) >= precedence:
            operator = self._take()
            node = Node("binary", left.start, token=operator, children=[left])
            self._skip("bool")
            if self.text in ("on", "ignoring"):
                self._take()
                node.labels = self._read_labels()
                if self.text in ("group_left", "group_right"):
                    self._take()
                    if self.text == "(":
                        self._read_labels()
            node.children.append(self.read_binary(_PRECEDENCE[operator.text] + 1))
            node.end = node.children[1].end
            left = node
        return left

    def _read_operand(self) -> Node:
        token = self._take()
        if token.text == "(":
            node = Node("parentheses", token.start, children=[self.read_binary(1)])
            node.end = self._take(")").end
            return node
        if token.text == "-":
            operand = self._read_operand()
            return Node("parentheses", token.start, operand.end, children=[operand])
        if token.kind in ("number", "string"):
            return Node(token.kind, token.start, token.end, token)
        if token.kind != "name":
            raise SyntaxProblem(f"unexpected {token.text!r}")
        if token.text in AGGREGATIONS:
            return self._read_aggregation(token)
        if self.text == "(":
            return self._read_arguments(Node("call", token.start, token=token))
        return self._read_selector(token)

    def _read_aggregation(self, token: Token) -> Node:
        node = Node("aggregation", token.start, token=token)
        if self.text == "by":
            self._take()
            node.labels = self._read_labels()
        return self._read_arguments(node)

    def _read_arguments(self, node: Node) -> Node:
        self._take("(")
        while self.text != ")":
            node.children.append(self.read_binary(1))
            self._skip(",")
        node.end = self._take(")").end
        return node

    def _read_selector(self, token: Token) -> Node:
        node = Node("selector", token.start, token.end, token)
        if self.text == "{":
            self._take()
            while self.text != "}":
                node.matchers.append((self._take(), self._take(), self._take()))
                self._skip(",")
            node.end = self._take("}").end
        if self.text.startswith("["):
            node.range = self._take()
            node.end = node.range.end
        return node

    def _read_labels(self) -> list[Token]:
        self._take("(")
        labels = []
        while self.text != ")":
            labels.append(self._take())
            self._skip(",")
        self._take(")")
        return labels

    def _take(self, expected: str = "") -> Token:
        if self._next == len(self._tokens) or expected not in ("", self.text):
            raise SyntaxProblem(f"expected {expected or 'more'}, got {self.text!r}")
        self._next += 1
        return self._tokens[self._next - 1]

    def _skip(self, text: str) -> None:
        if self.text == text:
            self._next += 1
