"""
How late an event loop is: it fires its timers as much later as its callbacks keep it from doing so.

A timer of the loop's own, a few times a second; no task, so that nothing is left behind when the loop is closed.
"""

import asyncio
import time
import weakref
from collections.abc import Callable
from contextvars import Context as Variables
from typing import Final

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, MeterProvider

from rsketch_telemetry import process, semconv
from rsketch_telemetry.version import __version__

__all__ = ["BUCKETS", "LAG", "LoopLag"]

LAG: Final = "rsketch.event_loop.lag"
BUCKETS: Final = (0.001, 0.0025, *semconv.DURATION_BUCKETS)
"""Those of durations, and two below: a millisecond is little for a request and much for a loop."""

_EVERY_SECONDS = 0.25


class LoopLag:
    """
    Measures the lag of event loops, each of which is measured once.

    Args:
        meters: Where the histogram is made, with the first loop.
    """

    def __init__(self, meters: MeterProvider) -> None:
        self._meters = meters
        self._histogram: Histogram | None = None
        self._watched: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._latest: Callable[[], asyncio.AbstractEventLoop | None] = lambda: None
        self._stopped = False

    def watch(self) -> None:
        """Measure the loop that runs in this thread until it is closed; nothing where there is none."""
        # Not get_running_loop(), which raises: this is called for spans of threads as well.
        loop = asyncio._get_running_loop()
        if loop is None or loop is self._latest() or self._stopped:
            return
        # Most often asked about, and in a fraction of the time that the set takes.
        self._latest = weakref.ref(loop)
        if loop not in self._watched:
            self._watched.add(loop)
            self._again(loop, self._instrument())

    def stop(self) -> None:
        """Measure nothing any more."""
        self._stopped = True

    def _instrument(self) -> Histogram:
        if self._histogram is None:
            meter = self._meters.get_meter(process.SCOPE, __version__, semconv.SCHEMA_URL)
            self._histogram = meter.create_histogram(
                LAG,
                semconv.DURATION_UNIT,
                "How much later than asked for the event loop fires a timer.",
                explicit_bucket_boundaries_advisory=BUCKETS,
            )
        return self._histogram

    def _again(self, loop: asyncio.AbstractEventLoop, histogram: Histogram) -> None:
        due = time.monotonic() + _EVERY_SECONDS
        # In a context of its own: that of the request which is being served would live on in each timer.
        loop.call_later(_EVERY_SECONDS, self._fired, loop, histogram, due, context=Variables())

    def _fired(self, loop: asyncio.AbstractEventLoop, histogram: Histogram, due: float) -> None:
        if self._stopped:
            return
        histogram.record(max(0.0, time.monotonic() - due), context=Context())
        self._again(loop, histogram)
