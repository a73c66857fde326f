"""
The application under test: for each thing that can happen to a request, a handler to which it happens.

Written as an application is that knows of no instrumentation; what its handlers see they tell the suite.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

from sanic import Blueprint, Request, Sanic, Websocket
from sanic.exceptions import SanicException, ServerError
from sanic.response import HTTPResponse, ResponseStream, empty, file, file_stream, redirect, text
from sanic.server.websockets.connection import WebSocketConnection

from truth.witness import Witness

__all__ = ["CHUNK", "REQUEST_SECONDS", "RESPONSE_SECONDS", "UPLOAD_LIMIT", "create_app"]

App = Sanic[Any, Any]

CHUNK = 64 * 1024
"""Bytes that a flooding handler sends at once."""
REQUEST_SECONDS = 0.6
RESPONSE_SECONDS = 1.2
UPLOAD_LIMIT = 100_000

_CHUNKS = 400
_PAUSE_SECONDS = 0.1
_BLOCKED_SECONDS = 0.2
_ENDLESS_SECONDS = 20.0


def create_app(witness: Witness) -> App:
    """Return the application; its processes tell when they serve."""
    app: App = Sanic("truth", configure_logging=False)
    app.config.update(
        MOTD=False,
        ACCESS_LOG=False,
        AUTO_EXTEND=False,
        REQUEST_MAX_SIZE=UPLOAD_LIMIT,
        REQUEST_TIMEOUT=REQUEST_SECONDS,
        RESPONSE_TIMEOUT=RESPONSE_SECONDS,
        GRACEFUL_SHUTDOWN_TIMEOUT=1.0,
    )
    for add in (_answers, _streams, _bodies, _files, _failures, _waits, _middleware, _websockets):
        add(app, _Handlers(witness))
    return app


class _Handlers:
    """What all handlers share."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness

    def serving(self, request: Request) -> Any:
        """Tell of a handler's begin and end."""
        return self.witness.serving(request.headers.getone("x-case", ""))


def _answers(app: App, its: _Handlers) -> None:
    @app.route("/plain", methods=["GET", "HEAD"])
    async def plain(request: Request) -> HTTPResponse:
        with its.serving(request):
            return text("ok")

    @app.get("/users/<number:int>")
    async def user(request: Request, number: int) -> HTTPResponse:
        with its.serving(request):
            return text(f"user {number}")

    @app.post("/echo")
    async def echo(request: Request) -> HTTPResponse:
        with its.serving(request) as say:
            say(f"a body of {len(request.body)}")
            return text(f"{len(request.body)}", status=201)

    @app.get("/headers")
    async def headers(request: Request) -> HTTPResponse:
        untold = {"traceparent", "x-case", "host"}
        with its.serving(request):
            return text("\n".join(f"{name}: {value}" for name, value in request.headers.items() if name not in untold))

    @app.get("/empty")
    async def nothing(request: Request) -> HTTPResponse:
        with its.serving(request):
            return empty()

    @app.get("/moved")
    async def moved(request: Request) -> HTTPResponse:
        with its.serving(request):
            return redirect("/plain")

    @app.get("/excluded")
    async def excluded(request: Request) -> HTTPResponse:
        with its.serving(request):
            raise ValueError("excluded")

    @app.get("/background")
    async def background(request: Request) -> HTTPResponse:
        async def later() -> None:
            with its.serving(request):
                await asyncio.sleep(0.7)

        with its.serving(request):
            request.app.add_task(later())
            return text("accepted", status=202)


def _streams(app: App, its: _Handlers) -> None:
    @app.route("/stream", methods=["GET", "HEAD"])
    async def stream(request: Request) -> None:
        with its.serving(request) as say:
            response = await request.respond(content_type="text/plain")
            for number in range(4):
                await response.send(f"part {number} ")
                say(f"sent {number}")
                await asyncio.sleep(_PAUSE_SECONDS if number < 3 else 0)
            await response.eof()

    @app.get("/events")
    async def events(request: Request) -> None:
        with its.serving(request):
            response = await request.respond(content_type="text/event-stream", headers={"cache-control": "no-cache"})
            for number in range(4):
                await response.send(f"id: {number}\ndata: tick\n\n")
                await asyncio.sleep(_PAUSE_SECONDS if number < 3 else 0)

    @app.get("/callback")
    async def callback(request: Request) -> ResponseStream:
        async def write(response: Any) -> None:
            with its.serving(request):
                await response.write("first ")
                await asyncio.sleep(3 * _PAUSE_SECONDS)
                await response.write("last")

        return ResponseStream(write, content_type="text/plain")


def _bodies(app: App, its: _Handlers) -> None:
    @app.post("/upload", stream=True)
    async def upload(request: Request) -> HTTPResponse:
        with its.serving(request) as say:
            total = 0
            while (part := await request.stream.read()) is not None:  # type: ignore[union-attr]  # it has one
                total += len(part)
            say(f"read {total}")
            return text(f"{total}")

    @app.get("/flood")
    async def flood(request: Request) -> None:
        """Tell whether sending was ever held back, as it must be by a client that does not read."""
        with its.serving(request) as say:
            loop, longest = asyncio.get_running_loop(), 0.0
            response = await request.respond(content_type="application/octet-stream")
            for _ in range(_CHUNKS):
                begin = loop.time()
                await response.send(b"x" * CHUNK)
                longest = max(longest, loop.time() - begin)
            say("held back" if longest > _BLOCKED_SECONDS else "never held back")
            await response.eof()


def _files(app: App, its: _Handlers) -> None:
    path = its.witness.folder / f"file-{os.getpid()}.txt"
    path.write_bytes(bytes(range(32, 127)) * 500)
    # It is in the response's headers.
    os.utime(path, (1_000_000_000, 1_000_000_000))
    app.static("/static/file.txt", path, name="static_file", use_content_range=True)

    @app.get("/file")
    async def whole(request: Request) -> HTTPResponse:
        with its.serving(request):
            return await file(path, validate_when_requested=False)

    @app.get("/parts")
    async def parts(request: Request) -> ResponseStream:
        with its.serving(request):
            return await file_stream(path, chunk_size=10_000)


def _failures(app: App, its: _Handlers) -> None:
    def fails(name: str, error: Callable[[], BaseException]) -> None:
        async def handler(request: Request) -> HTTPResponse:
            with its.serving(request):
                raise error()

        app.add_route(handler, f"/{name}", name=name)

    fails("defect", lambda: ValueError("a defect"))
    fails("teapot", lambda: SanicException("short and stout", status_code=418))
    fails("refused", lambda: SanicException("later", status_code=503))
    fails("fault", lambda: ServerError("a fault"))
    fails("handled", lambda: KeyError("gone"))
    fails("cancelled", asyncio.CancelledError)

    @app.exception(LookupError)
    async def handled(request: Request, error: LookupError) -> HTTPResponse:
        return text("gone", status=410)

    @app.get("/unavailable")
    async def unavailable(request: Request) -> HTTPResponse:
        with its.serving(request):
            return text("later", status=503)

    @app.get("/unbegun")
    async def unbegun(request: Request) -> None:
        with its.serving(request):
            await request.respond()
            raise ValueError("before the first chunk")

    @app.get("/half")
    async def half(request: Request) -> None:
        with its.serving(request):
            response = await request.respond()
            await response.send("half")
            raise ValueError("after the first chunk")

    rendered = Blueprint("rendered", url_prefix="/rendered")

    @rendered.get("/")
    async def defect(request: Request) -> HTTPResponse:
        with its.serving(request):
            raise RuntimeError("rendered")

    @rendered.exception(Exception)  # type: ignore[untyped-decorator]  # by Sanic
    async def render(request: Request, error: Exception) -> HTTPResponse:
        return text("sorry", status=500)

    app.blueprint(rendered)


def _waits(app: App, its: _Handlers) -> None:
    @app.get("/late")
    async def late(request: Request) -> HTTPResponse:
        with its.serving(request):
            await asyncio.sleep(_ENDLESS_SECONDS)
            return text("late")

    @app.get("/late-end")
    async def late_end(request: Request) -> None:
        with its.serving(request):
            response = await request.respond()
            await response.send("begun")
            await asyncio.sleep(_ENDLESS_SECONDS)

    @app.get("/endless")
    async def endless(request: Request) -> None:
        with its.serving(request) as say:
            response = await request.respond()
            await response.send("x" * 1000)
            say("sent")
            while True:
                await asyncio.sleep(0.01)
                await response.send("x" * 1000)

    @app.get("/nap")
    async def nap(request: Request) -> HTTPResponse:
        with its.serving(request):
            await asyncio.sleep(_PAUSE_SECONDS)
            return text(request.args.get("n", ""))


def _middleware(app: App, its: _Handlers) -> None:
    @app.on_request
    async def early(request: Request) -> HTTPResponse | None:
        if not request.path.startswith("/early/"):
            return None
        with its.serving(request):
            return text("who are you?", status=401)

    @app.on_response  # type: ignore[untyped-decorator]  # by Sanic
    async def replace(request: Request, response: HTTPResponse) -> HTTPResponse | None:
        return text("replaced", status=308) if request.path == "/replaced" else None

    @app.get("/early/<name:str>")
    async def never(request: Request, name: str) -> HTTPResponse:
        with its.serving(request):
            return text("never")

    @app.get("/replaced")
    async def replaced(request: Request) -> HTTPResponse:
        with its.serving(request):
            return text("original")


def _websockets(app: App, its: _Handlers) -> None:
    @app.websocket("/socket/<name:str>")  # type: ignore[untyped-decorator]  # by Sanic
    async def echoes(request: Request, ws: Websocket, name: str) -> None:
        with its.serving(request) as say:
            async for message in _messages(ws):
                say(f"got {message!r}")
                await ws.send(message)

    @app.websocket("/socket-fails")  # type: ignore[untyped-decorator]  # by Sanic
    async def fails(request: Request, ws: Websocket) -> None:
        with its.serving(request):
            await ws.recv()
            raise ValueError("in the socket")


async def _messages(ws: Any) -> AsyncIterator[Any]:
    """Yield what comes until the client closes; Sanic's websocket under ASGI cannot be iterated and returns None."""
    if isinstance(ws, WebSocketConnection):
        while (message := await ws.recv()) is not None:
            yield message
        return
    async for message in ws:
        yield message
