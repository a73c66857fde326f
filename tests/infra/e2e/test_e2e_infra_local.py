"""
The local overlay with the real programs: deployed in three steps, driven, asked at the backends, broken and mended.

The tests build on each other: one cluster, in the order of the file.
"""

import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import httpx
import pytest
from backends import LogLine, StoredSpan
from kube.cluster import Pod
from kube.cluster.testing import require_inside
from kube.promql import expressions
from kube.runbooks import runbooks
from load import Load, traceparent
from local import SERVICES, Platform, eventually, starting_platform

require_inside(os.environ)

OUTAGE_SECONDS = 20.0
RATE = 20.0
"""Greetings a second: each is three spans and two access lines."""
EXPORTED_SECONDS = 30.0
"""Longer than any export interval of the services, or of the platform's scrapes."""
RECOVERED_SECONDS = 45.0
"""Longer than the longest pause between two attempts to export."""

REQUESTS = "http_server_request_duration_seconds_count"
RPCS = "rpc_server_call_duration_seconds_count"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Return the platform of the local overlay, running and ready, with neither service."""
    with starting_platform(tmp_path_factory.mktemp("local")) as platform:
        yield platform


def test_each_service_is_deployed_alone(platform: Platform) -> None:
    """The platform is ready without the services, and each of them is applied by its own overlay."""
    for service in SERVICES:
        platform.deploy(service)

    assert _greeting(platform).json() == {"message": "Hello, ada!"}


def test_a_trace_of_both_services_is_in_jaeger(platform: Platform) -> None:
    """One call is one trace of three spans, each the parent of the next, with what the downward API says."""
    trace = secrets.token_hex(16)
    _greeting(platform, trace)
    spans = _stored(platform, trace)

    assert [(span.service, span.kind) for span in spans] == [
        ("rsketch-http", "server"),
        ("rsketch-http", "client"),
        ("rsketch-grpc", "server"),
    ]
    assert [span.parent_id for span in spans[1:]] == [span.span_id for span in spans[:-1]]
    for span in spans:
        (pod,) = platform.cluster.pods(span.service)
        assert span.resource["k8s.pod.name"] == pod.name
        assert span.resource["k8s.pod.uid"] == pod.uid
        assert span.resource["k8s.namespace.name"] == "rsketch"
        assert span.resource["k8s.node.name"]
        assert span.resource["k8s.container.name"] == span.service
        assert span.resource["deployment.environment.name"] == "local"
        assert span.resource["service.version"] == "0.1.0"


def test_metrics_of_both_protocols_are_in_prometheus_with_exemplars(platform: Platform) -> None:
    """The histograms of HTTP and gRPC have arrived under their Prometheus names, with exemplars of stored traces."""
    for name, job in ((REQUESTS, "rsketch/rsketch-http"), (RPCS, "rsketch/rsketch-grpc")):
        selector = f'{name}{{job="{job}"}}'
        eventually(lambda found=selector: platform.prometheus.total(found), EXPORTED_SECONDS, f"no {selector}")  # type: ignore[misc]
        buckets = f'{name.removesuffix("_count")}_bucket{{job="{job}"}}'
        exemplar = platform.prometheus.exemplars(buckets)[-1]
        assert len(_stored(platform, exemplar["labels"]["trace_id"])) == 3


def test_the_logs_of_a_trace_are_in_loki(platform: Platform) -> None:
    """A call that fails because gRPC is away leaves its access line and its exception record, both in its trace."""
    (grpc,), (http,) = (platform.cluster.pods(service) for service in SERVICES)
    trace = secrets.token_hex(16)
    platform.cluster.kill(grpc)
    # By the pod: behind the Service it is not ready without gRPC.
    refused = httpx.get(f"http://{http.ip}:3000/api/v1/hello?name=ada", headers=traceparent(trace), timeout=10.0)
    platform.cluster.revive(grpc)
    lines = eventually(lambda: _logs(platform, trace, 2), EXPORTED_SECONDS, f"no log lines of {trace}")

    assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert any("GET /api/v1/hello" in line.text and "503" in line.text for line in lines), lines
    assert any(line.labels.get("exception_type", "").endswith("AioRpcError") for line in lines), lines
    # The same trace in Jaeger: the request, and the call that failed below it.
    spans = eventually(lambda: platform.jaeger.trace(trace), EXPORTED_SECONDS, f"no spans of {trace}")
    assert {span.span_id for span in spans} >= {line.labels["span_id"] for line in lines}
    eventually(lambda: _greeting(platform).is_success, 30.0, "no answer after gRPC came back")


def test_policies_hold(platform: Platform) -> None:
    """Any namespace reaches the collector; only it reaches the backends."""
    collector = platform.cluster.service_ip("observability", "otel-collector")
    jaeger = platform.cluster.service_ip("observability", "jaeger")

    assert _connects(platform, "default", collector, 4317)
    assert not _connects(platform, "default", jaeger, 4317)
    assert not _connects(platform, "rsketch", jaeger, 4317)


def test_the_collector_has_lost_nothing(platform: Platform) -> None:
    """The collector's own counters say that every export succeeded."""
    assert platform.prometheus.total('{__name__=~"otelcol_exporter_sent_.+"}') > 0
    assert platform.prometheus.total('{__name__=~"otelcol_exporter_send_failed_.+"}') == 0


def test_an_outage_of_jaeger_loses_no_trace(platform: Platform) -> None:
    """Jaeger is killed for 20 s under load; every trace is there once it is back."""
    (jaeger,) = platform.cluster.pods("jaeger")
    load = _load_through_outage(platform, jaeger)

    assert (load.failed, len(load.answered) > RATE * OUTAGE_SECONDS) == ([], True)
    missing = _missing(platform, load.answered)
    print(f"\nnote: Jaeger away for {OUTAGE_SECONDS:g} s: {_balance(load.answered, missing)}")
    assert missing == []


def test_an_outage_of_the_collector_loses_nothing(platform: Platform) -> None:
    """The collector is killed for 20 s under load; export goes on by itself, and every trace is stored."""
    (collector,) = platform.cluster.pods("otel-collector")
    load = _load_through_outage(platform, collector)

    assert (load.failed, len(load.answered) > RATE * OUTAGE_SECONDS) == ([], True)
    missing = _missing(platform, load.answered)
    print(f"\nnote: collector away for {OUTAGE_SECONDS:g} s: {_balance(load.answered, missing)}")
    assert missing == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_stop_loses_nothing(platform: Platform, service: str) -> None:
    """A pod is replaced under load: it ends within its grace, no caller notices, and all three signals are whole."""
    counted, started = _posts(platform), time.monotonic()
    with Load(platform.http_address, RATE, method="POST") as load:
        time.sleep(2)
        (pod,) = platform.cluster.pods(service)
        ended = platform.cluster.delete(pod)
        platform.cluster.wait_ready(60.0)
        eventually(lambda: len(load.answered) > 60, 30, "no calls after the stop")

    assert (ended.exit_code, ended.killed, load.failed) == (0, False, [])
    assert _missing(platform, load.answered) == []
    assert _without_access_lines(platform, load.answered, time.monotonic() - started) == []
    eventually(lambda: _posts(platform) - counted == len(load.answered), EXPORTED_SECONDS, "not all calls are counted")


def test_every_promql_has_data(platform: Platform) -> None:
    """What dashboards and alerts ask finds something, but for what is named as empty in a healthy system."""
    everything = expressions()
    # Also those that may be empty have to be understood; a query that is not fails here.
    answered = {each: bool(platform.prometheus.query(each.promql)) for each in everything}
    silent = [each for each, has_data in answered.items() if not each.may_be_empty and not has_data]
    deadline = time.monotonic() + EXPORTED_SECONDS
    while silent and time.monotonic() < deadline:
        silent = [each for each in silent if not platform.prometheus.query(each.promql)]
        time.sleep(1)

    assert silent == []


def test_every_query_of_the_runbooks_is_understood(platform: Platform) -> None:
    """Who is paged can paste each query as it stands: the real stores take them."""
    queries = [query for runbook in runbooks() for query in runbook.queries]
    for query in queries:
        if query.language == "promql":
            platform.prometheus.query(query.text)
        if query.language == "logql":
            platform.loki.ask(query.text)

    assert {query.language for query in queries} >= {"promql", "logql"}


def _load_through_outage(platform: Platform, pod: Pod) -> Load:
    with Load(platform.http_address, RATE) as load:
        time.sleep(2)
        platform.cluster.kill(pod)
        time.sleep(OUTAGE_SECONDS)
        platform.cluster.revive(pod)
        time.sleep(2)
    platform.cluster.wait_ready(60.0)
    return load


def _greeting(platform: Platform, trace: str = "") -> httpx.Response:
    headers = traceparent(trace) if trace else {}
    return httpx.get(f"http://{platform.http_address()}/api/v1/hello?name=ada", headers=headers, timeout=10.0)


def _stored(platform: Platform, trace: str) -> list[StoredSpan]:
    """Return the three spans of a trace from the outermost on, once they are stored."""
    spans = eventually(lambda: _whole(platform, trace), EXPORTED_SECONDS, f"trace {trace} is not whole")
    by_parent = {span.parent_id: span for span in spans}
    ids = {span.span_id for span in spans}
    ordered = [next(span for span in spans if span.parent_id not in ids)]
    while following := by_parent.get(ordered[-1].span_id):
        ordered.append(following)
    return ordered


def _whole(platform: Platform, trace: str) -> list[StoredSpan]:
    spans = platform.jaeger.trace(trace)
    return spans if len({span.span_id for span in spans}) == 3 else []


def _missing(platform: Platform, traces: Sequence[str]) -> list[str]:
    """Return the traces that are not whole once they have had time to arrive."""
    deadline = time.monotonic() + RECOVERED_SECONDS
    missing = list(traces)
    while missing and time.monotonic() < deadline:
        missing = [trace for trace in missing if not _whole(platform, trace)]
        time.sleep(0.5)
    return missing


def _without_access_lines(platform: Platform, traces: Sequence[str], seconds: float) -> list[str]:
    """Return the traces that do not have the access line of each service."""
    lines = platform.loki.lines('{service_name=~"rsketch-.+"} | scope_name="rsketch_telemetry.access"', seconds=seconds)
    services = Counter(line.labels["trace_id"] for line in lines)
    return [trace for trace in traces if services[trace] != len(SERVICES)]


def _posts(platform: Platform) -> int:
    """Return how many POST requests the metrics of all pods, also of those that are gone, have counted."""
    return int(platform.prometheus.total(f'last_over_time({REQUESTS}{{http_request_method="POST"}}[1h])'))


def _balance(sent: Sequence[str], missing: Sequence[str]) -> str:
    return f"{len(sent)} traces sent, {len(sent) - len(missing)} stored, {len(missing)} lost"


def _logs(platform: Platform, trace: str, least: int) -> list[LogLine]:
    lines = platform.loki.lines(f'{{service_name=~"rsketch-.+"}} | trace_id="{trace}"')
    return lines if len(lines) >= least else []


def _connects(platform: Platform, namespace: str, address: str, port: int) -> bool:
    script = f"import socket; socket.create_connection(('{address}', {port}), 2)"
    return platform.cluster.run(namespace, {}, ["python3", "-c", script]).returncode == 0
