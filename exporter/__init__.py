"""AI spend exporter: what an organisation pays OpenAI, Anthropic and Cursor, as Prometheus metrics."""

__version__ = "0.1.0"
