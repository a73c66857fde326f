"""
Responses that are made and not gone: a client that is slow to take a large one, or leaves before it has it all.

Sanic gives a response to its transport in one piece and is through with the request, while the transport may hold
megabytes of it. It says so by pausing the protocol, and resumes it with all but the last 16 KiB on their way.
"""

import functools
from collections.abc import Callable
from typing import Any

from sanic.server.protocols.base_protocol import SanicProtocol

from rsketch_telemetry._sanic_patch import Patch
from rsketch_telemetry._sanic_served import CLIENT_DISCONNECTED, Served

__all__ = ["Unsent"]

_ABORTED = "aborted"
"""`error.type` of a response that the server has cut off: it stopped, or waited too long for its client."""


class Unsent:
    """
    The requests that wait for their last bytes, by connection.

    Args:
        safely: Calls what it is given, and keeps what that raises.
        lost: Called with each connection that has ended.
    """

    def __init__(self, safely: Callable[[Callable[[Any], None], object], None], lost: Callable[[object], None]) -> None:
        self._safely = safely
        self._lost = lost
        self._waiting: dict[SanicProtocol, list[Served]] = {}
        self.patches = (
            Patch(SanicProtocol, "resume_writing", self._around_resume),
            Patch(SanicProtocol, "connection_lost", self._around_lost),
        )

    def add(self, protocol: SanicProtocol, served: Served) -> None:
        """Let a request wait."""
        self._waiting.setdefault(protocol, []).append(served)

    def clear(self) -> None:
        """Wait no longer."""
        for protocol in tuple(self._waiting):
            self._end(protocol, None)

    def _around_resume(self, original: Callable[[SanicProtocol], None]) -> Callable[[SanicProtocol], None]:
        @functools.wraps(original)
        def resume_writing(protocol: SanicProtocol) -> None:
            self._end(protocol, None)
            original(protocol)

        return resume_writing

    def _around_lost(self, original: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(original)
        def connection_lost(protocol: SanicProtocol, exc: Exception | None) -> None:
            self._safely(functools.partial(self._cut, exc), protocol)
            self._safely(self._lost, protocol)
            original(protocol, exc)

        return connection_lost

    def _cut(self, exc: Exception | None, protocol: SanicProtocol) -> None:
        # Only `abort` forgets the transport. Without an exception all was sent before the connection was closed.
        aborted = _ABORTED if protocol.transport is None else None
        self._end(protocol, CLIENT_DISCONNECTED if exc is not None else aborted)

    def _end(self, protocol: SanicProtocol, failure: str | None) -> None:
        for served in self._waiting.pop(protocol, ()):
            self._safely(served.sent, failure)
