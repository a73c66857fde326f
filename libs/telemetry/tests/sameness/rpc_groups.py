"""The calls of gRPC: how they are made, under which settings, and what the handlers do."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import grpc
import grpc.aio
from opentelemetry.instrumentation.utils import suppress_instrumentation
from till import SERVICE, Channel

from .acts import ACTS, READING
from .http_calls import TRACEPARENT, traceparent
from .http_groups import FEW, SOME, SPANS, count_ids, sampling
from .play import Case, Group, Place
from .rpc_server import intercepted, served
from .values import KEYS, VALUES

__all__ = ["RPC"]

Metadata = Sequence[tuple[str, str | bytes]]
Talk = Callable[[Channel], Awaitable[Any]]


async def _said(call: Any) -> Sequence[str]:
    """Return how a call ends, as its caller sees it."""
    answers: list[bytes] = []
    try:
        if hasattr(call, "__aiter__"):
            answers += [answer async for answer in call]
        else:
            answers.append(await call)
    except grpc.aio.AioRpcError as error:
        return [*map(repr, answers), str(error.code()), str(error.details()), *_pairs(error)]
    except asyncio.CancelledError:
        return [*map(repr, answers), "cancelled"]
    # An interceptor's own answer has none.
    return [*map(repr, answers), repr(tuple(await call.trailing_metadata() or ()))]


def _pairs(error: grpc.aio.AioRpcError) -> list[str]:
    return [repr(tuple(each or ())) for each in (error.initial_metadata(), error.trailing_metadata())]


_SHAPES: Final = {
    "Pay": "unary_unary",
    "Count": "unary_stream",
    "Write": "unary_stream",
    "Collect": "stream_unary",
    "Talk": "stream_stream",
    "PayByThread": "unary_unary",
    "CountByThread": "unary_stream",
}


def rpc(
    name: str,
    asked: str = "",
    method: str = "Pay",
    *,
    metadata: Metadata = (),
    caller: bool = False,
    bare: bool = False,
    durations: int = 2,
    spans: int = 0,
    service: str = SERVICE,
    **how: Any,
) -> Case:
    """
    Return one call.

    Args:
        asked: The request; *name* where none is given.
        caller: Whether it is made within a span of the program's.
        bare: Whether the client is not instrumented, so that *metadata* alone say who calls.
    """
    request = (asked or name).encode()
    shape = _SHAPES.get(method, "unary_unary")

    async def requests() -> AsyncIterator[bytes]:
        yield b"first"
        yield request

    async def talk(channel: Channel) -> Sequence[str]:
        make = getattr(channel, shape)(f"/{service}/{method}")
        given = requests() if shape.startswith("stream") else request
        return await _said(make(given, metadata=metadata or None, **how))

    return talking(
        name, talk, caller=caller, bare=bare, durations=1 if bare and durations == 2 else durations, spans=spans
    )


def talking(
    name: str,
    talk: Talk,
    *,
    caller: bool = False,
    bare: bool = False,
    durations: int = 2,
    spans: int = 0,
    options: Any = None,
    interceptors: Any = None,
    port: int | None = None,
) -> Case:
    """Return whatever *talk* does with a channel of its own."""

    async def call(place: Place) -> Sequence[str]:
        with contextlib.ExitStack() as within:
            if bare:
                within.enter_context(suppress_instrumentation())
            if caller:
                within.enter_context(place.made.tracers.get_tracer("buyer").start_as_current_span("buys"))
            target = f"127.0.0.1:{place.port if port is None else port}"
            async with grpc.aio.insecure_channel(target, options=options, interceptors=interceptors) as channel:
                return list(map(str, await talk(channel) or ()))

    return Case(name=name, call=call, durations=durations, spans=spans)


async def _cancelled(channel: Channel) -> Sequence[str]:
    call = channel.unary_unary(f"/{SERVICE}/Pay")(b"sleep")
    await asyncio.sleep(0.05)
    call.cancel()
    return await _said(call)


async def _cancelled_at_once(channel: Channel) -> Sequence[str]:
    call = channel.unary_unary(f"/{SERVICE}/Pay")(b"sleep")
    call.cancel()
    return await _said(call)


async def _cancelled_in_mid_stream(channel: Channel) -> Sequence[str]:
    call = channel.unary_stream(f"/{SERVICE}/Count")(b"sleep")
    first = await call.read()
    call.cancel()
    return [repr(first)]


async def _task_cancelled(channel: Channel) -> Sequence[str]:
    async def work() -> None:
        await channel.unary_unary(f"/{SERVICE}/Pay")(b"sleep")

    task = asyncio.create_task(work())
    await asyncio.sleep(0.05)
    task.cancel()
    return [repr(each) for each in await asyncio.gather(task, return_exceptions=True)]


async def _read_and_written(channel: Channel) -> Sequence[str]:
    call = channel.stream_stream(f"/{SERVICE}/Talk")()
    said = []
    for each in (b"one", b"act event", b"two"):
        await call.write(each)
        said.append(repr(await call.read()))
    await call.done_writing()
    return [*said, repr(await call.read()), str(await call.code())]


async def _read_not_to_the_end(channel: Channel) -> Sequence[str]:
    call = channel.unary_stream(f"/{SERVICE}/Count")(b"sleep")
    return [repr(await call.read())]


async def _channel_closed(channel: Channel) -> Sequence[str]:
    call = channel.unary_unary(f"/{SERVICE}/Pay")(b"sleep")
    await asyncio.sleep(0.05)
    await channel.close()
    return await _said(call)


async def _eight_at_once(channel: Channel) -> Sequence[str]:
    make = channel.unary_unary(f"/{SERVICE}/Pay")
    return [repr(each) for each in await asyncio.gather(*(make(b"x") for _ in range(8)))]


async def _plain(channel: Channel) -> Sequence[str]:
    return await _said(channel.unary_unary(f"/{SERVICE}/Pay")(b"x"))


async def _with_bad_request(channel: Channel) -> Sequence[str]:
    call = channel.unary_unary(f"/{SERVICE}/Pay", request_serializer=lambda _: 1 / 0)
    try:
        return await _said(call(b"x"))
    except Exception as error:
        return [repr(error)]


async def _with_bad_answer(channel: Channel) -> Sequence[str]:
    call = channel.unary_unary(f"/{SERVICE}/Pay", response_deserializer=lambda _: 1 / 0)
    try:
        return await _said(call(b"x"))
    except Exception as error:
        return [repr(error)]


class _Passing(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details, request)


class _Answering(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return b"by the interceptor"


class _Failing(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        raise ValueError("interceptor")


async def _failing(channel: Channel) -> Sequence[str]:
    try:
        return await _plain(channel)
    except ValueError as error:
        return [repr(error)]


_CODES: Final = tuple(each.name for each in grpc.StatusCode if each is not grpc.StatusCode.OK)

SHAPES: Final = (
    *(rpc(f"{method} answers", "x", method) for method in _SHAPES),
    *(rpc(f"{method} fails", "raise ValueError", method) for method in _SHAPES),
    *(rpc(f"{method} aborts", "abort NOT_FOUND", method) for method in _SHAPES if method != "CountByThread"),
    *(rpc(f"{method} within a span", "x", method, caller=True, spans=3) for method in _SHAPES),
    *(
        rpc(f"{method} runs out of time", "sleep", method, timeout=0.1)
        for method in ("Pay", "Count", "Collect", "Talk")
    ),
    *(rpc(f"abort {code}") for code in _CODES),
    *(rpc(f"code {code}") for code in ("OK", "NOT_FOUND", "INTERNAL", "UNKNOWN")),
    *(rpc(f"code-and-raise {code}") for code in ("NOT_FOUND", "INTERNAL", "OK")),
    *(rpc(f"raise {error}") for error in ("timeout", "usage", "group")),
    rpc("details"),
    rpc("metadata"),
    rpc("event by a thread", "event", "PayByThread"),
    rpc("attribute by a thread", "set", "PayByThread"),
    rpc("unknown method", "x", "Steal"),
    rpc("another unknown method", "x", "Lend"),
    rpc("unknown service", "x", service="shop.v1.Nothing"),
    rpc("excluded", "x", service="grpc.health.v1.Health", durations=0),
    rpc("bare client", "x", bare=True),
    rpc("waits until ready", "x", wait_for_ready=True),
    rpc("with metadata", "x", metadata=(("till", "7"), ("raw-bin", b"\0"))),
    talking("cancelled", _cancelled),
    talking("cancelled at once", _cancelled_at_once, durations=1),
    talking("cancelled in mid stream", _cancelled_in_mid_stream),
    talking("its task cancelled", _task_cancelled),
    talking("read and written", _read_and_written),
    talking("read not to the end", _read_not_to_the_end),
    talking("channel closed", _channel_closed),
    talking("eight at once", _eight_at_once, durations=16, spans=16),
    talking("nobody listens", _plain, durations=1, port=1),
    talking("bad request", _with_bad_request, durations=1),
    talking("bad answer", _with_bad_answer),
    talking("interceptor", _plain, interceptors=[_Passing()]),
    talking("interceptor that answers", _plain, interceptors=[_Answering()], durations=1),
    talking("interceptor that fails", _failing, interceptors=[_Failing()], durations=1),
    rpc("again", "x"),
)

INTERCEPTED: Final = (
    rpc("passes", "x"),
    rpc("passes, and fails", "raise ValueError"),
    rpc("passes a stream", "x", "Talk"),
    rpc("refused", "x", metadata=(("refuse", "yes"),)),
    rpc("fails", "x", metadata=(("refuse", "fail"),)),
    rpc("acts", "act everything", spans=3),
    rpc("unknown method", "x", "Steal"),
)

_SAMPLED: Final = (("traceparent", TRACEPARENT), ("tracestate", "a=1,b=2"))
_UNSAMPLED: Final = (("traceparent", traceparent("00")), ("tracestate", "a=1"))
CALLERS: Final = (
    rpc("none", "act span-context", bare=True),
    rpc("sampled", "act span-context", bare=True, metadata=_SAMPLED),
    rpc("not sampled", "act span-context", bare=True, metadata=_UNSAMPLED),
    rpc("random", "act injected", bare=True, metadata=(("traceparent", traceparent("03")),)),
    rpc("bad", "act injected", bare=True, metadata=(("traceparent", TRACEPARENT[:-1]),)),
    rpc("later version", "act injected", bare=True, metadata=(("traceparent", "01" + TRACEPARENT[2:]),)),
    rpc("twice", "act injected", bare=True, metadata=(_SAMPLED[0], _SAMPLED[0])),
    rpc("two", "act injected", bare=True, metadata=(_SAMPLED[0], ("traceparent", traceparent("00")))),
    rpc("baggage", "act baggage", bare=True, metadata=(("baggage", "tenant=acme"),)),
    rpc("all of them", "act injected", bare=True, metadata=(*_SAMPLED, ("baggage", "tenant=acme"))),
    rpc("not sampled, all of it", "act everything", bare=True, metadata=_UNSAMPLED),
    rpc("not sampled, fails", "raise ValueError", bare=True, metadata=_UNSAMPLED),
    rpc("not sampled, aborts", "abort INTERNAL", bare=True, metadata=_UNSAMPLED),
    rpc("local span", "act injected", caller=True, spans=3),
    rpc("local span, with its own context", "act injected", caller=True, spans=3, metadata=_SAMPLED),
    rpc("own context", "act injected", metadata=_SAMPLED),
    rpc("own context, not sampled", "act injected", metadata=_UNSAMPLED),
)

SAMPLING: Final = (
    rpc("root", "x"),
    rpc("root that fails", "raise ValueError"),
    rpc("root that aborts", "abort NOT_FOUND"),
    rpc("root with all", "act everything"),
    rpc("within a span", "act injected", caller=True),
    rpc("stream", "x", "Talk"),
    rpc("another method", "act child-current", "Count"),
    rpc("unknown", "x", "Steal"),
    rpc("deadline", "sleep", timeout=0.1),
    *CALLERS[:4],
    *CALLERS[10:13],
)

CAPTURED: Final = (
    rpc("metadata", metadata=(("till", "7"), ("till", "8"), ("authorization", "Bearer hush"), ("raw-bin", b"\0"))),
    rpc("fails", "abort NOT_FOUND", metadata=(("till", "7"),)),
    rpc("stream", "metadata", "Count", metadata=(("till", "7"),)),
    rpc("none", "x"),
    rpc("acts", "act everything", metadata=(("till", "7"),)),
    rpc("event", "act event", metadata=(("till", "7"),)),
    rpc("attributes", "act attributes-20", metadata=(("till", "7"),)),
    rpc("thread", "x", "PayByThread", metadata=(("till", "7"),)),
    rpc("unknown", "x", "Steal", metadata=(("till", "7"),)),
)


def _acting(
    names: Iterable[str], asked: str = "act", *, sampled: bool = True, metadata: Metadata = ()
) -> tuple[Case, ...]:
    spans = SPANS if sampled else {}
    return tuple(rpc(name, f"{asked} {name}", bare=True, metadata=metadata, spans=spans.get(name, 0)) for name in names)


_OURS: Final = (
    "rpc.system.name",
    "rpc.method",
    "rpc.response.status_code",
    "error.type",
    "network.peer.address",
    "server.address",
)
_BASE: Final = Group(name="rpc", cases=(), serve=served)
_RULES: Final = f"grpc:{SERVICE}/Pay=0,grpc:{SERVICE}/Count=1"


def _set(name: str, cases: tuple[Case, ...], **environ: str) -> Group:
    return replace(_BASE, name=f"rpc {name}", cases=cases, environ=environ)


def _sampled_by(sampler: str, argument: str = "", rules: str = "") -> Group:
    environ = sampling(sampler, argument, rules)
    name = f"sampled by {sampler} {argument}{rules and ' and rules'}".rstrip()
    return replace(_set(name, SAMPLING, **environ), prepare=count_ids)


_GROUPS: Final = (
    _set("shapes", SHAPES),
    replace(_set("intercepted", INTERCEPTED), serve=intercepted),
    _set("callers", CALLERS),
    _set("acts", _acting(ACTS)),
    _set("acts that fail", _acting(SOME, "act-and-raise")),
    _set(
        "acts of a caller who is not sampled",
        _acting((name for name in ACTS if name not in READING), sampled=False, metadata=_UNSAMPLED),
    ),
    _set("values", tuple(rpc(name, f"value {name}", bare=True) for name in VALUES)),
    _set("keys", tuple(rpc(name, f"key {name}", bare=True) for name in KEYS)),
    _set("ours overridden", tuple(rpc(name, f"ours {name}") for name in _OURS)),
    _sampled_by("always_on"),
    _sampled_by("always_off"),
    _sampled_by("traceidratio", "0.5"),
    _sampled_by("parentbased_traceidratio", "0.5"),
    _sampled_by("parentbased_always_off"),
    _sampled_by("parentbased_always_on", rules=_RULES),
    _sampled_by("always_off", rules=_RULES),
    _set(
        "captured",
        CAPTURED,
        RSKETCH_TELEMETRY_RPC_REQUEST_METADATA="till,authorization,raw-bin",
        RSKETCH_TELEMETRY_RPC_RESPONSE_METADATA="shelf,set-cookie",
        RSKETCH_TELEMETRY_RPC_RESPONSE_TRAILERS="left,api-key",
    ),
    _set("64 attributes", _acting(SOME), OTEL_ATTRIBUTE_COUNT_LIMIT="64"),
    _set(
        "baggage",
        _acting(FEW, metadata=(("baggage", "tenant=acme,plan=gold"),)) + CALLERS,
        RSKETCH_TELEMETRY_BAGGAGE_KEYS="tenant,plan",
    ),
    _set("delta", SHAPES[:10], OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta"),
    _set("exemplars always", SAMPLING, OTEL_METRICS_EXEMPLAR_FILTER="always_on"),
    _set("exemplars never", SAMPLING[:4], OTEL_METRICS_EXEMPLAR_FILTER="always_off"),
    _set("exceptions twice", SHAPES[:32], OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN="logs/dup"),
    _set(
        "excluded",
        (rpc("this", "x", durations=0), rpc("not that", "x", service="grpc.health.v1.Health")),
        OTEL_PYTHON_GRPC_EXCLUDED_SERVICES=SERVICE,
    ),
    _set(
        "no spans", (rpc("answers", "x"), rpc("act everything"), rpc("raise ValueError")), OTEL_TRACES_EXPORTER="none"
    ),
)

# Every other group over the other protocol.
RPC: Final = tuple(
    replace(group, protocol="http/protobuf" if index % 2 else "grpc") for index, group in enumerate(_GROUPS)
)
