"""Past hours from the ledger: remote read and OpenMetrics files."""
