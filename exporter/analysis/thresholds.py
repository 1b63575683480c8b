"""Thresholds that both the landing page and the alert rules use; a test keeps alerting/config.yml equal."""

from __future__ import annotations

from datetime import timedelta

BUDGET_NEARLY_SPENT_RATIO = 0.8
MAX_HOURLY_DELAY = timedelta(hours=4)
"""Hourly usage that is complete only up to a longer time ago is late: the slowest provider is two hours behind."""
MAX_DAILY_DELAY = timedelta(hours=40)
"""The same of reports by the day: bills, and usage that is only known per day."""
