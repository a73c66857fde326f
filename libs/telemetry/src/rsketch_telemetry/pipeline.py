"""
The one way out for all signals: finished items wait in bounded segments and a single thread ships them.

An item is encoded and in its segment before the `end()` that finished it returns; the thread only frames and sends.
When a segment is full its oldest items go, counted. Nothing here blocks or raises into the caller.

With one thread a send that hangs, or a metric callback that does, holds the other signals up as well: a send at most
until its timeout. They wait in their segments meanwhile.

The locks are re-entrant: a finalizer or a signal handler that logs may run in the middle of anything here.
"""

import functools
import logging
import os
import random
import threading
import time
import weakref
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate, chain, islice, repeat, starmap
from operator import attrgetter
from typing import Protocol, TypeVar

from opentelemetry import context as context_api

from rsketch_telemetry.otlp.frame import Item, Run, Scope, frame, runs
from rsketch_telemetry.signal import Signal

__all__ = ["Inlet", "Lane", "Outcome", "Pipeline", "Segment", "Sender", "Sent", "Tally", "drained"]

_log = logging.getLogger("rsketch_telemetry")
T = TypeVar("T")

# Whatever is done with each of very many items is done in C.
_items_of: Callable[[Item | Run], int] = attrgetter("items")
_records_of: Callable[[Item | Run], int] = attrgetter("records")
_size_of: Callable[[Item | Run], int] = attrgetter("size")

THREAD_NAME = "rsketch-telemetry"
SEGMENT_BYTES = 16 * 1024 * 1024
BATCH_BYTES = 2 * 1024 * 1024
_OVERHEAD_BYTES = 200
"""What an item costs in memory beside its bytes: two objects and its place in the queue (CPython 3.11)."""

# The key of today's instrumentors, and the one that older ones still ask for.
SUPPRESSED = ("suppress_instrumentation", context_api._SUPPRESS_INSTRUMENTATION_KEY)

_FIRST_DELAY_SECONDS = 0.2
_LONGEST_DELAY_SECONDS = 30.0
_LONGEST_ASKED_SECONDS = 3600.0
"""The other end may ask to be left alone, but not for ever."""
_LONGEST_WAIT_SECONDS = 3600.0
"""A wait of centuries, which an interval in the environment may ask for, overflows."""
_JOIN_SECONDS = 0.3
_SETTLED_AT_ONCE = 64
"""Items of a scope, at most, that are not in the segment yet."""


class Sent(Enum):
    """What became of a request."""

    ACCEPTED = "accepted"
    RETRY = "retry"
    REFUSED = "refused"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What the other end made of a request.

    Attributes:
        sent: ACCEPTED, also in part; RETRY, for a passing trouble; REFUSED, for good; HELD, nothing was sent and
            nothing will be until the settings are mended.
        reason: In words, for the log; empty for a full success.
        rejected: Items that the other end did not take although it accepted the request.
        error: What kind of failure it was, of few values: a status code or the name of an exception.
        retry_after_seconds: How long it asked to be left alone; None where it did not say.
    """

    sent: Sent
    reason: str = ""
    rejected: int = 0
    retry_after_seconds: float | None = None
    error: str = ""


class Sender(Protocol):
    """Sends framed requests of one signal to one place."""

    where: str

    def send(self, request: bytes, timeout_seconds: float) -> Outcome:
        """Send one export request; never raises."""

    def close(self) -> None:
        """Give up connections; a request under way may fail."""

    def renew(self) -> None:
        """Forget connections, without a word to the other end: after a fork they belong to the parent."""


class Segment:
    """
    Items in the order they ended, bounded in bytes.

    Args:
        limit_bytes: Of items and overhead; beyond it the oldest items are evicted.
        limit_items: As well, or None.
    """

    def __init__(self, limit_bytes: int = SEGMENT_BYTES, limit_items: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.limit_items = limit_items
        self._items: deque[Item | Run] = deque()
        self._count = 0
        self._bytes = 0
        self._first = 0
        self._lock = threading.RLock()
        self.evicted = 0

    def __len__(self) -> int:
        return self._count

    @property
    def bytes(self) -> int:
        """What the items take of `limit_bytes`."""
        return self._bytes

    def emptied(self) -> "Segment":
        """Return a new, empty segment of the same limits."""
        return Segment(self.limit_bytes, self.limit_items)

    def append(self, item: Item | Run) -> bool:
        """Add the newest item; return whether there is so much that it should not wait for the next interval."""
        return self.extend((item,))

    def extend(self, items: Sequence[Item | Run]) -> bool:
        """Add the newest items; see `append`."""
        with self._lock:
            # First: a finalizer that runs in there may come back to here.
            count, size = _count(items), _size(items)
            self._items.extend(items)
            self._count += count
            self._bytes += size
            while self._too_full():
                dropped = self._drop(1)
                self.evicted += dropped
            return self.pressing

    @property
    def pressing(self) -> bool:
        """Whether there is so much that it should not wait for the next interval."""
        half_full = self.limit_items is not None and 2 * self._count >= self.limit_items
        return half_full or self._bytes >= BATCH_BYTES

    @property
    def end(self) -> int:
        """The mark behind the newest item; see `waits`."""
        with self._lock:
            return self._first + len(self._items)

    def waits(self, mark: int) -> bool:
        """Return whether an item from before *mark* is still here."""
        with self._lock:
            return bool(self._items) and self._first < mark

    def replace(self, items: Iterable[Item]) -> None:
        """Forget what was not sent yet and hold *items*: a newer snapshot makes an older one worthless."""
        with self._lock:
            self._first += len(self._items)
            self._items.clear()
            self._count = self._bytes = 0
        for item in items:
            self.append(item)

    def peek(self, limit_bytes: int, limit_items: int | None) -> tuple[int, list[Item | Run]]:
        """Return the oldest items that fit (at least one, if any) and the mark that `discard` takes."""
        with self._lock:
            # A copy: a finalizer that runs in between may append.
            oldest = list(islice(self._items.copy(), limit_items))
            fit = bisect_right(list(accumulate(map(_size_of, oldest))), limit_bytes)
            if limit_items is not None:
                fit = min(fit, bisect_right(list(accumulate(map(_items_of, oldest))), limit_items))
            batch = oldest[: max(1, fit)]
            return self._first + len(batch), batch

    def discard(self, mark: int) -> int:
        """Remove what a `peek` returned, apart from what has been evicted since; return how much that was."""
        with self._lock:
            return self._drop(min(mark - self._first, len(self._items)))

    def _too_full(self) -> bool:
        over_items = self.limit_items is not None and self._count > self.limit_items
        return bool(self._items) and (over_items or self._bytes > self.limit_bytes)

    def _drop(self, count: int) -> int:
        dropped = _taken(self._items, count)
        count, size, entries = _count(dropped), _size(dropped), len(dropped)
        self._count -= count
        self._bytes -= size
        self._first += entries
        return count


@dataclass(slots=True)
class Tally:
    """
    What has become of a lane's items so far. One thread writes; any may read.

    Attributes:
        processed: Items that left the segment because their export was over.
        unencodable: Items that never came here, as OTLP cannot hold them.
        exported: Records whose export succeeded.
        failed: Records whose export failed for good, by the kind of error.
        in_flight: Records of the batch whose export is under way, or waits for its next attempt.
        since: When the first attempt of that batch was made, on the monotonic clock; None where there is none.
    """

    processed: int = 0
    unencodable: int = 0
    exported: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    since: float | None = None

    def begin(self, batch: Sequence[Item | Run], now: float) -> None:
        """Take note of an attempt, the first or another one."""
        self.in_flight = sum(map(_records_of, batch))
        self.since = now if self.since is None else self.since

    def conclude(self, outcome: Outcome, removed: int) -> str:
        """Take note of the last attempt's outcome; return the kind of error, empty for a full success."""
        records = self.in_flight
        refused = records if outcome.sent is Sent.REFUSED else min(outcome.rejected, records)
        error = (outcome.error or "rejected") if refused else ""
        self.processed += removed
        self.exported += records - refused
        if refused:
            self.failed[error] += refused
        self.abandon()
        return error

    def abandon(self) -> None:
        """Forget the batch that is under way: a newer snapshot has taken its place."""
        self.in_flight, self.since = 0, None


class Lane:
    """
    The way of one signal: its segment, its sender and when to send next.

    Args:
        interval_seconds: Between two sends while all is well.
        asked: Whether somebody has asked for this interval, which is kept to then.
        batch_items: At most so many in a request; None for a limit in bytes alone.
        collect: Called before each send: it puts the current metrics into the segment.
    """

    def __init__(
        self,
        signal: Signal,
        segment: Segment,
        sender: Sender,
        *,
        interval_seconds: float,
        timeout_seconds: float,
        asked: bool = False,
        batch_items: int | None = None,
        collect: Callable[[], None] | None = None,
    ) -> None:
        self.signal = signal
        self.segment = segment
        self.sender = sender
        self.interval_seconds = interval_seconds
        self.timeout_seconds = timeout_seconds
        self.asked = asked
        self.batch_items = batch_items
        self.collect = collect
        self.inlets: list[Inlet] = []
        # They leave and are evicted together: no more than one request or a quarter of a small segment.
        limits = (batch_items, segment.limit_items and segment.limit_items // 4)
        self.settled_at_once = max(1, min([_SETTLED_AT_ONCE, *(each for each in limits if each is not None)]))
        self.due = 0.0
        self.hurried = False
        self.failures = 0
        self.tally = Tally()

    def settle(self) -> None:
        """Move what has come in into the segment."""
        for inlet in self.inlets:
            inlet.settle()

    def later(self, now: float, outcome: Outcome) -> None:
        """Put the next attempt off with jitter, and at least by what the other end asked for (at most an hour)."""
        self.failures += 1
        longest = min(_FIRST_DELAY_SECONDS * 2 ** min(self.failures, 10), _LONGEST_DELAY_SECONDS)
        asked = min(outcome.retry_after_seconds or 0.0, _LONGEST_ASKED_SECONDS)
        # An answer of "after 0 s" must not make a loop without a pause.
        self.due = now + max(asked, random.uniform(longest / 2, longest))  # noqa: S311 - jitter, not a secret

    def hasten(self, now: float, interval_seconds: float) -> None:
        """Send more often from *now* on, unless somebody has asked for the interval; never less often."""
        if self.asked or interval_seconds >= self.interval_seconds:
            return
        self.interval_seconds = interval_seconds
        if self.failures == 0:
            # What was put off after a failure stays put off.
            self.due = min(self.due, now + interval_seconds)

    def renew(self) -> None:
        """Begin anew after a fork: what waits here, and the connection, are the parent's."""
        self.segment = self.segment.emptied()
        for inlet in self.inlets:
            inlet.renew()
        self.sender.renew()
        self.failures = 0
        self.hurried = False
        self.tally = Tally()


class Inlet:
    """
    The way in of one scope's items, for whoever has very many: `append` leaves most of the work to each 64th.

    Args:
        over: Told of the items of a lane that there is more of; returns how many may come before the next time.
    """

    __slots__ = ("_incoming", "_limit", "_lock", "_over", "scope")

    def __init__(self, scope: Scope, over: Callable[[Sequence[Item | Run]], int]) -> None:
        self.scope = scope
        self._over = over
        self.renew()

    def renew(self) -> None:
        """Begin anew: what has come in is another process's."""
        self._incoming: deque[bytes] = deque()
        self._lock = threading.RLock()
        # With the first item the thread starts.
        self._limit = 1

    def append(self, body: bytes) -> None:
        """Take over a finished, encoded item, which nothing but the bound of the segment can lose from now on."""
        incoming = self._incoming
        incoming.append(body)
        if len(incoming) >= self._limit:
            self.settle()

    def settle(self) -> None:
        """Move what has come in into the segment."""
        incoming = self._incoming
        # In one thread at a time, so that the order is kept.
        with self._lock:
            if incoming:
                bodies, most = drained(incoming), self._limit
                # Threads that append meanwhile may have left more than belong together.
                together = [runs(self.scope, bodies[at : at + most]) for at in range(0, len(bodies), most)]
                self._limit = self._over(list(chain.from_iterable(together)))


def drained(queue: "deque[T]") -> list[T]:
    """Take out of a queue what is in it now; whatever others append meanwhile stays in it."""
    return _taken(queue, len(queue))


def _taken(queue: "deque[T]", count: int) -> list[T]:
    taken: list[T] = []
    # Where a finalizer that ran in between has taken some, the list has the rest.
    with suppress(IndexError):
        taken.extend(starmap(queue.popleft, repeat((), count)))
    return taken


def _count(items: Iterable[Item | Run]) -> int:
    return sum(map(_items_of, items))


def _size(items: Sequence[Item | Run]) -> int:
    """Return the bytes that items take of a segment's limit."""
    return sum(map(_size_of, items)) + _OVERHEAD_BYTES * len(items)


class Pipeline:
    """
    Ships the items of all lanes from one daemon thread, which starts with the first item or by `start`.

    Args:
        lanes: One for each signal that is exported.
        resource: Returns the encoded resource and its schema URL; asked at each send, as a fork changes it.
        reporter: Told of each outcome, to say so once in a while.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        resource: Callable[[], tuple[bytes, str]],
        reporter: "Reporter",
    ) -> None:
        self._lanes = {lane.signal: lane for lane in lanes}
        self._resource = resource
        self._reporter = reporter
        self._concluded: Callable[[Signal, float, str], None] | None = None
        self._ending = False
        self._closed = False
        self._reset()
        forget = weakref.WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: (method := forget()) and method())

    def _reset(self) -> None:
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()
        self._wake = threading.Condition()
        self._flushes: list[_Flush] = []
        self._failed_before = False

    def _after_fork(self) -> None:
        """Begin anew in a child: the parent's thread is not here, and the parent ships the parent's items."""
        self._reset()
        for lane in self._lanes.values():
            lane.renew()

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The ways of all signals that are exported."""
        return tuple(self._lanes.values())

    def on_concluded(self, call: Callable[[Signal, float, str], None]) -> None:
        """Call *call* with each export that is over: its seconds, all attempts included, and the error, if any."""
        self._concluded = call

    def unencodable(self, signal: Signal) -> int:
        """Count an item that OTLP cannot hold; return how many there have been."""
        lane = self._lanes.get(signal)
        if lane is None:
            return 0
        tally = lane.tally
        tally.unencodable += 1
        return tally.unencodable

    def takes(self, signal: Signal) -> bool:
        """Return whether items of *signal* are exported: if not, nobody needs to encode one."""
        return signal in self._lanes and not self._closed

    def append(self, signal: Signal, item: Item) -> None:
        """Take over a finished item; it is in its segment when this returns."""
        if lane := self._lanes.get(signal):
            self._take(lane, [item])

    def inlet(self, signal: Signal, scope: Scope) -> Callable[[bytes], None]:
        """
        Return what takes over one finished, encoded item of *scope*: `append`, for whoever has very many.

        It never raises, and does nothing where *signal* is not exported.
        """
        lane = self._lanes.get(signal)
        if lane is None:
            return lambda _: None
        for each in lane.inlets:
            if each.scope == scope:
                return each.append
        made = Inlet(scope, functools.partial(self._take, lane))
        lane.inlets.append(made)
        return made.append

    def _take(self, lane: Lane, items: Sequence[Item | Run]) -> int:
        """Put items into the segment; return after how many more that is to be done again."""
        # The segment is another one after a fork.
        if not self._closed and (lane.segment.extend(items) or self._thread is None):
            self._attend(lane)
        if self._thread is None:
            return 1
        return lane.settled_at_once

    def _attend(self, lane: Lane) -> None:
        """See to a lane that has an item and no thread, or very many items."""
        if self._thread is None:
            self.start()
        elif not lane.hurried and lane.failures == 0:
            self._hurry(lane)

    def replace(self, signal: Signal, items: Iterable[Item]) -> None:
        """Take over a snapshot that makes the unsent one before it worthless."""
        if lane := self._lanes.get(signal):
            lane.segment.replace(items)
            lane.tally.abandon()

    def start(self) -> None:
        """Start the thread, once; where the system has none to give, the next item tries again."""
        if self._thread is not None or self._closed or not self._lanes:
            return
        thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        now = time.monotonic()
        with self._starting:
            if self.started:
                return
            for lane in self._lanes.values():
                lane.due = now + lane.interval_seconds
            self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            # Out of threads, or the interpreter is on its way out.
            self._thread = None

    def hasten(self, intervals: Mapping[Signal, float]) -> None:
        """
        Send more often from now on, whether the thread runs or is yet to start.

        Args:
            intervals: In seconds, by signal. An interval that somebody has asked for stays, and so does a shorter one.
        """
        now = time.monotonic()
        # Not while the thread is being started, which reads the intervals as well.
        with self._starting, self._wake:
            for signal, seconds in intervals.items():
                if lane := self._lanes.get(signal):
                    lane.hasten(now, seconds)
            self._wake.notify()

    def _hurry(self, lane: Lane) -> None:
        """Send at once: an interval is long enough to fill a segment, which would then lose what could be sent."""
        with self._wake:
            lane.hurried = True
            lane.due = 0.0
            self._wake.notify()

    @property
    def started(self) -> bool:
        """Whether the thread has been started."""
        return self._thread is not None

    def flush(self, timeout_seconds: float) -> bool:
        """
        Send all there is; return whether it was gone before the time was over.

        Called from the pipeline's own thread, by a metric callback for one, it does nothing and returns False.
        """
        return self._flush(timeout_seconds, final=False)

    def _flush(self, timeout_seconds: float, *, final: bool) -> bool:
        if self._thread is None:
            return not any(self.left().values())
        if self._thread is threading.current_thread():
            return False
        flush = _Flush(time.monotonic() + timeout_seconds, final=final)
        with self._wake:
            self._flushes.append(flush)
            self._wake.notify()
        flush.done.wait(timeout_seconds)
        return flush.complete

    def shutdown(self, timeout_seconds: float) -> bool:
        """Flush, then stop for good; return whether everything was delivered. A second call does nothing."""
        with self._wake:
            if self._ending:
                return True
            self._ending = True
        complete = self._flush(timeout_seconds, final=True)
        self._settle()
        with self._wake:
            self._closed = True
            self._wake.notify()
        for lane in self._lanes.values():
            lane.sender.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            # The interpreter must not end under a thread that is inside the transport.
            self._thread.join(_JOIN_SECONDS)
        self._reporter.stopped(self.left())
        return complete

    def left(self) -> dict[Signal, int]:
        """Return how many items wait, by signal."""
        self._settle()
        return {signal: len(lane.segment) for signal, lane in self._lanes.items()}

    def _settle(self) -> None:
        for lane in self._lanes.values():
            lane.settle()

    def _run(self) -> None:
        # Exports make no telemetry of their own, whatever instrumentor watches the transport's library.
        suppress_instrumentation()
        while not self._closed:
            try:
                self._work(self._next())
            except Exception:  # noqa: BLE001 - a defect must not end the thread: nothing would ever be sent again
                self._defect("exporting telemetry failed unexpectedly; this is said once")
                time.sleep(1.0)

    def _next(self) -> "_Flush | None":
        """Wait until a flush is asked for (and return it) or a lane is due."""
        with self._wake:
            if not self._flushes and not self._closed:
                soonest = min(lane.due for lane in self._lanes.values())
                self._wake.wait(min(max(0.0, soonest - time.monotonic()), _LONGEST_WAIT_SECONDS))
            return self._flushes.pop(0) if self._flushes else None

    def _work(self, flush: "_Flush | None") -> None:
        if flush is None:
            self._send_due()
            return
        try:
            flush.complete = self._drain(flush.deadline)
        finally:
            if flush.final:
                # So that what has come in is counted among what is left.
                self._settle()
                # Before anyone takes the connections away: nothing is sent any more.
                self._closed = True
            flush.done.set()

    def _send_due(self) -> None:
        for lane in self._lanes.values():
            if lane.segment.evicted:
                self._reporter.full(lane)
            if lane.due <= time.monotonic() and not self._closed:
                self._collect(lane)
                lane.due = time.monotonic() + lane.interval_seconds
                self._send_waiting(lane)

    def _send_waiting(self, lane: Lane) -> None:
        """Send what waits now; what ends meanwhile is the next turn's, or the other lanes would never have theirs."""
        lane.settle()
        end = lane.segment.end
        # It has its turn: until that is over an item that ends need not ask for one.
        lane.hurried = True
        while lane.segment.waits(end) and not self._flushes:
            if not self._send(lane, lane.timeout_seconds):
                break
        lane.hurried = False
        if lane.segment.pressing and lane.failures == 0:
            lane.due = 0.0

    def _drain(self, deadline: float) -> bool:
        """Send what there is until *deadline*; a lane that was failing already gets one more chance only, at last."""
        # Metrics last: they count what has become of the others.
        waiting = sorted(self._lanes.values(), key=lambda lane: (lane.failures, lane.collect is not None))
        uncollected = [lane for lane in waiting if lane.collect is not None]
        while waiting and time.monotonic() < deadline:
            for lane in list(waiting):
                if lane in uncollected:
                    uncollected.remove(lane)
                    self._collect(lane)
                was_failing = lane.failures > 0
                left = max(0.05, deadline - time.monotonic())
                sent = self._send(lane, min(lane.timeout_seconds, left))
                lane.settle()
                if not lane.segment or (was_failing and not sent):
                    waiting.remove(lane)
            if waiting and all(lane.failures > 0 for lane in waiting):
                time.sleep(min(_FIRST_DELAY_SECONDS, max(0.0, deadline - time.monotonic())))
        for lane in uncollected:
            # So that what is left is said in full.
            self._collect(lane)
        return not any(self.left().values())

    def _collect(self, lane: Lane) -> None:
        if lane.collect is None:
            return
        try:
            lane.collect()
        except Exception:  # noqa: BLE001 - a user's callback may raise; the other signals must still go out
            self._defect("collecting metrics failed; this is said once")

    def _defect(self, text: str) -> None:
        if not self._failed_before:
            self._failed_before = True
            _log.exception(text)

    def _send(self, lane: Lane, timeout_seconds: float) -> bool:
        """Send one batch; return whether the lane may go on at once."""
        lane.settle()
        mark, batch = lane.segment.peek(BATCH_BYTES, lane.batch_items)
        if not batch:
            return False
        lane.tally.begin(batch, time.monotonic())
        outcome = lane.sender.send(frame(*self._resource(), batch), timeout_seconds)
        if self._closed and outcome.sent in (Sent.RETRY, Sent.HELD):
            # The shutdown took the connection away, and says itself what is left.
            return False
        self._reporter.report(lane, outcome, _count(batch))
        if outcome.sent in (Sent.RETRY, Sent.HELD):
            lane.later(time.monotonic(), outcome)
            return False
        self._conclude(lane, outcome, lane.segment.discard(mark))
        lane.failures = 0
        return True

    def _conclude(self, lane: Lane, outcome: Outcome, removed: int) -> None:
        since = lane.tally.since
        error = lane.tally.conclude(outcome, removed)
        if self._concluded is not None and since is not None:
            self._concluded(lane.signal, time.monotonic() - since, error)


class _Flush:
    def __init__(self, deadline: float, *, final: bool) -> None:
        self.deadline = deadline
        self.final = final
        self.done = threading.Event()
        self.complete = False


def suppress_instrumentation() -> None:
    """Switch instrumentors off for the rest of the current thread."""
    for key in SUPPRESSED:
        context_api.attach(context_api.set_value(key, value=True))


class Reporter:
    """
    Says what becomes of exports: one line when they fail, at most one each five minutes after it, one at recovery.

    Several signals that fail to the same place are one trouble, so they share the lines.
    """

    _EVERY_SECONDS = 300.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._troubles: dict[str, _Trouble] = {}
        self._said: dict[str, float] = {}
        self._refusals: dict[tuple[Signal, str], _Refusal] = {}
        self._full: set[Signal] = set()

    def report(self, lane: Lane, outcome: Outcome, items: int) -> None:
        """Take note of one request's outcome."""
        if outcome.sent not in (Sent.RETRY, Sent.HELD):
            self._recovered(lane)
        elif outcome.reason:
            # A signal that its settings hold back has no reason here: it came with the settings.
            self._failed(lane, outcome)
        lost = items if outcome.sent is Sent.REFUSED else outcome.rejected
        if lost or (outcome.reason and outcome.sent is Sent.ACCEPTED):
            self._refused(lane, outcome, lost)

    def full(self, lane: Lane) -> None:
        """Say, once, that a segment is full and what ended first is dropped."""
        if lane.signal not in self._full:
            self._full.add(lane.signal)
            text = "telemetry: more %s than can be sent: the oldest are dropped from now on, and counted as %s"
            _log.warning(text, lane.signal.items, "queue_full")

    def stopped(self, left: dict[Signal, int]) -> None:
        """Say what could not be delivered before the process ends."""
        lost = ", ".join(f"{count} {signal.items}" for signal, count in left.items() if count)
        if lost:
            _log.warning("telemetry: not delivered before the end: %s", lost)

    def _failed(self, lane: Lane, outcome: Outcome) -> None:
        now, where = self._clock(), lane.sender.where
        trouble = self._troubles.setdefault(where, _Trouble(since=now))
        trouble.evicted_before.setdefault(lane, lane.segment.evicted)
        trouble.over.discard(lane)
        # By place and not by trouble: one that comes and goes would have a line each time.
        if now - self._said.get(where, -self._EVERY_SECONDS) < self._EVERY_SECONDS:
            return
        self._said[where] = now
        if trouble.said:
            text = "telemetry: still not delivered to %s after %d s: %s; %s wait, %d items were dropped"
            waiting = ", ".join(f"{len(each.segment)} {each.signal.items}" for each in trouble.evicted_before)
            _log.warning(text, where, now - trouble.since, outcome.reason, waiting, trouble.dropped())
        else:
            what = "held back" if outcome.sent is Sent.HELD else "not delivered"
            limit = SEGMENT_BYTES // 2**20
            text = "telemetry: %s to %s: %s; serving goes on, up to %d MiB of each signal is kept"
            _log.warning(text, what, where, outcome.reason, limit)
        trouble.said = True

    def _recovered(self, lane: Lane) -> None:
        where = lane.sender.where
        trouble = self._troubles.get(where)
        if trouble is None or lane not in trouble.evicted_before:
            return
        trouble.over.add(lane)
        if trouble.over != set(trouble.evicted_before):
            return
        del self._troubles[where]
        if trouble.said:
            text = "telemetry: delivered to %s again after %.0f s; %d items were dropped meanwhile"
            _log.info(text, where, self._clock() - trouble.since, trouble.dropped())

    def _refused(self, lane: Lane, outcome: Outcome, lost: int) -> None:
        now = self._clock()
        if len(self._refusals) > 100:
            self._refusals.clear()
        refusal = self._refusals.setdefault((lane.signal, outcome.reason), _Refusal(-self._EVERY_SECONDS))
        refusal.lost += lost
        if now - refusal.said < self._EVERY_SECONDS:
            return
        text = "telemetry: %s refused %d %s: %s"
        _log.warning(text, lane.sender.where, refusal.lost, lane.signal.items, outcome.reason)
        refusal.said, refusal.lost = now, 0


@dataclass(slots=True)
class _Trouble:
    """Since when there is trouble, whether it was said, and for each signal in it what it had dropped before."""

    since: float
    said: bool = False
    evicted_before: dict[Lane, int] = field(default_factory=dict)
    over: set[Lane] = field(default_factory=set)

    def dropped(self) -> int:
        return sum(lane.segment.evicted - before for lane, before in self.evicted_before.items())


@dataclass(slots=True)
class _Refusal:
    said: float
    lost: int = 0
