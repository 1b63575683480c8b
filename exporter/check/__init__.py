"""One account tried out before it is relied on: read into a ledger that nobody keeps, and summed up to compare."""

from exporter.check.backfill import Pull, strides
from exporter.check.figures import Day, Figures, Total, figures

__all__ = ["Day", "Figures", "Pull", "Total", "figures", "strides"]
