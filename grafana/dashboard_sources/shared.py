"""Label matchers, descriptions and colour thresholds that several dashboards share."""

from __future__ import annotations

from collections.abc import Sequence

from grafana.panels import PanelSpec

DashboardRows = Sequence[tuple[str, Sequence[PanelSpec]]]
"""Rows of a dashboard: (title, panels), top to bottom."""

ACCOUNT_MATCHERS = 'provider=~"$provider",account=~"$account"'
WORKSPACE_MATCHERS = f'{ACCOUNT_MATCHERS},workspace=~"$workspace"'
MODEL_MATCHERS = f'{WORKSPACE_MATCHERS},model=~"$model"'
CACHE_HIT_DESCRIPTION = "The share of input tokens, cache writes included, that was read from a cache."
DAILY_BARS_NOTE = "one bar per UTC day, so the panel's interval must remain 1d and the dashboard's time zone UTC"
BURN_RATE_THRESHOLDS = ((None, "green"), (1.0, "yellow"), (1.5, "orange"), (14.4, "red"))
BUDGET_THRESHOLDS = ((None, "green"), (0.8, "orange"), (1.0, "red"))
DATA_DELAY_THRESHOLDS = ((None, "green"), (10800.0, "orange"), (14400.0, "red"))
