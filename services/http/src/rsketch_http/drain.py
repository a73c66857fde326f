"""
How a server is emptied.

Sanic's `create_server` leaves this to its caller: `close()` returns at once and drops nothing but the listener.

1. The listener is closed: new connections are refused.
2. Idle connections are closed: those that wait for the first byte of a request.
3. Every other connection gets to finish the request it is in, which may still be arriving; the answer says
   `Connection: close` and the connection is closed after it.
4. What is left after the time allowed is ended: HTTP connections without the last chunk or byte of their
   answer, so that a client sees that it was cut off; websockets are closed with 1001 (going away).
5. The tasks of those connections get a moment to clean up, so that what they hold (calls to other services) is
   released before what they depend on is closed.

Steps 2 and 3 are repeated until no connection is left, because a connection may have been accepted and not yet seen.
"""

import asyncio
from collections.abc import Collection
from typing import Any

from sanic import Sanic
from sanic.server import AsyncioServer

from rsketch_http.protocol import Protocol, refuse_new_requests

__all__ = ["drain"]

_LOOK_EVERY_SECONDS = 0.01
_CLEAN_UP_SECONDS = 1.0


async def drain(server: AsyncioServer, *, app: Sanic[Any, Any], seconds: float) -> int:
    """
    Stop *server*; requests in flight get *seconds* to finish.

    Returns:
        How many connections had to be ended.
    """
    connections: set[Protocol] = server.connections
    # Not the server's own `close()`, which starts a task that waits for the connections as well.
    listener: Any = server.server
    listener.close()
    refuse_new_requests(app)
    await _finish(connections, seconds)
    ended = len(connections)
    await _end(tuple(connections))
    return ended


async def _finish(connections: Collection[Protocol], seconds: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        for connection in tuple(connections):
            connection.finish()
        await asyncio.sleep(min(_LOOK_EVERY_SECONDS, max(0.0, deadline - loop.time())))
        if not connections or loop.time() >= deadline:
            return


async def _end(connections: Collection[Protocol]) -> None:
    tasks = [connection.task for connection in connections if connection.task is not None]
    for connection in connections:
        connection.end()
    if tasks:
        await asyncio.wait(tasks, timeout=_CLEAN_UP_SECONDS)
