"""The checker: a good run passes, and each thing that is made wrong in it is found by exactly the rule for it."""

import json
import logging
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import pytest
from opentelemetry.context import Context
from recording import Recording
from rsketch_telemetry import access
from rsketch_telemetry.conformance import RULES, Allowances, Violation, check
from rsketch_telemetry.conformance.contract import parse
from rsketch_telemetry.conformance.habits import RULES_OF_MANY
from rsketch_telemetry.conformance.report import Report, line
from rsketch_telemetry.facts import HttpOutcome, Peer, RpcCall, RpcOutcome, captured, http_request
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.logs import OtlpHandler
from rsketch_telemetry.otlp.model import Event, LogRecord, MetricPoint, Resource, Scope, Span, Value
from rsketch_telemetry.recorder import Recorder

HTTP, SERVED, CALLED = "http.server.request.duration", "rpc.server.call.duration", "rpc.client.call.duration"
SETTINGS = InstrumentorSettings(opt_in_metrics=frozenset({"http.server.active_requests"}))


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a run emitted, as a receiver sees it."""

    spans: tuple[Span, ...]
    points: tuple[MetricPoint, ...]
    logs: tuple[LogRecord, ...]

    def rules(self, **options: Any) -> set[str]:
        """Return the ids of the rules that it breaks."""
        return {violation.rule for violation in self.violations(**options)}

    def violations(self, *, complete: bool = True, allowed: Allowances | None = None) -> list[Violation]:
        """Return what is wrong with it."""
        return check(self.spans, self.points, self.logs, complete=complete, allowed=allowed)

    def with_span(self, name: str, change: Callable[[Span], Span], **attributes: object) -> "Telemetry":
        """Return the same with the first span of a name, and with these attributes, changed."""
        at = next(i for i, span in enumerate(self.spans) if span.name == name and _has(span.attributes, attributes))
        return replace(self, spans=(*self.spans[:at], change(self.spans[at]), *self.spans[at + 1 :]))

    def with_point(self, name: str, change: Callable[[MetricPoint], MetricPoint], **attributes: object) -> "Telemetry":
        """Return the same with the first point of a metric changed."""
        at = next(i for i, one in enumerate(self.points) if one.name == name and _has(one.attributes, attributes))
        return replace(self, points=(*self.points[:at], change(self.points[at]), *self.points[at + 1 :]))

    def with_log(self, name: str, change: Callable[[LogRecord], LogRecord]) -> "Telemetry":
        """Return the same with the first log record of an event, or without one of a scope, changed."""
        at = next(i for i, log in enumerate(self.logs) if (log.event_name or log.scope.name) == name)
        return replace(self, logs=(*self.logs[:at], change(self.logs[at]), *self.logs[at + 1 :]))


def _has(attributes: Mapping[str, object], wanted: Mapping[str, object]) -> bool:
    return all(attributes.get(name.replace("__", ".")) == value for name, value in wanted.items())


@pytest.fixture(scope="module")
def good() -> Iterator[Telemetry]:
    """Telemetry of one run: every kind of span, metric and record, with failures among them."""
    recording = Recording()
    logger, handler = logging.getLogger(access.LOGGER_NAME), OtlpHandler(recording.logger_provider)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        recorder = recording.create_recorder(SETTINGS)
        _requests(recorder)
        _calls(recorder)
        recorder.in_flight("rsketch.http.server.websockets", 1, {"url.scheme": "http", "http.route": "/chat"})
        recording.collected()
        yield Telemetry(
            tuple(recording.decoded_spans()), tuple(recording.decoded_points()), tuple(recording.decoded_logs())
        )
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        recording.close()


def _requests(recorder: Recorder) -> None:
    seen = {"scheme": "http", "protocol_version": "1.1", "host": "shop.example:80", "peer": ("127.0.0.1", 4711)}
    kept = captured("http.request.header.", [("X-Shop", "a"), ("Cookie", "b")], {"x-shop", "cookie"})
    plain = http_request(method="GET", path="/users/12", query="page=2&token=x", headers=kept, **seen)  # type: ignore[arg-type]  # mypy: the values of a dict have one type
    strange = http_request(method="BREW", path="/pot", **seen)  # type: ignore[arg-type]  # likewise
    recorder.http_server(plain, Context()).finish(HttpOutcome(status_code=200, route="/users/<id:int>"))
    recorder.http_server(plain, Context()).finish(HttpOutcome(status_code=404))
    recorder.http_server(strange, Context()).finish(HttpOutcome(status_code=405))
    failed = HttpOutcome(status_code=500, route="/users/<id:int>", exception=KeyError("id"))
    recorder.http_server(plain, Context()).finish(failed)


def _calls(recorder: Recorder) -> None:
    served = RpcCall(method="shop.v1.Till/Pay")
    recorder.rpc_server(served, Context()).finish(RpcOutcome(status_code="OK", peer=Peer("::1", 4712)))
    recorder.rpc_server(served, Context()).finish(RpcOutcome(status_code="NOT_FOUND"))
    recorder.rpc_server(served, Context()).finish(RpcOutcome(status_code="UNKNOWN", exception=ValueError("no")))
    strange = RpcCall(method="_OTHER", method_original="shop.v1.Till/Steal")
    recorder.rpc_server(strange, Context()).finish(RpcOutcome(status_code="UNIMPLEMENTED"))
    called = RpcCall(method="shop.v1.Till/Pay", server_address="till.example", server_port=50051)
    recorder.rpc_client(called, Context()).finish(RpcOutcome(status_code="OK"))
    recorder.rpc_client(called, Context()).finish(RpcOutcome(status_code="NOT_FOUND", exception=KeyError("till")))


def test_a_good_run_breaks_no_rule(good: Telemetry) -> None:
    """Nothing is wrong with what the recorder emits, also where spans, metrics and logs are compared."""
    assert good.violations() == []
    assert {span.kind for span in good.spans} == {"SERVER", "CLIENT"}
    assert len({point.name for point in good.points}) == 6
    assert len({log.event_name for log in good.logs}) == 4


def _set(name: str, value: object) -> Callable[[Any], Any]:
    return lambda item: replace(item, attributes={**item.attributes, name: value})


def _without(name: str) -> Callable[[Any], Any]:
    return lambda item: replace(item, attributes={key: value for key, value in item.attributes.items() if key != name})


def _field(**fields: object) -> Callable[[Any], Any]:
    return lambda item: replace(item, **fields)


def _all(*changes: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def changed(item: Any) -> Any:
        for change in changes:
            item = change(item)
        return item

    return changed


def _schema(url: str) -> Callable[[Any], Any]:
    return lambda item: replace(item, scope=replace(item.scope, schema_url=url))


def _span(name: str, change: Callable[[Any], Any], **attributes: object) -> Callable[[Telemetry], Telemetry]:
    return lambda good: good.with_span(name, change, **attributes)


def _point(name: str, change: Callable[[Any], Any], **attributes: object) -> Callable[[Telemetry], Telemetry]:
    return lambda good: good.with_point(name, change, **attributes)


def _log(name: str, change: Callable[[Any], Any]) -> Callable[[Telemetry], Telemetry]:
    return lambda good: good.with_log(name, change)


def _both(name: str, value: object, *, of: str, metric: str) -> Callable[[Telemetry], Telemetry]:
    """Change an attribute on every span of a name and on every point that belongs to them."""

    def changed(good: Telemetry) -> Telemetry:
        spans = tuple(
            _set(name, value)(span) if span.name == of and name in span.attributes else span for span in good.spans
        )
        points = tuple(
            _set(name, value)(point) if point.name == metric and name in point.attributes else point
            for point in good.points
        )
        return replace(good, spans=spans, points=points)

    return changed


def _many_routes(good: Telemetry) -> Telemetry:
    (first, *_) = (point for point in good.points if point.name == HTTP)
    scanned = tuple(_set("http.route", f"/users/{number}")(first) for number in range(600))
    return replace(good, points=(*good.points, *scanned))


def _twice(name: str) -> Callable[[Telemetry], Telemetry]:
    return lambda good: replace(good, logs=(*good.logs, *(log for log in good.logs if log.event_name == name)))


def _resource_without(name: str) -> Callable[[Any], Any]:
    return lambda item: replace(
        item, resource=Resource(attributes={key: one for key, one in item.resource.attributes.items() if key != name})
    )


def _halved(item: MetricPoint) -> MetricPoint:
    return replace(item, sum=(item.sum or 0.0) / 2)


def _lost_exemplar(item: MetricPoint) -> MetricPoint:
    assert item.exemplars
    return replace(item, exemplars=tuple(replace(each, span_id="00" * 8) for each in item.exemplars))


def _reversed(item: Span) -> Span:
    return replace(item, start_ns=item.end_ns + 1)


USERS, PAY = "GET /users/<id:int>", "shop.v1.Till/Pay"
HTTP_ERROR, RPC_ERROR = "http.server.request.exception", "rpc.server.call.exception"
CALL_ERROR, LINE = "rpc.client.call.exception", "rsketch_telemetry.access"
SERVER, CLIENT = {"rpc__status_code": "OK", "network__peer__address": "::1"}, {"server__port": 50051}

MUTATIONS: Mapping[str, tuple[str, Callable[[Telemetry], Telemetry]]] = {
    "a span without its method": ("required-attribute", _span(USERS, _without("url.path"))),
    "a served RPC without its system": ("required-attribute", _span(PAY, _without("rpc.system.name"), **SERVER)),
    "a call without its server": ("required-attribute", _point(CALLED, _without("server.address"))),
    "an exception without its type": ("required-attribute", _log(HTTP_ERROR, _without("exception.type"))),
    "an original method of a known one": (
        "conditional-attribute",
        _span(USERS, _set("http.request.method_original", "get")),
    ),
    "an unknown RPC without what was sent": ("conditional-attribute", _span("grpc", _without("rpc.method_original"))),
    "a port without its host": ("conditional-attribute", _span(USERS, _without("server.address"))),
    "a status as text": (
        "attribute-type",
        _both("http.response.status_code", "200", of=USERS, metric=HTTP),
    ),
    "an RPC's status as a number": ("attribute-type", _both("rpc.status_code", 0, of=PAY, metric=SERVED)),
    "a header that is no list": ("attribute-type", _span(USERS, _set("http.request.header.x-shop", "a"))),
    "a port as text": ("attribute-type", _span(USERS, _set("server.port", "80"))),
    "a method that nobody knows": (
        "attribute-value",
        _span("GET", _all(_set("http.request.method", "BREW"), _field(name="BREW"))),
    ),
    "a status that gRPC has not": ("attribute-value", _point(SERVED, _set("rpc.status_code", "Ok"))),
    "a path with its query": ("attribute-value", _span(USERS, _set("url.path", "/users/12?token=x"))),
    "half a surrogate": ("attribute-value", _span(USERS, _set("shop.basket", "\ud800"))),
    "a value of the query": ("redaction", _span(USERS, _set("url.query", "token=hush"))),
    "a query that is a bare token": ("redaction", _span(USERS, _set("url.query", "hush"))),
    "a signature in the query": ("redaction", _span(USERS, _set("url.query", "X-Amz-Signature=abc"))),
    "a signature in a URL": ("redaction", _span(PAY, _set("url.full", "https://shop.example/a?sig=abc#b"), **CLIENT)),
    "a cookie": ("redaction", _span(USERS, _set("http.request.header.cookie", ["session=1"]))),
    "a token in a trailer": ("redaction", _span(PAY, _set("rpc.response.trailer.x-auth-token", ["abc"]))),
    "a huge value": ("limits", _span(USERS, _set("url.path", "/" + "a" * 5000))),
    "a huge name": ("limits", _span(USERS, _set("shop." + "a" * 500, "a"))),
    "endless attributes": (
        "limits",
        _span(USERS, lambda span: replace(span, attributes={**span.attributes, **{f"a{n}": 1 for n in range(200)}})),
    ),
    "a huge body": ("limits", _log(HTTP_ERROR, _field(body="a" * 50_000))),
    "the path as the span's name": ("span-name", _span("GET", _field(name="GET /users/12"))),
    "an RPC's name with a slash": ("span-name", _span(PAY, _field(name=f"/{PAY}"))),
    "an unknown method as the name": ("span-name", _span("grpc", _field(name="shop.v1.Till/Steal"))),
    "a 500 that is no error": (
        "span-status",
        _span(USERS, _all(_field(status="UNSET")), http__response__status_code=500),
    ),
    "a 404 that is one": (
        "span-status",
        _span("GET", _all(_field(status="ERROR"), _set("error.type", "404")), http__response__status_code=404),
    ),
    "an UNKNOWN that is no error": ("span-status", _span(PAY, _field(status="UNSET"), rpc__status_code="UNKNOWN")),
    "a NOT_FOUND that is the server's": (
        "span-status",
        _span(PAY, _all(_field(status="ERROR"), _set("error.type", "NOT_FOUND")), rpc__status_code="NOT_FOUND"),
    ),
    "a call that failed without an error": (
        "span-status",
        _span(PAY, _field(status="UNSET"), rpc__status_code="NOT_FOUND", **CLIENT),
    ),
    "an error without its type": ("error-type", _span(USERS, _without("error.type"), http__response__status_code=500)),
    "a type without an error": ("error-type", _span(USERS, _set("error.type", "timeout"))),
    "a failure that the metric does not name": (
        "error-type",
        _point(HTTP, _without("error.type"), http__response__status_code=500),
    ),
    "a success that the metric names a failure": (
        "error-type",
        _point(SERVED, _set("error.type", "x"), rpc__status_code="OK"),
    ),
    "an end before the start": ("span-time", _span("grpc", _reversed)),
    "a span without an end": ("span-time", _span("grpc", _field(end_ns=0))),
    "a span without an id": ("span-context", _span("grpc", _field(span_id=""))),
    "a span of no trace": ("span-context", _span("grpc", _field(trace_id="0" * 32))),
    "milliseconds": ("metric-unit", _point(HTTP, _field(unit="ms"))),
    "other buckets": ("metric-buckets", _point(SERVED, _field(bounds=(0.0, 5.0, 10.0), bucket_counts=(1, 0, 0, 0)))),
    "a sum in place of a histogram": (
        "metric-instrument",
        _point("http.server.active_requests", _field(type="gauge", monotonic=None)),
    ),
    "a counter that only rises": (
        "metric-instrument",
        _point("rsketch.http.server.websockets", _field(monotonic=True)),
    ),
    "fewer than none": ("metric-value", _point("rsketch.rpc.server.active_calls", _field(value=-1))),
    "buckets that do not add up": ("metric-value", _point(CALLED, _field(bucket_counts=(0,) * 15))),
    "fewer buckets than bounds": (
        "metric-value",
        _point(CALLED, lambda point: replace(point, bucket_counts=(point.count,))),
    ),
    "a sum of unknown temporality": (
        "metric-value",
        _point("rsketch.rpc.server.active_calls", _field(temporality="UNSPECIFIED")),
    ),
    "a point without its time": ("metric-value", _point(CALLED, _field(time_ns=0))),
    "the path on a metric": ("metric-attribute", _point(HTTP, _set("url.path", "/users/12"))),
    "a header on a metric": ("metric-attribute", _point(HTTP, _set("http.request.header.x-shop", ["a"]))),
    "the user on a metric": ("metric-attribute", _point(SERVED, _set("enduser.id", "ada"))),
    "a route for each path": ("metric-cardinality", _many_routes),
    "more series than the SDK keeps": (
        "metric-cardinality",
        _point(HTTP, _set("otel.metric.overflow", True)),
    ),
    "a scope without conventions": ("schema-url", _span(USERS, _schema(""))),
    "a scope of older ones": ("schema-url", _point(SERVED, _schema("https://opentelemetry.io/schemas/1.11.0"))),
    "an old name": ("deprecated-name", _span("GET", _set("http.client_ip", "127.0.0.1"))),
    "a name that is gone": ("deprecated-name", _span(PAY, _set("rpc.message.id", 1))),
    "an old name of the metadata": ("deprecated-name", _span(PAY, _set("rpc.grpc.request.metadata.a", ["b"]))),
    "a name of nobody's": ("unknown-name", _span(USERS, _set("http.basket", 3))),
    "a metric of nobody's": ("unknown-name", _point("rsketch.rpc.server.active_calls", _field(name="rpc.calls"))),
    "an event of nobody's": ("unknown-name", _log(RPC_ERROR, _field(event_name="rpc.boom"))),
    "a span that is not in the contract": ("unknown-item", _span("grpc", _field(kind="INTERNAL"))),
    "a metric that is not in the contract": (
        "unknown-item",
        _point("rsketch.rpc.server.active_calls", _field(name="rsketch.calls")),
    ),
    "an exception as information": ("log-severity", _log(RPC_ERROR, _field(severity_number=9))),
    "an exception of the server's as a warning": ("log-severity", _log(HTTP_ERROR, _field(severity_number=13))),
    "an exception in no span": ("log-context", _log(CALL_ERROR, _field(trace_id="", span_id=""))),
    "an exception in a span that nobody saw": ("log-context", _log(HTTP_ERROR, _field(span_id="00" * 8))),
    "an access line in no span": ("log-context", _log(LINE, _field(span_id=""))),
    "a path in an access line": ("log-attribute", _log(LINE, _set("url.path", "/users/12"))),
    "an exception that is told twice": ("exception-duplicate", _twice(HTTP_ERROR)),
    "an exception as an event": (
        "exception-span-event",
        _span("grpc", lambda span: replace(span, events=(Event(name="exception", time_ns=1, attributes={}),))),
    ),
    "an exemplar that points nowhere": ("exemplar", _point(HTTP, _lost_exemplar)),
    "a metric that forgets the route": (
        "span-metric-agree",
        _point(HTTP, _without("http.route"), http__response__status_code=200),
    ),
    "another error on the span": (
        "span-metric-agree",
        _span(USERS, _set("error.type", "timeout"), http__response__status_code=500),
    ),
    "a call that only the metric counts": (
        "span-metric-duration",
        _point(CALLED, _field(count=2, bucket_counts=(2, *(0,) * 14))),
    ),
    "half the duration": ("span-metric-duration", _point(SERVED, _halved, rpc__status_code="OK")),
    "a resource without a service": (
        "resource-attribute",
        _span(USERS, _resource_without("service.name")),
    ),
}
# Rules that compare spans, metrics and logs with each other. Alone they would find most other mutations too.
WHOLE = {"exemplar", "span-metric-agree", "span-metric-duration"}
LOST_SPAN = "an exception in a span that nobody saw"
# What a mutation makes wrong besides, because one fact depends on the other.
ALSO = {
    "a call without its server": {"conditional-attribute"},
    "a 500 that is no error": {"error-type"},
    "an UNKNOWN that is no error": {"error-type"},
    "a call that failed without an error": {"error-type"},
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_made_wrong_is_found_by_its_rule(good: Telemetry, name: str) -> None:
    """One thing is changed in the telemetry of a good run, and the rule for it says so; no other does."""
    rule, mutate = MUTATIONS[name]
    found = mutate(good).rules(complete=rule in WHOLE or name == LOST_SPAN)

    assert found == {rule} | ALSO.get(name, set())


def test_every_rule_has_a_mutation() -> None:
    """No rule is there that nothing shows to work; duplicates, and what only many items can break, have other tests."""
    assert set(RULES) - {rule for rule, _ in MUTATIONS.values()} == {"duplicate-name"} | RULES_OF_MANY


def test_old_names_beside_the_new_ones_are_advice() -> None:
    """While dashboards move over, the old names and metrics are emitted on purpose: that is said, and fails nothing."""
    recording = Recording()
    settings = InstrumentorSettings(duplicates=frozenset({"http", "rpc"}))
    recorder = recording.create_recorder(settings)
    _requests(recorder)
    _calls(recorder)
    recording.collected()
    found = check(recording.decoded_spans(), recording.decoded_points(), complete=True)

    assert {(violation.rule, violation.advice) for violation in found} == {("duplicate-name", True)}
    assert any("http.method is now http.request.method" in violation.message for violation in found)
    assert any("http.server.duration is now http.server.request.duration" in violation.message for violation in found)


def test_what_the_operator_allows_is_no_violation(good: Telemetry) -> None:
    """Query keys and methods that a service is set to show are taken."""
    shown = good.with_span(USERS, _set("url.query", "page=2&token=REDACTED"))
    brewed = good.with_span("GET", _all(_set("http.request.method", "BREW"), _field(name="BREW")))

    assert shown.rules(complete=False) == {"redaction"}
    assert shown.rules(complete=False, allowed=Allowances(query_keys=frozenset({"page"}))) == set()
    assert brewed.rules(complete=False, allowed=Allowances(methods=frozenset({"BREW"}))) == set()


def test_a_delta_may_be_below_zero(good: Telemetry) -> None:
    """What counts up and down and is sent as a difference goes down by sending less than nothing."""
    down = _all(_field(value=-1), _field(temporality="DELTA"))

    assert good.with_point("rsketch.rpc.server.active_calls", down).rules(complete=False) == set()


@pytest.mark.parametrize(
    "change",
    [
        lambda item, text: replace(item, scope=replace(item.scope, name=text), attributes={"http.method": "GET"}),
        lambda item, text: replace(item, attributes={**item.attributes, f"rpc.request.metadata.{text}": "a"}),
        lambda item, text: replace(item, attributes={**item.attributes, f"http.request.header.{text}": "a"}),
        lambda item, text: replace(item, resource=Resource(attributes={"telemetry.distro.name": text})),
        lambda item, text: replace(item, name=f"rpc.request.metadata.{text}"),
    ],
)
def test_what_others_write_is_one_short_line(good: Telemetry, change: Callable[[Any, str], Any]) -> None:
    """A name or a scope of any length, with control characters in it, is cut and escaped wherever it is shown."""
    text = "x\x1b[31m\n" * 10_000
    spans, points = [change(good.spans[0], text)], [change(good.points[0], text)]
    found = check(spans, points)

    assert found
    for violation in found:
        assert len(line(violation)) < 1000
        assert line(violation).count("\n") == 1
        assert "\x1b" not in line(violation)


def test_the_whole_url_beside_its_parts_is_advice(good: Telemetry) -> None:
    """A server's span has a path in place of the whole URL, so the old name of that is there for a while."""
    found = good.with_span(USERS, _all(_field(scope=FOREIGN), _set("http.url", "http://shop.example/users/12")))

    assert found.rules(complete=False) == {"duplicate-name"}


def test_an_old_metric_beside_one_that_ours_has_not_is_advice(good: Telemetry) -> None:
    """Which names replace which is the registry's to say: others record more metrics than the contract has."""
    old = _all(_field(name="http.server.request.size", unit="By", scope=FOREIGN), _field(attributes={}))
    new = _all(_field(name="http.server.request.body.size", unit="By", scope=FOREIGN), _field(attributes={}))
    found = check(points=[old(good.points[0]), new(good.points[0])])

    assert {violation.rule for violation in found} == {"duplicate-name"}


FOREIGN = Scope(name="shop.instrumentation", version="1", schema_url="", attributes={})


def test_another_service_may_do_what_only_ours_may_not(good: Telemetry) -> None:
    """What the conventions leave open is open to others: no schema URL, opt-in attributes, a harmless query."""
    span = _all(
        _field(scope=FOREIGN),
        _set("url.query", "page=2"),
        _set("user_agent.original", "a" * 600),
        _set("url.scheme", "coap"),
    )
    point = _all(_field(scope=FOREIGN), _set("server.address", "shop.example"), _set("server.port", 80))
    changed = (
        good.with_span(USERS, span).with_point(HTTP, point).with_span("grpc", _field(scope=FOREIGN, kind="INTERNAL"))
    )

    assert changed.violations(complete=False) == []


def test_a_word_is_no_name_of_the_conventions(good: Telemetry) -> None:
    """What a program logs beside a line is often called `url` or `error`; only a name with a dot is in a namespace."""
    said = _all(_set("url", "shop.example"), _set("error", "sold out"))
    line = _all(_field(scope=FOREIGN, event_name="", severity_number=9), _field(attributes={}), said)

    assert good.with_log(HTTP_ERROR, line).rules(complete=False) == set()


def test_another_service_hides_its_credentials(good: Telemetry) -> None:
    """A password in the query and one in the URL are found in any service's telemetry; no message repeats them."""
    first = good.with_span(USERS, _all(_field(scope=FOREIGN), _set("url.query", "password=hunter22&page=2")))
    both = first.with_span(PAY, _all(_field(scope=FOREIGN), _set("url.full", "https://ada:hunter22@shop.example/")))
    found = both.violations(complete=False)

    assert [violation.rule for violation in found] == ["redaction", "redaction"]
    assert "hunter22" not in str(found)


def test_an_old_instrumentation_is_told_the_new_names(good: Telemetry) -> None:
    """The spans and metrics that contrib's instrumentors still write by default are named with what replaces them."""
    old: dict[str, Value] = {
        "http.method": "GET",
        "http.status_code": 200,
        "net.peer.ip": "127.0.0.1",
        "rpc.grpc.status_code": 0,
    }
    span = replace(good.spans[0], name="GET", scope=FOREIGN, attributes=old)
    point = replace(
        good.points[0], name="http.server.duration", unit="ms", scope=FOREIGN, attributes={"http.method": "GET"}
    )
    found = check([span], [point])

    assert {violation.rule for violation in found} == {"deprecated-name"}
    assert {violation.message for violation in found} == {
        "http.method is now http.request.method",
        "http.status_code is now http.response.status_code",
        "net.peer.ip is now network.peer.address",
        "rpc.grpc.status_code is now rpc.status_code",
        "http.server.duration is now http.server.request.duration",
    }


def test_spans_of_other_systems_are_left_to_the_general_rules(good: Telemetry) -> None:
    """One that is not of gRPC has other statuses, one of a queue another version; one of a database has neither."""
    other = {"rpc.system.name": "jsonrpc", "rpc.status_code": "-32602", "rpc.method": "pay"}
    queue = {"messaging.system": "rabbitmq", "network.protocol.name": "amqp", "network.protocol.version": "0.9.1"}
    spans = [
        replace(good.spans[0], kind="SERVER", name="pay", scope=FOREIGN, attributes=other),
        replace(good.spans[0], kind="CLIENT", name="SELECT", scope=FOREIGN, attributes={"db.system.name": "sqlite"}),
        replace(good.spans[0], kind="PRODUCER", name="send", scope=FOREIGN, attributes=queue),
    ]

    assert check(spans) == []


def test_a_violation_says_where_and_why(good: Telemetry) -> None:
    """Rule, item, what would be right, and the section of the specification."""
    (violation,) = good.with_point(HTTP, _field(unit="ms")).violations()

    assert violation.rule == "metric-unit"
    assert violation.where == "metric http.server.request.duration"
    assert violation.scope == "rsketch_telemetry.test"
    assert violation.message == "its unit is 'ms', not 's'"
    assert violation.link.startswith("https://opentelemetry.io/docs/specs/semconv/http/http-metrics/")
    assert "semconv" in str(violation)


def test_a_recording_fails_the_test_that_made_it() -> None:
    """What a test records is checked when its recording is closed, unless the test says why not."""
    recording = Recording()
    recording.tracer_provider.get_tracer("rsketch_telemetry.x").start_span("wrong").end()
    with pytest.raises(AssertionError, match="unknown-item"):
        recording.close()

    exempted = Recording()
    exempted.exempt("it shows that it is left out", "unknown-item")
    exempted.tracer_provider.get_tracer("rsketch_telemetry.x").start_span("wrong").end()
    exempted.close()


def test_any_value_can_be_looked_at(good: Telemetry) -> None:
    """Values of no type that the contract knows, and texts made to take long, are looked at all the same."""
    odd: list[Value] = [None, b"x", [], {}, [1, None], {"a": [b"x"]}, 1.5, True, "?" * 100_000, "\x00" * 10]
    for name in ("url.path", "url.query", "url.full", "http.route", "error.type", "shop.basket", "rpc.system.name"):
        for value in odd:
            good.with_span(USERS, _set(name, value)).violations(complete=False)
            good.with_point(HTTP, _set(name, value)).violations(complete=False)


def test_a_report_counts_and_has_an_end(good: Telemetry) -> None:
    """The same violation is counted; different ones without end are counted together; advice fails only if strict."""
    report = Report(distinct=3)
    (named,) = good.with_span(USERS, _field(name="GET /users/12")).violations(complete=False)
    new = report.add([named, named, *(replace(named, where=f"span {number}") for number in range(10))])

    assert len(new) == 3
    assert report.left_out == 8
    assert report.failed()
    assert "4 x span-name" in report.summary()
    assert "8 x further ones" in report.summary()

    mild = Report()
    mild.add([replace(named, rule="duplicate-name", advice=True)])
    assert (mild.failed(), mild.failed(strict=True)) == (False, True)

    many = Report(distinct=1)
    many.add([replace(named, rule="duplicate-name", where=f"span {number}", advice=True) for number in range(3)])
    assert (many.left_out, many.failed(), many.failed(strict=True)) == (2, False, True)


def _at(*path: str) -> Callable[[dict[str, Any], object], None]:
    def change(contract: dict[str, Any], value: object) -> None:
        at = contract
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value

    return change


# One place of the contract each, and what is put there: what the code emits must then break it.
CONTRACT_MUTATIONS: Mapping[str, tuple[Callable[[dict[str, Any], object], None], object]] = {
    "another schema": (_at("schema_url"), "https://opentelemetry.io/schemas/1.44.0"),
    "a shorter text": (_at("limits", "text"), 3),
    "an int for a string": (_at("attribute", "http.request.method", "type"), "int"),
    "a string for an int": (_at("attribute", "http.response.status_code", "type"), "string"),
    "a string for a list": (_at("attribute", "http.request.header.", "type"), "string"),
    "other methods": (_at("attribute", "http.request.method", "values"), ["PUT"]),
    "other schemes": (_at("attribute", "url.scheme", "values"), ["ftp"]),
    "other statuses": (_at("attribute", "rpc.status_code", "values"), ["FINE"]),
    "another system": (_at("attribute", "rpc.system.name", "values"), ["thrift"]),
    "a smaller range": (_at("attribute", "http.response.status_code", "range"), [100, 199]),
    "another form of a path": (_at("attribute", "url.path", "pattern"), "/only"),
    "one more attribute required": (_at("span", "http.server", "attributes", "client.address"), {"level": "required"}),
    "fewer attributes on a metric": (_at("metric", HTTP, "attributes"), {"http.request.method": {"level": "required"}}),
    "a route that every request has": (_at("span", "http.server", "attributes", "http.route"), {"level": "required"}),
    "another status rule of servers": (_at("span", "rpc.server", "status"), "rpc.client"),
    "another status rule of clients": (_at("span", "rpc.client", "status"), "rpc.server"),
    "another rule of names": (_at("span", "http.server", "name"), "rpc"),
    "milliseconds": (_at("metric", HTTP, "unit"), "ms"),
    "other buckets": (_at("metric", SERVED, "buckets"), [0, 5, 10]),
    "a counter": (_at("metric", CALLED, "instrument"), "counter"),
    "another unit of what is open": (_at("metric", "rsketch.rpc.server.active_calls", "unit"), "1"),
    "an exception without its message": (
        _at("event", "http.server.request.exception", "attributes"),
        {"exception.stacktrace": {"level": "required"}, "exception.cause": {"level": "required"}},
    ),
    "another severity": (_at("event", "rpc.client.call.exception", "severity"), "ERROR"),
}


@pytest.mark.parametrize("name", CONTRACT_MUTATIONS)
def test_a_contract_that_says_something_else_is_broken(good: Telemetry, name: str) -> None:
    """What the code emits keeps to the contract as it is, and to no other."""
    folder = resources.files("rsketch_telemetry.conformance")
    said = tomllib.loads((folder / "contract.toml").read_text("utf-8"))
    published = json.loads((folder / "registry.json").read_text("utf-8"))
    change, value = CONTRACT_MUTATIONS[name]
    assert check(good.spans, good.points, good.logs, contract=parse(said, published)) == []

    change(said, value)
    assert check(good.spans, good.points, good.logs, contract=parse(said, published))
