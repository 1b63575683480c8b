"""The image, built by the Dockerfile's steps in chroot and run read-only; `make image-check` does it, as root.

It takes about two minutes and downloads Debian's base system and the locked packages.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from exporter import __version__
from tests.command import free_port, wait_until
from tests.deploy.image import Stage, build_image, container_command

MAX_SIZE = 150_000_000
KEY = "sk-admin-0123456789abcdef"


@pytest.fixture(scope="module", name="image")
def _build_image() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="image-") as folder:
        Path(folder).chmod(0o755)
        yield build_image(Path(folder))


@pytest.fixture(name="data")
def _create_data_folder(image: Stage) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="data-") as folder:
        os.chown(folder, int(image.settings["USER"]), int(image.settings["USER"]))
        yield Path(folder)


def run(image: Stage, data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the entry point with arguments to its end."""
    return subprocess.run(container_command(image, data, *arguments), capture_output=True, text=True, check=False)


def _files(image: Stage) -> list[Path]:
    return [path for path in image.root.rglob("*") if not path.is_symlink() and path.is_file()]


def test_the_image_is_small(image: Stage) -> None:
    """All files together have less than 150 MB, with Python's bytecode."""
    size = sum(path.stat().st_size for path in _files(image))
    print(f"image: {size / 1e6:.1f} MB in {len(_files(image))} files")  # noqa: T201 - a measurement
    assert size < MAX_SIZE


def test_the_image_has_no_tools(image: Stage) -> None:
    """There is no shell, package manager, compiler or pip, and no program that runs with another user's rights."""
    programs = {path.name for path in image.root.rglob("*") if path.parent.name in ("bin", "sbin")}
    assert "python3.11" in programs
    assert not programs & {"sh", "dash", "bash", "apt", "apt-get", "dpkg", "gcc", "cc", "ld", "pip", "pip3"}
    assert not [path for path in image.root.rglob("*") if path.name in ("pip", "ensurepip", "setuptools")]
    assert not [path for path in _files(image) if path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)]


def test_only_the_volume_belongs_to_the_user(image: Stage) -> None:
    """Everything belongs to root, and only root may write it, except /data and /tmp."""
    paths = [path for path in image.root.rglob("*") if not path.is_symlink()]
    owned = [path.relative_to(image.root) for path in paths if path.stat().st_uid != 0]
    assert owned == [Path("data")]
    writable = {str(path.relative_to(image.root)) for path in paths if path.stat().st_mode & stat.S_IWOTH}
    assert writable <= {"tmp", "var/tmp"}


def test_scanners_find_debians_packages(image: Stage) -> None:
    """Each package of Debian has its status and its copyright file."""
    folder = image.root / "var" / "lib" / "dpkg" / "status.d"
    packages = {path.name: path.read_text() for path in folder.iterdir()}
    assert {"libc6", "libssl3", "python3.11-minimal"} <= packages.keys()
    for name, status in packages.items():
        assert re.search(r"^Version: \S+", status, re.MULTILINE), name
        # Some packages link to the folder of another one.
        assert (image.root / "usr" / "share" / "doc" / name).exists(), name


def test_every_library_is_there(image: Stage, data: Path) -> None:
    """Each extension module of Python's library and of the dependencies can be loaded."""
    folder = image.root / "opt/exporter/lib/python3.11/site-packages"
    modules = [path.relative_to(folder) for path in folder.rglob("*.so")]
    names = [".".join((*path.parent.parts, path.name.partition(".")[0])) for path in modules]
    names += ["bz2", "ctypes", "decimal", "hashlib", "lzma", "sqlite3", "ssl", "uuid", "zlib", "exporter.app"]
    script = (
        f"import importlib; [importlib.import_module(name) for name in {[name for name in names if '__' not in name]}]"
    )
    command = container_command(image, data)
    start = command.index("ai-spend-exporter")
    done = subprocess.run([*command[:start], "python", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@contextmanager
def _configure(image: Stage, **account: str) -> Iterator[None]:
    """Put a configuration and a key where users mount them."""
    folder = image.root / "etc" / "ai-spend-exporter"
    folder.mkdir()
    (folder / "key").touch(mode=0o400)
    (folder / "key").write_text(KEY)
    os.chown(folder / "key", int(image.settings["USER"]), 0)
    settings = {"name": "acme", "provider": "openai", "api_key_file": "key", **account}
    (folder / "config.yaml").write_text(yaml.safe_dump({"accounts": [settings]}))
    try:
        yield
    finally:
        shutil.rmtree(folder)


def test_the_exporter_runs_read_only_as_its_user(image: Stage, data: Path) -> None:
    """With the image's command it serves metrics, writes to the volume only, and is healthy until it is stopped."""
    port = free_port()
    with _configure(image, base_url="http://127.0.0.1:9/v1"):
        command = container_command(image, data)
        process = subprocess.Popen([*command, f"--web.listen-address=:{port}"], stderr=subprocess.PIPE, text=True)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until("healthy", lambda: run(image, data, "check", "health", f"--url={url}").returncode == 0)
            started = time.perf_counter()
            checked = run(image, data, "check", "health", f"--url={url}", "--ready")
            print(f"check health: {time.perf_counter() - started:.2f} s")  # noqa: T201 - a measurement
            assert checked.returncode == 0, checked.stdout + checked.stderr
            assert f'version="{__version__}"' in httpx.get(f"{url}/metrics").text
            status = Path(f"/proc/{process.pid}/status").read_text()
            user = image.settings["USER"]
            assert re.search(rf"^Uid:\s+{user}\s+{user}\s", status, re.MULTILINE)
            assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        finally:
            process.terminate()
            _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert (data / "ledger.db").stat().st_uid == int(user)
    assert "Read-only file system" not in log
    assert run(image, data, "check", "health", f"--url={url}").returncode == 1


def test_nothing_but_the_volume_can_be_written(image: Stage, data: Path) -> None:
    """Outside /data the file system is read-only."""
    command = container_command(image, data)
    start = command.index("ai-spend-exporter")
    script = "import pathlib, sys; pathlib.Path(sys.argv[1], 'file').touch()"
    for folder, message in {"/tmp": "Read-only file system", "/opt": "Read-only", "/data": ""}.items():  # noqa: S108
        program = [*command[:start], "python", "-c", script, folder]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == (not message)
        assert message in done.stderr


def test_the_demo_and_other_commands_run(image: Stage, data: Path) -> None:
    """Commands that need no configuration work, and name their version."""
    version = run(image, data, "--version")
    assert version.stdout.startswith(f"ai-spend-exporter, version {__version__} (python 3.11."), version.stderr
    assert run(image, data, "run", "--help").returncode == 0
