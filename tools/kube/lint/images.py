"""Images: which release, and how they are started."""

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache

from workspace import ROOT

from kube.lint.finding import Fault
from kube.lint.registry import rule
from kube.lint.unit import Unit
from kube.objects import Container, Pod
from kube.versions import images as pinned_images

__all__ = ["go_program", "service_of"]

# Programs in Go, whose collector of garbage must know the limit of the container.
_GO = ("otel/", "jaegertracing/", "prom/", "grafana/", "open-telemetry/")


@rule("image-tag")
def image_tag(unit: Unit) -> Iterator[Fault]:
    """An image names its release: a tag other than latest, or a digest."""
    for pod, container in _containers(unit):
        tag = _tag(container)
        if "@" not in container.image and tag in ("", "latest"):
            yield Fault(pod.owner, f"{container.path}.image", container.image or "none", "a tag other than latest")


@rule("image-version", house=True)
def image_version(unit: Unit) -> Iterator[Fault]:
    """An image is the one that was proven: infra/versions.toml for others', the package's version for ours."""
    for pod, container in _containers(unit):
        path = f"{container.path}.image"
        pinned = {**_pinned(), **_services()}
        name = next((each for each in pinned if _same(container.repository, each)), None)
        if name is None:
            yield Fault(pod.owner, path, container.image, f"an image of infra/versions.toml: {', '.join(_pinned())}")
        elif _tag(container) not in ("", "latest", pinned[name]):
            source = "the package's version" if name in _services() else "infra/versions.toml"
            yield Fault(pod.owner, path, container.image, f"{name}:{pinned[name]} ({source})")


@rule("command-is-argument")
def command_is_argument(unit: Unit) -> Iterator[Fault]:
    """A command names a program: what begins with a dash is an argument, and would replace the image's program."""
    for pod, container in _containers(unit):
        words = container.spec.get("command") or []
        if words and str(words[0]).startswith("-"):
            yield Fault(pod.owner, f"{container.path}.command", f"{words[0]} as the program to run", "args")


@rule("command-replaced")
def command_replaced(unit: Unit) -> Iterator[Fault]:
    """An image that brings its program is given arguments, no command."""
    for pod, container in _containers(unit):
        words = container.spec.get("command") or []
        known = go_program(container) or service_of(container)
        if known and words and not str(words[0]).startswith("-"):
            yield Fault(pod.owner, f"{container.path}.command", str(words[0]), "args, as the image brings its program")


def go_program(container: Container) -> bool:
    """Tell whether an image is known to hold a program in Go."""
    return any(part in container.repository for part in _GO)


def service_of(container: Container) -> str | None:
    """Return the name of the service of ours that an image holds, None if it holds another program."""
    return next((name for name in _services() if _same(container.repository, name)), None)


def _same(repository: str, name: str) -> bool:
    return repository == name or repository.endswith(f"/{name}")


def _tag(container: Container) -> str:
    return container.image.partition("@")[0].removeprefix(container.repository).removeprefix(":")


def _containers(unit: Unit) -> Iterator[tuple[Pod, Container]]:
    return ((pod, container) for pod in unit.pods for container in pod.every_container)


@cache
def _pinned() -> Mapping[str, str]:
    return {name: tag for name, _, tag in (image.rpartition(":") for image in pinned_images())}


@cache
def _services() -> Mapping[str, str]:
    tables = [tomllib.loads(path.read_text()) for path in sorted(ROOT.glob("services/*/pyproject.toml"))]
    return {table["project"]["name"]: table["project"]["version"] for table in tables}
