"""The systemd unit, checked by systemd itself; run by `make deploy-check` on a machine that has systemd-analyze."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.deploy.test_systemd import UNIT

MAX_EXPOSURE = 1.5
"""Of systemd's scale from 0 to 10; without any setting a service has 9.6."""


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """systemd-analyze finds no mistake in the unit, with a program that exists."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/ai-spend-exporter/bin/ai-spend-exporter", sys.executable))
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_service_is_confined() -> None:
    """systemd rates the exposure of the service as low."""
    command = ["systemd-analyze", "security", "--offline=true", str(UNIT)]
    rated = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", rated)
    assert float(exposure) <= MAX_EXPOSURE
