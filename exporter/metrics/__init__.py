"""Shows what the ledger knows: /metrics and the landing page."""
