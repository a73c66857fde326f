"""Names that objects give for one another: each must be there, and what nobody names has no business being there."""

import json
from collections.abc import Iterator

from kube.lint.files import config_source, keys, listed, projections
from kube.lint.finding import Fault
from kube.lint.registry import rule
from kube.lint.unit import Unit
from kube.objects import Container, Object, Pod, dig, mapping, mappings, metadata_name, namespace, title

# `kubectl apply` keeps what it applied in an annotation, and annotations end here.
_APPLIED_BYTES = 262_144


@rule("object-unique")
def object_unique(unit: Unit) -> Iterator[Fault]:
    """An object is described once; one that two units bring is the same in both."""
    seen: dict[str, Object] = {}
    for thing in (*unit.objects, *unit.neighbours):
        before = seen.setdefault(f"{thing.get('apiVersion')} {title(thing)}", thing)
        if before is not thing and (before != thing or sum(thing is each for each in unit.objects)):
            yield Fault(thing, "metadata.name", "a second object of that name", "one object, the same in every unit")


@rule("namespace-exists")
def namespace_exists(unit: Unit) -> Iterator[Fault]:
    """The namespace of an object exists."""
    for thing in unit.objects:
        if namespace(thing) and namespace(thing) not in unit.namespaces:
            yield Fault(thing, "metadata.namespace", namespace(thing), f"one of {listed(unit.namespaces)}")


@rule("config-exists")
def config_exists(unit: Unit) -> Iterator[Fault]:
    """A ConfigMap that a pod names exists, unless it is optional."""
    return _missing(unit, "ConfigMap")


@rule("secret-exists")
def secret_exists(unit: Unit) -> Iterator[Fault]:
    """A Secret that a pod names exists, unless it is optional; waive it for one that is made by hand, and say how."""
    return _missing(unit, "Secret")


def _missing(unit: Unit, wanted: str) -> Iterator[Fault]:
    for pod, path, kind, name, _ in _config_references(unit):
        if kind == wanted and config_source(unit, kind, name, pod.namespace) is None:
            there = [metadata_name(each) for each in unit.every(kind) if namespace(each) == pod.namespace]
            yield Fault(pod.owner, path, f"{kind} {name}", f"a {kind} in {pod.namespace}: {listed(there)}")


@rule("config-key")
def config_key(unit: Unit) -> Iterator[Fault]:
    """A key that a pod takes from a ConfigMap or Secret is in it."""
    for pod, path, kind, name, wanted in _config_references(unit):
        source = config_source(unit, kind, name, pod.namespace)
        for key in wanted if source else []:
            if source and key not in keys(source):
                yield Fault(pod.owner, path, f"key {key}", f"a key of {kind} {name}: {listed(keys(source))}")


@rule("config-used")
def config_used(unit: Unit) -> Iterator[Fault]:
    """A ConfigMap is used by a pod."""
    used = {(kind, name, pod.namespace) for pod, _, kind, name, _ in _config_references(unit)}
    for thing in unit.kind("ConfigMap"):
        if ("ConfigMap", metadata_name(thing), namespace(thing)) not in used:
            yield Fault(thing, "metadata.name", "no pod that uses it", "a volume or variable that takes it")


@rule("config-size")
def config_size(unit: Unit) -> Iterator[Fault]:
    """A ConfigMap is small enough for `kubectl apply`, which keeps a copy in an annotation."""
    for thing in unit.kind("ConfigMap"):
        size = len(json.dumps(thing))
        if size >= _APPLIED_BYTES:
            yield Fault(thing, "data", f"{size} bytes", f"fewer than {_APPLIED_BYTES}; split it")


def _config_references(unit: Unit) -> Iterator[tuple[Pod, str, str, str, list[str]]]:
    """Yield who names what and where, optional ones left out: the pods, the path, the kind, the name, the keys."""
    for pod in unit.pods:
        for volume in pod.volumes:
            for kind, name, source in projections(volume):
                wanted = [str(item.get("key")) for item in mappings(source, "items")]
                if not source.get("optional"):
                    yield pod, f"{pod.path}.volumes[{volume.get('name')}]", kind, name, wanted + _sub_paths(pod, volume)
        for container in pod.every_container:
            yield from ((pod, *reference) for reference in _variables(container))


def _sub_paths(pod: Pod, volume: Object) -> list[str]:
    if any(source.get("items") for _, _, source in projections(volume)):
        return []
    mounts = [mount for each in pod.every_container for mount in mappings(each.spec, "volumeMounts")]
    return [str(each["subPath"]) for each in mounts if each.get("name") == volume.get("name") and "subPath" in each]


def _variables(container: Container) -> Iterator[tuple[str, str, str, list[str]]]:
    for entry in container.env:
        for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            reference = mapping(entry, "valueFrom", key)
            if reference and not reference.get("optional"):
                path = f"{container.path}.env[{entry.get('name')}]"
                yield path, kind, str(reference.get("name")), [str(reference.get("key"))]
    for source in mappings(container.spec, "envFrom"):
        for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if key in source and not dig(source, key, "optional"):
                yield f"{container.path}.envFrom", kind, str(dig(source, key, "name")), []
