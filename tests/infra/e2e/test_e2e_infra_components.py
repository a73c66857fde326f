"""Components with the real programs: each on the local overlay as its example renders it, in a cluster of its own."""

import json
import secrets
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import grpc
import httpx
import trustme
from backends import Jaeger, Prometheus
from cloud import Cloud, cloud
from kube.cluster import Cluster, Image, Object
from kube.cluster.testing import require_inside
from kube.render import render
from load import traceparent
from local import INFRA, OVERRIDES, READY_SECONDS, Platform, eventually, images, platform_objects, starting_platform
from otlp import ITEM, attempt, one_item, one_span
from rsketch_protos.hello.v1 import HelloRequest, HelloServiceStub
from rsketch_telemetry.otlp.model import LogRecord, MetricPoint, Span
from rsketch_telemetry.signal import Signal

require_inside()

EXAMPLES = INFRA / "components" / "examples"
ARRIVED_SECONDS = 60.0
"""Longer than any interval of an export, a flush or a retry, on a busy machine."""
Key = TypeVar("Key")


# --- tail-sampling ---

GREETED, DECLINED, REFUSED = 200, 20, 20
CALLS = "traces_span_metrics_calls_total"
EDGES = "traces_service_graph_request_total"
ROUTE, METHOD = "GET /api/v1/hello", "rsketch.hello.v1.HelloService/Hello"
COUNTS: Mapping[tuple[str, ...], float] = {
    ("rsketch-http", ROUTE, "SPAN_KIND_SERVER", "STATUS_CODE_UNSET"): GREETED + DECLINED,
    ("rsketch-http", ROUTE, "SPAN_KIND_SERVER", "STATUS_CODE_ERROR"): REFUSED,
    ("rsketch-http", METHOD, "SPAN_KIND_CLIENT", "STATUS_CODE_UNSET"): GREETED,
    ("rsketch-http", METHOD, "SPAN_KIND_CLIENT", "STATUS_CODE_ERROR"): DECLINED + REFUSED,
    ("rsketch-grpc", METHOD, "SPAN_KIND_SERVER", "STATUS_CODE_UNSET"): GREETED + DECLINED,
}


def test_tail_sampling_keeps_errors_and_counts_everything(tmp_path: Path) -> None:
    """Each trace with an error is stored whole, so is a part of the others; each span of them all is counted."""
    with starting_platform(tmp_path, EXAMPLES / "tail-sampling" / "local") as platform:
        refused = _calls_without_grpc(platform)
        platform.deploy("rsketch-grpc")
        # INVALID_ARGUMENT is an error to the caller alone: what speaks for the trace is one span of three.
        declined = _calls(platform.http_address(), "%20", httpx.codes.BAD_REQUEST, DECLINED)
        greeted = _calls(platform.http_address(), "ada", httpx.codes.OK, GREETED)

        _wait_until_whole(platform.jaeger, refused, 2)
        _wait_until_whole(platform.jaeger, declined, 3)
        _wait_until_equal(lambda: _counts(platform.prometheus), COUNTS)
        _wait_until_equal(lambda: _edges(platform.prometheus), {"false": GREETED, "true": DECLINED})
        # Its instance is its pod: one that begins anew goes on with the series that it had.
        assert platform.prometheus.query(f'{CALLS}{{collector_instance_id!=""}}') == []
        kept = [trace for trace in greeted if platform.jaeger.trace(trace)]
        print(f"{len(kept)} of {len(greeted)} traces without an error are stored")

        assert 0 < len(kept) < len(greeted) / 2
        _wait_until_whole(platform.jaeger, kept, 3)


def _calls_without_grpc(platform: Platform) -> list[str]:
    platform.cluster.apply(render(INFRA / "overlays" / "local" / "http"))
    # By the pod: behind the Service it is not ready without gRPC.
    address = f"{platform.cluster.pod('rsketch-http').ip}:3000"
    eventually(lambda: _is_alive(address), READY_SECONDS, "rsketch-http does not start")
    return _calls(address, "ada", httpx.codes.SERVICE_UNAVAILABLE, REFUSED)


def _is_alive(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/livez").is_success
    except httpx.TransportError:
        return False


def _calls(address: str, name: str, status: int, number: int) -> list[str]:
    """Ask for so many greetings, and return the ids of their traces."""
    traces = [secrets.token_hex(16) for _ in range(number)]
    with httpx.Client(timeout=10.0) as client:
        for trace in traces:
            headers = traceparent(trace)
            answer = client.get(f"http://{address}/api/v1/hello?name={name}", headers=headers)
            assert answer.status_code == status, answer.text
    return traces


def _wait_until_whole(jaeger: Jaeger, traces: Sequence[str], spans: int) -> None:
    missing = set(traces)

    def arrived() -> bool:
        missing.difference_update([trace for trace in missing if _stored(jaeger, trace) == spans])
        return not missing

    eventually(arrived, ARRIVED_SECONDS, f"of {len(traces)} traces not all have {spans} spans")


def _stored(jaeger: Jaeger, trace: str) -> int:
    # One that was sent twice counts once.
    return len({span.span_id for span in jaeger.trace(trace)})


def _wait_until_equal(ask: Callable[[], Mapping[Key, float]], expected: Mapping[Key, float]) -> None:
    """Wait for counts, which only grow: one that is too high never becomes right."""
    deadline = time.monotonic() + ARRIVED_SECONDS
    while (found := ask()) != expected and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found == expected


def _counts(prometheus: Prometheus) -> dict[tuple[str, ...], float]:
    labels = ("service_name", "span_name", "span_kind", "status_code")
    found = prometheus.query(f"sum by ({', '.join(labels)}) ({CALLS})")
    return {tuple(series["metric"][label] for label in labels): float(series["value"][1]) for series in found}


def _edges(prometheus: Prometheus) -> dict[str, float]:
    """Return how many calls of rsketch-http at rsketch-grpc there were, by whether they failed."""
    found = prometheus.query(f'sum by (failed) ({EDGES}{{client="rsketch-http", server="rsketch-grpc"}})')
    return {series["metric"]["failed"]: float(series["value"][1]) for series in found}


# --- otlp-cloud ---

HOST, RIGHT = "otlp.example.com", {"authorization": f"Bearer {secrets.token_hex(16)}"}
WRONG: Sequence[Mapping[str, str]] = ({"authorization": "Bearer wrong"}, {})


def test_otlp_cloud_sends_all_signals_with_the_header(tmp_path: Path) -> None:
    """All three signals of a service are at a backend outside; with a wrong header, or with none, nothing is taken."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    objects = [*platform_objects(EXAMPLES / "otlp-cloud" / "local", "jaeger", "prometheus", "loki"), _secret(RIGHT)]
    programs = _trusting(tmp_path / "ca.pem")
    with (
        Cluster(objects, programs, tmp_path / "cluster", environment_overrides=OVERRIDES) as cluster,
        cloud(cluster, HOST, RIGHT, _certificate(authority)) as backend,
    ):
        cluster.apply(render(INFRA / "overlays" / "local" / "grpc"))
        cluster.wait_ready(READY_SECONDS)
        _greet_and_stop(cluster)

        _wait_until_equal(lambda: _signals(backend), dict.fromkeys(Signal, True))
        assert backend.protocols == {"http/protobuf"}
        assert backend.refused == 0
        for headers in WRONG:
            _restart_with(cluster, headers)
            assert _answers(cluster) == dict.fromkeys(Signal, grpc.StatusCode.UNAUTHENTICATED)
        assert backend.refused == len(WRONG) * len(Signal)
        assert not [span for span in backend.store.spans if span.name == ITEM]


def _secret(headers: Mapping[str, str]) -> Object:
    """Return what the command in the component's page makes."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "otlp-cloud", "namespace": "observability"},
        "stringData": {"endpoint": f"https://{HOST}", "headers": json.dumps(headers)},
    }


def _trusting(bundle: Path) -> Mapping[str, Image]:
    """Return the programs, with a collector whose image holds another certificate authority."""
    name = "otel/opentelemetry-collector-k8s"
    other = replace(images()[name], environment={"SSL_CERT_FILE": str(bundle)}, binds=(bundle,))
    return {**images(), name: other}


def _certificate(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(context)
    return context


def _greet_and_stop(cluster: Cluster) -> None:
    """Call rsketch-grpc once and end it, so that it exports what it has."""
    pod = cluster.pod("rsketch-grpc")
    with grpc.insecure_channel(f"{pod.ip}:50051") as channel:
        HelloServiceStub(channel).Hello(HelloRequest(name="ada"), timeout=10)
    ended = cluster.delete(pod, replace=False)
    assert (ended.exit_code, ended.killed) == (0, False)


def _signals(backend: Cloud) -> dict[Signal, bool]:
    """Return of which signals there is something of rsketch-grpc."""
    store = backend.store
    items: Mapping[Signal, Sequence[Span | MetricPoint | LogRecord]] = {
        Signal.TRACES: store.spans,
        Signal.METRICS: store.points,
        Signal.LOGS: store.logs,
    }
    # Of a copy each: they are added to meanwhile.
    return {
        signal: any(item.resource.attributes.get("service.name") == "rsketch-grpc" for item in tuple(found))
        for signal, found in items.items()
    }


def _restart_with(cluster: Cluster, headers: Mapping[str, str]) -> None:
    """Change the Secret, and have the collector read it."""
    cluster.apply([_secret(headers)])
    cluster.delete(cluster.pod("otel-collector"), grace_seconds=0)
    cluster.wait_ready(READY_SECONDS)


def _answers(cluster: Cluster) -> dict[Signal, grpc.StatusCode]:
    """Return what the collector says to an export of each signal."""
    collector = f"{cluster.service_ip('observability', 'otel-collector')}:4317"
    return {signal: attempt(collector, one_item(signal)) for signal in Signal}


# --- spool-persistent ---

SPOOLED = 60


def test_the_spool_outlives_the_collector_and_an_outage(tmp_path: Path) -> None:
    """What the collector acknowledged while there was no Jaeger is stored in the end, though it was killed since."""
    objects = platform_objects(EXAMPLES / "spool-persistent" / "local", "prometheus", "loki")
    with Cluster(objects, images(), tmp_path, environment_overrides=OVERRIDES) as cluster:
        cluster.wait_ready(READY_SECONDS)
        collector, jaeger = cluster.pod("otel-collector"), cluster.pod("jaeger")
        address = f"{cluster.service_ip('observability', 'otel-collector')}:4317"
        cluster.kill(jaeger)
        cluster.wait_until(lambda: not jaeger.ready)
        traces = [secrets.token_hex(16) for _ in range(SPOOLED)]
        answers = {attempt(address, one_span(trace)) for trace in traces}
        cluster.kill(collector)
        cluster.wait_until(lambda: not collector.ready)
        cluster.revive(collector)
        cluster.wait_ready(READY_SECONDS, [collector])
        cluster.revive(jaeger)
        cluster.wait_ready(READY_SECONDS)

        assert answers == {grpc.StatusCode.OK}
        assert collector.restarts == 1
        with closing(Jaeger(f"{cluster.service_ip('observability', 'jaeger')}:16686")) as stored:
            _wait_until_whole(stored, traces, 1)
