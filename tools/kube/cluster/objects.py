"""
The objects that were applied, by kind, namespace and name: all that is known of an API server here.

Objects are copied when they come in and never changed afterwards.
"""

import base64
import copy
from collections.abc import Iterable, Iterator

from kube.cluster.errors import ObjectError
from kube.objects import Object, metadata_name, namespace, title

__all__ = ["Objects", "content"]

WORKLOADS = ("Deployment", "StatefulSet", "Job", "Pod")
_USED = (
    *WORKLOADS,
    "ConfigMap",
    "Namespace",
    "NetworkPolicy",
    "PersistentVolumeClaim",
    "Secret",
    "Service",
)
_NAME_LABEL = "kubernetes.io/metadata.name"


def content(thing: Object) -> dict[str, bytes]:
    """The entries of a ConfigMap or Secret, decoded."""
    if thing["kind"] == "Secret":
        encoded, plain = thing.get("data") or {}, thing.get("stringData") or {}
    else:
        encoded, plain = thing.get("binaryData") or {}, thing.get("data") or {}
    try:
        decoded = {key: base64.b64decode(value, validate=True) for key, value in encoded.items()}
    except ValueError as error:
        raise ObjectError(f"{title(thing)}: an entry is not base64: {error}") from None
    return decoded | {key: value.encode() for key, value in plain.items()}


class Objects:
    """
    What was applied so far.

    Attributes:
        ignored: Titles of objects that mean nothing without an API server, such as a Role.
    """

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str, str], Object] = {}
        self.ignored: list[str] = []
        for name in ("default", "kube-system"):
            self.add([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])

    def add(self, things: Iterable[Object]) -> list[Object]:
        """
        Take objects in and return those that are not ignored.

        Raises:
            ObjectError: Its namespace does not exist; objects before it were taken in.
        """
        used = []
        # Namespaces first, wherever they stand: the others are refused without.
        for thing in sorted(_flat(things), key=lambda thing: thing["kind"] != "Namespace"):
            if thing["kind"] in _USED:
                self._check_namespace(thing)
                self._by_key[_key(thing)] = copy.deepcopy(thing)
                used.append(self._by_key[_key(thing)])
            elif title(thing) not in self.ignored:
                self.ignored.append(title(thing))
        return used

    def find(self, kind: str, space: str, name: str) -> Object | None:
        """One object of a namespace, or None."""
        return self._by_key.get((kind, space, name))

    def every(self, kind: str) -> list[Object]:
        """All objects of a kind."""
        return [thing for (its_kind, _, _), thing in self._by_key.items() if its_kind == kind]

    def names(self, kind: str, space: str) -> list[str]:
        """The names that exist in a namespace, for messages."""
        return sorted(name for its_kind, its_space, name in self._by_key if (its_kind, its_space) == (kind, space))

    def namespaces(self) -> dict[str, dict[str, str]]:
        """Each namespace with its labels, the one that Kubernetes adds included."""
        return {
            thing["metadata"]["name"]: {
                **(thing["metadata"].get("labels") or {}),
                _NAME_LABEL: thing["metadata"]["name"],
            }
            for thing in self.every("Namespace")
        }

    def _check_namespace(self, thing: Object) -> None:
        space = namespace(thing)
        if space and self.find("Namespace", "", space) is None:
            existing = ", ".join(self.names("Namespace", ""))
            raise ObjectError(f"{title(thing)}: namespace {space} does not exist, only {existing}")


def _flat(things: Iterable[Object]) -> Iterator[Object]:
    for thing in things:
        if thing["kind"] == "List":
            yield from _flat(thing["items"])
        else:
            yield thing


def _key(thing: Object) -> tuple[str, str, str]:
    return thing["kind"], namespace(thing), metadata_name(thing)
