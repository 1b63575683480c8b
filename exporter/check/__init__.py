"""One account read into a temporary ledger and summed up, to compare with the provider's own pages."""

from exporter.check.backfill import Backfill, PolledHistory, history_days, replay_days
from exporter.check.figures import AccountTotals, DaySummary, compute_account_totals

__all__ = [
    "AccountTotals",
    "Backfill",
    "DaySummary",
    "PolledHistory",
    "compute_account_totals",
    "history_days",
    "replay_days",
]
