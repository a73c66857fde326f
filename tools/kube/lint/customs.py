"""The customs of this repository: labels, namespaces, and what production asks for."""

from collections.abc import Iterator

from kube.lint.collector_config import collectors
from kube.lint.finding import Fault
from kube.lint.images import service_of
from kube.lint.operators import is_made_by_an_operator
from kube.lint.registry import rule
from kube.lint.selectors import shown
from kube.lint.unit import BUILT_IN_NAMESPACES, Unit
from kube.objects import Object, Pod, dig, labels, mapping, mappings, matches, metadata_name, namespace

_NAME, _PART_OF = "app.kubernetes.io/name", "app.kubernetes.io/part-of"


@rule("labels", house=True)
def common_labels(unit: Unit) -> Iterator[Fault]:
    """Every object and every pod says what it is and that it is part of rsketch."""
    for thing in unit.objects:
        if not is_made_by_an_operator(thing):
            yield from _unlabelled(thing, "metadata.labels", dict(labels(thing)))
    for pod in (pod for pod in unit.pods if not is_made_by_an_operator(pod.owner)):
        yield from _unlabelled(pod.owner, f"{pod.path.removesuffix('spec')}metadata.labels", dict(pod.labels))


def _unlabelled(thing: Object, path: str, found: Object) -> Iterator[Fault]:
    if not found.get(_NAME) or found.get(_PART_OF) != "rsketch":
        yield Fault(thing, path, shown(found) if found else "none", f"{_NAME}: <name> and {_PART_OF}: rsketch")


@rule("namespace-restricted", house=True)
def namespace_restricted(unit: Unit) -> Iterator[Fault]:
    """A namespace enforces Pod Security "restricted"."""
    for thing in unit.kind("Namespace"):
        found = labels(thing).get("pod-security.kubernetes.io/enforce")
        if found != "restricted":
            path = "metadata.labels[pod-security.kubernetes.io/enforce]"
            yield Fault(thing, path, str(found), "restricted")


@rule("namespace-default-deny", house=True)
def namespace_default_deny(unit: Unit) -> Iterator[Fault]:
    """In a namespace nothing comes in or goes out but what a policy names."""
    for thing in unit.kind("Namespace"):
        closed = {
            str(direction)
            for policy in unit.every("NetworkPolicy")
            if namespace(policy) == metadata_name(thing) and dig(policy, "spec", "podSelector") == {}
            for direction in dig(policy, "spec", "policyTypes") or ["Ingress"]
            # A rule without peers and ports allows everything.
            if {} not in (dig(policy, "spec", str(direction).lower()) or [])
        }
        missing = {"Ingress", "Egress"} - closed
        if missing:
            expected = "a NetworkPolicy with an empty podSelector and both policyTypes"
            yield Fault(thing, "metadata.name", f"no default for {', '.join(sorted(missing))}", expected)


@rule("network-policy-missing", house=True)
def network_policy_missing(unit: Unit) -> Iterator[Fault]:
    """A policy other than its namespace's default says who may reach a workload's pods."""
    for pod in unit.pods:
        policies = [each for each in unit.every("NetworkPolicy") if namespace(each) == pod.namespace]
        named = [dig(each, "spec", "podSelector") for each in policies if dig(each, "spec", "podSelector")]
        if not any(matches(selector, pod.labels) for selector in named):
            yield Fault(pod.owner, pod.path, "pods that no NetworkPolicy names", "a NetworkPolicy for them")


@rule("service-links", house=True)
def service_links(unit: Unit) -> Iterator[Fault]:
    """
    No pod gets variables for Services.

    A Service called rsketch-http makes Kubernetes set RSKETCH_HTTP_PORT=tcp://…, which is a setting of ours.
    """
    for pod in unit.pods:
        # An operator's resource may have no word for it.
        if pod.spec.get("enableServiceLinks") is not False and not is_made_by_an_operator(pod.owner):
            yield Fault(pod.owner, f"{pod.path}.enableServiceLinks", "true", "false")


@rule("namespace-own", house=True)
def namespace_own(unit: Unit) -> Iterator[Fault]:
    """Nothing lands in a namespace that every cluster has."""
    for thing in unit.objects:
        if namespace(thing) in BUILT_IN_NAMESPACES:
            yield Fault(thing, "metadata.namespace", namespace(thing), "a namespace of its own")


@rule("autoscaler-replicas")
def autoscaler_replicas(unit: Unit) -> Iterator[Fault]:
    """What an autoscaler scales sets no replicas: each apply would undo the autoscaler's work."""
    for pod in unit.pods:
        replicas = dig(pod.owner, "spec", "replicas")
        if replicas is not None and _scaler(unit, pod):
            yield Fault(pod.owner, "spec.replicas", str(replicas), "none, the autoscaler decides")


@rule("disruption-budget-blocks")
def disruption_budget_blocks(unit: Unit) -> Iterator[Fault]:
    """A PodDisruptionBudget lets at least one pod go: otherwise no node can be drained."""
    for budget in unit.kind("PodDisruptionBudget"):
        least, most = dig(budget, "spec", "minAvailable"), dig(budget, "spec", "maxUnavailable")
        pods = unit.selected(dig(budget, "spec", "selector"), namespace(budget))
        if most in (0, "0%") or least == "100%":
            yield Fault(budget, "spec", "no pod that may go", "at least one")
        elif isinstance(least, int) and any(_replicas(unit, pod) <= least for pod in pods):
            fewest = min(_replicas(unit, pod) for pod in pods)
            yield Fault(budget, "spec.minAvailable", f"{least} of {fewest}", "fewer than there are")


@rule("production-autoscaler", house=True)
def production_autoscaler(unit: Unit) -> Iterator[Fault]:
    """In production an autoscaler keeps at least two pods of a service or collector."""
    for pod in _served(unit):
        scaler = _scaler(unit, pod)
        if scaler is None:
            yield Fault(pod.owner, "spec", "no HorizontalPodAutoscaler", "one that keeps at least two pods")
        elif _replicas(unit, pod) < 2:
            yield Fault(scaler, "spec.minReplicas", str(_replicas(unit, pod)), "at least 2")


@rule("production-disruption-budget", house=True)
def production_disruption_budget(unit: Unit) -> Iterator[Fault]:
    """In production a PodDisruptionBudget guards the pods of a service or collector."""
    budgets = list(unit.every("PodDisruptionBudget"))
    for pod in _served(unit):
        own = [each for each in budgets if namespace(each) == pod.namespace]
        if not any(matches(dig(each, "spec", "selector"), pod.labels) for each in own):
            yield Fault(pod.owner, "spec", "no PodDisruptionBudget", "one that selects its pods")


@rule("production-spread", house=True)
def production_spread(unit: Unit) -> Iterator[Fault]:
    """In production the pods of a service or collector are spread over nodes and zones."""
    for pod in _served(unit):
        keys = {each.get("topologyKey") for each in mappings(pod.spec, "topologySpreadConstraints")}
        missing = {"kubernetes.io/hostname", "topology.kubernetes.io/zone"} - keys
        if missing:
            path = f"{pod.path}.topologySpreadConstraints"
            yield Fault(pod.owner, path, f"none for {', '.join(sorted(missing))}", "one for nodes, one for zones")


def _served(unit: Unit) -> Iterator[Pod]:
    """Yield the Deployments that others wait for: services of ours, and collectors."""
    gateways = {id(each.pod) for each in collectors(unit)}
    for pod in unit.pods if unit.production else ():
        serves = id(pod) in gateways or any(service_of(container) for container in pod.containers)
        if serves and pod.owner.get("kind") == "Deployment":
            yield pod


def _scaler(unit: Unit, pod: Pod) -> Object | None:
    """Return the autoscaler of a workload, or of the custom resource that an operator makes it of."""
    owners = mappings(pod.owner, "metadata", "ownerReferences")
    scaled = {(str(pod.owner.get("kind")), metadata_name(pod.owner))}
    scaled |= {(str(owner.get("kind")), str(owner.get("name"))) for owner in owners}
    for scaler in unit.every("HorizontalPodAutoscaler", "ScaledObject"):
        target = mapping(scaler, "spec", "scaleTargetRef")
        named = (str(target.get("kind", "Deployment")), str(target.get("name")))
        if named in scaled and namespace(scaler) == pod.namespace:
            return scaler
    return None


def _replicas(unit: Unit, pod: Pod) -> int:
    scaler = _scaler(unit, pod)
    replicas = dig(scaler, "spec", "minReplicas") if scaler else dig(pod.owner, "spec", "replicas")
    return replicas if isinstance(replicas, int) else 1
