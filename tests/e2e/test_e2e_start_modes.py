"""
The whole way, for each way to start: a call over HTTP, the service behind it, a foreign collector, the receiver.

One server in each start mode makes the same calls (`capture`); most tests only look at what arrived of them.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from harness.children import Child
from harness.collector import Collector, collecting, free_ports
from harness.server import INSTRUMENTED, MODULE, StartMode, exporting, serving, starting
from rsketch_telemetry.otlp.model import LogRecord, MetricPoint, Span
from rsketch_telemetry.otlp.receiver import ReceiverConfig, receive
from rsketch_telemetry.otlp.store import TelemetryStore

HTTP_SPAN, STREAM_SPAN = "GET /api/v1/hello", "GET /api/v1/hello/stream"
RPC_SPAN, RPC_STREAM_SPAN = "rsketch.hello.v1.HelloService/Hello", "rsketch.hello.v1.HelloService/HelloStream"
SCHEMA = "https://opentelemetry.io/schemas/1.45.0"
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
DURATIONS = ("http.server.request.duration", "rpc.client.call.duration", "rpc.server.call.duration")
HEALTH = ("/health", "/api/health", "/api/v1/health", "/livez", "/readyz")

UPSTREAM_TRACE, UPSTREAM_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
UPSTREAM = {"traceparent": f"00-{UPSTREAM_TRACE}-{UPSTREAM_SPAN}-01"}

Ways = tuple[StartMode, str]
WAYS: tuple[Ways, ...] = (
    (INSTRUMENTED, "grpc"),
    (MODULE, "http/protobuf"),
    (MODULE.with_workers(2), "grpc"),
    (INSTRUMENTED.with_workers(2), "http/protobuf"),
)


def _way_name(way: Ways) -> str:
    return f"{way[0]}-{way[1].partition('/')[0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What one server answered, wrote and exported, from its start to its end."""

    answers: Mapping[str, httpx.Response]
    telemetry: TelemetryStore
    child: Child
    status: int
    left: list[str]
    http_port: int
    grpc_port: int

    def trace(self, root: str, **attributes: object) -> list[Span]:
        """Return the only trace whose first span of ours has that name and those attributes, by start time."""
        roots = [
            span
            for span in self.telemetry.spans
            if span.name == root and all(span.attributes.get(_key(key)) == value for key, value in attributes.items())
        ]
        ids = {span.trace_id for span in roots}
        assert len(ids) == 1, f"{len(ids)} traces have {root} with {attributes}:\n{self.telemetry.summary()}"
        return sorted((span for span in self.telemetry.spans if span.trace_id in ids), key=lambda span: span.start_ns)

    def points(self, name: str) -> list[MetricPoint]:
        """Return the last point of each of a metric's series; each process has series of its own."""
        last = {
            (point.resource.attributes["service.instance.id"], *sorted(point.attributes.items())): point
            for point in sorted(self.telemetry.points, key=lambda point: point.time_ns)
            if point.name == name
        }
        return list(last.values())


def _key(name: str) -> str:
    return name.replace("__", ".")


async def capture(way: Ways, folder: Path) -> Captured:
    """Start a server, make every call once, stop the server, then the collector; all that was sent has arrived."""
    mode, protocol = way
    async with _observed(folder) as (telemetry, collector):
        async with serving(mode, folder, exporting(collector, protocol)) as server:
            async with server.client() as client:
                answers = await _call(client)
            status = await server.child.stop()
            left = server.child.left()
        await collector.drain()
    return Captured(
        answers=answers,
        telemetry=telemetry,
        child=server.child,
        status=status,
        left=left,
        http_port=server.http_port,
        grpc_port=server.grpc_port,
    )


async def _call(client: httpx.AsyncClient) -> dict[str, httpx.Response]:
    calls: dict[str, Callable[[], Awaitable[httpx.Response]]] = {
        "hello": lambda: client.get("/api/v1/hello?name=ada&token=hush"),
        "upstream": lambda: client.get("/api/v1/hello?name=up", headers=UPSTREAM),
        "nameless": lambda: client.get("/api/v1/hello?name="),
        "stream": lambda: client.get("/api/v1/hello/stream?name=ada&count=3&interval=20ms"),
        **{path: lambda path=path: client.get(path) for path in HEALTH},  # type: ignore[misc]
    }
    return {name: await call() for name, call in calls.items()}


@asynccontextmanager
async def _observed(folder: Path) -> AsyncIterator[tuple[TelemetryStore, Collector]]:
    """Run a collector and, behind it, a receiver that keeps everything."""
    telemetry = TelemetryStore()
    async with (
        receive(telemetry, ReceiverConfig(grpc_port=0, http_port=0)) as receiver,
        collecting(receiver.grpc_endpoint, folder) as collector,
    ):
        yield telemetry, collector


class _Captures:
    """Captures each way once, failures included: a server that does not start is not tried again by every test."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._made: dict[str, Captured | BaseException] = {}

    def get(self, way: Ways) -> Captured:
        name = _way_name(way)
        if name not in self._made:
            try:
                self._made[name] = asyncio.run(capture(way, self._folders.mktemp("way")))
            except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:
                self._made[name] = error
        made = self._made[name]
        if isinstance(made, BaseException):
            raise made
        return made


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> _Captures:
    """Captures of all ways, made when they are asked for."""
    return _Captures(tmp_path_factory)


@pytest.fixture(scope="module", params=WAYS, ids=_way_name)
def captured(request: pytest.FixtureRequest, captures: _Captures) -> Captured:
    """What one start mode did."""
    way: Ways = request.param
    return captures.get(way)


# What is asserted of each start mode.


def test_the_calls_are_answered_and_the_server_ends_well(captured: Captured) -> None:
    """Every call has its answer, SIGTERM ends the server with 0, and no process of it is left."""
    statuses = {name: answer.status_code for name, answer in captured.answers.items()}

    assert statuses == {"hello": 200, "upstream": 200, "nameless": 400, "stream": 200} | dict.fromkeys(HEALTH, 200)
    assert captured.answers["hello"].json() == {"message": "Hello, ada!"}
    assert captured.status == 0, captured.child.text()
    assert captured.left == []


def test_one_call_is_one_trace_of_three_spans(captured: Captured) -> None:
    """HTTP server, RPC client and RPC server stand in one trace, each the child of the one before."""
    server, client, rpc = captured.trace(HTTP_SPAN, url__query="name=REDACTED&token=REDACTED")

    assert [(span.name, span.kind) for span in (server, client, rpc)] == [
        (HTTP_SPAN, "SERVER"),
        (RPC_SPAN, "CLIENT"),
        (RPC_SPAN, "SERVER"),
    ]
    assert [server.parent_span_id, client.parent_span_id, rpc.parent_span_id] == ["", server.span_id, client.span_id]
    assert [span.status for span in (server, client, rpc)] == ["UNSET"] * 3
    assert server.start_ns <= client.start_ns <= rpc.start_ns
    # The service behind may end after its caller has the answer: the last bytes are sent before the call is over.
    assert client.end_ns <= server.end_ns
    assert {span.scope.schema_url for span in (server, client, rpc)} == {SCHEMA}


def test_the_http_server_span_has_the_attributes_of_the_conventions(captured: Captured) -> None:
    """Names and values are those of HTTP server spans in the conventions; values of the query are not shown."""
    span, *_ = captured.trace(HTTP_SPAN, url__query="name=REDACTED&token=REDACTED")
    attributes = dict(span.attributes)
    peer_port = attributes.pop("network.peer.port")

    assert isinstance(peer_port, int)
    assert attributes == {
        "client.address": "127.0.0.1",
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/api/v1/hello",
        "network.peer.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": captured.http_port,
        "url.path": "/api/v1/hello",
        "url.query": "name=REDACTED&token=REDACTED",
        "url.scheme": "http",
        "user_agent.original": f"python-httpx/{httpx.__version__}",
    }


def test_the_rpc_spans_have_the_attributes_of_the_conventions(captured: Captured) -> None:
    """Both have system, method and status as text; only the client knows the server's address."""
    _, client, server = captured.trace(HTTP_SPAN, url__query="name=REDACTED&token=REDACTED")
    common = {"rpc.system.name": "grpc", "rpc.method": RPC_SPAN, "rpc.status_code": "OK"}

    assert common | {"server.address": "127.0.0.1", "server.port": captured.grpc_port} == {
        key: value for key, value in client.attributes.items() if not key.startswith("network.peer.")
    }
    assert common == {key: value for key, value in server.attributes.items() if not key.startswith("network.peer.")}
    assert server.attributes["network.peer.address"] == "127.0.0.1"


def test_the_resource_names_the_service_and_the_distribution(captured: Captured) -> None:
    """Spans, points and logs come from the same described process; each process has an instance id of its own."""
    items: list[Span | MetricPoint | LogRecord] = [
        *captured.telemetry.spans,
        *captured.telemetry.points,
        *captured.telemetry.logs,
    ]
    resources = {str(sorted(item.resource.attributes.items())): item.resource.attributes for item in items}
    instances = [resource["service.instance.id"] for resource in resources.values()]

    assert len(set(instances)) == len(instances)
    for resource in resources.values():
        assert resource["service.name"] == "rsketch"
        assert resource["service.version"] == "0.1.0"
        assert resource["telemetry.sdk.name"] == "opentelemetry"
        assert resource["telemetry.sdk.language"] == "python"
        assert resource["telemetry.sdk.version"]
        assert resource["telemetry.distro.name"] == "rsketch-telemetry"
        assert resource["telemetry.distro.version"] == "0.1.0"


def test_a_refused_call_is_an_error_only_where_it_is_one(captured: Captured) -> None:
    """An empty name: 400 and INVALID_ARGUMENT leave the servers' spans unset; only the client's is an error."""
    http, client, rpc = captured.trace(HTTP_SPAN, http__response__status_code=400)

    assert (http.status, "error.type" in http.attributes) == ("UNSET", False)
    assert (client.status, client.attributes["error.type"]) == ("ERROR", "INVALID_ARGUMENT")
    assert (rpc.status, "error.type" in rpc.attributes) == ("UNSET", False)
    assert client.attributes["rpc.status_code"] == rpc.attributes["rpc.status_code"] == "INVALID_ARGUMENT"
    assert captured.answers["nameless"].json()["trace_id"] == http.trace_id


def test_a_stream_is_one_trace_that_lasts_as_long_as_the_stream(captured: Captured) -> None:
    """Three greetings 20 ms apart: each of the three spans covers all of them."""
    spans = captured.trace(STREAM_SPAN)

    assert [(span.name, span.kind) for span in spans] == [
        (STREAM_SPAN, "SERVER"),
        (RPC_STREAM_SPAN, "CLIENT"),
        (RPC_STREAM_SPAN, "SERVER"),
    ]
    assert all(span.end_ns - span.start_ns >= 40_000_000 for span in spans)
    assert captured.answers["stream"].text.count("Hello, ada!") == 3


def test_the_callers_trace_is_continued(captured: Captured) -> None:
    """An inbound traceparent becomes the parent of the HTTP span, and the trace goes on to the service behind."""
    spans = [span for span in captured.telemetry.spans if span.trace_id == UPSTREAM_TRACE]
    spans.sort(key=lambda span: span.start_ns)

    assert [span.name for span in spans] == [HTTP_SPAN, RPC_SPAN, RPC_SPAN]
    assert spans[0].parent_span_id == UPSTREAM_SPAN
    assert spans[1].parent_span_id == spans[0].span_id


def test_health_checks_and_probes_make_no_telemetry(captured: Captured) -> None:
    """Five health endpoints were called, and the four other calls are all there is: three spans each, no more."""
    assert len(captured.telemetry.spans) == 12, captured.telemetry.summary()
    assert {point.attributes["http.route"] for point in captured.points("http.server.request.duration")} == {
        "/api/v1/hello",
        "/api/v1/hello/stream",
    }
    assert not captured.child.matching(r"(/livez|/readyz|/health) 200")


@pytest.mark.parametrize("name", DURATIONS)
def test_durations_are_histograms_in_seconds_with_the_advised_buckets(captured: Captured, name: str) -> None:
    """Each duration metric has unit, buckets and one count a call, and the same schema as the spans."""
    points = captured.points(name)

    assert sum(point.count or 0 for point in points) == 4
    assert {(point.type, point.unit, point.temporality) for point in points} == {("histogram", "s", "CUMULATIVE")}
    assert {point.bounds for point in points} == {BOUNDS}
    assert {point.scope.schema_url for point in points} == {SCHEMA}
    assert all(sum(point.bucket_counts) == point.count for point in points)


def test_metric_attributes_are_those_of_the_conventions(captured: Captured) -> None:
    """Series are told apart by method, route and status alone, and by error.type where something failed."""
    http = {
        (point.attributes["http.route"], point.attributes["http.response.status_code"]): point.attributes
        for point in captured.points("http.server.request.duration")
    }
    server = {
        (point.attributes["rpc.method"], point.attributes["rpc.status_code"]): point.attributes
        for point in captured.points("rpc.server.call.duration")
    }
    client = {
        (point.attributes["rpc.method"], point.attributes["rpc.status_code"]): point.attributes
        for point in captured.points("rpc.client.call.duration")
    }

    assert http[("/api/v1/hello", 200)] == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/api/v1/hello",
        "network.protocol.version": "1.1",
        "url.scheme": "http",
    }
    assert "error.type" not in http[("/api/v1/hello", 400)]
    assert set(server[(RPC_SPAN, "INVALID_ARGUMENT")]) == {"rpc.system.name", "rpc.method", "rpc.status_code"}
    assert client[(RPC_SPAN, "INVALID_ARGUMENT")]["error.type"] == "INVALID_ARGUMENT"
    assert set(client[(RPC_SPAN, "OK")]) == {
        "rpc.system.name",
        "rpc.method",
        "rpc.status_code",
        "server.address",
        "server.port",
    }


def test_a_metric_value_is_the_duration_of_its_span_and_points_to_it(captured: Captured) -> None:
    """The one refused call is one measurement: as long as its span to the microsecond, with the span as exemplar."""
    span, *_ = captured.trace(HTTP_SPAN, http__response__status_code=400)
    refused = [
        point
        for point in captured.telemetry.points
        if point.name == "http.server.request.duration" and point.attributes["http.response.status_code"] == 400
    ]
    # A point has the exemplars since the export before it, so only one of a series has this one.
    exemplars = {(exemplar.trace_id, exemplar.span_id) for point in refused for exemplar in point.exemplars}

    assert refused[-1].count == 1
    assert refused[-1].sum == pytest.approx((span.end_ns - span.start_ns) / 1e9, abs=2e-6)
    assert exemplars == {(span.trace_id, span.span_id)}


def test_access_lines_of_both_protocols_carry_the_ids_of_their_spans(captured: Captured) -> None:
    """Each call has one exported access line a protocol, correlated, and the same ids stand in the terminal."""
    http, _, rpc = captured.trace(HTTP_SPAN, url__query="name=REDACTED&token=REDACTED")
    lines = {
        span.span_id: [str(log.body) for log in captured.telemetry.logs if log.span_id == span.span_id]
        for span in (http, rpc)
    }

    assert [line.rpartition(" ")[0].rpartition(" ")[0] for line in lines[http.span_id]] == ["GET /api/v1/hello 200"]
    assert [line.rpartition(" ")[0].rpartition(" ")[0] for line in lines[rpc.span_id]] == [f"{RPC_SPAN} OK"]
    for span in (http, rpc):
        assert len(captured.child.matching(f"{span.trace_id}.*{span.span_id}")) == 1
    assert not [log for log in captured.telemetry.logs if "hush" in f"{log.body!r}{log.attributes}"]
    assert "hush" not in captured.child.text()


def test_nothing_is_complained_of(captured: Captured) -> None:
    """A server that is started as it should be warns of nothing: no doubled provider, no deprecation."""
    assert captured.child.matching(r"(?i)\bwarn|\berror\b|traceback|deprecat|overrid") == []
    assert [log.body for log in captured.telemetry.logs if log.severity_number >= 13] == []


def test_all_start_modes_give_the_same_telemetry(captures: _Captures) -> None:
    """However the server was started and its telemetry sent, the same kinds of items with the same keys arrive."""
    shapes = {_way_name(way): _shape(captures.get(way)) for way in WAYS}
    first, *others = shapes

    for other in others:
        assert shapes[other] == shapes[first], f"{other} differs from {first}"


def _shape(captured: Captured) -> dict[str, set[object]]:
    telemetry = captured.telemetry
    items: list[Span | MetricPoint | LogRecord] = [*telemetry.spans, *telemetry.points, *telemetry.logs]
    own = {"service.instance.id", "process.pid"}
    return {
        "spans": {(span.name, span.kind, span.status, _keys(span.attributes)) for span in telemetry.spans},
        "scopes": {(span.scope.name, span.scope.version, span.scope.schema_url) for span in telemetry.spans},
        "metrics": {
            (point.name, point.unit, point.type, point.temporality, _keys(point.attributes))
            for point in telemetry.points
            # Measured a few times a second: a process that is soon over may have none.
            if point.name != "rsketch.event_loop.lag"
        },
        # Of its own lines each start mode has others: a supervisor writes some, a single process does not.
        "logs": {(log.severity_text, log.scope.name, _keys(log.attributes)) for log in telemetry.logs if log.trace_id},
        "resource keys": {_keys(item.resource.attributes) for item in items},
        "resources": {
            (key, str(value))
            for item in items
            for key, value in item.resource.attributes.items()
            if key not in own and not key.startswith("process.")
        },
    }


def _keys(attributes: Mapping[str, object]) -> frozenset[str]:
    return frozenset(attributes)


# What needs a server of its own.

STREAM_FOR_ONE_SECOND = "/api/v1/hello/stream?name=ada&count=5&interval=200ms"


@pytest.mark.parametrize("mode", [INSTRUMENTED, MODULE.with_workers(2)], ids=str)
async def test_a_stream_under_way_is_finished_before_the_end(mode: StartMode, tmp_path: Path) -> None:
    """SIGTERM during a stream of one second: all of it is sent, its spans arrive, exit status 0, nothing is left."""
    async with _observed(tmp_path) as (telemetry, collector):
        async with serving(mode, tmp_path, exporting(collector)) as server, server.client() as client:
            async with client.stream("GET", STREAM_FOR_ONE_SECOND) as response:
                chunks = response.aiter_text()
                text = await anext(chunks)
                stopping = asyncio.create_task(server.child.stop())
                text += "".join([chunk async for chunk in chunks])
            status = await stopping
            left = server.child.left()
        await collector.drain()

    assert text.count("Hello, ada!") == 5
    assert status == 0, server.child.text()
    assert left == []
    assert sorted((span.name, span.kind, span.status) for span in telemetry.spans) == [
        (STREAM_SPAN, "SERVER", "UNSET"),
        (RPC_STREAM_SPAN, "CLIENT", "UNSET"),
        (RPC_STREAM_SPAN, "SERVER", "UNSET"),
    ]


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_second_server_on_a_taken_port_ends_with_2(workers: int, tmp_path: Path) -> None:
    """Each of the two ports is found taken, before anything is started, and one line names its setting."""
    mode = MODULE if workers == 1 else MODULE.with_workers(workers)
    async with serving(mode, tmp_path, {"OTEL_SDK_DISABLED": "true"}) as server:
        http, grpc = await asyncio.gather(
            _fails_to_start(mode, tmp_path, "RSKETCH_HTTP_PORT", server.http_port),
            _fails_to_start(mode, tmp_path, "RSKETCH_GRPC_PORT", server.grpc_port),
        )
        async with server.client() as client:
            answer = await client.get("/api/v1/hello?name=ada")

    for setting, child in (("RSKETCH_HTTP_PORT", http), ("RSKETCH_GRPC_PORT", grpc)):
        assert child.status == 2, child.text()
        assert len(child.lines) == 1, child.text()
        assert setting in child.lines[0]
    assert answer.status_code == 200


async def _fails_to_start(mode: StartMode, folder: Path, setting: str, port: int) -> Child:
    async with starting(mode, folder, {"OTEL_SDK_DISABLED": "true", setting: str(port)}) as child:
        await child.ended()
        assert child.left() == []
        return child


async def test_without_a_collector_it_serves_at_once_and_says_so_once(tmp_path: Path) -> None:
    """Nobody listens at the endpoint: calls are answered all the same, one line says it, the end is not held up."""
    (port,) = free_ports(1)
    nowhere = f"http://127.0.0.1:{port}"
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": nowhere, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    async with serving(INSTRUMENTED, tmp_path, environ) as server, server.client() as client:
        first = await client.get("/api/v1/hello?name=ada")
        await server.child.written("not delivered")
        # A few more exports fail meanwhile, each of all three signals.
        answers = [await client.get(f"/api/v1/hello/stream?name=ada&count=2&interval={ms}ms") for ms in (400, 600)]
        said = server.child.matching(r"not delivered|[Ee]xport|UNAVAILABLE")
        started = asyncio.get_running_loop().time()
        status = await server.child.stop()
        seconds = asyncio.get_running_loop().time() - started

    assert [answer.status_code for answer in (first, *answers)] == [200, 200, 200]
    assert len(said) == 1, server.child.text()
    assert str(port) in said[0]
    assert status == 0
    assert seconds < 6


async def test_a_disabled_sdk_sends_nothing_and_serves(tmp_path: Path) -> None:
    """OTEL_SDK_DISABLED=true keeps its meaning: answers as ever, and not one item at the collector."""
    async with _observed(tmp_path) as (telemetry, collector):
        environ = exporting(collector) | {"OTEL_SDK_DISABLED": "true"}
        async with serving(INSTRUMENTED, tmp_path, environ) as server, server.client() as client:
            answer = await client.get("/api/v1/hello?name=ada")
            status = await server.child.stop()
        await collector.drain()

    assert (answer.status_code, status) == (200, 0)
    assert [telemetry.spans, telemetry.points, telemetry.logs] == [[], [], []]


MALFORMED = {
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "-1",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "long",
    "OTEL_BLRP_MAX_QUEUE_SIZE": "0",
    "OTEL_BLRP_SCHEDULE_DELAY": "soon",
    "OTEL_BSP_EXPORT_TIMEOUT": "1.5s",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "many",
    "OTEL_BSP_MAX_QUEUE_SIZE": "-5",
    "OTEL_BSP_SCHEDULE_DELAY": "0x10",
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "psychic",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "zip",
    "OTEL_EXPORTER_OTLP_INSECURE": "perhaps",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "pie_chart",
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "sideways",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "10000",
    "OTEL_LOGS_EXPORTER": "otlp,nowhere",
    "OTEL_METRICS_EXEMPLAR_FILTER": "maybe",
    "OTEL_METRICS_EXPORTER": "oltp",
    "OTEL_METRIC_EXPORT_INTERVAL": "never",
    "OTEL_METRIC_EXPORT_TIMEOUT": "-1",
    "OTEL_PYTHON_ID_GENERATOR": "dice",
    "OTEL_PYTHON_SANIC_EXCLUDED_URLS": "[",
    "OTEL_RESOURCE_ATTRIBUTES": "nonsense",
    "OTEL_SDK_DISABLED": "perhaps",
    "OTEL_SPAN_LINK_COUNT_LIMIT": "1e3",
    "OTEL_TRACES_EXPORTER": "console-ish",
    "OTEL_TRACES_SAMPLER": "sometimes",
}
"""Values that the stock SDK answers with a traceback, with no telemetry, or not at all."""

# Under opentelemetry-instrument an unknown propagator ends upstream's launcher before any code of ours runs.
MALFORMED_FOR_MODULE = MALFORMED | {"OTEL_PROPAGATORS": "tracecontext,carrier"}

MALFORMED_FOR_ONE_SIGNAL = {
    "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE": "/no/such/file.pem",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:99999",
    "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "Bearer-hush",
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "brotli",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpcs",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "-3",
    "OTEL_PYTHON_EXPORTER_OTLP_GRPC_LOGS_CREDENTIAL_PROVIDER": "vault",
    "OTEL_TRACES_SAMPLER_ARG": "2",
}
"""With a valid endpoint for traces beside them; some hold their own signal back rather than send it less safely."""


@pytest.mark.parametrize(
    ("mode", "malformed", "arriving"),
    [
        (INSTRUMENTED, MALFORMED, {"spans", "points", "logs"}),
        (MODULE, MALFORMED_FOR_MODULE, {"spans", "points", "logs"}),
        (MODULE, MALFORMED_FOR_ONE_SIGNAL, {"spans"}),
    ],
    ids=["instrumented", "module", "one-signal"],
)
async def test_malformed_settings_are_named_and_replaced(
    mode: StartMode, malformed: dict[str, str], arriving: set[str], tmp_path: Path
) -> None:
    """Whatever OTEL_* holds, the server serves, one line names each bad variable, and telemetry arrives by defaults."""
    async with _observed(tmp_path) as (telemetry, collector):
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoints["grpc"],
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        }
        async with serving(mode, tmp_path, environ | malformed) as server, server.client() as client:
            answer = await client.get("/api/v1/hello?name=ada")
            status = await server.child.stop()
        await collector.drain()
    said = {name: server.child.matching(rf"(?<!\w){name}(?!\w)") for name in malformed}
    arrived = {kind for kind in ("spans", "points", "logs") if getattr(telemetry, kind)}

    assert (answer.status_code, status) == (200, 0), server.child.text()
    assert {name: len(lines) for name, lines in said.items()} == dict.fromkeys(malformed, 1), server.child.text()
    assert arrived == arriving, server.child.text()
    assert [span.name for span in telemetry.spans].count(HTTP_SPAN) == 1
    assert "Traceback" not in server.child.text()
    assert "hush" not in server.child.text()


async def test_services_alone_share_a_trace_and_keep_their_names(tmp_path: Path) -> None:
    """Two processes with one service each, as they are deployed: one trace across both, each under its own name."""
    async with _observed(tmp_path) as (telemetry, collector):
        named = exporting(collector) | {"OTEL_SERVICE_NAME": "rsketch-grpc"}
        async with starting(_alone("grpc"), tmp_path, named) as behind:
            target = await behind.written(r"grpc://(127\.0\.0\.1:\d+)")
            named |= {"OTEL_SERVICE_NAME": "rsketch-http", "RSKETCH_HTTP_GRPC_TARGET": target[1]}
            async with starting(_alone("http"), tmp_path, named) as front:
                url = await front.written(r"(http://127\.0\.0\.1:\d+)$")
                async with httpx.AsyncClient(base_url=url[1], trust_env=False) as client:
                    answer = await client.get("/api/v1/hello?name=ada")
                statuses = [await front.stop(), await behind.stop()]
        await collector.drain()
    spans = {span.kind + span.name: span for span in telemetry.spans}
    front_span, call, behind_span = (
        spans[name] for name in (f"SERVER{HTTP_SPAN}", f"CLIENT{RPC_SPAN}", f"SERVER{RPC_SPAN}")
    )

    assert (answer.json(), statuses) == ({"message": "Hello, ada!"}, [0, 0])
    assert (front_span.span_id, call.span_id) == (call.parent_span_id, behind_span.parent_span_id)
    assert {(span.name, span.kind, span.resource.attributes["service.name"]) for span in telemetry.spans} == {
        (HTTP_SPAN, "SERVER", "rsketch-http"),
        (RPC_SPAN, "CLIENT", "rsketch-http"),
        (RPC_SPAN, "SERVER", "rsketch-grpc"),
    }


def _alone(service: str) -> StartMode:
    return StartMode(f"{service}-alone", (*INSTRUMENTED.argv, service))
