"""Folders of the repository that the generators read and write."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "ai-spend-exporter"
MANIFESTS = ROOT / "deploy" / "kubernetes"
DASHBOARDS = ROOT / "grafana" / "dashboards"
