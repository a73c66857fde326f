"""
A Kubernetes cluster of one node, small enough for a test: it runs rendered objects, unchanged, with real processes.

What needs an API server (RBAC, autoscalers, custom resources) is left out and listed in `Cluster.ignored`. What a
node does is done: networks, names, Services, NetworkPolicies, volumes, probes, hooks, restarts and grace periods.
"""

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from kube.cluster.assembly import Assembly
from kube.cluster.errors import ClusterError, ClusterUnavailable
from kube.cluster.facts import PodFacts, Port
from kube.cluster.inside import is_inside
from kube.cluster.names import NameServer, Zone, zone
from kube.cluster.netfilter import ruleset
from kube.cluster.network import SERVICES, Network
from kube.cluster.objects import WORKLOADS, Objects
from kube.cluster.pod import Pod, Termination
from kube.cluster.policy import isolations
from kube.cluster.sandbox import Image, interpreter_binds
from kube.cluster.services import frontends, is_headless, links
from kube.cluster.workloads import PodPlan, claims, plans
from kube.objects import Object, title

__all__ = ["Cluster"]

_API_SERVER, _NAME_SERVER = "10.96.0.1", "10.96.0.10"
_FIRST_SERVICE = 20
_NAME_SERVER_POD = "10.244.0.2"
_ADHOC = "adhoc"
_NAME_LABELS = ("app.kubernetes.io/name", "app", "k8s-app")
_BUILT_IN: tuple[Object, ...] = (
    {
        "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {"clusterIP": _API_SERVER, "ports": [{"name": "https", "port": 443}]},
    },
    {
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {
            "clusterIP": _NAME_SERVER,
            "selector": {"k8s-app": "kube-dns"},
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}],
        },
    },
)


class Cluster:
    """
    A cluster that exists from `with` to its end; then every process and mount of it is gone.

    It must be created inside `kube.cluster.enter`. A ConfigMap that is applied again under its old name changes nothing
    for pods that exist.

    Args:
        objects: What to apply first.
        images: Name without tag to what stands for it.
        workdir: Where files of pods, claims and logs go; logs are kept.
        environment_overrides: Variables by the name of a container or of a workload, for the few things that differ
            without an API server.
        pace: Factor on the times of probes, so that tests need not wait for them.

    Attributes:
        ignored: Titles of objects that mean nothing here.
    """

    def __init__(
        self,
        objects: Sequence[Object],
        images: Mapping[str, Image],
        workdir: Path,
        *,
        environment_overrides: Mapping[str, Mapping[str, str]] | None = None,
        pace: float = 1.0,
    ) -> None:
        self._first = objects
        self._objects = Objects()
        self._network = Network()
        self._pods: list[Pod] = []
        self._addresses: dict[tuple[str, str], str] = {}
        self._zone = Zone()
        self._hosts: dict[str, list[str]] = {}
        self._names_of_addresses: dict[str, str] = {}
        self._publishing = threading.RLock()
        self._change = threading.Condition()
        self._closing = contextlib.ExitStack()
        self._adhoc = 0
        self._replacements = 0
        self._open = False
        self._images = dict(images)
        self._assembly = Assembly(
            objects=self._objects,
            images=self._images,
            overrides=environment_overrides or {},
            directory=workdir,
            name_server=_NAME_SERVER,
            links=self._links,
            changed=self._publish,
            pace=pace,
        )

    @property
    def ignored(self) -> list[str]:
        """Titles of objects that mean nothing without an API server."""
        return self._objects.ignored

    def __enter__(self) -> Self:
        if not is_inside(os.environ):
            raise ClusterUnavailable("run this with: python -m kube.cluster.enter COMMAND…")
        with contextlib.ExitStack() as opened:
            opened.callback(self._network.close)
            link = self._network.attach(_NAME_SERVER_POD)
            bound = self._network.socket(link, socket.SOCK_DGRAM, 53)
            server = NameServer(bound, lambda: self._zone)
            opened.callback(server.close)
            opened.callback(self._end_all)
            self._open = True
            self._add([*_BUILT_IN])
            self.apply(self._first)
            self._closing = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.close()

    def apply(self, objects: Sequence[Object], *, timeout: float = 60.0) -> None:
        """
        Create objects, and replace the pods of workloads that changed; returns before new ones are ready.

        Args:
            timeout: For the new pods of a Deployment, which must be ready before the old ones end.

        Raises:
            ObjectError: An object cannot run as it is written; no pod of it was started.
        """
        for workload in self._add(objects):
            self._roll(workload, timeout)
        self._publish()

    def pods(self, name: str = "", namespace: str = "") -> list[Pod]:
        """The pods that exist: of a workload, of an app label, or of their own name; all without a name."""
        return [
            pod
            for pod in list(self._pods)
            if namespace in ("", pod.namespace) and (not name or name in _names(pod)) and pod.plan.owner != _ADHOC
        ]

    def pod(self, name: str, namespace: str = "") -> Pod:
        """The one pod of that name; see `pods`."""
        found = self.pods(name, namespace)
        if len(found) != 1:
            existing = ", ".join(f"{pod.namespace}/{pod.name}" for pod in self.pods()) or "none"
            raise ClusterError(f"{len(found)} pods are called {name!r}, of {existing}")
        return found[0]

    def wait_ready(self, timeout: float = 60.0, pods: Sequence[Pod] | None = None) -> None:
        """
        Wait until all pods, or those given, are ready or have done what they had to.

        Raises:
            ClusterError: Some are not after so many seconds: which, why, and the last lines that they wrote.
        """
        deadline = time.monotonic() + timeout
        while unready := [pod for pod in (self.pods() if pods is None else pods) if not pod.settled]:
            with self._change:
                if not self._change.wait(min(0.1, deadline - time.monotonic())) and time.monotonic() > deadline:
                    raise ClusterError(self._complaint(unready, timeout))
        # A pod says that it is ready a moment before the network knows.
        self._publish()

    def wait_until(self, condition: Callable[[], bool], timeout: float = 30.0, what: str = "condition") -> None:
        """
        Wait for anything else that a test expects to come true.

        Raises:
            ClusterError: It has not after so many seconds.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise ClusterError(f"not within {timeout:g} s: {what}")
            time.sleep(0.05)
        self._publish()

    def service_ip(self, namespace: str, name: str) -> str:
        """
        The address of a Kubernetes Service.

        Raises:
            ClusterError: There is none, or it is headless.
        """
        address = self._addresses.get((namespace, name))
        if address is None:
            existing = ", ".join(f"{space}/{each}" for space, each in sorted(self._addresses))
            raise ClusterError(f"Service {namespace}/{name} has no address; those that have: {existing}")
        return address

    def logs(self, pod: Pod) -> str:
        """What a pod wrote, all runs of its containers."""
        return pod.logs()

    def kill(self, pod: Pod, *, seconds: float | None = None) -> None:
        """End a pod's containers with SIGKILL and keep them down: until `revive`, or for so many seconds."""
        pod.kill()
        if seconds is not None:
            timer = threading.Timer(seconds, pod.revive)
            timer.daemon = True
            timer.start()

    def revive(self, pod: Pod) -> None:
        """Let a pod start again after `kill`."""
        pod.revive()

    def delete(self, pod: Pod, *, grace_seconds: float | None = None, replace: bool = True) -> Termination:
        """
        End a pod as Kubernetes does: out of its Services, preStop hook, SIGTERM, SIGKILL after the grace period.

        Its controller replaces it: a Deployment's at once, a StatefulSet's when it has ended.

        Args:
            grace_seconds: In place of the manifest's.
            replace: False for a pod that nothing replaces.
        """
        pod.terminating = True
        self._replacements += 1
        successor = pod.plan.successor(self._replacements)
        stable = successor.name == pod.name
        if replace and not stable:
            self._create(successor, ())
        report = self._end(pod, grace_seconds)
        if replace and stable:
            self._create(successor, ())
        return report

    def execute(self, pod: Pod, argv: Sequence[str], *, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run a command in the first container of a pod, as its user and with its environment."""
        return next(iter(pod.containers.values())).execute(argv, timeout)

    def run(
        self,
        namespace: str,
        labels: Mapping[str, str],
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        binds: Sequence[Path] = (),
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """
        Run a command as a pod of its own, to which Services, names and policies apply.

        Args:
            binds: What it needs to read outside /usr; this Python's own are there.

        Raises:
            subprocess.TimeoutExpired: It took longer than so many seconds.
        """
        with self.running(namespace, labels, argv, environment=environment, binds=binds) as pod:
            (container,) = pod.containers.values()
            code = container.wait(timeout)
            if not container.finished:
                raise subprocess.TimeoutExpired(argv, timeout, pod.logs())
        errors = container.log.with_suffix(".err")
        return subprocess.CompletedProcess(
            list(argv), -1 if code is None else code, pod.logs(), errors.read_text(errors="replace")
        )

    @contextlib.contextmanager
    def running(
        self,
        namespace: str,
        labels: Mapping[str, str],
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        binds: Sequence[Path] = (),
        host: str = "",
        address: str | None = None,
    ) -> Iterator[Pod]:
        """
        Run a command as a pod of its own while the block lasts, such as a load or a receiver.

        Args:
            host: A name that all pods find it under, such as that of a backend outside of the cluster.
            address: In place of one of the pod network, such as one outside of it.
        """
        self._adhoc += 1
        name = f"{_ADHOC}-{self._adhoc}"
        image = Image(entrypoint=tuple(argv), environment=environment or {}, binds=(*interpreter_binds(), *binds))
        self._images[name] = image
        plan = PodPlan(
            place=name,
            name=name,
            namespace=namespace,
            labels=labels,
            annotations={},
            spec={"restartPolicy": "Never", "containers": [{"name": "command", "image": name}]},
            owner=_ADHOC,
            workload=name,
            host_name="",
            runs_once=True,
        )
        pod = self._prepare(plan, (), address=address, separate_errors=True)
        if host:
            self._hosts[host] = [pod.ip]
        try:
            self._begin(pod)
            yield pod
        finally:
            self._end(pod, 0.0)
            self._hosts.pop(host, None)

    def denials(self) -> list[str]:
        """The connections that a NetworkPolicy denied so far, each once: from whom to whom."""
        return [
            f"{self._name_of(denial.source)} -> {self._name_of(denial.destination)} {denial.protocol} {denial.port}"
            for denial in self._network.denials()
        ]

    def _add(self, objects: Sequence[Object]) -> list[Object]:
        """Take objects in and return the workloads among them."""
        taken = self._objects.add(objects)
        workloads = [thing for thing in taken if thing["kind"] in WORKLOADS]
        for workload in workloads:
            self._objects.add(claims(workload))
        for thing in taken:
            if thing["kind"] == "Service" and not is_headless(thing) and thing["spec"].get("type") != "ExternalName":
                self._give_address(thing)
        return workloads

    def _give_address(self, service: Object) -> None:
        key = (service["metadata"].get("namespace") or "default", service["metadata"]["name"])
        taken = set(self._addresses.values())
        free = (f"10.96.0.{number}" for number in range(_FIRST_SERVICE, 255))
        wanted = service["spec"].get("clusterIP")
        if key not in self._addresses:
            self._addresses[key] = wanted or next(ip for ip in free if ip not in taken)

    def _roll(self, workload: Object, timeout: float) -> None:
        wanted = plans(workload)
        present = [pod for pod in self.pods() if pod.plan.owner == title(workload)]
        missing = [plan for plan in wanted if plan not in [pod.plan for pod in present]]
        surplus = [pod for pod in present if pod.plan not in wanted]
        strategy = (workload["spec"].get("strategy") or {}).get("type", "RollingUpdate")
        if workload["kind"] != "Deployment" or strategy == "Recreate":
            self._end_several(surplus)
            self._create_all(missing)
            return
        created = self._create_all(missing)
        if surplus and created:
            self.wait_ready(timeout, created)
        self._end_several(surplus)

    def _create_all(self, wanted: Sequence[PodPlan]) -> list[Pod]:
        created: list[Pod] = []
        for plan in wanted:
            created.append(self._create(plan, tuple(created[-1:]) if plan.ordered else ()))
        return created

    def _create(self, plan: PodPlan, after: tuple[Pod, ...]) -> Pod:
        pod = self._prepare(plan, after)
        self._begin(pod)
        return pod

    def _prepare(
        self, plan: PodPlan, after: tuple[Pod, ...], *, address: str | None = None, separate_errors: bool = False
    ) -> Pod:
        link = self._network.attach(address)
        try:
            return self._assembly.pod(plan, link, after=after, separate_errors=separate_errors)
        except BaseException:
            self._network.detach(link)
            raise

    def _begin(self, pod: Pod) -> None:
        self._names_of_addresses[pod.ip] = f"{pod.namespace}/{pod.name}"
        with self._publishing:
            self._pods.append(pod)
        # Policies and names know it before its first packet.
        self._publish()
        pod.start()

    def _end(self, pod: Pod, grace_seconds: float | None) -> Termination:
        pod.terminating = True
        self._publish()
        report = pod.stop(grace_seconds)
        with self._publishing:
            if pod in self._pods:
                self._pods.remove(pod)
        self._network.detach(pod.link)
        self._publish()
        return report

    def _end_several(self, pods: Sequence[Pod]) -> None:
        if pods:
            with ThreadPoolExecutor(len(pods)) as pool:
                list(pool.map(lambda pod: self._end(pod, None), pods))

    def _end_all(self) -> None:
        self._open = False
        for pod in self._pods:
            pod.kill()
        for pod in self._pods:
            pod.stop(0.0)

    def _links(self, namespace: str, enabled: bool) -> dict[str, str]:  # noqa: FBT001
        services = {}
        for (space, name), ip in self._addresses.items():
            service = self._objects.find("Service", space, name)
            if space == namespace and service is not None:
                services[name] = (service, ip)
        return links(services, api_server=_API_SERVER, enabled=enabled)

    def _publish(self) -> None:
        """Tell the network and the name server what is ready now."""
        with self._publishing:
            if self._open:
                facts = [_name_server_facts(), *(pod.facts() for pod in self._pods)]
                self._zone = self._names(facts)
                self._network.program(self._rules(facts))
        with self._change:
            self._change.notify_all()

    def _names(self, facts: Sequence[PodFacts]) -> Zone:
        found = zone(self._objects.every("Service"), self._addresses, facts)
        found.addresses |= self._hosts
        return found

    def _rules(self, facts: Sequence[PodFacts]) -> str:
        services = ((self._objects.find("Service", *key), ip) for key, ip in self._addresses.items())
        return ruleset(
            frontends=[each for service, ip in services if service for each in frontends(service, ip, facts)],
            isolations=isolations(self._objects.every("NetworkPolicy"), facts, self._objects.namespaces()),
            pods=[pod.ip for pod in facts],
            service_network=SERVICES,
        )

    def _name_of(self, address: str) -> str:
        return self._names_of_addresses.get(address, address)

    def _complaint(self, unready: Sequence[Pod], timeout: float) -> str:
        parts = [f"not ready after {timeout:g} s:", *(pod.explain() for pod in unready)]
        denied = self.denials()
        return "\n".join([*parts, *(f"denied by NetworkPolicy: {each}" for each in denied)])


def _name_server_facts() -> PodFacts:
    return PodFacts(
        name="coredns-0",
        namespace="kube-system",
        ip=_NAME_SERVER_POD,
        labels={"k8s-app": "kube-dns"},
        ready=True,
        ports=(Port("dns", 53, "UDP"),),
    )


def _names(pod: Pod) -> set[str]:
    return {pod.name, pod.plan.workload, *(pod.labels[label] for label in _NAME_LABELS if label in pod.labels)}
