"""The running service, over real sockets: calls, health, reflection, limits, ports and the way it stops."""

import asyncio
import gc
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from importlib.metadata import entry_points
from types import AsyncGeneratorType
from typing import Any, cast

import grpc
import pytest
import uvloop
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from rsketch import REUSE_PORT, Address, ConfigError
from rsketch_grpc import service
from rsketch_grpc.guard import Guard
from rsketch_grpc.servicer import HelloServicer
from rsketch_protos.hello.v1 import (
    SERVICE_NAME,
    HelloRequest,
    HelloResponse,
    HelloServiceAsyncStub,
    HelloServiceStub,
    HelloStreamRequest,
)

DEADLINE = 10.0
"""Seconds after which a condition that has not come true is a failure."""

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN


@asynccontextmanager
async def connection(at: Address, *options: tuple[str, int]) -> AsyncIterator[grpc.aio.Channel]:
    """Open a channel with a connection of its own: channels to one target share connections otherwise."""
    own = ("grpc.use_local_subchannel_pool", 1)
    async with grpc.aio.insecure_channel(at.netloc, options=(own, *options)) as channel:
        yield channel


@asynccontextmanager
async def running(**settings: str) -> AsyncIterator[HelloServiceAsyncStub]:
    """Serve on a free port with RSKETCH_GRPC_<NAME> settings and yield a stub."""
    environ = {"RSKETCH_GRPC_PORT": "0"} | {f"RSKETCH_GRPC_{name.upper()}": value for name, value in settings.items()}
    async with service.serve(environ) as at, connection(at) as channel:
        yield HelloServiceStub(channel)


@asynccontextmanager
async def connected_stop(
    drain: str,
) -> AsyncIterator[tuple[grpc.aio.Channel, Callable[[], Coroutine[None, None, None]]]]:
    """Serve with a drain time; yield a connected channel and what stops the server while the channel stays open."""
    opened = service.serve({"RSKETCH_GRPC_PORT": "0", "RSKETCH_GRPC_DRAIN_SECONDS": drain})
    at = await opened.__aenter__()

    async def stop() -> None:
        await opened.__aexit__(None, None, None)

    async with connection(at) as channel:
        await channel.channel_ready()
        yield channel, stop


async def refusal(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    """Return the status and the message that a call ends with, within the deadline."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asyncio.wait_for(call, DEADLINE)
    return refused.value.code(), refused.value.details() or ""


async def raw(channel: Any, path: str, *, streaming: bool) -> object:
    """Send bytes that are no message and return the last response; the stubs know no channel without serializers."""
    if not streaming:
        return await channel.unary_unary(path)(b"\xff\xff")
    return [response async for response in channel.unary_stream(path)(b"\xff\xff")]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, within the deadline."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)


def handlers() -> list[AsyncGeneratorType[HelloResponse, None]]:
    """Find the streams that the servicer is busy with, in this process."""
    code = HelloServicer.HelloStream.__code__
    # Its very type: what isinstance() asks of a weak proxy, which others leave behind, may no longer be there.
    streams = (each for each in gc.get_objects() if type(each) is AsyncGeneratorType and each.ag_code is code)
    return [each for each in streams if each.ag_frame is not None]


def stream(
    stub: HelloServiceAsyncStub, count: int, seconds: float = 0.0
) -> grpc.aio.UnaryStreamCall[HelloStreamRequest, HelloResponse]:
    """Begin a stream of greetings."""
    interval = Duration(nanos=int(seconds * 1e9) % 10**9, seconds=int(seconds))
    return stub.HelloStream(HelloStreamRequest(name="ada", count=count, interval=interval), timeout=DEADLINE)


def check(channel: grpc.aio.Channel, name: str) -> grpc.aio.UnaryUnaryCall[HealthCheckRequest, HealthCheckResponse]:
    """Ask once for the health of a service; by path, because the published stubs of health know no asyncio."""
    method: grpc.aio.UnaryUnaryMultiCallable[HealthCheckRequest, HealthCheckResponse] = channel.unary_unary(
        "/grpc.health.v1.Health/Check", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
    )
    return method(HealthCheckRequest(service=name), timeout=DEADLINE)


def watch(channel: grpc.aio.Channel, name: str) -> grpc.aio.UnaryStreamCall[HealthCheckRequest, HealthCheckResponse]:
    """Watch the health of a service."""
    method: grpc.aio.UnaryStreamMultiCallable[HealthCheckRequest, HealthCheckResponse] = channel.unary_stream(
        "/grpc.health.v1.Health/Watch", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
    )
    return method(HealthCheckRequest(service=name), timeout=DEADLINE)


async def next_status(call: grpc.aio.UnaryStreamCall[HealthCheckRequest, HealthCheckResponse]) -> int | None:
    """Return the next status of a watch, or None at its end."""
    response = await call.read()
    return response.status if isinstance(response, HealthCheckResponse) else None


async def reflected(channel: grpc.aio.Channel) -> set[str]:
    """List the services by reflection."""
    method: grpc.aio.StreamStreamMultiCallable[ServerReflectionRequest, ServerReflectionResponse] = (
        channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            ServerReflectionRequest.SerializeToString,
            ServerReflectionResponse.FromString,
        )
    )
    call = method(iter([ServerReflectionRequest(list_services="")]), timeout=DEADLINE)
    return {each.name async for answer in call for each in answer.list_services_response.service}


def test_entry_point_is_the_service() -> None:
    """The host finds the service under the name that users type."""
    [found] = entry_points(group="rsketch.services", name="grpc")

    assert found.load() is service


async def test_hello() -> None:
    """A name is greeted."""
    async with running() as stub:
        response = await stub.Hello(HelloRequest(name="ada"))

    assert response.message == "Hello, ada!"


def test_hello_on_uvloop() -> None:
    """It serves on the event loop that the host uses as well as on the standard one."""
    uvloop.run(test_hello())


async def test_stream_sends_count_greetings_an_interval_apart() -> None:
    """The stream has as many greetings as were asked for, and lasts one interval less than that."""
    async with running() as stub:
        began = time.monotonic()
        messages = [response.message async for response in stream(stub, 3, 0.2)]
        lasted = time.monotonic() - began

    assert messages == ["Hello, ada!"] * 3
    assert 0.39 < lasted < DEADLINE


async def test_first_greeting_comes_at_once() -> None:
    """The first greeting does not wait for the interval to pass."""
    async with running(drain_seconds="0") as stub:
        assert await stream(stub, 2, 60.0).read()


async def test_stream_without_an_interval() -> None:
    """As many greetings as the limit allows are sent where no interval is given."""
    async with running() as stub:
        assert len([response async for response in stream(stub, 1000)]) == 1000


async def test_bad_fields_are_invalid_arguments() -> None:
    """Each field out of range is refused with INVALID_ARGUMENT and a message that begins with its name."""
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    late, negative = Duration(seconds=60, nanos=1), Duration(nanos=-1)
    async with running(max_stream_count="5") as stub:
        for name in ("", "  ", "a" * 257):
            code, message = await refusal(stub.Hello(HelloRequest(name=name)))
            assert (code, message.partition(":")[0]) == (invalid, "name")
        for field, request in (
            ("name", HelloStreamRequest(name=" ", count=1)),
            ("count", HelloStreamRequest(name="ada")),
            ("count", HelloStreamRequest(name="ada", count=6)),
            ("interval", HelloStreamRequest(name="ada", count=1, interval=late)),
            ("interval", HelloStreamRequest(name="ada", count=1, interval=negative)),
        ):
            code, message = await refusal(stub.HelloStream(request).read())
            assert (code, message.partition(":")[0]) == (invalid, field)


@pytest.mark.parametrize("method", ["Hello", "HelloStream"])
async def test_what_is_no_message_is_an_invalid_argument(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """A request that cannot be decoded is the caller's mistake: no exception text, and no line in the log."""
    async with service.serve({"RSKETCH_GRPC_PORT": "0"}) as at, connection(at) as channel:
        code, details = await refusal(raw(channel, f"/{SERVICE_NAME}/{method}", streaming=method == "HelloStream"))

    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "the request is no message of the method's type")
    assert caplog.records == []


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_failing_handler_is_internal_and_says_nothing(
    streaming: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that nobody foresaw is logged here, and its text stays here."""

    async def fail(_request: bytes, _context: object) -> bytes:
        raise KeyError("hunter22")

    async def fail_late(_request: bytes, _context: object) -> AsyncIterator[bytes]:
        yield b"first"
        raise KeyError("hunter22")

    kind = grpc.unary_stream_rpc_method_handler if streaming else grpc.unary_unary_rpc_method_handler
    handlers: dict[str, Any] = {"Fail": kind(cast("Any", fail_late if streaming else fail))}
    server = grpc.aio.server(interceptors=(Guard("test.Service"),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        code, details = await refusal(raw(channel, "/test.Service/Fail", streaming=streaming))
    await server.stop(None)

    assert (code, details) == (grpc.StatusCode.INTERNAL, "the service failed")
    assert [record.getMessage() for record in caplog.records] == ["a handler failed"]


async def test_cancelled_stream_ends_its_handler() -> None:
    """A client that cancels ends the handler in the middle of an interval."""
    async with running() as stub:
        call = stream(stub, 2, 60.0)
        await call.read()
        [handler] = handlers()
        call.cancel()
        await until(lambda: handler.ag_frame is None)


async def test_deadline_ends_a_stream() -> None:
    """A stream that outlasts the caller's deadline ends with DEADLINE_EXCEEDED."""
    async with running() as stub:
        request = HelloStreamRequest(name="ada", count=2, interval=Duration(seconds=60))
        call = stub.HelloStream(request, timeout=0.3)
        assert await call.read()
        code, _ = await refusal(call.read())

    assert code == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_health() -> None:
    """The server as a whole and HelloService are SERVING; other names are unknown."""
    async with service.serve({"RSKETCH_GRPC_PORT": "0"}) as at, connection(at) as channel:
        answers = [(await check(channel, name)).status for name in ("", SERVICE_NAME)]
        code, _ = await refusal(check(channel, "nobody"))
        watched = [await next_status(watch(channel, name)) for name in ("", SERVICE_NAME, "nobody")]

    assert answers == [SERVING, SERVING]
    assert code == grpc.StatusCode.NOT_FOUND
    assert watched == [SERVING, SERVING, SERVICE_UNKNOWN]


async def test_reflection_lists_the_services() -> None:
    """A client without the contract learns which services there are."""
    async with service.serve({"RSKETCH_GRPC_PORT": "0"}) as at, connection(at) as channel:
        names = await reflected(channel)

    assert names == {SERVICE_NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_reflection_can_be_switched_off() -> None:
    """Without reflection the contract cannot be asked for."""
    environ = {"RSKETCH_GRPC_PORT": "0", "RSKETCH_GRPC_REFLECTION": "off"}
    async with service.serve(environ) as at, connection(at) as channel:
        code, _ = await refusal(reflected(channel))

    assert code == grpc.StatusCode.UNIMPLEMENTED


async def test_message_over_the_limit() -> None:
    """A request larger than the limit is RESOURCE_EXHAUSTED, and the connection goes on."""
    async with running(max_message_bytes="1KiB") as stub:
        code, _ = await refusal(stub.Hello(HelloRequest(name="a" * 1025)))
        response = await stub.Hello(HelloRequest(name="ada"))

    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert response.message == "Hello, ada!"


async def test_calls_over_the_limit() -> None:
    """With one call allowed and one in flight, a second is RESOURCE_EXHAUSTED; the first is not disturbed."""
    async with running(max_concurrent_rpcs="1", drain_seconds="0") as stub:
        first = stream(stub, 2, 9.0)
        await first.read()
        code, _ = await refusal(stub.Hello(HelloRequest(name="ada")))

        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not first.done()


async def test_old_connection_is_asked_to_go() -> None:
    """At its age a connection goes; the stream on it finishes first, and the next call takes a new connection."""
    environ = {"RSKETCH_GRPC_PORT": "0", "RSKETCH_GRPC_MAX_CONNECTION_AGE_SECONDS": "200ms"}
    async with service.serve(environ) as at, connection(at) as channel:
        stub = HelloServiceStub(channel)
        messages = [response.message async for response in stream(stub, 4, 0.2)]
        await until(lambda: channel.get_state() != grpc.ChannelConnectivity.READY)
        response = await stub.Hello(HelloRequest(name="ada"))

    assert messages == ["Hello, ada!"] * 4
    assert response.message == "Hello, ada!"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "0.0.0.0"])
async def test_hosts(host: str) -> None:
    """Names and wildcards are served too; the address keeps the host that was asked for, with a port of its own."""
    async with service.serve({"RSKETCH_GRPC_PORT": "0", "RSKETCH_GRPC_HOST": host}) as at, connection(at) as channel:
        response = await HelloServiceStub(channel).Hello(HelloRequest(name="ada"))

    assert (at.scheme, at.host) == ("grpc", host)
    assert at.port > 0
    assert response.message == "Hello, ada!"


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
async def test_ipv6_host() -> None:
    """An IPv6 address is served, and written in brackets where a port follows."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback")
    async with service.serve({"RSKETCH_GRPC_PORT": "0", "RSKETCH_GRPC_HOST": "::1"}) as at, connection(at) as channel:
        response = await HelloServiceStub(channel).Hello(HelloRequest(name="ada"))

    assert str(at) == f"grpc://[::1]:{at.port}"
    assert response.message == "Hello, ada!"


@pytest.mark.parametrize("host", ["no.such.name.invalid", "192.0.2.7", "256.1.1.1"])
async def test_hosts_that_are_not_here(host: str) -> None:
    """A name that cannot be resolved and an address of another machine are refused by the name of the setting."""
    with pytest.raises(ConfigError, match=r"^RSKETCH_GRPC_HOST: accepts a name or an IP address of this machine"):
        async with service.serve({"RSKETCH_GRPC_PORT": "0", "RSKETCH_GRPC_HOST": host}):
            pass


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_taken_port(host: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A second server on the port is refused in one line, nothing else is written, and the first goes on."""
    async with service.serve({"RSKETCH_GRPC_PORT": "0", "RSKETCH_GRPC_HOST": host}) as at:
        with pytest.raises(ConfigError) as refused:
            async with service.serve({"RSKETCH_GRPC_PORT": str(at.port)}):
                pass
        async with connection(at) as channel:
            response = await HelloServiceStub(channel).Hello(HelloRequest(name="ada"))

    assert str(refused.value) == f"RSKETCH_GRPC_PORT: accepts a free port, not '{at.port} (taken)'"
    assert capfd.readouterr() == ("", "")
    assert response.message == "Hello, ada!"


async def test_port_can_be_taken_again_at_once() -> None:
    """Connections that were open at the stop do not keep the port from the next start."""
    async with service.serve({"RSKETCH_GRPC_PORT": "0"}) as first, connection(first) as channel:
        await HelloServiceStub(channel).Hello(HelloRequest(name="ada"))
    async with service.serve({"RSKETCH_GRPC_PORT": str(first.port)}) as second:
        assert second.port == first.port


async def test_workers_share_a_port() -> None:
    """Two servers join a port that is held but not listening, and both get connections; others stay out."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        environ = {"RSKETCH_GRPC_PORT": str(held.getsockname()[1]), REUSE_PORT: "1"}
        one, two = ({**environ, "RSKETCH_GRPC_MAX_STREAM_COUNT": limit} for limit in "12")
        async with service.serve(one) as at, service.serve(two):
            limits: set[str] = set()
            async with asyncio.timeout(DEADLINE):
                while len(limits) < 2:
                    async with connection(at) as channel:
                        _, message = await refusal(stream(HelloServiceStub(channel), 3).read())
                    limits.add(message)
            with pytest.raises(ConfigError, match=r"\(taken\)"):
                async with service.serve({**environ, REUSE_PORT: ""}):
                    pass

    assert limits == {f"count: accepts a whole number from 1 to {limit}" for limit in "12"}


async def test_stream_in_flight_finishes_in_the_drain_time() -> None:
    """A stop lets the stream come to its end, refuses new calls meanwhile, and lasts no longer than the stream."""
    async with connected_stop("10s") as (channel, stop):
        stub = HelloServiceStub(channel)
        call = stream(stub, 4, 0.2)
        await call.read()
        stopped = asyncio.create_task(stop())
        await asyncio.sleep(0)
        code, _ = await refusal(stub.Hello(HelloRequest(name="ada")))
        rest = [await call.read() for _ in range(3)]
        await asyncio.wait_for(stopped, 5.0)

        # gRPC cancels a call that was on its way when the stop began; later ones do not find a server.
        assert code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert [each.message for each in rest if isinstance(each, HelloResponse)] == ["Hello, ada!"] * 3
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK


async def test_stream_is_cut_off_after_the_drain_time(caplog: pytest.LogCaptureFixture) -> None:
    """A stream that outlasts the drain time is ended with a status, its handler is gone by then, and a line says so."""
    async with connected_stop("200ms") as (channel, stop):
        call = stream(HelloServiceStub(channel), 2, 60.0)
        await call.read()
        [handler] = handlers()
        await asyncio.wait_for(stop(), 5.0)
        left = handler.ag_frame
        code, _ = await refusal(call.read())

    assert left is None
    assert code == grpc.StatusCode.UNAVAILABLE
    assert [record.getMessage() for record in caplog.records if record.name == "rsketch_grpc.server"] == [
        "the drain time of 0.2 s was used up: gRPC calls still in flight were cancelled"
    ]


async def test_watches_hear_of_the_stop_and_do_not_delay_it() -> None:
    """A watch is told NOT_SERVING and ends, so that a stop with nothing else in flight is done at once."""
    async with connected_stop("1h") as (channel, stop):
        watches = [watch(channel, name) for name in ("", SERVICE_NAME, "nobody")]
        began = [await next_status(call) for call in watches]
        await asyncio.wait_for(stop(), 5.0)
        told = [await next_status(call) for call in watches[:2]]
        ended = [(await next_status(call), await call.code()) for call in watches]

    assert began == [SERVING, SERVING, SERVICE_UNKNOWN]
    assert told == [NOT_SERVING, NOT_SERVING]
    assert ended == [(None, grpc.StatusCode.OK)] * 3


async def test_cancelled_stop_ends_the_server() -> None:
    """A stop that is itself cancelled ends the calls and frees the port, without the rest of the drain time."""
    async with connected_stop("1h") as (channel, stop):
        stub = HelloServiceStub(channel)
        call = stream(stub, 2, 9.0)
        await call.read()
        stopping = asyncio.create_task(stop())
        done, _ = await asyncio.wait((stopping,), timeout=0.1)
        assert not done
        stopping.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(stopping, 5.0)
        code, _ = await refusal(call.read())

    assert code == grpc.StatusCode.UNAVAILABLE
