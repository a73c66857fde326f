"""What the repository consists of, read from hatch.toml and the members' pyproject.toml; shared by tools and tests."""

import os
import shutil
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["LOCKS", "ROOT", "Environment", "Member", "environments", "members", "uv", "without_constraints"]

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "locks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """
    One package of the workspace.

    Attributes:
        folder: Its folder relative to the root, such as `services/http`.
        project: The `[project]` table of its pyproject.toml.
        build_requires: What its build system requires.
        inputs: What its releases are made of, relative to the folder.
    """

    folder: Path
    project: Mapping[str, Any]
    build_requires: tuple[str, ...]
    inputs: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its distribution, such as `rsketch-http`."""
        return str(self.project["name"])

    @property
    def package(self) -> str:
        """The name it is imported by, such as `rsketch_http`."""
        return self.name.replace("-", "_")

    @property
    def version(self) -> str:
        """Its version."""
        return str(self.project["version"])

    @property
    def tag(self) -> str:
        """The git tag of this version, such as `http-v0.1.0`."""
        return f"{self.folder.name}-v{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """
    One environment of hatch.toml that installs members.

    Attributes:
        name: Its name.
        members: Its members as editable requirements, such as `./libs/telemetry[grpc]`.
        dependencies: What it installs beside them.
        lock: The stem of the file in `locks/` that it keeps to.
    """

    name: str
    members: tuple[str, ...]
    dependencies: tuple[str, ...]
    lock: str


@cache
def members() -> tuple[Member, ...]:
    """Return the workspace's members by folder."""
    default = _hatch()["default"]["workspace"]["members"]
    return tuple(_member(folder) for folder in sorted(folder for pattern in default for folder in _folders(pattern)))


def _member(folder: Path) -> Member:
    config = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())
    return Member(
        folder=folder,
        project=config["project"],
        build_requires=tuple(config["build-system"]["requires"]),
        inputs=("pyproject.toml", *config["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]),
    )


@cache
def environments() -> Mapping[str, Environment]:
    """Return the environments that install members, by name."""
    return {name: _environment(name, table) for name, table in _hatch().items() if "workspace" in table}


def _environment(name: str, table: Mapping[str, Any]) -> Environment:
    return Environment(
        name=name,
        members=tuple(line for member in table["workspace"]["members"] for line in _editable(member)),
        dependencies=tuple(table["dependencies"]),
        lock=Path(table["env-vars"]["UV_CONSTRAINT"]).stem,
    )


def _editable(member: str | Mapping[str, Any]) -> Iterable[str]:
    pattern, features = (member, []) if isinstance(member, str) else (member["path"], member["features"])
    extras = f"[{','.join(features)}]" if features else ""
    return [f"./{folder}{extras}" for folder in _folders(pattern)]


def _folders(pattern: str) -> list[Path]:
    return sorted(path.parent.relative_to(ROOT) for path in ROOT.glob(f"{pattern}/pyproject.toml"))


@cache
def _hatch() -> Mapping[str, Any]:
    table: Mapping[str, Any] = tomllib.loads((ROOT / "hatch.toml").read_text())["envs"]
    return table


def uv() -> str:
    """Return the path of the pinned uv, which hatch hands on, or of the one on the path."""
    found = os.environ.get("HATCH_UV") or shutil.which("uv")
    return found or sys.exit("no uv: run this through ./hatchw run")


def without_constraints() -> dict[str, str]:
    """Return the process environment without the lock of the hatch environment that this runs in."""
    mine = {"UV_BUILD_CONSTRAINT", "UV_CONSTRAINT", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in mine}
