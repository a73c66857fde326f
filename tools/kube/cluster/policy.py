"""
NetworkPolicies, turned into what each pod may be reached by and may reach.

Pure. A pod that no policy selects for a direction is open in it, and has no entry here; one that is selected may do
what at least one of its policies allows. `netfilter` writes it down as rules.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kube.cluster.facts import PodFacts
from kube.objects import Object, matches

__all__ = ["Allowance", "Isolation", "isolations"]

_SIDES = {"ingress": "from", "egress": "to"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """
    One thing that is allowed.

    Attributes:
        peers: Addresses or networks on the other side; None is everyone.
        exceptions: Networks within `peers` that are left out.
        protocol: Such as TCP; None is every protocol and port.
        ports: Numbers or ranges `8000-8080`; empty is every port of the protocol.
    """

    peers: tuple[str, ...] | None = None
    exceptions: tuple[str, ...] = ()
    protocol: str | None = None
    ports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """A pod that is closed in a direction, `ingress` or `egress`, but for what is allowed."""

    ip: str
    direction: str
    allowances: tuple[Allowance, ...]


def isolations(
    policies: Sequence[Object], pods: Sequence[PodFacts], namespaces: Mapping[str, Mapping[str, str]]
) -> list[Isolation]:
    """
    What the policies mean for the pods that exist.

    Args:
        namespaces: The labels of each namespace.
    """
    found = []
    for pod in pods:
        selecting = [policy for policy in policies if _selects(policy, pod)]
        for direction in _SIDES:
            concerned = [policy for policy in selecting if direction in _directions(policy)]
            if concerned:
                allowed = (one for policy in concerned for one in _allowed(policy, direction, pod, pods, namespaces))
                found.append(Isolation(ip=pod.ip, direction=direction, allowances=tuple(dict.fromkeys(allowed))))
    return found


def _selects(policy: Object, pod: PodFacts) -> bool:
    return _namespace(policy) == pod.namespace and matches(policy["spec"].get("podSelector") or {}, pod.labels)


def _namespace(policy: Object) -> str:
    return str(policy["metadata"].get("namespace") or "default")


def _directions(policy: Object) -> list[str]:
    spec = policy["spec"]
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    return [each.lower() for each in types]


def _allowed(
    policy: Object,
    direction: str,
    pod: PodFacts,
    pods: Sequence[PodFacts],
    namespaces: Mapping[str, Mapping[str, str]],
) -> Iterator[Allowance]:
    for rule in policy["spec"].get(direction) or []:
        for peers in _peers(rule.get(_SIDES[direction]), _namespace(policy), pods, namespaces):
            yield from _with_ports(peers, rule.get("ports"), direction, pod, pods)


@dataclass(frozen=True, slots=True)
class _Peers:
    """One element of `from` or `to`: pods, or a network; neither is everyone."""

    pods: tuple[PodFacts, ...] | None = None
    network: str | None = None
    exceptions: tuple[str, ...] = ()

    def addresses(self) -> tuple[str, ...] | None:
        if self.network is not None:
            return (self.network,)
        return None if self.pods is None else tuple(pod.ip for pod in self.pods)


def _peers(
    elements: Sequence[Object] | None,
    home: str,
    pods: Sequence[PodFacts],
    namespaces: Mapping[str, Mapping[str, str]],
) -> Iterator[_Peers]:
    if not elements:
        yield _Peers()
    for element in elements or []:
        if (block := element.get("ipBlock")) and ":" in block["cidr"]:
            # No pod has an address of IPv6 here.
            yield _Peers(())
        elif block:
            yield _Peers(network=block["cidr"], exceptions=tuple(block.get("except") or ()))
        else:
            yield _Peers(tuple(pod for pod in pods if _is_peer(element, home, pod, namespaces)))


def _is_peer(element: Object, home: str, pod: PodFacts, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
    selector: Mapping[str, Any] | None = element.get("namespaceSelector")
    in_place = pod.namespace == home if selector is None else matches(selector, namespaces.get(pod.namespace, {}))
    return in_place and matches(element.get("podSelector") or {}, pod.labels)


def _with_ports(
    peers: _Peers, ports: Sequence[Object] | None, direction: str, pod: PodFacts, pods: Sequence[PodFacts]
) -> Iterator[Allowance]:
    if not ports:
        yield Allowance(peers=peers.addresses(), exceptions=peers.exceptions)
    for port in ports or []:
        protocol, number = port.get("protocol") or "TCP", port.get("port")
        if isinstance(number, str):
            yield from _named(number, protocol, peers, direction, pod, pods)
        else:
            span = () if number is None else (_span(number, port.get("endPort")),)
            yield Allowance(peers=peers.addresses(), exceptions=peers.exceptions, protocol=protocol, ports=span)


def _span(first: int, last: int | None) -> str:
    return str(first) if last is None or last == first else f"{first}-{last}"


def _named(
    name: str, protocol: str, peers: _Peers, direction: str, pod: PodFacts, pods: Sequence[PodFacts]
) -> Iterator[Allowance]:
    """A named port belongs to the pod that is connected to: the selected one, or each of the peers."""
    if direction == "ingress":
        number = pod.port(name, protocol)
        if number is not None:
            yield Allowance(
                peers=peers.addresses(), exceptions=peers.exceptions, protocol=protocol, ports=(str(number),)
            )
        return
    # An address block has no ports to name.
    targets = () if peers.network is not None else (pods if peers.pods is None else peers.pods)
    for target in targets:
        number = target.port(name, protocol)
        if number is not None:
            yield Allowance(peers=(target.ip,), protocol=protocol, ports=(str(number),))
