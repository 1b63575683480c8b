"""Polling providers: schedule, account state and the poller."""
