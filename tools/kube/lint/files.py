"""Which files a container sees: what its volumes bring from ConfigMaps and Secrets, and where it may write."""

import base64
import binascii
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from kube.lint.unit import Unit
from kube.objects import Container, Object, Pod, dig, mapping, mappings, namespace

__all__ = [
    "config_source",
    "content",
    "files",
    "is_there",
    "is_writable",
    "keys",
    "mount_of",
    "projections",
    "secret_keys",
    "volume_of",
]

# What cert-manager writes into the Secret of a Certificate.
_CERTIFICATE_KEYS = ("ca.crt", "tls.crt", "tls.key")
_WRITABLE = ("claim", "emptyDir", "ephemeral", "persistentVolumeClaim")


def volume_of(pod: Pod, mount: Object) -> Object | None:
    """Return the volume that a mount names, None if the pod has none of that name."""
    return next((volume for volume in pod.volumes if volume.get("name") == mount.get("name")), None)


def is_writable(volume: Object) -> bool:
    """Tell whether a container may write into a volume."""
    return any(key in volume for key in _WRITABLE)


def projections(volume: Object) -> Iterator[tuple[str, str, Object]]:
    """
    Yield what a volume takes from ConfigMaps and Secrets.

    Yields:
        The kind, the name, and the source with its `items`.
    """
    if "configMap" in volume:
        yield "ConfigMap", str(dig(volume, "configMap", "name")), mapping(volume, "configMap")
    if "secret" in volume:
        yield "Secret", str(dig(volume, "secret", "secretName")), mapping(volume, "secret")
    for source in mappings(volume, "projected", "sources"):
        for key, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
            if key in source:
                yield kind, str(dig(source, key, "name")), mapping(source, key)


def config_source(unit: Unit, kind: str, name: str, at: str) -> Object | None:
    """Return the ConfigMap or Secret, or the Certificate that makes the Secret; None if nothing does."""
    found = unit.find(kind, name, at)
    if found is None and kind == "Secret":
        made = (thing for thing in unit.every("Certificate") if dig(thing, "spec", "secretName") == name)
        return next((thing for thing in made if namespace(thing) == at), None)
    return found


def keys(source: Object) -> Mapping[str, str | None]:
    """Return what a ConfigMap or Secret holds by key, None for what is not known or no text."""
    if source.get("kind") == "Certificate":
        return dict.fromkeys(_CERTIFICATE_KEYS)
    known = {**mapping(source, "data"), **mapping(source, "stringData")}
    if source.get("kind") == "Secret":
        known = {
            **{key: _decoded(value) for key, value in mapping(source, "data").items()},
            **mapping(source, "stringData"),
        }
    texts = {str(key): text if isinstance(text, str) else None for key, text in known.items()}
    return {**texts, **dict.fromkeys(mapping(source, "binaryData"))}


def secret_keys(unit: Unit, kind: str, name: str, at: str) -> Mapping[str, str | None] | None:
    """Return what the ConfigMap or Secret of that name holds, None if there is no such thing."""
    source = config_source(unit, kind, name, at)
    return None if source is None else keys(source)


def _decoded(value: Any) -> str | None:
    try:
        return base64.b64decode(str(value), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def files(unit: Unit, pod: Pod, container: Container) -> dict[str, str | None]:
    """Return the files that ConfigMaps and Secrets bring into a container, by absolute path."""
    found: dict[str, str | None] = {}
    for mount in mappings(container.spec, "volumeMounts"):
        volume, path = volume_of(pod, mount), PurePosixPath(str(mount.get("mountPath")))
        inside = _volume_files(unit, pod, volume) if volume else {}
        if "subPath" in mount:
            sub = str(mount["subPath"])
            found |= {str(path): text for name, text in inside.items() if name == sub}
        else:
            found |= {str(path / name): text for name, text in inside.items()}
    return found


def _volume_files(unit: Unit, pod: Pod, volume: Object) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for kind, name, source in projections(volume):
        held = secret_keys(unit, kind, name, pod.namespace) or {}
        items = {str(item.get("key")): str(item.get("path")) for item in mappings(source, "items")}
        found |= {items.get(key, key): text for key, text in held.items() if not items or key in items}
    return found


def content(unit: Unit, pod: Pod, container: Container, path: str) -> str | None:
    """Return the text of a file that a ConfigMap or Secret brings, None if it brings none."""
    return files(unit, pod, container).get(path)


def mount_of(pod: Pod, container: Container, path: str) -> tuple[Object, Object] | None:
    """Return the mount that *path* lies in and its volume, None if it lies in the image."""
    inside = [
        (str(mount.get("mountPath")), mount, volume)
        for mount in mappings(container.spec, "volumeMounts")
        if (volume := volume_of(pod, mount)) and PurePosixPath(path).is_relative_to(str(mount.get("mountPath")))
    ]
    return max(inside, key=lambda each: len(each[0]))[1:] if inside else None


def is_there(unit: Unit, pod: Pod, container: Container, path: str) -> bool:
    """Tell whether a file is brought by a volume, as far as manifests tell: not of what a program wrote, or a hand."""
    mounted = mount_of(pod, container, path)
    if path in files(unit, pod, container) or mounted is None:
        return mounted is not None
    sources = [(kind, name) for kind, name, _ in projections(mounted[1])]
    return is_writable(mounted[1]) or any(config_source(unit, *each, pod.namespace) is None for each in sources)


def listed(names: Any) -> str:
    """Return names for a message."""
    return ", ".join(sorted(map(str, names))) or "none"
