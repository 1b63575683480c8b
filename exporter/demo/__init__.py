"""The demo: simulated providers, the exporter, Prometheus and Alertmanager on one machine."""
