"""One pod: its containers in their order, and what others see of it."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kube.cluster.container import Container, Ending
from kube.cluster.facts import PodFacts, Port
from kube.cluster.network import Link
from kube.cluster.workloads import PodPlan
from kube.objects import Object

__all__ = ["Pod", "Termination"]

_SHOWN_LINES = 8
_LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Termination:
    """How a pod ended when it was asked to, by the name of each container."""

    endings: Mapping[str, Ending]

    @property
    def exit_code(self) -> int | None:
        """Of its only or first container."""
        return next(iter(self.endings.values())).exit_code

    @property
    def killed(self) -> bool:
        """Whether a container was still there when the grace period was over."""
        return any(ending.killed for ending in self.endings.values())

    @property
    def seconds(self) -> float:
        """How long it took."""
        return max(ending.seconds for ending in self.endings.values())


class Pod:
    """
    A pod that was created.

    Attributes:
        plan: What it was created from.
        uid: What tells it from another pod of the same name.
        link: Its place in the network.
        terminating: It is being ended, and takes no more traffic.
    """

    def __init__(
        self,
        *,
        plan: PodPlan,
        uid: str,
        link: Link,
        initial: Sequence[Container],
        containers: Sequence[Container],
        after: "Sequence[Pod]" = (),
    ) -> None:
        self.plan = plan
        self.uid = uid
        self.link = link
        self.terminating = False
        self.containers = {container.name: container for container in containers}
        self._initial = initial
        self._after = after
        self._ports = tuple(_ports(plan.spec))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._bring_up, name=f"pod {plan.name}", daemon=True)

    @property
    def name(self) -> str:
        """Its name."""
        return self.plan.name

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return self.plan.namespace

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels, those of its controller included."""
        return self.plan.labels

    @property
    def ip(self) -> str:
        """Its address."""
        return self.link.ip

    @property
    def ready(self) -> bool:
        """Whether it takes traffic."""
        return not self.terminating and all(container.ready for container in self._lasting())

    @property
    def succeeded(self) -> bool:
        """Whether it has done what it had to do once, such as a Job's."""
        return self.plan.runs_once and all(
            container.finished and container.exit_code == 0 for container in self.containers.values()
        )

    @property
    def settled(self) -> bool:
        """Whether there is nothing to wait for: it is ready, or being ended, or has succeeded if it runs once."""
        return self.terminating or (self.succeeded if self.plan.runs_once else self.ready)

    @property
    def restarts(self) -> int:
        """How often its containers were started again."""
        return sum(container.restarts for container in self._all())

    def facts(self) -> PodFacts:
        """What others see of it now."""
        return PodFacts(
            name=self.name,
            namespace=self.namespace,
            ip=self.ip,
            labels=self.labels,
            ready=self.ready,
            ports=self._ports,
            host_name=self.plan.host_name,
            subdomain=self.plan.subdomain,
        )

    def start(self) -> None:
        """Start it; returns at once."""
        self._thread.start()

    def kill(self) -> None:
        """End its containers with SIGKILL and keep them down."""
        for container in self.containers.values():
            container.kill()

    def revive(self) -> None:
        """Let its containers start again after `kill`."""
        for container in self.containers.values():
            container.revive()

    def stop(self, grace_seconds: float | None = None) -> Termination:
        """End all its containers at the same time; see `Container.stop`."""
        self.terminating = True
        self._stop.set()
        endings: dict[str, Ending] = {}

        def end(container: Container) -> None:
            endings[container.name] = container.stop(grace_seconds)

        threads = [threading.Thread(target=end, args=(container,)) for container in self._all()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._thread.ident is not None:
            self._thread.join()
        return Termination(endings={name: endings[name] for name in self.containers})

    def logs(self) -> str:
        """What its containers wrote, in the order of the containers, all runs of each."""
        return "".join(container.log.read_text(errors="replace") for container in self._all() if container.log.exists())

    def explain(self) -> str:
        """Why it is not ready, in a few lines."""
        lines = [f"{self.namespace}/{self.name}:"]
        for container in self._unfinished() or [each for each in self._lasting() if not each.ready]:
            lines.append(f"  container {container.name}: {container.reason} (restarts: {container.restarts})")
            written = container.log.read_text(errors="replace") if container.log.exists() else ""
            lines += [f"    | {line}" for line in written.splitlines()[-_SHOWN_LINES:]]
        return "\n".join(lines)

    def _lasting(self) -> list[Container]:
        return [*(container for container in self._initial if container.is_sidecar), *self.containers.values()]

    def _unfinished(self) -> list[Container]:
        """The init container that the others wait for, if there is one."""
        waiting = [each for each in self._initial if not (each.is_sidecar or (each.finished and each.exit_code == 0))]
        return waiting[:1]

    def _all(self) -> list[Container]:
        return [*self._initial, *self.containers.values()]

    def _bring_up(self) -> None:
        for before in self._after:
            self._wait_until_ready(before)
        if all(self._has_begun(container) for container in self._initial):
            for container in self.containers.values():
                container.start()

    def _has_begun(self, container: Container) -> bool:
        """Start an init container and wait until it has succeeded or, as a sidecar, started; False if it never will."""
        container.start()
        while not (container.finished or (container.is_sidecar and container.started)):
            if self._stop.wait(_LOOK_SECONDS):
                return False
        return container.is_sidecar or container.exit_code == 0

    def _wait_until_ready(self, other: "Pod") -> None:
        while not (other.ready or other.terminating or self._stop.wait(_LOOK_SECONDS)):
            pass


def _ports(spec: Object) -> list[Port]:
    return [
        Port(port.get("name") or "", port["containerPort"], port.get("protocol") or "TCP")
        for container in [*(spec.get("initContainers") or []), *spec["containers"]]
        for port in container.get("ports") or []
    ]
