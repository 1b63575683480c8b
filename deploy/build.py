"""Generates the files of the Helm chart: `python -m deploy.build` writes them, `--check` reports outdated files.

The chart contains the alert rules and the dashboards of this repository. In its rules each setting that
`prometheusRule.alerts` can override is a placeholder such as `<<AICostSpike.usd>>`; files/alerts.yaml has the default
of each, from alerting/config.yml. With `--manifests` the plain manifests are rendered with helm too, and `--check`
compares the digest of the chart in their first lines, which needs no helm.

Status 1: a file is outdated; 2: the settings of the rules have an error.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from alerting.build import render_files
from alerting.config import Alerts, AlertSettings, RulesConfig, load_rules_config
from deploy.mixin import metadata, prometheus_rule
from deploy.paths import CHART, DASHBOARDS, MANIFESTS, ROOT
from exporter import __version__
from exporter.errors import ConfigError

NAMESPACE = "ai-spend"
"""Of the plain manifests."""
KUBERNETES_VERSION = "1.29.0"
"""Of the plain manifests: the oldest version that Chart.yaml accepts."""

MANIFEST_TEMPLATES: Mapping[str, Sequence[str]] = {
    "exporter.yaml": (
        "serviceaccount",
        "configmap",
        "service",
        "statefulset",
        "poddisruptionbudget",
        "networkpolicy",
    ),
    "servicemonitor.yaml": ("servicemonitor",),
}
"""Manifest -> the templates that it is rendered from. Dashboards are created from grafana/dashboards with kubectl."""
PROMETHEUS_RULES = MANIFESTS / "prometheusrules.yaml"
"""Written without helm, so that a change of a rule needs none."""

COMPUTED_SETTINGS = {("AIHighCostModel", "share_before")}
"""Settings from which a text is computed: no placeholder can stand for them, nor for delays, which are numbers."""


def placeholder(alert: str, setting: str) -> str:
    """Return the text that stands for a setting of an alert in the chart's rules."""
    return f"<<{alert}.{setting}>>"


def default_settings(config: RulesConfig) -> dict[str, dict[str, str]]:
    """Return alert -> setting -> its text in the rules, of the settings that the chart's values can override."""
    return {
        str(field.alias): {
            setting: text
            for setting, text in getattr(config.alerts, name).model_dump(by_alias=True).items()
            if _is_overridable(str(field.alias), setting, text)
        }
        for name, field in Alerts.model_fields.items()
    }


def _is_overridable(alert: str, setting: str, text: object) -> bool:
    return isinstance(text, str) and text != "" and (alert, setting) not in COMPUTED_SETTINGS


def render_rules(config: RulesConfig) -> Iterator[tuple[str, str]]:
    """Yield the name and the content of each rule file, with placeholders in place of settings."""
    alerts = {name: _with_placeholders(str(field.alias), config) for name, field in Alerts.model_fields.items()}
    templated = config.model_copy(
        update={
            "alerts": config.alerts.model_copy(update=alerts),
            "links": config.links.model_copy(update={"dashboards": "<<grafanaUrl>>", "runbooks": "<<runbookUrl>>"}),
            "selectors": config.selectors.model_copy(update={"exporter": 'job="<<job>>"'}),
        }
    )
    yield from render_files(templated)


def _with_placeholders(alert: str, config: RulesConfig) -> AlertSettings:
    settings = config.alerts.settings_of(alert)
    placeholders = {}
    for attribute, field in type(settings).model_fields.items():
        setting = field.alias or attribute
        if _is_overridable(alert, setting, getattr(settings, attribute)):
            placeholders[attribute] = placeholder(alert, setting)
    return settings.model_copy(update=placeholders)


def render_chart_files() -> Iterator[tuple[Path, str]]:
    """Yield the path and the content of each generated file of the chart. Raises ConfigError."""
    config = load_rules_config()
    for name, text in render_rules(config):
        yield CHART / "files" / "rules" / name, text.replace("`make rules`", "`make chart`")
    head = "# Generated from alerting/config.yml by `make chart`; do not edit. Override with prometheusRule.alerts.\n"
    yield CHART / "files" / "alerts.yaml", head + yaml.safe_dump(default_settings(config), sort_keys=False)
    for path in sorted(DASHBOARDS.glob("*.json")):
        # Without indentation: a release of Helm, chart included, has to fit into a Secret.
        compact = json.dumps(json.loads(path.read_text()), separators=(",", ":"), sort_keys=True)
        yield CHART / "files" / "dashboards" / path.name, compact + "\n"
    yield PROMETHEUS_RULES, render_prometheus_rules(config)
    chart = CHART / "Chart.yaml"
    versioned = re.sub(r"^version: .*$", f"version: {__version__}", chart.read_text(), flags=re.MULTILINE)
    yield chart, re.sub(r"^appVersion: .*$", f'appVersion: "{__version__}"', versioned, flags=re.MULTILINE)


def render_prometheus_rules(config: RulesConfig) -> str:
    """Return the rules as PrometheusRules, without links: the address of the user's Grafana is not known."""
    documents = []
    for name, text in render_files(config):
        spec = yaml.safe_load(text)
        for rule in (rule for group in spec["groups"] for rule in group["rules"]):
            rule.get("annotations", {}).pop("dashboard_url", None)
        documents.append(prometheus_rule(metadata(f"ai-spend-exporter-{Path(name).stem}", NAMESPACE, {}), spec))
    head = "# Generated from alerting/ by `make chart`; do not edit.\n"
    return head + yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=sys.maxsize)


def chart_digest(templates: Sequence[str]) -> str:
    """Return a digest of everything that a plain manifest is rendered from."""
    digest = hashlib.sha256()
    files = [CHART / "Chart.yaml", CHART / "values.yaml", MANIFESTS / "values.yaml"]
    files += [CHART / "templates" / name for name in ("_helpers.tpl", *(f"{name}.yaml" for name in templates))]
    for path in files:
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def manifest_header(templates: Sequence[str]) -> str:
    """Return the first line of a plain manifest."""
    return (
        f"# Rendered by `make manifests` from deploy/helm/ai-spend-exporter, {chart_digest(templates)}; do not edit.\n"
    )


def render_manifest(helm: str, templates: Sequence[str]) -> str:
    """Return a plain manifest. Raises CalledProcessError."""
    command = [helm, "template", "ai-spend-exporter", str(CHART), f"--namespace={NAMESPACE}"]
    command += [f"--kube-version={KUBERNETES_VERSION}", "--no-hooks", f"--values={MANIFESTS / 'values.yaml'}"]
    command += [f"--show-only=templates/{name}.yaml" for name in templates]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    documents = [document for document in rendered.split("---\n") if document.strip()]
    lines = [line for line in "---\n".join(documents).splitlines() if not _is_helms(line)]
    return manifest_header(templates) + "\n".join(lines) + "\n"


def _is_helms(line: str) -> bool:
    """Return whether a line says which release of Helm the object belongs to, or which template it is from."""
    return bool(re.match(r"# Source: |\s*(helm\.sh/chart|app\.kubernetes\.io/managed-by): ", line))


def find_outdated_manifests() -> list[Path]:
    """Return the plain manifests that were rendered from another version of the chart."""
    manifests = ((MANIFESTS / name, manifest_header(templates)) for name, templates in MANIFEST_TEMPLATES.items())
    return [path for path, header in manifests if not path.exists() or not path.read_text().startswith(header)]


def main(arguments: Sequence[str] = ()) -> int:
    """Write the files, or with --check only compare them; return the exit status."""
    try:
        files = list(render_chart_files())
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command's message
        return 2
    folders = [CHART / "files" / "rules", CHART / "files" / "dashboards"]
    surplus = {path for folder in folders for path in folder.glob("*")} - {path for path, _ in files}
    if "--check" in arguments:
        outdated = [path for path, text in files if not path.exists() or path.read_text() != text]
        outdated_manifests = find_outdated_manifests()
        for path in (*outdated, *sorted(surplus)):
            print(f"{path} is not current: run make chart and commit it.", file=sys.stderr)  # noqa: T201
        for path in outdated_manifests:
            print(f"{path} is not current: run make manifests and commit it.", file=sys.stderr)  # noqa: T201
        return int(bool(outdated or surplus or outdated_manifests))
    for path in surplus:
        path.unlink()
    for path, text in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if "--manifests" in arguments:
        for name, templates in MANIFEST_TEMPLATES.items():
            (MANIFESTS / name).write_text(render_manifest(str(ROOT / ".tools" / "bin" / "helm"), templates))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
