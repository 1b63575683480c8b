"""Thresholds that both the landing page and the alert rules use; a test keeps alerting/config.yml equal."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

BUDGET_NEARLY_SPENT_RATIO = Decimal("0.8")
BUDGET_FORECAST_RATIO = Decimal("1.05")
BUDGET_FAST_BURN_RATE = 14.4
BUDGET_FAST_SIX_HOURS_BURN_RATE = 7.2
"""The burn rate of six hours that a week's or month's budget needs too: a short burst is no reason to wake anybody."""
BUDGET_SLOW_BURN_RATE = 1.5
MIN_SPIKE_USD = 5
"""A complete hour that is above its upper bound is a spike only if it costs this much more than expected."""
MIN_RUNAWAY_USD = 25
"""The same of the running hour: its whole cost."""
RUNAWAY_TIMES = 1.5
"""The running hour is a runaway only if it costs more than so many times the upper bound of the whole hour."""
MIN_EXCESS_USD = 20
"""The same of 24 hours: the sum of what each hour costs more than its upper bound."""
MIN_BALANCE_LEFT = timedelta(days=3)
"""A balance is low if it will be exhausted earlier at the present pace: enough time for a transfer of money."""
MAX_HOURLY_DELAY = timedelta(hours=4)
"""Hourly usage that is complete only up to a longer time ago is late: the slowest provider is two hours behind."""
MAX_DAILY_DELAY = timedelta(hours=40)
"""The same of reports by the day: bills, and usage that is only known per day."""
