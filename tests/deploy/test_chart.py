"""The Helm chart and the plain manifests, as far as that needs no helm; `make deploy-check` renders the chart."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import jsonschema
import pytest
import yaml

from alerting.config import load_rules_config
from deploy.build import (
    MANIFEST_TEMPLATES,
    default_settings,
    find_outdated_manifests,
    placeholder,
    render_chart_files,
    render_rules,
)
from deploy.paths import CHART, MANIFESTS
from exporter import __version__
from exporter.cli import main
from tests.command import run_command, start_exporter
from tests.deploy.manifests import (
    RULES_FOLDER,
    SECRETS_FOLDER,
    VALUE_FILES,
    container,
    only,
    read_groups,
    read_manifests,
    read_rule_files,
    select,
    write_rule_file,
)
from tests.paths import ROOT
from tests.servers import VERSIONS, run_promtool

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
EXPORTER = read_manifests((MANIFESTS / "exporter.yaml").read_text())
MONITORING = read_manifests((MANIFESTS / "servicemonitor.yaml").read_text())
RULES = read_manifests((MANIFESTS / "prometheusrules.yaml").read_text())


def test_generated_files_are_current() -> None:
    """The chart's rules, dashboards and version follow from the repository's, the manifests from the chart."""
    for path, text in render_chart_files():
        assert path.read_text() == text, f"{path}: run make chart"
    assert find_outdated_manifests() == []
    assert {path.name for path in MANIFESTS.glob("*.yaml")} == {
        *MANIFEST_TEMPLATES,
        "prometheusrules.yaml",
        "values.yaml",
    }
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


def test_rules_with_default_settings_are_the_repositorys() -> None:
    """Replacing each placeholder of the chart's rules by its default gives prometheus/rules, byte for byte."""
    config = load_rules_config()
    values = {
        placeholder(alert, setting): value
        for alert, settings in default_settings(config).items()
        for setting, value in settings.items()
    }
    values |= {"<<grafanaUrl>>": config.links.dashboards, "<<runbookUrl>>": config.links.runbooks}
    values['job="<<job>>"'] = config.selectors.exporter
    pattern = re.compile("|".join(map(re.escape, values)))
    rendered = {name: pattern.sub(lambda match: values[match[0]], text) for name, text in render_rules(config)}
    assert rendered == {path.name: path.read_text() for path in RULES_FOLDER.glob("*.yml")}


def test_every_setting_has_a_placeholder() -> None:
    """Each setting that values can override occurs in the rules, so that no value is without effect."""
    text = "".join(text for _, text in render_rules(load_rules_config()))
    for alert, settings in default_settings(load_rules_config()).items():
        for setting in settings:
            assert placeholder(alert, setting) in text


@pytest.mark.parametrize("path", [CHART / "values.yaml", *VALUE_FILES], ids=lambda path: path.name)
def test_values_follow_the_schema(path: Path) -> None:
    """The default values and the examples are valid, and examples set only what the default values have."""
    values = yaml.safe_load(path.read_text())
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(values, SCHEMA)
    assert values.keys() <= yaml.safe_load((CHART / "values.yaml").read_text()).keys()


def test_the_schema_knows_exactly_the_default_values() -> None:
    """Every property of the schema has a default value, except `global`, which Helm itself sets."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert SCHEMA["properties"].keys() - values.keys() == {"global"}
    for name, section in SCHEMA["properties"].items():
        if "properties" in section:
            assert section["properties"].keys() == values[name].keys(), name


@pytest.mark.parametrize(
    "values",
    [
        {"shards": 0},
        {"replicas": 2},
        {"image": {"digest": "latest"}},
        {"existingSecrets": [{"name": "keys"}]},
        {"log": {"level": "trace"}},
        {"extraFlags": ["log.level=debug"]},
        {"web": {"grafanaUrl": "grafana.example.com"}},
        {"retention": {"hours": "93"}},
        {"prometheusRule": {"alerts": {"AICostSpike": {"severity": "page"}}}},
        {"prometheusRule": {"alerts": {"AICostSpike": {"usd": "much"}}}},
        {"prometheusRule": {"alerts": {"AICostSpike": {"for": 5}}}},
    ],
    ids=str,
)
def test_wrong_values_are_rejected(values: dict[str, object]) -> None:
    """Unknown values and values of a wrong form do not pass the schema."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, SCHEMA)


@pytest.mark.parametrize("path", [MANIFESTS / "values.yaml", *VALUE_FILES], ids=lambda path: path.name)
def test_configurations_are_valid(path: Path, tmp_path: Path) -> None:
    """The exporter's configuration in each example is valid, and its keys are files of mounted Secrets."""
    values = yaml.safe_load(path.read_text())
    if "config" not in values:
        assert values["existingConfigMap"]
        return
    config = values["config"]
    for account in (*config.get("accounts", ()), *config.get("ingest", {}).get("sources", ())):
        file = account.get("api_key_file") or account["token_file"]
        assert file.startswith(f"{SECRETS_FOLDER}/")
        assert values["existingSecrets"]
    if files := config.pop("account_files", None):
        assert files == [f"{values['extraVolumeMounts'][0]['mountPath']}/*.yaml"]
        config["accounts"] = [{"name": "acme", "provider": "openai", "api_key_file": "key"}]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    checked = run_command("check", "config", "--syntax-only", str(tmp_path / "config.yaml"))
    assert checked.returncode == 0, checked.stderr


def test_no_value_takes_a_secret() -> None:
    """Keys, passwords and certificates come from existing Secrets: neither the chart nor its values have any."""
    assert not [
        path for path in (CHART / "templates").rglob("*") if path.is_file() and "kind: Secret" in path.read_text()
    ]
    names = set(re.findall(r"^ *(\w+):", (CHART / "values.yaml").read_text(), re.MULTILINE))
    assert {name for name in names if re.search("secret|password|key", name, re.IGNORECASE)} == {
        "imagePullSecrets",
        "existingSecrets",
        "existingSecret",
    }


def test_the_pod_is_restricted() -> None:
    """The pod conforms to Kubernetes' restricted Pod Security Standard, and writes to its volume only."""
    pod = only(EXPORTER, "StatefulSet")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert container(EXPORTER)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = [mount["name"] for mount in container(EXPORTER)["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["data"]
    user = re.findall(r"^USER (\d+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1]
    assert str(pod["securityContext"]["runAsUser"]) == user


def test_the_pod_starts_the_program_with_flags_that_it_knows() -> None:
    """The flags are those of `run`, each given once; the ledger is on the volume, and the port is the Service's."""
    command, *flags = container(EXPORTER)["args"]
    called = main.get_command(click.Context(main), command)
    assert called
    names = [flag.partition("=")[0] for flag in flags]
    assert set(names) <= {option for parameter in called.params for option in parameter.opts}
    assert len(set(names)) == len(names)
    values = dict(flag.split("=") for flag in flags)
    mounts = {mount["name"]: mount["mountPath"] for mount in container(EXPORTER)["volumeMounts"]}
    assert values["--storage.path"] == mounts["data"]
    assert values["--config.file"] == f"{mounts['config']}/config.yaml"
    (port,) = container(EXPORTER)["ports"]
    assert values["--web.listen-address"] == f":{port['containerPort']}"


def test_the_exporter_starts_as_its_pod_does(tmp_path: Path) -> None:
    """With the pod's flags, the ConfigMap and a Secret's entry, the exporter answers the probes."""
    exporter_container = container(EXPORTER)
    for mount in exporter_container["volumeMounts"]:
        (tmp_path / mount["mountPath"].lstrip("/")).mkdir(parents=True)
    config = yaml.safe_load(only(EXPORTER, "ConfigMap")["data"]["config.yaml"])
    for account in config["accounts"]:
        account["base_url"] = "http://127.0.0.1:9/v1"
        account["api_key_file"] = f"{tmp_path}{account['api_key_file']}"
        Path(account["api_key_file"]).touch(mode=0o440)
        Path(account["api_key_file"]).write_text("sk-admin-0123456789abcdef")
    (tmp_path / "etc/ai-spend-exporter/config/config.yaml").write_text(yaml.safe_dump(config))
    command, *flags = (argument.replace("=/", f"={tmp_path}/") for argument in exporter_container["args"])
    assert command == "run"
    with start_exporter(*(flag for flag in flags if "listen-address" not in flag)) as exporter:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert exporter.get(exporter_container[probe]["httpGet"]["path"]).status_code == 200
    assert (tmp_path / "data" / "ledger.db").exists()


def test_the_service_monitor_scrapes_each_pod_once() -> None:
    """Only one of the two Services has the labels that the ServiceMonitor selects, and `job` is that of the rules."""
    monitor = only(MONITORING, "ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    services = [service for service in select(EXPORTER, "Service") if wanted <= service["metadata"]["labels"].items()]
    assert [service["spec"].get("clusterIP") for service in services] == [None]
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in services[0]["spec"]["ports"]}
    job = next(
        relabeling["replacement"] for relabeling in endpoint["relabelings"] if relabeling["targetLabel"] == "job"
    )
    assert f'job="{job}"' == load_rules_config().selectors.exporter


@pytest.mark.parametrize("version", VERSIONS)
def test_the_rules_are_those_of_prometheus(version: str, tmp_path: Path) -> None:
    """The PrometheusRules have the rules of prometheus/rules, without links to a Grafana, and promtool accepts them."""
    expected = read_rule_files()
    for rule in (rule for rules in expected.values() for rule in rules):
        rule.get("annotations", {}).pop("dashboard_url", None)
    groups = read_groups(RULES)
    assert groups == expected
    checked = run_promtool(version, "check", "rules", str(write_rule_file(groups, tmp_path)))
    assert checked.returncode == 0, checked.stderr


def test_objects_select_the_pods() -> None:
    """Services, network policy and disruption budget select by labels that the pods have."""
    pod = only(EXPORTER, "StatefulSet")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [service["spec"]["selector"] for service in select(EXPORTER, "Service")]
    selectors.append(only(EXPORTER, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"])
    selectors.append(only(EXPORTER, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"])
    assert all(selector.items() <= pod for selector in selectors)
    headless = [service for service in select(EXPORTER, "Service") if service["spec"].get("clusterIP") == "None"]
    assert only(EXPORTER, "StatefulSet")["spec"]["serviceName"] == headless[0]["metadata"]["name"]
