"""The documents as tests see them: headings, tables, links and blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

DOCUMENTS = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
LINKED_DOCUMENTS = (*DOCUMENTS, *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "prometheus/runbooks.md")))
"""Those whose links are checked."""

_HEADING = re.compile(r"^(#{1,6}) (.*)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(.*<<'?(\w+)'?\n(?:.*\n)*?\2\n|(?:.*[\\|]\n)*.*\n)((?:.*\n)*)")


def relative_path(path: Path) -> str:
    """Return a document's path from the root of the repository."""
    return str(path.relative_to(ROOT))


def read_blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return [text for name, text in _BLOCK.findall(path.read_text()) if name == language]


def read_prose(path: Path) -> str:
    """Return a document without its fenced blocks, in which links and headings mean nothing."""
    return _BLOCK.sub("", path.read_text())


def read_links(path: Path) -> list[str]:
    """Return the targets of a document's links and images that are not addresses on the web."""
    return [target for target in _LINK.findall(read_prose(path)) if "://" not in target]


def read_anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them: a repeated heading gets a number."""
    anchors: dict[str, int] = {}
    found = set()
    for _, heading in _HEADING.findall(read_prose(path)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        count = anchors.get(anchor, 0)
        anchors[anchor] = count + 1
        found.add(f"{anchor}-{count}" if count else anchor)
    return found


def read_table(path: Path, heading: str) -> list[list[str]]:
    """Return the rows of the tables in a section, without heads: cells as text. Subsections are not part of it."""
    lines: list[str] = []
    inside = False
    for line in path.read_text().splitlines():
        if match := _HEADING.fullmatch(line):
            inside = match[2] == heading
        elif inside:
            lines.append(line)
    rows = [split_row(line) for line in lines if line.startswith("|")]
    heads = {number - 1 for number, row in enumerate(rows) if set(row[0]) == {"-"}}
    return [row for number, row in enumerate(rows) if number not in heads and number - 1 not in heads]


def split_row(line: str) -> list[str]:
    """Return the cells of a row of a table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


@dataclass(frozen=True)
class Command:
    """A command of a `console` block and the output that is printed below it."""

    text: str
    output: str


def read_commands(path: Path) -> Iterator[Command]:
    """Yield the commands of a document in their order."""
    for block in read_blocks(path, "console"):
        before, *parts = re.split(r"^\$ ", block, flags=re.MULTILINE)
        assert not before, f"{path}: a console block begins with a command"
        for part in parts:
            match = _COMMAND.fullmatch(part)
            assert match is not None, part
            yield Command(match[1].strip(), match[3])
