"""One account tried out before it is relied on: read into a ledger that nobody keeps, and summed up to compare."""

from exporter.check.backfill import Backfill, batches
from exporter.check.figures import AccountTotals, DaySummary, Total, compute_account_totals

__all__ = ["AccountTotals", "Backfill", "DaySummary", "Total", "batches", "compute_account_totals"]
