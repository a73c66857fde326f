"""
When the first byte of a request came, which is before Sanic has a request.

A connection knows when it last received or sent something. For a request whose head came in one piece that is its
beginning, and for one that waited behind another the end of that. Where a head comes in pieces, its first is noted.
"""

import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any

from sanic.http import Http
from sanic.server import HttpProtocol

from rsketch_telemetry._sanic_patch import Patch

__all__ = ["Arrivals"]


class Arrivals:
    """
    The heads that come in pieces, by connection.

    Args:
        safely: Calls what it is given, and keeps what that raises.

    Attributes:
        began: When the first byte came, on the monotonic clock, for heads that came in pieces.
    """

    def __init__(self, safely: Callable[[Callable[[Any], None], object], None]) -> None:
        self._safely = safely
        self.began: dict[HttpProtocol, float] = {}
        self.patch = Patch(Http, "http1_request_header", self._around_header)

    def waited_seconds(self, stream: object) -> float:
        """Return how long ago the first byte of the request on *stream* came; 0 where only an ASGI server knows."""
        protocol = getattr(stream, "protocol", None)
        if not isinstance(protocol, HttpProtocol):
            return 0.0
        began = self.began.pop(protocol, None) if self.began else None
        waited = time.monotonic() - (protocol._time if began is None else began)
        return max(0.0, waited)

    def lost(self, protocol: object) -> None:
        """Forget a connection that has ended."""
        if self.began:
            self.began.pop(protocol, None)  # type: ignore[call-overload]  # of whatever class it is

    def _around_header(
        self, original: Callable[[Http], Coroutine[Any, Any, None]]
    ) -> Callable[[Http], Coroutine[Any, Any, None]]:
        @functools.wraps(original)
        def http1_request_header(stream: Http) -> Coroutine[Any, Any, None]:
            # As little as can be: most heads come in one piece and alone, and there is none to be forgotten.
            if self.began or not stream.recv_buffer.endswith(b"\r\n\r\n"):
                self._safely(self._note, stream)
            return original(stream)

        return http1_request_header

    def _note(self, stream: Http) -> None:
        if b"\r\n\r\n" not in stream.recv_buffer:
            self.began[stream.protocol] = stream.protocol._time
        elif self.began:
            # That of a request before, which nobody asked about: it is excluded.
            self.began.pop(stream.protocol, None)
