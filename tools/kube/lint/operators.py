"""
What the OpenTelemetry operator makes of an OpenTelemetryCollector, as far as the rules look at it.

So that a collector described by the custom resource keeps to the same rules as one that is described by a Deployment.
"""

from collections.abc import Iterator
from typing import Any

import yaml

from kube.objects import Object, dig, labels, mapping, mappings, metadata_name, namespace

__all__ = ["is_made_by_an_operator", "made_by_operators"]

_MANAGER = "app.kubernetes.io/managed-by"

_KINDS = {"daemonset": "DaemonSet", "deployment": "Deployment", "statefulset": "StatefulSet"}
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
_HEALTH_PORT = 13133


def made_by_operators(objects: list[Object]) -> list[Object]:
    """Return what operators add to *objects* when these are applied."""
    return [made for thing in objects if thing.get("kind") == "OpenTelemetryCollector" for made in _made(thing)]


def is_made_by_an_operator(thing: Object) -> bool:
    """Tell whether nobody wrote an object: an operator named and labelled it."""
    return str(labels(thing).get(_MANAGER, "")).endswith("-operator")


def _made(thing: Object) -> Iterator[Object]:
    kind = _KINDS.get(str(dig(thing, "spec", "mode") or "deployment"))
    # A side-car is put into pods that are not here.
    if kind is not None:
        yield _object(
            "v1", "ConfigMap", thing, data={"collector.yaml": yaml.safe_dump(mapping(thing, "spec", "config"))}
        )
        yield _object("apps/v1", kind, thing, spec=_workload(thing, kind))
        if "autoscaler" in mapping(thing, "spec"):
            target = {"kind": kind, "name": f"{metadata_name(thing)}-collector"}
            spec = {"scaleTargetRef": target, **mapping(thing, "spec", "autoscaler")}
            yield _object("autoscaling/v2", "HorizontalPodAutoscaler", thing, spec=spec)
        yield _object("v1", "Service", thing, spec={"selector": _selector(thing), "ports": list(_receiving(thing))})


def _object(version: str, kind: str, thing: Object, **rest: Any) -> Object:
    meta = {
        "name": f"{metadata_name(thing)}-collector",
        "namespace": namespace(thing),
        "labels": _labels(thing),
        "ownerReferences": [
            {"apiVersion": thing["apiVersion"], "kind": thing["kind"], "name": metadata_name(thing), "uid": "unknown"}
        ],
    }
    return {"apiVersion": version, "kind": kind, "metadata": meta, **rest}


def _labels(thing: Object) -> Object:
    name = labels(thing).get("app.kubernetes.io/name") or f"{metadata_name(thing)}-collector"
    return {**labels(thing), **_selector(thing), "app.kubernetes.io/name": name}


def _selector(thing: Object) -> Object:
    return {
        "app.kubernetes.io/component": "opentelemetry-collector",
        "app.kubernetes.io/instance": f"{namespace(thing)}.{metadata_name(thing)}",
        _MANAGER: "opentelemetry-operator",
        "app.kubernetes.io/part-of": "opentelemetry",
    }


def _workload(thing: Object, kind: str) -> Object:
    spec = mapping(thing, "spec")
    pod = {
        "serviceAccountName": spec.get("serviceAccount") or f"{metadata_name(thing)}-collector",
        "automountServiceAccountToken": True,
        "terminationGracePeriodSeconds": spec.get("terminationGracePeriodSeconds", 30),
        "securityContext": mapping(spec, "podSecurityContext"),
        "topologySpreadConstraints": mappings(spec, "topologySpreadConstraints"),
        "containers": [_container(thing)],
        "volumes": [
            {"name": "otc-internal", "configMap": {"name": f"{metadata_name(thing)}-collector"}},
            *mappings(spec, "volumes"),
        ],
    }
    made: Object = {
        "selector": {"matchLabels": _selector(thing)},
        "template": {"metadata": {"labels": _labels(thing)}, "spec": pod},
    }
    if "replicas" in spec:
        made["replicas"] = spec["replicas"]
    if kind == "StatefulSet":
        made |= {"serviceName": f"{metadata_name(thing)}-collector", **_claims(spec)}
    return made


def _claims(spec: Object) -> Object:
    return {"volumeClaimTemplates": mappings(spec, "volumeClaimTemplates")}


def _container(thing: Object) -> Object:
    spec = mapping(thing, "spec")
    kept: Object = {
        key: spec[key] for key in ("image", "lifecycle", "resources", "securityContext", "envFrom") if key in spec
    }
    health = "health_check" in (dig(spec, "config", "service", "extensions") or [])
    answer = {"httpGet": {"path": "/", "port": _HEALTH_PORT}} if health else {}
    pod_name = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    return {
        **kept,
        "name": "otc-container",
        "args": [
            "--config=/conf/collector.yaml",
            *(f"--{key}={value}" for key, value in mapping(spec, "args").items()),
        ],
        "env": [pod_name, *mappings(spec, "env")],
        "ports": [{"name": port["name"], "containerPort": port["port"]} for port in _listening(thing)],
        "volumeMounts": [{"name": "otc-internal", "mountPath": "/conf"}, *mappings(spec, "volumeMounts")],
        **{probe: {**answer, **mapping(spec, probe)} for probe in _PROBES if probe in spec or probe != "startupProbe"},
    }


def _listening(thing: Object) -> Iterator[Object]:
    yield from _receiving(thing)
    yield {"name": "metrics", "port": 8888}
    yield {"name": "health", "port": _HEALTH_PORT}


def _receiving(thing: Object) -> Iterator[Object]:
    """Yield the ports of the receivers, which the operator reads off the configuration."""
    for name, receiver in mapping(thing, "spec", "config", "receivers").items():
        for protocol, each in mapping(receiver, "protocols").items():
            port = str(dig(each, "endpoint") or "").rpartition(":")[2]
            if port.isdigit():
                yield {"name": f"{str(name).replace('/', '-')}-{protocol}", "port": int(port)}
    yield from mappings(thing, "spec", "ports")
