"""
Live push: what was stored, told to every page that listens, as server-sent events.

A page gets totals and asks for what it shows; it is told at most four times a second however much arrives. A page that
does not read is told the latest when it does: nothing queues up for it.
"""

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from rsketch_telemetry.otlp.receiver import Export

from rsketch_dashboard.store import Notice, Outcome

__all__ = ["Live", "notice_json"]

_EVERY_SECONDS = 0.25
_HEARTBEAT_SECONDS = 10.0
_NOTICES = 50
_NAMES = {"traces": "spans", "logs": "logs", "metrics": "points"}


class Live:
    """
    What listeners are told.

    Args:
        totals: Called for the number of rows that are stored, by family.
        heartbeat_seconds: After how long a listener that is told nothing is told so.
    """

    def __init__(
        self, totals: Callable[[], Mapping[str, int]], *, heartbeat_seconds: float = _HEARTBEAT_SECONDS
    ) -> None:
        self._totals = totals
        self._heartbeat_seconds = heartbeat_seconds
        self._arrived: Counter[str] = Counter()
        # The latest, and how many there have been: listeners come and go, and the page has the others from the status.
        self._notices: deque[Notice] = deque(maxlen=_NOTICES)
        self._noticed = 0
        self._changed = asyncio.Condition()
        self._version = 0
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self.listeners = 0

    def stored(self, export: Export, outcome: Outcome) -> None:
        """Take note of a request that was stored."""
        if outcome.taken:
            self._arrived[_NAMES[export.signal.value]] += outcome.taken
            self._wake()

    def notice(self, notice: Notice) -> None:
        """Tell everybody a notice; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._notice, notice)

    def end(self) -> None:
        """End all streams: the server is about to stop."""
        self._ended = True
        self._wake()

    async def events(self) -> AsyncGenerator[str, None]:
        """Yield events as they are sent: at once one with the totals, then whatever happens."""
        self.listeners += 1
        seen, told, said = -1, Counter(self._arrived), self._noticed
        try:
            yield "retry: 1000\n\n"
            while not self._ended:
                if seen == self._version and not await self._change(seen):
                    yield ": still here\n\n"
                    continue
                seen = self._version
                fresh, said = min(self._noticed - said, _NOTICES), self._noticed
                for notice in list(self._notices)[len(self._notices) - fresh :]:
                    yield _event("notice", notice_json(notice))
                arrived = Counter(self._arrived)
                new = {name: arrived[name] - told[name] for name in _NAMES.values()}
                told = arrived
                yield _event("change", {**self._totals(), "new": new, "at_us": time.time_ns() // 1000})
                await asyncio.sleep(_EVERY_SECONDS)
        finally:
            self.listeners -= 1

    async def _change(self, seen: int) -> bool:
        """Wait until something happens; return False where nothing does for a while."""
        try:
            async with asyncio.timeout(self._heartbeat_seconds), self._changed:
                await self._changed.wait_for(lambda: self._version != seen or self._ended)
        except TimeoutError:
            return False
        return True

    def _notice(self, notice: Notice) -> None:
        self._notices.append(notice)
        self._noticed += 1
        self._wake()

    def _wake(self) -> None:
        self._version += 1
        if self.listeners:
            self._loop.create_task(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def notice_json(notice: Notice) -> dict[str, Any]:
    """Return a notice as the page gets it."""
    return {"at_us": notice.at_ns // 1000, "level": notice.level, "text": notice.text}


def _event(name: str, data: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
