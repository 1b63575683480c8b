"""Baselines, budgets and forecasts: pure functions over hourly values."""
