"""
How a pod is put together from its plan: addresses, files, environment, volumes and command lines.

Everything that can be wrong with a manifest comes out here, before a process is started.
"""

import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kube.cluster.container import Container
from kube.cluster.environment import PodValues, expand, variables
from kube.cluster.errors import ObjectError
from kube.cluster.names import DOMAIN
from kube.cluster.network import NODE, Link
from kube.cluster.objects import Objects
from kube.cluster.pod import Pod
from kube.cluster.process import Process, program
from kube.cluster.sandbox import PATH, Image, command_line, identity, wrap
from kube.cluster.volumes import Volume, Volumes, mounts
from kube.cluster.workloads import PodPlan
from kube.objects import Object, image_name

__all__ = ["Assembly"]

_DEFAULT_GRACE_SECONDS = 30.0
_NODE_NAME = "node-0"
_USERS = "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"
_GROUPS = "root:x:0:\nnogroup:x:65534:\n"
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """
    Puts pods together.

    Attributes:
        objects: What was applied.
        images: Name without tag to what stands for it.
        overrides: Variables by the name of a container or of a workload, which win over everything else.
        directory: Where files of pods, claims and logs go.
        name_server: The address of the DNS Service.
        links: The variables that name a namespace's Services; its second argument is `enableServiceLinks`.
        changed: Called when the readiness of a pod may have changed.
        pace: Factor on the times of probes.
    """

    objects: Objects
    images: Mapping[str, Image]
    overrides: Mapping[str, Mapping[str, str]]
    directory: Path
    name_server: str
    links: Callable[[str, bool], Mapping[str, str]]
    changed: Callable[[], None]
    pace: float

    def pod(self, plan: PodPlan, link: Link, *, after: tuple[Pod, ...] = (), separate_errors: bool = False) -> Pod:
        """
        Put a pod together, without starting it.

        Args:
            after: Pods that shall be ready before it starts.
            separate_errors: Standard error goes to a file of its own, beside the log.

        Raises:
            ObjectError: It cannot run as it is written.
        """
        draft = _Draft(self, plan, link, separate_errors=separate_errors)
        return Pod(
            plan=plan,
            uid=draft.values.uid,
            link=link,
            initial=[draft.container(spec, "OnFailure") for spec in plan.spec.get("initContainers") or []],
            containers=[draft.container(spec, "Always") for spec in plan.spec["containers"]],
            after=after,
        )


@dataclass(slots=True)
class _Draft:
    """A pod on the way."""

    assembly: Assembly
    plan: PodPlan
    link: Link
    separate_errors: bool = field(kw_only=True)
    values: PodValues = field(init=False)
    volumes: Mapping[str, Volume] = field(init=False)
    etc: Mapping[str, Path] = field(init=False)
    _directory: Path = field(init=False)

    def __post_init__(self) -> None:
        plan = self.plan
        self._directory = self.assembly.directory / "pods" / plan.namespace / plan.name
        # A pod of the same name may have been there before, whose emptyDirs died with it.
        shutil.rmtree(self._directory, ignore_errors=True)
        self.values = PodValues(
            name=plan.name,
            namespace=plan.namespace,
            uid=_uid(f"{plan.namespace}/{plan.name}/{self.link.ip}"),
            labels=plan.labels,
            annotations=plan.annotations,
            ip=self.link.ip,
            host_ip=NODE,
            node=_NODE_NAME,
            service_account=plan.spec.get("serviceAccountName") or "default",
        )
        first = plan.spec["containers"][0]
        self.volumes = Volumes(
            objects=self.assembly.objects,
            pod=self.values,
            identity=identity(plan.spec, first, self._image(first), self._where(first)),
            directory=self._directory / "volumes",
            claims=self.assembly.directory / "claims",
            where=plan.owner,
        ).create(plan.spec.get("volumes") or [])
        self.etc = self._write_etc()

    def container(self, spec: Object, restart: str) -> Container:
        where = self._where(spec)
        policy = self.plan.spec.get("restartPolicy") or "Always"
        _check_probes(spec, where)
        log = self.assembly.directory / "logs" / self.plan.namespace / self.plan.name / f"{spec['name']}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        return Container(
            name=spec["name"],
            spec=spec,
            start=self._start(spec, log, where),
            ip=self.link.ip,
            log=log,
            grace_seconds=float(self.plan.spec.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_SECONDS)),
            restart=spec.get("restartPolicy")
            or (policy if "Never" in (policy, restart) or restart == "Always" else restart),
            pace=self.assembly.pace,
            changed=self.assembly.changed,
            where=where,
        )

    def _start(self, spec: Object, log: Path, where: str) -> Callable[[], Process]:
        image = self._image(spec)
        environment = self._environment(spec, image, where)
        command = [expand(each, environment) for each in command_line(spec, image, where)]
        who = identity(self.plan.spec, spec, image, where)
        mounted = mounts(spec, self.volumes, where)
        security = spec.get("securityContext") or {}
        bwrap = program("bwrap")

        def wrapped(info_descriptor: int) -> list[str]:
            return wrap(
                bwrap=bwrap,
                command=command,
                who=who,
                mounts=mounted,
                binds=image.reads(),
                etc=self.etc,
                host_name=self._host_name(),
                working_directory=spec.get("workingDir") or image.working_directory,
                writable_tmp=not security.get("readOnlyRootFilesystem"),
                info_descriptor=info_descriptor,
            )

        errors = log.with_suffix(".err") if self.separate_errors else None
        return lambda: Process(wrapped, network=self.link.namespace, environment=environment, log=log, errors=errors)

    def _where(self, spec: Object) -> str:
        return f"{self.plan.owner}: container {spec['name']}"

    def _image(self, spec: Object) -> Image:
        name = image_name(spec["image"])
        if name not in self.assembly.images:
            existing = ", ".join(self.assembly.images) or "none"
            raise ObjectError(f"{self._where(spec)}: image {name} is not known, only {existing}")
        return self.assembly.images[name]

    def _environment(self, spec: Object, image: Image, where: str) -> dict[str, str]:
        manifest = self.plan.spec
        links = self.assembly.links(self.plan.namespace, bool(manifest.get("enableServiceLinks", True)))
        given = variables(spec, pod=self.values, objects=self.assembly.objects, links=links, where=where)
        overrides = self.assembly.overrides
        return {
            "PATH": PATH,
            # What a runtime sets for a user that the image does not know.
            "HOME": "/",
            "HOSTNAME": self._host_name(),
            **image.environment,
            **given,
            **overrides.get(self.plan.workload, {}),
            **overrides.get(spec["name"], {}),
        }

    def _host_name(self) -> str:
        # As the kubelet cuts it: the kernel takes no more.
        return (self.plan.host_name or self.plan.name)[:63].rstrip("-.")

    def _write_etc(self) -> dict[str, Path]:
        directory = self._directory / "etc"
        directory.mkdir(parents=True)
        files = {
            "group": _GROUPS,
            "hostname": f"{self._host_name()}\n",
            "hosts": self._hosts(),
            "passwd": _USERS,
            "resolv.conf": self._resolver(),
        }
        for name, text in files.items():
            (directory / name).write_text(text)
        return {name: directory / name for name in files}

    def _hosts(self) -> str:
        lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
        full = [f"{self.plan.host_name}.{self.plan.subdomain}.{self.plan.namespace}.svc.{DOMAIN}"]
        names = [*(full if self.plan.host_name and self.plan.subdomain else []), self._host_name()]
        lines.append("\t".join([self.link.ip, *names]))
        lines += ["\t".join([alias["ip"], *alias["hostnames"]]) for alias in self.plan.spec.get("hostAliases") or []]
        return "".join(f"{line}\n" for line in lines)

    def _resolver(self) -> str:
        if self.plan.spec.get("dnsPolicy", "ClusterFirst") != "ClusterFirst":
            # The node's own resolver knows nothing here.
            return ""
        searched = f"{self.plan.namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}"
        return f"search {searched}\nnameserver {self.assembly.name_server}\noptions ndots:5\n"


def _check_probes(spec: Object, where: str) -> None:
    named = [port["name"] for port in spec.get("ports") or [] if "name" in port]
    for probe in _PROBES:
        for handler in ("httpGet", "tcpSocket"):
            port = ((spec.get(probe) or {}).get(handler) or {}).get("port")
            if isinstance(port, str) and port not in named:
                raise ObjectError(f"{where}: {probe} of port {port!r}, the container has {', '.join(named) or 'none'}")


def _uid(text: str) -> str:
    # Not random: a test's output is then the same each time.
    return str(uuid.uuid5(uuid.NAMESPACE_URL, text))
