"""Read `infra/versions.toml`: which image each component is, and what it was tried with."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from workspace import ROOT

__all__ = ["FILE", "Component", "VersionsError", "images", "kubernetes", "read", "versions"]

FILE = ROOT / "infra" / "versions.toml"
FIELDS = ("image", "proof", "tool", "reason")


class VersionsError(ValueError):
    """The file is malformed; the message names the table, what was found and what is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """
    One program of the platform, or one of ours.

    Attributes:
        name: The name of its table, such as `collector`.
        image: The image that the manifests name, such as `prom/prometheus:v3.13.5`; None where there is none.
        proof: What the checks run in its place: `<Go module>@<version>`, or a folder of this repository; None where
            they run nothing.
        tool: The folder below `infra/tools` that builds a proof in Go.
        reason: Why image and proof differ, or why one is missing.
    """

    name: str
    image: str | None = None
    proof: str | None = None
    tool: str | None = None
    reason: str | None = None


def versions() -> Mapping[str, Component]:
    """Return the components by name."""
    return read(FILE)[0]


def kubernetes() -> tuple[str, str]:
    """Return the oldest and the newest Kubernetes that the manifests are for, such as `1.32`."""
    return read(FILE)[1]


def images() -> tuple[str, ...]:
    """Return every component's image, such as `grafana/loki:3.7.8`."""
    return tuple(component.image for component in versions().values() if component.image)


@cache
def read(file: Path) -> tuple[Mapping[str, Component], tuple[str, str]]:
    """
    Return the components by name, and the oldest and the newest Kubernetes.

    Raises:
        VersionsError: The file cannot be read or says something else.
    """
    try:
        tables: Mapping[str, Any] = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise VersionsError(f"{file}: {error}") from error
    components = {name: _component(file, name, table) for name, table in tables.items() if name != "kubernetes"}
    return components, _range(file, tables.get("kubernetes"))


def _component(file: Path, name: str, table: object) -> Component:
    where = f"{file}: {name}"
    if not isinstance(table, dict):
        raise VersionsError(f"{where}: found {table!r}, expected a table with {', '.join(FIELDS)}")
    for field, value in table.items():
        if field not in FIELDS or not isinstance(value, str) or not value:
            raise VersionsError(f"{where}: found {field} = {value!r}, expected text for one of {', '.join(FIELDS)}")
    component = Component(name=name, **table)
    if component.image and not component.image.rpartition(":")[0]:
        raise VersionsError(f"{where}: found image = {component.image!r}, expected <name>:<tag>")
    if not (component.image and component.proof) and not component.reason:
        raise VersionsError(f"{where}: found no {'proof' if component.image else 'image'}, expected a reason for that")
    return component


def _range(file: Path, table: object) -> tuple[str, str]:
    match table:
        case {"oldest": str(oldest), "newest": str(newest), **others} if not others:
            return oldest, newest
    raise VersionsError(f'{file}: kubernetes: found {table!r}, expected oldest and newest, such as "1.32"')
