"""Who runs which scenario of `expected.toml`, and how a runner hands over what it observed."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from recording import Recording, until

from .expectations import Observed

__all__ = ["RUNNERS", "Runner", "observed", "runs"]

Runner: TypeAlias = Callable[[Path], Awaitable[Sequence[Observed]]]
"""Runs a scenario, in each of its spellings, with an empty folder of its own; returns what each run has made."""

RUNNERS: Final[dict[str, Runner]] = {}


def runs(scenario: str) -> Callable[[Runner], Runner]:
    """Register the runner of the scenario with an id."""

    def register(runner: Runner) -> Runner:
        assert scenario not in RUNNERS, f"{scenario} has a runner already"
        RUNNERS[scenario] = runner
        return runner

    return register


async def observed(recording: Recording, places: Mapping[str, str | int], not_before_ns: int | None = None) -> Observed:
    """
    Wait for the span of the one call, and return all that was recorded, through OTLP and back.

    Args:
        recording: What the call was recorded with.
        places: What the file's placeholders stand for.
        not_before_ns: When the span may end at the earliest, nanoseconds since the epoch, where the scenario says so.
    """
    await until(recording.spans.get_finished_spans)
    now = time.time_ns()
    recording.collected()
    return Observed(
        spans=tuple(recording.decoded_spans()),
        points=tuple(recording.decoded_points()),
        logs=tuple(recording.decoded_logs()),
        places=places,
        ended_ns=None if not_before_ns is None else (not_before_ns, now),
    )
