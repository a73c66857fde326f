"""What the page asks, how long the answers take over a million spans, and while more arrive."""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from bench.dashboard.started import Dashboard
from bench.dashboard.traffic import HTTP
from bench.figures import Figure, Goal, quantile
from bench.process import HOST, get

__all__ = ["Asked", "figures", "live", "load", "sample", "sent"]

LIVE_RATE = 2000
"""Spans a second that arrive meanwhile."""
_GOAL_MS = 200.0
_WHOLE_MAP_GOAL_MS = 600.0
_PAUSE_SECONDS = 0.02
_ROUTE = "GET /api/v1/orders/r21/<number:int>"
_LIVE_PAGE = ("/api/traces?facets=1&limit=100", "/api/scatter")
"""What the page asks for whenever it is told that something has arrived."""


@dataclass(slots=True)
class Asked:
    """
    One query of the page.

    Attributes:
        name: What the table calls it.
        path: With the query string.
        goal_ms: Of the 95th percentile.
        body: For a POST; empty for a GET.
        milliseconds: How long each answer took.
        problem: Why there is none.
    """

    name: str
    path: str
    goal_ms: float = _GOAL_MS
    body: bytes = b""
    milliseconds: list[float] = field(default_factory=list)
    problem: str = ""


def load(port: int, **options: object) -> subprocess.Popen[bytes]:
    """Start a load generator that has made its requests and waits for a line; the caller waits for its end."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.dashboard.load", "--port", str(port), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        process.kill()
        raise RuntimeError("the load generator did not start")
    return process


def sent(process: subprocess.Popen[bytes]) -> Any:
    """Let a load generator begin, and return what it says of its work."""
    said, _ = process.communicate(b"\n")
    if process.returncode:
        raise RuntimeError("the load generator failed")
    return json.loads(said)


@contextmanager
def live(dashboard: Dashboard, seconds: float) -> Iterator[None]:
    """Let telemetry arrive and a page look at it while open, at most for *seconds*."""
    arriving = load(dashboard.grpc_port, rate=LIVE_RATE, seconds=seconds, seed=4_000_000)
    stop = threading.Event()
    page = threading.Thread(target=_page, args=(dashboard.http_port, stop), daemon=True)
    try:
        assert arriving.stdin is not None
        arriving.stdin.write(b"\n")
        arriving.stdin.flush()
        page.start()
        yield
        if arriving.poll() is not None:
            raise RuntimeError("the queries took longer than telemetry arrived")
    finally:
        stop.set()
        page.join()
        arriving.kill()
        arriving.communicate()


def sample(dashboard: Dashboard, rounds: int) -> list[Asked]:
    """Ask every query *rounds* times, one after the other, each round in the same order."""
    asked = list(_queries(dashboard.http_port))
    connection = http.client.HTTPConnection(HOST, dashboard.http_port, timeout=60)
    try:
        for _ in range(rounds):
            for each in asked:
                if not each.problem:
                    _ask(connection, each)
                    # As a person would: the writer gets its turn.
                    time.sleep(_PAUSE_SECONDS)
    finally:
        connection.close()
    return asked


def figures(asked: Sequence[Asked]) -> Iterator[Figure]:
    """Yield a row for each query: the 95th percentile, with the median in the remark."""
    for each in asked:
        if each.problem:
            yield Figure(name=each.name, values=(), unit="ms", about=each.problem)
            continue
        # Of thirds: how much it varies within the run.
        parts = [each.milliseconds[at::3] for at in range(3)]
        low, high = (f"{limit(quantile(part, 0.95) for part in parts):.0f}" for limit in (min, max))
        about = f"p50 {quantile(each.milliseconds, 0.5):.0f}; p95 of thirds {low}..{high}"
        values = (quantile(each.milliseconds, 0.95),)
        yield Figure(name=each.name, values=values, unit="ms", goal=Goal(each.goal_ms), about=about)


def _queries(port: int) -> Iterator[Asked]:
    route, service = quote(_ROUTE, safe=""), quote(HTTP)
    listed = "/api/traces?facets=1&limit=100"
    yield Asked("traces", listed)
    yield Asked("traces, 15 min", f"{listed}&last=15m")
    yield Asked("traces, a service", f"{listed}&service={service}")
    yield Asked("traces, an operation", f"{listed}&operation={route}")
    yield Asked("traces, failed", f"{listed}&status=error")
    yield Asked("traces, slower than 60 ms", f"{listed}&min_ms=60")
    yield Asked("traces, an attribute", f"{listed}&attr={quote('shop.tenant=tenant-7', safe='')}")
    yield Asked("traces, a name", f"{listed}&q=orders")
    yield Asked("traces, slowest", f"{listed}&sort=duration")
    yield Asked("scatter", "/api/scatter")
    yield Asked("scatter, 15 min", "/api/scatter?last=15m")
    yield Asked("scatter, a service", f"/api/scatter?service={service}")
    newest = json.loads(get(port, "/api/traces?limit=500")[1])["traces"]
    yield Asked("one trace", f"/api/trace/{newest[-1]['trace_id']}")
    yield Asked("overview, 15 min", "/api/overview?last=15m")
    yield Asked("overview, 1 h", "/api/overview?last=1h")
    yield Asked("overview, everything", "/api/overview?last=all")
    yield Asked("map, 15 min", "/api/map?last=15m")
    yield Asked("map, everything", "/api/map?last=all", goal_ms=_WHOLE_MAP_GOAL_MS)
    yield Asked("services", "/api/services")
    yield Asked("runs", "/api/runs")
    yield Asked("status", "/api/status")
    yield Asked("logs", "/api/logs")
    yield Asked("logs, 15 min", "/api/logs?last=15m")
    yield Asked("logs, a word", "/api/logs?q=r21")
    yield Asked("logs, errors", "/api/logs?severity=ERROR")
    yield from _later_queries(port, service, route)


def _later_queries(port: int, service: str, route: str) -> Iterator[Asked]:
    metric = {"name": "http.server.request.duration", "service": HTTP}
    yield Asked("metrics", "/api/metrics")
    yield Asked("metric, heatmap of 15 min", f"/api/metric?{urlencode({**metric, 'last': '15m'})}")
    yield Asked("metric, heatmap of everything", f"/api/metric?{urlencode({**metric, 'last': 'all'})}")
    yield Asked("compare slow with the rest", f"/api/compare?service={service}&operation={route}")
    runs = json.loads(get(port, "/api/runs")[1])["runs"]
    if len(runs) > 1:
        two = urlencode({"a": runs[0]["run"], "b": runs[-1]["run"]})
        yield Asked("compare two runs", f"/api/compare/runs?{two}")
    yield Asked("doctor", "/api/doctor")
    query = "SELECT name, count(*) AS spans FROM spans JOIN operations ON id = operation GROUP BY name ORDER BY 2 DESC"
    yield Asked("SQL: spans by name", "/api/sql", body=json.dumps({"query": query}).encode())


def _ask(connection: http.client.HTTPConnection, each: Asked) -> None:
    headers: Mapping[str, str] = {"content-type": "application/json"} if each.body else {}
    begun = time.perf_counter()
    connection.request("POST" if each.body else "GET", each.path, each.body or None, headers)
    answer = connection.getresponse()
    said = answer.read()
    took = (time.perf_counter() - begun) * 1000
    if answer.status == 200:
        each.milliseconds.append(took)
    else:
        each.problem = "not there" if answer.status in (404, 405) else f"{answer.status}: {said[:200].decode()}"


def _page(port: int, stop: threading.Event) -> None:
    """Do what an open page does: listen, ask anew after a change, and be quiet for three times as long as that took."""
    listening = http.client.HTTPConnection(HOST, port, timeout=60)
    asking = http.client.HTTPConnection(HOST, port, timeout=60)
    try:
        listening.request("GET", "/api/live")
        stream = listening.getresponse()
        while not stop.is_set():
            if stream.readline().startswith(b"event: change"):
                begun = time.monotonic()
                for path in _LIVE_PAGE:
                    asking.request("GET", path)
                    asking.getresponse().read()
                stop.wait(3 * (time.monotonic() - begun))
    finally:
        listening.close()
        asking.close()
