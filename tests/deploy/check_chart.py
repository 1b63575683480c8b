"""The Helm chart, rendered with each example of values and validated, by `make deploy-check`, which installs helm."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from alerting.config import load_rules_config
from deploy.build import KUBERNETES_VERSION, MANIFEST_TEMPLATES, default_settings, render_manifest
from deploy.paths import CHART, MANIFESTS
from tests.deploy.manifests import (
    VALUE_FILES,
    Manifest,
    container,
    only,
    read_groups,
    read_manifests,
    read_rule_files,
    select,
    write_crd_schemas,
    write_rule_file,
)
from tests.docs.documents import read_commands
from tests.paths import ROOT
from tests.servers import VERSIONS, run_promtool

TOOLS = ROOT / ".tools"
HELM = TOOLS / "bin" / "helm"
SCHEMAS = TOOLS / "schemas"
KUBERNETES_VERSIONS = (KUBERNETES_VERSION, "1.37.0")
"""The oldest that the chart accepts, and the newest with schemas."""
every_example = pytest.mark.parametrize("values", VALUE_FILES, ids=lambda path: path.stem.removesuffix("-values"))


def run(*command: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run([*map(str, command)], input=text, capture_output=True, text=True, check=False)


def template(*arguments: str | Path, release: str = "ai-spend-exporter") -> str:
    """Return what `helm template` renders; it has to succeed."""
    version = f"--kube-version={KUBERNETES_VERSION}"
    rendered = run(HELM, "template", release, CHART, "--namespace=finops", version, *arguments)
    assert rendered.returncode == 0, rendered.stderr
    return rendered.stdout


def render(*arguments: str | Path, release: str = "ai-spend-exporter") -> list[Manifest]:
    """Return the objects that `helm template` renders."""
    return read_manifests(template(*arguments, release=release))


@every_example
def test_lint(values: Path) -> None:
    """`helm lint --strict` has nothing to warn about."""
    linted = run(HELM, "lint", "--strict", f"--kube-version={KUBERNETES_VERSION}", CHART, f"--values={values}")
    assert linted.returncode == 0, linted.stdout


def test_there_are_six_examples() -> None:
    """Defaults, operator, shards, TLS, cloud and a trial."""
    assert len(VALUE_FILES) == 6


@every_example
@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_objects_follow_their_schemas(values: Path, version: str, tmp_path: Path) -> None:
    """Every object is valid for Kubernetes and prometheus-operator, without unknown or repeated keys."""
    assert {*write_crd_schemas(SCHEMAS, tmp_path)} == {"ServiceMonitor", "PrometheusRule"}
    template_name = "{{.ResourceKind}}{{.KindSuffix}}.json"
    locations = [f"-schema-location={folder}/{template_name}" for folder in (SCHEMAS / version, tmp_path)]
    command = [str(TOOLS / "bin" / "kubeconform"), "-strict", "-summary", "-output=json", *locations]
    rendered = template(f"--values={values}")
    valid = run(*command, text=rendered)
    assert valid.returncode == 0, valid.stdout
    summary = json.loads(valid.stdout)["summary"]
    assert (summary["valid"], summary["skipped"]) == (len(read_manifests(rendered)), 0)
    for broken in (
        rendered.replace("replicas:", "replica:"),
        rendered.replace("containerPort: 10042", "containerPort: x"),
    ):
        assert run(*command, text=broken).returncode == 1


@pytest.mark.parametrize("version", VERSIONS)
@every_example
def test_rules_pass_promtool(values: Path, version: str, tmp_path: Path) -> None:
    """promtool accepts the PrometheusRules of every example that has them."""
    groups = read_groups(render(f"--values={values}"))
    if groups:
        checked = run_promtool(version, "check", "rules", str(write_rule_file(groups, tmp_path)))
        assert checked.returncode == 0, checked.stderr
    assert bool(groups) == ("prometheusRule:" in values.read_text())


def test_values_override_settings_of_alerts() -> None:
    """Severity, hold, thresholds, labels and links follow the values, also in descriptions; other rules stay."""
    groups = read_groups(render(f"--values={CHART / 'ci' / 'operator-values.yaml'}"))
    rules = {rule.get("alert") or rule["record"]: rule for rules in groups.values() for rule in rules}
    originals = {rule.get("alert") or rule["record"]: rule for rules in read_rule_files().values() for rule in rules}
    assert originals.keys() - rules.keys() == {"AINewModel"}
    spike = rules["AICostSpike"]
    assert (spike["for"], spike["labels"]) == ("5m", {"severity": "critical", "team": "finops", "page": "yes"})
    assert "or 50 * group" in rules["account:ai_account_alert_threshold_usd:cost_spike"]["expr"]
    assert spike["annotations"]["dashboard_url"].startswith("https://grafana.example.com/d/ai-spend")
    assert "> 2000000" in rules["AIUnpricedTokens"]["expr"]
    assert "incomplete bills for 3d" in rules["AIBillIncomplete"]["annotations"]["summary"]
    assert rules["AIRunawaySpend"]["expr"] == originals["AIRunawaySpend"]["expr"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("prometheusRule.alerts.AICostSpikes.usd=5", "there is no alert AICostSpikes; known: AIAccountDataLate, "),
        (
            "prometheusRule.alerts.AICostSpike.share=1",
            "AICostSpike: there is no setting share; known: enabled, labels, for",
        ),
        ("shards=0", "minimum: got 0, want 1"),
        ("replicas=2", "additional properties 'replicas' not allowed"),
        ("config.accounts[0].api_key=sk-admin,config.accounts[0].name=acme", "account acme has a key in plain text"),
    ],
)
def test_wrong_values_are_rejected(argument: str, message: str) -> None:
    """An unknown alert, setting or value, and a key in plain text, end the installation with a message."""
    arguments = ["--set=prometheusRule.enabled=true", f"--set={argument}", f"--kube-version={KUBERNETES_VERSION}"]
    rendered = run(HELM, "template", "x", CHART, *arguments)
    assert rendered.returncode == 1
    assert message in rendered.stderr


def test_every_alert_can_be_switched_off() -> None:
    """`enabled: false` removes an alert and leaves recording rules."""
    alerts = default_settings(load_rules_config())
    switches = [f"--set=prometheusRule.alerts.{alert}.enabled=false" for alert in alerts]
    groups = read_groups(render("--set=prometheusRule.enabled=true", *switches))
    assert {key for rules in groups.values() for rule in rules for key in rule.keys() & {"alert", "record"}} == {
        "record"
    }


def test_dashboards_are_those_of_the_repository() -> None:
    """Each dashboard is a ConfigMap with the sidecar's label; a Kubernetes object has at most one mebibyte."""
    maps = select(render("--set=dashboards.enabled=true", "--set=existingConfigMap=x"), "ConfigMap")
    files = {name: json.loads(text) for map_ in maps for name, text in map_["data"].items()}
    assert files == {
        path.name: json.loads(path.read_text()) for path in (ROOT / "grafana" / "dashboards").glob("*.json")
    }
    assert all(map_["metadata"]["labels"]["grafana_dashboard"] == "1" for map_ in maps)
    renamed = template("--set=dashboards.enabled=true", "--set=serviceMonitor.job=spend")
    assert 'job=\\"spend\\"' in renamed
    assert 'job=\\"ai-spend\\"' not in renamed


def test_shards_take_their_number_from_the_pods_name() -> None:
    """With several shards every pod has --shard=auto/N and a volume; a single pod has no such flag."""
    sharded = render(f"--values={CHART / 'ci' / 'sharded-values.yaml'}")
    assert only(sharded, "StatefulSet")["spec"]["replicas"] == 3
    assert "--shard=auto/3" in container(sharded)["args"]
    assert only(sharded, "StatefulSet")["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"] == "fast"
    assert not [argument for argument in container(render())["args"] if argument.startswith("--shard")]


def test_probes_work_with_tls() -> None:
    """With a web configuration the probes run `check health` with it, and otherwise are plain requests."""
    secured = container(render(f"--values={CHART / 'ci' / 'secured-values.yaml'}"))
    web = "--web.config.file=/etc/ai-spend-exporter/web/web.yml"
    assert web in secured["args"]
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        command = secured[name]["exec"]["command"]
        assert command[:4] == ["ai-spend-exporter", "check", "health", web]
        assert [word.partition("=")[0] for word in command[4:]] == ["--cert-file", "--key-file"]
    assert container(render())["readinessProbe"]["httpGet"] == {"path": "/-/ready", "port": "http"}


def test_documented_installation_renders(tmp_path: Path) -> None:
    """The values file and the flags of the documented installation and upgrade render the objects."""
    commands = [command.text for command in read_commands(ROOT / "docs" / "kubernetes.md")]
    (heredoc,) = (text for text in commands if text.startswith("cat > values.yaml"))
    subprocess.run(["sh", "-c", heredoc], cwd=tmp_path, check=True)
    installs = [text.split()[2:] for text in commands if text.startswith(("helm install", "helm upgrade"))]
    assert len(installs) == 2
    for release, chart, *flags in installs:
        assert ROOT / chart == CHART
        rendered = subprocess.run(
            [HELM, "template", release, CHART, f"--kube-version={KUBERNETES_VERSION}", *flags],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        secrets = only(read_manifests(rendered.stdout), "StatefulSet")["spec"]["template"]["spec"]["volumes"][1]
        assert secrets["projected"]["sources"] == [{"secret": {"name": "ai-spend-keys"}}]


def test_names_fit() -> None:
    """Names of objects stay short enough for the labels that Kubernetes derives from them."""
    for release in ("a", "a" * 53):
        for manifest in render("--set=dashboards.enabled=true,prometheusRule.enabled=true", release=release):
            assert len(manifest["metadata"]["name"]) <= 63
        stateful_set = only(render(release=release), "StatefulSet")
        assert len(stateful_set["metadata"]["name"]) <= 52


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_plain_manifests_follow_their_schemas(version: str, tmp_path: Path) -> None:
    """Every object in deploy/kubernetes is valid."""
    assert list(write_crd_schemas(SCHEMAS, tmp_path))
    template_name = "{{.ResourceKind}}{{.KindSuffix}}.json"
    locations = [f"-schema-location={folder}/{template_name}" for folder in (SCHEMAS / version, tmp_path)]
    manifests = [path for path in MANIFESTS.glob("*.yaml") if path.name != "values.yaml"]
    valid = run(TOOLS / "bin" / "kubeconform", "-strict", *locations, *manifests)
    assert valid.returncode == 0, valid.stdout


def test_the_charts_rules_are_those_of_the_plain_manifests() -> None:
    """helm renders the PrometheusRules that are written without it, except for labels."""
    rendered = select(render("--set=prometheusRule.enabled=true"), "PrometheusRule")
    plain = read_manifests((MANIFESTS / "prometheusrules.yaml").read_text())
    assert read_groups(rendered) == read_groups(plain)
    assert {rule["metadata"]["name"] for rule in rendered} == {rule["metadata"]["name"] for rule in plain}


@pytest.mark.parametrize("name", MANIFEST_TEMPLATES)
def test_plain_manifests_are_rendered_from_the_chart(name: str) -> None:
    """deploy/kubernetes has what helm renders with its values file."""
    assert (MANIFESTS / name).read_text() == render_manifest(str(HELM), MANIFEST_TEMPLATES[name])


def test_the_package_is_small(tmp_path: Path) -> None:
    """The packed chart has no examples and fits into the Secret of a release, with the manifests it renders."""
    packed = run(HELM, "package", CHART, f"--destination={tmp_path}")
    assert packed.returncode == 0, packed.stderr
    (package,) = tmp_path.glob("*.tgz")
    assert package.stat().st_size < 200_000
    with tarfile.open(package) as archive:
        names = archive.getnames()
    assert "ai-spend-exporter/values.schema.json" in names
    assert not [name for name in names if "/ci/" in name]


def test_workflows_are_valid() -> None:
    """actionlint finds nothing in the workflows of GitHub."""
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert workflows
    linted = run(TOOLS / "bin" / "actionlint", "-shellcheck=", "-pyflakes=", *workflows)
    assert linted.returncode == 0, linted.stdout
    assert all(yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"} for path in workflows)
