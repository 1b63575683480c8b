"""The figures that the fault tests measured, as one table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Result(NamedTuple):
    """A row of the table."""

    group: str
    subject: str
    figures: str


@dataclass
class Results:
    """Collects rows."""

    rows: list[Result] = field(default_factory=list)

    def add(self, group: str, subject: str, figures: str) -> None:
        """Add a row."""
        self.rows.append(Result(group, subject, figures))

    def render(self) -> Iterable[str]:
        """Yield the lines of a table, in the order of groups and subjects."""
        rows = [Result("test", "fault", "result"), *sorted(self.rows)]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        for row in rows:
            yield f"{row.group:<{widths[0]}}  {row.subject:<{widths[1]}}  {row.figures}"
