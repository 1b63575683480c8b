"""Writes rules and dashboards with the user's settings: `python -m deploy.mixin --output DIR`, or `make mixin`.

`--config` is a copy of alerting/config.yml: addresses, selectors, severities and thresholds. DIR gets rules/*.yml for
`rule_files` of Prometheus, and dashboards/*.json. With `--namespace`, also kubernetes.yaml: a PrometheusRule for each
file of rules, and a ConfigMap for each dashboard.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from alerting.build import render_files
from alerting.config import CONFIG_FILE, RulesConfig, load_rules_config
from deploy.paths import DASHBOARDS
from exporter.errors import ConfigError

LABELS = {"app.kubernetes.io/name": "ai-spend-exporter"}
DASHBOARD_LABEL = "grafana_dashboard=1"
"""Which the sidecar of Grafana's chart selects by default."""


def render_rule_files(config: RulesConfig) -> Iterator[tuple[str, str]]:
    """Yield the name and the content of each rule file."""
    for name, text in render_files(config):
        _, _, rest = text.partition("\n")
        yield name, f"# Written by `make mixin` of ai-spend-exporter.\n{rest}"


def render_dashboards(config: RulesConfig) -> Iterator[tuple[str, str]]:
    """Yield the name and the content of each dashboard, with the settings' runbooks and scrape job.

    Matchers of metrics are not added: served history, which dashboards read too, has no target labels.
    """
    default = load_rules_config()
    for path in sorted(DASHBOARDS.glob("*.json")):
        dashboard = _replace(json.loads(path.read_text()), default.links.runbooks, config.links.runbooks)
        dashboard = _replace(dashboard, f"{{{default.selectors.exporter}}}", f"{{{config.selectors.exporter}}}")
        dashboard = _replace(dashboard, f"{{{default.selectors.exporter},", f"{{{config.selectors.exporter},")
        yield path.name, json.dumps(dashboard, indent=1, sort_keys=True) + "\n"


def _replace(value: Any, old: str, new: str) -> Any:
    """Return a JSON value with a text replaced in all its strings."""
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, list):
        return [_replace(item, old, new) for item in value]
    if isinstance(value, dict):
        return {key: _replace(item, old, new) for key, item in value.items()}
    return value


def render_objects(config: RulesConfig, namespace: str, labels: dict[str, str], dashboard_label: str) -> str:
    """Return PrometheusRules, which have the labels too, and ConfigMaps, as YAML documents."""
    label, _, value = dashboard_label.partition("=")
    objects: list[dict[str, Any]] = []
    for name, text in render_rule_files(config):
        rule_metadata = metadata(f"ai-spend-{Path(name).stem}", namespace, labels)
        objects.append(prometheus_rule(rule_metadata, yaml.safe_load(text)))
    for name, text in render_dashboards(config):
        map_metadata = metadata(f"{Path(name).stem}-dashboard", namespace, {label: value})
        compact = json.dumps(json.loads(text), separators=(",", ":"), sort_keys=True)
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": map_metadata, "data": {name: compact}})
    return yaml.safe_dump_all(objects, sort_keys=False, allow_unicode=True, width=sys.maxsize)


def metadata(name: str, namespace: str, labels: dict[str, str]) -> dict[str, Any]:
    """Return the metadata of an object, with the product's label."""
    return {"name": name, "namespace": namespace, "labels": {**LABELS, **labels}}


def prometheus_rule(metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """Return a rule file's content as an object of prometheus-operator."""
    kind = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule"}
    return {**kind, "metadata": metadata, "spec": spec}


def _parse_label(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"([A-Za-z0-9./_-]+)=([A-Za-z0-9._-]*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a label such as release=kube-prometheus-stack")
    return match[1], match[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files; return the exit status: 2 where the settings have an error."""
    parser = argparse.ArgumentParser(prog="python -m deploy.mixin", description="Write rules and dashboards.")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the files")
    parser.add_argument(
        "--config", type=Path, default=CONFIG_FILE, metavar="FILE", help="a copy of alerting/config.yml"
    )
    parser.add_argument("--namespace", help="of the objects in kubernetes.yaml; not written without it")
    parser.add_argument(
        "--label", type=_parse_label, action="append", default=[], help="of PrometheusRules; repeatable"
    )
    flags = parser.parse_args(arguments)
    try:
        config = load_rules_config(flags.config)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command's message
        return 2
    files = {f"rules/{name}": text for name, text in render_rule_files(config)}
    files |= {f"dashboards/{name}": text for name, text in render_dashboards(config)}
    if flags.namespace:
        files["kubernetes.yaml"] = render_objects(config, flags.namespace, dict(flags.label), DASHBOARD_LABEL)
    for name, text in files.items():
        path = flags.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path)  # noqa: T201 - a command's result
    return 0


if __name__ == "__main__":
    sys.exit(main())
