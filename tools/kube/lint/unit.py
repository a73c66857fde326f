"""What is deployed together, and what it finds in the cluster when it arrives."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from kube.lint.operators import made_by_operators
from kube.objects import Object, Pod, labels, mapping, matches, metadata_name, namespace, pod_of

__all__ = ["BUILT_IN_NAMESPACES", "Unit"]

# A cluster has these from the start.
BUILT_IN_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")


@dataclass(frozen=True, eq=False)
class Unit:
    """
    The objects that one command applies.

    Attributes:
        name: What messages call it.
        objects: What the rules look at.
        neighbours: What the other units of the same cluster bring; the objects may refer to it.
        house: Whether the customs of this repository bind it.
        production: Whether it must outlive the loss of a node.
    """

    name: str
    objects: Sequence[Object]
    neighbours: Sequence[Object] = ()
    house: bool = False
    production: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        objects: list[Object],
        neighbours: list[Object],
        *,
        house: bool = False,
        production: bool = False,
    ) -> "Unit":
        """Return the unit of these objects and of what operators make of them."""
        return cls(
            name,
            [*objects, *made_by_operators(objects)],
            [*neighbours, *made_by_operators(neighbours)],
            house,
            production,
        )

    @cached_property
    def everything(self) -> Sequence[Object]:
        """All objects of the cluster; of one that two units bring, the unit's own."""
        own = {_key(thing) for thing in self.objects}
        return [*self.objects, *(thing for thing in self.neighbours if _key(thing) not in own)]

    @cached_property
    def pods(self) -> Sequence[Pod]:
        """The unit's own pods, one for each workload."""
        own = {id(thing) for thing in self.objects}
        return [pod for pod in self.every_pod if id(pod.owner) in own]

    @cached_property
    def every_pod(self) -> Sequence[Pod]:
        """All pods of the cluster."""
        return [pod for thing in self.everything if (pod := pod_of(thing))]

    def kind(self, *kinds: str) -> Iterator[Object]:
        """Yield the unit's own objects of some kinds."""
        return (thing for thing in self.objects if thing.get("kind") in kinds)

    def every(self, *kinds: str) -> Iterator[Object]:
        """Yield the cluster's objects of some kinds."""
        return (thing for thing in self.everything if thing.get("kind") in kinds)

    def find(self, kind: str, name: object, at: str) -> Object | None:
        """Return the cluster's object of that kind and name in the namespace *at*, None if there is none."""
        for thing in self.every(kind):
            if metadata_name(thing) == name and namespace(thing) == at:
                return thing
        return None

    def selected(self, selector: object, at: str) -> list[Pod]:
        """Return the pods in the namespace *at* that a label selector finds."""
        return [pod for pod in self.every_pod if pod.namespace == at and matches(selector, pod.labels)]

    def behind(self, service: Object) -> list[Pod]:
        """Return the pods that a Service selects."""
        wanted = mapping(service, "spec", "selector")
        return self.selected({"matchLabels": wanted}, namespace(service)) if wanted else []

    @cached_property
    def namespaces(self) -> Mapping[str, Mapping[str, str]]:
        """The labels of each namespace; its name is one of them, as in a cluster."""
        brought = {metadata_name(thing): labels(thing) for thing in self.every("Namespace")}
        names = {*BUILT_IN_NAMESPACES, *brought}
        return {name: {**brought.get(name, {}), "kubernetes.io/metadata.name": name} for name in names}


def _key(thing: Object) -> tuple[str, str, str]:
    return str(thing.get("kind")), namespace(thing), metadata_name(thing)
