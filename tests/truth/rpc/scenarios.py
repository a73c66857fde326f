"""
What callers do, one coroutine function a scenario.

A scenario returns what an application can see, as plain values. It is not told whether anything is instrumented: it is
done the same way then, and must look the same.
"""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio

from truth.rpc.bench import Bench, Channel, Seen, ended, read, seen_of
from truth.rpc.servicer import BIG, path

__all__ = ["SCENARIOS", "Scenario"]

Scenario = Callable[[Bench], Awaitable[Seen]]

SCENARIOS: dict[str, Scenario] = {}
"""By name, so that a scenario can be run in another process."""

_SMALL = BIG // 4
_QUICK = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100))
_RETRYING = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.02s",
                "maxBackoff": "0.02s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def _scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def _unary(name: str, method: str, request: bytes = b"a", **options: Any) -> None:
    """Add a scenario of one unary call."""

    async def scenario(bench: Bench) -> Seen:
        async with bench.channel(options.get("server", "main"), options=options.get("channel", ())) as channel:
            return await _call(bench, channel, method, request, details=options.get("details", True))

    SCENARIOS[name] = scenario


def _stream(name: str, method: str, request: bytes = b"a") -> None:
    """Add a scenario of one call whose responses are read by `async for`."""

    async def scenario(bench: Bench) -> Seen:
        async with bench.channel() as channel:
            with bench.timed():
                call = channel.unary_stream(path(method))(request, metadata=bench.metadata())
                got = await read(call)
            return await ended(call, got)

    SCENARIOS[name] = scenario


async def _call(
    bench: Bench, channel: Channel, method: str, request: bytes = b"a", *, details: bool = True, **options: Any
) -> Seen:
    wire = method if "/" in method or not method[:1].isupper() else path(method)
    with bench.timed():
        call = channel.unary_unary(wire)(request, metadata=bench.metadata(), **options)
        answer = await seen_of(call)
    return await ended(call, answer, details=details)


async def _messages(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        await asyncio.sleep(0.02)
        yield message


_unary("unary", "Echo")
_unary("baggage", "Echo")
_unary("threaded_unary", "EchoInThread")
_unary("threaded_exception", "RaiseInThread")
_unary("threaded_abort", "AbortInThread")
_unary("compressed_answer", "Compress", b"abc" * 1000)
_unary("abort_with_details", "Abort")
_unary("cancelled_by_server", "AbortWithNamedStatus", b"CANCELLED")
_unary("set_code", "SetCode")
_unary("set_number", "SetNumber")
_unary("uncaught_exception", "Fail")
_unary("exception_with_code", "FailWithCode")
_unary("request_not_understood", "Misread")
_unary("response_not_sendable", "Miswrite")
_unary("request_too_big_for_server", "Echo", b"x" * BIG, server="small")
_unary("response_too_big_for_server", "Grow", b"%d" % BIG, server="small")
# Much bigger than a connection lets through unread, so that it is given up while the server is still sending.
_unary(
    "response_too_big_for_client", "Grow", b"%d" % (100 * BIG), channel=(("grpc.max_receive_message_length", _SMALL),)
)
_unary("request_too_big_for_client", "Echo", b"x" * BIG, channel=(("grpc.max_send_message_length", _SMALL),))
_unary("unknown_method", "Steal")
_unary("unknown_service", "/truth.v1.Nobody/Echo")
_unary("method_without_service", "nonsense")
_unary("method_with_too_many_parts", "/a/b/c")
_unary("server_stops", "WaitAndStop", server="doomed", details=False)

_stream("server_stream_by_yield", "WatchByYield")
_stream("server_stream_by_write", "WatchByWrite")
_stream("half_second_stream", "WatchSlowly")
_stream("empty_stream", "WatchNothing")
_stream("threaded_stream", "WatchInThread")
_stream("exception_in_mid_stream", "FailBetween")
_stream("exception_after_write", "FailAfterWrite")
_stream("abort_in_mid_stream", "AbortBetween")


# --- The four shapes -----------------------------------------------------------------------------------------------


@_scenario
async def read_to_eof(bench: Bench) -> Seen:
    """Read a stream message by message."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_stream(path("WatchByYield"))(b"a", metadata=bench.metadata())
            got = [await seen_of(call.read()) for _ in range(4)]
        return await ended(call, got)


@_scenario
async def client_stream_by_iterator(bench: Bench) -> Seen:
    """Send a stream out of an asynchronous generator."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.stream_unary(path("FillByIteration"))(_messages(b"a", b"b", b"c"), metadata=bench.metadata())
            answer = await seen_of(call)
        return await ended(call, answer)


@_scenario
async def client_stream_by_write(bench: Bench) -> Seen:
    """Send a stream by writing, to a handler that reads."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.stream_unary(path("FillByRead"))(metadata=bench.metadata())
            for message in (b"a", b"b", b"c"):
                await call.write(message)
                await asyncio.sleep(0.02)
            await call.done_writing()
            answer = await seen_of(call)
        return await ended(call, answer)


@_scenario
async def early_answer(bench: Bench) -> Seen:
    """Be answered before everything has been said."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.stream_unary(path("FillOne"))(metadata=bench.metadata())
            await call.write(b"a")
            answer = await seen_of(call)
        return await ended(call, answer)


@_scenario
async def two_streams_by_yield(bench: Bench) -> Seen:
    """Send an iterator's messages and read answers as they come."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.stream_stream(path("TalkByYield"))(_messages(b"a", b"b", b"c"), metadata=bench.metadata())
            got = await read(call)
        return await ended(call, got)


@_scenario
async def two_streams_by_write(bench: Bench) -> Seen:
    """Write and read in turns."""
    async with bench.channel() as channel:
        got = []
        with bench.timed():
            call = channel.stream_stream(path("TalkByWrite"))(metadata=bench.metadata())
            for message in (b"a", b"b"):
                await call.write(message)
                got.append(await seen_of(call.read()))
            await call.done_writing()
            got.append(await seen_of(call.read()))
        return await ended(call, got)


@_scenario
async def half_close(bench: Bench) -> Seen:
    """Say all, close that half, and only then be answered."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.stream_stream(path("TalkBackwards"))(metadata=bench.metadata())
            for message in (b"a", b"b", b"c"):
                await call.write(message)
            await call.done_writing()
            refused = await seen_of(call.write(b"d"))
            got = [await seen_of(call.read()) for _ in range(4)]
        return await ended(call, [refused, *got])


@_scenario
async def ten_at_once(bench: Bench) -> Seen:
    """Make ten calls over one channel at once."""
    async with bench.channel() as channel:
        calls = [channel.unary_unary(path("Echo"))(b"%d" % n, metadata=bench.metadata()) for n in range(10)]
        return {"answers": [await seen_of(call) for call in calls]}


@_scenario
async def four_times_eight_streams(bench: Bench) -> Seen:
    """Read eight streams over each of four channels at once."""
    async with AsyncExitStack() as opened:
        channels = [await opened.enter_async_context(bench.channel()) for _ in range(4)]
        calls = [
            channel.unary_stream(path("WatchByYield"))(b"%d" % number, metadata=bench.metadata())
            for number in range(8)
            for channel in channels
        ]
        return {"got": await asyncio.gather(*(read(call) for call in calls))}


# --- What goes along with a call -----------------------------------------------------------------------------------


@_scenario
async def metadata_both_ways(bench: Bench) -> Seen:
    """Send metadata, text and binary, one key twice, and get some before and after the answer."""
    async with bench.channel() as channel:
        pairs = (("x-name", "ada"), ("x-twice", "1"), ("x-twice", "2"), ("x-raw-bin", b"\0\xff"))
        with bench.timed():
            call = channel.unary_unary(path("ExchangeMetadata"))(b"a", metadata=bench.metadata(*pairs))
            early = [await _initial(call), call.done()]
            answer = await seen_of(call)
        return {"early": early, **await ended(call, answer)}


async def _initial(call: Any) -> bool:
    return ("early", "1") in tuple(await call.initial_metadata())


@_scenario
async def metadata_object(bench: Bench) -> Seen:
    """Send a `Metadata` object, which must still be as it was afterwards."""
    async with bench.channel() as channel:
        metadata = grpc.aio.Metadata(*bench.metadata(("x-name", "ada")))
        before = len(metadata)
        with bench.timed():
            call = channel.unary_unary(path("ExchangeMetadata"))(b"a", metadata=metadata)
            answer = await seen_of(call)
        return {"untouched": len(metadata) == before, **await ended(call, answer)}


@_scenario
async def metadata_too_big(bench: Bench) -> Seen:
    """Send more metadata than gRPC takes."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_unary(path("Echo"))(b"a", metadata=bench.metadata(("x-big", "x" * 100_000)))
            answer = await seen_of(call)
        return await ended(call, answer, details=False)


@_scenario
async def secret_metadata(bench: Bench) -> Seen:
    """Send credentials, where credentials go and where they do not."""
    secret = bench.secret
    async with bench.channel() as channel:
        pairs = (("authorization", f"Bearer {secret}"), ("cookie", f"s={secret}"), ("x-api-key", secret))
        with bench.timed():
            call = channel.unary_unary(path("Echo"))(
                secret.encode(), metadata=bench.metadata(*pairs, ("k-bin", secret.encode()))
            )
            answer = await seen_of(call)
        return {**await ended(call, ""), "answered": len(answer) == len(secret)}


@_scenario
async def twenty_unknown_methods(bench: Bench) -> Seen:
    """Call twenty methods that do not exist, as a scanner does."""
    async with bench.channel() as channel:
        return {
            "codes": [
                await seen_of(channel.unary_unary(f"/a.B/{n}")(b"", metadata=bench.metadata())) for n in range(20)
            ]
        }


@_scenario
async def malformed_context(bench: Bench) -> Seen:
    """Send trace context that is none, and baggage beyond measure."""
    pairs = (
        ("traceparent", "00-zz-7-01"),
        ("tracestate", "=,=;" * 20),
        ("baggage", ",".join(f"key{n}=value{n}" for n in range(180)) + ",=;;"),
    )
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_unary(path("Echo"))(b"a", metadata=bench.metadata(*pairs, linked=False))
            answer = await seen_of(call)
        return await ended(call, answer)


@_scenario
async def compressed_request(bench: Bench) -> Seen:
    """Compress the request."""
    async with bench.channel() as channel:
        return await _call(bench, channel, "Compress", b"abc" * 1000, compression=grpc.Compression.Gzip)


@_scenario
async def request_not_sendable(bench: Bench) -> Seen:
    """Pass a request that its serializer refuses."""
    async with bench.channel() as channel:
        with bench.timed():
            stub = channel.unary_unary(path("Echo"), request_serializer=_refuse)
            try:
                call = stub(b"a", metadata=bench.metadata())
            except Exception as error:
                return {"raised": type(error).__name__}
            answer = await seen_of(call)
        return {"raised": "", "answer": answer, "done": call.done()}


@_scenario
async def response_not_understood(bench: Bench) -> Seen:
    """Get a response that its deserializer refuses."""
    async with bench.channel() as channel:
        with bench.timed():
            stub = channel.unary_unary(path("Echo"), response_deserializer=_refuse)
            call = stub(b"a", metadata=bench.metadata())
            answer = await seen_of(call)
        return await ended(call, answer)


def _refuse(_message: Any) -> bytes:
    raise LookupError("not in the dictionary")


@_scenario
async def request_of_wrong_type(bench: Bench) -> Seen:
    """Pass a request that is no bytes, without a serializer."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_unary(path("Echo"))("no bytes", metadata=bench.metadata())
            # The call never has a status: whoever asks for it waits for ever.
            return {"answer": await seen_of(call)}


@_scenario
async def request_iterator_raises(bench: Bench) -> Seen:
    """Send a stream whose generator fails half-way."""

    async def requests() -> AsyncIterator[bytes]:
        yield b"a"
        await bench.told("waits")
        raise LookupError("no more")

    async with bench.channel() as channel:
        with bench.timed():
            call = channel.stream_unary(path("FillThenWait"))(requests(), metadata=bench.metadata())
            answer = await seen_of(call)
        return await ended(call, answer)


# --- Call objects --------------------------------------------------------------------------------------------------


@_scenario
async def call_object(bench: Bench) -> Seen:
    """Use all that a call object offers while the call runs and afterwards."""
    async with bench.channel() as channel:
        done: list[bool] = []
        with bench.timed():
            call = channel.unary_unary(path("Echo"))(b"a", metadata=bench.metadata(), timeout=5)
            call.add_done_callback(lambda over: done.append(over is call))
            during = [call.done(), call.cancelled(), 4 < (call.time_remaining() or 0) < 6]
            await call.wait_for_connection()
            answers = [await seen_of(call), await seen_of(call)]
        await asyncio.sleep(0)
        after = {"called back": done, "cancel": call.cancel(), "type": type(call).__module__.partition("._")[0]}
        return {"during": during, **after, **await ended(call, answers)}


@_scenario
async def stream_object(bench: Bench) -> Seen:
    """Use all that a streaming call object offers."""
    async with bench.channel() as channel:
        done: list[bool] = []
        with bench.timed():
            call = channel.unary_stream(path("WatchByYield"))(b"a", metadata=bench.metadata(), timeout=5)
            call.add_done_callback(lambda over: done.append(over is call))
            during = [call.done(), call.cancelled(), 4 < (call.time_remaining() or 0) < 6]
            await call.wait_for_connection()
            got = [await seen_of(call.read()), *await _rest(call)]
        await asyncio.sleep(0)
        return {"during": during, "called back": done, **await ended(call, got)}


async def _rest(call: Any) -> list[Any]:
    rest = []
    while (message := await seen_of(call.read())) != "EOF":
        rest.append(message)
    return rest


@_scenario
async def context_object(bench: Bench) -> Seen:
    """Let the handler use what its context offers."""
    async with bench.channel() as channel:
        seen = await _call(bench, channel, "Inspect", timeout=5)
        await bench.told("done: True, cancelled: False")
        return seen


@_scenario
async def answer_not_awaited(bench: Bench) -> Seen:
    """Make a call and ask for nothing but its status."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_unary(path("Echo"))(b"a", metadata=bench.metadata())
            code = await call.code()
        return {"code": code.name, "done": call.done()}


@_scenario
async def interceptor_refuses(bench: Bench) -> Seen:
    """Be turned away by an interceptor of the server's."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_unary(path("Echo"))(b"a", metadata=bench.metadata(("x-stranger", "1")))
            answer = await seen_of(call)
        return await ended(call, answer)


@_scenario
async def interceptor_breaks(bench: Bench) -> Seen:
    """Call while an interceptor of the server's is broken."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_unary(path("Echo"))(b"a", metadata=bench.metadata(("x-breaks", "1")))
            answer = await seen_of(call)
        return await ended(call, answer)


# --- Refusals ------------------------------------------------------------------------------------------------------


@_scenario
async def abort_unheard(bench: Bench) -> Seen:
    """Be refused before the handler has read anything."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.stream_stream(path("AbortUnheard"))(metadata=bench.metadata())
            got = await seen_of(call.read())
        return await ended(call, got)


@_scenario
async def concurrency_refused(bench: Bench) -> Seen:
    """Make a second call of a server that takes one at a time."""
    async with bench.channel("narrow") as channel:
        with bench.timed():
            first = channel.unary_unary(path("Wait"))(b"a", metadata=bench.metadata())
            await bench.told("waits")
            second = await seen_of(channel.unary_unary(path("Echo"))(b"a", metadata=bench.metadata()))
            first.cancel()
            await seen_of(first)
        return {"first": (await first.code()).name, "second": second}


@_scenario
async def retries(bench: Bench) -> Seen:
    """Make one call that gRPC sends three times."""
    async with bench.channel(options=(("grpc.service_config", json.dumps(_RETRYING)),)) as channel:
        return await _call(bench, channel, "Stumble")


@_scenario
async def retries_in_vain(bench: Bench) -> Seen:
    """Make one call that gRPC sends four times and then gives up."""
    async with bench.channel(options=(("grpc.service_config", json.dumps(_RETRYING)),)) as channel:
        return await _call(bench, channel, "Stumble", b"never")


@_scenario
async def unreachable(bench: Bench) -> Seen:
    """Call a server that is not there."""
    async with bench.channel("nowhere", options=_QUICK) as channel:
        return await _call(bench, channel, "Echo", details=False)


@_scenario
async def wait_for_ready(bench: Bench) -> Seen:
    """Call a server that is not there yet, and wait until it is."""
    async with bench.channel("late", options=_QUICK) as late, bench.channel() as channel:
        stub = late.unary_unary(path("Echo"))
        with bench.timed():
            call = stub(b"a", metadata=bench.metadata(), wait_for_ready=True, timeout=10)
            opened = await seen_of(channel.unary_unary(path("OpenLate"))(b"b", metadata=bench.metadata()))
            answer = await seen_of(call)
        return {"opened": opened, **await ended(call, answer)}


@_scenario
async def wait_for_ready_in_vain(bench: Bench) -> Seen:
    """Wait for a server that never comes, until the deadline."""
    async with bench.channel("nowhere", options=_QUICK) as channel:
        return await _call(bench, channel, "Echo", wait_for_ready=True, timeout=0.3, details=False)


# --- Interruptions -------------------------------------------------------------------------------------------------


@_scenario
async def deadline(bench: Bench) -> Seen:
    """Allow less time than the handler takes."""
    async with bench.channel() as channel:
        # Which end tells of it, and in which words, is a race.
        return await _call(bench, channel, "Wait", timeout=0.3, details=False)


@_scenario
async def deadline_in_mid_stream(bench: Bench) -> Seen:
    """Allow time for two messages but not for the third."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_stream(path("WatchThenWait"))(b"2", metadata=bench.metadata(), timeout=0.4)
            got = await read(call)
        return await ended(call, got, details=False)


@_scenario
async def cancel(bench: Bench) -> Seen:
    """Cancel a call that its handler is serving."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_unary(path("Wait"))(b"a", metadata=bench.metadata())
            waiting = asyncio.ensure_future(_awaited(call))
            await bench.told("waits")
            cancelled = [call.cancel(), await seen_of(waiting), call.cancel()]
        await bench.told("cancelled")
        return await ended(call, cancelled)


async def _awaited(call: Any) -> Any:
    return await call


@_scenario
async def cancel_at_once(bench: Bench) -> Seen:
    """Cancel a call as soon as it is made."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_unary(path("Wait"))(b"a", metadata=bench.metadata())
            cancelled = [call.cancel(), await seen_of(call)]
        return await ended(call, cancelled)


@_scenario
async def cancel_by_task(bench: Bench) -> Seen:
    """Cancel the task that waits for a call, as `asyncio.timeout` does."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_unary(path("Wait"))(b"a", metadata=bench.metadata())
            waiting = asyncio.ensure_future(_awaited(call))
            await bench.told("waits")
            waiting.cancel()
            seen = await seen_of(waiting)
        await bench.told("cancelled")
        return await ended(call, seen)


@_scenario
async def cancel_long_before_the_deadline(bench: Bench) -> Seen:
    """Cancel a call whose deadline is far away."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_unary(path("Wait"))(b"a", metadata=bench.metadata(), timeout=20)
            await bench.told("waits")
            cancelled = [call.cancel(), await seen_of(call)]
        await bench.told("cancelled")
        return await ended(call, cancelled)


@_scenario
async def cancel_in_mid_stream(bench: Bench) -> Seen:
    """Cancel a stream after two messages."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_stream(path("WatchThenWait"))(b"2", metadata=bench.metadata())
            got = [await seen_of(call.read()), await seen_of(call.read())]
            await bench.told("waits")
            got += [call.cancel(), await seen_of(call.read())]
        await bench.told("cancelled")
        return await ended(call, got)


@_scenario
async def cancel_before_the_first_message(bench: Bench) -> Seen:
    """Cancel a stream of which nothing has come."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_stream(path("WatchThenWait"))(b"0", metadata=bench.metadata())
            reading = asyncio.ensure_future(read(call))
            await bench.told("waits")
            got = [call.cancel(), await reading]
        await bench.told("cancelled")
        return await ended(call, got)


@_scenario
async def cancel_of_a_writer(bench: Bench) -> Seen:
    """Cancel a stream that a coroutine writes."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_stream(path("WriteThenWait"))(b"a", metadata=bench.metadata())
            got = [await seen_of(call.read())]
            await bench.told("waits")
            got += [call.cancel(), await seen_of(call.read())]
        await bench.told("cancelled")
        return await ended(call, got)


@_scenario
async def cancel_of_two_streams(bench: Bench) -> Seen:
    """Cancel a conversation while the handler listens."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.stream_stream(path("TalkThenWait"))(metadata=bench.metadata())
            await call.write(b"a")
            got = [await seen_of(call.read())]
            await bench.told("waits")
            got += [call.cancel(), await seen_of(call.read())]
        await bench.told("cancelled")
        return await ended(call, got)


@_scenario
async def cancel_ignored(bench: Bench) -> Seen:
    """Cancel a call whose handler takes no notice."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_unary(path("CarryOn"))(b"a", metadata=bench.metadata())
            await bench.told("waits")
            cancelled = [call.cancel(), await seen_of(call)]
        await bench.told("returned")
        return await ended(call, cancelled)


@_scenario
async def left_in_mid_stream(bench: Bench) -> Seen:
    """Leave the loop over a stream, drop the call, and close the channel."""
    got = []
    with bench.timed():
        async with bench.channel() as channel:
            call = channel.unary_stream(path("WatchThenWait"))(b"3", metadata=bench.metadata())
            async for message in call:
                got.append(message.decode())
                if len(got) == 2:
                    break
            await bench.told("waits")
            del call
            gc.collect()
    return {"got": got, "stopped": await bench.told("cancelled")}


@_scenario
async def channel_closed(bench: Bench) -> Seen:
    """Close the channel while a call is under way, and make another one over it."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_unary(path("Wait"))(b"a", metadata=bench.metadata())
            await bench.told("waits")
            await channel.close()
            answer = await seen_of(call)
        await bench.told("cancelled")
        return await ended(call, answer)


@_scenario
async def back_pressure(bench: Bench) -> Seen:
    """Read one message, nothing for a while, then all."""
    async with bench.channel() as channel:
        with bench.timed():
            call = channel.unary_stream(path("Pour"))(b"a", metadata=bench.metadata())
            first = await seen_of(call.read())
            await asyncio.sleep(0.6)
            rest = await _rest(call)
        return await ended(call, [first, len(rest)])


# --- Targets -------------------------------------------------------------------------------------------------------


def _target(name: str) -> None:
    async def scenario(bench: Bench) -> Seen:
        async with bench.channel(name) as channel:
            return await _call(bench, channel, "Echo")

    SCENARIOS[f"target_{name}"] = scenario


for _name in ("host", "dns", "unix", "several"):
    _target(_name)
