"""Selections, texts and steps of colour that several dashboards share."""

from __future__ import annotations

from collections.abc import Sequence

from grafana.panels import Spec

Rows = Sequence[tuple[str, Sequence[Spec]]]
"""Title of a row -> its panels."""

A = 'provider=~"$provider",account=~"$account"'
W = f'{A},workspace=~"$workspace"'
M = f'{W},model=~"$model"'
HIT = "The part of all input tokens, cache writes included, that was read from a cache."
DAY = "one bar per UTC day; the panel's interval has to stay 1d, and the dashboard's time zone UTC"
BURN = ((None, "green"), (1.0, "yellow"), (1.5, "orange"), (14.4, "red"))
SPENT = ((None, "green"), (0.8, "orange"), (1.0, "red"))
LATE = ((None, "green"), (10800.0, "orange"), (14400.0, "red"))
