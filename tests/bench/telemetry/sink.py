"""
A collector that only counts: a process of its own, so that what receiving takes is nobody else's.

    python -m bench.telemetry.sink

It writes its two ports as a line of JSON, answers each line that comes in with what it has counted so far, and ends
with its input. Metrics are counted by what they measured: a request that is in a histogram is one, whatever the
temporality of its stream.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from rsketch_telemetry.otlp.receiver import Export, ReceiverConfig, receive

__all__ = ["Counts", "Sink", "sink"]

_DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """
    What has come so far.

    Attributes:
        spans: By service.
        records: Log records.
        measured: Measurements in histograms, by name.
        points: Data points of all metrics, as often as they came.
        requests: Export requests.
        bytes: Of them, decompressed.
    """

    spans: dict[str, int]
    records: int
    measured: dict[str, int]
    points: int
    requests: int
    bytes: int

    @property
    def all_spans(self) -> int:
        """Spans of all services."""
        return sum(self.spans.values())


class Sink:
    """A sink that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        ports = self._line()
        self.grpc = f"http://127.0.0.1:{ports['grpc']}"
        self.http = f"http://127.0.0.1:{ports['http']}"

    def counts(self) -> Counts:
        """Ask for what it has counted."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Counts(**self._line())

    def _line(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the sink has ended")
        return json.loads(line)


@contextmanager
def sink(cores: set[int] | None = None) -> Iterator[Sink]:
    """Run a sink while open, on these cores only, if they are given."""
    command = (sys.executable, "-m", "bench.telemetry.sink")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            if cores:
                os.sched_setaffinity(process.pid, cores)
            yield Sink(process)
        finally:
            process.kill()


class _Counting:
    def __init__(self) -> None:
        self.spans: Counter[str] = Counter()
        self.records = self.points = self.requests = self.bytes = 0
        self._measured: dict[tuple[str, ...], int] = {}

    async def handle(self, export: Export) -> None:
        """Count one export request, whatever its signal."""
        request = export.request
        self.requests += 1
        self.bytes += request.ByteSize()
        if isinstance(request, ExportTraceServiceRequest):
            for traces in request.resource_spans:
                name = _attribute(traces.resource, "service.name")
                self.spans[name] += sum(len(scope.spans) for scope in traces.scope_spans)
        elif isinstance(request, ExportLogsServiceRequest):
            self.records += sum(len(scope.log_records) for logs in request.resource_logs for scope in logs.scope_logs)
        else:
            assert isinstance(request, ExportMetricsServiceRequest)
            self._take_metrics(request)

    def _take_metrics(self, request: ExportMetricsServiceRequest) -> None:
        for metrics in request.resource_metrics:
            instance = _attribute(metrics.resource, "service.instance.id")
            for scope in metrics.scope_metrics:
                for metric in scope.metrics:
                    data = getattr(metric, str(metric.WhichOneof("data")))
                    self.points += len(data.data_points)
                    if metric.HasField("histogram") or metric.HasField("exponential_histogram"):
                        self._take_histogram(instance, metric.name, data)

    def _take_histogram(self, instance: str, name: str, data: Any) -> None:
        for point in data.data_points:
            attributes = b"".join(sorted(pair.SerializeToString() for pair in point.attributes)).hex()
            series = (name, instance, attributes, str(point.start_time_unix_nano))
            before = self._measured.get(series, 0) if data.aggregation_temporality == _DELTA else 0
            # Of a cumulative stream the last point says it all.
            self._measured[series] = before + point.count

    def said(self) -> str:
        """Return the counts as a line of JSON."""
        measured: Counter[str] = Counter()
        for series, count in self._measured.items():
            measured[series[0]] += count
        fields = {"records": self.records, "points": self.points, "requests": self.requests, "bytes": self.bytes}
        return json.dumps({"spans": self.spans, "measured": measured, **fields})


def _attribute(resource: Any, key: str) -> str:
    return next((str(pair.value.string_value) for pair in resource.attributes if pair.key == key), "")


async def _serve() -> None:
    counting = _Counting()
    config = ReceiverConfig(grpc_port=0, http_port=0, message_bytes=64 * 2**20, wire_bytes=64 * 2**20)
    async with receive(counting, config) as receiver:
        print(json.dumps({"grpc": receiver.grpc_port, "http": receiver.http_port}), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(counting.said(), flush=True)


def main(_: Sequence[str]) -> int:
    """Count until the input ends."""
    asyncio.run(_serve())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
