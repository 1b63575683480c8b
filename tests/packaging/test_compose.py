"""docker-compose.yml is valid and published on loopback only, and real servers start with its commands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from tests.command import COMMAND, ENVIRONMENT, free_port, wait_until
from tests.paths import ROOT
from tests.servers import BIN_DIRS, VERSIONS

FILE = ROOT / "docker-compose.yml"
COMPOSE: Mapping[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: Mapping[str, Mapping[str, Any]] = COMPOSE["services"]
OWN_SERVICES = ("ai-spend-exporter", "demo", "notices")
"""Services that run the image built from this repository."""
USER_FILES = ("config.yaml", "secrets/")
"""Mounted paths that the user creates."""
NOT_SECRET = {"GF_SECURITY_ADMIN_PASSWORD__FILE": "/run/secrets/grafana"}
"""Settings named like a secret whose value is only a path."""
every_service = pytest.mark.parametrize("name", SERVICES)


def volumes(name: str) -> Iterator[tuple[str, str, bool]]:
    """Yield (source, target, read-only) of each volume; sources in the repository start with a dot."""
    for volume in SERVICES[name].get("volumes", []):
        if isinstance(volume, str):
            source, target, *mode = volume.split(":")
            yield source, target, mode == ["ro"]
        else:
            yield volume["source"], volume["target"], volume.get("read_only", False)


def dockerfile_value(instruction: str) -> Any:
    """Return the argument of the last such instruction in the Dockerfile."""
    found = re.findall(rf"^{instruction} (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1]
    return json.loads(found) if found.startswith("[") else found


def health_url(name: str) -> str:
    """Return the URL that the service's health check requests."""
    command = " ".join(SERVICES[name]["healthcheck"]["test"])
    found = re.search(r"http://[^\s']+", command)
    assert found is not None
    return f"{found[0]}/-/healthy" if "check health" in command else found[0]


def lay_out_container(name: str, folder: Path) -> Path:
    """Copy the service's mounts to a folder that serves as the container's root; return it."""
    root = folder / "root"
    for source, target, _ in volumes(name):
        path = root / target.lstrip("/")
        if source.removeprefix("./").startswith(USER_FILES):
            continue
        if not source.startswith("."):
            path.mkdir(parents=True)
        elif (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / source, path)
    return root


def localize(arguments: list[str], root: Path, port: int) -> list[str]:
    """Move absolute paths in arguments under the root, and listening addresses to a port on loopback."""
    listening = [re.sub(r"=:\d+$", f"=127.0.0.1:{port}", argument) for argument in arguments]
    return [re.sub(r"=/", f"={root}/", argument) for argument in listening]


@contextmanager
def run_server(command: list[str], url: str, log: Path, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a command; enter the block when the URL answers 200, and stop the command when the block ends."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=env)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return client.get(url).status_code == 200
        except httpx.TransportError:
            return False

    try:
        with httpx.Client() as client:
            wait_until(f"200 at {url}", ready)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_follows_the_compose_specification() -> None:
    """The file is valid by the Compose specification's schema, which check-jsonschema includes."""
    path = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(path.read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(COMPOSE)
    broken = {**COMPOSE, "services": {"app": {"image": "x", "restarts": "always"}}}
    with pytest.raises(jsonschema.ValidationError, match="restarts"):
        jsonschema.validate(broken, schema)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "program"), [("prometheus", "prometheus"), ("alertmanager", "prometheus-alertmanager")]
)
def test_servers_start_with_these_commands(name: str, program: str, version: str, tmp_path: Path) -> None:
    """Prometheus and Alertmanager become ready with the service's command and mounted files."""
    port = free_port()
    url = health_url(name)
    assert url.endswith(":9090/-/ready" if name == "prometheus" else ":9093/-/ready")
    arguments = localize(SERVICES[name]["command"], lay_out_container(name, tmp_path), port)
    assert f"--web.listen-address=127.0.0.1:{port}" in arguments
    command = [str(BIN_DIRS[version] / program), *arguments]
    with run_server(command, re.sub(r":\d+/", f":{port}/", url), tmp_path / "log"):
        if name == "prometheus":
            groups = httpx.get(f"http://127.0.0.1:{port}/api/v1/rules").json()["data"]["groups"]
            files = {Path(group["file"]).name for group in groups}
            assert files == {path.name for path in (ROOT / "prometheus" / "rules").glob("*.yml")}


def test_the_exporter_starts_as_its_image_does(tmp_path: Path) -> None:
    """The image's command with an address more becomes healthy, with the mounted configuration and a secret."""
    port = free_port()
    command = SERVICES["ai-spend-exporter"]["command"]
    grafana = SERVICES["grafana"]["ports"][0].removeprefix("127.0.0.1:").partition(":")[0]
    assert command == [*dockerfile_value("CMD"), f"--web.grafana-url=http://localhost:{grafana}"]
    assert dockerfile_value("ENTRYPOINT") == ["ai-spend-exporter"]
    root = lay_out_container("ai-spend-exporter", tmp_path)
    key = root / "run" / "secrets" / "openai"
    key.parent.mkdir(parents=True)
    key.write_text("sk-admin-demo-compose-0000")
    key.chmod(0o600)
    account = {"name": "acme", "provider": "openai", "api_key_file": str(key), "base_url": "http://[::1]:9/v1"}
    config = root / "etc" / "ai-spend-exporter" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(yaml.safe_dump({"accounts": [account]}))
    arguments = [*localize(command, root, port), f"--web.listen-address=127.0.0.1:{port}"]
    url = health_url("ai-spend-exporter").replace(":10042/", f":{port}/")
    with run_server([*COMMAND, *arguments], url, tmp_path / "log", ENVIRONMENT):
        assert list((root / "data").iterdir())


def test_the_demo_starts_without_any_key(tmp_path: Path) -> None:
    """The demo's command becomes healthy without mounts and without other servers installed."""
    port = free_port()
    assert not SERVICES["demo"].get("volumes")
    assert not SERVICES["demo"].get("secrets")
    command = [*COMMAND, *localize(SERVICES["demo"]["command"], tmp_path, port)]
    nothing_installed = {**ENVIRONMENT, "PATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    with run_server(command, health_url("demo").replace(":10042/", f":{port}/"), tmp_path / "log", nothing_installed):
        assert "ai_account_info" in httpx.get(f"http://127.0.0.1:{port}/metrics").text


def test_the_demo_replaces_the_real_exporter() -> None:
    """Only the demo is in a profile, it has the exporter's network alias, and no service starts the real exporter."""
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["demo"]
    assert SERVICES["demo"]["networks"]["default"]["aliases"] == ["ai-spend-exporter"]
    assert not [name for name, service in SERVICES.items() if "depends_on" in service]


def test_configurations_use_the_addresses_of_services() -> None:
    """Hosts and ports in prometheus.yml, alertmanager.yml and Grafana's data sources are services and their ports."""
    texts = [(ROOT / "prometheus" / "prometheus.yml").read_text()]
    texts.append((ROOT / "prometheus" / "alertmanager.yml").read_text())
    texts += [path.read_text() for path in (ROOT / "grafana" / "provisioning" / "datasources").iterdir()]
    lines = [line for text in texts for line in text.splitlines() if not line.lstrip().startswith("#")]
    found = set(re.findall(r"\b([a-z-]+):(\d{4,5})\b", "\n".join(lines)))
    found = {address for address in found if address[0] in SERVICES}
    assert found == {
        ("ai-spend-exporter", "10042"),
        ("prometheus", "9090"),
        ("alertmanager", "9093"),
        ("notices", "10043"),
    }
    for host, port in found:
        assert _port(host) == port


def _port(name: str) -> str:
    """Return the port of a service: the published port, or the one in its command."""
    addresses = SERVICES[name].get("ports") or SERVICES[name]["command"]
    return str(addresses[-1]).rpartition(":")[2]


@every_service
def test_ports_are_open_on_loopback_only(name: str) -> None:
    """Every published port is bound to 127.0.0.1, and no service shares the network of the host."""
    assert all(str(port).startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))
    assert "ports" in SERVICES[name] or name == "notices"  # only Alertmanager connects to it
    assert "network_mode" not in SERVICES[name]


@every_service
def test_images_are_pinned_or_built_here(name: str) -> None:
    """Every image is built from this repository or pinned to a complete version."""
    if name in OWN_SERVICES:
        assert SERVICES[name]["build"] == "."
        assert SERVICES[name]["image"] == "ai-spend-exporter"
    else:
        assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


@every_service
def test_services_run_hardened(name: str) -> None:
    """Every service runs without root, capabilities, new privileges or a writable root file system."""
    service = SERVICES[name]
    assert int(service["user"]) > 0
    assert name not in OWN_SERVICES or service["user"] == dockerfile_value("USER")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert not {"privileged", "cap_add", "pid", "devices"} & service.keys()
    assert service["restart"] == "unless-stopped"


@every_service
def test_services_have_health_checks(name: str) -> None:
    """Every health check requests the service's own port with a program that its image contains."""
    kind, program, *_ = SERVICES[name]["healthcheck"]["test"]
    # The images of Prometheus and Alertmanager are built on busybox, Grafana's on Alpine; ours has no other program.
    expected = "python" if name == "notices" else "ai-spend-exporter" if name in OWN_SERVICES else "wget"
    assert (kind, program) == ("CMD", expected)
    assert health_url(name).startswith(f"http://127.0.0.1:{_port(name)}/")


def test_secrets_are_files() -> None:
    """Every secret comes from a file, and no environment variable contains a secret."""
    for secret in COMPOSE["secrets"].values():
        assert secret.keys() == {"file"}
        assert secret["file"].startswith("./secrets/")
    for service in SERVICES.values():
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
        for setting, value in service.get("environment", {}).items():
            named = re.search(r"pass|secret|token|key", setting, re.IGNORECASE)
            assert not named or NOT_SECRET.get(setting) == value, setting
            assert not re.search(r"sk-|crsr_|xox|[0-9a-f]{20}", value), setting


def test_the_exporters_health_check_is_that_of_its_image() -> None:
    """Services of the exporter run the image's health check, with the address."""
    image = dockerfile_value("HEALTHCHECK .*CMD")
    for name in ("ai-spend-exporter", "demo"):
        assert SERVICES[name]["healthcheck"]["test"] == ["CMD", *image, "--url=http://127.0.0.1:10042"]


def test_the_example_configuration_uses_mounted_secrets() -> None:
    """Every key file in config.example.yaml is a secret of the exporter's service."""
    named = re.findall(r"/run/secrets/(\w+)", (ROOT / "config.example.yaml").read_text())
    assert named
    assert set(named) <= set(SERVICES["ai-spend-exporter"]["secrets"])


@every_service
def test_mounted_files_are_in_the_repository(name: str) -> None:
    """Every mounted path is read-only, and in git or listed in the file's first comment as created by the user."""
    head = FILE.read_text().partition("\n\nx-")[0]
    mounted = [(source, read_only) for source, _, read_only in volumes(name) if source.startswith(".")]
    mounted += [(COMPOSE["secrets"][secret]["file"], True) for secret in SERVICES[name].get("secrets", [])]
    for source, read_only in mounted:
        path = source.removeprefix("./")
        assert read_only, source
        if path.startswith(USER_FILES):
            assert path in head
        else:
            assert is_in_git(path), source


@every_service
def test_named_volumes_are_declared(name: str) -> None:
    """Every named volume is declared, so that its data outlives the container."""
    named = [source for source, _, _ in volumes(name) if not source.startswith(".")]
    assert set(named) <= COMPOSE["volumes"].keys()


def is_in_git(path: str) -> bool:
    """Return whether a path is tracked or could be added; without git, whether it exists."""
    if not (ROOT / ".git").exists():
        return (ROOT / path).exists()
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", path]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return bool(listed.stdout)
