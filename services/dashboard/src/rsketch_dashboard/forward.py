"""
Hands on what was stored to a real collector, by a thread of its own.

It is a copy: a collector that is slow or away holds nobody up. What waits for it is bounded in bytes; beyond that the
newest goes, counted and shown. What was sent a second time is not sent on: it has been.
"""

import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rsketch_telemetry.destinations import Destination
from rsketch_telemetry.otlp.receiver import Export, Signal
from rsketch_telemetry.otlp.send import GrpcSender
from rsketch_telemetry.pipeline import Sent

from rsketch_dashboard.store import Outcome

__all__ = ["Forward", "Forwarded"]

_log = logging.getLogger(__name__)

_QUEUE_BYTES = 64 * 1024 * 1024
_TIMEOUT_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 5.0
_END_SECONDS = 2.0


@dataclass(slots=True)
class Forwarded:
    """Requests that were delivered, and that were not; `error` is why the latest failed, empty where it did not."""

    sent: int = 0
    dropped: int = 0
    error: str = ""


class Forward:
    """A listener of the ingest that sends each stored request to *endpoint*."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.counts = Forwarded()
        self._queue: queue.SimpleQueue[tuple[Export, int]] = queue.SimpleQueue()
        self._bytes = 0
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._senders = {
            signal: GrpcSender(Destination(signal=signal, protocol="grpc", endpoint=endpoint)) for signal in Signal
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send while open; what waits at the end is given a moment."""
        thread = threading.Thread(target=self._send_all, name="dashboard-forward", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            thread.join(_END_SECONDS)
            for sender in self._senders.values():
                sender.close()

    def stored(self, export: Export, outcome: Outcome) -> None:
        """Queue a request that was stored, if anything of it was."""
        if not outcome.taken:
            return
        with self._lock:
            if self._bytes and self._bytes + outcome.size > _QUEUE_BYTES:
                self.counts.dropped += 1
                return
            self._bytes += outcome.size
        self._queue.put((export, outcome.size))

    def _send_all(self) -> None:
        while not (self._ending.is_set() and self._queue.empty()):
            try:
                export, size = self._queue.get(timeout=0.2)
            except queue.Empty:
                continue
            self._send(export)
            with self._lock:
                self._bytes -= size

    def _send(self, export: Export) -> None:
        """Send one request until it is delivered, refused for good, or the end has come."""
        body, pause = export.request.SerializeToString(), 0.2
        while True:
            outcome = self._senders[export.signal].send(body, _TIMEOUT_SECONDS)
            if outcome.sent is Sent.ACCEPTED:
                self.counts.sent += 1
                self.counts.error = ""
                return
            if not self.counts.error:
                _log.warning("forward to %s: %s", self.endpoint, outcome.reason)
            self.counts.error = outcome.reason or outcome.sent.value
            if outcome.sent is not Sent.RETRY or self._ending.wait(pause):
                self.counts.dropped += 1
                return
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
