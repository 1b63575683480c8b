"""One account tried out before it is relied on: read into a ledger that nobody keeps, and summed up to compare."""

from exporter.trial.figures import Day, Figures, Total, figures
from exporter.trial.pull import Pull, strides

__all__ = ["Day", "Figures", "Pull", "Total", "figures", "strides"]
