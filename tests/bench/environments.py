"""Environments that others are measured in: made of pinned files, and gone with the measurement."""

import subprocess
import sys
from pathlib import Path

__all__ = ["install", "pinned"]

_SECONDS = 600.0


def install(pins: Path, environment: Path) -> None:
    """
    Make an environment of exactly the files that are pinned.

    Raises:
        RuntimeError: That is not possible, for the reason in the message.
    """
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    command = [*pip, "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(pins)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if ran.returncode:
        raise RuntimeError((ran.stderr or ran.stdout).strip().splitlines()[-1])


def pinned(pins: Path, name: str) -> str:
    """Return the version of a distribution among the pinned files."""
    lines = (line for line in pins.read_text().splitlines() if line.startswith(f"{name}=="))
    return next(lines).partition("==")[2].split()[0]
