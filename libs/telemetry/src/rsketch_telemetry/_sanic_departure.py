"""
How an ASGI server tells that a client has left: whoever asks it for the next message gets `http.disconnect`.

Sanic asks for the request's body only, so that it never learns of a client that leaves during the response. Here it is
asked for, beside Sanic, and whatever else comes is kept for Sanic.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from sanic.asgi import ASGIApp
from sanic.http.constants import Stage
from sanic.models.asgi import ASGIMessage

__all__ = ["Departure"]

_PATIENCE_SECONDS = 0.05
"""For how long a request is not watched: a task for each would cost more than the short ones do themselves."""


class Departure:
    """
    Stands between Sanic and the server's `receive`.

    Nothing is asked for while a body may still come: to ask makes a server send `100 Continue` and read on, which is
    for the application to decide. So a client that leaves while the application lets its body wait is not noticed.

    Args:
        left: Called at most once, when the client has left before the response was complete.
    """

    def __init__(self, stream: ASGIApp, left: Callable[[], None]) -> None:
        self._stream = stream
        self._left: Callable[[], None] | None = left
        self._receive = stream.transport._receive
        self._body_may_come = _body_may_come(stream)
        self._asked = False
        self._kept: list[ASGIMessage] = []
        self._watch: asyncio.Task[None] | None = None
        stream.transport._receive = self.receive
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._start)

    def stop(self) -> None:
        """Watch no longer."""
        self._left = None
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()

    async def receive(self) -> ASGIMessage:
        """Return the next message, for Sanic."""
        while not self._kept:
            if self._watch is None or self._watch.done():
                return await self._passed_on()
            await asyncio.wait((self._watch,))
        return self._kept[0] if self._kept[0]["type"] == "http.disconnect" else self._kept.pop(0)

    async def _passed_on(self) -> ASGIMessage:
        self._asked = True
        try:
            message = await self._receive()
        finally:
            self._asked = False
        self._note(message)
        return message

    def _start(self) -> None:
        if self._body_may_come or self._asked:
            # Again, when the application has taken its body.
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._start)
        else:
            self._watch = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        # What a server raises here it raises for the application too, when that asks.
        with suppress(Exception):
            # An empty body and the end are all there is to come. Whoever says more, as an application's own test may,
            # says it for ever and without waiting.
            for _ in range(2):
                message = await self._receive()
                self._kept.append(message)
                self._note(message)
                if message["type"] == "http.disconnect" or self._body_may_come:
                    return

    def _note(self, message: ASGIMessage) -> None:
        if message["type"] == "http.request":
            self._body_may_come = bool(message.get("more_body", False))
        elif self._left is not None and self._stream.stage is not Stage.IDLE:
            # In that stage the response is complete, and servers say the same of a client that is still there.
            left, self._left = self._left, None
            left()


def _body_may_come(stream: ASGIApp) -> bool:
    headers = stream.request.headers
    return "transfer-encoding" in headers or headers.getone("content-length", "0") != "0" or "expect" in headers
