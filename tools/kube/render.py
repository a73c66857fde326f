"""
Render the manifests: kustomize for what has a kustomization, plain YAML for the rest, and which there are.

A component alone is no deployment: what is checked are its examples, `components/examples/<name>/…`, kustomizations
that put it on an overlay. They are not in the component's folder: kustomize refuses what refers to a folder above it.
"""

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from workspace import ROOT

from kube.lint.documents import Loader
from kube.lint.unit import Unit
from kube.objects import Object, dig
from kube.toolchain import tool

__all__ = ["INFRA", "Deployment", "Object", "RenderError", "deployments", "environment", "load", "render"]

INFRA = ROOT / "infra"
_SECONDS = 60.0
_PRODUCTION = "prod"


class RenderError(Exception):
    """A folder does not render; the message names it and gives the reason in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """
    Something that one command applies.

    Attributes:
        name: Its folder relative to `infra/`.
        folder: Its folder.
        beside: The folders of what is in the cluster besides.
        house: Whether the customs of this repository bind it.
        production: Whether it must outlive the loss of a node.
    """

    name: str
    folder: Path
    beside: tuple[Path, ...] = ()
    house: bool = True
    production: bool = False

    def unit(self) -> Unit:
        """Return what the lint judges."""
        beside = [thing for folder in self.beside for thing in load(folder)]
        return Unit.of(self.name, load(self.folder), beside, house=self.house, production=self.production)


def render(directory: Path) -> list[Object]:
    """
    Return the objects that `kustomize build` makes of a directory.

    Raises:
        RenderError: It makes none; the message gives its reason.
    """
    command = [str(tool("kustomize")), "build", str(directory)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise RenderError(f"{_shown(directory)}: kustomize took longer than {_SECONDS:g} s") from error
    if done.returncode != 0:
        raise RenderError(f"{_shown(directory)}: {_reason(done)}")
    return _objects(done.stdout, directory)


def load(path: Path) -> list[Object]:
    """
    Return the objects of a kustomization, of a folder of plain YAML or of one file.

    Raises:
        RenderError: It cannot be read.
    """
    if (path / "kustomization.yaml").is_file():
        return [*_rendered(path)]
    files = (
        [path] if path.is_file() else sorted(each for each in path.rglob("*.y*ml") if each.suffix in (".yaml", ".yml"))
    )
    if not files:
        raise RenderError(f"{_shown(path)}: found no YAML, expected a kustomization, a file or a folder of manifests")
    return [thing for file in files for thing in _objects(_text(file), file)]


@lru_cache(maxsize=128)
def _rendered(directory: Path) -> Sequence[Object]:
    return render(directory)


def deployments(infra: Path = INFRA) -> list[Deployment]:
    """Return everything that has to be checked: namespaces, overlays, examples of components, plain examples."""
    namespaces = infra / "namespaces"
    found = [Deployment(name="namespaces", folder=namespaces)] if namespaces.is_dir() else []
    found += [_overlay(infra, path.parent) for path in sorted(infra.glob("overlays/**/kustomization.yaml"))]
    found += [
        _component(infra, path.parent) for path in sorted(infra.glob("components/examples/**/kustomization.yaml"))
    ]
    plain = sorted(infra.glob("examples/*"))
    return found + [Deployment(name=str(each.relative_to(infra)), folder=each, house=False) for each in plain]


def environment(name: str, infra: Path = INFRA) -> list[Deployment]:
    """Return the units of an overlay such as `local`, and the namespaces."""
    mine = (f"overlays/{name}/", "namespaces")
    return [each for each in deployments(infra) if each.name.startswith(mine)]


def _overlay(infra: Path, folder: Path) -> Deployment:
    """Return `overlays/<name>`, or `overlays/<name>/<unit>` beside the other units."""
    name = folder.relative_to(infra)
    beside = _units(infra, name.parts[1], {folder.name}) if len(name.parts) > 2 else ()
    return _house(infra, folder, name.parts[1], beside)


def _component(infra: Path, folder: Path) -> Deployment:
    """Return the example of a component, beside the units of the overlay that it does not build on."""
    text = (folder / "kustomization.yaml").read_text()
    on = re.findall(r"^ *- .*\boverlays/([a-z]+)(?:/([a-z]+))?\s*$", text, re.MULTILINE)
    if not on:
        raise RenderError(
            f"{_shown(folder)}: found no overlay in resources, expected one, such as overlays/prod/platform"
        )
    overlay, units = on[0][0], {unit for _, unit in on}
    return _house(infra, folder, overlay, _units(infra, overlay, units) if all(units) else ())


def _units(infra: Path, overlay: str, without: set[str]) -> tuple[Path, ...]:
    folders = (path.parent for path in sorted(infra.glob(f"overlays/{overlay}/*/kustomization.yaml")))
    return tuple(folder for folder in folders if folder.name not in without)


def _house(infra: Path, folder: Path, overlay: str, beside: tuple[Path, ...]) -> Deployment:
    return Deployment(
        name=str(folder.relative_to(infra)),
        folder=folder,
        beside=(infra / "namespaces", *beside),
        production=overlay == _PRODUCTION,
    )


def _objects(text: str, path: Path) -> list[Object]:
    try:
        read = list(yaml.load_all(text, Loader))
    except yaml.YAMLError as error:
        raise RenderError(f"{_shown(path)}: {' '.join(str(error).split())}") from error
    found = list(_flat(read))
    for thing in found:
        if not (isinstance(dig(thing, "kind"), str) and thing.get("apiVersion") and dig(thing, "metadata", "name")):
            expected = "an object with apiVersion, kind and metadata.name"
            raise RenderError(f"{_shown(path)}: found {str(thing)[:60]!r}, expected {expected}")
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except UnicodeDecodeError as error:
        raise RenderError(f"{_shown(file)}: found a byte that is no UTF-8 at {error.start}, expected text") from error


def _flat(documents: Sequence[Any]) -> Iterator[Any]:
    for each in documents:
        if isinstance(each, dict) and isinstance(each.get("items"), list) and each.get("kind") == "List":
            yield from _flat(each["items"])
        elif each is not None:
            yield each


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return what kustomize says from its error on, in one line; warnings come before."""
    reason = done.stderr.partition("Error:")[2] or done.stderr or f"{done.args[0]} ended with {done.returncode}"
    return " ".join(reason.replace(f"{ROOT}/", "").split())


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
