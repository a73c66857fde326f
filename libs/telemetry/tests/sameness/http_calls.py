"""How HTTP requests are made: raw bytes over a socket, so that nothing is added that the case does not say."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import websockets

from .play import Case, Place
from .rendered import CALLER_SPAN, CALLER_TRACE

__all__ = ["TRACEPARENT", "get", "leaving", "raw", "traceparent", "websocket"]


def traceparent(flags: str = "01", trace: str = "8448eb211c80319c") -> str:
    """Return a caller's header."""
    return f"00-{CALLER_TRACE}{trace}-{CALLER_SPAN}69203331-{flags}"


TRACEPARENT = traceparent()


def get(
    name: str,
    target: str = "",
    *headers: str,
    method: str = "GET",
    body: bytes = b"",
    durations: int = 1,
    spans: int = 0,
    host: str = "Host: shop.example",
) -> Case:
    """Return one request on a connection of its own; *name* is the target as well, where none is given."""
    lines = [f"{method} {target or name} HTTP/1.1", host, *headers, "Connection: close"]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([line for line in lines if line]) + "\r\n\r\n"
    return raw(name, head.encode("latin-1") + body, durations=durations, spans=spans)


def raw(name: str, sent: bytes, *, durations: int = 1, spans: int = 0) -> Case:
    """Return a connection on which bytes are sent, and that the server closes."""

    async def call(place: Place) -> Sequence[str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        try:
            writer.write(sent)
            return _lines(await asyncio.wait_for(reader.read(), 10))
        finally:
            writer.close()

    return Case(name=name, call=call, durations=durations, spans=spans)


def leaving(name: str, sent: bytes, after: bytes = b"", *, durations: int = 1, spans: int = 0) -> Case:
    """Return a connection that the client cuts, once it has received *after*."""

    async def call(place: Place) -> Sequence[str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(sent)
        if after:
            await asyncio.wait_for(reader.readuntil(after), 10)
        else:
            await asyncio.sleep(0.05)
        writer.transport.abort()
        return ()

    return Case(name=name, call=call, durations=durations, spans=spans)


_MORE_HEADERS = "additional_headers" if int(version("websockets").partition(".")[0]) >= 14 else "extra_headers"
"""What older releases of the client call it."""


def websocket(name: str, talk: Callable[[Any], Awaitable[Any]], *, spans: int = 0, **headers: str) -> Case:
    """Return a websocket on which *talk* takes place; it closes if that has not."""

    async def call(place: Place) -> Sequence[str]:
        more: dict[str, Any] = {_MORE_HEADERS: headers}
        client = await websockets.connect(f"ws://127.0.0.1:{place.port}/feed/x", compression=None, **more)
        try:
            assert await client.recv() == "hello"
            return [str(await talk(client))]
        finally:
            # Older releases complain of a connection that is gone already.
            with suppress(websockets.ConnectionClosed):
                await client.close()

    return Case(name=name, call=call, spans=spans)


def _lines(answer: bytes) -> list[str]:
    return answer.decode("latin-1").splitlines()
