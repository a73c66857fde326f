"""What the rest of a cluster sees of a pod: values, taken at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["PodFacts", "Port"]


@dataclass(frozen=True, slots=True)
class Port:
    """A port that a container declares; Services and policies refer to it by name or number."""

    name: str
    number: int
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """
    A pod as Services, names and policies see it.

    Attributes:
        ready: Whether it takes traffic; False from the start of its termination on.
        host_name: Its name below its headless Service, with `subdomain`; empty where it has none.
    """

    name: str
    namespace: str
    ip: str
    labels: Mapping[str, str]
    ready: bool = False
    ports: tuple[Port, ...] = field(default=())
    host_name: str = ""
    subdomain: str = ""

    def port(self, name: str, protocol: str) -> int | None:
        """The number of a named port."""
        return next((port.number for port in self.ports if (port.name, port.protocol) == (name, protocol)), None)
