"""
The rules of the kernel's packet filter: Services by address translation, NetworkPolicies by what is forwarded.

Pure: it writes text for `nft -f`. Policies see addresses after translation, as with a real network plugin, and what
they deny is answered at once by "administratively prohibited", which a program sees as EHOSTUNREACH: unlike a closed
port, which refuses.
"""

from collections.abc import Iterable, Sequence

from kube.cluster.policy import Allowance, Isolation
from kube.cluster.services import Frontend

__all__ = ["DENIED", "TABLE", "ruleset"]

TABLE = "kube"
DENIED = "denied"


def ruleset(
    *, frontends: Sequence[Frontend], isolations: Sequence[Isolation], pods: Sequence[str], service_network: str
) -> str:
    """
    The whole table, for replacing the one before it in one step.

    Args:
        pods: The addresses of all pods.
        service_network: The range of Service addresses; what is still addressed to it after translation leads nowhere.
    """
    lines = [
        # Declared first so that there is one to delete.
        f"table ip {TABLE}",
        f"delete table ip {TABLE}",
        f"table ip {TABLE} {{",
        f"set {DENIED} {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; flags dynamic; size 65535; }}",
        *_chain("services", (line for frontend in frontends for line in _translation(frontend))),
        *_chain("prerouting", ["type nat hook prerouting priority -100", "jump services"]),
        *_chain("translated", ["type nat hook output priority -100", "jump services"]),
        *_chain("postrouting", ["type nat hook postrouting priority 100", *_to_itself(pods, "masquerade")]),
        *(line for isolation in isolations for line in _isolation(isolation)),
        *_chain("policies", _policies(isolations, pods)),
        *_chain(
            "forward",
            [
                "type filter hook forward priority 0",
                # A Service without endpoints refuses, as with kube-proxy; no policy is asked.
                f"ip daddr {service_network} reject",
                "jump policies",
            ],
        ),
        # The node is a peer like any other for a pod's egress, but what it sends itself is never denied.
        *_chain("input", ["type filter hook input priority 0", 'iifname "pod*" jump policies']),
        *_chain("output", ["type filter hook output priority 0", f"ip daddr {service_network} reject"]),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _chain(name: str, rules: Iterable[str]) -> list[str]:
    # A hook is written as a declaration and ends in a semicolon; for a rule that does no harm.
    return [f"chain {name} {{", *(f"{rule};" for rule in rules), "}"]


def _translation(frontend: Frontend) -> list[str]:
    matched = f"ip daddr {frontend.ip} {frontend.protocol.lower()} dport {frontend.port}"
    match frontend.endpoints:
        case ():
            return []
        case (only,):
            return [f"{matched} dnat to {only.ip}:{only.port}"]
        case several:
            slots = ", ".join(f"{slot} : {each.ip} . {each.port}" for slot, each in enumerate(several))
            return [f"{matched} dnat to numgen random mod {len(several)} map {{ {slots} }}"]


def _to_itself(pods: Sequence[str], verdict: str) -> list[str]:
    """A pod that reaches itself through a Service: it would drop its own address as a source, and no policy applies."""
    pairs = ", ".join(f"{ip} . {ip}" for ip in pods)
    return [f"ip saddr . ip daddr {{ {pairs} }} {verdict}"] if pods else []


def _policies(isolations: Sequence[Isolation], pods: Sequence[str]) -> list[str]:
    return [
        "ct state established,related accept",
        *_to_itself(pods, "accept"),
        *_dispatch("ip saddr", [each for each in isolations if each.direction == "egress"]),
        *_dispatch("ip daddr", [each for each in isolations if each.direction == "ingress"]),
    ]


def _dispatch(side: str, isolations: Sequence[Isolation]) -> list[str]:
    jumps = ", ".join(f"{each.ip} : jump {_chain_name(each)}" for each in isolations)
    return [f"{side} vmap {{ {jumps} }}"] if isolations else []


def _chain_name(isolation: Isolation) -> str:
    return f"{isolation.direction}_{isolation.ip.replace('.', '_')}"


def _isolation(isolation: Isolation) -> list[str]:
    side = "ip saddr" if isolation.direction == "ingress" else "ip daddr"
    allowed = [f"{_condition(allowance, side)} return" for allowance in isolation.allowances if allowance.peers != ()]
    denied = [
        f"add @{DENIED} {{ ip saddr . ip daddr . meta l4proto . th dport }}",
        "reject with icmp type admin-prohibited",
    ]
    return _chain(_chain_name(isolation), [*allowed, *denied])


def _condition(allowance: Allowance, side: str) -> str:
    parts = []
    if allowance.peers is not None:
        parts.append(f"{side} {{ {', '.join(sorted(allowance.peers))} }}")
    if allowance.exceptions:
        parts.append(f"{side} != {{ {', '.join(allowance.exceptions)} }}")
    if allowance.protocol is not None:
        protocol = allowance.protocol.lower()
        ports = ", ".join(allowance.ports)
        parts.append(f"{protocol} dport {{ {ports} }}" if ports else f"meta l4proto {protocol}")
    return " ".join(parts)
