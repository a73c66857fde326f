"""
The load generator: a process of its own that sends what it has made before, and says how that went.

    python -m bench.dashboard.load --protocol grpc --port 4317 --spans 100000

It makes its requests, writes `ready`, and begins when a line comes in. Only loopback is ever sent to, and every run
has an end: a number of spans, or with `--rate` that many a second for `--seconds`.
"""

import argparse
import gzip
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import grpc

from bench.dashboard.traffic import BATCH, Traffic
from bench.process import HOST

__all__ = ["PATHS", "PROTOCOLS", "Send", "sender"]

PROTOCOLS = ("grpc", "http", "http-gzip")
PATHS = {
    "traces": ("/v1/traces", "/opentelemetry.proto.collector.trace.v1.TraceService/Export"),
    "logs": ("/v1/logs", "/opentelemetry.proto.collector.logs.v1.LogsService/Export"),
    "metrics": ("/v1/metrics", "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"),
}
"""Where each signal goes over HTTP, and the method over gRPC."""

Send: TypeAlias = Callable[[bytes], None]
_Request: TypeAlias = tuple[str, bytes]
_SENDERS = 8
"""Requests under way at a time, as of four programs."""
_SECONDS = 30.0


def main(argv: Sequence[str]) -> int:
    """Send what *argv* asks for; write what was sent as one line of JSON."""
    parser = argparse.ArgumentParser(prog="load", description="Sends telemetry to a receiver on this machine.")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="grpc")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--spans", type=int, default=0)
    parser.add_argument("--logs", type=int, default=0)
    parser.add_argument("--points", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--over", type=float, default=0.0, help="seconds before now that the telemetry is spread over")
    parser.add_argument("--rate", type=float, default=0.0, help="spans a second; 0 for as fast as it goes")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long to send at that rate")
    options = parser.parse_args(argv)
    sent = _live(options) if options.rate else _at_once(options)
    print(json.dumps(sent), flush=True)
    return 0


def sender(protocol: str, port: int, signal: str) -> Send:
    """Return what sends one request and waits for its answer; it raises where that is not a success."""
    path, method = PATHS[signal]
    return _grpc(port, method) if protocol == "grpc" else _http(port, path, gzipped=protocol == "http-gzip")


def _grpc(port: int, method: str) -> Send:
    channel = grpc.insecure_channel(f"{HOST}:{port}", (("grpc.use_local_subchannel_pool", 1),))
    export: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)

    def send(body: bytes) -> None:
        while True:
            try:
                export(body, timeout=_SECONDS, wait_for_ready=True)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                time.sleep(0.05)
            else:
                return

    return send


def _http(port: int, path: str, *, gzipped: bool) -> Send:
    connection = http.client.HTTPConnection(HOST, port, timeout=_SECONDS)
    headers = {"content-type": "application/x-protobuf", **({"content-encoding": "gzip"} if gzipped else {})}

    def send(body: bytes) -> None:
        while True:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            said = answer.read()
            if answer.status in (200, 202):
                return
            if answer.status != 429:
                raise RuntimeError(f"{path}: {answer.status} {said[:200]!r}")
            time.sleep(0.05)

    return send


def _at_once(options: argparse.Namespace) -> dict[str, float]:
    start_ns = time.time_ns() - round(options.over * 1e9)
    rate = options.spans / options.over if options.over else 2000.0
    # As evenly as they arrive: a database that gets one signal after the other is another one.
    streams = _signals(Traffic(options.seed, rate=rate), options, start_ns)
    requests = [_packed(options.protocol, signal, body) for signal, body in _interleaved(streams)]
    _wait()
    begun = time.perf_counter()
    with ThreadPoolExecutor(_SENDERS) as pool:
        own = threading.local()
        for _ in pool.map(lambda request: _send(own, options, request), requests):
            pass
    return {"spans": options.spans, "requests": len(requests), "seconds": time.perf_counter() - begun}


def _signals(traffic: Traffic, options: argparse.Namespace, start_ns: int) -> dict[str, list[bytes]]:
    return {
        "traces": list(traffic.spans(options.spans, start_ns, options.batch)),
        "logs": list(traffic.logs(options.logs, start_ns, options.batch)),
        "metrics": list(traffic.points(options.points, start_ns)),
    }


def _interleaved(streams: dict[str, list[bytes]]) -> list[_Request]:
    placed = [
        ((at + 1) / len(bodies), signal, body) for signal, bodies in streams.items() for at, body in enumerate(bodies)
    ]
    return [(signal, body) for _, signal, body in sorted(placed, key=lambda each: each[0])]


def _packed(protocol: str, signal: str, body: bytes) -> _Request:
    # As SDKs do it; made before the clock runs.
    return signal, gzip.compress(body, 6) if protocol == "http-gzip" else body


def _send(own: threading.local, options: argparse.Namespace, request: _Request) -> None:
    """Send one request over this thread's own connection."""
    signal, body = request
    senders: dict[str, Send] | None = getattr(own, "senders", None)
    if senders is None:
        senders = own.senders = {}
    if signal not in senders:
        senders[signal] = sender(options.protocol, options.port, signal)
    senders[signal](body)


def _live(options: argparse.Namespace) -> dict[str, float]:
    """Send traces at a rate, each told of as it happens, with a log record a trace and a collection every 5 seconds."""
    own = threading.local()
    traffic = Traffic(options.seed, rate=options.rate)
    _wait()
    begun = time.monotonic()
    sent = 0
    # Four times a second, as the exporters of a few programs would.
    for tick in _ticks(begun, options.seconds, 0.25):
        spans = round(options.rate * (tick + 1) * 0.25) - sent
        sent += spans
        now = time.time_ns() - 250_000_000
        bodies = [("traces", body) for body in traffic.spans(spans, now)]
        bodies += [("logs", body) for body in traffic.logs(spans // 3, now)]
        if tick % 20 == 0:
            bodies += [("metrics", body) for body in traffic.points(1, now)]
        for request in bodies:
            _send(own, options, _packed(options.protocol, *request))
    return {"spans": sent, "seconds": time.monotonic() - begun}


def _ticks(begun: float, seconds: float, every: float) -> Iterator[int]:
    for tick in range(round(seconds / every)):
        time.sleep(max(0.0, begun + tick * every - time.monotonic()))
        yield tick


def _wait() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
