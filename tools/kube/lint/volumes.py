"""Volumes, and the files and folders that a container expects in them."""

import re
from collections import Counter
from collections.abc import Iterator

from kube.lint.files import files, is_there, is_writable, listed, mount_of, volume_of
from kube.lint.finding import Fault
from kube.lint.registry import rule
from kube.lint.unit import Unit
from kube.objects import Container, Object, Pod, dig, mappings

_FLAG = re.compile(r"^-{1,2}(?P<name>[a-zA-Z][\w.-]*)(?:=(?P<value>.*))?$", re.DOTALL)
_CONFIG_FLAG = re.compile(r"(^|[.-])(config|config[.-]file|file)$")
_FILE_VARIABLE = re.compile(r"_(CA|CERTIFICATE|FILE|KEY)$")
_FOLDER_FLAG = re.compile(r"(^|[.-])(path|dir|directory)$")


@rule("volume-defined")
def volume_defined(unit: Unit) -> Iterator[Fault]:
    """A volume that a container mounts is a volume of its pod."""
    for pod, container, mount in _mounts(unit):
        if volume_of(pod, mount) is None:
            names = listed(volume.get("name") for volume in pod.volumes)
            yield Fault(pod.owner, f"{container.path}.volumeMounts", f"volume {mount.get('name')}", f"one of {names}")


@rule("volume-mounted")
def volume_mounted(unit: Unit) -> Iterator[Fault]:
    """A volume of a pod is mounted by one of its containers."""
    for pod in unit.pods:
        mounted = {mount.get("name") for each in pod.every_container for mount in mappings(each.spec, "volumeMounts")}
        for volume in pod.volumes:
            if volume.get("name") not in mounted:
                yield Fault(pod.owner, f"{pod.path}.volumes", f"{volume.get('name')} mounted by nobody", "a mount")


@rule("mount-unique")
def mount_unique(unit: Unit) -> Iterator[Fault]:
    """A container mounts one volume at one place."""
    for pod in unit.pods:
        for container in pod.every_container:
            places = Counter(str(mount.get("mountPath")) for mount in mappings(container.spec, "volumeMounts"))
            for place in (place for place, count in places.items() if count > 1):
                yield Fault(pod.owner, f"{container.path}.volumeMounts", f"{place} twice", "one mount at each path")


@rule("config-file-exists")
def config_file_exists(unit: Unit) -> Iterator[Fault]:
    """A file of configuration, keys or certificates that an argument or variable names is brought by a volume."""
    for pod in unit.pods:
        for container in pod.containers:
            named = [(f"{container.path}.args", f"--{flag}=", path) for flag, path in flags(container)]
            named = [each for each in named if _CONFIG_FLAG.search(each[1].strip("-="))]
            for name, value in ((str(entry.get("name")), str(entry.get("value"))) for entry in container.env):
                named += [(f"{container.path}.env[{name}]", "", value)] if _FILE_VARIABLE.search(name) else []
            for where, flag, path in named:
                if path.startswith("/") and not is_there(unit, pod, container, path):
                    there = listed(files(unit, pod, container))
                    yield Fault(pod.owner, where, f"{flag}{path}", f"a mounted file: {there}")


@rule("data-folder-writable")
def data_folder_writable(unit: Unit) -> Iterator[Fault]:
    """A folder that an argument names for data is on a volume that can be written."""
    for pod in unit.pods:
        for container in pod.containers:
            for flag, path in flags(container):
                if _FOLDER_FLAG.search(flag) and path.startswith("/var/"):
                    mounted = mount_of(pod, container, path)
                    if mounted is None or not is_writable(mounted[1]) or mounted[0].get("readOnly"):
                        yield Fault(
                            pod.owner, f"{container.path}.args", f"--{flag}={path}", "a path on a writable volume"
                        )


@rule("claim-group")
def claim_group(unit: Unit) -> Iterator[Fault]:
    """A pod with a persistent volume says by fsGroup who may write to it."""
    for pod in unit.pods:
        persistent = [volume for volume in pod.volumes if "claim" in volume or "persistentVolumeClaim" in volume]
        if persistent and dig(pod.spec, "securityContext", "fsGroup") is None:
            yield Fault(
                pod.owner, f"{pod.path}.securityContext.fsGroup", "none", "the group that the containers run as"
            )


@rule("claim-shared")
def claim_shared(unit: Unit) -> Iterator[Fault]:
    """A claim that one node alone may mount belongs to one pod: no second replica, and no update that starts one."""
    for pod in unit.pods:
        names = [dig(volume, "persistentVolumeClaim", "claimName") for volume in pod.volumes]
        claims = [
            claim for name in names if name and (claim := unit.find("PersistentVolumeClaim", name, pod.namespace))
        ]
        for claim in claims:
            if "ReadWriteMany" not in (dig(claim, "spec", "accessModes") or []):
                yield from _one_pod(pod)


def _one_pod(pod: Pod) -> Iterator[Fault]:
    replicas = dig(pod.owner, "spec", "replicas")
    if isinstance(replicas, int) and replicas > 1:
        yield Fault(pod.owner, "spec.replicas", str(replicas), "1 with a ReadWriteOnce claim, or a StatefulSet")
    strategy = str(dig(pod.owner, "spec", "strategy", "type") or "RollingUpdate")
    if pod.owner.get("kind") == "Deployment" and strategy != "Recreate":
        yield Fault(pod.owner, "spec.strategy.type", strategy, "Recreate with a ReadWriteOnce claim")


def flags(container: Container) -> Iterator[tuple[str, str]]:
    """Yield the flags of a command line with their values, given as `--flag=value` or `--flag value`."""
    words = container.words
    for word, following in zip(words, [*words[1:], ""][: len(words)], strict=True):
        found = _FLAG.match(word)
        if found:
            value = found["value"] if found["value"] is not None else "" if following.startswith("-") else following
            yield found["name"], value


def _mounts(unit: Unit) -> Iterator[tuple[Pod, Container, Object]]:
    for pod in unit.pods:
        for container in pod.every_container:
            for mount in mappings(container.spec, "volumeMounts"):
                yield pod, container, mount
