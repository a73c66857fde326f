"""What happens to connections when the service is closed."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from rsketch import Address
from rsketch_http.config import HttpConfig
from rsketch_http.readiness import Phase, Readiness
from rsketch_http.server import bind, running, serving
from sanic import Sanic
from sanic.exceptions import ServiceUnavailable
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from services.http.tests.conftest import Upstream

STREAM = "/api/v1/hello/stream?name=ada"


@dataclass
class Running:
    """A service that can be told to stop while one looks on."""

    at: Address
    stopping: asyncio.Event
    task: asyncio.Task[None]

    async def stopped(self) -> None:
        """Wait until it has stopped."""
        self.stopping.set()
        await asyncio.wait_for(asyncio.shield(self.task), 10)


@asynccontextmanager
async def service(upstream: Upstream, drain: str = "5s") -> AsyncIterator[Running]:
    """Run the HTTP service in a task of its own."""
    environ = {
        "RSKETCH_HTTP_PORT": "0",
        "RSKETCH_GRPC_ADDRESS": f"127.0.0.1:{upstream.port}",
        "RSKETCH_HTTP_DRAIN_SECONDS": drain,
    }
    started: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
    stopping = asyncio.Event()

    async def run() -> None:
        async with serving(HttpConfig.from_env(environ), touch_up=False) as at:
            started.set_result(at)
            await stopping.wait()

    task = asyncio.create_task(run())
    try:
        yield Running(await asyncio.wait_for(started, 10), stopping, task)
    finally:
        stopping.set()
        await task


@dataclass
class Connection:
    """A raw HTTP/1.1 connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    @asynccontextmanager
    async def to(cls, at: Address) -> AsyncIterator[Connection]:
        """Connect."""
        reader, writer = await asyncio.open_connection(at.host, at.port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    def send(self, text: str) -> None:
        """Send *text* with its line ends made those of HTTP."""
        self.writer.write(text.replace("\n", "\r\n").encode())

    async def head(self) -> str:
        """Return the next head."""
        return (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)).decode().lower()

    async def get(self, path: str) -> tuple[str, bytes]:
        """Ask and return head and body."""
        self.send(f"GET {path} HTTP/1.1\nhost: x\n\n")
        return await self.answer()

    async def answer(self) -> tuple[str, bytes]:
        """Return head and body of the next response."""
        head = await self.head()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return head, await asyncio.wait_for(self.reader.readexactly(length), 5)

    async def rest(self) -> bytes:
        """Return all bytes up to the end of the connection."""
        return await asyncio.wait_for(self.reader.read(), 5)


async def refuses(at: Address) -> bool:
    """Return whether a new connection is refused."""
    try:
        _, writer = await asyncio.open_connection(at.host, at.port)
    except OSError:
        return True
    writer.close()
    return False


async def until_refused(at: Address) -> None:
    """Wait until new connections are refused."""
    async with asyncio.timeout(5):
        while not await refuses(at):
            await asyncio.sleep(0.01)


async def test_a_one_second_stream_completes(upstream: Upstream) -> None:
    """A stream that has begun is sent whole, its connection is closed after it, and the close waits for both."""
    async with service(upstream) as http, Connection.to(http.at) as busy:
        busy.send(f"GET {STREAM}&count=11&interval=100ms HTTP/1.1\nhost: x\n\n")
        await busy.head()
        http.stopping.set()
        body = await busy.rest()
        await http.stopped()

    assert body.count(b"data: ") == 11
    assert body.endswith(b"0\r\n\r\n")


async def test_a_request_in_flight_is_answered_with_connection_close(upstream: Upstream) -> None:
    """A request whose handler runs when the drain begins is answered, and told that the connection ends."""
    async with service(upstream) as http, Connection.to(http.at) as busy:
        busy.send('POST /api/v1/hello HTTP/1.1\nhost: x\ncontent-type: application/json\ncontent-length: 14\n\n{"na')
        async with Connection.to(http.at) as other:
            await other.get("/livez")
        http.stopping.set()
        await until_refused(http.at)
        busy.send('me":"ada"}')
        head, body = await busy.answer()
        after = await busy.rest()
        await http.stopped()

    assert "200 ok" in head
    assert "connection: close" in head
    assert json.loads(body) == {"message": "Hello, ada!"}
    assert after == b""


async def test_idle_connections_are_closed_and_new_ones_refused(upstream: Upstream) -> None:
    """While a stream is still sent, idle keep-alive connections and fresh ones end, and nobody new comes in."""
    async with (
        service(upstream) as http,
        Connection.to(http.at) as idle,
        Connection.to(http.at) as fresh,
        Connection.to(http.at) as busy,
    ):
        head, _ = await idle.get("/health")
        busy.send(f"GET {STREAM}&count=3&interval=300ms HTTP/1.1\nhost: x\n\n")
        await busy.head()
        http.stopping.set()
        ends = [await idle.rest(), await fresh.rest()]
        refused, still_busy = await refuses(http.at), not http.task.done()
        body = await busy.rest()

    assert "connection: keep-alive" in head
    assert ends == [b"", b""]
    assert refused
    assert still_busy
    assert body.count(b"data: ") == 3


async def test_readiness_says_draining_to_those_still_connected(upstream: Upstream) -> None:
    """A readiness request that is under way when the drain begins gets a 503 that says so, as the last answer."""
    async with (
        service(upstream) as http,
        Connection.to(http.at) as probe,
        Connection.to(http.at) as busy,
    ):
        busy.send(f"GET {STREAM}&count=2&interval=60s HTTP/1.1\nhost: x\n\n")
        await busy.head()
        before, _ = await probe.get("/readyz")
        probe.send("GET /readyz HTTP/1.1\nhost: x\n")
        async with Connection.to(http.at) as other:
            await other.get("/livez")
        http.stopping.set()
        await until_refused(http.at)
        probe.send("\n")
        head, body = await probe.answer()
        busy.writer.close()

    assert "200 ok" in before
    assert "503 service unavailable" in head
    assert "connection: close" in head
    assert json.loads(body)["detail"] == "Not ready: draining."


async def test_what_is_left_after_its_time_is_ended(upstream: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    """The close waits no longer than was set; the stream is visibly cut off, its call cancelled, and that is logged."""
    loop = asyncio.get_running_loop()
    async with service(upstream, drain="200ms") as http, Connection.to(http.at) as busy:
        busy.send(f"GET {STREAM}&count=2&interval=60s HTTP/1.1\nhost: x\n\n")
        await busy.head()
        begun = loop.time()
        with caplog.at_level(logging.INFO):
            await http.stopped()
        took = loop.time() - begun
        body = await busy.rest()
        await asyncio.wait_for(upstream.greeter.cancelled.wait(), 5)

    assert 0.2 <= took < 2
    assert body.count(b"data: ") == 1
    assert not body.endswith(b"0\r\n\r\n")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO] == [
        "1 connections were still busy after 0.2 s and were ended"
    ]


async def test_a_request_that_hangs_before_its_answer_is_ended_too(upstream: Upstream) -> None:
    """A handler that waits for the greeting service is cancelled after the drain time, and so is its call."""
    async with service(upstream, drain="200ms") as http, Connection.to(http.at) as busy:
        busy.send("GET /api/v1/hello?name=stuck HTTP/1.1\nhost: x\n\n")
        await asyncio.wait_for(upstream.greeter.arrived.wait(), 5)
        await http.stopped()
        await asyncio.wait_for(upstream.greeter.cancelled.wait(), 5)


async def test_nothing_to_drain_closes_at_once(upstream: Upstream) -> None:
    """Without a request in flight the drain time is not waited for."""
    loop = asyncio.get_running_loop()
    async with service(upstream, drain="1h") as http, Connection.to(http.at) as idle:
        await idle.get("/health")
        begun = loop.time()
        await http.stopped()

    assert loop.time() - begun < 1


async def test_a_drain_time_of_zero_ends_requests_at_once(upstream: Upstream) -> None:
    """0 is a time like any other."""
    async with service(upstream, drain="0") as http, Connection.to(http.at) as busy:
        busy.send("GET /api/v1/hello?name=stuck HTTP/1.1\nhost: x\n\n")
        await asyncio.wait_for(upstream.greeter.arrived.wait(), 5)
        await http.stopped()


async def test_a_request_that_is_cut_off_knows_who_did_it() -> None:
    """What Sanic keeps of its own cuts is there for this one too, so that telemetry does not blame the client."""
    config = HttpConfig(port=0, drain_seconds=0)
    started = asyncio.Event()
    causes: list[Any] = []

    async def slow(request: Any) -> None:
        try:
            started.set()
            await asyncio.sleep(60)
        finally:
            causes.append(request.stream.exception)

    async def ready() -> bool:
        return True

    app = Sanic("drain_cause", configure_logging=False)
    app.config.update(AUTO_EXTEND=False, TOUCHUP=False, MOTD=False, ACCESS_LOG=False)
    app.ctx.max_body_bytes = config.max_body_bytes
    app.add_route(slow, "/slow")
    sock = await bind(config)
    try:
        async with running(app, sock, config, Readiness(ready)):
            _, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
            await asyncio.wait_for(started.wait(), 5)
        writer.close()
    finally:
        Sanic.unregister_app(app)
        sock.close()

    assert [type(cause) for cause in causes] == [ServiceUnavailable]


async def test_websockets_are_closed_as_going_away() -> None:
    """A websocket is told 1001 when its time is up; the drain knows them although this service has none yet."""
    config = HttpConfig(port=0, drain_seconds=0.1)

    async def echo(request: Any, ws: Any) -> None:
        await ws.send("hello")
        await ws.recv()

    async def ready() -> bool:
        return True

    app = Sanic("drain_websocket", configure_logging=False)
    app.config.update(AUTO_EXTEND=False, TOUCHUP=False, MOTD=False, ACCESS_LOG=False)
    app.ctx.max_body_bytes = config.max_body_bytes
    app.add_websocket_route(echo, "/ws")
    sock = await bind(config)
    readiness = Readiness(ready)
    try:
        async with running(app, sock, config, readiness):
            assert readiness.phase is Phase.SERVING
            ws = await connect(f"ws://127.0.0.1:{sock.getsockname()[1]}/ws", proxy=None)
            await ws.recv()
        with pytest.raises(ConnectionClosed) as closed:
            await ws.recv()
        await ws.wait_closed()
    finally:
        Sanic.unregister_app(app)
        sock.close()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001


async def test_clients_with_a_pool_are_served_up_to_the_end(upstream: Upstream) -> None:
    """A client that keeps asking sees only whole answers and refused or closed connections, never a truncated one."""
    answers = 0
    async with service(upstream) as http, httpx.AsyncClient(base_url=str(http.at), trust_env=False) as client:

        async def ask() -> None:
            nonlocal answers
            while True:
                try:
                    response = await client.get("/api/v1/hello?name=ada")
                except httpx.TransportError:
                    return
                assert response.json() == {"message": "Hello, ada!"}
                answers += 1

        asking = [asyncio.create_task(ask()) for _ in range(8)]
        async with asyncio.timeout(5):
            while answers < 100:
                await asyncio.sleep(0.01)
        await http.stopped()
        await asyncio.gather(*asking)

    assert answers >= 100
