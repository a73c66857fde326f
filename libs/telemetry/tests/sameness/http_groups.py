"""The calls of HTTP: what is asked, under which settings, and what the handlers do."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from rsketch_telemetry.sdk import Providers

from .acts import ACTS, READING
from .http_calls import TRACEPARENT, get, leaving, raw, traceparent, websocket
from .http_server import ERRORS, by_sanic, by_sanic_in_haste, by_uvicorn
from .play import Case, Group
from .values import KEYS, OURS, VALUES

__all__ = ["FEW", "HTTP", "SOME", "SPANS", "count_ids", "sampling"]

_CLOSE = b"Host: shop.example\r\nConnection: close\r\n\r\n"
_HOST = b"Host: shop.example\r\n\r\n"

ROUTES: Final = (
    get("/users/7"),
    get("/users/7?token=hush&page=2&page=3"),
    get("/users/x"),
    get("/nothing/here"),
    get("HEAD", "/things", method="HEAD"),
    get("POST", "/things", method="POST", body=b"x" * 100),
    get("PUT", "/things", method="PUT", body=b"x"),
    get("DELETE", "/things", method="DELETE"),
    get("PATCH", "/things", method="PATCH"),
    get("OPTIONS", "/things", method="OPTIONS"),
    get("OPTIONS *", "*", method="OPTIONS"),
    get("TRACE", "/things", method="TRACE"),
    get("CONNECT", "shop.example:80", method="CONNECT"),
    get("made-up method", "/things", method="BREW"),
    get("another made-up method", "/things", method="STEEP"),
    get("small method", "/things", method="get"),
    get("method not allowed", "/users/7", method="POST"),
    get("HEAD where there is none", "/users/7", method="HEAD"),
    get("body over the limit", "/things", method="POST", body=b"x" * 20_000),
    get("bad JSON", "/read", method="POST", body=b"{"),
    get("JSON", "/read", method="POST", body=b"[1]"),
    get("/moved"),
    get("/plain"),
    get("excluded", "/health", durations=0),
    *(get(f"/status/{code}") for code in (200, 201, 204, 304, 400, 404, 429, 499, 500, 503, 599)),
    *(get(f"/raise/{name}") for name in ERRORS),
    get("early answer of a middleware", "/users/7", "X-Early: answer"),
    get("early exception of a middleware", "/users/7", "X-Early: fail"),
    get("late answer of a middleware", "/users/7", "X-Late: replace"),
    get("late exception of a middleware", "/users/7", "X-Late: fail"),
    get("unrouted with an early answer", "/nothing", "X-Early: answer"),
    get("again /users/7", "/users/7"),
    get("again /users/8", "/users/8"),
)

STREAMS: Final = (
    get("/stream/plain"),
    get("/stream/fails"),
    get("/stream/teapot"),
    get("/stream/early-eof"),
    get("/stream/marked"),
    get("/write"),
    get("streamed HEAD", "/stream/plain", method="HEAD"),
    leaving("client leaves while it waits", b"GET /slow HTTP/1.1\r\n" + _HOST),
    leaving("client leaves in mid stream", b"GET /stream/for-ever HTTP/1.1\r\n" + _HOST, b"x" * 1000),
    leaving("client leaves in its body", b"POST /things HTTP/1.1\r\nContent-Length: 9\r\nHost: x\r\n\r\nx"),
    websocket("closed by the client", lambda client: client.close()),
    websocket("closed by the server", lambda client: client.send("close")),
    websocket("fails", lambda client: client.send("fail")),
)


async def _vanishes(client: Any) -> None:
    client.transport.abort()


async def _marks(client: Any) -> Any:
    await client.send("mark")
    return await client.recv()


async def _starts_child(client: Any) -> Any:
    await client.send("child")
    return await client.recv()


WEBSOCKETS: Final = (
    websocket("vanishes", _vanishes),
    websocket("marked", _marks),
    websocket("with a child", _starts_child, spans=2),
    websocket("with a caller", _starts_child, spans=2, traceparent=TRACEPARENT),
    websocket("with a caller who is not sampled", _starts_child, traceparent=traceparent("00")),
    get("no upgrade", "/feed/x"),
    get(
        "refused upgrade",
        "/feed/x",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: x",
        "Sec-WebSocket-Version: 1",
    ),
)

_TWO = b"GET /users/1 HTTP/1.1\r\n" + _HOST + b"GET /users/2?a=b HTTP/1.1\r\n" + _CLOSE
CONNECTIONS: Final = (
    raw("pipelined", _TWO, durations=2, spans=2),
    raw(
        "pipelined, of two callers",
        b"GET /do/child HTTP/1.1\r\ntraceparent: %b\r\nHost: x\r\n\r\nGET /users/1 HTTP/1.1\r\n%b"
        % (TRACEPARENT.encode(), _CLOSE),
        durations=2,
        spans=3,
    ),
    raw("pipelined, the second fails", b"GET /users/1 HTTP/1.1\r\n" + _HOST + b"hush\r\n\r\n", durations=2, spans=2),
    raw("HTTP/1.0", b"GET /users/1 HTTP/1.0\r\nHost: x\r\n\r\n"),
    leaving(
        "HTTP/1.0 that is kept", b"GET /users/1 HTTP/1.0\r\nConnection: keep-alive\r\nHost: x\r\n\r\n", b"\r\n\r\n1"
    ),
    get("Expect", "/things", "Expect: 100-continue", method="POST", body=b"x"),
    get("odd Expect", "/things", "Expect: hush", method="POST", body=b"x"),
    raw(
        "chunked",
        b"POST /things HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: x\r\nConnection: close\r\n\r\n"
        b"3\r\nabc\r\n0\r\n\r\n",
    ),
    raw(
        "bad chunk",
        b"POST /things HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: x\r\nConnection: close\r\n\r\nzz\r\nabc",
    ),
    raw("not HTTP", b"login hush\r\n\r\n"),
    raw("one word", b"hush\r\n\r\n"),
    raw("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03hush\r\n\r\n"),
    raw("empty line", b"\r\n\r\n"),
    raw("no version", b"GET /a?token=hush\r\n\r\n"),
    raw("odd version", b"GET /a?token=hush HTTP/9.9\r\nHost: x\r\n\r\n"),
    raw("odd method and version", b"FOO /a HTTP/9.9\r\nHost: x\r\n\r\n"),
    raw("blank in the target", b"GET /a b?token=hush HTTP/1.1\r\nHost: x\r\n\r\n"),
    raw("no colon", b"GET /a?b=hush HTTP/1.1\r\nHost: x\r\nhush\r\n\r\n"),
    raw("two lengths", b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
    raw("odd length", b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: hush\r\n\r\n"),
    raw("not ASCII", b"GET /\xff?token=hush HTTP/1.1\r\nHost: x\r\n\r\n"),
    raw("long headers", b"GET /a HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n"),
    raw("long target", b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n"),
    raw("bad head of a caller", b"GET /a HTTP/9.9\r\ntraceparent: %b\r\nHost: x\r\n\r\n" % TRACEPARENT.encode()),
)

TARGETS: Final = (
    get("http://other.example/users/7?a=b"),
    get("http://me:hush@other.example:99/users/7"),
    get("https://other.example/users/7"),
    get("//users/7"),
    get("/users/7/"),
    get("/users//7"),
    get("/./users/../users/7"),
    get("/users/%37"),
    get("/%00"),
    get("/%ff%fe"),
    get("/%zz"),
    get("/%F0%9F%98%80"),
    get("/users/7#fragment"),
    get("/users/7;a=b"),
    get("/users/7?"),
    get("/users/7??"),
    get("/users/7?a"),
    get("/users/7?a=&b=1&&"),
    get("/users/7?a=%ff&b=%zz"),
    get("/users/7?sig=hush&X-Amz-Signature=hush"),
    get("long query", "/users/7?" + "a=b&" * 400),
    get("long path", "/" + "x" * 2000),
    get("no host", "/users/7", host=""),
    get("empty host", "/users/7", host="Host:"),
    get("host with port", "/users/7", host="Host: shop.example:8080"),
    get("host with odd port", "/users/7", host="Host: shop.example:x"),
    get("host with huge port", "/users/7", host="Host: shop.example:99999999"),
    get("IPv6 host", "/users/7", host="Host: [::1]"),
    get("IPv6 host with port", "/users/7", host="Host: [2001:db8::1]:8080"),
    get("half an IPv6 host", "/users/7", host="Host: [::1"),
    get("host not ASCII", "/users/7", host="Host: sh\xf6p"),
    get("two hosts", "/users/7", "Host: other.example"),
    get("user agent", "/users/7", "User-Agent: tests/1.0"),
    get("empty user agent", "/users/7", "User-Agent:"),
    get("user agent not ASCII", "/users/7", "User-Agent: t\xe9st"),
    get("long user agent", "/users/7", "User-Agent: " + "x" * 3000),
    get("two user agents", "/users/7", "User-Agent: a", "User-Agent: b"),
    get("forwarded in vain", "/users/7", "X-Forwarded-For: 10.0.0.7", "X-Forwarded-Proto: https"),
)

_SAMPLED_STATE = ("traceparent: " + TRACEPARENT, "tracestate: a=1,b=2")
PARENTS: Final = (
    get("none", "/do/span-context"),
    get("sampled", "/do/span-context", f"traceparent: {TRACEPARENT}"),
    get("not sampled", "/do/span-context", f"traceparent: {traceparent('00')}"),
    get("random and sampled", "/do/span-context", f"traceparent: {traceparent('03')}"),
    get("random and not sampled", "/do/span-context", f"traceparent: {traceparent('02')}"),
    get("all flags", "/do/span-context", f"traceparent: {traceparent('ff')}"),
    get("unknown flags", "/do/span-context", f"traceparent: {traceparent('f8')}"),
    get("with state", "/do/span-context", *_SAMPLED_STATE),
    get("with state, not sampled", "/do/span-context", f"traceparent: {traceparent('00')}", "tracestate: a=1"),
    get("with empty state", "/do/span-context", f"traceparent: {TRACEPARENT}", "tracestate:"),
    get("with bad state", "/do/span-context", f"traceparent: {TRACEPARENT}", "tracestate: =,,="),
    get("with long state", "/do/span-context", f"traceparent: {TRACEPARENT}", "tracestate: a=" + "x" * 256),
    get(
        "with much state",
        "/do/span-context",
        f"traceparent: {TRACEPARENT}",
        "tracestate: " + ",".join(f"k{each}=1" for each in range(40)),
    ),
    get("with two states", "/do/span-context", f"traceparent: {TRACEPARENT}", "tracestate: a=1", "tracestate: b=2"),
    get("state alone", "/do/span-context", "tracestate: a=1"),
    get("later version", "/do/span-context", "traceparent: 01" + TRACEPARENT[2:]),
    get("later version with more", "/do/span-context", "traceparent: 01" + TRACEPARENT[2:] + "-more"),
    get("version with more", "/do/span-context", f"traceparent: {TRACEPARENT}-more"),
    get("version ff", "/do/span-context", "traceparent: ff" + TRACEPARENT[2:]),
    get("capitals", "/do/span-context", f"traceparent: {TRACEPARENT.upper()}"),
    get("short", "/do/span-context", "traceparent: " + TRACEPARENT[:-1]),
    get("no trace", "/do/span-context", f"traceparent: 00-{'0' * 32}-b7ad6b7169203331-01"),
    get("no span", "/do/span-context", f"traceparent: 00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01"),
    get("not hexadecimal", "/do/span-context", "traceparent: " + TRACEPARENT.replace("a", "x")),
    get("empty", "/do/span-context", "traceparent:"),
    get("blank around", "/do/span-context", f"traceparent:   {TRACEPARENT}  "),
    get("blank within", "/do/span-context", "traceparent: " + TRACEPARENT.replace("-", " ")),
    get("twice", "/do/span-context", f"traceparent: {TRACEPARENT}", f"traceparent: {TRACEPARENT}"),
    get("two", "/do/span-context", f"traceparent: {TRACEPARENT}", f"traceparent: {traceparent('00')}"),
    get("not ASCII", "/do/span-context", f"traceparent: {TRACEPARENT}\xe9"),
    get("baggage with properties", "/do/baggage", "baggage: tenant=acme,plan=gold;p=1"),
    get("baggage of a caller", "/do/baggage", f"traceparent: {TRACEPARENT}", "baggage: tenant=acme"),
    get("baggage twice", "/do/baggage", "baggage: tenant=acme", "baggage: plan=gold"),
    get("bad baggage", "/do/baggage", "baggage: ,=,tenant"),
    get("baggage, injected", "/do/injected", *_SAMPLED_STATE, "baggage: tenant=acme"),
    get("injected alone", "/do/injected"),
    get("injected of a caller", "/do/injected", *_SAMPLED_STATE),
    get("injected, not sampled", "/do/injected", f"traceparent: {traceparent('00')}"),
    get("injected, random", "/do/injected", f"traceparent: {traceparent('03')}"),
    get("B3 in vain", "/do/span-context", "X-B3-TraceId: 1", "X-B3-SpanId: 1"),
    get("child of a caller", "/do/child", *_SAMPLED_STATE, spans=2),
    get("all of a caller", "/do/everything", *_SAMPLED_STATE, spans=2),
    get("all, not sampled", "/do/everything", f"traceparent: {traceparent('00')}"),
    get("fails of a caller", "/raise/ValueError", *_SAMPLED_STATE),
    get("fails, not sampled", "/raise/ValueError", f"traceparent: {traceparent('00')}"),
    get("unrouted of a caller", "/nothing", *_SAMPLED_STATE),
)

_B3_TRACE, _B3_SPAN = f"X-B3-TraceId: {TRACEPARENT[3:35]}", f"X-B3-SpanId: {TRACEPARENT[36:52]}"
B3: Final = (
    get("none", "/do/injected"),
    get("sampled", "/do/injected", _B3_TRACE, _B3_SPAN, "X-B3-Sampled: 1"),
    get("not sampled", "/do/injected", _B3_TRACE, _B3_SPAN, "X-B3-Sampled: 0"),
    get("debug", "/do/injected", _B3_TRACE, _B3_SPAN, "X-B3-Flags: 1"),
    get("nothing said", "/do/injected", _B3_TRACE, _B3_SPAN),
    get("half a trace id", "/do/injected", f"X-B3-TraceId: {TRACEPARENT[19:35]}", _B3_SPAN, "X-B3-Sampled: 1"),
    get("bad", "/do/injected", "X-B3-TraceId: x", _B3_SPAN),
    get("traceparent", "/do/injected", f"traceparent: {TRACEPARENT}"),
    get("both", "/do/injected", f"traceparent: {traceparent(trace='0' * 15 + '1')}", _B3_TRACE, _B3_SPAN),
    get("single", "/do/injected", f"b3: {TRACEPARENT[3:35]}-{TRACEPARENT[36:52]}-1"),
    get("single, denied", "/do/injected", "b3: 0"),
)

_TRACES: Final = ("0" * 16, "00ffffffffffffff", "7fffffffffffffff", "8000000000000000", "8448eb211c80319c", "f" * 16)
"""Second halves of trace ids, by which a ratio decides."""

SAMPLING: Final = (
    get("root", "/do/span-context"),
    get("root, nothing read", "/users/7"),
    get("root that fails", "/raise/ValueError"),
    get("root with all", "/do/everything"),
    get("root with a child", "/do/child-current"),
    get("root that is annotated", "/do/annotate"),
    *(get(f"sampled {each}", "/do/injected", f"traceparent: {traceparent('01', each)}") for each in _TRACES),
    *(get(f"not sampled {each}", "/do/injected", f"traceparent: {traceparent('00', each)}") for each in _TRACES),
    get("sampled with all", "/do/everything", *_SAMPLED_STATE),
    get("not sampled with all", "/do/everything", f"traceparent: {traceparent('00')}", "tracestate: a=1"),
    get("random, not sampled", "/do/span-context", f"traceparent: {traceparent('02')}"),
    get("ruled route", "/status/200"),
    get("ruled route that fails", "/status/500"),
    get("ruled route of a caller", "/status/200", f"traceparent: {traceparent('01', 'f' * 16)}"),
    get("ruled by method", "/things", method="POST"),
    get("unrouted", "/nothing"),
)

FEW: Final = (
    "attributes",
    "attributes-20",
    "attributes-128",
    "event",
    "link",
    "name",
    "status-error",
    "everything",
    "annotate",
)
SOME: Final = (
    "nothing",
    *FEW,
    "attributes-200",
    "annotate-70",
    "events-200",
    "links-200",
    "event-200-attributes",
    "read-attributes",
    "span-context",
    "injected",
    "child",
    "end",
    "logs",
    "baggage",
    "baggage-to-child",
    "exception",
)


def _acting(names: Iterable[str], *headers: str, folder: str = "do", sampled: bool = True) -> tuple[Case, ...]:
    spans = SPANS if sampled else {}
    return tuple(get(name, f"/{folder}/{name}", *headers, spans=spans.get(name, 0)) for name in names)


SPANS: Final = {"child-outlives": 2, "child-started-later": 2}
"""How many spans there are of acts that end later than their call."""

CAPTURED: Final = (
    get("request headers", "/plain", "X-Shop: 1", "X-Shop: 2", "Authorization: Bearer hush", "X-Other: 1"),
    get("none of them", "/plain"),
    get("odd bytes", "/plain", "X-Shop: \xe9\xff"),
    get("empty", "/plain", "X-Shop:"),
    get("long", "/plain", "X-Shop: " + "x" * 3000),
    get("masked", "/plain", "X-Masked: hush"),
    get("with an attribute", "/do/attributes", "X-Shop: 1"),
    get("with all", "/do/everything", "X-Shop: 1"),
    get("streamed", "/stream/plain", "X-Shop: 1"),
    get("fails", "/raise/ValueError", "X-Shop: 1"),
    get("bad head", "/plain", "X-Shop: 1", "hush"),
    get("our own overridden", "/ours/http.response.header.x-shop", "X-Shop: 1"),
    get("page of query", "/users/7?page=2&token=hush&sort=a"),
    get("method that is known here", "/things", method="BREW"),
    get("method that is not any more", "/things", method="PATCH"),
)

FORWARDED: Final = (
    get("for", "/users/7", "X-Forwarded-For: 10.0.0.7"),
    get("for two", "/users/7", "X-Forwarded-For: 10.0.0.7, 10.0.0.8"),
    get(
        "everything", "/users/7", "X-Forwarded-For: 10.0.0.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: o.example"
    ),
    get("port", "/users/7", "X-Forwarded-For: 10.0.0.7", "X-Forwarded-Port: 8443", "X-Forwarded-Host: o.example:1"),
    get("IPv6", "/users/7", 'X-Forwarded-For: "[2001:db8::7]"'),
    get("bad", "/users/7", "X-Forwarded-For: ,"),
    get("real", "/users/7", "X-Real-IP: 10.0.0.7"),
    get("nobody", "/users/7"),
    get("response timeout", "/slow"),
    raw("request timeout in a header", b"GET /a?token=hush HTTP/1.1\r\nHost: shop"),
    raw("request timeout in the target", b"GET /pay?token=hu"),
    raw("request timeout in the method", b"GE"),
    raw("kept alive for a while", b"GET /users/1 HTTP/1.1\r\n" + _HOST),
    raw("nothing sent", b"", durations=0),
)

ASGI: Final = (
    get("/users/7"),
    get("/users/7?token=hush"),
    get("/nothing"),
    get("POST", "/things", method="POST", body=b"x"),
    get("HEAD", "/things", method="HEAD"),
    get("made-up method", "/things", method="BREW", durations=0),
    get("method not allowed", "/users/7", method="POST"),
    get("/status/500"),
    get("/raise/ValueError"),
    get("/raise/teapot"),
    get("/raise/server-error"),
    get("/stream/plain"),
    get("/stream/fails"),
    get("/stream/marked"),
    get("early answer", "/users/7", "X-Early: answer"),
    get("IPv6 host", "/users/7", host="Host: [::1]:80"),
    get("odd bytes", "/%ff%fe"),
    get("caller", "/do/injected", *_SAMPLED_STATE),
    get("caller, not sampled", "/do/everything", f"traceparent: {traceparent('00')}"),
    leaving("client leaves", b"GET /stream/for-ever HTTP/1.1\r\n" + _HOST, b"x" * 1000),
    websocket("websocket", lambda client: client.close()),
    websocket("websocket that fails", lambda client: client.send("fail")),
    websocket("websocket that is marked", _marks),
    *_acting(FEW),
)


class _Counting(RandomIdGenerator):
    """Makes the same ids in each process, so that what decides by them decides the same."""

    def __init__(self) -> None:
        self._made = 0

    def generate_span_id(self) -> int:
        """Return the next."""
        self._made += 1
        return self._made * 0x9E3779B97F4A7C15 % 2**64

    def generate_trace_id(self) -> int:
        """Return the next."""
        return self.generate_span_id() << 64 | self.generate_span_id()


def count_ids(made: Providers) -> None:
    """Give every span the next id."""
    made.tracers.id_generator = _Counting()


_BASE = Group(name="http", cases=(), serve=by_sanic)


def sampling(sampler: str, argument: str, rules: str) -> dict[str, str]:
    """Return the settings of a sampler."""
    environ = {
        "OTEL_TRACES_SAMPLER": sampler,
        "OTEL_TRACES_SAMPLER_ARG": argument,
        "RSKETCH_TELEMETRY_SAMPLING_RULES": rules,
    }
    return {key: value for key, value in environ.items() if value}


def _sampled_by(sampler: str, argument: str = "", rules: str = "") -> Group:
    return replace(
        _BASE,
        name=f"sampled by {sampler} {argument}{rules and ' and rules'}".rstrip(),
        cases=SAMPLING,
        environ=sampling(sampler, argument, rules),
        prepare=count_ids,
    )


def _set(name: str, cases: tuple[Case, ...], **environ: str) -> Group:
    return replace(_BASE, name=name, cases=cases, environ=environ)


_NOT_READING = tuple(name for name in ACTS if name not in READING)
_RULES = "http:/status/*=0,http:POST /things=0,http:GET /users/<number>=1"

_GROUPS: Final = (
    _set("routes", ROUTES),
    _set("streams", STREAMS),
    _set("websockets", WEBSOCKETS),
    _set("connections", CONNECTIONS),
    _set("targets", TARGETS),
    _set("parents", PARENTS),
    replace(_set("b3 multi", B3), propagator=B3MultiFormat),
    replace(_set("b3 single", B3), propagator=B3SingleFormat),
    replace(
        _set("b3 and trace context", B3),
        propagator=lambda: CompositePropagator([TraceContextTextMapPropagator(), B3MultiFormat()]),
    ),
    replace(_set("trace context alone", PARENTS[:10]), propagator=TraceContextTextMapPropagator),
    replace(_set("no propagator", PARENTS[:10]), propagator=lambda: CompositePropagator([])),
    _set("acts", _acting(ACTS)),
    _set("acts that fail", _acting(SOME, folder="fail")),
    _set(
        "acts of a caller who is not sampled", _acting(_NOT_READING, f"traceparent: {traceparent('00')}", sampled=False)
    ),
    _set("values", tuple(get(name, f"/value/{name}") for name in VALUES)),
    _set("keys", tuple(get(name, f"/key/{name}") for name in KEYS)),
    _set("ours overridden", tuple(get(name, f"/ours/{name}?a=b", "User-Agent: x") for name in OURS)),
    _sampled_by("always_on"),
    _sampled_by("always_off"),
    _sampled_by("traceidratio", "0.5"),
    _sampled_by("parentbased_always_on"),
    _sampled_by("parentbased_always_off"),
    _sampled_by("parentbased_traceidratio", "0.5"),
    _sampled_by("parentbased_always_on", rules=_RULES),
    _sampled_by("traceidratio", "0.5", rules=_RULES),
    _sampled_by("always_off", rules=_RULES),
    _set(
        "captured",
        CAPTURED,
        OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST="x-shop,authorization,x-masked",
        OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE="x-shop,set-cookie,content-type",
        OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS="x-mask.*",
        OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS="GET,POST,BREW",
        RSKETCH_TELEMETRY_QUERY_KEYS="page,sort",
    ),
    replace(_set("forwarded and late", FORWARDED), serve=by_sanic_in_haste),
    replace(_set("asgi", ASGI), serve=by_uvicorn),
    _set("response headers", PARENTS[:10], RSKETCH_TELEMETRY_RESPONSE_HEADERS="traceresponse,server-timing"),
    _set(
        "active requests",
        (*ROUTES[:20], *STREAMS, *CONNECTIONS[:6]),
        RSKETCH_TELEMETRY_OPT_IN_METRICS="http.server.active_requests",
    ),
    _set("64 attributes", _acting(SOME), OTEL_ATTRIBUTE_COUNT_LIMIT="64"),
    _set("attributes of events are short", _acting(SOME), OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT="2"),
    _set("few events and links", _acting(SOME), OTEL_SPAN_EVENT_COUNT_LIMIT="1", OTEL_SPAN_LINK_COUNT_LIMIT="1"),
    _set(
        "baggage",
        _acting(SOME, "baggage: tenant=acme,plan=gold") + PARENTS[-16:-1],
        RSKETCH_TELEMETRY_BAGGAGE_KEYS="tenant,plan",
    ),
    _set("delta", (*ROUTES[:12], *STREAMS[:4]), OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta"),
    _set("low memory", ROUTES[:6], OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="lowmemory"),
    _set("exemplars always", SAMPLING, OTEL_METRICS_EXEMPLAR_FILTER="always_on"),
    _set("exemplars never", SAMPLING[:8], OTEL_METRICS_EXEMPLAR_FILTER="always_off"),
    _set("exceptions twice", ROUTES, OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN="logs/dup"),
    _set("exceptions twice, of acts", _acting(SOME, folder="fail"), OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN="logs/dup"),
    _set(
        "excluded",
        (get("/private/200", durations=0), get("/health"), get("/private/500", durations=0), get("/users/7")),
        OTEL_PYTHON_EXCLUDED_URLS="private",
    ),
    _set(
        "no metrics",
        (get("/users/7", durations=0, spans=1), get("/do/everything", durations=0, spans=2)),
        OTEL_METRICS_EXPORTER="none",
    ),
    _set("no spans", (get("/users/7"), get("/do/everything"), get("/raise/ValueError")), OTEL_TRACES_EXPORTER="none"),
    _set("no logs", (get("/users/7"), get("/do/everything"), get("/raise/ValueError")), OTEL_LOGS_EXPORTER="none"),
)

# Every other group over the other protocol.
HTTP: Final = tuple(
    replace(group, protocol="http/protobuf" if index % 2 else "grpc") for index, group in enumerate(_GROUPS)
)
