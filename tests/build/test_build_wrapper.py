"""What hatchw says where it cannot run; that it can run, every other test shows."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from workspace import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the wrapper and what it reads."""
    folder = tmp_path / "a checkout"
    for path in ("hatch.toml", "hatchw", *(str(file.relative_to(ROOT)) for file in ROOT.glob("locks/*"))):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    for member in ("libs/x", "protos", "services/x"):
        (folder / member).mkdir(parents=True)
        (folder / member / "pyproject.toml").touch()
    return folder


def _interpreter(folder: Path, script: str) -> Path:
    """Write a stand-in for an interpreter that this machine need not have."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def _run(checkout: Path, python: Path | str, cwd: Path, verb: str = "--version") -> tuple[int, list[str]]:
    environ = {**os.environ, "RSKETCH_PYTHON": str(python)}  # noqa: TID251 - for a child process
    ran = subprocess.run([checkout / "hatchw", verb], cwd=cwd, env=environ, capture_output=True, text=True)
    return ran.returncode, ran.stderr.splitlines()


def test_a_missing_interpreter_is_one_line(checkout: Path, tmp_path: Path) -> None:
    """Without the interpreter it says what to install and how to name another one."""
    status, lines = _run(checkout, "python-of-nobody", tmp_path)
    assert (status, len(lines)) == (2, 1)
    assert "python-of-nobody" in lines[0]
    assert "RSKETCH_PYTHON" in lines[0]


@pytest.mark.parametrize("version", ["2.7.18", "3.9.2", "3.10.14"])
def test_an_old_interpreter_is_one_line(checkout: Path, tmp_path: Path, version: str) -> None:
    """An interpreter before 3.11 is named, with its version."""
    status, lines = _run(checkout, _interpreter(tmp_path, f"echo {version} /nowhere/python"), tmp_path)
    assert (status, len(lines)) == (2, 1)
    assert f"is Python {version}, 3.11 or later is needed" in lines[0]


def test_a_missing_venv_names_the_debian_package(checkout: Path, tmp_path: Path) -> None:
    """Debian ships Python without ensurepip; the package that has it is named."""
    python = tmp_path / "python"
    _interpreter(tmp_path, f'case "$*" in *ensurepip*) exit 1;; esac; echo 3.11.2 {python}')
    status, lines = _run(checkout, python, tmp_path)
    assert status == 2
    assert lines[-1].endswith("apt-get install python3-venv")


def test_a_checkout_called_after_an_environment_is_refused(checkout: Path, tmp_path: Path) -> None:
    """In a folder called `http` hatch would put two environments into one place."""
    status, lines = _run(checkout.rename(tmp_path / "http"), "python3", tmp_path)
    assert (status, len(lines)) == (2, 1)
    assert lines[0].endswith("an environment is called http too")


@pytest.mark.parametrize("verb", ["build", "check", "fmt", "lock", "test"])
def test_a_verb_that_goes_round_the_locks_is_refused(checkout: Path, tmp_path: Path, verb: str) -> None:
    """Hatch's own environments are not locked; the script of the same name is pointed at."""
    status, lines = _run(checkout, "python3", tmp_path, verb)
    assert (status, len(lines)) == (2, 1)
    assert lines[0].endswith(f"./hatchw run {verb}")
    assert verb in tomllib.loads((checkout / "hatch.toml").read_text())["envs"]["default"]["scripts"]
