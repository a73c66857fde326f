"""The addresses that programs connect to, wherever their manifests and configuration files say so."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from kube.lint.collector_config import Collector, collectors
from kube.lint.documents import DocumentError, parse
from kube.lint.environment import UNKNOWN, environment
from kube.lint.files import config_source, files, mount_of, projections
from kube.lint.images import service_of
from kube.lint.unit import Unit
from kube.objects import Container, Object, Pod, dig, mapping, mappings

__all__ = ["Endpoint", "address", "endpoints"]

_NAMES = re.compile(r"_(ADDR|ADDRESS|ENDPOINT|TARGET|URL)$")
_OTLP = re.compile(r"^OTEL_EXPORTER_OTLP_((TRACES|METRICS|LOGS)_)?ENDPOINT$")
_URL = re.compile(r"^(https?|grpcs?)://[^\s]+$")
_SCHEME_PORTS = {"http": 80, "https": 443}
# A name for the outside, in which nothing is connected to.
_OWN_NAME = re.compile(r"(ROOT|EXTERNAL|PUBLIC)_URL$")
_GRPC_EXPORTERS = {"load_balancing", "loadbalancing", "otlp", "otlp_grpc"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    An address that a program connects to.

    Attributes:
        client: The pods of the program.
        thing: The object that says so.
        path: Where it says so.
        text: What it says.
        protocol: `grpc` or `http` of an OTLP client, else empty.
        direct: Whether the port is that of the pods themselves, whose addresses DNS gives.
        plaintext: Whether it is to be connected to without TLS; None if nothing tells.
    """

    client: Pod
    thing: Object
    path: str
    text: str
    protocol: str = ""
    direct: bool = False
    plaintext: bool | None = None


def address(text: str) -> tuple[str, int, str] | None:
    """
    Return host, port and path of `http://host:port/path`, `dns:///host:port` or `host:port`, None for anything else.

    A port that is missing is that of the scheme.
    """
    try:
        if text.startswith("dns:"):
            rest = text.removeprefix("dns:")
            text = f"//{rest[2:].partition('/')[2] if rest.startswith('//') else rest}"
        parts = urlsplit(text if "//" in text else f"//{text}")
        port = parts.port or _SCHEME_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port, parts.path) if parts.hostname and port else None


def endpoints(unit: Unit) -> list[Endpoint]:
    """Return the endpoints of all programs of a unit."""
    found = []
    for pod in unit.pods:
        for container in pod.every_container:
            found += [*_variables(unit, pod, container), *_configured(unit, pod, container)]
    found += [each for collector in collectors(unit) for each in _exported(collector)]
    return [each for each in found if UNKNOWN not in each.text]


def _variables(unit: Unit, pod: Pod, container: Container) -> Iterator[Endpoint]:
    values, ours = environment(unit, pod, container), service_of(container) is not None
    for name, value in values.items():
        named = _NAMES.search(name) and (ours or address(value))
        if value and (named or _URL.match(value)) and not _OWN_NAME.search(name):
            path, direct = f"{container.path}.env[{name}]", value.startswith("dns:")
            otlp = _OTLP.match(name)
            if otlp is None:
                yield Endpoint(pod, pod.owner, path, value, direct=direct)
            else:
                asked = values.get(name.replace("ENDPOINT", "PROTOCOL")) or values.get("OTEL_EXPORTER_OTLP_PROTOCOL")
                # Ours send gRPC where nothing is said; other SDKs differ.
                protocol = (asked or ("grpc" if ours else "")).partition("/")[0]
                plaintext = {"http": True, "https": False}.get(value.partition(":")[0])
                base = value.removesuffix(f"/v1/{(otlp[2] or '').lower()}")
                yield Endpoint(pod, pod.owner, path, base, protocol, direct, plaintext)


def _exported(collector: Collector) -> Iterator[Endpoint]:
    for name, exporter in collector.section("exporters").items():
        kind = name.partition("/")[0]
        protocol = "grpc" if kind in _GRPC_EXPORTERS else "http" if kind in ("otlp_http", "otlphttp") else ""
        insecure = dig(exporter, "tls", "insecure")
        for keys, text, direct in _addresses(exporter):
            thing, path = collector.place("exporters", name, *keys)
            plaintext = text.startswith("http://") or insecure is True
            if protocol == "grpc" and text.startswith("http://") is False and kind.startswith("load"):
                plaintext = dig(exporter, "protocol", "otlp", "tls", "insecure") is True
            yield Endpoint(collector.pod, thing, path, text, protocol, direct, plaintext)
    for keys, text in _stored(collector):
        yield Endpoint(collector.pod, *collector.place(*keys), text)


def _addresses(exporter: Object) -> Iterator[tuple[tuple[str, ...], str, bool]]:
    for signal in ("", "traces", "metrics", "logs"):
        key = f"{signal}_endpoint".removeprefix("_")
        if exporter.get(key):
            # What is for one signal is the whole URL.
            yield (key,), str(exporter[key]).removesuffix(f"/v1/{signal}"), False
    resolver = mapping(exporter, "resolver")
    for host in dig(resolver, "static", "hostnames") or []:
        yield ("resolver", "static", "hostnames"), str(host) if ":" in str(host) else f"{host}:4317", False
    if "dns" in resolver:
        host, port = dig(resolver, "dns", "hostname"), dig(resolver, "dns", "port") or 4317
        yield ("resolver", "dns", "hostname"), f"{host}:{port}", True
    if "k8s" in resolver:
        for port in dig(resolver, "k8s", "ports") or [4317]:
            yield ("resolver", "k8s", "service"), f"{dig(resolver, 'k8s', 'service')}:{port}", True


def _stored(collector: Collector) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what Jaeger asks for metrics."""
    for name in mapping(collector.config, "extensions", "jaeger_storage", "metric_backends"):
        keys = ("extensions", "jaeger_storage", "metric_backends", str(name), "prometheus", "endpoint")
        if dig(collector.config, *keys):
            yield keys, str(dig(collector.config, *keys))


def _configured(unit: Unit, pod: Pod, container: Container) -> Iterator[Endpoint]:
    values = environment(unit, pod, container)
    for file, text in files(unit, pod, container).items():
        if text and re.search(r"\.ya?ml$", file):
            for path, found, direct in _dialect(_document(text, file)):
                thing = _origin(unit, pod, container, file)
                expanded = re.sub(r"\$\{?(\w+)\}?", lambda name: values.get(name[1], name[0]), found)
                yield Endpoint(pod, thing, f"{file.rpartition('/')[2]}: {path}", expanded, direct=direct)


def _dialect(document: Any) -> Iterator[tuple[str, str, bool]]:
    """Yield path, address and directness of what a configuration file of Prometheus, Grafana or Loki connects to."""
    for number, each in enumerate(mappings(document, "datasources")):
        if each.get("url"):
            yield f"datasources[{number}].url", str(each["url"]), False
    for each in mappings(document, "scrape_configs"):
        yield from _discovered(f"scrape_configs[{each.get('job_name')}]", each)
    for number, each in enumerate(mappings(document, "alerting", "alertmanagers")):
        yield from _discovered(f"alerting.alertmanagers[{number}]", each)
    for key in ("remote_write", "remote_read"):
        for number, each in enumerate(mappings(document, key)):
            yield f"{key}[{number}].url", str(each.get("url")), False
    if dig(document, "ruler", "alertmanager_url"):
        yield "ruler.alertmanager_url", str(document["ruler"]["alertmanager_url"]), False


def _discovered(path: str, each: Object) -> Iterator[tuple[str, str, bool]]:
    for static in mappings(each, "static_configs"):
        for target in static.get("targets") or []:
            yield f"{path}.static_configs", str(target), False
    for found in mappings(each, "dns_sd_configs"):
        for name in found.get("names") or []:
            if found.get("type", "SRV") in ("A", "AAAA"):
                yield f"{path}.dns_sd_configs", f"{name}:{found.get('port')}", True


def _document(text: str, name: str) -> Any:
    try:
        return parse(text, name)
    except DocumentError:
        return None


def _origin(unit: Unit, pod: Pod, container: Container, path: str) -> Object:
    mounted = mount_of(pod, container, path)
    sources = (
        (config_source(unit, kind, name, pod.namespace) for kind, name, _ in projections(mounted[1])) if mounted else ()
    )
    return next((source for source in sources if source), pod.owner)
