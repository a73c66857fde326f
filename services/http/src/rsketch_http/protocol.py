"""
All that this service knows about the inside of Sanic's HTTP server; another release of Sanic is checked against this.

Used of it: `Sanic.config.KEEP_ALIVE`, the protocol's `_http` (its `stage`, `recv_buffer`, `keep_alive`, `request_body`,
`exception` and `perft0`), `_task`, `transport`, `websocket`, `check_timeouts` and `request_max_size`, the mark that
TouchUp leaves on the classes it has rewritten, and of a request its `_parsed_url` and how Sanic makes one.
"""

import asyncio
from time import perf_counter
from typing import Any

from sanic import Request, Sanic
from sanic.compat import Header
from sanic.exceptions import ServiceUnavailable
from sanic.http import Http, Stage
from sanic.server.protocols.websocket_protocol import WebSocketProtocol

__all__ = ["HeadRequest", "Protocol", "body_is_missing", "elapsed_seconds", "is_touched_up"]

_LINGER_SECONDS = 1.0


class Protocol(WebSocketProtocol):
    """One connection, which besides Sanic's own work can say whether it is idle and be asked to finish."""

    __slots__ = ()

    def __init__(self, *, app: Any, **arguments: Any) -> None:
        super().__init__(app=app, **arguments)
        # Set here and not in the configuration, where a small limit for bodies would limit headers as well.
        self.request_max_size = app.ctx.max_body_bytes

    @property
    def task(self) -> "asyncio.Task[None] | None":
        """The task that serves this connection, while there is one."""
        return self._task

    def finish(self) -> None:
        """Close the connection if it is idle; else make its present request the last one."""
        http = self.http
        if http is None or (http.stage is Stage.IDLE and not http.recv_buffer):
            self.close()
        else:
            http.keep_alive = False

    def end(self) -> None:
        """End the connection now; a websocket is told that we are going away (1001)."""
        if self.websocket is not None:
            self.websocket.fail_connection(1001)
        elif self.transport is not None:
            if self.http is not None:
                # Where Sanic itself says why it ends a request: without it, it would seem that the client had left.
                self.http.exception = ServiceUnavailable("The server ended the connection")
            # Not `abort()` of Sanic's protocol: after that one it logs the URL, query included.
            self.transport.abort()

    def check_timeouts(self) -> None:
        """Enforce timeouts, and end a connection that outlives the answer to one of them."""
        scheduled = self._callback_check_timeouts
        super().check_timeouts()  # type: ignore[no-untyped-call] # Sanic has no types for it
        fired = self._callback_check_timeouts is scheduled and self.websocket is None
        if fired and self._task is not None:
            # Sanic answers, then waits without limit for the rest of a body that never comes.
            self.loop.call_later(_LINGER_SECONDS, self.end)


class HeadRequest(Request):
    """A request that also stands for heads which Sanic itself fails on, and logs at length."""

    __slots__ = ()

    def __init__(self, url_bytes: bytes, headers: Header, version: str, method: str, **more: Any) -> None:
        # The request that Sanic makes up to answer a head it cannot use has none. With the URL as it came, that answer
        # would fail as well where the URL is what is malformed.
        super().__init__(url_bytes if more.get("head") else b"*", headers, version, method, **more)

    @property
    def path(self) -> str:
        """The path; `/` in an absolute URL without one, as RFC 9112 has it."""
        return super().path if self._parsed_url.path else "/"


def elapsed_seconds(request: Request) -> float:
    """Return the time since the head of *request* was complete."""
    started = getattr(request.stream, "perft0", None)
    return perf_counter() - started if started is not None else 0.0


def body_is_missing(request: Request) -> bool:
    """Return whether some of the body of *request* has not arrived yet."""
    return bool(getattr(request.stream, "request_body", None))


def refuse_new_requests(app: Sanic[Any, Any]) -> None:
    """Make every request whose head has not arrived yet the last one on its connection."""
    app.config.KEEP_ALIVE = False


def is_touched_up() -> bool:
    """Return whether an app in this process has rewritten Sanic's classes (TouchUp), which cannot be done twice."""
    return bool(getattr(Http, "__touched__", False))
