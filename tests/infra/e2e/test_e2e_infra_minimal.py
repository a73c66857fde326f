"""The minimal example as it is written, in the namespace `default`, with both services beside it."""

import os
import re
import secrets
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import httpx
import yaml
from backends import Jaeger, StoredSpan
from kube.cluster import Cluster, Object
from kube.cluster.testing import require_inside
from kube.render import load, render
from load import traceparent
from local import INFRA, READY_SECONDS, SERVICES, eventually, images

require_inside()

ENDPOINT = "http://otel-collector.default:4317"
ARRIVED_SECONDS = 60.0
"""Longer than any pause between two exports, on a busy machine."""
# What the debug exporter writes for each batch.
BATCHES = {"Metrics": "data points", "Logs": "log records"}


def test_it_takes_all_signals_and_stores_traces(tmp_path: Path) -> None:
    """A call of both services is one trace in its Jaeger, and the collector says that metrics and logs arrive."""
    objects = [*load(INFRA / "examples" / "minimal"), *render(_services(tmp_path / "services"))]
    assert {each["metadata"].get("namespace", "default") for each in objects} == {"default"}
    with Cluster(objects, images(), tmp_path / "cluster") as cluster:
        cluster.wait_ready(READY_SECONDS)
        trace = _greet(cluster)
        with closing(Jaeger(f"{cluster.service_ip('default', 'jaeger')}:16686")) as jaeger:
            spans = eventually(lambda: _whole(jaeger, trace), ARRIVED_SECONDS, f"trace {trace} is not whole")
        # Of each service at least one.
        for batch in BATCHES:
            cluster.wait_until(lambda seen=batch: _received(cluster, seen) >= 2, ARRIVED_SECONDS, batch)  # type: ignore[misc]

    assert sorted((span.service, span.kind) for span in spans) == [
        ("rsketch-grpc", "server"),
        ("rsketch-http", "client"),
        ("rsketch-http", "server"),
    ]


def _services(folder: Path) -> Path:
    """Write a kustomization that puts the services of the local overlay beside the example."""
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "default",
        "resources": [os.path.relpath(INFRA / "overlays" / "local" / name, folder) for name in ("grpc", "http")],
        "patches": [_patch(_deployment(service)) for service in SERVICES]
        # Theirs lead to the collector of the platform only, and nothing in "default" is denied.
        + [_patch(_no_policy(service)) for service in SERVICES],
    }
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(document))
    return folder


def _patch(changed: Object) -> Mapping[str, str]:
    return {"patch": yaml.safe_dump(changed)}


def _deployment(service: str) -> Object:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_METRIC_EXPORT_INTERVAL": "1000"}
    if service == "rsketch-http":
        variables["RSKETCH_HTTP_GRPC_TARGET"] = "dns:///rsketch-grpc.default:50051"
    environment = [{"name": name, "value": value} for name, value in variables.items()]
    containers = [{"name": service, "env": environment}]
    return _named("apps/v1", "Deployment", service) | {"spec": {"template": {"spec": {"containers": containers}}}}


def _no_policy(service: str) -> Object:
    return _named("networking.k8s.io/v1", "NetworkPolicy", service) | {"$patch": "delete"}


def _named(version: str, kind: str, name: str) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


def _greet(cluster: Cluster) -> str:
    trace = secrets.token_hex(16)
    url = f"http://{cluster.service_ip('default', 'rsketch-http')}/api/v1/hello?name=ada"
    answer = httpx.get(url, headers=traceparent(trace), timeout=10.0)
    assert answer.json() == {"message": "Hello, ada!"}
    return trace


def _whole(jaeger: Jaeger, trace: str) -> list[StoredSpan]:
    # One that was sent twice counts once.
    spans = {span.span_id: span for span in jaeger.trace(trace)}
    return list(spans.values()) if len(spans) == 3 else []


def _received(cluster: Cluster, batch: str) -> int:
    """Return how many items the collector says it has received in batches of a kind."""
    lines = [line for line in cluster.pod("otel-collector").logs().splitlines() if f"\tinfo\t{batch}\t" in line]
    return sum(int(number) for line in lines for number in re.findall(rf'"{BATCHES[batch]}": (\d+)', line))
