"""
A quarter of an hour of a small shop: what a web service, a service behind it and their database would have sent.

It is the same each time, but for when: the last request has just ended. One in twenty-five orders fails for want of
stock, and orders of the region `eu-south` are slow, which is there to be found.
"""

import bisect
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from otlp_json import BOUNDS, Json, event, histogram, identified, logs, metrics, number, record, span, traces

__all__ = ["ORDERS", "SLOW_REGION", "WEB", "Shop"]

WEB, ORDERS = "shop-web", "shop-orders"
SLOW_REGION = "eu-south"
_MINUTES = 15
_REQUESTS = 420
_EVERY_NS = 10_000_000_000
_SECOND, _MS = 1_000_000_000, 1_000_000
_REGIONS = ("eu-north", "eu-west", SLOW_REGION, "us-east")
_REVISIONS = ("3f9c2ab", "b81d40e")
_TRACEBACK = 'Traceback (most recent call last):\n  File "shop/stock.py", line 41, in take\nOutOfStock: 0 left of 17'

_Key = tuple[tuple[str, object], ...]


@dataclass(slots=True)
class _Served:
    """A request that was served, for the metrics."""

    at: int
    ms: float
    key: _Key
    trace: str
    span_id: str


@dataclass(slots=True)
class _Run:
    """One start of a service: what it is, and what it has recorded."""

    service: str
    number: int
    spans: list[Json] = field(default_factory=list)
    records: list[Json] = field(default_factory=list)
    served: list[_Served] = field(default_factory=list)

    @property
    def resource(self) -> dict[str, str]:
        """What tells it from other runs."""
        return {
            "service.instance.id": f"{self.service}-run-{self.number + 1}",
            "vcs.ref.head.revision": _REVISIONS[self.number],
            "deployment.environment.name": "development",
        }


class Shop:
    """
    The shop's telemetry.

    Args:
        now: When it ends, in nanoseconds since the epoch.
        requests: How many customers' requests there are.
    """

    def __init__(self, now: int, *, requests: int = _REQUESTS) -> None:
        self.start = now - _MINUTES * 60 * _SECOND
        self.now = now
        self._random = random.Random(7)
        self._runs = {(name, run): _Run(name, run) for name in (WEB, ORDERS) for run in (0, 1)}
        self.orders: list[str] = []
        """The ids of the traces of orders, oldest first."""
        self.failed: list[str] = []
        """Those of them that failed."""
        every = (now - self.start - 2 * _SECOND) / requests
        for at in range(requests):
            self._request(at, round(self.start + every * (at + self._random.random())))

    def requests(self) -> Iterator[Json]:
        """Yield OTLP requests."""
        for run in self._runs.values():
            if run.spans:
                yield traces(run.service, run.spans, run.resource)
            if run.records:
                yield logs(run.service, run.records, run.resource)
            if collected := list(self._metrics(run)):
                yield {"resourceMetrics": [each for request in collected for each in request["resourceMetrics"]]}

    def _request(self, at: int, start: int) -> None:
        choose = self._random
        # The second run is of another revision: it answers orders faster.
        number = int(start > self.start + (self.now - self.start) * 0.4)
        trace = identified(f"shop {at}")
        region = choose.choice(_REGIONS)
        web, orders = self._runs[WEB, number], self._runs[ORDERS, number]
        kind = choose.choices(("products", "cart", "order", "health"), (6, 3, 3, 1))[0]
        if kind == "health":
            web.spans.append(_served(trace, start, 0.4, "GET", "/health", 200, region))
            return
        ms = choose.lognormvariate(2.6, 0.45) * (1.5 if kind == "order" else 1.0)
        if kind == "order":
            ms *= (1.6 if number == 0 else 1.0) * (6.0 if region == SLOW_REGION else 1.0)
        failed = kind == "order" and choose.random() < 0.08
        method, route, rpc, statement = {
            "products": ("GET", "/products/{id}", "shop.Catalog/GetProduct", "SELECT products"),
            "cart": ("GET", "/cart", "shop.Cart/GetCart", "SELECT cart_items"),
            "order": ("POST", "/orders", "shop.Orders/PlaceOrder", "INSERT orders"),
        }[kind]
        root = _served(trace, start, ms, method, route, 503 if failed else 200, region)
        inner = round(start + 0.08 * ms * _MS)
        call = _called(trace, root["spanId"], inner, 0.86 * ms, rpc, failed)
        inside = inner + round(0.03 * ms * _MS)
        answer = _answered(trace, call["spanId"], inside, 0.8 * ms, rpc, region, failed)
        web.spans += (root, call)
        orders.spans += (answer, *_queries(trace, answer["spanId"], inside, 0.8 * ms, statement, failed))
        self._tell(web, orders, trace, (root, answer), start, ms, f"{method} {route}", kind, region, failed)

    def _tell(
        self,
        web: _Run,
        orders: _Run,
        trace: str,
        spans: Sequence[Json],
        start: int,
        ms: float,
        name: str,
        kind: str,
        region: str,
        failed: bool,
    ) -> None:
        root, answer = spans
        end = start + round(ms * _MS)
        method, route = name.split()
        status = 503 if failed else 200
        key: _Key = (
            ("http.request.method", method),
            ("http.route", route),
            ("http.response.status_code", status),
        )
        web.served.append(_Served(end, ms, key, trace, root["spanId"]))
        rpc_key: _Key = (("rpc.method", answer["name"]), ("rpc.system.name", "grpc"))
        orders.served.append(_Served(end, 0.8 * ms, rpc_key, trace, answer["spanId"]))
        if kind == "order":
            self.orders.append(trace)
            line = record(
                "order placed" if not failed else "order refused: out of stock",
                end - round(0.2 * ms * _MS),
                severity="ERROR" if failed else "INFO",
                trace=trace,
                span_id=answer["spanId"],
                attributes={"shop.region": region, "shop.items": 6},
            )
            orders.records.append(line)
        if failed:
            self.failed.append(trace)
        severity = "ERROR" if failed else "WARN" if ms > 120 else "INFO"
        path = route.replace("{id}", "17")
        web.records.append(
            record(
                f"{method} {path} {status} {ms:.1f} ms",
                end,
                severity=severity,
                trace=trace,
                span_id=root["spanId"],
                attributes={"http.route": route, "http.response.status_code": status},
            )
        )

    def _metrics(self, run: _Run) -> Iterator[Json]:
        if not run.served:
            return
        served = sorted(run.served, key=lambda each: each.at)
        begin, end = (
            (self.start, served[-1].at + _EVERY_NS) if run.number == 0 else (served[0].at - _EVERY_NS, self.now)
        )
        name = "http.server.request.duration" if run.service == WEB else "rpc.server.call.duration"
        counts: dict[_Key, list[int]] = {}
        done: Counter[str] = Counter()
        for at in range(begin + _EVERY_NS, min(end, self.now) + 1, _EVERY_NS):
            fresh = [each for each in served if at - _EVERY_NS <= each.at < at]
            for each in fresh:
                buckets = counts.setdefault(each.key, [0] * (len(BOUNDS) + 1))
                buckets[bisect.bisect_left(BOUNDS, each.ms / 1000)] += 1
                done["orders"] += each.key[1] == ("http.route", "/orders")
            exemplars = {
                each.key: [(each.ms / 1000, each.at, each.trace, each.span_id)] for each in fresh if each.ms > 20
            }
            wave = self._random.uniform(-1.5, 1.5)
            instruments = [
                histogram(name, counts, start=begin, at=at, description="Duration of requests.", exemplars=exemplars),
                number("process.memory.usage", round((88 + run.number * 9 + wave) * 1e6), at, unit="By"),
                number("process.cpu.utilization", 0.05 + len(fresh) / 90, at),
            ]
            if run.service == WEB:
                instruments.append(number("shop.orders", done["orders"], at, unit="{order}", start=begin))
            yield metrics(run.service, instruments, run.resource)


def _served(trace: str, start: int, ms: float, method: str, route: str, status: int, region: str) -> Json:
    path = route.replace("{id}", "17")
    attributes = {
        "http.request.method": method,
        "http.route": route,
        "url.path": path,
        "url.scheme": "http",
        "http.response.status_code": status,
        "server.address": "127.0.0.1",
        "server.port": 3000,
        "network.protocol.version": "1.1",
        "user_agent.original": "shop-app/4.2",
        "shop.region": region,
    }
    error = "out of stock" if status >= 500 else None
    return span(f"{method} {route}", trace=trace, at=start, ms=ms, attributes=attributes, error=error)


def _called(trace: str, parent: str, at: int, ms: float, rpc: str, failed: bool) -> Json:
    attributes = {"rpc.system.name": "grpc", "rpc.method": rpc, "server.address": "127.0.0.1", "server.port": 50051}
    return span(
        rpc,
        trace=trace,
        parent=parent,
        id=identified(f"{trace} call", 8),
        at=at,
        ms=ms,
        kind="CLIENT",
        attributes={**attributes, "rpc.status_code": "FAILED_PRECONDITION" if failed else "OK"},
        error="out of stock" if failed else None,
    )


def _answered(trace: str, parent: str, at: int, ms: float, rpc: str, region: str, failed: bool) -> Json:
    raised = event(
        "exception",
        at + round(0.9 * ms * _MS),
        {"exception.type": "shop.OutOfStock", "exception.message": "0 left of 17", "exception.stacktrace": _TRACEBACK},
    )
    return span(
        rpc,
        trace=trace,
        parent=parent,
        at=at,
        ms=ms,
        attributes={
            "rpc.system.name": "grpc",
            "rpc.method": rpc,
            "rpc.status_code": "FAILED_PRECONDITION" if failed else "OK",
            "shop.region": region,
        },
        events=[raised] if failed else [event("authorized", at + round(0.02 * ms * _MS), {"user.role": "customer"})],
        error="out of stock" if failed else None,
    )


def _queries(trace: str, parent: str, at: int, ms: float, statement: str, failed: bool) -> Iterator[Json]:
    verb, table = statement.split()
    share = 0.08 * ms
    # An order looks each of its items up: the loop that a waterfall makes plain.
    repeats = 6 if verb == "INSERT" else 0
    for item in range(repeats):
        yield _query(trace, parent, at + round((0.06 * ms + item * 1.2 * share) * _MS), share, "SELECT stock", item)
    if not failed:
        begin = at + round((0.68 if repeats else 0.15) * ms * _MS)
        yield _query(trace, parent, begin, (0.25 if repeats else 0.75) * ms, f"{verb} {table}", 0)


def _query(trace: str, parent: str, at: int, ms: float, name: str, item: int) -> Json:
    verb, table = name.split()
    where = "WHERE id = $1" if verb == "SELECT" else "VALUES ($1, $2, $3)"
    attributes = {
        "db.system.name": "postgresql",
        "db.namespace": "shop",
        "db.operation.name": verb,
        "db.collection.name": table,
        "db.query.text": f"SELECT * FROM {table} {where}" if verb == "SELECT" else f"INSERT INTO {table} {where}",
        "server.address": "127.0.0.1",
        "server.port": 5432,
        "shop.item": item,
    }
    return span(name, trace=trace, parent=parent, at=at, ms=ms, kind="CLIENT", attributes=attributes)
