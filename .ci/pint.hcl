# Settings of pint, the linter for rules. Offline: the tests have no Prometheus with the exporter's metrics.
parser {
  schema = "prometheus"
}
