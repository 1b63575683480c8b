"""Addresses that the landing page links to: this exporter's own paths, Grafana's dashboards, documents and runbooks."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from urllib.parse import urlencode

METRICS_PATH = "metrics"
SUMMARY_PATH = "api/v1/ai/usage/summary?days=30"
"""Both relative, so that they are valid behind a reverse proxy that serves the exporter under a prefix."""

SPEND_DASHBOARD = "ai-spend"
BUDGETS_DASHBOARD = "ai-spend-budgets"
SIGNALS_DASHBOARD = "ai-spend-signals"
ACCOUNT_DASHBOARD = "ai-spend-account"
TELEMETRY_DASHBOARD = "ai-spend-telemetry"
"""Uids of grafana/dashboards; the alert rules' dashboard_url has the same."""


@dataclass(frozen=True, slots=True)
class PageLinks:
    """The configured addresses, without a slash at the end. Without an address there are no such links."""

    grafana_url: str = ""
    """Of a Grafana that has the dashboards of this repository."""
    docs_url: str = ""
    """Of a copy of this repository's files: `prometheus/runbooks.md` and `docs/` are found below it."""

    def dashboard(self, uid: str, **variables: str) -> str:
        """Return the address of a dashboard with its template variables set; empty without a Grafana."""
        if not self.grafana_url:
            return ""
        query = urlencode({f"var-{name}": value for name, value in variables.items()})
        return f"{self.grafana_url}/d/{uid}" + (f"?{query}" if query else "")

    def runbook(self, rule: str) -> str:
        """Return the address of an alert rule's runbook, or of all of them; empty without documents."""
        if not self.docs_url:
            return ""
        return f"{self.docs_url}/prometheus/runbooks.md" + (f"#{rule.lower()}" if rule else "")

    def document(self, name: str) -> str:
        """Return the address of a file in docs/; empty without documents."""
        return f"{self.docs_url}/docs/{name}" if self.docs_url else ""


def render_link(address: str, html: str) -> str:
    """Return a link, or only its content where there is no address; the content is HTML."""
    if not address:
        return html
    # Another server need not learn the address of this page.
    rel = ' rel="noreferrer"' if "://" in address else ""
    return f'<a{rel} href="{escape(address)}">{html}</a>'
