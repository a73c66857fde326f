"""The request to stop: made once, by a signal, a supervisor or a failure, and seen wherever somebody waits."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["Stop"]

T = TypeVar("T")


class Stop:
    """
    A request to stop. It may come from a signal handler or another thread, and before the loop runs.

    Attributes:
        reason: Who asked, in words for a log line; None until it is requested.
        abort: Called, possibly by a signal handler, just before the process ends without waiting any longer.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.abort: Callable[[], None] = lambda: None
        self._requested = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self) -> None:
        """Let the running loop see the request. Called once, in that loop."""
        # In this order: a request that falls between the two lines is seen by one of them.
        self._loop = asyncio.get_running_loop()
        if self.requested():
            self._requested.set()

    def request(self, reason: str) -> None:
        """Ask for the stop; later requests change nothing."""
        if not self.requested():
            self.reason = reason
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._requested.set)

    def requested(self) -> bool:
        """Tell whether the stop is requested."""
        return self.reason is not None

    async def wait(self) -> None:
        """Return when the stop is requested."""
        await self._requested.wait()

    async def until(self, awaitable: Awaitable[T]) -> T | None:
        """
        Return what *awaitable* yields; None when the stop is requested first, in which case it is cancelled.

        It is awaited in the current task: what is opened in a task has to be closed in the same one.
        """
        try:
            async with asyncio.timeout(None) as limit:
                watcher = asyncio.create_task(self._cut(limit))
                try:
                    return await awaitable
                finally:
                    watcher.cancel()
        except TimeoutError:
            if not limit.expired():
                raise
            return None

    async def _cut(self, limit: asyncio.Timeout) -> None:
        await self.wait()
        limit.reschedule(asyncio.get_running_loop().time())
