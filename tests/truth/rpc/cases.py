"""
The gRPC cases: each scenario with what both ends must record of it.

The statuses, errors and names here were written down from the conventions and from what goes over the wire without any
instrumentation; nothing is taken from the code under test.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from truth.frame import ABSENT, ANY, Call, Case, Expectation
from truth.rpc.drive import CLIENT, SERVER, drive
from truth.rpc.servicer import PAUSE, SERVICE

__all__ = ["BASIC", "BESIDE", "BOTH", "CASES", "EARLY", "INTERCEPTED", "REGISTERED", "THREADS"]

BOTH, BESIDE, INTERCEPTED, REGISTERED, EARLY, THREADS = (
    "grpc.aio both ends",
    "beside contrib",
    "the user's interceptors",
    "registered methods",
    "names imported early",
    "thread pool",
)

BASIC = frozenset(
    {
        "unary",
        "server stream by yield",
        "server stream by write",
        "client stream by iterator",
        "two streams by write",
        "threaded unary",
        "abort with details",
        "uncaught exception",
        "exception in mid stream",
        "unknown method",
        "deadline",
        "cancel",
        "cancel in mid stream",
        "metadata both ways",
        "ten at once",
    }
)
"""What is run in every column that has both ends."""

_SERVER_ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
_TILL = {"till": "7", "shop": "corner"}


def _is_port(value: object) -> bool:
    return isinstance(value, int) and 0 < value < 65536


_TCP = {"network.peer.address": "127.0.0.1", "network.peer.port": _is_port}
_HOST = {"server.address": "127.0.0.1", "server.port": _is_port}


def _call(kind: str, method: str, code: str, *, is_error: bool, **given: Any) -> Call:
    on_both = {
        "rpc.system.name": "grpc",
        "rpc.method": method if method.startswith("_") else f"{SERVICE}/{method}" if "/" not in method else method,
        "rpc.status_code": code,
    }
    attributes: Mapping[str, Any] = given.pop("attributes", {})
    shared = {key: value for key, value in attributes.items() if key.startswith("server.")}
    name = "grpc" if method == "_OTHER" else on_both["rpc.method"]
    return Call(
        kind=kind,
        code=code,
        error=frozenset({code} if is_error else ()),
        name=name,
        attributes={**on_both, **attributes},
        metric_attributes={
            **on_both,
            **shared,
            "error.type": code if is_error else ABSENT,
            "rpc.method_original": ABSENT,
            "network.peer.address": ABSENT,
        },
        **given,
    )


def _served(method: str, code: str = "OK", *, attributes: Mapping[str, Any] = _TCP, **given: Any) -> Call:
    """Return what the server must record of a call."""
    attributes = {"server.address": ABSENT, "server.port": ABSENT, **attributes}
    return _call("SERVER", method, code, is_error=code in _SERVER_ERRORS, attributes=attributes, **given)


def _unserved(code: str, method: str = "_OTHER", **given: Any) -> Call:
    """Return what the server must record of a call that reached none of its handlers."""
    attributes = {"rpc.method_original": ANY} if method == "_OTHER" else {}
    return _served(method, code, attributes=attributes, **given)


def _made(method: str, code: str = "OK", *, attributes: Mapping[str, Any] = _HOST, **given: Any) -> Call:
    """Return what the client must record of a call."""
    return _call("CLIENT", method, code, is_error=code != "OK", attributes=attributes, **given)


def _case(
    scenario: str, about: str, served: Call | tuple[Call, ...], made: Call | tuple[Call, ...], **given: Any
) -> Case:
    """
    Return a case.

    Args:
        served: What the server must record, if it is instrumented; empty for nothing.
        made: The same of the client.
    """
    servers = served if isinstance(served, tuple) else (served,)
    clients = made if isinstance(made, tuple) else (made,)
    expect = Expectation(
        calls=(*clients, *servers), baggage=given.pop("baggage", None), unlinked=given.pop("unlinked", False)
    )
    series = given.pop("new_series", None)
    return Case(
        name=scenario.replace("_", " "),
        about=about,
        client=partial(drive, scenario=scenario),
        expect=expect,
        expect_in={
            SERVER: replace(expect, calls=servers, new_series=series),
            CLIENT: replace(expect, calls=clients),
        },
        **given,
    )


def _same(scenario: str, about: str, method: str, code: str = "OK", **given: Any) -> Case:
    """Return a case of a call that both ends record with one status; `exceptions` are the server's."""
    both = {key: given.pop(key) for key in ("at_least", "times") if key in given}
    exceptions = given.pop("exceptions", 0)
    served = _served(method, code, exceptions=exceptions, **both)
    return _case(scenario, about, served, _made(method, code, **both), **given)


_SERVER_ONLY = frozenset({SERVER})
_CLIENT_ONLY = frozenset({CLIENT})
_TIMED = 3 * PAUSE
"""What a stream of three messages takes at least, in seconds."""

_THREADED: Mapping[str, Any] = {"except_in": {CLIENT: "a caller does not notice which thread serves"}}

_SHAPES = (
    _same("unary", "One request, one answer.", "Echo", at_least=PAUSE),
    _same("server_stream_by_yield", "The handler is a generator.", "WatchByYield", at_least=_TIMED),
    _same(
        "server_stream_by_write", "The handler is a coroutine that writes its answers.", "WatchByWrite", at_least=_TIMED
    ),
    _same("half_second_stream", "A stream lasts until its last message.", "WatchSlowly", at_least=0.5),
    _same("empty_stream", "A stream without a message.", "WatchNothing", at_least=PAUSE),
    _same("read_to_eof", "The caller reads message by message.", "WatchByYield", at_least=_TIMED),
    _same("client_stream_by_iterator", "The caller sends what a generator yields.", "FillByIteration", at_least=0.05),
    _same("client_stream_by_write", "The caller writes, the handler reads.", "FillByRead", at_least=0.05),
    _same("early_answer", "The answer comes before the caller has said all.", "FillOne"),
    _same("two_streams_by_yield", "Both ends stream, by iterators.", "TalkByYield", at_least=0.05),
    _same("two_streams_by_write", "Both ends stream, by reading and writing in turns.", "TalkByWrite"),
    _same("half_close", "The answers come after the caller has closed its half.", "TalkBackwards", at_least=_TIMED),
    _same("ten_at_once", "Ten calls over one channel at once.", "Echo", times=10, unordered=True),
    _same(
        "four_times_eight_streams",
        "Eight streams over each of four channels at once.",
        "WatchByYield",
        times=32,
        unordered=True,
    ),
    _same("threaded_unary", "The handler runs in a thread.", "EchoInThread", at_least=PAUSE, **_THREADED),
    _same("threaded_stream", "A handler in threads yields a stream.", "WatchInThread", at_least=_TIMED, **_THREADED),
)

_ALONG = (
    _same("metadata_both_ways", "Text and binary metadata, before and after the answer.", "ExchangeMetadata"),
    _same("metadata_object", "The caller's `Metadata` object stays as it was.", "ExchangeMetadata"),
    _same("secret_metadata", "Credentials in metadata and message stay out of telemetry.", "Echo"),
    _same("baggage", "The handler sees the caller's baggage.", "Echo", baggage=_TILL),
    _same("compressed_answer", "The handler has its answer compressed.", "Compress"),
    _same("compressed_request", "The caller has its request compressed.", "Compress"),
    _case(
        "malformed_context",
        "Trace context that is none, and far too much baggage: the call is served, in a trace of its own.",
        _served("Echo"),
        (),
        unlinked=True,
        only_in=_SERVER_ONLY,
    ),
    _case(
        "metadata_too_big",
        "More metadata than gRPC takes: its core answers in the server's name, to which it looks like a cancel.",
        _served("Echo", "CANCELLED", attributes={}),
        _made("Echo", "RESOURCE_EXHAUSTED"),
    ),
    _case(
        "request_too_big_for_server",
        "A request beyond the server's limit.",
        _served("Echo", "RESOURCE_EXHAUSTED", attributes={}),
        _made("Echo", "RESOURCE_EXHAUSTED"),
    ),
    _same("response_too_big_for_server", "A response beyond the server's limit.", "Grow", "RESOURCE_EXHAUSTED"),
    _case(
        "response_too_big_for_client",
        "A response beyond the caller's limit, who gives the call up before it has all of it.",
        _served("Grow", "CANCELLED"),
        _made("Grow", "RESOURCE_EXHAUSTED"),
    ),
    _case(
        "request_too_big_for_client",
        "A request beyond the caller's own limit: it is never sent.",
        (),
        _made("Echo", "RESOURCE_EXHAUSTED"),
    ),
)

_OBJECTS = (
    _same("call_object", "All that a unary call object offers.", "Echo", at_least=PAUSE),
    _same("stream_object", "All that a streaming call object offers.", "WatchByYield", at_least=_TIMED),
    _same("context_object", "All that the handler's context offers, done callbacks among it.", "Inspect"),
    _same("answer_not_awaited", "The caller asks for the status only.", "Echo", at_least=PAUSE),
)

_FAILURES = (
    _same("abort_with_details", "A refusal with details and trailing metadata.", "Abort", "INVALID_ARGUMENT"),
    _same("set_code", "A status that is set, not raised.", "SetCode", "NOT_FOUND"),
    _same("set_number", "A status that is set by its number.", "SetNumber", "RESOURCE_EXHAUSTED"),
    _same("cancelled_by_server", "The server ends the call as cancelled.", "AbortWithNamedStatus", "CANCELLED"),
    _same("uncaught_exception", "An exception that nobody catches.", "Fail", "UNKNOWN", exceptions=1),
    _same("exception_with_code", "An exception after a status was set.", "FailWithCode", "UNAVAILABLE", exceptions=1),
    _same(
        "exception_in_mid_stream",
        "A generator that raises after two messages.",
        "FailBetween",
        "UNKNOWN",
        exceptions=1,
        at_least=2 * PAUSE,
    ),
    _same(
        "exception_after_write",
        "A coroutine that raises after it has written.",
        "FailAfterWrite",
        "UNKNOWN",
        exceptions=1,
        at_least=PAUSE,
    ),
    _same("abort_in_mid_stream", "An abort after two messages.", "AbortBetween", "DATA_LOSS", at_least=2 * PAUSE),
    _same("abort_unheard", "An abort before anything is read.", "AbortUnheard", "FAILED_PRECONDITION"),
    _same("threaded_exception", "An exception in a thread.", "RaiseInThread", "UNKNOWN", exceptions=1, **_THREADED),
    _same("threaded_abort", "An abort in a thread.", "AbortInThread", "DATA_LOSS", **_THREADED),
    _case(
        "request_not_understood",
        "A request that the server cannot deserialize.",
        _served("Misread", "UNKNOWN", attributes={}, exceptions=1),
        _made("Misread", "UNKNOWN"),
    ),
    _same("response_not_sendable", "A response that the server cannot serialize.", "Miswrite", "UNKNOWN", exceptions=1),
    _case(
        "request_not_sendable",
        "A request that the caller cannot serialize: gRPC logs it and sends nothing in its place.",
        _served("Echo"),
        _made("Echo"),
        only_in=_CLIENT_ONLY,
    ),
    _case(
        "request_of_wrong_type",
        "A request that is no bytes: gRPC raises at whoever awaits the call.",
        (),
        _made("Echo", "UNKNOWN", exceptions=1),
        only_in=_CLIENT_ONLY,
    ),
    _case(
        "response_not_understood",
        "A response that the caller cannot deserialize: gRPC logs it and hands None out.",
        _served("Echo"),
        _made("Echo"),
        only_in=_CLIENT_ONLY,
    ),
    _same("request_iterator_raises", "A stream of requests that fails half-way.", "FillThenWait", "CANCELLED"),
)

_REFUSALS = (
    _case(
        "unknown_method",
        "A method that the service does not have.",
        _unserved("UNIMPLEMENTED"),
        _made("Steal", "UNIMPLEMENTED"),
    ),
    _case(
        "unknown_service",
        "A service that the server does not have.",
        _unserved("UNIMPLEMENTED"),
        _made("truth.v1.Nobody/Echo", "UNIMPLEMENTED"),
    ),
    _case(
        "method_without_service",
        "A method without a slash.",
        _unserved("UNIMPLEMENTED"),
        _made("_OTHER", "UNIMPLEMENTED", attributes={**_HOST, "rpc.method_original": "nonsense"}),
    ),
    _case(
        "method_with_too_many_parts",
        "A method with one slash too many.",
        _unserved("UNIMPLEMENTED"),
        _made("_OTHER", "UNIMPLEMENTED", attributes={**_HOST, "rpc.method_original": ANY}),
    ),
    _case(
        "twenty_unknown_methods",
        "Twenty methods that do not exist make one series.",
        _unserved("UNIMPLEMENTED", times=20),
        (),
        only_in=_SERVER_ONLY,
        new_series=1,
    ),
    _case(
        "concurrency_refused",
        "A call beyond what the server serves at a time.",
        (_served("Wait", "CANCELLED"), _unserved("RESOURCE_EXHAUSTED", "Echo")),
        (_made("Wait", "CANCELLED"), _made("Echo", "RESOURCE_EXHAUSTED")),
    ),
    _case(
        "retries",
        "gRPC sends a call three times: each is an attempt for the server, all are one call for the caller.",
        (_served("Stumble", "UNAVAILABLE", times=2), _served("Stumble")),
        _made("Stumble"),
    ),
    _case(
        "retries_in_vain",
        "gRPC gives up after four attempts.",
        _served("Stumble", "UNAVAILABLE", times=4),
        _made("Stumble", "UNAVAILABLE"),
    ),
    _same("server_stops", "The server stops and cuts the call off.", "WaitAndStop", "UNAVAILABLE"),
    _case("unreachable", "Nobody listens.", (), _made("Echo", "UNAVAILABLE"), only_in=_CLIENT_ONLY),
    _case(
        "wait_for_ready",
        "The caller waits until the server is there.",
        (_served("OpenLate"), _served("Echo", attributes={})),
        (_made("Echo", attributes={"server.address": ANY, "server.port": ABSENT}), _made("OpenLate")),
    ),
    _case(
        "wait_for_ready_in_vain",
        "The caller waits for a server that never comes.",
        (),
        _made("Echo", "DEADLINE_EXCEEDED", at_least=0.3),
        only_in=_CLIENT_ONLY,
    ),
    _case(
        "interceptor_refuses",
        "An interceptor of the server's turns the caller away.",
        _unserved("UNAUTHENTICATED", "Echo"),
        _made("Echo", "UNAUTHENTICATED"),
        only_in=frozenset({INTERCEPTED}),
    ),
    _case(
        "interceptor_breaks",
        "An interceptor of the server's raises.",
        _unserved("UNKNOWN", "Echo", exceptions=1),
        _made("Echo", "UNKNOWN"),
        only_in=frozenset({INTERCEPTED}),
    ),
)

_INTERRUPTIONS = (
    _same("deadline", "The handler takes longer than the caller allows.", "Wait", "DEADLINE_EXCEEDED", at_least=0.25),
    _same(
        "deadline_in_mid_stream",
        "A stream takes longer than the caller allows.",
        "WatchThenWait",
        "DEADLINE_EXCEEDED",
        at_least=0.35,
    ),
    _same("cancel", "`call.cancel()` reaches the handler.", "Wait", "CANCELLED"),
    _case(
        "cancel_at_once",
        "A call is cancelled as soon as it is made: whether the server ever hears of it is a race.",
        (),
        _made("Wait", "CANCELLED"),
        only_in=_CLIENT_ONLY,
    ),
    _same("cancel_by_task", "The task that waits is cancelled, as by `asyncio.timeout`.", "Wait", "CANCELLED"),
    _same("cancel_long_before_the_deadline", "A cancel is no deadline.", "Wait", "CANCELLED"),
    _same("cancel_in_mid_stream", "A stream is cancelled after two messages.", "WatchThenWait", "CANCELLED"),
    _same("cancel_before_the_first_message", "Nothing of the stream has come yet.", "WatchThenWait", "CANCELLED"),
    _same("cancel_of_a_writer", "A handler that writes is cancelled.", "WriteThenWait", "CANCELLED"),
    _same("cancel_of_two_streams", "A handler that listens is cancelled.", "TalkThenWait", "CANCELLED"),
    _same("cancel_ignored", "The handler takes no notice of it.", "CarryOn", "CANCELLED"),
    _same("left_in_mid_stream", "The caller leaves the loop and closes the channel.", "WatchThenWait", "CANCELLED"),
    _same("channel_closed", "The channel is closed while a call is under way.", "Wait", "CANCELLED"),
    _same("back_pressure", "A caller who does not read holds the handler back.", "Pour", at_least=0.6),
)


def _to(target: str, about: str, address: Any, port: Any) -> Case:
    attributes = {"server.address": address, "server.port": port}
    return _case(f"target_{target}", about, _served("Echo"), _made("Echo", attributes=attributes), only_in=_CLIENT_ONLY)


_TARGETS = (
    _to("host", "The target is a host and a port.", "localhost", _is_port),
    _to("dns", "The target is `dns:///`.", "localhost", _is_port),
    _to("unix", "The target is a socket of the file system.", lambda value: str(value).endswith(".sock"), ABSENT),
    _to("several", "The target is a list of addresses.", lambda value: "127.0.0.1:1," in str(value), ABSENT),
)


def _in_threads(shape: str, about: str) -> Case:
    return Case(
        name=f"threads {shape}",
        about=about,
        client=partial(drive, scenario=f"threads_{shape}"),
        expect=Expectation(),
        only_in=frozenset({THREADS}),
    )


_THREADS = (
    _in_threads("unary", "The synchronous stack is left alone."),
    _in_threads("stream", "So is a stream of it."),
    _in_threads("abort", "So is a refusal."),
    _in_threads("exception", "So is an exception."),
)

CASES: tuple[Case, ...] = (
    *_SHAPES,
    *_ALONG,
    *_OBJECTS,
    *_FAILURES,
    *_REFUSALS,
    *_INTERRUPTIONS,
    *_TARGETS,
    *_THREADS,
)
