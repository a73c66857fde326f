"""
One process that calls itself by grpc.aio, under callgrind, which counts the instructions of the event loop's thread.

    valgrind --tool=callgrind --instr-atstart=no python -m bench.telemetry.grpc_counted server

gRPC's own threads come and go as they like, so the same work never takes quite the same. With `--bytecodes`
those of Python are counted, by function, and written as a line of JSON; that takes no callgrind.
"""

import argparse
import asyncio
import gc
import json
import os
import random
import sys
from collections.abc import Sequence

import rsketch_telemetry

from bench.telemetry.bytecodes import Bytecodes
from bench.telemetry.grpc_service import SIDES, calls, connected
from bench.telemetry.valgrind import Requests

__all__ = ["main"]

_WARM = 100


def main(argv: Sequence[str]) -> int:
    """Call while callgrind counts."""
    parser = argparse.ArgumentParser(prog="grpc_counted", description="Calls while callgrind counts.")
    parser.add_argument("side", choices=("none", *SIDES))
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--bytecodes", action="store_true", help="count bytecodes instead, by function, and write them")
    options = parser.parse_args(argv)
    random.seed(1)
    if options.side != "none":
        rsketch_telemetry.configure()
        SIDES[options.side]().instrument()
    counter = Bytecodes() if options.bytecodes else Requests()
    asyncio.run(_count(options.requests, counter))
    if isinstance(counter, Bytecodes):
        print(json.dumps({name: count / options.requests for name, count in counter.by_name().items()}), flush=True)
    return 0


async def _count(count: int, counter: Bytecodes | Requests) -> None:
    async with connected() as call:
        await calls(call, _WARM, at_a_time=1)
        gc.collect()
        gc.freeze()
        counter.start()
        await calls(call, count, at_a_time=1)
        counter.stop()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    os._exit(code)
