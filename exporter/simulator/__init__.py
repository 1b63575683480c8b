"""Simulators of the providers' admin APIs on loopback, deterministic by seed; for tests, benchmarks and `demo`."""
