"""The configuration: accounts, budgets and sources, their keys, and the web configuration."""
