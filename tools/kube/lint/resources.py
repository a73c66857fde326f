"""What containers ask of a node, and the time they have to leave it."""

import re
from collections.abc import Iterator

from kube.lint.files import listed
from kube.lint.finding import Fault
from kube.lint.images import go_program, service_of
from kube.lint.registry import rule
from kube.lint.unit import Unit
from kube.objects import Container, byte_quantity, dig

# The defaults of RSKETCH_<SERVICE>_DRAIN_SECONDS and RSKETCH_TELEMETRY_FLUSH_SECONDS.
_DRAIN_SECONDS, _FLUSH_SECONDS = 10.0, 3.0
_GRACE_SECONDS = 30.0
_SLEEP = re.compile(r"\bsleep\s+([0-9.]+)")


@rule("resources-set")
def resources_set(unit: Unit) -> Iterator[Fault]:
    """A container requests processor time and memory, and has a limit of memory."""
    for pod in unit.pods:
        for container in pod.every_container:
            wanted = (("requests", "cpu"), ("requests", "memory"), ("limits", "memory"))
            missing = [
                f"{kind}.{name}" for kind, name in wanted if dig(container.spec, "resources", kind, name) is None
            ]
            if missing:
                yield Fault(pod.owner, f"{container.path}.resources", f"no {listed(missing)}", "requests and limits")


@rule("memory-reserved")
def memory_reserved(unit: Unit) -> Iterator[Fault]:
    """The memory a container may use is the memory it requests, so that no neighbour gets it killed."""
    for pod in unit.pods:
        for container in pod.every_container:
            request, limit = (dig(container.spec, "resources", key, "memory") for key in ("requests", "limits"))
            if request and limit and byte_quantity(request) != byte_quantity(limit):
                yield Fault(pod.owner, f"{container.path}.resources", f"{request} of {limit}", "request = limit")


@rule("go-memory-limit")
def go_memory_limit(unit: Unit) -> Iterator[Fault]:
    """GOMEMLIMIT of a program in Go is 75 to 90 % of the container's limit: it tidies up before it is killed."""
    for pod in unit.pods:
        for container in filter(go_program, pod.containers):
            limit = byte_quantity(dig(container.spec, "resources", "limits", "memory"))
            set_to = container.value("GOMEMLIMIT")
            size = byte_quantity(set_to)
            if limit and (size is None or not 0.75 <= size / limit <= 0.9):
                share = "nothing" if size is None else f"{set_to}, {size / limit:.0%} of the limit"
                yield Fault(pod.owner, f"{container.path}.env[GOMEMLIMIT]", share, "75 % to 90 % of limits.memory")


@rule("grace-period")
def grace_period(unit: Unit) -> Iterator[Fault]:
    """A service of ours is given the time that its preStop hook, its drain and its telemetry take."""
    for pod in unit.pods:
        for container in pod.containers:
            service = service_of(container)
            if service:
                grace = float(pod.spec.get("terminationGracePeriodSeconds", _GRACE_SECONDS))
                needed = _stop_seconds(container, service)
                if grace <= needed:
                    path = f"{pod.path}.terminationGracePeriodSeconds"
                    yield Fault(pod.owner, path, f"{grace:g}", f"more than {needed:g} (preStop, drain, flush)")


def _stop_seconds(container: Container, service: str) -> float:
    drain = container.value(f"{service.upper().replace('-', '_')}_DRAIN_SECONDS")
    flush = container.value("RSKETCH_TELEMETRY_FLUSH_SECONDS")
    return _pre_stop_seconds(container) + float(drain or _DRAIN_SECONDS) + float(flush or _FLUSH_SECONDS)


def _pre_stop_seconds(container: Container) -> float:
    hook = dig(container.spec, "lifecycle", "preStop") or {}
    slept = _SLEEP.search(" ".join(map(str, dig(hook, "exec", "command") or [])))
    return float(slept[1]) if slept else float(dig(hook, "sleep", "seconds") or 0)
