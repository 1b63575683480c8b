"""Tables that become a stack of cards on a narrow screen, where a wide row would be cut or have to be scrolled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    css: str = ""
    """Classes of its cells; `n` for numbers."""


def render_table(label: str, columns: Sequence[Column], rows: Iterable[Iterable[str]], css: str = "") -> str:
    """Return a table; `rows` hold HTML, and the first cell of each is its row's header.

    The roles repeat the meaning of the elements: browsers forget it where CSS displays a row as a card.
    """
    head = "".join(
        f'<th role="columnheader" scope="col"{_css(column.css)}>{escape(column.title)}</th>' for column in columns
    )
    body = "".join(_render_row(columns, cells) for cells in rows)
    return (
        f'<table role="table" aria-label="{escape(label)}" class="{" ".join(filter(None, ("cards", css)))}">'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n<tbody role="rowgroup">{body}</tbody></table>\n'
    )


def _render_row(columns: Sequence[Column], cells: Iterable[str]) -> str:
    first, *others = zip(columns, cells, strict=True)
    parts = [f'<th role="rowheader" scope="row"{_css(first[0].css)}>{first[1]}</th>']
    parts += [
        f'<td role="cell" data-label="{escape(column.title)}"{_css(column.css)}>{cell}</td>' for column, cell in others
    ]
    return f'<tr role="row">{"".join(parts)}</tr>\n'


def _css(classes: str) -> str:
    return f' class="{classes}"' if classes else ""
