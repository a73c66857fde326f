"""Service accounts, their tokens, and the rights that they carry."""

from collections.abc import Iterator

from kube.lint.collector_config import collectors
from kube.lint.files import listed
from kube.lint.finding import Fault
from kube.lint.registry import rule
from kube.lint.unit import Unit
from kube.objects import Object, Pod, dig, mapping, mappings, metadata_name, namespace

_BINDINGS = ("ClusterRoleBinding", "RoleBinding")


@rule("service-account-exists")
def service_account_exists(unit: Unit) -> Iterator[Fault]:
    """The ServiceAccount of a pod exists."""
    for pod in unit.pods:
        name = _account(pod)
        if name != "default" and unit.find("ServiceAccount", name, pod.namespace) is None:
            there = (metadata_name(each) for each in unit.every("ServiceAccount") if namespace(each) == pod.namespace)
            expected = f"a ServiceAccount in {pod.namespace}: {listed(there)}"
            yield Fault(pod.owner, f"{pod.path}.serviceAccountName", name, expected)


@rule("service-account-own", house=True)
def service_account_own(unit: Unit) -> Iterator[Fault]:
    """A workload runs under an account of its own, so that a right given to it is given to nobody else."""
    for pod in unit.pods:
        others = [each for each in unit.every_pod if each is not pod and each.namespace == pod.namespace]
        if _account(pod) == "default" or any(_account(each) == _account(pod) for each in others):
            yield Fault(pod.owner, f"{pod.path}.serviceAccountName", _account(pod), "an account of its own")


@rule("role-binding")
def role_binding(unit: Unit) -> Iterator[Fault]:
    """A binding joins a role that exists with accounts that exist."""
    for binding in unit.kind(*_BINDINGS):
        reference = mapping(binding, "roleRef")
        kind, name = str(reference.get("kind")), reference.get("name")
        if _role(unit, binding) is None:
            there = (metadata_name(each) for each in unit.every(kind))
            yield Fault(binding, "roleRef", f"{kind} {name}", f"a {kind} that exists: {listed(there)}")
        for subject in _accounts(binding):
            space = str(subject.get("namespace") or namespace(binding))
            if unit.find("ServiceAccount", subject.get("name"), space) is None:
                there = (f"{namespace(each)}/{metadata_name(each)}" for each in unit.every("ServiceAccount"))
                found = f"ServiceAccount {space}/{subject.get('name')}"
                yield Fault(binding, "subjects", found, f"an account that exists: {listed(there)}")


@rule("token-mounted")
def token_mounted(unit: Unit) -> Iterator[Fault]:
    """A pod has the token of its account where a role is bound to it, and nowhere else."""
    for pod in unit.pods:
        account = unit.find("ServiceAccount", _account(pod), pod.namespace) or {}
        mounted = pod.spec.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True))
        wanted = bool(_rules(unit, pod))
        if mounted is not wanted:
            path = f"{pod.path}.automountServiceAccountToken"
            reason = "as a role is bound to its account" if wanted else "as no role is bound to its account"
            yield Fault(pod.owner, path, str(mounted).lower(), f"{str(wanted).lower()}, {reason}")


@rule("role-wildcard")
def role_wildcard(unit: Unit) -> Iterator[Fault]:
    """A role names what it allows."""
    for role in unit.kind("ClusterRole", "Role"):
        for number, each in enumerate(mappings(role, "rules")):
            if "*" in [word for key in ("apiGroups", "resources", "verbs") for word in each.get(key) or []]:
                yield Fault(role, f"rules[{number}]", "*", "names")


@rule("collector-rights")
def collector_rights(unit: Unit) -> Iterator[Fault]:
    """A collector with k8s_attributes may get, list and watch pods and namespaces."""
    for collector in collectors(unit):
        looks_up = any(
            name.partition("/")[0] in ("k8s_attributes", "k8sattributes") for name in collector.used("processors")
        )
        for resource in ("pods", "namespaces") if looks_up else ():
            missing = {"get", "list", "watch"} - _verbs(unit, collector.pod, resource)
            if missing:
                expected = f"{listed(missing)} on {resource} for account {_account(collector.pod)}"
                path = f"{collector.pod.path}.serviceAccountName"
                yield Fault(collector.pod.owner, path, "k8s_attributes without the right", expected)


def _verbs(unit: Unit, pod: Pod, resource: str) -> set[str]:
    rules = _rules(unit, pod)
    return {
        str(verb) for each in rules if resource in (each.get("resources") or []) for verb in each.get("verbs") or []
    }


def _rules(unit: Unit, pod: Pod) -> list[Object]:
    """Return the rules of all roles bound to the account of a pod."""
    found = []
    for binding in unit.every(*_BINDINGS):
        for subject in _accounts(binding):
            here = (subject.get("name"), subject.get("namespace") or namespace(binding))
            if here == (_account(pod), pod.namespace):
                found += mappings(_role(unit, binding) or {}, "rules")
    return found


def _role(unit: Unit, binding: Object) -> Object | None:
    kind, name = str(dig(binding, "roleRef", "kind")), dig(binding, "roleRef", "name")
    return unit.find(kind, name, namespace(binding) if kind == "Role" else "")


def _accounts(binding: Object) -> list[Object]:
    return [each for each in mappings(binding, "subjects") if each.get("kind") == "ServiceAccount"]


def _account(pod: Pod) -> str:
    return str(pod.spec.get("serviceAccountName") or "default")
