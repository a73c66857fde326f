"""Ports of a collector: its receivers, its container, its Services and its probes agree on them."""

from collections.abc import Iterator

from kube.lint.collector_config import collectors
from kube.lint.files import listed
from kube.lint.finding import Fault
from kube.lint.ports import known, target_port
from kube.lint.registry import rule
from kube.lint.unit import Unit
from kube.objects import mapping, mappings


@rule("collector-loopback")
def loopback(unit: Unit) -> Iterator[Fault]:
    """What others must reach does not listen on localhost, which is where a receiver without endpoint listens."""
    for each in collectors(unit):
        for listener in each.listeners():
            if listener.loopback and listener.kind != "query":
                found = f"{listener.host}:{listener.port}"
                yield Fault(*each.place(*listener.keys), found, f"${{env:POD_IP}}:{listener.port}")


@rule("collector-container-port")
def container_port(unit: Unit) -> Iterator[Fault]:
    """The ports a collector listens on are those of its container."""
    for each in collectors(unit):
        declared = {port.get("containerPort") for port in each.container.ports}
        listening = {listener.port for listener in each.listeners()}
        for listener in each.listeners():
            if listener.port not in declared and not (listener.kind == "query" and listener.loopback):
                path = f"{each.container.path}.ports"
                found = f"no {listener.port}, where {'.'.join(listener.keys)} listens"
                yield Fault(each.pod.owner, path, found, f"it, beside {known(each.container.ports)}")
        for number in sorted(port for port in declared - listening if isinstance(port, int)):
            expected = f"a port that it listens on: {listed(listening)}"
            yield Fault(each.pod.owner, f"{each.container.path}.ports", str(number), expected)


@rule("collector-service")
def collector_service(unit: Unit) -> Iterator[Fault]:
    """A Service offers the ports of a collector's receivers."""
    for each in collectors(unit):
        services = [
            service for service in unit.every("Service") if any(pod is each.pod for pod in unit.behind(service))
        ]
        targets = [target_port(port) for service in services for port in mappings(service, "spec", "ports")]
        offered = {target if isinstance(target, int) else each.pod.port(target) for target in targets}
        ports = {listener.port for listener in each.listeners() if listener.keys[0] == "receivers"}
        broken = any(each.pod.port(target) is None for target in targets)
        if ports - offered and not broken:
            found = f"no Service for {listed(ports - offered)}"
            yield Fault(each.pod.owner, each.pod.path, found, "a Service that selects the pods and has the port")


@rule("collector-health")
def health(unit: Unit) -> Iterator[Fault]:
    """The probes ask the port and path where the health extension answers."""
    for each in collectors(unit):
        answering = {
            (one.port, one.url_path)
            for one in each.listeners()
            if one.kind == "health" and one.keys[1] in each.used("extensions")
        }
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = mapping(each.container.spec, probe, "httpGet")
            place = (each.pod.port(asked.get("port")), str(asked.get("path") or "/"))
            if asked and place[0] is not None and place not in answering:
                expected = listed(f"{path} on {port}" for port, path in answering)
                path = f"{each.container.path}.{probe}.httpGet"
                yield Fault(each.pod.owner, path, f"{place[1]} on {place[0]}", f"the health extension's: {expected}")
