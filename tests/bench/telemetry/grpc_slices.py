"""
One process that calls itself by grpc.aio in slices, with telemetry on one side or none, and says what each call took.

    python -m bench.telemetry.grpc_slices --pairs 20

Each slice has a server and a channel of its own, as a server keeps what it was made with. What is counted is the CPU
time of the event loop's thread, on one core, as what gRPC does on threads of its own differs from slice to slice by
more than telemetry takes; theirs is told beside. The thread that exports sleeps meanwhile, and what sending takes is
measured apart.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import rsketch_telemetry

from bench.telemetry.grpc_service import SIDES, Side, calls, connected
from bench.telemetry.server import cores

__all__ = ["main"]

_WARM = 150
_AT_A_TIME = 1
"""Calls under way: the fewest differ the least."""


@dataclass(frozen=True, slots=True)
class _Took:
    """The ns a call of the event loop's thread, and of all others."""

    loop: float
    others: float


def main(argv: Sequence[str]) -> int:
    """Measure both sides; write what came out as one line of JSON."""
    parser = argparse.ArgumentParser(prog="grpc_slices", description="What does telemetry add to a call?")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--calls", type=int, default=400, help="in a slice")
    options = parser.parse_args(argv)
    os.sched_setaffinity(0, cores()[1])
    rsketch_telemetry.configure().start()
    print(json.dumps(asyncio.run(_measured(options.pairs, options.calls))), flush=True)
    return 0


async def _measured(pairs: int, count: int) -> dict[str, object]:
    for side in (None, *SIDES):
        await _slice(side, count)
    _flush()
    found: dict[str, list[tuple[_Took, _Took]]] = {side: [] for side in SIDES}
    sending = []
    for at in range(pairs):
        for side in SIDES:
            order = (None, side) if at % 2 else (side, None)
            took = {each: await _slice(each, count) for each in order}
            found[side].append((took[None], took[side]))
        begun = time.process_time_ns()
        _flush()
        sending.append((time.process_time_ns() - begun) / (len(SIDES) * (count + _WARM)))
    return {
        "loop": {side: [(off.loop, on.loop) for off, on in found[side]] for side in SIDES},
        "others": {side: [(off.others, on.others) for off, on in found[side]] for side in SIDES},
        "sending": sending,
        "served_with": (pairs + 1) * (count + _WARM),
    }


def _flush() -> None:
    if not rsketch_telemetry.configure().flush(30.0):
        raise RuntimeError("telemetry could not send what there was")


async def _slice(side: Side | None, count: int) -> _Took:
    """Call in a slice, with telemetry on one side or on none."""
    instrumentor = SIDES[side]() if side else None
    if instrumentor:
        instrumentor.instrument()
    async with connected() as call:
        await calls(call, _WARM, at_a_time=_AT_A_TIME)
        gc.collect()
        begun, of_all = time.thread_time_ns(), time.process_time_ns()
        await calls(call, count, at_a_time=_AT_A_TIME)
        loop, whole = time.thread_time_ns() - begun, time.process_time_ns() - of_all
    if instrumentor:
        instrumentor.uninstrument()
    return _Took(loop / count, (whole - loop) / count)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # Everything was flushed; what gRPC does at the end of a process is not measured.
    os._exit(code)
