"""Kubernetes objects as plain mappings, and the questions that everything here asks about them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Container",
    "Object",
    "Pod",
    "byte_quantity",
    "dig",
    "image_name",
    "labels",
    "mapping",
    "mappings",
    "matches",
    "metadata_name",
    "namespace",
    "pod_of",
    "title",
]

Object = dict[str, Any]

# Where a kind keeps the template of its pods; a Pod is its own.
_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "Pod": (),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    **dict.fromkeys(
        ("DaemonSet", "Deployment", "Job", "ReplicaSet", "ReplicationController", "StatefulSet"), ("spec", "template")
    ),
}
_CLUSTER_SCOPED = re.compile(
    r"^(Namespace|Node|PersistentVolume|CustomResourceDefinition|APIService|RuntimeClass|ClusterIssuer|Cluster.*|"
    r".*WebhookConfiguration|ValidatingAdmissionPolicy.*|(Priority|Storage|Ingress)Class)$"
)
_QUANTITY = re.compile(r"^([0-9.]+)(|[kMGTPE]|[KMGTPE]i)B?$")
_FACTORS = {"": 1, "k": 10**3, **{unit: 10 ** (3 * power) for power, unit in enumerate("MGTPE", 2)}}
_FACTORS |= {f"{unit}i": 2 ** (10 * power) for power, unit in enumerate("KMGTPE", 1)}


def dig(value: Any, *keys: str) -> Any:
    """Return what *value* holds under the path *keys*, None where it ends early."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def mapping(value: Any, *keys: str) -> Object:
    """Return the mapping under the path *keys*, an empty one where there is none."""
    found = dig(value, *keys)
    return found if isinstance(found, dict) else {}


def mappings(value: Any, *keys: str) -> list[Object]:
    """Return the list of mappings under the path *keys*, an empty one where there is none."""
    found = dig(value, *keys)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def metadata_name(thing: Object) -> str:
    """Return the name of an object."""
    return str(dig(thing, "metadata", "name"))


def namespace(thing: Object) -> str:
    """Return the namespace an object is in, empty for one of the whole cluster."""
    if _CLUSTER_SCOPED.match(str(thing.get("kind"))):
        return ""
    return str(dig(thing, "metadata", "namespace") or "default")


def labels(thing: Object) -> Mapping[str, str]:
    """Return the labels of an object."""
    return mapping(thing, "metadata", "labels")


def title(thing: Object) -> str:
    """Return what messages call an object: `Kind namespace/name`."""
    return f"{thing.get('kind')} {'/'.join(filter(None, (namespace(thing), metadata_name(thing))))}"


def matches(selector: Any, these: Mapping[str, str]) -> bool:
    """
    Tell whether a label selector finds what carries *these* labels.

    An empty selector finds everything, a missing one nothing.

    Raises:
        ValueError: An operator that Kubernetes would refuse.
    """
    if not isinstance(selector, Mapping):
        return False
    wanted = mapping(selector, "matchLabels")
    return all(these.get(key) == value for key, value in wanted.items()) and all(
        _expression(each, these) for each in mappings(selector, "matchExpressions")
    )


def _expression(expression: Object, these: Mapping[str, str]) -> bool:
    value, values = these.get(str(expression.get("key"))), expression.get("values") or []
    match expression.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise ValueError(f"operator {expression.get('operator')!r}, expected In, NotIn, Exists or DoesNotExist")


def byte_quantity(text: Any) -> float | None:
    """Return the bytes that `512Mi`, `2G` or Go's `410MiB` mean, None for what is no such thing."""
    found = _QUANTITY.match(str(text))
    return float(found[1]) * _FACTORS[found[2]] if found else None


def image_name(reference: str) -> str:
    """Return an image's name without tag and digest."""
    # A colon before a slash is a registry's port.
    return re.sub(r":[^/:]*$", "", reference.partition("@")[0])


@dataclass(frozen=True, slots=True)
class Container:
    """
    One container of a pod.

    Attributes:
        path: Where it stands in its object.
        spec: What stands there.
        init: Whether it ends before the others start.
    """

    path: str
    spec: Object
    init: bool = False

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.spec.get("name"))

    @property
    def image(self) -> str:
        """Its image as written."""
        return str(self.spec.get("image") or "")

    @property
    def repository(self) -> str:
        """Its image without tag and digest."""
        return image_name(self.image)

    @property
    def words(self) -> list[str]:
        """Command and arguments."""
        return [str(word) for key in ("command", "args") for word in self.spec.get(key) or []]

    @property
    def ports(self) -> list[Object]:
        """Its ports."""
        return mappings(self.spec, "ports")

    @property
    def env(self) -> list[Object]:
        """Its environment, in order."""
        return mappings(self.spec, "env")

    def value(self, name: str) -> str | None:
        """Return the literal value of a variable, None where it has none or it comes from elsewhere."""
        values = [entry.get("value") for entry in self.env if entry.get("name") == name]
        return str(values[-1]) if values and values[-1] is not None else None


@dataclass(frozen=True, slots=True)
class Pod:
    """
    The pods of a workload.

    Attributes:
        owner: The object that makes them.
        spec: Their specification.
        labels: Their labels.
        path: Where the specification stands in the owner.
    """

    owner: Object = field(repr=False)
    spec: Object = field(repr=False)
    labels: Mapping[str, str]
    path: str

    @property
    def namespace(self) -> str:
        """The namespace they run in."""
        return namespace(self.owner)

    @property
    def every_container(self) -> list[Container]:
        """All their containers: those that initialize, those that run and those attached to look."""
        return [each for key in ("initContainers", "containers", "ephemeralContainers") for each in self._list(key)]

    @property
    def containers(self) -> list[Container]:
        """The containers that run for as long as the pod does, side-cars among them."""
        return [each for each in self.every_container if not each.init]

    @property
    def volumes(self) -> list[Object]:
        """Their volumes, those of a StatefulSet's claims included."""
        claims = [{"name": metadata_name(claim), "claim": claim} for claim in self.claims]
        return mappings(self.spec, "volumes") + claims

    @property
    def claims(self) -> list[Object]:
        """The claims that a StatefulSet makes for each."""
        return mappings(self.owner, "spec", "volumeClaimTemplates")

    def port(self, wanted: Any) -> int | None:
        """Return the number of the port that is called or numbered *wanted*, None if no container has it."""
        for port in self.ports():
            if wanted in (port.get("name"), port.get("containerPort")):
                return _number(port.get("containerPort"))
        return None

    def ports(self) -> Iterator[Object]:
        """Yield the ports of the containers that run."""
        return (port for container in self.containers for port in container.ports)

    def _list(self, key: str) -> Sequence[Container]:
        return [
            Container(
                f"{self.path}.{key}[{each.get('name')}]",
                each,
                key == "initContainers" and each.get("restartPolicy") != "Always",
            )
            for each in mappings(self.spec, key)
        ]


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def pod_of(thing: Object) -> Pod | None:
    """Return the pods that an object makes, None if it makes none."""
    keys = _TEMPLATES.get(str(thing.get("kind")))
    template = mapping(thing, *keys) if keys is not None else {}
    if not mapping(template, "spec"):
        return None
    return Pod(thing, mapping(template, "spec"), labels(template), ".".join((*(keys or ()), "spec")))
