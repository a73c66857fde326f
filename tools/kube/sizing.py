"""
How much one collector core takes: the real collector, the real configuration, spans as the services export them.

`python -m kube.sizing` sends batches of spans over OTLP/gRPC through the gateway of `infra/collector` into a second
collector that throws them away, and divides what arrived by the CPU time of the first one. CPU seconds instead of
seconds, so that neither the sender nor the second collector on the same cores matter. Sizes of batches are interleaved
and the median of the rounds is reported with its range.
"""

import argparse
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from workspace import ROOT

from kube.toolchain import tool

__all__ = ["main"]

CONFIG = ROOT / "infra" / "collector" / "config" / "collector.yaml"
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
GATEWAY, SINK = "127.0.0.41", "127.0.0.42"
"""Addresses of loopback, one for each as a pod has its own; the ports stay those of the configuration."""
SENDERS = 8

# What stands in place of Jaeger: it acknowledges and forgets.
SINK_CONFIG = f"""
receivers: {{otlp: {{protocols: {{grpc: {{endpoint: "{SINK}:4317"}}}}}}}}
exporters: {{debug: {{verbosity: basic, sampling_initial: 1, sampling_thereafter: 1000000}}}}
service:
  pipelines: {{traces: {{receivers: [otlp], exporters: [debug]}}}}
  telemetry: {{metrics: {{level: none}}}}
"""
# The backend is the only thing about the gateway that differs from the cluster.
GATEWAY_CONFIG = f"exporters: {{otlp_grpc/jaeger: {{endpoint: '{SINK}:4317'}}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What one round of one batch size gave: spans a CPU second, and resident bytes of the collector at its end."""

    batch: int
    spans_per_cpu_second: float
    resident_bytes: int


def main(arguments: Sequence[str]) -> int:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m kube.sizing", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="of each batch size (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each round (default: %(default)s)")
    options = parser.parse_args(arguments)
    sizes = (1, 20, 100, 500)
    with tempfile.TemporaryDirectory() as folder, _collectors(Path(folder)) as gateway:
        _round(gateway, sizes[-1], options.seconds)  # warm-up
        figures = [_round(gateway, size, options.seconds) for _ in range(options.rounds) for size in sizes]
    print(*_table(figures, sizes), sep="\n")
    return 0


def _table(figures: Sequence[Figure], sizes: Sequence[int]) -> Iterator[str]:
    yield "| spans in a request | spans per second and core, median (lowest to highest round) | resident memory |"
    yield "|---|---|---|"
    for size in sizes:
        mine = [figure for figure in figures if figure.batch == size]
        rates = sorted(figure.spans_per_cpu_second for figure in mine)
        resident = max(figure.resident_bytes for figure in mine) / 2**20
        spread = f"{statistics.median(rates):,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f})"
        yield f"| {size} | {spread} | {resident:.0f} MiB |"


@contextmanager
def _collectors(folder: Path) -> Iterator[int]:
    """Run both collectors; yield the process id of the gateway."""
    (folder / "sink.yaml").write_text(SINK_CONFIG)
    (folder / "gateway.yaml").write_text(GATEWAY_CONFIG)
    environ = {"POD_IP": GATEWAY, "K8S_ATTRIBUTES_PASSTHROUGH": "true", "GOMEMLIMIT": "410MiB", "GOMAXPROCS": "1"}
    with (
        (folder / "log").open("wb") as log,
        _running(["--config", str(folder / "sink.yaml")], {}, log.fileno()),
        _running(["--config", str(CONFIG), "--config", str(folder / "gateway.yaml")], environ, log.fileno()) as gateway,
    ):
        _await_port(SINK)
        _await_port(GATEWAY)
        yield gateway


@contextmanager
def _running(arguments: Sequence[str], environ: dict[str, str], log: int) -> Iterator[int]:
    process = subprocess.Popen([tool("otelcol"), *arguments], env=environ, stdout=log, stderr=log)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(15)


def _await_port(address: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((address, 4317)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"no collector listens on {address}:4317")


def _round(gateway: int, size: int, seconds: float) -> Figure:
    request = _request(size).SerializeToString()
    before, accepted_before = _cpu_seconds(gateway), _sent()
    deadline = time.monotonic() + seconds
    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(lambda _: _send(request, deadline), range(SENDERS)))
    return Figure(
        batch=size,
        spans_per_cpu_second=(_sent() - accepted_before) / (_cpu_seconds(gateway) - before),
        resident_bytes=_resident_bytes(gateway),
    )


def _send(request: bytes, deadline: float) -> None:
    # A channel of its own for each sender, as each pod has one.
    with grpc.insecure_channel(f"{GATEWAY}:4317", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        export: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(EXPORT)
        while time.monotonic() < deadline:
            export(request, timeout=10)


def _sent() -> float:
    """Return how many spans the gateway's backend has acknowledged, by its own count."""
    page = httpx.get(f"http://{GATEWAY}:8888/metrics").text
    lines = (line for line in page.splitlines() if line.startswith("otelcol_exporter_sent_spans"))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _request(size: int) -> ExportTraceServiceRequest:
    """Return an export of *size* spans with the attributes of a call of rsketch-http."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.extend(
        _attributes(
            {
                "service.name": "rsketch-http",
                "service.namespace": "rsketch",
                "service.instance.id": "0d1f9a52-6a2b-4c0e-9d7e-7f4c8f1f2b11",
                "service.version": "0.1.0",
                "telemetry.sdk.language": "python",
                "k8s.namespace.name": "rsketch",
                "k8s.pod.name": "rsketch-http-5d9c7bd8c4-x2x7q",
                "k8s.pod.uid": "6a1f1f0c-5c4e-4d9e-8f1c-2f4a0f7f0a11",
                "k8s.node.name": "node-1",
                "k8s.container.name": "rsketch-http",
            }
        )
    )
    scope = resource.scope_spans.add()
    scope.scope.name = "rsketch_telemetry.sanic"
    now = time.time_ns()
    scope.spans.extend(_span(now) for _ in range(size))
    return request


def _span(now: int) -> Span:
    return Span(
        trace_id=secrets.token_bytes(16),
        span_id=secrets.token_bytes(8),
        parent_span_id=secrets.token_bytes(8),
        name="GET /api/v1/hello",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=now,
        end_time_unix_nano=now + 3_000_000,
        attributes=_attributes(
            {
                "http.request.method": "GET",
                "http.response.status_code": 200,
                "http.route": "/api/v1/hello",
                "network.protocol.version": "1.1",
                "server.address": "rsketch-http.rsketch",
                "server.port": 80,
                "url.path": "/api/v1/hello",
                "url.query": "name=REDACTED",
                "url.scheme": "http",
                "client.address": "10.244.0.17",
                "user_agent.original": "curl/8.5.0",
            }
        ),
    )


def _attributes(values: dict[str, str | int]) -> list[KeyValue]:
    return [
        KeyValue(key=key, value=AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value))
        for key, value in values.items()
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
