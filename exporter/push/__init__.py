"""Takes what is pushed: JSON -> events -> the ledger. No HTTP, no SQL."""
