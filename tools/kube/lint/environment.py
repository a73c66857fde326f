"""Environment variables: defined once and in order, known to the program, and telemetry leads somewhere."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from urllib.parse import urlsplit

from workspace import ROOT

from kube.lint.files import listed, secret_keys
from kube.lint.finding import Fault
from kube.lint.images import service_of
from kube.lint.registry import rule
from kube.lint.unit import Unit
from kube.objects import Container, Pod, dig, mapping, mappings

__all__ = ["STAND_INS", "UNKNOWN", "environment"]

# What stands for a value that only a cluster or a Secret knows.
UNKNOWN = "unknown.invalid"
# Of the addresses that the downward API gives, one of TEST-NET-1 stands for that of the pod.
STAND_INS: Mapping[str, str] = {"status.podIP": "192.0.2.1", "status.hostIP": "192.0.2.2"}

_REFERENCE = re.compile(r"(?<!\$)\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_ENDPOINT = re.compile(r"^OTEL_EXPORTER_OTLP_((TRACES|METRICS|LOGS)_)?ENDPOINT$")
_FIELDS = re.compile(
    r"^(metadata\.(name|namespace|uid)|metadata\.(labels|annotations)\['(?P<key>[^']+)'\]|"
    r"spec\.(nodeName|serviceAccountName)|status\.(hostIP|hostIPs|podIP|podIPs))$"
)
_RESOURCE = ("k8s.namespace.name", "k8s.pod.name", "k8s.pod.uid")


def environment(unit: Unit, pod: Pod, container: Container) -> dict[str, str]:
    """Return the variables a container starts with; UNKNOWN stands for what the manifests do not tell."""
    found: dict[str, str] = {}
    for source in mappings(container.spec, "envFrom"):
        for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            held = secret_keys(unit, kind, str(dig(source, key, "name")), pod.namespace) if key in source else None
            prefix = str(source.get("prefix") or "")
            found |= {f"{prefix}{name}": UNKNOWN if text is None else text for name, text in (held or {}).items()}
    for entry in container.env:
        found[str(entry.get("name"))] = _REFERENCE.sub(
            lambda name: found.get(name[1], name[0]), _value(unit, pod, entry)
        )
    return found


def _value(unit: Unit, pod: Pod, entry: Mapping[str, object]) -> str:
    source = mapping(entry, "valueFrom")
    if not source:
        return str(entry.get("value") or "")
    for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        held = secret_keys(unit, kind, str(dig(source, key, "name")), pod.namespace) if key in source else None
        text = (held or {}).get(str(dig(source, key, "key")))
        if text is not None:
            return text
    return STAND_INS.get(str(dig(source, "fieldRef", "fieldPath")), UNKNOWN)


@rule("env-unique")
def env_unique(unit: Unit) -> Iterator[Fault]:
    """A container sets a variable once."""
    for pod, container in _containers(unit):
        for name, count in Counter(str(entry.get("name")) for entry in container.env).items():
            if count > 1:
                yield Fault(pod.owner, f"{container.path}.env[{name}]", f"{count} entries", "one")


@rule("env-order")
def env_order(unit: Unit) -> Iterator[Fault]:
    """$(NAME) refers to an entry before it: what is set later is not expanded."""
    for pod, container in _containers(unit):
        earlier = set(environment(unit, pod, container)) - {str(entry.get("name")) for entry in container.env}
        for entry in container.env:
            for name in _REFERENCE.findall(str(entry.get("value") or "")):
                if name not in earlier:
                    path = f"{container.path}.env[{entry.get('name')}]"
                    yield Fault(pod.owner, path, f"$({name})", f"an earlier entry: {listed(earlier)}")
            earlier.add(str(entry.get("name")))


@rule("argument-variable")
def argument_variable(unit: Unit) -> Iterator[Fault]:
    """$(NAME) in an argument refers to a variable of the container."""
    for pod, container in _containers(unit):
        known = environment(unit, pod, container)
        for name in {name for word in container.words for name in _REFERENCE.findall(word)} - set(known):
            yield Fault(pod.owner, f"{container.path}.args", f"$({name})", f"a variable: {listed(known)}")


@rule("env-field")
def env_field(unit: Unit) -> Iterator[Fault]:
    """A variable takes a field that the downward API has; a label is one that the pod carries."""
    for pod, container in _containers(unit):
        for entry in container.env:
            field = dig(entry, "valueFrom", "fieldRef", "fieldPath")
            found = _FIELDS.match(str(field))
            path = f"{container.path}.env[{entry.get('name')}]"
            if field is not None and found is None:
                yield Fault(pod.owner, path, str(field), "a field of the downward API, such as metadata.uid")
            elif found and ".labels" in found[0] and found["key"] not in pod.labels:
                yield Fault(pod.owner, path, str(field), f"a label of the pod: {listed(pod.labels)}")


@rule("env-known")
def env_known(unit: Unit) -> Iterator[Fault]:
    """A variable that begins with RSKETCH_ is one that our code reads."""
    for pod, container in _containers(unit):
        for entry in container.env:
            name = str(entry.get("name"))
            if service_of(container) and name.startswith("RSKETCH_") and name not in _known():
                yield Fault(pod.owner, f"{container.path}.env[{name}]", name, f"one of {listed(_known())}")


@rule("otlp-endpoint-set")
def otlp_endpoint_set(unit: Unit) -> Iterator[Fault]:
    """A service of ours says where its telemetry goes."""
    for pod, container in _containers(unit):
        if service_of(container) and not any(_ENDPOINT.match(str(each.get("name"))) for each in container.env):
            path, expected = f"{container.path}.env", "a URL such as http://otel-collector.observability:4317"
            yield Fault(pod.owner, path, "no OTEL_EXPORTER_OTLP_ENDPOINT", expected)


@rule("otlp-endpoint-form")
def otlp_endpoint_form(unit: Unit) -> Iterator[Fault]:
    """An OTLP endpoint is a URL with scheme, host and port."""
    for pod, container in _containers(unit):
        values = environment(unit, pod, container)
        for name, value in values.items():
            if _ENDPOINT.match(name) and value != UNKNOWN and not _is_endpoint(value):
                expected = "a URL such as http://otel-collector.observability:4317"
                yield Fault(pod.owner, f"{container.path}.env[{name}]", repr(value), expected)


def _is_endpoint(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port is not None
    except ValueError:
        return False


@rule("resource-attributes")
def resource_attributes(unit: Unit) -> Iterator[Fault]:
    """A service of ours names itself and its pod, so that its telemetry can be told from its neighbours'."""
    for pod, container in _containers(unit):
        if service_of(container):
            values = environment(unit, pod, container)
            pairs = [pair.partition("=") for pair in values.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",") if pair]
            missing = set(_RESOURCE) - {key.strip() for key, _, value in pairs if value.strip()}
            path = f"{container.path}.env[OTEL_RESOURCE_ATTRIBUTES]"
            for key, sign, _ in pairs:
                if not key or not sign:
                    yield Fault(pod.owner, path, repr(key), "key=value pairs, separated by commas")
            if missing:
                yield Fault(pod.owner, path, f"no {listed(missing)}", "the downward API's fields by $(NAME)")
            if not values.get("OTEL_SERVICE_NAME"):
                yield Fault(pod.owner, f"{container.path}.env[OTEL_SERVICE_NAME]", "none", "the service's name")


@cache
def _known() -> frozenset[str]:
    texts = (path.read_text() for folder in ("libs", "services") for path in ROOT.glob(f"{folder}/*/src/**/*.py"))
    return frozenset(name for text in texts for name in re.findall(r"RSKETCH_[A-Z_]*[A-Z]", text))


def _containers(unit: Unit) -> Iterator[tuple[Pod, Container]]:
    return ((pod, container) for pod in unit.pods for container in pod.every_container)
