"""The scenarios of a HTTP server: a Sanic application on a socket, and requests as bytes."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from sanic import Request
from sanic.exceptions import NotFound
from sanic.response import HTTPResponse, text
from sanic_server import App, Telemetry, create_app, send, serving

from .expectations import Observed
from .runners import observed, runs

_ITEM = "/items/7"
_Client = Callable[[App, int], Awaitable[int | None]]
"""Makes the one request to an application on a port; returns when its span may end at the earliest, if that matters."""


async def _item(request: Request, id: int) -> HTTPResponse | None:  # noqa: A002 - the scenarios call it so
    match id:
        case 404:
            raise NotFound("no such item")
        case 500:
            raise ValueError("boom")
        case 503:
            return text("later", status=503)
        case 700:
            await _broken(request)
        case 701:
            await _endless(request)
    return text("item")


async def _broken(request: Request) -> None:
    response = await request.respond(content_type="text/plain", headers=request.app.ctx.heading)
    await response.send("a chunk")
    # Until the client has it: then the head was sent long before the response is given up.
    await asyncio.wait_for(request.app.ctx.seen.wait(), 10)
    raise RuntimeError("broken")


async def _endless(request: Request) -> None:
    response = await request.respond(content_type="text/plain")
    while True:
        await response.send("a chunk")
        await asyncio.sleep(0.05)


def _application() -> App:
    app = create_app(FALLBACK_ERROR_FORMAT="text")
    app.ctx.seen = asyncio.Event()
    app.ctx.heading = {}
    app.add_route(_item, "/items/<id:int>")
    return app


async def _observe(client: _Client, settings: InstrumentorSettings | None = None) -> Observed:
    with Telemetry.recording() as telemetry:
        telemetry.instrument(settings or InstrumentorSettings())
        app = _application()
        async with serving(app) as port:
            not_before_ns = await client(app, port)
            return await observed(telemetry, {"$PORT": port}, not_before_ns)


def _request(target: str, *headers: str, expect: int | range, method: str = "GET", host: str | None = None) -> _Client:
    """Return a client that makes one request and checks that it is answered with the status *expect*."""

    async def client(_app: App, port: int) -> None:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host or f'127.0.0.1:{port}'}", "Connection: close", *headers]
        answer = await send(port, "\r\n".join([*lines, "", ""]).encode())
        status = int(answer.split(b" ", 2)[1])
        assert status in (range(expect, expect + 1) if isinstance(expect, int) else expect), answer

    return client


_CLIENT_ERRORS = range(400, 500)


@runs("http-200-route")
@runs("http-protocol-version")
async def _ok(_folder: Path) -> Sequence[Observed]:
    return [await _observe(_request(_ITEM, expect=200))]


@runs("http-404-no-route")
async def _no_route(_folder: Path) -> Sequence[Observed]:
    return [await _observe(_request("/nowhere/at/all", expect=404))]


@runs("http-404-raised-by-handler")
async def _not_found(_folder: Path) -> Sequence[Observed]:
    return [await _observe(_request("/items/404", expect=404))]


@runs("http-405")
async def _method_not_allowed(_folder: Path) -> Sequence[Observed]:
    return [await _observe(_request(_ITEM, "Content-Length: 0", method="POST", expect=405))]


@runs("http-500-unhandled-exception")
async def _unhandled(_folder: Path) -> Sequence[Observed]:
    return [await _observe(_request("/items/500", expect=500))]


@runs("http-503-returned")
async def _unavailable(_folder: Path) -> Sequence[Observed]:
    return [await _observe(_request("/items/503", expect=503))]


@runs("http-method-unknown")
async def _unknown_method(_folder: Path) -> Sequence[Observed]:
    return [await _observe(_request(_ITEM, method="FOO", expect=_CLIENT_ERRORS))]


@runs("http-method-query-is-known")
async def _query_method(_folder: Path) -> Sequence[Observed]:
    return [await _observe(_request("/nowhere", method="QUERY", expect=_CLIENT_ERRORS))]


@runs("http-method-lower-case")
async def _lower_case_method(_folder: Path) -> Sequence[Observed]:
    return [await _observe(_request(_ITEM, method="get", expect=range(200, 500)))]


@runs("http-query-secrets")
async def _query_secrets(_folder: Path) -> Sequence[Observed]:
    target = f"{_ITEM}?sig=s3cr3t-one&X-Amz-Signature=s3cr3t-two&page=2"
    return [await _observe(_request(target, expect=200))]


@runs("http-host-ipv6")
async def _ipv6_host(_folder: Path) -> Sequence[Observed]:
    return [await _observe(_request(_ITEM, host="[::1]:8080", expect=200))]


@asynccontextmanager
async def _asking(port: int, target: str) -> AsyncIterator[asyncio.StreamReader]:
    """Ask for *target*, and leave with the end of the block, whatever is still to come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()


@runs("http-stream-broken-by-exception")
async def _broken_stream(_folder: Path) -> Sequence[Observed]:
    # In chunks Sanic hides from the client that anything is missing; with a length announced it cannot.
    return [await _observe(_breaking({})), await _observe(_breaking({"content-length": "100"}))]


def _breaking(heading: dict[str, str]) -> _Client:
    async def client(app: App, port: int) -> int:
        app.ctx.heading = heading
        async with _asking(port, "/items/700") as reader:
            await asyncio.wait_for(reader.readuntil(b"a chunk"), 10)
            given_up_after_ns = time.time_ns()
            app.ctx.seen.set()
            await asyncio.wait_for(reader.read(), 10)
        return given_up_after_ns

    return client


@runs("http-client-leaves-mid-stream")
async def _client_leaves(_folder: Path) -> Sequence[Observed]:
    async def client(_app: App, port: int) -> int:
        async with _asking(port, "/items/701") as reader:
            for _ in range(2):
                await asyncio.wait_for(reader.readuntil(b"a chunk"), 10)
            return time.time_ns()

    return [await _observe(client)]


@runs("http-captured-request-header")
async def _captured_header(_folder: Path) -> Sequence[Observed]:
    settings = InstrumentorSettings(request_headers=frozenset({"x-tenant"}))
    client = _request(_ITEM, "X-Tenant: a", "X-Tenant: b", "X-Other: c", expect=200)
    return [await _observe(client, settings)]


@runs("http-user-agent")
async def _user_agent(_folder: Path) -> Sequence[Observed]:
    without = await _observe(_request(_ITEM, expect=200))
    assert "user_agent.original" not in without.spans[0].attributes
    return [await _observe(_request(_ITEM, "User-Agent: oracle/1.0 (test)", expect=200))]
