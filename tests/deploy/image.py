"""Builds an image without a container engine: the instructions of the Dockerfile, run in folders with chroot.

It knows the instructions that the Dockerfile uses, needs root, and takes Debian's base system from debootstrap.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.paths import ROOT

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"


@dataclass
class Stage:
    """A stage: its root folder and what its instructions have set."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    settings: dict[str, str] = field(default_factory=dict)
    """Instruction -> its argument, of USER, VOLUME, EXPOSE, HEALTHCHECK, ENTRYPOINT and CMD."""


def read_instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def build_image(folder: Path) -> Stage:
    """Run the Dockerfile's instructions in folders below `folder`; return the last stage."""
    stages: dict[str, Stage] = {}
    stage = Stage(folder)
    for instruction, argument in read_instructions((ROOT / "Dockerfile").read_text()):
        match instruction:
            case "ARG":
                pass
            case "FROM":
                base, _, name = argument.partition(" AS ")
                stage = stages[name] = Stage(folder / (name or "final"))
                _start_from(base, stage.root)
            case "COPY":
                _copy(stage, argument, stages)
            case "RUN":
                _run(stage, argument)
            case "WORKDIR":
                stage.workdir = argument
                (stage.root / argument.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "ENV":
                stage.environment |= dict(pair.split("=", 1) for pair in shlex.split(argument))
            case _:
                stage.settings[instruction] = argument
    return stage


def _start_from(base: str, root: Path) -> None:
    if base == "scratch":
        root.mkdir()
        return
    assert base == "${DEBIAN}"
    command = ["debootstrap", "--variant=minbase", SUITE, str(root), MIRROR]
    subprocess.run(command, check=True, capture_output=True)
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")


def _copy(stage: Stage, argument: str, stages: dict[str, Stage]) -> None:
    *words, target = argument.split()
    flags = dict(word.removeprefix("--").split("=") for word in words if word.startswith("--"))
    sources = [word for word in words if not word.startswith("--")]
    destination = stage.root / str(Path(stage.workdir) / target).lstrip("/")
    origin = stages[flags["from"]].root if "from" in flags else ROOT
    for source in sources:
        path = origin / source.lstrip("/")
        if path.is_dir():
            destination.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", "--no-target-directory", str(path), str(destination)], check=True)
        else:
            shutil.copy(path, destination)
    if owner := flags.get("chown"):
        subprocess.run(["chown", "-R", owner, str(destination)], check=True)


_RUN = """
mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" &&
exec chroot "$1" /bin/sh -ec 'cd "$1"; eval "$2"' sh "$2" "$3"
"""


def _run(stage: Stage, command: str) -> None:
    """Run a shell command in the stage, with /proc and /dev, and with this machine's proxies and certificates."""
    outside = {name: value for name, value in os.environ.items() if re.search("proxy$", name, re.IGNORECASE)}
    if "PIP_CERT" in os.environ:
        shutil.copy(os.environ["PIP_CERT"], stage.root / "run" / "certificates.crt")
        outside["PIP_CERT"] = "/run/certificates.crt"
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = {"PATH": path, "DEBIAN_FRONTEND": "noninteractive", **outside, **stage.environment}
    arguments = ["unshare", "--mount", "sh", "-c", _RUN, "sh", str(stage.root), stage.workdir, command]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


_CONTAINER = """
root=$1 user=$2; shift 2
mount --bind "$root" "$root" && mount --bind "$DATA" "$root/data" && mount -o remount,bind,ro "$root" &&
mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" &&
exec setpriv --no-new-privs env -i $VARIABLES /usr/sbin/chroot --userspec="$user:$user" "$root" "$@"
"""


def container_command(stage: Stage, data: Path, *arguments: str) -> list[str]:
    """Return a command that runs the image's entry point as its user, with everything but /data read-only.

    `data` becomes /data; it has to belong to the image's user. Without arguments, the image's own are used.
    """
    words = [*json.loads(stage.settings["ENTRYPOINT"]), *(arguments or json.loads(stage.settings["CMD"]))]
    variables = " ".join(f"{name}={value}" for name, value in stage.environment.items())
    environment = ["env", f"DATA={data}", f"VARIABLES={variables}"]
    return [
        *environment,
        "unshare",
        "--mount",
        "sh",
        "-c",
        _CONTAINER,
        "sh",
        str(stage.root),
        stage.settings["USER"],
        *words,
    ]
