"""OTLP requests as tests need them, a store with small segments, and a dashboard that is open on free ports."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import httpx
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from rsketch_dashboard import Dashboard, DashboardConfig, serve
from rsketch_dashboard.queries.parameters import Parameters
from rsketch_dashboard.store import Limits, Store
from rsketch_dashboard.store.schema import FAMILIES, Family

__all__ = [
    "CLIENT",
    "INTERNAL",
    "NOW",
    "PRODUCER",
    "SERVER",
    "UNLIMITED",
    "Json",
    "Open",
    "Sent",
    "ask",
    "config",
    "logs",
    "opened",
    "pair",
    "points",
    "rows",
    "segments_of",
    "small",
    "spans",
    "store_in",
    "trace_id",
]

Json = dict[str, Any]

NOW = 1_900_000_000_000_000_000
"""When tests take place, in nanoseconds since the epoch; it is the start of a minute."""
INTERNAL, SERVER, CLIENT, PRODUCER = 1, 2, 3, 4
UNLIMITED = Limits(hours=1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One span; times in nanoseconds after `NOW`, ids as numbers."""

    name: str = "GET /"
    trace: int = 1
    id: int = 1
    parent: int = 0
    kind: int = SERVER
    at: int = 0
    took: int = 1_000_000
    failed: bool = False
    service: str = "shop"
    run: str = ""
    attributes: Sequence[tuple[str, object]] = ()

    def message(self) -> Span:
        """Return it as OTLP has it."""
        return Span(
            trace_id=self.trace.to_bytes(16),
            span_id=self.id.to_bytes(8),
            parent_span_id=self.parent.to_bytes(8) if self.parent else b"",
            name=self.name,
            kind=self.kind,  # type: ignore[arg-type]  # any number may be on the wire
            start_time_unix_nano=NOW + self.at,
            end_time_unix_nano=NOW + self.at + self.took,
            status=Status(code=Status.STATUS_CODE_ERROR) if self.failed else None,
            attributes=[pair(key, value) for key, value in self.attributes],
        )


def trace_id(number: int) -> str:
    """Return a trace id as the page has it."""
    return f"{number:032x}"


def pair(key: str, value: object) -> KeyValue:
    """Return an attribute."""
    match value:
        case bool():
            return KeyValue(key=key, value=AnyValue(bool_value=value))
        case int():
            return KeyValue(key=key, value=AnyValue(int_value=value))
        case float():
            return KeyValue(key=key, value=AnyValue(double_value=value))
        case bytes():
            return KeyValue(key=key, value=AnyValue(bytes_value=value))
        case AnyValue():
            return KeyValue(key=key, value=value)
        case _:
            return KeyValue(key=key, value=AnyValue(string_value=str(value)))


def spans(*sent: Sent) -> ExportTraceServiceRequest:
    """Return a request with these spans, each service and run with a resource of its own."""
    request = ExportTraceServiceRequest()
    found: dict[tuple[str, str], Any] = {}
    for each in sent:
        key = (each.service, each.run)
        if key not in found:
            said = [("service.name", each.service), *([("service.instance.id", each.run)] if each.run else [])]
            resource = Resource(attributes=[pair(name, value) for name, value in said])
            found[key] = request.resource_spans.add(resource=resource).scope_spans.add()
            found[key].scope.name = "tests"
        found[key].spans.append(each.message())
    return request


def logs(
    *bodies: str, at: int = 0, severity: int = 9, trace: int = 0, service: str = "shop"
) -> ExportLogsServiceRequest:
    """Return a request with a log record for each body, a microsecond apart."""
    request = ExportLogsServiceRequest()
    found = request.resource_logs.add(resource=Resource(attributes=[pair("service.name", service)])).scope_logs.add()
    for number, body in enumerate(bodies):
        record = found.log_records.add(
            time_unix_nano=NOW + at + 1000 * number,
            severity_number=severity,
            trace_id=trace.to_bytes(16) if trace else b"",
        )
        record.body.string_value = body
    return request


def points(*values: float, name: str = "queue.length") -> ExportMetricsServiceRequest:
    """Return a request with a gauge's points, a second apart."""
    request = ExportMetricsServiceRequest()
    found = request.resource_metrics.add(resource=Resource(attributes=[pair("service.name", "shop")]))
    metric = found.scope_metrics.add().metrics.add(name=name, unit="1")
    for number, value in enumerate(values):
        point = metric.gauge.data_points.add(time_unix_nano=NOW + number * 10**9)
        if isinstance(value, int):
            point.as_int = value
        else:
            point.as_double = value
    return request


def small(rows: int) -> dict[str, Family]:
    """Return families whose segments end after a few rows."""
    return {name: replace(family, segment_rows=rows) for name, family in FAMILIES.items()}


@contextmanager
def store_in(folder: Path, limits: Limits = UNLIMITED, rows: int = 100_000) -> Iterator[Store]:
    """Open a store whose segments have so many rows."""
    store = Store(folder / "data" / "telemetry.duckdb", limits, families=small(rows))
    try:
        yield store
    finally:
        store.close()


def segments_of(store: Store, family: str) -> list[tuple[int, int]]:
    """Return number and rows of each segment of a family in the file."""
    with store.reading() as connection:
        found = connection.execute("SELECT number FROM segments WHERE family = ? ORDER BY number", [family]).fetchall()
        return [
            (number, connection.execute(f"SELECT count(*) FROM {family}_{number}").fetchall()[0][0])
            for (number,) in found
        ]


def ask(
    store: Store,
    query: Callable[..., Json],
    *further: object,
    last: str = "all",
    **given: str | Sequence[str],
) -> Json:
    """Return what a view answers to a query string, at `NOW` and by default of all times."""
    values = {name: [value] if isinstance(value, str) else list(value) for name, value in given.items()}
    with store.reading() as connection:
        return query(connection, Parameters.of(values, NOW // 1000, last=last), *further)


def config(folder: Path, **settings: Any) -> DashboardConfig:
    """Return a configuration with free ports and a file in *folder*."""
    # Spans of tests are of another time than now, which does not matter: hours count from their arrival.
    return DashboardConfig(
        **{"grpc_port": 0, "http_port": 0, "file": folder / "data" / "telemetry.duckdb", "idle_seconds": 0, **settings}
    )


@dataclass(frozen=True, slots=True)
class Open:
    """A dashboard that is open, and a client of its HTTP port."""

    dashboard: Dashboard
    client: httpx.AsyncClient

    async def get(self, path: str) -> Json:
        """Return the JSON at a path, which must be there."""
        response = await self.client.get(path)
        assert response.status_code == 200, response.text
        found: Json = response.json()
        return found

    async def post(self, signal: str, body: bytes, **headers: str) -> httpx.Response:
        """Send a request as OTLP/HTTP with protobuf."""
        given = {"content-type": "application/x-protobuf", **{key.replace("_", "-"): headers[key] for key in headers}}
        return await self.client.post(f"/v1/{signal}", content=body, headers=given)

    async def send(
        self, request: ExportTraceServiceRequest | ExportLogsServiceRequest | ExportMetricsServiceRequest
    ) -> None:
        """Send a request that is taken whole."""
        signal = {
            ExportTraceServiceRequest: "traces",
            ExportLogsServiceRequest: "logs",
            ExportMetricsServiceRequest: "metrics",
        }[type(request)]
        response = await self.post(signal, request.SerializeToString())
        assert (response.status_code, response.content) == (200, b""), response.text


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[Open]:
    """Open a dashboard on free ports, with a client."""
    async with (
        serve(config(folder, **settings)) as dashboard,
        httpx.AsyncClient(base_url=dashboard.url, trust_env=False, timeout=20) as client,
    ):
        yield Open(dashboard, client)


def rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    """Return all rows of a query."""
    return connection.execute(query).fetchall()
