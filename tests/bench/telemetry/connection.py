"""
A connection without a socket: Sanic's own protocol between requests that are ready and a transport that counts answers.

What is run is what a server runs: the app is started as `Sanic.serve` does it, TouchUp included, on the event loop
that Sanic chooses. The next request comes when the answer to the one before has been written, by the loop's next turn,
as from a client that keeps its connection.
"""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sanic.application.state import ApplicationServerInfo
from sanic.http.constants import HTTP
from sanic.models.server_types import Signal
from sanic.server import HttpProtocol

from bench.telemetry.application import App

__all__ = ["Connection", "started"]

_numbers = itertools.count()


@asynccontextmanager
async def started(app: App, *, serving: bool = False) -> AsyncIterator[int]:
    """
    Run the app's start-up as a server does, and its end when closed.

    Args:
        serving: Whether connections are accepted, too.

    Yields:
        The port.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        # Sanic has no types for the methods of its server.
        server: Any = await app.create_server(sock=listening, asyncio_server_kwargs={"start_serving": False})
        # As `Sanic.run` has it; without it TouchUp leaves an empty alt-svc header in each answer.
        info = {"version": HTTP.VERSION_1, "host": None, "port": None, "sock": listening, "ssl": None}
        app.state.server_info.append(ApplicationServerInfo(settings=info))
        await server.startup()
        await server.before_start()
        if serving:
            await server.start_serving()
        await server.after_start()
        try:
            yield listening.getsockname()[1]
        finally:
            await server.before_stop()
            server.close()
            await server.after_stop()


class Connection:
    """
    One client's connection; open until `close`.

    Args:
        app: One that was `started`.
    """

    def __init__(self, app: App) -> None:
        self._loop = asyncio.get_running_loop()
        # Sanic has no types for most of its methods.
        self._protocol: Any = HttpProtocol(loop=self._loop, app=app, connections=set(), signal=Signal(), state={})
        self._transport = _Transport(self._answered)
        self._ahead: Iterator[bytes] = iter(())
        self._done = self._loop.create_future()
        self._statuses: dict[bytes, int] = {}
        self._protocol.connection_made(self._transport)  # type: ignore[no-untyped-call]

    async def send(self, requests: Sequence[bytes]) -> None:
        """Send the requests one after the other; return when the last has been answered and its handling is over."""
        self._done = self._loop.create_future()
        self._ahead = iter(requests)
        self._next()
        await self._done

    async def close(self) -> None:
        """End it, from the client's side, and let the server take note."""
        self._transport.close()
        self._protocol.connection_lost(None)
        # The connection's task ends in a turn of its own.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def answered(self, status: int) -> int:
        """
        Return how many requests were answered.

        Raises:
            RuntimeError: One of them with another status.
        """
        count = self._statuses.pop(str(status).encode(), 0)
        if self._statuses:
            raise RuntimeError(f"not every answer was a {status}: {self._statuses}")
        return count

    def _answered(self, answer: bytes) -> None:
        status = answer[9:12]
        self._statuses[status] = self._statuses.get(status, 0) + 1
        # Not at once: the server is not through with this one yet.
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        request = next(self._ahead, None)
        if request is None:
            self._done.set_result(None)
        else:
            self._protocol.data_received(request)


class _Transport(asyncio.Transport):
    """Takes answers; each is written in one piece, as they are short."""

    def __init__(self, answered: Any) -> None:
        number = next(_numbers)
        super().__init__({"sockname": ("127.0.0.1", 8000), "peername": ("203.0.113.7", 20_000 + number % 40_000)})
        self._closing = False
        # An attribute of the instance costs no call of ours on the way.
        self.write = answered  # type: ignore[method-assign]

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Buffer nothing."""

    def get_write_buffer_size(self) -> int:
        """Return what is buffered: nothing."""
        return 0

    def pause_reading(self) -> None:
        """Go on: nothing comes that was not answered."""

    def resume_reading(self) -> None:
        """Go on."""

    def is_closing(self) -> bool:
        """Return whether it was closed."""
        return self._closing

    def close(self) -> None:
        """Close it."""
        self._closing = True

    abort = close
