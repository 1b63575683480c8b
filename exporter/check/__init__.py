"""One account tried out before it is relied on: read into a temporary ledger, and summed up to compare."""

from exporter.check.backfill import Backfill, batches
from exporter.check.figures import AccountTotals, DaySummary, compute_account_totals

__all__ = ["AccountTotals", "Backfill", "DaySummary", "batches", "compute_account_totals"]
