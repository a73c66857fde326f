"""
What a scenario has to work with: channels to the servers of its column, metadata, a clock, an ear for the handlers.

It is the same whether the scenario runs in the suite's process, which is never instrumented, or in the program under
test, whose client is.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc.aio

from truth.rpc.servicer import visible

__all__ = ["BAGGAGE", "Bench", "Channel", "Seen", "ended", "read", "seen_of"]

BAGGAGE = "till=7,shop=corner"
"""What each caller has as baggage."""

Channel = Any
"""A `grpc.aio.Channel`; its stubs want serializers, which bytes do not need."""

Seen = dict[str, Any]
"""What a caller saw: plain values without times, ports and ids."""


class Bench:
    """
    One run of one scenario.

    Attributes:
        targets: Of the servers, by name; see `truth.rpc.server`.
        told: Waits until a handler of this run has told something; returns whether it did in time.
        secret: What must not leak from wherever it is put.
        bounds: Begin and end of each call that was timed, in ns since the epoch.
    """

    def __init__(
        self,
        case: str,
        targets: Mapping[str, str],
        told: Callable[[str], Awaitable[bool]],
        *,
        secret: str = "",
        parent: Callable[[], str] | None = None,
        interceptors: Sequence[Any] = (),
        make_channel: Callable[..., Channel] = grpc.aio.insecure_channel,
    ) -> None:
        self.targets = targets
        self.told = told
        self.secret = secret
        self.bounds: list[tuple[int, int]] = []
        self._case = case
        self._parent = parent
        self._interceptors = interceptors
        self._make_channel = make_channel

    @asynccontextmanager
    async def channel(
        self, server: str = "main", *, target: str | None = None, options: Sequence[tuple[str, Any]] = ()
    ) -> AsyncIterator[Channel]:
        """Yield a channel to the server of a name, or to a target."""
        arguments = {"interceptors": list(self._interceptors)} if self._interceptors else {}
        to = self.targets[server] if target is None else target
        async with self._make_channel(to, options=tuple(options), **arguments) as channel:
            yield channel

    def metadata(self, *pairs: tuple[str, str | bytes], linked: bool = True) -> tuple[tuple[str, str | bytes], ...]:
        """Return the metadata of one call: whose it is, and what a caller that is traced by others sends along."""
        parent = (("traceparent", self._parent()), ("baggage", BAGGAGE)) if self._parent and linked else ()
        return (("x-case", self._case), *parent, *pairs)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure one call, as its caller sees it; the n-th is the n-th expected call."""
        begin = time.time_ns()
        try:
            yield
        finally:
            self.bounds.append((begin, time.time_ns()))


async def seen_of(awaited: Awaitable[Any]) -> Any:
    """Return an answer, or what came in its place."""
    try:
        answer = await awaited
    except grpc.aio.AioRpcError as error:
        return f"AioRpcError {error.code().name}"
    except (Exception, asyncio.CancelledError) as error:
        return _raised(error)
    return _shown(answer)


async def read(call: Any) -> list[Any]:
    """Return the messages of a stream, and how it ended where that was not by its end."""
    got: list[Any] = []
    try:
        async for message in call:
            # One by one: what came before a failure counts.
            got.append(_shown(message))  # noqa: PERF401
    except grpc.aio.AioRpcError as error:
        got.append(f"AioRpcError {error.code().name}")
    except (Exception, asyncio.CancelledError) as error:
        got.append(_raised(error))
    return got


async def ended(call: Any, answer: Any, *, details: bool = True) -> Seen:
    """Return *answer* and everything that a call object tells once the call is over."""
    return {
        "answer": answer,
        "code": await _of(call.code, lambda code: code.name),
        "details": await _of(call.details, str) if details else "",
        "initial": await _of(call.initial_metadata, visible),
        "trailing": await _of(call.trailing_metadata, visible),
        "done": call.done(),
        "cancelled": call.cancelled(),
    }


async def _of(ask: Callable[[], Awaitable[Any]], shown: Callable[[Any], Any]) -> Any:
    try:
        return shown(await ask())
    except (Exception, asyncio.CancelledError) as error:
        return _raised(error)


def _raised(error: BaseException) -> str:
    """Return what was raised; a call that was cancelled raises CancelledError at whoever waits for it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        # Not the call's, but the end of a scenario that takes too long.
        raise error
    return type(error).__name__


def _shown(message: Any) -> Any:
    if message is grpc.aio.EOF:
        return "EOF"
    if not isinstance(message, bytes):
        return repr(message)
    text = message.decode("latin-1")
    return text if len(text) < 100 else f"{len(text)} bytes of {text[:1]!r}"
