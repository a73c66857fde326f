"""
The configuration of a collector, as the collector in the pod will see it.

Several `--config` files merge as in the collector: maps are merged, lists replaced. `${env:NAME:-default}` is expanded
with the container's environment. Jaeger is a collector too.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from kube.lint.documents import DocumentError, parse
from kube.lint.environment import environment
from kube.lint.files import config_source, files, mount_of, projections
from kube.lint.unit import Unit
from kube.lint.volumes import flags
from kube.objects import Container, Object, Pod, dig, mapping, mappings

__all__ = ["LOOPBACK", "SIGNALS", "Collector", "Listener", "collectors", "every_collector", "host_and_port", "uses"]

SIGNALS = ("traces", "metrics", "logs")
LOOPBACK = re.compile(r"^(localhost|127\.[0-9.]+|::1|\[::1\])$")
_REFERENCE = re.compile(r"\$\$|\$\{(?:env:)?(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^}]*))?\}")
# Whatever its configuration lacks, such as all of it.
_IMAGE = re.compile(r"(^|/)(opentelemetry-collector(-\w+)?|jaegertracing/jaeger)$")
_OTLP_PORTS = {"grpc": 4317, "http": 4318}


@dataclass(frozen=True, slots=True)
class Listener:
    """
    A port that a collector opens.

    Attributes:
        keys: Where its configuration says so.
        kind: `grpc`, `http` or another protocol of a receiver; `metrics`, `health` or `query`.
        host: The address.
        port: The number.
        url_path: Of `health` the path that answers.
    """

    keys: tuple[str, ...]
    kind: str
    host: str
    port: int
    url_path: str = "/"

    @property
    def loopback(self) -> bool:
        """Whether only the pod itself reaches it."""
        return bool(LOOPBACK.match(self.host))


@dataclass(frozen=True, slots=True)
class Source:
    """
    One `--config` of a collector.

    Attributes:
        thing: The ConfigMap or Secret it comes from, else the workload.
        path: What stands before a key of the configuration in messages.
        config: What it says, nothing expanded.
    """

    thing: Object
    path: str
    config: Object


@dataclass(frozen=True, slots=True)
class Collector:
    """
    A container that runs a collector.

    Attributes:
        pod: Its pod.
        container: The container.
        sources: Its configuration files, in order.
        env: Its environment.
        config: The files merged and expanded.
    """

    pod: Pod
    container: Container
    sources: Sequence[Source]
    env: Mapping[str, str]
    config: Object

    @property
    def jaeger(self) -> bool:
        """Whether it is Jaeger, which stores traces and forwards nothing."""
        return "jaegertracing/" in self.container.image or "jaeger_storage" in self.section("extensions")

    def section(self, name: str) -> dict[str, Object]:
        """Return the components of a section by name."""
        return {str(key): mapping(self.config, name, key) for key in mapping(self.config, name)}

    @property
    def pipelines(self) -> dict[str, Object]:
        """The pipelines by name."""
        return {
            str(name): each if isinstance(each, dict) else {}
            for name, each in mapping(self.config, "service", "pipelines").items()
        }

    def used(self, section: str) -> set[str]:
        """Return the names that pipelines use as *section*, or that the service starts as extensions."""
        return uses(self.config, section)

    def place(self, *keys: str) -> tuple[Object, str]:
        """Return the object and the path where the configuration says what stands under *keys*."""
        having = [source for source in self.sources if dig(source.config, *keys) is not None]
        parents = [source for source in self.sources if keys[-1] in mapping(source.config, *keys[:-1])]
        source = (having or parents or self.sources)[-1]
        return source.thing, f"{source.path}{'.'.join(keys)}"

    def listeners(self) -> list[Listener]:
        """Return the ports that it opens."""
        return [*self._receivers(), *self._own()]

    def _receivers(self) -> Iterator[Listener]:
        for name, receiver in self.section("receivers").items():
            for protocol, each in mapping(receiver, "protocols").items():
                default = f"localhost:{_OTLP_PORTS[protocol]}" if protocol in _OTLP_PORTS else ""
                found = host_and_port(dig(each, "endpoint") or default)
                if found and name in self.used("receivers"):
                    yield Listener(("receivers", name, "protocols", str(protocol)), str(protocol), *found)
            found = host_and_port(receiver.get("endpoint"))
            if found and name in self.used("receivers"):
                yield Listener(("receivers", name, "endpoint"), name.partition("/")[0], *found)

    def _own(self) -> Iterator[Listener]:
        for name, each in self.section("extensions").items():
            kind = name.partition("/")[0]
            if kind == "health_check" and (found := host_and_port(each.get("endpoint") or "localhost:13133")):
                yield Listener(("extensions", name), "health", *found, str(each.get("path") or "/"))
            if kind == "healthcheckv2" and (found := host_and_port(dig(each, "http", "endpoint") or "localhost:13133")):
                status = str(dig(each, "http", "status", "path") or "/status")
                yield Listener(("extensions", name), "health", *found, status)
            for protocol in ("http", "grpc") if kind == "jaeger_query" else ():
                if found := host_and_port(dig(each, protocol, "endpoint")):
                    yield Listener(("extensions", name, protocol), "query", *found)
        for reader in mappings(self.config, "service", "telemetry", "metrics", "readers"):
            pulled = dig(reader, "pull", "exporter", "prometheus")
            if isinstance(pulled, dict):
                keys = ("service", "telemetry", "metrics", "readers")
                yield Listener(keys, "metrics", str(pulled.get("host", "localhost")), int(pulled.get("port") or 8888))

    def references(self) -> Iterator[tuple[Source, str, str | None]]:
        """Yield the variables that the configuration refers to: the file, the name, the default."""
        for source in self.sources:
            for text in _strings(source.config):
                for found in _REFERENCE.finditer(text):
                    if found["name"]:
                        yield source, found["name"], found["default"]


def host_and_port(text: Any) -> tuple[str, int] | None:
    """Return what `host:port` names, None for what is no such thing."""
    host, sign, port = (
        str(text or "").removeprefix("http://").removeprefix("https://").partition("/")[0].rpartition(":")
    )
    return (host, int(port)) if sign and port.isdigit() else None


def collectors(unit: Unit) -> Sequence[Collector]:
    """Return the collectors of a unit, Jaeger among them."""
    own = {id(pod) for pod in unit.pods}
    return [each for each in every_collector(unit) if id(each.pod) in own]


@lru_cache(maxsize=64)
def every_collector(unit: Unit) -> Sequence[Collector]:
    """Return the collectors of the cluster."""
    found = ((pod, container, _sources(unit, pod, container)) for pod in unit.every_pod for container in pod.containers)
    return [_collector(unit, *each) for each in found if each[2]]


def _collector(unit: Unit, pod: Pod, container: Container, sources: Sequence[Source]) -> Collector:
    env = environment(unit, pod, container)
    merged: Object = {}
    for source in sources:
        merged = merge(merged, source.config)
    return Collector(pod, container, sources, env, expand(merged, env))


def _sources(unit: Unit, pod: Pod, container: Container) -> list[Source]:
    there = files(unit, pod, container)
    named = [value for flag, value in flags(container) if flag == "config"]
    paths = [value.removeprefix("file:") for value in named]
    texts = [(path, there[path]) for path in paths if there.get(path) is not None]
    texts += [("config.yaml", value.removeprefix("yaml:")) for value in named if value.startswith("yaml:")]
    # A file that is mounted under another name than the argument's is judged all the same.
    texts = texts or [(path, text) for path, text in there.items() if text]
    try:
        read = [(path, _document(path, text or "")) for path, text in texts]
    except DocumentError:
        # Another rule says so.
        return []
    found = [Source(*_origin(unit, pod, container, path), config) for path, config in read]
    sections = {key for each in found for key in each.config}
    return found if _IMAGE.search(container.repository) or {"receivers", "service"} <= sections else []


def _document(path: str, text: str) -> Object:
    found = parse(text, path)
    return found if isinstance(found, dict) else {}


def _origin(unit: Unit, pod: Pod, container: Container, path: str) -> tuple[Object, str]:
    mounted = mount_of(pod, container, path)
    for kind, name, _ in projections(mounted[1]) if mounted else ():
        source = config_source(unit, kind, name, pod.namespace)
        if source is not None:
            return source, f"{path.rpartition('/')[2]}: "
    return pod.owner, f"{path}: "


def uses(config: Object, section: str) -> set[str]:
    """Return the names that a configuration's pipelines use as *section*, or its service as extensions."""
    if section == "extensions":
        return {str(name) for name in dig(config, "service", "extensions") or []}
    pipelines = mapping(config, "service", "pipelines")
    return {str(name) for each in pipelines for name in dig(pipelines[each], section) or []}


def merge(one: Object, other: Object) -> Object:
    """Return *one* overlaid by *other* as the collector does it: maps merge, all else is replaced."""
    both = {key: merge(one[key], other[key]) for key in one.keys() & other.keys() if _maps(one[key], other[key])}
    return {**one, **other, **both}


def _maps(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


def expand(value: Any, env: Mapping[str, str]) -> Any:
    """Return *value* with its references to variables replaced; what is one reference takes the type of its value."""
    if isinstance(value, dict):
        return {key: expand(each, env) for key, each in value.items()}
    if isinstance(value, list):
        return [expand(each, env) for each in value]
    if not isinstance(value, str) or "$" not in value:
        return value
    text = _REFERENCE.sub(lambda found: _replacement(found, env), value)
    return yaml.safe_load(text) if _REFERENCE.fullmatch(value) and value != "$$" else text


def _replacement(found: re.Match[str], env: Mapping[str, str]) -> str:
    return env.get(found["name"]) or found["default"] or "" if found["name"] else "$"


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)
    elif isinstance(value, str):
        yield value
