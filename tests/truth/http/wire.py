"""
A client that writes and reads HTTP/1.1 byte by byte, so that nothing between two servers' answers is smoothed over.

What it returns is plain and complete: status line, headers in their order (without `Date`), body as it was framed.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from truth.frame import Plain, Run

__all__ = ["Connection", "connect", "fetch", "head", "plain", "trip"]

Headers = Iterable[tuple[str, str]]

_UNTOLD = {b"date"}
"""Headers that differ from one answer to the next."""
_READ_SECONDS = 10.0


class Connection:
    """An open connection to the server of a run."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Write some bytes."""
        self._writer.write(data)
        # Whoever is refused finds out when reading.
        with suppress(ConnectionError):
            await self._writer.drain()

    async def rest(self) -> bytes:
        """Return all that comes until the server closes."""
        parts = []
        with suppress(ConnectionError):
            async with asyncio.timeout(_READ_SECONDS):
                while part := await self.reader.read(65536):
                    parts.append(part)
        return b"".join(parts)

    async def until(self, end: bytes) -> bytes:
        """Return what comes up to and with *end*; less where the server closes before."""
        try:
            async with asyncio.timeout(_READ_SECONDS):
                return await self.reader.readuntil(end)
        except asyncio.IncompleteReadError as error:
            return error.partial

    async def answer(self) -> bytes:
        """Return one whole response of a connection that stays open."""
        start = await self.until(b"\r\n\r\n")
        headers = start.lower().split(b"\r\n")
        if b"transfer-encoding: chunked" in headers:
            return start + await self.until(b"0\r\n\r\n")
        length = next((int(line[len(_LENGTH) :]) for line in headers if line.startswith(_LENGTH)), 0)
        return start + await self.reader.readexactly(length)

    def vanish(self) -> None:
        """Close without a word, as a client does whose machine was switched off and on."""
        self._writer.transport.abort()


_LENGTH = b"content-length:"


@asynccontextmanager
async def connect(run: Run, limit: int = 65536) -> AsyncIterator[Connection]:
    """Open a connection; it is closed at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", run.port, limit=limit)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def head(
    run: Run,
    target: str,
    method: str = "GET",
    headers: Headers = (),
    *,
    host: str | None = None,
    linked: bool = True,
    last: bool = True,
) -> bytes:
    """
    Return a request's head.

    Args:
        linked: Whether the run's trace context goes with it.
        last: Whether the server is asked to close the connection after it.
    """
    lines = [f"{method} {target} HTTP/1.1", f"host: {host if host is not None else f'127.0.0.1:{run.port}'}"]
    lines += [f"x-case: {run.id}"]
    lines += [f"traceparent: {run.traceparent()}"] * linked
    lines += ["connection: close"] * last
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def fetch(
    run: Run, target: str, method: str = "GET", headers: Headers = (), body: bytes = b"", **how: Any
) -> Plain:
    """Send one request, timed, and return its answer; by sanic-testing's client in the program where that serves."""
    if body:
        headers = [*headers, ("content-length", str(len(body)))]
    if run.column.startswith("sanic-testing"):
        sent = [("x-case", run.id), ("traceparent", run.traceparent()), *headers]
        with run.timed():
            answer: Plain = await run.ask("fetch", method=method, target=target, headers=sent, body=body.decode())
        return answer
    request = head(run, target, method, headers, **how) + body
    with run.timed():
        raw = await trip(run, request)
    return plain(raw)


async def trip(run: Run, request: bytes) -> bytes:
    """Send *request* on a connection of its own and return all that comes back."""
    async with connect(run) as connection:
        await connection.send(request)
        return await connection.rest()


def plain(raw: bytes) -> Plain:
    """Return an answer as a plain value; all after the first head is its body, framing included."""
    start, found, body = raw.partition(b"\r\n\r\n")
    if not found:
        return {"raw": raw.decode("latin-1")}
    status, *lines = start.split(b"\r\n")
    kept = [line.decode("latin-1") for line in lines if line.split(b":")[0].lower() not in _UNTOLD]
    return {"status": status.decode("latin-1"), "headers": kept, "body": _shown(body)}


def _shown(body: bytes) -> str:
    return body.decode("latin-1") if len(body) < 4000 else f"{len(body)} bytes that add up to {sum(body)}"
