"""The mixin: rules and dashboards with the user's own settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from alerting.config import CONFIG_FILE
from deploy.paths import DASHBOARDS
from tests.deploy.manifests import RULES_FOLDER, read_groups, read_manifests, read_rule_files, select
from tests.paths import ROOT
from tests.servers import VERSIONS, run_promtool


def run_mixin(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in the repository, as `make mixin` does."""
    command = [sys.executable, "-m", "deploy.mixin", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def write_config(folder: Path) -> Path:
    """Write settings with other addresses, selectors, a severity and a threshold."""
    text = CONFIG_FILE.read_text()
    for old, new in {
        "http://localhost:3000": "https://grafana.example.com",
        "https://github.com/ai-spend-exporter/ai-spend-exporter/blob/main/prometheus": "https://wiki.example.com",
        'exporter: job="ai-spend"': 'exporter: job="costs",namespace="finops"',
        'metrics: ""': 'metrics: namespace="finops"',
        "group_prefix: ai": "group_prefix: finops-ai",
        "    usd: 25 #": "    usd: 99 #",
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    settings = folder / "mixin.yml"
    settings.write_text(text.replace("  AICostSpike:\n    severity: warning", "  AICostSpike:\n    severity: critical"))
    return settings


def test_default_settings_give_the_repositorys_files(tmp_path: Path) -> None:
    """Without --config rules and dashboards are those of the repository; every written file is printed."""
    done = run_mixin(f"--output={tmp_path / 'new' / 'mixin'}")
    assert (done.returncode, done.stderr) == (0, "")
    written = {path: path.read_text() for path in (tmp_path / "new" / "mixin").rglob("*.*")}
    assert sorted(map(str, written)) == sorted(done.stdout.splitlines())
    rules = {path.name: text.partition("\n")[2] for path, text in written.items() if path.suffix == ".yml"}
    assert rules == {path.name: path.read_text().partition("\n")[2] for path in RULES_FOLDER.glob("*.yml")}
    dashboards = {path.name: json.loads(text) for path, text in written.items() if path.suffix == ".json"}
    assert dashboards == {path.name: json.loads(path.read_text()) for path in DASHBOARDS.glob("*.json")}


@pytest.mark.parametrize("version", VERSIONS)
def test_settings_are_applied(version: str, tmp_path: Path) -> None:
    """Addresses, selectors, severities and thresholds are the user's in all files, and promtool accepts them."""
    assert run_mixin(f"--output={tmp_path}", f"--config={write_config(tmp_path)}").returncode == 0
    files = sorted((tmp_path / "rules").glob("*.yml"))
    groups = {group["name"]: group["rules"] for file in files for group in yaml.safe_load(file.read_text())["groups"]}
    assert set(groups) == {f"finops-{name}" for name in read_rule_files()}
    alerts = {rule["alert"]: rule for rules in groups.values() for rule in rules if "alert" in rule}
    assert alerts["AICostSpike"]["labels"] == {"severity": "critical"}
    assert alerts["AIExporterDown"]["expr"].startswith('up{job="costs",namespace="finops"}')
    for rule in alerts.values():
        assert rule["annotations"]["runbook_url"].startswith("https://wiki.example.com/runbooks.md#")
        assert rule["annotations"]["dashboard_url"].startswith("https://grafana.example.com/d/")
    text = "".join(file.read_text() for file in files)
    assert 'or 99 * group by (provider, account) (ai_account_info{namespace="finops"})' in text
    dashboards = "".join(path.read_text() for path in (tmp_path / "dashboards").glob("*.json"))
    assert r"process_resident_memory_bytes{job=\"costs\",namespace=\"finops\"}" in dashboards
    assert "https://wiki.example.com/runbooks.md#" in dashboards
    assert r"job=\"ai-spend\"" not in dashboards
    checked = run_promtool(version, "check", "rules", *map(str, files))
    assert checked.returncode == 0, checked.stderr


def test_objects_for_kubernetes_are_in_the_namespace(tmp_path: Path) -> None:
    """With --namespace there are PrometheusRules with the given labels, and ConfigMaps with the sidecar's label."""
    labels = ("--label=release=kube-prometheus-stack", "--label=team=finops")
    assert run_mixin(f"--output={tmp_path}", "--namespace=monitoring", *labels).returncode == 0
    objects = read_manifests((tmp_path / "kubernetes.yaml").read_text())
    assert {object_["metadata"]["namespace"] for object_ in objects} == {"monitoring"}
    assert read_groups(objects) == read_rule_files()
    for rule in select(objects, "PrometheusRule"):
        assert rule["metadata"]["labels"].items() >= {"release": "kube-prometheus-stack", "team": "finops"}.items()
    dashboards = {
        name: json.loads(text) for map_ in select(objects, "ConfigMap") for name, text in map_["data"].items()
    }
    assert dashboards == {path.name: json.loads(path.read_text()) for path in DASHBOARDS.glob("*.json")}
    assert all(map_["metadata"]["labels"]["grafana_dashboard"] == "1" for map_ in select(objects, "ConfigMap"))


def test_wrong_settings_are_reported(tmp_path: Path) -> None:
    """A mistake in the settings is reported with its line and status 2, and nothing is written."""
    broken = tmp_path / "broken.yml"
    broken.write_text(CONFIG_FILE.read_text().replace("severity: critical", "severity: page", 1))
    done = run_mixin(f"--output={tmp_path / 'mixin'}", f"--config={broken}")
    assert done.returncode == 2
    assert "broken.yml" in done.stderr
    assert "severity" in done.stderr
    assert run_mixin(f"--output={tmp_path / 'mixin'}", "--label=release").returncode == 2
    assert not (tmp_path / "mixin").exists()
