"""Ports: numbers that exist, names that lead somewhere."""

from collections import Counter
from collections.abc import Iterable, Iterator

from kube.lint.files import listed
from kube.lint.finding import Fault
from kube.lint.images import service_of
from kube.lint.registry import rule
from kube.lint.unit import Unit
from kube.objects import Container, Object, Pod, dig, mappings, namespace, title

_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@rule("port-range")
def port_range(unit: Unit) -> Iterator[Fault]:
    """A port is a number from 1 to 65535."""
    for pod in unit.pods:
        for container in pod.every_container:
            for port in container.ports:
                if not _is_port(port.get("containerPort")):
                    yield Fault(pod.owner, f"{container.path}.ports", str(port.get("containerPort")), "1 to 65535")
    for service in unit.kind("Service"):
        for port in mappings(service, "spec", "ports"):
            for key in ("port", "targetPort", "nodePort"):
                if isinstance(port.get(key), int) and not _is_port(port[key]):
                    yield Fault(service, f"spec.ports[].{key}", str(port[key]), "1 to 65535")


@rule("service-port")
def service_port(unit: Unit) -> Iterator[Fault]:
    """The port that a variable tells a service of ours to listen on is one of its container."""
    for pod, container in _running(unit):
        name = f"{(service_of(container) or '').upper().replace('-', '_')}_PORT"
        wanted = container.value(name)
        if wanted is not None and wanted not in {str(port.get("containerPort")) for port in container.ports}:
            expected = f"a port of the container: {known(container.ports)}"
            yield Fault(pod.owner, f"{container.path}.env[{name}]", wanted, expected)


@rule("port-unique")
def port_unique(unit: Unit) -> Iterator[Fault]:
    """A port's number and name are used once in a pod and once in a Service."""
    for pod in unit.pods:
        ports = list(pod.ports())
        for found in _twice(ports, "containerPort"):
            yield Fault(pod.owner, f"{pod.path}.containers[].ports", f"{found} twice", "each number and name once")
    for service in unit.kind("Service"):
        for found in _twice(mappings(service, "spec", "ports"), "port"):
            yield Fault(service, "spec.ports", f"{found} twice", "each number and name once")


def _twice(ports: Iterable[Object], number: str) -> list[str]:
    numbers = Counter((port.get(number), port.get("protocol", "TCP")) for port in ports)
    names = Counter(port["name"] for port in ports if "name" in port)
    return [*(str(each[0]) for each, count in numbers.items() if count > 1), *(n for n, c in names.items() if c > 1)]


@rule("service-target-port")
def service_target_port(unit: Unit) -> Iterator[Fault]:
    """A Service's targetPort is a port of every pod that it selects."""
    for service in unit.kind("Service"):
        for number, port in enumerate(mappings(service, "spec", "ports")):
            target = target_port(port)
            for pod in unit.behind(service):
                if _is_target(target) and pod.port(target) is None:
                    found, expected = str(target), f"a port of {title(pod.owner)}: {known(pod.ports())}"
                    yield Fault(service, f"spec.ports[{number}].targetPort", found, expected)


@rule("headless-port")
def headless_port(unit: Unit) -> Iterator[Fault]:
    """A headless Service's port is its target's: nothing translates it, clients connect to the pod itself."""
    for service in unit.kind("Service"):
        for number, port in enumerate(mappings(service, "spec", "ports")):
            actual = {pod.port(target_port(port)) for pod in unit.behind(service)} - {None}
            if dig(service, "spec", "clusterIP") == "None" and actual - {port.get("port")}:
                expected = f"{listed(actual)}, the port of its pods, as the Service is headless"
                yield Fault(service, f"spec.ports[{number}].port", str(port.get("port")), expected)


@rule("network-policy-port")
def network_policy_port(unit: Unit) -> Iterator[Fault]:
    """A port that a NetworkPolicy lets in is one of the pods it selects: pods' ports count, not those of Services."""
    for policy in unit.kind("NetworkPolicy"):
        pods = unit.selected(dig(policy, "spec", "podSelector"), namespace(policy))
        for number, each in enumerate(mappings(policy, "spec", "ingress")):
            for port in (port.get("port") for port in mappings(each, "ports") if "endPort" not in port):
                if pods and port is not None and all(pod.port(port) is None for pod in pods):
                    there = known(one for pod in pods for one in pod.ports())
                    yield Fault(policy, f"spec.ingress[{number}].ports", str(port), f"a port of its pods: {there}")


@rule("probes-set")
def probes_set(unit: Unit) -> Iterator[Fault]:
    """A container that runs on has a startup, a readiness and a liveness probe."""
    for pod, container in _running(unit):
        missing = [probe for probe in _PROBES if not container.spec.get(probe)]
        if missing:
            yield Fault(pod.owner, container.path, f"no {', '.join(missing)}", "all three probes")


@rule("probe-port")
def probe_port(unit: Unit) -> Iterator[Fault]:
    """A probe asks a port that its container has."""
    for pod, container in _running(unit):
        for probe in _PROBES:
            for action in ("grpc", "httpGet", "tcpSocket"):
                port = dig(container.spec, probe, action, "port")
                if port is not None and not any(
                    port in (each.get("name"), each.get("containerPort")) for each in container.ports
                ):
                    expected = f"a port of the container: {known(container.ports)}"
                    yield Fault(pod.owner, f"{container.path}.{probe}.{action}.port", str(port), expected)


def target_port(port: Object) -> object:
    """Return the port of the pods that a Service's port leads to."""
    return port.get("targetPort", port.get("port"))


def known(ports: Iterable[Object]) -> str:
    """Return a list of ports for a message."""
    return listed(f"{port.get('name', '')} {port.get('containerPort')}".strip() for port in ports)


def _running(unit: Unit) -> Iterator[tuple[Pod, Container]]:
    for pod in unit.pods:
        if pod.owner.get("kind") not in ("CronJob", "Job"):
            yield from ((pod, container) for container in pod.containers)


def _is_port(value: object) -> bool:
    return isinstance(value, int) and 1 <= value <= 65535


def _is_target(target: object) -> bool:
    return isinstance(target, str) or _is_port(target)
