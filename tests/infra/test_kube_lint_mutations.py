"""
That the lint finds what it says it finds: each row breaks one thing in what `infra/` really renders.

The rule that is named must report it at the object that is named, and no other rule may report anything anywhere.
"""

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import yaml
from kube.lint import RULES, Unit, lint
from kube.objects import Object, title
from kube.render import deployments, environment

Edit = Callable[[list[Object], Object], None]

POD = "spec template spec"
COLLECTOR, JAEGER, PROMETHEUS, LOKI, GRAFANA, HTTP, GRPC = (
    f"{POD} containers {name}"
    for name in ("otel-collector", "jaeger", "prometheus", "loki", "grafana", "rsketch-http", "rsketch-grpc")
)


# --- what can be done to an object; a path is words, a word in a list is an element's name, key or number ---


def put(path: str, value: Any) -> Edit:
    """Set what stands at a path."""

    def edit(_: list[Object], thing: Object) -> None:
        *way, last = path.split()
        holder = _walk(thing, way)
        holder[_index(holder, last)] = copy.deepcopy(value)

    return edit


def drop(path: str) -> Edit:
    """Delete what stands at a path."""

    def edit(_: list[Object], thing: Object) -> None:
        *way, last = path.split()
        holder = _walk(thing, way)
        del holder[_index(holder, last)]

    return edit


def add(path: str, value: Any) -> Edit:
    """Append to the list at a path."""
    return lambda _, thing: _walk(thing, path.split()).append(copy.deepcopy(value))


def reword(path: str, old: str, new: str) -> Edit:
    """Replace a part of the text at a path."""

    def edit(_: list[Object], thing: Object) -> None:
        *way, last = path.split()
        holder = _walk(thing, way)
        assert old in holder[_index(holder, last)]
        holder[_index(holder, last)] = holder[_index(holder, last)].replace(old, new)

    return edit


def inside(key: str, edit: Edit) -> Edit:
    """Edit the YAML that a ConfigMap holds under a key."""

    def outer(objects: list[Object], thing: Object) -> None:
        document = yaml.safe_load(thing["data"][key])
        edit(objects, document)
        thing["data"][key] = yaml.safe_dump(document)

    return outer


def both(*edits: Edit) -> Edit:
    """Make several edits that only together are one fault."""

    def edit(objects: list[Object], thing: Object) -> None:
        for each in edits:
            each(objects, thing)

    return edit


def remove(objects: list[Object], thing: Object) -> None:
    """Delete the object."""
    objects.remove(thing)


def twin(name: str, *edits: Edit) -> Edit:
    """Add a copy under another name, and edit that."""

    def edit(objects: list[Object], thing: Object) -> None:
        other = copy.deepcopy(thing)
        other["metadata"]["name"] = name
        both(*edits)(objects, other)
        objects.append(other)

    return edit


def rekey(old: str, new: str) -> Edit:
    """Rename a key of a ConfigMap."""

    def edit(_: list[Object], thing: Object) -> None:
        thing["data"][new] = thing["data"].pop(old)

    return edit


def first(path: str, name: str) -> Edit:
    """Move the entry of that name to the front of a list."""

    def edit(_: list[Object], thing: Object) -> None:
        entries = _walk(thing, path.split())
        entries.insert(0, entries.pop(_index(entries, name)))

    return edit


def config(path: str, value: Any) -> Edit:
    """Set something in the collector's configuration."""
    return inside("collector.yaml", put(path, value))


def exporting(name: str, settings: Object) -> Edit:
    """Define an exporter and send traces to it."""
    return inside(
        "collector.yaml", both(put(f"exporters {name}", settings), add("service pipelines traces exporters", name))
    )


def processing(name: str, settings: Object) -> Edit:
    """Define a processor and pass traces through it."""
    return inside(
        "collector.yaml", both(put(f"processors {name}", settings), add("service pipelines traces processors", name))
    )


def claimed(objects: list[Object], thing: Object) -> None:
    """Put the data of a Deployment on a claim that one node alone may mount."""
    volumes = thing["spec"]["template"]["spec"]["volumes"]
    volumes[_index(volumes, "data")] = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    meta = {"name": "data", "namespace": thing["metadata"]["namespace"], "labels": thing["metadata"]["labels"]}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    objects.append({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec})


def _walk(holder: Any, way: Sequence[str]) -> Any:
    for word in way:
        holder = holder[_index(holder, word)]
    return holder


def _index(holder: Any, word: str) -> Any:
    if not isinstance(holder, list):
        return word
    named = [number for number, each in enumerate(holder) if isinstance(each, dict) and word in each.values()]
    return named[0] if named else int(word)


# --- what is broken, in which object, by which edit, and which rule must say so ---


@dataclass(frozen=True, slots=True)
class Mutation:
    """
    One fault.

    Attributes:
        rule: The rule that reports it.
        at: The object that is edited, without the hash that ends the name of a ConfigMap.
        by: The edit.
        says: A part of what the finding says.
        reported: The object that the finding names, where that is another one.
        also: What must be found besides, as rule and object: the same fault, seen from another side.
        overlay: Where the object is from.
    """

    rule: str
    at: str
    by: Edit
    says: str
    reported: str = ""
    also: tuple[tuple[str, str], ...] = ()
    overlay: str = "local"


CLIENT = "Deployment rsketch/rsketch-http"
SERVER = "Deployment rsketch/rsketch-grpc"
GATEWAY = "Deployment observability/otel-collector"
STORE = "StatefulSet observability/jaeger"
METRICS = "StatefulSet observability/prometheus"
PAGES = "Deployment observability/grafana"
CONFIG = "ConfigMap observability/otel-collector"
SCRAPES = "ConfigMap observability/prometheus-config"
SOURCES = "ConfigMap observability/grafana"
ROLE = "ClusterRole rsketch-otel-collector"
BINDING = "ClusterRoleBinding rsketch-otel-collector"
NAME = "app.kubernetes.io/name"
TARGET = f"{HTTP} env OTEL_EXPORTER_OTLP_ENDPOINT value"

IMAGES_AND_COMMANDS = [
    Mutation(
        "image-tag", GATEWAY, put(f"{COLLECTOR} image", "otel/opentelemetry-collector-k8s"), "-k8s, expected a tag"
    ),
    Mutation("image-tag", CLIENT, put(f"{HTTP} image", "rsketch-http:latest"), "latest"),
    Mutation("image-version", GATEWAY, reword(f"{COLLECTOR} image", "0.159.0", "0.158.0"), "infra/versions.toml"),
    Mutation("image-version", CLIENT, put(f"{HTTP} image", "rsketch-http:9.9.9"), "the package's version"),
    Mutation("image-version", PAGES, put(f"{GRAFANA} image", "example/other:1.0"), "an image of infra/versions.toml"),
    Mutation(
        "command-is-argument",
        GATEWAY,
        both(put(f"{COLLECTOR} command", ["--config=/etc/otelcol/collector.yaml"]), drop(f"{COLLECTOR} args")),
        "--config=/etc/otelcol/collector.yaml as the program to run",
    ),
    Mutation("command-replaced", STORE, put(f"{JAEGER} command", ["/jaeger"]), "/jaeger"),
]

REFERENCES = [
    Mutation("object-unique", "ServiceAccount rsketch/rsketch-http", twin("rsketch-http"), "a second object"),
    Mutation(
        "namespace-exists",
        "ServiceAccount rsketch/rsketch-http",
        twin("spare", put("metadata namespace", "rsketsh")),
        "found rsketsh",
        reported="ServiceAccount rsketsh/spare",
    ),
    Mutation(
        "config-exists", CLIENT, put(f"{HTTP} envFrom", [{"configMapRef": {"name": "nobody"}}]), "ConfigMap nobody"
    ),
    Mutation(
        "secret-exists",
        CLIENT,
        add(f"{HTTP} env", {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "nobody", "key": "token"}}}),
        "Secret nobody",
    ),
    Mutation(
        "config-key",
        PAGES,
        put(f"{POD} volumes config configMap items grafana.ini key", "grafana.in"),
        "key grafana.in",
    ),
    Mutation("config-used", CONFIG, twin("stray"), "no pod that uses it", reported="ConfigMap observability/stray"),
    Mutation("config-size", "ConfigMap observability/loki", put("data notes", "x" * 300_000), "fewer than 262144"),
    Mutation(
        "config-parses",
        CONFIG,
        reword("data collector.yaml", "\nprocessors:", "\nexporters: {}\nprocessors:"),
        "exporters twice",
    ),
    Mutation("config-file-exists", CONFIG, rekey("collector.yaml", "collector"), "/etc/otelcol/collector", GATEWAY),
    Mutation("config-file-exists", METRICS, reword(f"{PROMETHEUS} args 0", "config/prom", "prom"), "/prometheus.yaml"),
    Mutation(
        "config-file-exists",
        CLIENT,
        reword(f"{HTTP} env OTEL_EXPORTER_OTLP_CERTIFICATE value", "ca.crt", "ca.pem"),
        "ca.pem",
        overlay="tls",
    ),
    Mutation("volume-defined", CLIENT, put(f"{HTTP} volumeMounts", [{"name": "tmp", "mountPath": "/tmp"}]), "tmp"),
    Mutation("volume-mounted", CLIENT, put(f"{POD} volumes", [{"name": "tmp", "emptyDir": {}}]), "mounted by nobody"),
    Mutation(
        "mount-unique",
        GATEWAY,
        add(f"{COLLECTOR} volumeMounts", {"name": "config", "mountPath": "/etc/otelcol"}),
        "/etc/otelcol twice",
    ),
    Mutation("data-folder-writable", METRICS, reword(f"{PROMETHEUS} args 1", "lib", "cache"), "/var/cache/prometheus"),
    Mutation(
        "data-folder-writable", METRICS, put(f"{PROMETHEUS} volumeMounts data readOnly", True), "/var/lib/prometheus"
    ),
    Mutation("claim-group", STORE, drop(f"{POD} securityContext fsGroup"), "none"),
    Mutation("claim-shared", PAGES, both(put("spec replicas", 2), claimed), "2"),
]

SELECTORS = [
    Mutation("workload-selector", STORE, put(f"spec selector matchLabels {NAME}", "jager"), "jager"),
    Mutation(
        "selector-overlap",
        STORE,
        put("spec selector matchLabels", {"app.kubernetes.io/part-of": "rsketch"}),
        "also finds the pods of",
    ),
    Mutation("service-selector", "Service observability/grafana", put(f"spec selector {NAME}", "grafanna"), "grafanna"),
    Mutation(
        "disruption-budget-selector",
        "PodDisruptionBudget rsketch/rsketch-http",
        twin("spare", put(f"spec selector matchLabels {NAME}", "http")),
        "=http",
        reported="PodDisruptionBudget rsketch/spare",
        overlay="prod",
    ),
    Mutation(
        "network-policy-selector",
        "NetworkPolicy observability/jaeger",
        twin("spare", put(f"spec podSelector matchLabels {NAME}", "jager")),
        "jager",
        reported="NetworkPolicy observability/spare",
    ),
    Mutation(
        "network-policy-peer",
        "NetworkPolicy observability/jaeger",
        add("spec ingress", {"from": [{"podSelector": {"matchLabels": {NAME: "collector"}}}]}),
        "=collector",
    ),
    Mutation(
        "spread-selector",
        CLIENT,
        put(f"{POD} topologySpreadConstraints 0 labelSelector matchLabels {NAME}", "http"),
        "=http",
        overlay="prod",
    ),
    Mutation(
        "autoscaler-target",
        "HorizontalPodAutoscaler rsketch/rsketch-http",
        twin("spare", put("spec scaleTargetRef name", "http")),
        "Deployment http",
        reported="HorizontalPodAutoscaler rsketch/spare",
        overlay="prod",
    ),
    Mutation("stateful-set-service", STORE, put("spec serviceName", "jager"), "jager"),
    Mutation(
        "monitor-selector",
        "ServiceMonitor observability/rsketch-metrics",
        put("spec endpoints 0 port", "metricks"),
        "port metricks",
        overlay="prometheus-operator",
    ),
]

PORTS = [
    Mutation("port-range", CLIENT, add(f"{HTTP} ports", {"name": "big", "containerPort": 99999}), "99999"),
    Mutation("port-unique", CLIENT, add(f"{HTTP} ports", {"name": "http", "containerPort": 3001}), "http twice"),
    Mutation("service-target-port", "Service rsketch/rsketch-http", put("spec ports 0 targetPort", 3001), "found 3001"),
    Mutation("service-target-port", "Service rsketch/rsketch-http", put("spec ports 0 targetPort", "web"), "http 3000"),
    Mutation(
        "headless-port",
        "Service observability/jaeger-metrics",
        add("spec ports", {"name": "pages", "port": 80, "targetPort": "query"}),
        "16686",
    ),
    Mutation(
        "network-policy-port", "NetworkPolicy rsketch/rsketch-http", put("spec ingress 0 ports 0 port", 80), "found 80"
    ),
    Mutation(
        "network-policy-types",
        "NetworkPolicy rsketch/rsketch-grpc",
        put("spec policyTypes", ["Ingress"]),
        "found Ingress, though there is egress",
        also=(("egress-allowed", SERVER),),
    ),
    Mutation(
        "service-port",
        CLIENT,
        add(f"{HTTP} env", {"name": "RSKETCH_HTTP_PORT", "value": "8080"}),
        "found 8080, expected",
    ),
    Mutation("probes-set", CLIENT, drop(f"{HTTP} livenessProbe"), "no livenessProbe"),
    Mutation("probes-set", CLIENT, put(f"{HTTP} livenessProbe", None), "no livenessProbe"),
    Mutation("probe-port", CLIENT, put(f"{HTTP} readinessProbe httpGet port", "web"), "found web"),
    Mutation("probe-port", SERVER, put(f"{GRPC} readinessProbe grpc port", 50052), "found 50052"),
]

VARIABLES = [
    Mutation("env-unique", CLIENT, add(f"{HTTP} env", {"name": "OTEL_SERVICE_NAME", "value": "http"}), "2 entries"),
    Mutation("env-order", CLIENT, first(f"{HTTP} env", "OTEL_RESOURCE_ATTRIBUTES"), "$(K8S_POD_UID)"),
    Mutation("argument-variable", GATEWAY, add(f"{COLLECTOR} args", "--feature-gates=$(GATES)"), "$(GATES)"),
    Mutation(
        "env-field",
        CLIENT,
        put(f"{HTTP} env K8S_POD_UID valueFrom fieldRef fieldPath", "metadata.uuid"),
        "metadata.uuid",
    ),
    Mutation(
        "env-field",
        CLIENT,
        put(f"{HTTP} env K8S_POD_UID valueFrom fieldRef fieldPath", "metadata.labels['uid']"),
        "label",
    ),
    Mutation("env-known", CLIENT, add(f"{HTTP} env", {"name": "RSKETCH_HTTP_PROT", "value": "1"}), "RSKETCH_HTTP_PROT"),
    Mutation("otlp-endpoint-set", CLIENT, drop(f"{HTTP} env OTEL_EXPORTER_OTLP_ENDPOINT"), "no OTEL_EXPORTER_OTLP_"),
    Mutation("otlp-endpoint-form", CLIENT, put(TARGET, ""), "found ''"),
    Mutation("otlp-endpoint-form", CLIENT, put(TARGET, "otel-collector.observability:4317"), "a URL such as"),
    Mutation("otlp-endpoint-form", CLIENT, put(TARGET, "http//otel-collector.observability:4317"), "a URL such as"),
    Mutation(
        "resource-attributes",
        CLIENT,
        reword(f"{HTTP} env OTEL_RESOURCE_ATTRIBUTES value", "k8s.pod.uid=", "pod.uid="),
        "no k8s.pod.uid",
    ),
]

REACH = [
    Mutation("endpoint-service", CLIENT, reword(TARGET, "otel-collector", "otel-colector"), "otel-colector"),
    Mutation("endpoint-service", CLIENT, reword(TARGET, "observability", "default"), "otel-collector.default"),
    Mutation("endpoint-port", CLIENT, reword(TARGET, "4317", "4316"), "found 4316"),
    Mutation("endpoint-port", CLIENT, reword(f"{HTTP} env RSKETCH_HTTP_GRPC_TARGET value", "50051", "50052"), "50052"),
    Mutation("endpoint-own-pod", CLIENT, put(TARGET, "http://localhost:4317"), "localhost:4317"),
    Mutation("endpoint-headless", "Service rsketch/rsketch-grpc", drop("spec clusterIP"), "one address", CLIENT),
    Mutation("endpoint-form", CONFIG, config("exporters otlp_grpc/jaeger endpoint", "jaeger"), "'jaeger'"),
    Mutation("endpoint-service", CONFIG, config("exporters otlp_grpc/jaeger endpoint", "jager:4317"), "found jager"),
    Mutation(
        "endpoint-service",
        SCRAPES,
        inside("prometheus.yaml", put("scrape_configs otel-collector dns_sd_configs 0 names", ["collector-metrics"])),
        "collector-metrics",
    ),
    Mutation(
        "endpoint-service",
        SCRAPES,
        inside("prometheus.yaml", put("remote_write", [{"url": "http://mimir.observability/api/v1/push"}])),
        "found mimir.observability",
    ),
    Mutation(
        "endpoint-port", SOURCES, inside("datasources.yaml", put("datasources 0 url", "http://jaeger:16687")), "16687"
    ),
    Mutation("egress-allowed", "NetworkPolicy rsketch/rsketch-http", drop("spec egress 1"), "lets it out", CLIENT),
    Mutation(
        "egress-allowed",
        "NetworkPolicy rsketch/rsketch-http",
        reword(f"spec egress 1 to 0 podSelector matchLabels {NAME}", "otel-collector", "jaeger"),
        "on 4317",
        CLIENT,
    ),
    Mutation(
        "egress-allowed",
        "NetworkPolicy observability/otel-collector",
        put("spec egress 0 ports 0 port", 14250),
        "4317",
        GATEWAY,
    ),
    Mutation("ingress-allowed", "NetworkPolicy observability/jaeger", drop("spec ingress 0"), "admits", STORE),
    Mutation(
        "ingress-allowed",
        "Namespace rsketch",
        drop("metadata labels rsketch/otlp"),
        "admits Deployment rsketch/rsketch-",
        GATEWAY,
        also=(("network-policy-peer", "NetworkPolicy observability/otel-collector"),),
        overlay="prod",
    ),
    Mutation(
        "egress-dns",
        "NetworkPolicy rsketch/allow-dns",
        remove,
        "53/UDP",
        CLIENT,
        also=(("egress-dns", SERVER),),
    ),
    Mutation("egress-outside", CLIENT, put(TARGET, "https://otlp.vendor.example:4317"), "otlp.vendor.example on 4317"),
    Mutation("egress-api-server", "NetworkPolicy observability/otel-collector", drop("spec egress 3"), "443", GATEWAY),
    Mutation("otlp-protocol", CLIENT, reword(TARGET, "4317", "4318"), "grpc to 4318"),
    Mutation(
        "otlp-path", CONFIG, config("exporters otlp_http/prometheus endpoint", "http://prometheus:9090"), "/api/v1"
    ),
    Mutation(
        "otlp-plaintext", CONFIG, inside("collector.yaml", drop("exporters otlp_grpc/jaeger tls")), "tls.insecure"
    ),
    Mutation(
        "otlp-plaintext",
        CLIENT,
        put(f"{HTTP} env OTEL_EXPORTER_OTLP_ENDPOINT value", "https://otel-collector.observability:4317"),
        "found TLS, expected plain text (http://",
    ),
    Mutation("prometheus-otlp-receiver", METRICS, drop(f"{PROMETHEUS} args 3"), "no OTLP receiver"),
    Mutation(
        "prometheus-rule-files",
        SCRAPES,
        inside("prometheus.yaml", put("rule_files", ["../rule/*.yaml"])),
        "../rule/",
        METRICS,
    ),
    Mutation("grafana-source", SOURCES, inside("datasources.yaml", put("datasources 0 uid", "other")), "source", PAGES),
    Mutation(
        "grafana-folder",
        PAGES,
        drop(f"{GRAFANA} volumeMounts dashboards"),
        "a folder",
        also=(("volume-mounted", PAGES),),
    ),
]

COLLECTOR_CONFIGURATION = [
    Mutation(
        "collector-variable", CONFIG, config("receivers otlp protocols grpc endpoint", "${env:POD}:4317"), "${env:POD}"
    ),
    Mutation("collector-variable", GATEWAY, drop(f"{COLLECTOR} env POD_IP"), "${env:POD_IP}", CONFIG),
    Mutation(
        "collector-component-defined",
        CONFIG,
        inside("collector.yaml", add("service pipelines traces exporters", "debug")),
        "debug",
    ),
    Mutation("collector-component-used", CONFIG, config("exporters debug", {}), "used by nothing"),
    Mutation(
        "collector-component-used",
        CONFIG,
        config("service extensions", []),
        "health_check",
        also=(("collector-health", GATEWAY),),
    ),
    Mutation(
        "collector-component-removed",
        CONFIG,
        exporting(
            "jaeger", {"endpoint": "jaeger:4317", "tls": {"insecure": True}, "sending_queue": {"enabled": False}}
        ),
        "otlp_grpc",
    ),
    Mutation("collector-component-renamed", CONFIG, processing("k8sattributes", {}), "k8s_attributes"),
    Mutation("collector-component-in-image", CONFIG, processing("geoip", {}), "geoip"),
    Mutation(
        "collector-signals",
        CONFIG,
        inside("collector.yaml", both(drop("service pipelines logs"), drop("exporters otlp_http/loki"))),
        "none for logs",
    ),
    Mutation(
        "collector-memory-limiter",
        CONFIG,
        config("service pipelines traces processors", ["k8s_attributes", "memory_limiter"]),
        "k8s_attributes as first",
    ),
    Mutation("collector-memory-limiter", CONFIG, config("processors memory_limiter limit_mib", 512), "512 MiB"),
    Mutation("collector-keeps-nothing", CONFIG, processing("batch", {}), "batch"),
    Mutation(
        "collector-keeps-nothing",
        CONFIG,
        inside("collector.yaml", drop("exporters otlp_http/loki sending_queue")),
        "a queue in memory",
    ),
    Mutation(
        "collector-storage",
        CONFIG,
        config("exporters otlp_http/loki sending_queue", {"storage": "file_storage"}),
        "file_storage",
    ),
    Mutation(
        "collector-storage",
        CONFIG,
        inside("spool.yaml", put("extensions file_storage directory", "/tmp/spool")),
        "/tmp/spool",
        overlay="spool-persistent",
    ),
    Mutation(
        "collector-file",
        CONFIG,
        inside("tls.yaml", put("receivers otlp protocols grpc tls cert_file", "/etc/otelcol/tls/cert.pem")),
        "cert.pem",
        overlay="tls",
    ),
    Mutation(
        "collector-loopback",
        CONFIG,
        inside("collector.yaml", put("receivers otlp protocols grpc", None)),
        "localhost:4317",
    ),
    Mutation(
        "collector-loopback",
        CONFIG,
        inside("collector.yaml", drop("service telemetry metrics readers 0 pull exporter prometheus host")),
        "localhost:8888",
    ),
    Mutation("collector-loopback", CONFIG, config("extensions health_check endpoint", "localhost:13133"), "13133"),
    Mutation(
        "collector-container-port",
        CONFIG,
        config("service telemetry metrics readers 0 pull exporter prometheus port", 8889),
        "no 8889",
        GATEWAY,
    ),
    Mutation(
        "collector-service", "Service observability/otel-collector", drop("spec ports otlp-http"), "4318", GATEWAY
    ),
    Mutation(
        "collector-health", CONFIG, config("extensions health_check path", "/health"), "/health on 13133", GATEWAY
    ),
    Mutation("collector-health", GATEWAY, put(f"{COLLECTOR} livenessProbe httpGet port", "metrics"), "/ on 8888"),
]

RIGHTS = [
    Mutation("service-account-exists", CLIENT, put(f"{POD} serviceAccountName", "http"), "found http"),
    Mutation("service-account-own", CLIENT, put(f"{POD} serviceAccountName", "default"), "found default"),
    Mutation(
        "role-binding",
        BINDING,
        twin("spare", put("subjects 0 name", "collector")),
        "observability/collector",
        reported="ClusterRoleBinding spare",
    ),
    Mutation(
        "role-binding",
        BINDING,
        twin("spare", put("roleRef name", "nobody")),
        "nobody",
        reported="ClusterRoleBinding spare",
    ),
    Mutation("token-mounted", GATEWAY, put(f"{POD} automountServiceAccountToken", value=False), "found false"),
    Mutation("role-wildcard", ROLE, add("rules 0 verbs", "*"), "found *"),
    Mutation("collector-rights", ROLE, put("rules 0 verbs", ["get", "list"]), "watch on pods", GATEWAY),
]

OWN = f"{HTTP} securityContext"
SECURITY = [
    Mutation("pod-security-host-namespaces", CLIENT, put(f"{POD} hostNetwork", value=True), "hostNetwork"),
    Mutation("pod-security-privileged", CLIENT, put(f"{OWN} privileged", value=True), "privileged"),
    Mutation("pod-security-capabilities", CLIENT, drop(f"{OWN} capabilities"), "ALL"),
    Mutation("pod-security-capabilities", CLIENT, put(f"{OWN} capabilities add", ["NET_ADMIN"]), "NET_ADMIN"),
    Mutation(
        "pod-security-volumes",
        CLIENT,
        both(
            put(f"{POD} volumes", [{"name": "node", "hostPath": {"path": "/"}}]),
            put(f"{HTTP} volumeMounts", [{"name": "node", "mountPath": "/node"}]),
        ),
        "hostPath",
    ),
    Mutation("pod-security-host-ports", CLIENT, put(f"{HTTP} ports http hostPort", 80), "80"),
    Mutation("pod-security-host-probes", CLIENT, put(f"{HTTP} livenessProbe httpGet host", "10.0.0.1"), "10.0.0.1"),
    Mutation("pod-security-profiles", CLIENT, put(f"{OWN} procMount", "Unmasked"), "Unmasked"),
    Mutation("pod-security-profiles", CLIENT, put(f"{OWN} seLinuxOptions", {"type": "spc_t"}), "spc_t"),
    Mutation("pod-security-profiles", CLIENT, put(f"{OWN} appArmorProfile", {"type": "Unconfined"}), "Unconfined"),
    Mutation(
        "pod-security-sysctls",
        CLIENT,
        put(f"{POD} securityContext sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
        "kernel.msgmax",
    ),
    Mutation("pod-security-seccomp", CLIENT, drop(f"{POD} securityContext seccompProfile"), "RuntimeDefault"),
    Mutation("pod-security-privilege-escalation", CLIENT, drop(f"{OWN} allowPrivilegeEscalation"), "found nothing"),
    Mutation("pod-security-non-root", CLIENT, drop(f"{POD} securityContext runAsNonRoot"), "runAsNonRoot"),
    Mutation("pod-security-non-root", CLIENT, put(f"{OWN} runAsUser", 0), "other than root"),
    Mutation("read-only-root", CLIENT, drop(f"{OWN} readOnlyRootFilesystem"), "found nothing"),
]

RESOURCES = [
    Mutation("resources-set", CLIENT, drop(f"{HTTP} resources limits"), "no limits.memory"),
    Mutation("memory-reserved", CLIENT, put(f"{HTTP} resources requests memory", "64Mi"), "64Mi of"),
    Mutation("go-memory-limit", STORE, put(f"{JAEGER} env GOMEMLIMIT value", "1000MiB"), "98%"),
    Mutation("go-memory-limit", STORE, drop(f"{JAEGER} env GOMEMLIMIT"), "found nothing"),
    Mutation("service-links", CLIENT, drop("spec template spec enableServiceLinks"), "found true"),
    Mutation(
        "grace-period", CLIENT, put(f"{POD} terminationGracePeriodSeconds", 18), "found 18, expected more than 18"
    ),
    Mutation(
        "grace-period",
        CLIENT,
        add(f"{HTTP} env", {"name": "RSKETCH_HTTP_DRAIN_SECONDS", "value": "25"}),
        "more than 33",
    ),
]

CUSTOMS = [
    Mutation("labels", "Service rsketch/rsketch-http", drop("metadata labels"), "found none"),
    Mutation(
        "labels", CLIENT, drop("spec template metadata labels app.kubernetes.io/part-of"), "spec.template.metadata"
    ),
    Mutation(
        "namespace-restricted",
        "Namespace rsketch",
        put("metadata labels pod-security.kubernetes.io/enforce", "baseline"),
        "baseline",
    ),
    Mutation(
        "namespace-default-deny",
        "NetworkPolicy rsketch/default-deny",
        put("spec policyTypes", ["Egress"]),
        "no default for Ingress",
        "Namespace rsketch",
    ),
    Mutation(
        "namespace-default-deny",
        "NetworkPolicy rsketch/default-deny",
        put("spec ingress", [{}]),
        "no default for Ingress",
        "Namespace rsketch",
    ),
    Mutation(
        "network-policy-missing",
        "NetworkPolicy rsketch/rsketch-grpc",
        remove,
        "no NetworkPolicy names",
        SERVER,
        also=(("egress-allowed", SERVER), ("ingress-allowed", SERVER)),
    ),
    Mutation(
        "namespace-own",
        "ServiceAccount rsketch/rsketch-http",
        twin("spare", drop("metadata namespace")),
        "found default",
        reported="ServiceAccount default/spare",
    ),
]

PRODUCTION = [
    Mutation("autoscaler-replicas", CLIENT, put("spec replicas", 3), "found 3", overlay="prod"),
    Mutation(
        "disruption-budget-blocks",
        "PodDisruptionBudget rsketch/rsketch-http",
        put("spec maxUnavailable", 0),
        "no pod that may go",
        overlay="prod",
    ),
    Mutation(
        "disruption-budget-blocks",
        "PodDisruptionBudget rsketch/rsketch-http",
        both(drop("spec maxUnavailable"), put("spec minAvailable", 3)),
        "3 of 3",
        overlay="prod",
    ),
    Mutation(
        "production-autoscaler",
        "HorizontalPodAutoscaler rsketch/rsketch-http",
        put("spec minReplicas", 1),
        "at least 2",
        overlay="prod",
    ),
    Mutation(
        "production-autoscaler",
        "HorizontalPodAutoscaler observability/otel-collector",
        remove,
        "no HorizontalPodAutoscaler",
        GATEWAY,
        overlay="prod",
    ),
    Mutation(
        "production-disruption-budget",
        "PodDisruptionBudget observability/otel-collector",
        remove,
        "no PodDisruptionBudget",
        GATEWAY,
        overlay="prod",
    ),
    Mutation("production-spread", CLIENT, drop(f"{POD} topologySpreadConstraints 0"), "zone", overlay="prod"),
]

MUTATIONS = [
    *IMAGES_AND_COMMANDS,
    *REFERENCES,
    *SELECTORS,
    *PORTS,
    *VARIABLES,
    *REACH,
    *COLLECTOR_CONFIGURATION,
    *RIGHTS,
    *SECURITY,
    *RESOURCES,
    *CUSTOMS,
    *PRODUCTION,
]


# --- the proof ---


@cache
def units(overlay: str) -> Sequence[Unit]:
    """Return the units of an overlay, or of the example of a component on prod."""
    example = f"components/examples/{overlay}/prod"
    return [each.unit() for each in deployments() if each.name == example] or [
        each.unit() for each in environment(overlay)
    ]


def mutated(mutation: Mutation) -> list[Unit]:
    """Return the units of the overlay, in one object of which one thing is broken."""
    parts = {unit.name: copy.deepcopy(list(unit.objects)) for unit in units(mutation.overlay)}
    found = [(part, thing) for part in parts.values() for thing in part if plain(title(thing)) == mutation.at]
    assert len(found) == 1, f"{mutation.at}: {len(found)} such objects in {mutation.overlay}"
    mutation.by(*found[0])
    return [
        Unit(
            unit.name,
            parts[unit.name],
            neighbours(unit, parts),
            house=unit.house,
            production=unit.production,
        )
        for unit in units(mutation.overlay)
    ]


def neighbours(unit: Unit, parts: dict[str, list[Object]]) -> list[Object]:
    """Return what is beside a unit: the other units as they are now, and what is in no unit."""
    others = [thing for name, part in parts.items() if name != unit.name for thing in part]
    return others if len(parts) > 1 else list(unit.neighbours)


def plain(name: str) -> str:
    """Return the name of an object without the hash that kustomize appends."""
    return re.sub(r"^(ConfigMap .*)-[a-z0-9]{10}$", r"\1", name)


@pytest.mark.parametrize("overlay", ["local", "dev", "prod", "prometheus-operator", "spool-persistent", "tls"])
def test_an_overlay_that_nobody_broke_is_clean(overlay: str) -> None:
    """What the repository ships gives the lint nothing to say."""
    assert [str(finding) for unit in units(overlay) for finding in lint(unit)] == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: f"{each.rule}-{each.at.rpartition('/')[2]}")
def test_one_fault_is_reported_by_its_rule_and_by_no_other(mutation: Mutation) -> None:
    """Exactly the rule that is named finds it, at the object that is named, and says what it found."""
    found = {finding for unit in mutated(mutation) for finding in lint(unit)}

    expected = {(mutation.rule, mutation.reported or plain(mutation.at)), *mutation.also}
    assert {(each.rule, plain(each.object)) for each in found} == expected, "\n".join(map(str, found))
    assert any(mutation.says in str(each) for each in found if each.rule == mutation.rule), "\n".join(map(str, found))


def test_every_rule_has_a_mutation() -> None:
    """A rule that nothing here makes speak is a rule that may not work."""
    assert sorted(set(RULES) - {mutation.rule for mutation in MUTATIONS}) == []
