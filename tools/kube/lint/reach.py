"""From every endpoint to the pods behind it: the Service, its port, the policies of both ends, the protocol."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from kube.lint.collector_config import LOOPBACK, every_collector
from kube.lint.endpoints import Endpoint, address, endpoints
from kube.lint.files import listed
from kube.lint.finding import Fault
from kube.lint.policies import DNS, admits, lets_out, lets_out_of_cluster
from kube.lint.ports import known, target_port
from kube.lint.registry import rule
from kube.lint.unit import Unit
from kube.objects import Object, Pod, dig, mappings, metadata_name, namespace, title

_SUFFIX = re.compile(r"\.(svc|svc\.cluster\.local)\.?$")
_ADDRESS = re.compile(r"^([0-9.]+|[0-9a-f:]+)$")
# Two labels that end so are a domain, not a Service and its namespace.
_DOMAINS = {"cloud", "com", "dev", "example", "invalid", "io", "net", "org", "test"}
_API_PORTS = (443, 6443)


@dataclass(frozen=True, slots=True)
class Route:
    """
    Where an endpoint leads.

    Attributes:
        endpoint: The endpoint.
        host: Its host.
        port: Its port.
        path: The path of its URL.
        place: `pod` for the pod itself, `cluster` for a Service, `outside` for the rest of the world.
        service: The Service, if there is one.
    """

    endpoint: Endpoint
    host: str
    port: int
    path: str
    place: str
    service: Object | None = None

    def fault(self, found: str, expected: str) -> Fault:
        """Return a fault of the endpoint."""
        return Fault(self.endpoint.thing, self.endpoint.path, found, expected)


@rule("endpoint-form")
def endpoint_form(unit: Unit) -> Iterator[Fault]:
    """An endpoint that a program connects to names a host and a port."""
    for each in endpoints(unit):
        # What OTEL_EXPORTER_OTLP_ENDPOINT accepts has a rule of its own.
        if address(each.text) is None and "OTEL_EXPORTER_OTLP" not in each.path:
            yield Fault(each.thing, each.path, repr(each.text), "host:port or a URL")


@rule("endpoint-own-pod")
def endpoint_own_pod(unit: Unit) -> Iterator[Fault]:
    """What is on localhost is a port of the pod itself."""
    for route in routes(unit):
        client = route.endpoint.client
        if route.place == "pod" and client.port(route.port) is None:
            expected = f"another host, or a port of the pod: {known(client.ports())}"
            yield route.fault(route.endpoint.text, expected)


@rule("endpoint-service")
def endpoint_service(unit: Unit) -> Iterator[Fault]:
    """The host of an endpoint is a Service that exists."""
    for route in routes(unit):
        if route.place == "cluster" and route.service is None:
            there = (f"{metadata_name(each)}.{namespace(each)}" for each in unit.every("Service"))
            yield route.fault(route.host, f"a Service: {listed(there)}")


@rule("endpoint-port")
def endpoint_port(unit: Unit) -> Iterator[Fault]:
    """The port of an endpoint is one of the Service."""
    for route in routes(unit):
        if route.service and not any(
            port.get("port") == route.port for port in mappings(route.service, "spec", "ports")
        ):
            offered = listed(port.get("port") for port in mappings(route.service, "spec", "ports"))
            yield route.fault(str(route.port), f"a port of {title(route.service)}: {offered}")


@rule("endpoint-headless")
def endpoint_headless(unit: Unit) -> Iterator[Fault]:
    """Where a client wants every pod from DNS, the Service is headless: otherwise it gets one address for all."""
    for route in routes(unit):
        if route.service and route.endpoint.direct and dig(route.service, "spec", "clusterIP") != "None":
            yield route.fault(f"{title(route.service)}, which has one address", "a Service with clusterIP None")


@rule("egress-allowed")
def egress_allowed(unit: Unit) -> Iterator[Fault]:
    """The client's NetworkPolicies let it connect to the pods behind its endpoints."""
    for route, server, port in _connections(unit):
        if not lets_out(unit, route.endpoint.client, server, port):
            found = (
                f"no policy of {title(route.endpoint.client.owner)} that lets it out to {title(server.owner)} on {port}"
            )
            yield Fault(route.endpoint.client.owner, route.endpoint.path, found, f"egress to its pods on {port}")


@rule("ingress-allowed")
def ingress_allowed(unit: Unit) -> Iterator[Fault]:
    """The server's NetworkPolicies admit the clients that have it as endpoint."""
    for route, server, port in _connections(unit):
        if not admits(unit, server, route.endpoint.client, port):
            client = f"{title(route.endpoint.client.owner)} ({route.endpoint.path})"
            found = f"no policy of {title(server.owner)} that admits {client} on {port}"
            yield Fault(server.owner, "NetworkPolicy", found, f"ingress from its pods on {port}")


@rule("egress-dns")
def egress_dns(unit: Unit) -> Iterator[Fault]:
    """A pod that connects to a name may ask the cluster's DNS."""
    for pod in unit.pods:
        named = [each for each in routes(unit) if each.endpoint.client is pod and not _ADDRESS.match(each.host)]
        if any(each.place != "pod" for each in named) and not lets_out(unit, pod, DNS, 53, "UDP"):
            yield Fault(pod.owner, "NetworkPolicy", "no policy that lets it ask DNS", "egress on 53/UDP")


@rule("egress-outside")
def egress_outside(unit: Unit) -> Iterator[Fault]:
    """A pod that connects to a host outside of the cluster may do so."""
    for route in routes(unit):
        if route.place == "outside" and not lets_out_of_cluster(unit, route.endpoint.client, [route.port]):
            found = f"no policy that lets it out to {route.host} on {route.port}"
            yield Fault(route.endpoint.client.owner, route.endpoint.path, found, "egress to an ipBlock on that port")


@rule("egress-api-server")
def egress_api_server(unit: Unit) -> Iterator[Fault]:
    """A pod with a token may connect to the API server, which is no pod."""
    for pod in unit.pods:
        if pod.spec.get("automountServiceAccountToken") is True and not lets_out_of_cluster(unit, pod, _API_PORTS):
            yield Fault(pod.owner, "NetworkPolicy", "no policy that lets it out", "egress on 443 and 6443")


@rule("otlp-protocol")
def otlp_protocol(unit: Unit) -> Iterator[Fault]:
    """OTLP over gRPC goes to a receiver of gRPC, OTLP over HTTP to one of HTTP."""
    for route, server, port in _connections(unit):
        if route.endpoint.protocol:
            heard = _heard(unit, server).get(port)
            if heard in ("grpc", "http") and heard != route.endpoint.protocol:
                yield route.fault(
                    f"{route.endpoint.protocol} to {port}", f"{heard}, which {title(server.owner)} takes there"
                )


@rule("otlp-path")
def otlp_path(unit: Unit) -> Iterator[Fault]:
    """OTLP for Prometheus and Loki goes to the path where they take it; for a collector the endpoint has no path."""
    for route, server, port in _connections(unit):
        if route.endpoint.protocol == "http":
            wanted = _otlp_root(server)
            if wanted is None and port in _heard(unit, server):
                wanted = ""
            if wanted is not None and route.path.rstrip("/") != wanted:
                yield route.fault(f"path {route.path or '/'}", f"{wanted or 'none'} for {title(server.owner)}")


@rule("otlp-plaintext")
def otlp_plaintext(unit: Unit) -> Iterator[Fault]:
    """OTLP is sent with TLS to what takes TLS, and in plain text to what does not."""
    for route, server, port in _connections(unit):
        encrypted = _encrypted(unit, server).get(port)
        if route.endpoint.plaintext is not None and encrypted is not None and encrypted == route.endpoint.plaintext:
            found = "plain text" if route.endpoint.plaintext else "TLS"
            expected = (
                f"{'TLS' if encrypted else 'plain text (http:// or tls.insecure: true)'} for {title(server.owner)}"
            )
            yield route.fault(found, expected)


@rule("prometheus-otlp-receiver")
def prometheus_otlp_receiver(unit: Unit) -> Iterator[Fault]:
    """A Prometheus that metrics are sent to has its OTLP receiver switched on."""
    for route, server, _ in _connections(unit):
        if route.path.startswith("/api/v1/otlp"):
            words = [word for container in server.containers for word in container.words]
            if not any(word.startswith("--web.enable-otlp-receiver") for word in words):
                expected = f"--web.enable-otlp-receiver, as {title(route.endpoint.client.owner)} sends to it"
                yield Fault(server.owner, f"{server.path}.containers[].args", "no OTLP receiver", expected)


@lru_cache(maxsize=64)
def routes(unit: Unit) -> Sequence[Route]:
    """Return where each well-formed endpoint of a unit leads."""
    found = ((each, address(each.text)) for each in endpoints(unit))
    return [_route(unit, each, *parts) for each, parts in found if parts]


def _route(unit: Unit, endpoint: Endpoint, host: str, port: int, path: str) -> Route:
    if LOOPBACK.match(host):
        return Route(endpoint, host, port, path, "pod")
    name, space = _service_name(unit, endpoint.client, host)
    if name is None:
        return Route(endpoint, host, port, path, "outside")
    return Route(endpoint, host, port, path, "cluster", unit.find("Service", name, space))


def _service_name(unit: Unit, client: Pod, host: str) -> tuple[str | None, str]:
    """Return name and namespace of the Service that a host names, no name for one outside of the cluster."""
    words = _SUFFIX.sub("", host).split(".")
    if _ADDRESS.match(host):
        return None, ""
    if len(words) == 1:
        return words[0], client.namespace
    # A pod of a StatefulSet has a name below that of its Service.
    for at, space in ((words[1], client.namespace), (words[1], words[2] if len(words) == 3 else "")):
        pods = (
            title(pod.owner).rpartition("/")[2] for pod in unit.behind(unit.find("Service", at, space) or {"spec": {}})
        )
        if any(re.fullmatch(rf"{re.escape(name)}-[0-9]+", words[0]) for name in pods):
            return at, space
    inside = len(words) == 2 and (host != ".".join(words) or words[1] not in _DOMAINS)
    return (words[0], words[1]) if inside or _SUFFIX.search(host) else (None, "")


def _connections(unit: Unit) -> Iterator[tuple[Route, Pod, int]]:
    """Yield the routes with the pods that they end in and the port there."""
    for route in routes(unit):
        for port in mappings(route.service, "spec", "ports") if route.service else ():
            if port.get("port") == route.port:
                for server in unit.behind(route.service or {}):
                    number = server.port(target_port(port))
                    if number is not None:
                        yield route, server, number


def _heard(unit: Unit, server: Pod) -> dict[int, str]:
    """Return the protocols that the collector in a pod receives, by port."""
    own = [each for each in every_collector(unit) if each.pod is server]
    return {one.port: one.kind for each in own for one in each.listeners() if one.keys[0] == "receivers"}


def _encrypted(unit: Unit, server: Pod) -> dict[int, bool]:
    own = [each for each in every_collector(unit) if each.pod is server]
    return {
        one.port: dig(each.config, *one.keys, "tls") is not None
        for each in own
        for one in each.listeners()
        if one.keys[0] == "receivers"
    }


def _otlp_root(server: Pod) -> str | None:
    """Return the path below which a backend takes OTLP, None if it is not known."""
    for part, path in (("prom/prometheus", "/api/v1/otlp"), ("grafana/loki", "/otlp")):
        if any(container.repository.endswith(part) for container in server.containers):
            return path
    return None
