"""One immutable snapshot per account: what metrics, pages, history and the backtest render from."""
