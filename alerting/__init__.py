"""Generates the alert rules in prometheus/rules from config.yml."""
