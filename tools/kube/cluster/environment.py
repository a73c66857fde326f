"""
The environment of a container, from what its manifest says.

Pure: objects and facts go in, a dict comes out. Order matters as in Kubernetes: `$(VAR)` sees earlier entries only,
a later entry replaces an earlier one, and `env` replaces `envFrom`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from kube.cluster.errors import ObjectError
from kube.cluster.objects import Objects, content
from kube.objects import Object

__all__ = ["PodValues", "expand", "pod_field", "quantity", "resource", "variables"]

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_QUANTITY = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)(m|[kKMGTPE]i?)?")
_POWERS = {prefix: power for power, prefix in enumerate("kMGTPE", 1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PodValues:
    """What the downward API tells a container about its pod."""

    name: str
    namespace: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    ip: str
    host_ip: str
    node: str
    service_account: str


def expand(text: str, known: Mapping[str, str]) -> str:
    """Replace `$(NAME)`; a name that is not known stays as it is, and `$$` is a dollar sign."""

    def replacement(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else known.get(name, match.group(0))

    return _REFERENCE.sub(replacement, text)


def variables(
    container: Object, *, pod: PodValues, objects: Objects, links: Mapping[str, str], where: str
) -> dict[str, str]:
    """
    The variables that a manifest and the cluster give a container.

    Args:
        links: What the cluster itself injects for each Service; `env` replaces them.
        where: Workload and container, for messages.

    Raises:
        ObjectError: Something that is referred to does not exist and is not optional.
    """
    known: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        known |= _all_of(source, pod.namespace, objects, where)
    for entry in container.get("env") or []:
        value = _value(
            entry, known | {key: links[key] for key in links if key not in known}, container, pod, objects, where
        )
        if value is not None:
            known[entry["name"]] = value
    return {**links, **known}


def _value(
    entry: Object, known: Mapping[str, str], container: Object, pod: PodValues, objects: Objects, where: str
) -> str | None:
    here = f"{where}: env {entry['name']}"
    source = entry.get("valueFrom")
    if not source:
        value = entry.get("value") or ""
        if not isinstance(value, str):
            raise ObjectError(f"{here}: value {value!r} is no string; quote it")
        return expand(value, known)
    if "fieldRef" in source:
        return pod_field(source["fieldRef"]["fieldPath"], pod, here)
    if "resourceFieldRef" in source:
        return str(resource(source["resourceFieldRef"], container, here))
    return _entry_of(source, pod.namespace, objects, here)


def pod_field(path: str, pod: PodValues, where: str) -> str:
    """The value of a `fieldPath`."""
    if match := _SUBSCRIPT.fullmatch(path):
        values = pod.labels if match.group(1) == "labels" else pod.annotations
        return values.get(match.group(2), "")
    plain = {
        "metadata.name": pod.name,
        "metadata.namespace": pod.namespace,
        "metadata.uid": pod.uid,
        "spec.nodeName": pod.node,
        "spec.serviceAccountName": pod.service_account,
        "status.hostIP": pod.host_ip,
        "status.hostIPs": pod.host_ip,
        "status.podIP": pod.ip,
        "status.podIPs": pod.ip,
    }
    if path not in plain:
        raise ObjectError(f"{where}: fieldPath {path!r}, expected metadata.labels['…'] or one of {', '.join(plain)}")
    return plain[path]


def resource(reference: Mapping[str, Any], container: Object, where: str) -> int:
    """The value of a `resourceFieldRef`: a request or limit divided by its divisor, rounded up."""
    kind, _, name = reference["resource"].partition(".")
    amount = ((container.get("resources") or {}).get(kind) or {}).get(name)
    if amount is None:
        # Kubernetes would give the whole node's, which nobody means.
        raise ObjectError(f"{where}: the container has no resources.{reference['resource']}")
    divisor = quantity(reference.get("divisor") or "1", where) or Decimal(1)
    return math.ceil(quantity(amount, where) / divisor)


def quantity(text: str | float, where: str) -> Decimal:
    """A Kubernetes quantity, such as 512Mi or 250m, as a number."""
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ObjectError(f"{where}: {text!r} is no quantity such as 512Mi or 250m")
    try:
        number = Decimal(match.group(1))
    except InvalidOperation:
        raise ObjectError(f"{where}: {text!r} is no quantity such as 512Mi or 250m") from None
    return number * _factor(match.group(2) or "")


def _factor(suffix: str) -> Decimal:
    if suffix in ("", "m"):
        return Decimal("0.001") if suffix else Decimal(1)
    base = 1024 if suffix.endswith("i") else 1000
    return Decimal(base) ** _POWERS[suffix[0] if suffix[0] != "K" else "k"]


def _all_of(source: Object, namespace: str, objects: Objects, where: str) -> dict[str, str]:
    reference = source.get("configMapRef") or source.get("secretRef") or {}
    kind = "ConfigMap" if "configMapRef" in source else "Secret"
    thing = _found(kind, reference, namespace, objects, f"{where}: envFrom")
    prefix = source.get("prefix") or ""
    return {} if thing is None else {prefix + key: value.decode() for key, value in content(thing).items()}


def _entry_of(source: Object, namespace: str, objects: Objects, where: str) -> str | None:
    for member, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        if member in source:
            return _entry(source[member], kind, namespace, objects, where)
    raise ObjectError(
        f"{where}: valueFrom {', '.join(source)}, expected fieldRef, resourceFieldRef, configMapKeyRef or secretKeyRef"
    )


def _entry(reference: Object, kind: str, namespace: str, objects: Objects, where: str) -> str | None:
    thing = _found(kind, reference, namespace, objects, where)
    if thing is None:
        return None
    entries = content(thing)
    if reference["key"] not in entries and not reference.get("optional"):
        raise ObjectError(
            f"{where}: {kind} {reference['name']} has no key {reference['key']!r}, only {', '.join(sorted(entries))}"
        )
    value = entries.get(reference["key"])
    return None if value is None else value.decode()


def _found(kind: str, reference: Object, namespace: str, objects: Objects, where: str) -> Object | None:
    thing = objects.find(kind, namespace, reference["name"])
    if thing is None and not reference.get("optional"):
        existing = ", ".join(objects.names(kind, namespace)) or "none"
        raise ObjectError(f"{where}: {kind} {reference['name']} does not exist in {namespace}, which has {existing}")
    return thing
