"""Whether this service should be sent requests."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import Enum

__all__ = ["Phase", "Readiness"]

_CACHE_SECONDS = 1.0


class Phase(Enum):
    """The life of a service."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Readiness:
    """
    The answer to "ready?", cheap enough to be asked by anybody at any rate.

    Args:
        probe: Asks whether what this service depends on is ready. Asked at most once a second, by one at a time, and
            only while somebody wants to know.
    """

    def __init__(self, probe: Callable[[], Awaitable[bool]]) -> None:
        self.phase = Phase.STARTING
        self._probe = probe
        self._probing = asyncio.Lock()
        self._ready = False
        self._asked_at = float("-inf")

    async def reason(self) -> str | None:
        """Return why the service is not ready in a word or two that reveal nothing else, or None when it is."""
        if self.phase is Phase.SERVING and not await self._dependency_is_ready():
            return "greeting service not ready"
        # The phase is looked at again: a drain may have begun while the probe was under way.
        return None if self.phase is Phase.SERVING else self.phase.value

    async def _dependency_is_ready(self) -> bool:
        async with self._probing:
            if time.monotonic() - self._asked_at >= _CACHE_SECONDS:
                self._ready = await self._probe()
                self._asked_at = time.monotonic()
            return self._ready
