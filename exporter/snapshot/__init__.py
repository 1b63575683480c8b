"""One immutable snapshot per account: the source of metrics, pages, history and the backtest."""
