"""
One process that serves HTTP with or without telemetry, under callgrind, which counts a slice of it.

    valgrind --tool=callgrind --instr-atstart=no python -m bench.telemetry.http_counted users on

Whatever would make two runs differ is settled: ids come from a seed, nothing is sent, and the thread that would send
sleeps. Without telemetry none is even configured. With `--bytecodes` those of Python are counted, by function, and
written as a line of JSON; that takes no callgrind.
"""

import argparse
import asyncio
import gc
import itertools
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sanic.server.loop import try_use_uvloop

from bench.telemetry import traffic
from bench.telemetry.application import create_app
from bench.telemetry.bytecodes import Bytecodes
from bench.telemetry.connection import Connection, started
from bench.telemetry.valgrind import Requests
from bench.telemetry.variants import HTTP, HttpVariant

__all__ = ["main"]

_WARM = 300


def main(argv: Sequence[str]) -> int:
    """Serve a slice while callgrind counts."""
    parser = argparse.ArgumentParser(prog="http_counted", description="Serves a slice while callgrind counts.")
    parser.add_argument("variant", choices=sorted(HTTP))
    parser.add_argument("telemetry", choices=("on", "off"))
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--bytecodes", action="store_true", help="count bytecodes instead, by function, and write them")
    options = parser.parse_args(argv)
    counter = Bytecodes() if options.bytecodes else Requests()
    try_use_uvloop()
    random.seed(1)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_serve(HTTP[options.variant], options, Path(folder), counter))
    if isinstance(counter, Bytecodes):
        print(json.dumps({name: count / options.requests for name, count in counter.by_name().items()}), flush=True)
    return 0


async def _serve(
    variant: HttpVariant, options: argparse.Namespace, folder: Path, counter: Bytecodes | Requests
) -> None:
    app = create_app(many_routes=variant.many_routes)
    app.config.ACCESS_LOG = bool(variant.line)
    on = options.telemetry == "on"
    if on or variant.line:
        from bench.telemetry import switch

        switch.log_into(folder / "log.txt")
        if on:
            switch.create_switch(variant, app).on()
    sent = traffic.requests(variant.traffic, traced=variant.traced)
    warm, counted = sent[:_WARM], list(itertools.islice(itertools.cycle(sent), _WARM, _WARM + options.requests))
    async with started(app):
        connection = Connection(app)
        await connection.send(warm)
        gc.collect()
        gc.freeze()
        counter.start()
        await connection.send(counted)
        counter.stop()
        connection.answered(variant.status)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    # What waits is not to be sent: there is nobody to take it.
    os._exit(code)
