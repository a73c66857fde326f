"""
The wires: a network namespace and an address for each pod, routed through the driver's own, which is the node.

Every pod hangs on a point-to-point link of its own, so that what one sends to another is forwarded by the node, where
the rules of `netfilter` are.
"""

import contextlib
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kube.cluster import kernel
from kube.cluster.errors import ClusterError
from kube.cluster.netfilter import DENIED, TABLE

__all__ = ["NODE", "SERVICES", "Denial", "Link", "Network"]

NODE = "10.244.0.1"
SERVICES = "10.96.0.0/16"
_POD_NETWORK = "10.244.0."
_FIRST, _LAST = 10, 254


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The network of one pod: its address, its interface on the node, and the file of its namespace."""

    ip: str
    interface: str
    namespace: Path


@dataclass(frozen=True, slots=True)
class Denial:
    """A connection that a NetworkPolicy denied."""

    source: str
    destination: str
    protocol: str
    port: int


class Network:
    """The links of all pods and the rules between them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._links: dict[str, Link] = {}
        self._next = _FIRST
        self._count = 0
        self._rules = ""
        self._denials: dict[Denial, None] = {}
        self._has_service_route = False

    def attach(self, ip: str | None = None) -> Link:
        """Create a namespace with an interface; *ip* is a fixed address in place of the next free one."""
        with self._lock:
            address = ip or self._free_address()
            self._count += 1
            name = f"pod{self._count}"
            link = Link(ip=address, interface=name, namespace=Path("/run/netns") / name)
            # Recorded before it is created, so that closing removes what a failure leaves behind.
            self._links[address] = link
            self._create(link)
            return link

    def detach(self, link: Link) -> None:
        """Remove a namespace and its interface; twice is fine."""
        with self._lock:
            if self._links.pop(link.ip, None) is not None:
                # Both ends go with it; the kernel would take its time if only the namespace were removed.
                for command in (("link", "delete", link.interface), ("netns", "delete", link.namespace.name)):
                    # A link that could not be created is only partly there.
                    with contextlib.suppress(ClusterError):
                        _run("ip", *command)

    def program(self, rules: str) -> None:
        """Put rules in place of those before, in one step."""
        with self._lock:
            if rules != self._rules:
                self._collect_denials()
                _run("nft", "-f", "-", text=rules)
                self._rules = rules

    def denials(self) -> list[Denial]:
        """The connections that were denied so far, each once."""
        with self._lock:
            self._collect_denials()
            return list(self._denials)

    def socket(self, link: Link, kind: socket.SocketKind, port: int) -> socket.socket:
        """A socket that is bound in a pod's namespace and used from here."""
        found: list[socket.socket | OSError] = []

        def create() -> None:
            # Only this thread moves; the socket stays where it was created.
            try:
                kernel.join_network(link.namespace)
                bound = socket.socket(socket.AF_INET, kind)
                bound.bind((link.ip, port))
                found.append(bound)
            except OSError as error:
                found.append(error)

        thread = threading.Thread(target=create, name="bind")
        thread.start()
        thread.join()
        if isinstance(found[0], OSError):
            raise ClusterError(f"cannot bind {link.ip}:{port}: {found[0]}")
        return found[0]

    def close(self) -> None:
        """Remove everything."""
        for link in list(self._links.values()):
            self.detach(link)
        if self._rules:
            _run("nft", "-f", "-", text=f"table ip {TABLE}\ndelete table ip {TABLE}\n")
            self._rules = ""

    def _free_address(self) -> str:
        # Counting on before an address is used again, so that connections to a former pod do not meet a new one.
        for _ in range(_FIRST, _LAST + 1):
            number, self._next = self._next, self._next + 1 if self._next < _LAST else _FIRST
            if f"{_POD_NETWORK}{number}" not in self._links:
                return f"{_POD_NETWORK}{number}"
        raise ClusterError(f"no free pod address; {len(self._links)} are in use")

    def _create(self, link: Link) -> None:
        name = link.namespace.name
        _run("ip", "netns", "add", name)
        outside = [
            f"link add {link.interface} type veth peer name eth0 netns {name}",
            f"addr add {NODE}/32 dev {link.interface}",
            f"link set {link.interface} up",
            f"route add {link.ip}/32 dev {link.interface}",
        ]
        if not self._has_service_route:
            # Any interface will do: an address of this range is translated, or rejected, before it gets there.
            outside.append(f"route add {SERVICES} dev {link.interface} src {NODE}")
            self._has_service_route = True
        inside = [
            "link set lo up",
            f"addr add {link.ip}/32 dev eth0",
            "link set eth0 up",
            f"route add {NODE} dev eth0 scope link",
            f"route add default via {NODE}",
        ]
        _run("ip", "-batch", "-", text="\n".join(outside))
        _run("ip", "-n", name, "-batch", "-", text="\n".join(inside))

    def _collect_denials(self) -> None:
        if self._rules:
            listed = json.loads(_run("nft", "-j", "list", "set", "ip", TABLE, DENIED))
            self._denials |= dict.fromkeys(_denials(listed))


def _denials(listed: dict[str, list[dict[str, dict[str, list[dict[str, list[str | int]]]]]]]) -> list[Denial]:
    elements = [
        element["concat"] for each in listed["nftables"] if "set" in each for element in each["set"].get("elem") or []
    ]
    return [
        Denial(str(source), str(destination), str(protocol).upper(), int(port))
        for source, destination, protocol, port in elements
    ]


def _run(*command: str, text: str = "") -> str:
    program = shutil.which(command[0]) or command[0]
    arguments: Sequence[str] = [program, *command[1:]]
    done = subprocess.run(arguments, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}\n{text}".rstrip())
    return done.stdout
