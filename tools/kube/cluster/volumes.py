"""
The volumes of a pod as directories of this machine, and where its containers see them.

Permissions are carried over, although every file belongs to one user here: what the manifest's user could not read or
write in a real cluster, it cannot here either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kube.cluster.environment import PodValues, pod_field
from kube.cluster.errors import ObjectError
from kube.cluster.objects import Objects, content
from kube.objects import Object

__all__ = ["Identity", "Mount", "Volume", "Volumes", "mounts"]

_DEFAULT_MODE = 0o644
_TOKEN = "serviceAccountToken"  # noqa: S105  It is the name of a field.


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whom a container runs as, and the group that its volumes are given to."""

    user: int
    group: int
    volumes_group: int | None = None

    def effective(self, mode: int, *, root_only: bool = False) -> int:
        """
        The mode that gives the owner of a file here what this identity would have had of one that belongs to root.

        Args:
            root_only: The file keeps root's group, such as a fresh claim without `fsGroup`.
        """
        if self.user == 0:
            return mode
        in_group = self.group == 0 or (self.volumes_group is not None and not root_only)
        return (mode >> 3 & 7 if in_group else mode & 7) << 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume that exists; `entries` are its files where it is made of those, None where it is a directory."""

    directory: Path
    read_only: bool
    entries: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A directory or file of this machine at a path of a container."""

    source: Path
    target: str
    read_only: bool


class Volumes:
    """
    Creates the volumes of one pod.

    Args:
        directory: Where those go that die with the pod.
        claims: Where those go that outlive it, by name of the claim.
    """

    def __init__(
        self, *, objects: Objects, pod: PodValues, identity: Identity, directory: Path, claims: Path, where: str
    ) -> None:
        self._objects = objects
        self._pod = pod
        self._identity = identity
        self._directory = directory
        self._claims = claims
        self._where = where

    def create(self, volumes: Sequence[Object]) -> dict[str, Volume]:
        """
        Make each volume, and fill it.

        Raises:
            ObjectError: What a volume is made of does not exist, or it is of a kind that this cluster does not have.
        """
        return {volume["name"]: self._one(volume) for volume in volumes}

    def _one(self, volume: Object) -> Volume:
        name = volume["name"]
        where = f"{self._where}: volume {name}"
        if "emptyDir" in volume:
            return self._directory_of(self._directory / name, 0o777)
        if "persistentVolumeClaim" in volume:
            return self._claimed(volume["persistentVolumeClaim"], where)
        for kind in ("configMap", "secret", "downwardAPI"):
            if kind in volume:
                files = self._files({kind: volume[kind] or {}}, where)
                return self._filled(name, files, (volume[kind] or {}).get("defaultMode"))
        if "projected" in volume:
            return self._projected(name, volume["projected"], where)
        found = ", ".join(sorted(set(volume) - {"name"})) or "nothing"
        raise ObjectError(
            f"{where}: {found}, expected configMap, secret, downwardAPI, projected, emptyDir or persistentVolumeClaim"
        )

    def _projected(self, name: str, projected: Object, where: str) -> Volume:
        files: dict[str, _File] = {}
        for source in projected["sources"]:
            # There is no API server that a token would be for.
            if _TOKEN not in source:
                files |= self._files(source, where)
        return self._filled(name, files, projected.get("defaultMode"))

    def _files(self, source: Object, where: str) -> "dict[str, _File]":
        if "downwardAPI" in source:
            return {
                item["path"]: _File(
                    pod_field(item["fieldRef"]["fieldPath"], self._pod, where).encode(), item.get("mode")
                )
                for item in source["downwardAPI"].get("items") or []
            }
        for member, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
            if member in source:
                return self._entries(kind, source[member], where)
        raise ObjectError(f"{where}: source {', '.join(source)}, expected configMap, secret or downwardAPI")

    def _entries(self, kind: str, reference: Object, where: str) -> "dict[str, _File]":
        name = reference.get("secretName") or reference["name"]
        thing = self._objects.find(kind, self._pod.namespace, name)
        if thing is None:
            if reference.get("optional"):
                return {}
            existing = ", ".join(self._objects.names(kind, self._pod.namespace)) or "none"
            raise ObjectError(f"{where}: {kind} {name} does not exist in {self._pod.namespace}, which has {existing}")
        entries = content(thing)
        if "items" not in reference:
            return {key: _File(value, None) for key, value in entries.items()}
        files = {}
        for item in reference["items"]:
            if item["key"] in entries:
                files[item["path"]] = _File(entries[item["key"]], item.get("mode"))
            elif not reference.get("optional"):
                raise ObjectError(
                    f"{where}: {kind} {name} has no key {item['key']!r}, only {', '.join(sorted(entries)) or 'none'}"
                )
        return files

    def _filled(self, name: str, files: "Mapping[str, _File]", default_mode: int | None) -> Volume:
        directory = self._directory / name
        directory.mkdir(parents=True, exist_ok=True)
        for path, file in files.items():
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.value)
            mode = file.mode or default_mode or _DEFAULT_MODE
            # With a group for volumes the kubelet lets it read them, whatever the mode.
            readable = mode | (0 if self._identity.volumes_group is None else 0o440)
            target.chmod(self._identity.effective(readable))
        return Volume(directory=directory, read_only=True, entries=frozenset(files))

    def _claimed(self, reference: Object, where: str) -> Volume:
        name = reference["claimName"]
        if self._objects.find("PersistentVolumeClaim", self._pod.namespace, name) is None:
            existing = ", ".join(self._objects.names("PersistentVolumeClaim", self._pod.namespace)) or "none"
            raise ObjectError(f"{where}: claim {name} does not exist in {self._pod.namespace}, which has {existing}")
        # A fresh disk belongs to root; only `fsGroup` gives it to others.
        mode = 0o755 if self._identity.volumes_group is None else 0o775
        directory = self._claims / self._pod.namespace / name
        return self._directory_of(directory, mode, read_only=bool(reference.get("readOnly")), root_only=mode == 0o755)

    def _directory_of(self, path: Path, mode: int, *, read_only: bool = False, root_only: bool = False) -> Volume:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(self._identity.effective(mode, root_only=root_only))
        return Volume(directory=path, read_only=read_only)


@dataclass(frozen=True, slots=True)
class _File:
    value: bytes
    mode: int | None


def mounts(container: Object, volumes: Mapping[str, Volume], where: str) -> list[Mount]:
    """
    What a container mounts.

    Raises:
        ObjectError: It mounts a volume that the pod does not have, or a file that the volume does not have.
    """
    return [_mount(entry, volumes, f"{where}: mount {entry['name']}") for entry in container.get("volumeMounts") or []]


def _mount(entry: Object, volumes: Mapping[str, Volume], where: str) -> Mount:
    volume = volumes.get(entry["name"])
    if volume is None:
        raise ObjectError(f"{where}: the pod has no such volume, only {', '.join(volumes) or 'none'}")
    if not PurePosixPath(entry["mountPath"]).is_absolute():
        raise ObjectError(f"{where}: mountPath {entry['mountPath']!r} is not absolute")
    return Mount(
        source=_part(volume, entry.get("subPath") or "", where),
        target=entry["mountPath"],
        read_only=volume.read_only or bool(entry.get("readOnly")),
    )


def _part(volume: Volume, path: str, where: str) -> Path:
    if not path:
        return volume.directory
    part = volume.directory / path
    if volume.entries is None:
        part.mkdir(parents=True, exist_ok=True)
    elif not part.exists():
        # The kubelet would make a directory of that name, on which the program then fails in its own words.
        raise ObjectError(f"{where}: subPath {path!r} does not exist, only {', '.join(sorted(volume.entries))}")
    return part
