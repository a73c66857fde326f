"""Collector configurations: nothing undefined, nothing unused, nothing that loses what it has acknowledged."""

import re
from collections.abc import Iterator, Mapping
from functools import cache

from workspace import ROOT

from kube.lint.collector_config import SIGNALS, Collector, collectors, uses
from kube.lint.documents import DocumentError, parse
from kube.lint.files import files, is_there, listed, mount_of
from kube.lint.finding import Fault
from kube.lint.registry import rule
from kube.lint.unit import Unit
from kube.objects import Object, byte_quantity, dig, mapping

_SECTIONS = ("receivers", "processors", "exporters", "connectors", "extensions")
_COMPONENTS = ROOT / "infra/tools/otelcol/image-components.txt"

_REMOVED: Mapping[tuple[str, str], str] = {
    ("exporters", "jaeger"): "otlp_grpc: it was removed in v0.85, Jaeger takes OTLP",
    ("exporters", "jaeger_thrift"): "otlp_grpc: it was removed in v0.85, Jaeger takes OTLP",
    ("exporters", "logging"): "debug: it was removed",
    ("exporters", "loki"): "otlp_http: it was removed, Loki takes OTLP",
    ("exporters", "opencensus"): "otlp_grpc: it was removed",
    ("extensions", "ballast"): "GOMEMLIMIT: it was removed",
    ("extensions", "memory_ballast"): "GOMEMLIMIT: it was removed",
    ("processors", "servicegraph"): "the connector service_graph: the processor was removed",
    ("processors", "spanmetrics"): "the connector span_metrics: the processor was removed",
    ("receivers", "opencensus"): "otlp: it was removed",
}
_RENAMED: Mapping[tuple[str, str], str] = {
    ("connectors", "servicegraph"): "service_graph",
    ("connectors", "spanmetrics"): "span_metrics",
    ("exporters", "loadbalancing"): "load_balancing",
    ("exporters", "otlp"): "otlp_grpc",
    ("exporters", "otlphttp"): "otlp_http",
    ("exporters", "prometheusremotewrite"): "prometheus_remote_write",
    ("processors", "k8sattributes"): "k8s_attributes",
}
# These send at once, or are asked for what they have.
_WITHOUT_QUEUE = {"debug", "file", "jaeger_storage_exporter", "load_balancing", "loadbalancing", "nop", "prometheus"}
_INNER_QUEUE = ("protocol", "otlp", "sending_queue")
_STORAGE_FOLDER = "/var/lib/otelcol/file_storage"
_HOLDING = {"batch", "groupbytrace"}


@rule("config-parses")
def config_parses(unit: Unit) -> Iterator[Fault]:
    """A ConfigMap's YAML and JSON can be read, and no key stands twice in a mapping."""
    for thing in unit.kind("ConfigMap"):
        for key, text in mapping(thing, "data").items():
            if not isinstance(text, str):
                yield Fault(thing, f"data[{key}]", f"{text!r:.60}", "text: a | before it keeps YAML in it as it is")
            elif re.search(r"\.(json|ya?ml)$", key):
                try:
                    parse(text, key)
                except DocumentError as error:
                    yield Fault(thing, f"data[{key}]", str(error), "YAML or JSON, each key once")


@rule("collector-variable")
def collector_variable(unit: Unit) -> Iterator[Fault]:
    """A variable that a collector's configuration refers to is set for its container or has a default."""
    for each in collectors(unit):
        for source, name, default in each.references():
            if name not in each.env and default is None:
                expected = f"a variable of container {each.container.name}: {listed(each.env)}"
                yield Fault(source.thing, source.path.rstrip(": "), f"${{env:{name}}}", expected)


@rule("collector-component-defined")
def component_defined(unit: Unit) -> Iterator[Fault]:
    """What a pipeline or the service uses is defined."""
    for each in collectors(unit):
        for section in ("receivers", "processors", "exporters", "extensions"):
            defined = set(each.section(section))
            if section in ("receivers", "exporters"):
                defined |= set(each.section("connectors"))
            for name in sorted(each.used(section) - defined):
                thing, path = each.place("service")
                yield Fault(thing, path, f"{section} {name}", f"one that is defined: {listed(defined)}")


@rule("collector-component-used")
def component_used(unit: Unit) -> Iterator[Fault]:
    """What is defined is used: the collector starts nothing else, and does not say so."""
    for each in collectors(unit):
        for section in _SECTIONS:
            # A file that overlays another one cannot delete what that one alone uses.
            used = each.used(section) | {name for source in each.sources for name in uses(source.config, section)}
            if section == "connectors":
                # A connector is the end of one pipeline and the start of another.
                used = each.used("exporters") & each.used("receivers")
            for name in sorted(set(each.section(section)) - used):
                yield Fault(*each.place(section, name), "used by nothing", "a pipeline or the service that uses it")


@rule("collector-component-removed")
def component_removed(unit: Unit) -> Iterator[Fault]:
    """No component is used that the collector had once."""
    for each, section, name in _components(unit):
        instead = _REMOVED.get((section, name.partition("/")[0]))
        if instead:
            yield Fault(*each.place(section, name), f"{section} {name}", instead)


@rule("collector-component-renamed")
def component_renamed(unit: Unit) -> Iterator[Fault]:
    """A component goes by the name that it has today; its old one will be removed."""
    for each, section, name in _components(unit):
        kind = name.partition("/")[0]
        if (section, kind) in _RENAMED:
            yield Fault(*each.place(section, name), name, _RENAMED[section, kind])


@rule("collector-component-in-image")
def component_in_image(unit: Unit) -> Iterator[Fault]:
    """A component is one of those that the image was built with."""
    for each, section, name in _components(unit):
        kind = name.partition("/")[0]
        former = (section, kind) in _REMOVED or (section, kind) in _RENAMED
        if not each.jaeger and not former and _plain(section, kind) not in _in_image(section):
            there = listed(_in_image(section))
            yield Fault(*each.place(section, name), f"{section} {name}", f"one in the image: {there}")


def _plain(section: str, kind: str) -> str:
    """Return the type as the module is called: without underscores, and OTLP over gRPC as it was called before."""
    return "otlp" if (section, kind) == ("exporters", "otlp_grpc") else kind.replace("_", "")


@rule("collector-signals")
def signals(unit: Unit) -> Iterator[Fault]:
    """A collector has a pipeline for traces, metrics and logs: what has none is refused as UNIMPLEMENTED."""
    for each in _forwarding(unit):
        missing = set(SIGNALS) - {name.partition("/")[0] for name in each.pipelines}
        # A tier behind another takes what that one sends it.
        if missing and not _is_tier(each):
            yield Fault(*each.place("service", "pipelines"), f"none for {listed(missing)}", "traces, metrics and logs")


def _is_tier(each: Collector) -> bool:
    return any(name.partition("/")[0] in ("tail_sampling", "groupbytrace") for name in each.used("processors"))


@rule("collector-memory-limiter")
def memory_limiter(unit: Unit) -> Iterator[Fault]:
    """memory_limiter comes first where data comes in, and limits to less than the container's memory."""
    for each in collectors(unit):
        for name, pipeline in each.pipelines.items():
            first = str(next(iter(pipeline.get("processors") or []), "none"))
            # What comes by a connector was let in by the pipeline before.
            inner = set(pipeline.get("receivers") or []) <= set(each.section("connectors"))
            if not inner and first.partition("/")[0] != "memory_limiter":
                place = each.place("service", "pipelines", name)
                yield Fault(*place, f"{first} as first processor", "memory_limiter")
        for name, limiter in each.section("processors").items():
            limit = byte_quantity(dig(each.container.spec, "resources", "limits", "memory"))
            own = limiter.get("limit_mib")
            if name.partition("/")[0] == "memory_limiter" and own and limit and float(own) * 2**20 >= limit:
                place = each.place("processors", name, "limit_mib")
                yield Fault(*place, f"{own} MiB", f"less than the limit of the container, {limit / 2**20:g} MiB")


@rule("collector-keeps-nothing")
def keeps_nothing(unit: Unit) -> Iterator[Fault]:
    """Nothing acknowledged is in memory only: no batch processor, a sending_queue off or on a volume (storage)."""
    for each in collectors(unit):
        for name in sorted(each.used("processors")):
            if name.partition("/")[0] in _HOLDING:
                place = each.place("processors", name)
                yield Fault(
                    *place, f"{name}, which acknowledges what is in memory", "sending_queue.batch with storage, or none"
                )
        for name, path, queue in _queues(each):
            if queue.get("enabled", True) is not False and not queue.get("storage"):
                place = each.place("exporters", name, *path)
                yield Fault(*place, "a queue in memory", "enabled: false, or the storage extension that keeps it")


def _queues(each: Collector) -> Iterator[tuple[str, tuple[str, ...], Object]]:
    """Yield the queues of the exporters in use: the exporter, the path in it, the queue's configuration."""
    for name, exporter in each.section("exporters").items():
        kind = name.partition("/")[0]
        path = ("queue",) if kind == "jaeger_storage_exporter" else ("sending_queue",)
        if name in each.used("exporters"):
            if dig(exporter, *path) is not None or kind not in _WITHOUT_QUEUE:
                yield name, path, mapping(exporter, *path)
            if kind in ("load_balancing", "loadbalancing"):
                # The exporters that it makes have each a queue of their own, unless that is switched off.
                yield name, _INNER_QUEUE, mapping(exporter, *_INNER_QUEUE)


@rule("collector-storage")
def storage(unit: Unit) -> Iterator[Fault]:
    """The storage that a queue names is an extension that is started, in a folder on a persistent volume."""
    for each in collectors(unit):
        for name, path, queue in _queues(each):
            wanted = queue.get("storage")
            if wanted and queue.get("enabled", True) and wanted not in each.used("extensions"):
                place = each.place("exporters", name, *path)
                started = listed(each.used("extensions"))
                yield Fault(*place, f"storage {wanted}", f"an extension of the service: {started}")
        for name in sorted(each.used("extensions")):
            folder = str(each.section("extensions").get(name, {}).get("directory") or _STORAGE_FOLDER)
            if name.partition("/")[0] == "file_storage" and not _is_kept(each, folder):
                place = each.place("extensions", name)
                yield Fault(*place, folder, "a folder on a volume that outlives the pod")


def _is_kept(each: Collector, folder: str) -> bool:
    mounted = mount_of(each.pod, each.container, folder)
    return mounted is not None and any(key in mounted[1] for key in ("claim", "persistentVolumeClaim"))


@rule("collector-file")
def collector_file(unit: Unit) -> Iterator[Fault]:
    """A certificate or key that a collector's configuration names is brought by a volume."""
    for each in collectors(unit):
        for keys_to, path in _named_files(each.config, ()):
            if not is_there(unit, each.pod, each.container, path):
                there = listed(files(unit, each.pod, each.container))
                yield Fault(*each.place(*keys_to), path, f"a mounted file: {there}")


def _named_files(value: object, way: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, each in value.items() if isinstance(value, dict) else ():
        if str(key).endswith("_file") and str(each).startswith("/"):
            yield (*way, str(key)), str(each)
        yield from _named_files(each, (*way, str(key)))


def _forwarding(unit: Unit) -> list[Collector]:
    return [each for each in collectors(unit) if not each.jaeger]


def _components(unit: Unit) -> Iterator[tuple[Collector, str, str]]:
    for each in collectors(unit):
        for section in _SECTIONS:
            yield from ((each, section, name) for name in each.section(section))


@cache
def _in_image(section: str) -> frozenset[str]:
    """Return the types of a section's components, read off the names of the modules that the image is made of."""
    modules = re.findall(rf"/{section[:-1]}/(?:[a-z]+/)?([a-z0-9]+) v", _COMPONENTS.read_text())
    return frozenset(module.removesuffix(section[:-1]) for module in modules)
