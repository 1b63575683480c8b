"""Manifests as tests see them: objects by kind and name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from deploy.paths import CHART
from tests.paths import ROOT

Manifest = dict[str, Any]
VALUE_FILES = sorted((CHART / "ci").glob("*-values.yaml"))
RULES_FOLDER = ROOT / "prometheus" / "rules"
SECRETS_FOLDER = "/etc/ai-spend-exporter/secrets"


def read_manifests(text: str) -> list[Manifest]:
    """Return the objects of a file with several documents."""
    return [document for document in yaml.safe_load_all(text) if document]


def select(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Return the objects of a kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def only(manifests: list[Manifest], kind: str) -> Manifest:
    """Return the object of a kind of which there is exactly one."""
    (manifest,) = select(manifests, kind)
    return manifest


def container(manifests: list[Manifest]) -> Manifest:
    """Return the exporter's container."""
    found: Manifest
    (found,) = only(manifests, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    return found


def read_groups(manifests: list[Manifest]) -> dict[str, list[Manifest]]:
    """Return the rules of all PrometheusRules by group."""
    rules = (rule for rule in select(manifests, "PrometheusRule"))
    return {group["name"]: group["rules"] for rule in rules for group in rule["spec"]["groups"]}


def read_rule_files() -> dict[str, list[Manifest]]:
    """Return the rules of prometheus/rules by group."""
    files = (yaml.safe_load(path.read_text()) for path in RULES_FOLDER.glob("*.yml"))
    return {group["name"]: group["rules"] for file in files for group in file["groups"]}


def write_rule_file(groups: dict[str, list[Manifest]], folder: Path) -> Path:
    """Write rules in Prometheus's own format; return the file."""
    path = folder / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": name, "rules": rules} for name, rules in groups.items()]}))
    return path


def write_crd_schemas(source: Path, folder: Path) -> Iterator[str]:
    """Write the schemas of CustomResourceDefinitions as kubeconform reads them; yield the name of each kind.

    Unknown keys are allowed by a CustomResourceDefinition, which the API server drops; here they are errors.
    """
    for path in source.glob("monitoring.coreos.com_*.yaml"):
        definition = yaml.safe_load(path.read_text())
        kind = definition["spec"]["names"]["kind"]
        (version,) = definition["spec"]["versions"]
        schema = version["schema"]["openAPIV3Schema"]
        # The object's own apiVersion, kind and metadata are described by the schema without any detail.
        _forbid_unknown_keys(schema)
        schema["properties"]["metadata"].pop("additionalProperties", None)
        file = folder / f"{kind.lower()}-monitoring-{version['name']}.json"
        file.write_text(json.dumps(schema))
        yield kind


def _forbid_unknown_keys(schema: Manifest) -> None:
    if schema.get("type") == "object" and "properties" in schema:
        schema.setdefault("additionalProperties", False)
    for inner in schema.get("properties", {}).values():
        _forbid_unknown_keys(inner)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            _forbid_unknown_keys(schema[key])
