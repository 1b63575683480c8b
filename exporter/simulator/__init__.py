"""The providers' admin APIs on loopback, seeded and faithful; used by tests, benchmarks and `demo`."""
