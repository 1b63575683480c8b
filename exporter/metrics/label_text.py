"""Label sets as text, formatted once per snapshot."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from exporter.metrics.exposition import format_labels
from exporter.metrics.families import ACCOUNT_LABELS, API_KEY_LABEL, SPEND_LABELS, Family
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.labels import SpendLabels

Samples = Iterable[tuple[str, str]]
"""Labels and value of each sample, both as text."""


class LabelText:
    """Formats the labels of one account's series."""

    def __init__(self, snapshot: AccountSnapshot) -> None:
        self._mapper = snapshot.label_mapper
        self._series: dict[SpendLabels, str] = {}
        self.memo: dict[Hashable, Any] = {}
        """For sample functions that share a part of their work while a snapshot is rendered."""
        self.account = format_labels(ACCOUNT_LABELS, (snapshot.account.provider, snapshot.account.name))
        """provider and account."""

    def with_account(self, family: Family, *values: str) -> str:
        """Format a family's labels: provider and account, which are formatted once, then `values`."""
        own = format_labels(family.labels[len(ACCOUNT_LABELS) :], values)
        return f"{self.account},{own}" if own else self.account

    def series(self, labels: SpendLabels) -> str:
        """Format the labels of a spend series."""
        text = self._series.get(labels)
        if text is None:
            names = (*SPEND_LABELS[len(ACCOUNT_LABELS) :], API_KEY_LABEL)
            own = format_labels(names, self._mapper.label_values(labels))
            text = self._series[labels] = f"{self.account},{own}" if own else self.account
        return text


SampleFunction = Callable[[AccountSnapshot, LabelText], Samples]
"""Yields the samples of one metric family from a snapshot."""

SampleFunctions = Mapping[Family, SampleFunction]
