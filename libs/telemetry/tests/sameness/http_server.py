"""The Sanic application that is called: how its handlers end."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from opentelemetry import trace
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.sanic import SanicInstrumentor
from rsketch_telemetry.sdk import Providers
from sanic import Request, SanicException, Websocket
from sanic.exceptions import BadRequest, NotFound, ServerError
from sanic.response import HTTPResponse, ResponseStream, empty, redirect, text
from sanic_server import App, create_app
from sanic_server import asgi as served_by_uvicorn
from sanic_server import serving as served_by_sanic

from .acts import acted
from .values import KEYS, OURS, VALUES

__all__ = ["ERRORS", "by_sanic", "by_sanic_in_haste", "by_uvicorn"]


@asynccontextmanager
async def by_sanic(made: Providers, settings: InstrumentorSettings) -> AsyncIterator[int]:
    """Serve by Sanic's own server."""
    async with _instrumented(made, settings), served_by_sanic(_app(made)) as port:
        yield port


@asynccontextmanager
async def by_sanic_in_haste(made: Providers, settings: InstrumentorSettings) -> AsyncIterator[int]:
    """Serve so with little time for everything, and behind a proxy."""
    app = _app(made, REQUEST_TIMEOUT=0.3, RESPONSE_TIMEOUT=0.3, KEEP_ALIVE_TIMEOUT=0.3, PROXIES_COUNT=1)
    async with _instrumented(made, settings), served_by_sanic(app) as port:
        yield port


@asynccontextmanager
async def by_uvicorn(made: Providers, settings: InstrumentorSettings) -> AsyncIterator[int]:
    """Serve as an ASGI application."""
    async with _instrumented(made, settings), served_by_uvicorn(_app(made)) as port:
        yield port


@asynccontextmanager
async def _instrumented(made: Providers, settings: InstrumentorSettings) -> AsyncIterator[None]:
    instrumentor = SanicInstrumentor()
    instrumentor.instrument(
        tracer_provider=made.tracers, meter_provider=made.meters, logger_provider=made.loggers, settings=settings
    )
    try:
        yield
    finally:
        instrumentor.uninstrument()


def _app(made: Providers, **settings: Any) -> App:
    app = create_app(REQUEST_MAX_SIZE=10_000, **settings)
    app.ctx.made = made
    for uri, handler, methods in _ROUTES:
        app.add_route(handler, uri, methods=methods, name=uri.strip("/").replace("/", "-").translate(_NAME))
    app.add_websocket_route(_feed, "/feed/<name:str>")
    app.exception(LookupError)(_gone)
    app.exception(ZeroDivisionError)(_rendered)
    app.on_request(_early)
    app.register_middleware(_late, "response")
    return app


async def _user(request: Request, number: int) -> HTTPResponse:
    return text(str(number))


async def _things(request: Request) -> HTTPResponse:
    return text(str(len(request.body)), status=201)


async def _status(request: Request, code: int) -> HTTPResponse:
    return empty() if code == 204 else text("x", status=code)


async def _returned_at_once(request: Request) -> HTTPResponse:
    return text("ok", headers={"x-shop": "7", "set-cookie": "id=1", "x-twice": "a"})


async def _raised(request: Request, name: str) -> HTTPResponse:
    error = ERRORS[name]()
    raise error


class _OddError(Exception):
    """Cannot be made text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class _ClosedError(Exception):
    """Has no room for attributes."""

    __slots__ = ()


def _caused() -> Exception:
    error = ValueError("later")
    error.__cause__ = KeyError("first")
    return error


ERRORS: Final[dict[str, Any]] = {
    "ValueError": lambda: ValueError("boom password=hush"),
    "empty": RuntimeError,
    "long": lambda: RuntimeError("x" * 9000),
    "odd": _OddError,
    "closed": _ClosedError,
    "caused": _caused,
    "group": lambda: ExceptionGroup("several", [ValueError("1"), KeyError("2")]),
    "surrogate": lambda: ValueError("\udc80"),
    "lookup": lambda: KeyError("x"),
    "rendered": lambda: ZeroDivisionError("x"),
    "not-found": lambda: NotFound("x"),
    "bad-request": lambda: BadRequest("x"),
    "teapot": lambda: SanicException("x", status_code=418),
    "server-error": lambda: ServerError("x"),
    "unavailable": lambda: SanicException("x", status_code=503, quiet=True),
    "cancelled": asyncio.CancelledError,
    "timeout": TimeoutError,
    "assertion": lambda: AssertionError("x"),
    "stop": lambda: StopAsyncIteration("x"),
}


async def _gone(request: Request, error: LookupError) -> HTTPResponse:
    return text("gone", status=410)


async def _rendered(request: Request, error: ZeroDivisionError) -> HTTPResponse:
    return text("sorry", status=503)


async def _early(request: Request) -> HTTPResponse | None:
    match request.headers.get("x-early"):
        case "answer":
            return text("who are you?", status=401)
        case "fail":
            raise ValueError("early")
    return None


async def _late(request: Request, _: Any) -> HTTPResponse | None:
    match request.headers.get("x-late"):
        case "replace":
            return text("moved", status=308)
        case "fail":
            raise ValueError("late")
    return None


async def _streamed(request: Request, how: str) -> HTTPResponse | None:
    response = await request.respond(content_type="text/plain", headers={"x-shop": "7"})
    await response.send("first ")
    match how:
        case "fails":
            raise ValueError("broken")
        case "teapot":
            raise SanicException("x", status_code=418)
        case "for-ever":
            while True:
                await response.send("x" * 1000)
                await asyncio.sleep(0.01)
        case "early-eof":
            await response.send("last")
            await response.eof()
            await asyncio.sleep(0.02)
        case "marked":
            trace.get_current_span().set_attribute("shop.streamed", True)
    await response.send("last", end_stream=True) if how != "early-eof" else None
    return None


async def _written(request: Request) -> HTTPResponse:
    async def write(response: Any) -> None:
        await response.write("x" * 10)
        trace.get_current_span().add_event("written")

    return ResponseStream(write)  # type: ignore[return-value]  # Sanic takes it


async def _slow(request: Request) -> HTTPResponse:
    await asyncio.sleep(30)
    return empty()


async def _moved(request: Request) -> HTTPResponse:
    return redirect("/users/1")


async def _read(request: Request) -> HTTPResponse:
    return text(str(request.json))


async def _feed(request: Request, ws: Websocket, name: str) -> None:
    span = trace.get_current_span()
    await ws.send("hello")
    while (said := await ws.recv()) is not None:
        match said:
            case "fail":
                raise ValueError("feed")
            case "mark":
                span.set_attribute("shop.marked", 1)
                span.add_event("marked")
            case "child":
                request.app.ctx.made.tracers.get_tracer("shop").start_span("message").end()
            case "close":
                return
        await ws.send(f"{said!s} done")


async def _does(request: Request, name: str) -> HTTPResponse:
    return await _answer(request, name)


async def _does_and_fails(request: Request, name: str) -> HTTPResponse:
    await _answer(request, name)
    raise ValueError("afterwards")


async def _answer(request: Request, name: str) -> HTTPResponse:
    return text(json.dumps(await acted(name, request.app.ctx.made), default=repr))


async def _sets_value(request: Request, name: str) -> HTTPResponse:
    trace.get_current_span().set_attribute("shop.value", VALUES[name])
    return text("set")


async def _sets_key(request: Request, name: str) -> HTTPResponse:
    trace.get_current_span().set_attribute(KEYS[name], "x")
    return text("set")


async def _sets_ours(request: Request, name: str) -> HTTPResponse:
    trace.get_current_span().set_attribute(name, OURS[name])
    return text("set")


_NAME = str.maketrans("", "", "<>:")
_ANY = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
_GET = ("GET",)
_ROUTES: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("/users/<number:int>", _user, _GET),
    ("/things", _things, _ANY),
    ("/status/<code:int>", _status, _GET),
    ("/plain", _returned_at_once, _GET),
    ("/health", _things, _GET),
    ("/private/<code:int>", _status, _GET),
    ("/raise/<name:str>", _raised, _GET),
    ("/stream/<how:str>", _streamed, _GET),
    ("/write", _written, _GET),
    ("/slow", _slow, _GET),
    ("/moved", _moved, _GET),
    ("/read", _read, ("POST",)),
    ("/do/<name:str>", _does, ("GET", "POST")),
    ("/fail/<name:str>", _does_and_fails, _GET),
    ("/value/<name:str>", _sets_value, _GET),
    ("/key/<name:str>", _sets_key, _GET),
    ("/ours/<name:str>", _sets_ours, _GET),
)
