"""
Telemetry as rsketch's own server sends it, encoded, and cheap enough to make a million spans of it.

A trace is an HTTP request, the RPC that it makes and the RPC that is served, of two services. There are forty routes;
ids, times and ports differ from trace to trace, and one trace in fifty fails with an exception event. Whatever is
constant is encoded once. The same seed gives the same telemetry.
"""

import random
import struct
from collections.abc import Iterator, Sequence
from functools import cache

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from rsketch_telemetry.otlp.frame import Item, Scope, frame
from rsketch_telemetry.otlp.wire import field

__all__ = ["BATCH", "HTTP", "ROUTES", "RPC", "Traffic", "wide_trace"]

BATCH = 512
"""Spans in a request: the SDK's default."""
ROUTES = 40
HTTP, RPC = "shop-http", "shop-grpc"
_SPANS_OF_TRACE = 3
_FAILED = 0.02
_SERVER, _CLIENT = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT
_SCHEMA = "https://opentelemetry.io/schemas/1.45.0"
_SCOPE = Scope(b"\x0a\x11rsketch-telemetry\x12\x050.1.0", _SCHEMA)
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_TRACEBACK = "Traceback (most recent call last):\n" + "".join(
    f'  File "/srv/shop/handlers.py", line {line}, in handle\n    raise OutOfStock(item)\n' for line in range(40, 52)
)

Value = str | int | bool


class Traffic:
    """
    A stream of traces.

    Args:
        seed: Of everything random in it.
        rate: Spans a second of the time that they tell of.
    """

    def __init__(self, seed: int, *, rate: float = 2000.0) -> None:
        self._random = random.Random(seed)
        self._step_ns = round(_SPANS_OF_TRACE * 1e9 / rate)
        self._resources = [_resource(name, seed) for name in (HTTP, RPC)]

    def spans(self, count: int, start_ns: int, batch: int = BATCH) -> Iterator[bytes]:
        """Yield requests with at least *count* spans in all, of which each service sends its own."""
        waiting: tuple[list[Item], list[Item]] = ([], [])
        for at in range(-(-count // _SPANS_OF_TRACE)):
            for mine, spans in zip(waiting, self._trace(start_ns + at * self._step_ns), strict=True):
                mine.extend(Item(_SCOPE, span) for span in spans)
            for resource, mine in zip(self._resources, waiting, strict=True):
                if len(mine) >= batch:
                    yield frame(resource, _SCHEMA, mine)
                    mine.clear()
        for resource, mine in zip(self._resources, waiting, strict=True):
            if mine:
                yield frame(resource, _SCHEMA, mine)

    def logs(self, count: int, start_ns: int, batch: int = BATCH) -> Iterator[bytes]:
        """Yield requests with *count* log records: access lines, each of a trace of its own."""
        for first in range(0, count, batch):
            times = [start_ns + at * self._step_ns for at in range(first, min(first + batch, count))]
            yield frame(self._resources[0], _SCHEMA, [Item(_SCOPE, self._record(time)) for time in times])

    def points(self, count: int, start_ns: int, every_ns: int = 5_000_000_000) -> Iterator[bytes]:
        """Yield requests with at least *count* points: one of a duration histogram a route, every so often."""
        for at in range(-(-count // ROUTES)):
            yield _collection(self._resources[0], self._random, start_ns, start_ns + (at + 1) * every_ns, at + 1)

    def _trace(self, start: int) -> tuple[Sequence[bytes], Sequence[bytes]]:
        number, choose = self._random.getrandbits, self._random
        route = choose.randrange(ROUTES)
        failed = choose.random() < _FAILED
        trace, served, called, answered = (number(size).to_bytes(size // 8) for size in (128, 64, 64, 64))
        took = round(choose.lognormvariate(16.5, 0.8)) + 200_000
        port, inner = 32768 + number(13), 40000 + number(6)
        common = (*_http_constants(route, failed), _http_path(route, number(9)), _port(port))
        first = _span(trace, served, b"", start, took, _http_name(route), _SERVER, common, failed, failed)
        called_attributes = (*_client_constants(route, failed), _port(50051))
        second = _span(
            trace, called, served, start + 100_000, took - 150_000, _rpc_name(route), _CLIENT, called_attributes, failed
        )
        own = (*_server_constants(route, failed), _port(inner), _tenant(number(6)), _items(number(4)))
        third = _span(
            trace, answered, called, start + 130_000, took - 190_000, _rpc_name(route), _SERVER, own, failed, failed
        )
        return (first, second), (third,)

    def _record(self, time_ns: int) -> bytes:
        route, number = self._random.randrange(ROUTES), self._random.getrandbits
        failed = self._random.random() < _FAILED
        took = self._random.lognormvariate(2.7, 0.8)
        body = f'{"ERROR" if failed else "INFO"} "{_path(route, number(9))}" {500 if failed else 200} {took:.1f} ms'
        text = body.encode()
        return b"".join(
            (
                b"\x09" + struct.pack("<Q", time_ns) + (b"\x10\x11" if failed else b"\x10\x09"),
                field(3, b"ERROR" if failed else b"INFO"),
                field(5, field(1, text)),
                *(field(6, pair) for pair in _http_constants(route, failed)[:4]),
                field(6, _port(32768 + number(13))),
                field(9, number(128).to_bytes(16)),
                field(10, number(64).to_bytes(8)),
                b"\x59" + struct.pack("<Q", time_ns + 1000),
            )
        )


def wide_trace(trace_id: bytes, count: int, start_ns: int) -> Iterator[bytes]:
    """Yield requests with one trace of *count* spans: each has up to eight children."""
    resource = _resource(RPC, 0)
    spans = []
    for at in range(count):
        parent = (1 + (at - 1) // 8).to_bytes(8) if at else b""
        depth_ns = (at.bit_length() // 3) * 1_000_000
        attributes = (*_client_constants(at % ROUTES, failed=False), _port(50051))
        spans.append(
            _span(
                *(trace_id, (at + 1).to_bytes(8), parent, start_ns + depth_ns + at * 1000, 400_000_000 - depth_ns),
                *(_rpc_name(at % ROUTES), _CLIENT, attributes, False),
            )
        )
    for first in range(0, count, BATCH):
        yield frame(resource, _SCHEMA, [Item(_SCOPE, span) for span in spans[first : first + BATCH]])


def _span(
    trace: bytes,
    span: bytes,
    parent: bytes,
    start: int,
    took: int,
    name: bytes,
    kind: int,
    attributes: Sequence[bytes],
    failed: bool,
    raised: bool = False,
) -> bytes:
    parts = [b"\x0a\x10", trace, b"\x12\x08", span]
    if parent:
        parts += (b"\x22\x08", parent)
    parts += (name, bytes((0x30, kind)), b"\x39", struct.pack("<Q", start), b"\x41", struct.pack("<Q", start + took))
    parts += [field(9, pair) for pair in attributes]
    if raised:
        parts.append(_exception(start + took))
    if failed:
        parts.append(_status())
    # The flags: sampled, and it is known whether the parent is remote.
    parts.append(b"\x85\x01" + struct.pack("<I", 0x101))
    return b"".join(parts)


def _exception(time_ns: int) -> bytes:
    return field(11, b"\x09" + struct.pack("<Q", time_ns) + field(2, b"exception") + _exception_attributes())


@cache
def _exception_attributes() -> bytes:
    pairs = (
        ("exception.type", "shop.errors.OutOfStock"),
        ("exception.message", "there are 0 left"),
        ("exception.stacktrace", _TRACEBACK),
    )
    return b"".join(field(3, _pair(key, value)) for key, value in pairs)


@cache
def _status() -> bytes:
    return field(15, Status(code=Status.STATUS_CODE_ERROR, message="OutOfStock").SerializeToString())


def _pair(key: str, value: Value) -> bytes:
    match value:
        case bool():
            encoded = AnyValue(bool_value=value)
        case int():
            encoded = AnyValue(int_value=value)
        case _:
            encoded = AnyValue(string_value=value)
    return KeyValue(key=key, value=encoded).SerializeToString()


@cache
def _resource(service: str, seed: int) -> bytes:
    pairs: dict[str, Value] = {
        "service.name": service,
        "service.version": "0.1.0",
        "service.instance.id": f"{service}-{seed:08x}",
        "service.namespace": "shop",
        "vcs.ref.head.revision": "0f1e2d3c4b5a69788796a5b4c3d2e1f001234567",
        "host.name": "laptop",
        "process.pid": 4242,
        "process.runtime.name": "cpython",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.language": "python",
    }
    return Resource(
        attributes=[KeyValue.FromString(_pair(key, value)) for key, value in pairs.items()]
    ).SerializeToString()


def _route(at: int) -> str:
    return f"/api/v1/{('items', 'orders', 'users', 'carts')[at % 4]}/r{at}" + ("/<number:int>" if at % 2 else "")


def _path(at: int, number: int) -> str:
    return _route(at).replace("<number:int>", str(number))


@cache
def _http_name(at: int) -> bytes:
    return field(5, f"GET {_route(at)}".encode())


@cache
def _rpc_name(at: int) -> bytes:
    return field(5, f"shop.v1.Shop/Method{at}".encode())


@cache
def _http_path(at: int, number: int) -> bytes:
    return _pair("url.path", _path(at, number if at % 2 else 0))


@cache
def _http_constants(at: int, failed: bool) -> Sequence[bytes]:
    pairs: dict[str, Value] = {
        "http.request.method": "GET",
        "http.response.status_code": 500 if failed else 200,
        "http.route": _route(at),
        "url.scheme": "http",
        "server.address": "localhost",
        "server.port": 3000,
        "client.address": "127.0.0.1",
        "network.peer.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "user_agent.original": f"Mozilla/5.0 (X11; Linux x86_64; rv:{120 + at % 8}.0) Gecko/20100101 Firefox/120.0",
    }
    if failed:
        pairs["error.type"] = "500"
    return [_pair(key, value) for key, value in pairs.items()]


@cache
def _client_constants(at: int, failed: bool) -> Sequence[bytes]:
    pairs: dict[str, Value] = {
        "rpc.system.name": "grpc",
        "rpc.method": f"shop.v1.Shop/Method{at}",
        "rpc.status_code": "INTERNAL" if failed else "OK",
        "server.address": "localhost",
        "server.port": 50051,
        "network.peer.address": "127.0.0.1",
        "shop.attempt": 1,
    }
    if failed:
        pairs["error.type"] = "INTERNAL"
    return [_pair(key, value) for key, value in pairs.items()]


@cache
def _server_constants(at: int, failed: bool) -> Sequence[bytes]:
    pairs: dict[str, Value] = {
        "rpc.system.name": "grpc",
        "rpc.method": f"shop.v1.Shop/Method{at}",
        "rpc.status_code": "INTERNAL" if failed else "OK",
        "network.peer.address": "127.0.0.1",
        "shop.cached": at % 3 == 0,
    }
    if failed:
        pairs["error.type"] = "INTERNAL"
    return [_pair(key, value) for key, value in pairs.items()]


@cache
def _port(number: int) -> bytes:
    return _pair("network.peer.port", number)


@cache
def _tenant(number: int) -> bytes:
    return _pair("shop.tenant", f"tenant-{number}")


@cache
def _items(number: int) -> bytes:
    return _pair("shop.items", number)


def _collection(resource: bytes, choose: random.Random, start_ns: int, time_ns: int, times: int) -> bytes:
    request = ExportMetricsServiceRequest()
    of_resource = request.resource_metrics.add(schema_url=_SCHEMA)
    of_resource.resource.ParseFromString(resource)
    metric = of_resource.scope_metrics.add(schema_url=_SCHEMA).metrics.add(
        name="http.server.request.duration", unit="s", description="Duration of HTTP server requests."
    )
    metric.histogram.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    for route in range(ROUTES):
        counts = [times * choose.randrange(1 + 40 // (1 + abs(place - 4))) for place in range(len(_BOUNDS) + 1)]
        point = metric.histogram.data_points.add(
            start_time_unix_nano=start_ns,
            time_unix_nano=time_ns,
            count=sum(counts),
            sum=sum(counts) * 0.02,
            bucket_counts=counts,
            explicit_bounds=_BOUNDS,
        )
        for key, value in (("http.request.method", "GET"), ("http.route", _route(route)), ("url.scheme", "http")):
            point.attributes.append(KeyValue.FromString(_pair(key, value)))
        point.attributes.append(KeyValue.FromString(_pair("http.response.status_code", 200)))
        point.exemplars.add(
            time_unix_nano=time_ns - 1000,
            as_double=0.02,
            trace_id=choose.getrandbits(128).to_bytes(16),
            span_id=choose.getrandbits(64).to_bytes(8),
        )
    return request.SerializeToString()
