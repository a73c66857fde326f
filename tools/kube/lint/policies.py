"""NetworkPolicies as a network plugin applies them: what may leave a pod and what may enter one."""

from collections.abc import Sequence

from kube.lint.unit import Unit
from kube.objects import Object, Pod, dig, mappings, matches, namespace

__all__ = ["DNS", "admits", "lets_out", "lets_out_of_cluster"]

# The cluster's own DNS, which is in nobody's manifests.
DNS = Pod(
    {"kind": "Deployment", "metadata": {"name": "kube-dns", "namespace": "kube-system"}},
    {"containers": [{"ports": [{"containerPort": 53, "protocol": "UDP", "name": "dns"}]}]},
    {"k8s-app": "kube-dns"},
    "spec.template.spec",
)


def lets_out(unit: Unit, client: Pod, server: Pod, port: int, protocol: str = "TCP") -> bool:
    """Tell whether the policies of *client* let it connect to that port of *server*; ports are those of the pod."""
    rules = _rules(unit, client, "Egress")
    return rules is None or any(
        _is_peer(unit, policy, each, "to", server) and _is_port(each, server, port, protocol) for policy, each in rules
    )


def admits(unit: Unit, server: Pod, client: Pod, port: int, protocol: str = "TCP") -> bool:
    """Tell whether the policies of *server* let *client* connect to that port."""
    rules = _rules(unit, server, "Ingress")
    return rules is None or any(
        _is_peer(unit, policy, each, "from", client) and _is_port(each, server, port, protocol)
        for policy, each in rules
    )


def lets_out_of_cluster(unit: Unit, client: Pod, ports: Sequence[int]) -> bool:
    """Tell whether the policies of *client* let it connect to one of *ports* of hosts that are no pods."""
    rules = _rules(unit, client, "Egress")
    return rules is None or any(
        (not each.get("to") or any("ipBlock" in peer for peer in mappings(each, "to")))
        and any(_is_port(each, None, port, "TCP") for port in ports)
        for _, each in rules
    )


def _rules(unit: Unit, pod: Pod, direction: str) -> list[tuple[Object, Object]] | None:
    """Return the rules for a pod with their policies; None if no policy selects it, so that everything is allowed."""
    selecting = [policy for policy in unit.every("NetworkPolicy") if _selects(policy, pod, direction)]
    if not selecting:
        return None
    return [(policy, each) for policy in selecting for each in mappings(policy, "spec", direction.lower())]


def _selects(policy: Object, pod: Pod, direction: str) -> bool:
    default = ["Ingress", "Egress"] if dig(policy, "spec", "egress") else ["Ingress"]
    types = dig(policy, "spec", "policyTypes") or default
    here = namespace(policy) == pod.namespace
    return here and direction in types and matches(dig(policy, "spec", "podSelector"), pod.labels)


def _is_peer(unit: Unit, policy: Object, each: Object, key: str, other: Pod) -> bool:
    return not each.get(key) or any(_finds(unit, policy, peer, other) for peer in mappings(each, key))


def _finds(unit: Unit, policy: Object, peer: Object, other: Pod) -> bool:
    # Whether an address of the cluster's own network counts is up to the network plugin, so it does not here.
    if "ipBlock" in peer:
        return False
    if "namespaceSelector" in peer:
        in_space = matches(peer["namespaceSelector"], unit.namespaces.get(other.namespace, {}))
    else:
        in_space = other.namespace == namespace(policy)
    return in_space and matches(peer.get("podSelector", {}), other.labels)


def _is_port(each: Object, server: Pod | None, number: int, protocol: str) -> bool:
    if not each.get("ports"):
        return True
    wanted = (port for port in mappings(each, "ports") if port.get("protocol", "TCP") == protocol)
    return any(number in _numbers(port, server) for port in wanted)


def _numbers(port: Object, server: Pod | None) -> range:
    first = port.get("port")
    if first is None:
        return range(1, 65536)
    if isinstance(first, str):
        # A name is looked up in the pod that is connected to.
        found = server.port(first) if server else None
        return range(found, found + 1) if found is not None else range(0)
    return range(first, int(port.get("endPort") or first) + 1)
