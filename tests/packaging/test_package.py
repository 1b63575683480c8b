"""The packages: the wheel, installed into an empty folder, and the Dockerfile, read without building the image."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import httpx
import pytest

from exporter import __version__
from exporter.cli import check_health, main
from exporter.ledger.sqlite_store import SqliteStore
from tests.command import ENVIRONMENT, run_command, start_exporter, start_sandbox, wait_until
from tests.paths import ROOT
from tests.system import make_account

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
NOBODY_UID = 65534
CAP_DAC_READ_SEARCH = 2
"""CAP_DAC_READ_SEARCH's number."""


@pytest.fixture(scope="module", name="dist")
def _build_distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution, and the wheel from it, without a network."""
    return _build(ROOT, tmp_path_factory.mktemp("dist"))


def _build(source: Path, folder: Path, *kinds: str) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(folder), str(source)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _wheel(dist: Path) -> Path:
    (wheel,) = dist.glob("*.whl")
    return wheel


@pytest.fixture(scope="module", name="installed")
def _install_wheel(dist: Path) -> Iterator[Path]:
    """Install the wheel alone into a folder that everyone may read; dependencies come from where the tests run."""
    with tempfile.TemporaryDirectory(prefix="installed-") as folder:
        Path(folder).chmod(0o755)
        command = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--target", folder]
        subprocess.run([sys.executable, "-m", "pip", *command, str(_wheel(dist))], check=True, capture_output=True)
        yield Path(folder)


def _environment(installed: Path) -> dict[str, str]:
    return {**ENVIRONMENT, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}


def _files(folder: Path, *names: str) -> set[str]:
    """Return the files under some of a folder's folders, as paths from there."""
    found = (path for name in names for path in (folder / name).rglob("*"))
    return {str(path.relative_to(folder)) for path in found if path.is_file() and "__pycache__" not in path.parts}


def test_the_wheel_holds_the_code_the_stack_and_the_licence(dist: Path) -> None:
    """Every file of exporter/, prometheus/ as exporter/stack/prometheus, py.typed and LICENSE, and nothing else."""
    with zipfile.ZipFile(_wheel(dist)) as wheel:
        names = set(wheel.namelist())
        info = f"ai_spend_exporter-{__version__}.dist-info"
        assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        metadata = wheel.read(f"{info}/METADATA").decode()
    assert {name for name in names if not name.startswith(info)} == _files(ROOT, "exporter") | {
        f"exporter/stack/{name}" for name in _files(ROOT, "prometheus")
    }
    assert "exporter/py.typed" in names
    assert f"Version: {__version__}\n" in metadata
    required = re.findall("^Requires-Dist: ([A-Za-z0-9-]+)(?!.*; extra)", metadata, re.MULTILINE)
    assert sorted(required) == sorted(_dependencies())
    assert (ROOT / "README.md").read_text() in metadata


def _dependencies() -> list[str]:
    return [re.split("[^A-Za-z0-9-]", requirement)[0] for requirement in PROJECT["dependencies"]]


def test_the_source_distribution_holds_what_its_tests_need(dist: Path) -> None:
    """The source distribution has code, stack, tests, example and lock files."""
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    expected = _files(ROOT, "exporter", "prometheus", "tests") | {"config.example.yaml", "LICENSE", "requirements.lock"}
    assert expected - names == set()


def test_the_installed_program_runs_from_anywhere(installed: Path, tmp_path: Path) -> None:
    """The script and `python -m exporter` work from an unrelated folder, on the installed code alone."""
    environment = _environment(installed)
    script = [str(installed / "bin" / "ai-spend-exporter"), "--version"]
    completed = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert completed.stdout.startswith(f"ai-spend-exporter, version {__version__} ")

    where = [sys.executable, "-c", "import exporter; print(exporter.__file__)"]
    completed = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(completed.stdout).is_relative_to(installed)

    example = str(ROOT / "config.example.yaml")
    checked = run_command("check", "config", "--syntax-only", example, cwd=tmp_path, env=environment)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert run_command("--version", cwd=tmp_path, env=environment).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_installed_demo_finds_its_files(installed: Path, tmp_path: Path) -> None:
    """`demo` runs from the wheel, where the stack's files are part of the package."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "exporter", "demo", f"--web.listen-address={address}"]
    environment = {**_environment(installed), "PATH": "/nonexistent", "TMPDIR": str(tmp_path)}
    output = tmp_path.parent / f"{tmp_path.name}.txt"
    with output.open("w") as stream:
        demo = subprocess.Popen(command, cwd="/", env=environment, stdout=stream, stderr=subprocess.STDOUT)
        try:
            wait_until("the stack's files", lambda: list(tmp_path.glob("*/files/prometheus.yml")))
            wait_until("an answer", lambda: _is_healthy(address))
            demo.send_signal(signal.SIGTERM)
            assert demo.wait(20) == 0, output.read_text()
        finally:
            if demo.poll() is None:
                demo.kill()
            demo.wait()
    assert list(tmp_path.iterdir()) == []


def _is_healthy(address: str) -> bool:
    # The process listens before it serves: until then the request waits.
    return httpx.get(f"http://{address}/-/healthy", timeout=20).status_code == 200


def _nobody_prefix() -> list[str]:
    """Return what makes a command run as a user who owns nothing; nothing where we are no root ourselves.

    He may read everything where that can be given, because the checkout or Python may lie in root's home.
    """
    if os.geteuid() != 0:
        return []
    prefix = ["setpriv", f"--reuid={NOBODY_UID}", f"--regid={NOBODY_UID}", "--clear-groups"]
    status = Path("/proc/self/status").read_text()
    bounding = int(re.findall(r"^CapBnd:\s*(\w+)", status, re.MULTILINE)[0], 16)
    if bounding >> CAP_DAC_READ_SEARCH & 1:
        prefix += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return prefix


def test_the_installed_program_writes_only_the_ledger(installed: Path) -> None:
    """A user without a home runs the exporter in a read-only folder: only --storage.path is written."""
    with tempfile.TemporaryDirectory(prefix="nobody-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        with start_sandbox(folder, make_account("openai", "acme"), make_account("cursor", "crew")) as here:
            for key in folder.glob("*.key"):
                key.chmod(0o644)
            ledger = folder / "ledger"
            ledger.mkdir()
            if os.geteuid() == 0:
                os.chown(ledger, NOBODY_UID, NOBODY_UID)
            folder.chmod(0o555)
            before = _snapshot(folder)
            environment = {"PATH": ENVIRONMENT["PATH"], "PYTHONPATH": str(installed), "TMPDIR": str(folder)}
            with start_exporter(*here.flags, cwd=folder, env=environment, prefix=_nobody_prefix()) as exporter:
                exporter.wait_until_up("acme", "crew")
                assert "AI spend exporter" in exporter.get("/").text
                exporter.send_signal(signal.SIGHUP)
                exporter.wait_for_log("Configuration reloaded")
                assert exporter.stop() == 0
            assert _snapshot(folder) == before
            assert (ledger / "ledger.db").stat().st_uid == (NOBODY_UID if os.geteuid() == 0 else os.geteuid())
            folder.chmod(0o755)
    assert not [path for path in installed.rglob("*") if path.stat().st_uid == NOBODY_UID]


def _snapshot(folder: Path) -> dict[str, int]:
    """Return every file outside the ledger's folder with the time of its last change."""
    found = (path for path in folder.rglob("*") if "ledger" not in path.parts)
    return {str(path): path.stat().st_mtime_ns for path in found}


def test_the_ledger_needs_no_place_for_temporary_files(tmp_path: Path) -> None:
    """SQLite's temporary tables stay in memory: an image that runs with --read-only has no /tmp for them."""
    store = SqliteStore(tmp_path)
    with store._reader() as reader:
        for connection in (store._writer, reader):
            assert connection.execute("PRAGMA temp_store").fetchone() == (2,)
    store.close()


def _stage_instructions(stage: int) -> list[tuple[str, str]]:
    """Return (instruction, rest) of one stage of the Dockerfile, from 0."""
    lines = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    starts = [number for number, (word, _) in enumerate(lines) if word == "FROM"]
    chosen = lines[starts[stage] : (*starts[1:], len(lines))[stage]]
    return [(word, " ".join(rest.split())) for word, rest in chosen]


def test_the_image_is_built_from_files_that_are_there_and_hashes_that_are_checked(tmp_path: Path) -> None:
    """The files that the Dockerfile copies exist, pass .dockerignore and make a wheel; pip checks every hash."""
    sources = [source for word, rest in _stage_instructions(0) if word == "COPY" for source in rest.split()[:-1]]
    passed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources) <= passed
    for name in sources:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    assert _wheel(_build(tmp_path, tmp_path / "dist", "--wheel")).name.startswith("ai_spend_exporter-")

    assert any("--require-hashes" in rest and "-r requirements.lock" in rest for _, rest in _stage_instructions(0))
    _, _, pins = (ROOT / "requirements.lock").read_text().partition("\n")
    locked = re.split(r"\n(?=\S)", pins.strip())
    assert all(re.match(r"[a-z0-9.-]+==", pin) and "--hash=sha256:" in pin for pin in locked)
    assert set(_dependencies()) <= {pin.partition("==")[0] for pin in locked}


def test_the_image_runs_without_root_and_writes_only_its_volume() -> None:
    """The last user is a number and not root, and the only folder that this user owns is the volume."""
    final = _stage_instructions(-1)
    user = [rest for word, rest in final if word == "USER"]
    assert int(user[-1]) > 0
    assert [rest for word, rest in final if word == "VOLUME"] == ["/data"]
    owned = [rest for word, rest in final if word in ("COPY", "ADD") and "--chown" in rest]
    assert owned == [f"--from=build --chown={user[-1]}:{user[-1]} /empty /data"]
    assert not [rest for word, rest in final if word == "RUN"]


def test_the_image_has_no_base_and_every_package_is_pinned() -> None:
    """The last stage starts empty; everything that pip installs has a hash, with what builds the wheel."""
    assert _stage_instructions(-1)[0] == ("FROM", "scratch")
    commands = " && ".join(rest for word, rest in _stage_instructions(0) if word == "RUN").split(" && ")
    for command in (command for command in commands if re.search(r"pip\S* .*(install|wheel) ", command)):
        assert "--require-hashes" in command or "--no-index" in command, command
    (names,) = re.findall(r"kept = /\^\((.*?)\)==/", " ".join(commands))
    locked = set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE))
    assert set(names.split("|")) <= locked


def test_the_image_starts_the_program_with_flags_that_it_knows() -> None:
    """Entry point, flags, port and health check are those of the program."""
    final = dict(_stage_instructions(-1))
    (program,) = _parse_exec_form(final["ENTRYPOINT"])
    assert program in PROJECT["scripts"]
    command, *flags = _parse_exec_form(final["CMD"])
    called = main.get_command(click.Context(main), command)
    assert called
    options = {option.opts[0]: option for option in called.params}
    assert {flag.partition("=")[0] for flag in flags} <= set(options)
    assert "--storage.path=/data" in flags
    port = str(options["--web.listen-address"].default).removeprefix(":")
    assert final["EXPOSE"] == port
    assert final["HEALTHCHECK"].endswith('CMD ["ai-spend-exporter", "check", "health"]')
    assert f"127.0.0.1:{port}" == check_health.ADDRESS


def _parse_exec_form(text: str) -> list[str]:
    return [str(word) for word in json.loads(text)]
