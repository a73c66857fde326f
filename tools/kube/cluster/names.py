"""
Names inside the cluster: a DNS server that knows Services and pods, and denies every other name at once.

`zone` and `answer` are pure; `NameServer` owns the socket. It stands in its own network namespace like a pod, so that
NetworkPolicies decide who may ask it.
"""

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from kube.cluster.facts import PodFacts
from kube.cluster.services import endpoints, is_headless, members
from kube.objects import Object

__all__ = ["DOMAIN", "NameServer", "Zone", "answer", "zone"]

DOMAIN = "cluster.local"
# As the default of the Kubernetes plugin of CoreDNS.
_SECONDS_TO_LIVE = 5


@dataclass(slots=True)
class Zone:
    """
    The names that exist, in lower case without a final dot.

    Attributes:
        addresses: Name to addresses.
        services: Name to `priority weight port target`, for SRV.
        aliases: Name to another name, for ExternalName.
    """

    addresses: dict[str, list[str]] = field(default_factory=dict)
    services: dict[str, list[str]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)


def zone(services: Iterable[Object], addresses: Mapping[tuple[str, str], str], pods: Sequence[PodFacts]) -> Zone:
    """
    The names of Services and of the pods behind the headless ones.

    Args:
        addresses: Namespace and name of a Service to its own address.
    """
    found = Zone()
    for service in services:
        namespace, name = service["metadata"].get("namespace") or "default", service["metadata"]["name"]
        full = f"{name}.{namespace}.svc.{DOMAIN}"
        if service["spec"].get("type") == "ExternalName":
            found.aliases[full] = service["spec"]["externalName"]
        elif is_headless(service):
            _add_headless(found, full, service, pods)
        else:
            found.addresses[full] = [addresses[namespace, name]]
            _add_ports(found, full, service, pods, [full])
    return found


def _add_headless(found: Zone, full: str, service: Object, pods: Sequence[PodFacts]) -> None:
    taking_part = members(service, pods)
    if taking_part:
        found.addresses[full] = [pod.ip for pod in taking_part]
    targets = []
    for pod in taking_part:
        own = pod.host_name if pod.host_name and pod.subdomain == service["metadata"]["name"] else ""
        target = f"{own or pod.ip.replace('.', '-')}.{full}"
        found.addresses[target] = [pod.ip]
        targets.append(target)
    _add_ports(found, full, service, pods, targets)


def _add_ports(found: Zone, full: str, service: Object, pods: Sequence[PodFacts], targets: Sequence[str]) -> None:
    for port in service["spec"].get("ports") or []:
        if not port.get("name") or not targets:
            continue
        ends = endpoints(service, port, pods)
        number = ends[0].port if is_headless(service) and ends else port["port"]
        key = f"_{port['name']}._{(port.get('protocol') or 'TCP').lower()}.{full}"
        found.services[key] = [f"0 {100 // len(targets) or 1} {number} {target}." for target in targets]


def answer(query: dns.message.Message, known: Zone) -> dns.message.Message:
    """The answer to a query: what is known, nothing for a name that exists without the type asked for, or NXDOMAIN."""
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA | dns.flags.RA
    if not query.question:
        response.set_rcode(dns.rcode.FORMERR)
        return response
    asked = query.question[0].name
    kind = query.question[0].rdtype
    name = asked.to_text(omit_final_dot=True).lower()
    if name in known.aliases:
        response.answer.append(_records(asked, dns.rdatatype.CNAME, [known.aliases[name].rstrip(".") + "."]))
        name = known.aliases[name].rstrip(".")
        asked = dns.name.from_text(name)
    elif name not in known.addresses and name not in known.services:
        response.set_rcode(dns.rcode.NXDOMAIN)
        return response
    for wanted, found in ((dns.rdatatype.A, known.addresses), (dns.rdatatype.SRV, known.services)):
        values = found.get(name, [])
        if kind == wanted and values:
            # In any order, so that clients which take the first are spread.
            response.answer.append(_records(asked, wanted, random.sample(values, len(values))))
    return response


def _records(name: dns.name.Name, kind: dns.rdatatype.RdataType, values: Sequence[str]) -> dns.rrset.RRset:
    return dns.rrset.from_text_list(name, _SECONDS_TO_LIVE, "IN", kind, list(values))


class NameServer:
    """Answers on a UDP socket until it is closed."""

    def __init__(self, bound: socket.socket, known: Callable[[], Zone]) -> None:
        self._socket = bound
        self._known = known
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="dns", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering; returns when the thread has ended."""
        self._closed = True
        # Shutting down wakes the thread, which closing alone would not; the kernel calls it "not connected".
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while not self._closed:
            try:
                data, sender = self._socket.recvfrom(4096)
                if data:
                    self._socket.sendto(answer(dns.message.from_wire(data), self._known()).to_wire(), sender)
            except (OSError, dns.exception.DNSException):
                # A peer that is gone, or something that is no query: neither is worth ending for.
                continue
