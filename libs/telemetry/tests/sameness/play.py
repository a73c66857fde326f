"""
Makes all calls of some groups with one recorder, and writes what was received of each: a process of its own.

    python -m libs.telemetry.tests.sameness.play lean GROUP…
"""

import asyncio
import json
import logging
import sys
import traceback
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.propagate import get_global_textmap, set_global_textmap
from opentelemetry.propagators.textmap import TextMapPropagator
from rsketch_telemetry import environment, logs, semconv
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.otlp.handler import Export
from rsketch_telemetry.otlp.receiver import ReceiverConfig, receive
from rsketch_telemetry.recorders import VARIABLE
from rsketch_telemetry.sdk import Providers, create_providers

from .rendered import Reader

__all__ = ["EVERYTHING", "FAILED", "RECORDER", "Case", "Group", "Place", "Played", "play"]

EVERYTHING: Final = "(everything)"
"""The name under which a group's resources are, and the metrics of all of its calls."""
RECORDER: Final = "(recorder)"
"""The name under which stands which recorder has served."""
FAILED: Final = "(failed)"
"""The name under which stands why a group could not be played."""

_MEASURED = (semconv.HTTP_SERVER_DURATION, semconv.RPC_SERVER_DURATION, semconv.RPC_CLIENT_DURATION)
_PATIENCE_SECONDS = 5.0
"""How long the telemetry of one call is waited for."""
_ALL_PATIENCE_SECONDS = 40.0
"""How long that of all calls of a process is, that never comes: what is lost is to be read, not to be waited for."""

Played = dict[str, list[str]]
"""The lines of each call, by the name of its case."""


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where calls are made.

    Attributes:
        port: Of the server.
        made: What a handler records with.
    """

    port: int
    made: Providers


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """
    One call, or a few that belong together.

    Attributes:
        call: Makes it, and returns what the caller sees.
        durations: How many calls are measured; it has ended when they are.
        spans: How many spans there are at least, where some end later than that.
    """

    name: str
    call: Callable[[Place], Awaitable[Sequence[str]]]
    durations: int = 1
    spans: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """
    Calls with the same settings, made one after the other.

    Attributes:
        environ: The settings.
        serve: Serves the application with an instrumentor that records with the providers.
        prepare: Changes the providers before they are recorded with.
    """

    name: str
    cases: tuple[Case, ...]
    serve: Callable[[Providers, InstrumentorSettings], AbstractAsyncContextManager[int]]
    environ: Mapping[str, str] = field(default_factory=dict)
    protocol: str = "grpc"
    propagator: Callable[[], TextMapPropagator] = get_global_textmap
    prepare: Callable[[Providers], object] = lambda made: made


class _Keeping:
    def __init__(self) -> None:
        self.exports: list[Export] = []

    async def handle(self, export: Export) -> None:
        """Keep an export."""
        self.exports.append(export)


class _Patience:
    """What is left of a process's patience."""

    def __init__(self) -> None:
        self._seconds = _ALL_PATIENCE_SECONDS

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until *holds* is true, as long as one call's telemetry may take."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        seconds = min(self._seconds, _PATIENCE_SECONDS)
        while not await holds():
            if loop.time() - begin > seconds:
                self._seconds -= seconds
                return
            await asyncio.sleep(0.01)


async def play(group: Group, recorder: str, patience: _Patience) -> Played:
    """Make the calls of a group."""
    keeping = _Keeping()
    with _warnings() as warned:
        played = await _all_played(group, recorder, keeping, patience)
    played[EVERYTHING] += sorted(f"warned: {each}" for each in warned)
    return played


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Yield what the library warns of meanwhile, such as that the lean recorder has given up."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("rsketch_telemetry")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


async def _all_played(group: Group, recorder: str, keeping: _Keeping, patience: _Patience) -> Played:
    async with receive(keeping, ReceiverConfig(grpc_port=0, http_port=0)) as receiver:
        given = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": (
                receiver.grpc_endpoint if group.protocol == "grpc" else receiver.http_endpoint
            ),
            "OTEL_EXPORTER_OTLP_PROTOCOL": group.protocol,
            "OTEL_SERVICE_NAME": "same",
            "RSKETCH_TELEMETRY_PROCESS_METRICS": "false",
            VARIABLE: recorder,
            **group.environ,
        }
        async with _recording(group, given) as (made, settings), group.serve(made, settings) as port:
            return await _Playing(keeping, Place(port, made), patience).cases(group)


@asynccontextmanager
async def _recording(group: Group, given: Mapping[str, str]) -> AsyncIterator[tuple[Providers, InstrumentorSettings]]:
    environ, complaints = environment.checked(given)
    with environment.presented(environ):
        made = create_providers(environ, {}, complaints)
    assert not complaints, complaints
    group.prepare(made)
    before = get_global_textmap()
    set_global_textmap(group.propagator())
    # The short way of log records belongs to what is compared.
    logs.install(made.loggers, made.pipeline if made.choice.recorder == "lean" else None)
    try:
        yield made, InstrumentorSettings.from_env(environ)
    finally:
        logs.uninstall()
        set_global_textmap(before)
        await asyncio.to_thread(made.pipeline.shutdown, 3.0)
        made.tracers.shutdown()


class _Playing:
    def __init__(self, keeping: _Keeping, place: Place, patience: _Patience) -> None:
        self._keeping = keeping
        self._place = place
        self._patience = patience
        self._reader = Reader((place.port,))

    async def cases(self, group: Group) -> Played:
        """Make each call."""
        played = {}
        for case in group.cases:
            try:
                answer = await asyncio.wait_for(case.call(self._place), 20)
            except Exception as error:
                raise AssertionError(f"{group.name}, {case.name}") from error
            exports = await self._exports(case)
            played[case.name] = self._reader.call(exports, answer)
        played[RECORDER] = [self._place.made.choice.recorder]
        played[EVERYTHING] = self._reader.whole()
        return played

    async def _exports(self, case: Case) -> list[Export]:
        """Return what the calls of a case have made, once that is all."""
        await self._patience.until(lambda: self._ended(case))
        # A span may have ended just after the spans went, and before the metrics were collected.
        await self._flush()
        exports, self._keeping.exports = self._keeping.exports, []
        return exports

    async def _ended(self, case: Case) -> bool:
        await self._flush()
        exports = self._keeping.exports
        if self._reader.counted(exports, _MEASURED) < case.durations:
            return False
        return sum(_spans(export) for export in exports) >= case.spans

    async def _flush(self) -> None:
        await asyncio.sleep(0.002)
        await asyncio.to_thread(self._place.made.pipeline.flush, 5.0)


def _spans(export: Export) -> int:
    request: Any = export.request
    return sum(len(part.spans) for each in getattr(request, "resource_spans", ()) for part in each.scope_spans)


def _main(recorder: str, names: Sequence[str]) -> None:
    from .groups import GROUPS

    # What handlers do on purpose to a span is warned of by the API.
    warnings.simplefilter("ignore")
    patience = _Patience()
    played = {group.name: _played(group, recorder, patience) for group in GROUPS if not names or group.name in names}
    json.dump(played, sys.stdout)


def _played(group: Group, recorder: str, patience: _Patience) -> Played:
    try:
        return asyncio.run(play(group, recorder, patience))
    except Exception:
        return {FAILED: traceback.format_exc().splitlines()}


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
