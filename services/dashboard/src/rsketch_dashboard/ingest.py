"""
From the receiver to the store: a bounded queue, and one thread that writes.

A sender is answered when its request is in the file, not before: what was acknowledged outlives the process. Requests
that arrive while a transaction is under way share the next one. Where the queue is full, a sender is told to come
again.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import grpc
from rsketch_telemetry.otlp.receiver import Answer, Export, PartialSuccess, Refusal

from rsketch_dashboard.errors import StoreError
from rsketch_dashboard.exchange import IMPORTED
from rsketch_dashboard.store import Outcome, Store

__all__ = ["Ingest", "Listener"]

_log = logging.getLogger(__name__)

QUEUE_BYTES = 64 * 1024 * 1024
_QUEUE_REQUESTS = 2048
_BATCH_BYTES = 8 * 1024 * 1024
_RETRY_SECONDS = 1.0
_RETAIN_EVERY_SECONDS = 1.0
_LINGER_SECONDS = 0.02
"""How long the first of several requests waits for more: a transaction costs as much as the rows of one request."""


class Listener(Protocol):
    """Told of each request that was stored, on the event loop."""

    def stored(self, export: Export, outcome: Outcome, /) -> None:
        """Take note of one request."""


@dataclass(slots=True)
class _Waiting:
    export: Export
    body: bytes
    done: "asyncio.Future[Outcome]"


@dataclass(slots=True)
class Counts:
    """What has become of requests since the start: items taken and rejected by signal, requests refused."""

    received: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    malformed: int = 0


class Ingest:
    """The handler behind the OTLP receiver; `running` must be open while it handles."""

    def __init__(self, store: Store, listeners: tuple[Listener, ...] = (), *, queue_bytes: int = QUEUE_BYTES) -> None:
        self._store = store
        self._listeners = listeners
        self._limit = queue_bytes
        # None asks the writer to end.
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.counts = Counts()

    @property
    def queued(self) -> tuple[int, int]:
        """Bytes that wait to be written, and how many may."""
        return self._bytes, self._limit

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write while open; what has been queued by the end is written before it closes."""
        self._loop = asyncio.get_running_loop()
        writer = threading.Thread(target=self._write, name="dashboard-writer", daemon=True)
        writer.start()
        try:
            yield
        finally:
            self._queue.put(None)
            writer.join()

    async def handle(self, export: Export) -> Answer:
        """Queue one request, and answer when it is stored."""
        # Encoded once: for its size, to know it again, and because that is what the store reads.
        body = export.request.SerializeToString()
        size = len(body)
        # One alone is taken whatever its size: the receiver has limited that.
        if (self._bytes and self._bytes + size > self._limit) or self._queue.qsize() >= _QUEUE_REQUESTS:
            self.counts.refused += 1
            return _busy("the dashboard's queue is full")
        assert self._loop is not None
        waiting = _Waiting(export, body, self._loop.create_future())
        self._bytes += size
        self._queue.put(waiting)
        try:
            # Shielded: a sender that leaves takes nothing with it, what it sent is stored and counted.
            outcome = await asyncio.shield(waiting.done)
        except StoreError as error:
            return _busy(str(error))
        return PartialSuccess(rejected=outcome.rejected, message=outcome.reason) if outcome.rejected else None

    def malformed(self, _: Refusal) -> None:
        """Count a request that could not be decoded."""
        self.counts.malformed += 1

    def _note(self, export: Export, outcome: Outcome) -> None:
        """Count a request that was stored, and tell the listeners."""
        self.counts.received[export.signal.value] += outcome.taken
        self.counts.rejected[export.signal.value] += outcome.rejected
        for listener in self._listeners:
            listener.stored(export, outcome)

    def _write(self) -> None:
        """The thread's work: store what there is, until the end is asked for."""
        ended, retained = False, 0.0
        while not ended:
            batch, ended = self._next_batch()
            if batch:
                self._append(batch)
            # Not each time: under load, to ask how large the file is would be a tenth of the work.
            if time.monotonic() - retained >= _RETAIN_EVERY_SECONDS:
                self._guarded(self._store.retain)
                retained = time.monotonic()

    def _next_batch(self) -> tuple[list[_Waiting], bool]:
        """
        Wait for a request, and take with it those that have come by now; return also whether to end.

        Where several have, more are likely to: it lingers for those. One that comes alone is never kept waiting.
        """
        batch: list[_Waiting] = []
        try:
            following = self._queue.get(timeout=_RETAIN_EVERY_SECONDS)
            until = time.monotonic() + _LINGER_SECONDS
            while following is not None:
                batch.append(following)
                if sum(len(each.body) for each in batch) >= _BATCH_BYTES:
                    return batch, False
                wait = until - time.monotonic() if len(batch) > 1 else 0.0
                following = self._queue.get(timeout=wait) if wait > 0 else self._queue.get_nowait()
        except queue.Empty:
            return batch, False
        return batch, True

    def _append(self, batch: list[_Waiting]) -> None:
        assert self._loop is not None
        try:
            outcomes = self._store.append(
                [each.export.request for each in batch],
                [each.body for each in batch],
                anew=[each.export.protocol == IMPORTED for each in batch],
            )
        except Exception as error:  # noqa: BLE001 - whatever happens, the senders get an answer
            if not isinstance(error, StoreError):
                _log.exception("the dashboard cannot store")
            failed = error if isinstance(error, StoreError) else StoreError("cannot store")
            self._loop.call_soon_threadsafe(self._fail, batch, failed)
        else:
            self._loop.call_soon_threadsafe(self._settle, batch, outcomes)

    def _settle(self, batch: list[_Waiting], outcomes: list[Outcome]) -> None:
        for each, outcome in zip(batch, outcomes, strict=True):
            self._bytes -= len(each.body)
            self._note(each.export, outcome)
            each.done.set_result(outcome)

    def _fail(self, batch: list[_Waiting], error: StoreError) -> None:
        for each in batch:
            self._bytes -= len(each.body)
            self.counts.refused += 1
            each.done.set_exception(error)
            # A sender that has left does not ask, and nobody is to be told that nobody asked.
            each.done.exception()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001 - a limit that cannot be kept now is tried again
            _log.exception("the dashboard cannot drop what is old")


def _busy(message: str) -> Refusal:
    return Refusal(code=grpc.StatusCode.RESOURCE_EXHAUSTED, message=message, retry_after_seconds=_RETRY_SECONDS)
