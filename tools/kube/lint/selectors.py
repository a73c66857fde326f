"""Label selectors and targets: what selects something must find it, and nothing else."""

from collections.abc import Iterator

from kube.lint.files import listed
from kube.lint.finding import Fault
from kube.lint.registry import rule
from kube.lint.unit import Unit
from kube.objects import Object, Pod, dig, labels, mapping, mappings, matches, metadata_name, namespace, title

_CONTROLLERS = ("DaemonSet", "Deployment", "ReplicaSet", "StatefulSet")


@rule("workload-selector")
def workload_selector(unit: Unit) -> Iterator[Fault]:
    """A workload's selector finds the pods of its own template."""
    for pod in unit.pods:
        selector = dig(pod.owner, "spec", "selector")
        if pod.owner.get("kind") in _CONTROLLERS and not matches(selector, pod.labels):
            yield Fault(pod.owner, "spec.selector", shown(selector), f"labels of its template: {_labels(pod)}")


@rule("selector-overlap")
def selector_overlap(unit: Unit) -> Iterator[Fault]:
    """Two workloads of a namespace do not select each other's pods."""
    for pod in unit.pods:
        for other in unit.selected(dig(pod.owner, "spec", "selector"), pod.namespace):
            if pod.owner.get("kind") in _CONTROLLERS and title(other.owner) != title(pod.owner):
                found = f"a selector that also finds the pods of {title(other.owner)}"
                yield Fault(pod.owner, "spec.selector", found, "a selector of its own pods")


@rule("service-selector")
def service_selector(unit: Unit) -> Iterator[Fault]:
    """A Service's selector finds the pods of a workload."""
    for service in unit.kind("Service"):
        selector = dig(service, "spec", "selector")
        if selector and not unit.behind(service):
            yield Fault(service, "spec.selector", shown(selector), _there(unit, service))


@rule("disruption-budget-selector")
def disruption_budget_selector(unit: Unit) -> Iterator[Fault]:
    """A PodDisruptionBudget's selector finds the pods of a workload."""
    for budget in unit.kind("PodDisruptionBudget"):
        selector = dig(budget, "spec", "selector")
        if not unit.selected(selector, namespace(budget)):
            yield Fault(budget, "spec.selector", shown(selector), _there(unit, budget))


@rule("network-policy-selector")
def network_policy_selector(unit: Unit) -> Iterator[Fault]:
    """A NetworkPolicy that names pods finds the pods of a workload."""
    for policy in unit.kind("NetworkPolicy"):
        selector = dig(policy, "spec", "podSelector")
        if selector and not unit.selected(selector, namespace(policy)):
            yield Fault(policy, "spec.podSelector", shown(selector), _there(unit, policy))


@rule("network-policy-peer")
def network_policy_peer(unit: Unit) -> Iterator[Fault]:
    """A peer in a NetworkPolicy finds pods; those of a namespace that a cluster brings along are not known."""
    for policy in unit.kind("NetworkPolicy"):
        for direction, key in (("ingress", "from"), ("egress", "to")):
            for number, each in enumerate(mappings(policy, "spec", direction)):
                for peer in mappings(each, key):
                    if "ipBlock" not in peer and not _finds(unit, policy, peer):
                        path = f"spec.{direction}[{number}].{key}"
                        yield Fault(policy, path, shown(peer), "a peer that finds pods of a workload")


def _finds(unit: Unit, policy: Object, peer: Object) -> bool:
    spaces = [namespace(policy)]
    if "namespaceSelector" in peer:
        spaces = [name for name, these in unit.namespaces.items() if matches(peer["namespaceSelector"], these)]
    # The cluster's own pods, such as those of DNS, are in nobody's manifests.
    if any(space.startswith("kube-") for space in spaces):
        return True
    return any(unit.selected(peer.get("podSelector", {}), space) for space in spaces)


@rule("network-policy-types")
def network_policy_types(unit: Unit) -> Iterator[Fault]:
    """The policyTypes of a NetworkPolicy name each direction that it has rules for: it ignores the other rules."""
    for policy in unit.kind("NetworkPolicy"):
        types = dig(policy, "spec", "policyTypes")
        for direction in ("Ingress", "Egress"):
            if types and direction not in types and dig(policy, "spec", direction.lower()):
                found = f"{listed(types)}, though there is {direction.lower()}"
                yield Fault(policy, "spec.policyTypes", found, f"{direction} besides, or none of its rules")


@rule("spread-selector")
def spread_selector(unit: Unit) -> Iterator[Fault]:
    """A topology spread constraint counts the pods that carry it."""
    for pod in unit.pods:
        for number, each in enumerate(mappings(pod.spec, "topologySpreadConstraints")):
            if not matches(each.get("labelSelector"), pod.labels):
                path = f"{pod.path}.topologySpreadConstraints[{number}].labelSelector"
                yield Fault(pod.owner, path, shown(each.get("labelSelector")), f"labels of its pods: {_labels(pod)}")


@rule("autoscaler-target")
def autoscaler_target(unit: Unit) -> Iterator[Fault]:
    """The target of an autoscaler exists."""
    for scaler in unit.kind("HorizontalPodAutoscaler", "ScaledObject"):
        target = mapping(scaler, "spec", "scaleTargetRef")
        kind = str(target.get("kind", "Deployment"))
        if unit.find(kind, target.get("name"), namespace(scaler)) is None:
            there = [metadata_name(each) for each in unit.every(kind) if namespace(each) == namespace(scaler)]
            found = f"{kind} {target.get('name')}"
            yield Fault(scaler, "spec.scaleTargetRef", found, f"a {kind} in {namespace(scaler)}: {listed(there)}")


@rule("stateful-set-service")
def stateful_set_service(unit: Unit) -> Iterator[Fault]:
    """A StatefulSet's serviceName is a Service of its pods; of several pods a headless one, which names each."""
    for thing in unit.kind("StatefulSet"):
        name = dig(thing, "spec", "serviceName")
        service = unit.find("Service", name, namespace(thing))
        own = service and title(thing) in {title(pod.owner) for pod in unit.behind(service)}
        several = dig(thing, "spec", "replicas") not in (None, 1)
        if not own or (several and dig(service, "spec", "clusterIP") != "None"):
            yield Fault(thing, "spec.serviceName", str(name), f"a {'headless ' if several else ''}Service of its pods")


@rule("monitor-selector")
def monitor_selector(unit: Unit) -> Iterator[Fault]:
    """A ServiceMonitor or PodMonitor finds a Service or pods that have the port it scrapes."""
    for monitor in unit.kind("PodMonitor", "ServiceMonitor"):
        names = [_scraped(unit, monitor, space) for space in _spaces(unit, monitor)]
        ports = {name for found in names for name in found}
        key = "endpoints" if monitor.get("kind") == "ServiceMonitor" else "podMetricsEndpoints"
        for number, endpoint in enumerate(mappings(monitor, "spec", key)):
            if endpoint.get("port") not in ports:
                found = f"port {endpoint.get('port')} with {shown(dig(monitor, 'spec', 'selector'))}"
                yield Fault(monitor, f"spec.{key}[{number}]", found, f"a port that the selector finds: {listed(ports)}")


def _spaces(unit: Unit, monitor: Object) -> list[str]:
    wanted = mapping(monitor, "spec", "namespaceSelector")
    if wanted.get("any"):
        return list(unit.namespaces)
    return [str(name) for name in wanted.get("matchNames") or [namespace(monitor)]]


def _scraped(unit: Unit, monitor: Object, space: str) -> list[str]:
    selector = dig(monitor, "spec", "selector")
    if monitor.get("kind") == "PodMonitor":
        return [str(port.get("name")) for pod in unit.selected(selector, space) for port in pod.ports()]
    services = [each for each in unit.every("Service") if namespace(each) == space and matches(selector, labels(each))]
    return [str(port.get("name")) for each in services for port in mappings(each, "spec", "ports")]


def shown(selector: object) -> str:
    """Return a selector, or what else stands in its place, in one line."""
    if isinstance(selector, dict):
        return ", ".join(f"{key}={shown(value)}" for key, value in selector.items()) or "everything"
    return str(selector)


def _labels(pod: Pod) -> str:
    return shown(dict(pod.labels))


def _there(unit: Unit, thing: Object) -> str:
    pods = (pod for pod in unit.every_pod if pod.namespace == namespace(thing))
    return f"pods in {namespace(thing)}: {listed(f'{title(pod.owner)} ({_labels(pod)})' for pod in pods)}"
