"""The demo: simulated providers, this exporter, Prometheus and Alertmanager on one machine."""
