"""Pushed usage and change events: JSON -> events -> the ledger. No HTTP, no SQL."""
