"""
Kubernetes Services: which endpoints each port leads to, and the variables that name them to containers.

Pure. An address is translated by `netfilter`, a name by `names`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kube.cluster.facts import PodFacts
from kube.objects import Object, matches

__all__ = ["Endpoint", "Frontend", "endpoints", "frontends", "is_headless", "links", "members"]

HEADLESS = "None"


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where a connection ends up."""

    ip: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontend:
    """One port of a Service's own address, with what it leads to; without endpoints it refuses."""

    ip: str
    protocol: str
    port: int
    endpoints: tuple[Endpoint, ...]


def is_headless(service: Object) -> bool:
    """Whether the Service has no address of its own."""
    return bool(service["spec"].get("clusterIP") == HEADLESS)


def members(service: Object, pods: Iterable[PodFacts]) -> list[PodFacts]:
    """The pods that take traffic for a Service now."""
    spec, namespace = service["spec"], service["metadata"].get("namespace") or "default"
    if not spec.get("selector"):
        return []
    return [
        pod
        for pod in pods
        if pod.namespace == namespace
        and matches({"matchLabels": spec["selector"]}, pod.labels)
        and (pod.ready or spec.get("publishNotReadyAddresses"))
    ]


def endpoints(service: Object, port: Object, pods: Iterable[PodFacts]) -> tuple[Endpoint, ...]:
    """Where a port of a Service leads; a pod without the named port is left out, as in Kubernetes."""
    found = ((pod.ip, _target(port, pod)) for pod in members(service, pods))
    return tuple(sorted(Endpoint(ip, number) for ip, number in found if number is not None))


def frontends(service: Object, ip: str, pods: Sequence[PodFacts]) -> list[Frontend]:
    """What the address of a Service does at each of its ports."""
    return [
        Frontend(
            ip=ip,
            protocol=port.get("protocol") or "TCP",
            port=port["port"],
            endpoints=endpoints(service, port, pods),
        )
        for port in service["spec"].get("ports") or []
    ]


def links(services: Mapping[str, tuple[Object, str]], *, api_server: str, enabled: bool) -> dict[str, str]:
    """
    The variables that Kubernetes injects for each Service of a pod's namespace, and for its own.

    A Service called `rsketch-http` yields RSKETCH_HTTP_PORT=tcp://…, which may be a setting of the very program: the
    reason to write `enableServiceLinks: false`.

    Args:
        services: Name to object and address, of those that have an address.
        api_server: Its address, given even where links are disabled.
    """
    kubernetes: Object = {"spec": {"ports": [{"name": "https", "port": 443}]}}
    linked = {"kubernetes": (kubernetes, api_server), **(services if enabled else {})}
    found: dict[str, str] = {}
    for name, (service, ip) in linked.items():
        found |= _links_to(name.upper().replace("-", "_"), service, ip)
    return found


def _links_to(prefix: str, service: Object, ip: str) -> dict[str, str]:
    ports = service["spec"].get("ports") or []
    if not ports:
        return {}
    found = {f"{prefix}_SERVICE_HOST": ip, f"{prefix}_SERVICE_PORT": str(ports[0]["port"])}
    for number, port in enumerate(ports):
        protocol = (port.get("protocol") or "TCP").lower()
        url = f"{protocol}://{ip}:{port['port']}"
        one = f"{prefix}_PORT_{port['port']}_{protocol.upper()}"
        if port.get("name"):
            found[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
        if number == 0:
            found[f"{prefix}_PORT"] = url
        found |= {one: url, f"{one}_PROTO": protocol, f"{one}_PORT": str(port["port"]), f"{one}_ADDR": ip}
    return found


def _target(port: Object, pod: PodFacts) -> int | None:
    target: int | str = port.get("targetPort") or port["port"]
    return target if isinstance(target, int) else pod.port(target, port.get("protocol") or "TCP")
