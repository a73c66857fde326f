"""
One process that serves HTTP in slices, with and without telemetry in turn, and says what each request took.

    python -m bench.telemetry.http_slices users --pairs 40

Telemetry is configured by the environment. Each slice is a connection of its own, as one that is open holds on to the
hooks that it began with; it is warmed before the clock runs, and a pair of slices gets the same requests.
"""

import argparse
import asyncio
import gc
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sanic.server.loop import try_use_uvloop

from bench.telemetry import traffic
from bench.telemetry.application import App, create_app
from bench.telemetry.connection import Connection, started
from bench.telemetry.switch import Switch, create_switch, log_into
from bench.telemetry.variants import HTTP, HttpVariant

__all__ = ["main"]

_WARM = 200


def main(argv: Sequence[str]) -> int:
    """Measure one variant; write what came out as one line of JSON."""
    parser = argparse.ArgumentParser(prog="http_slices", description="What does telemetry add to an HTTP request?")
    parser.add_argument("variant", choices=sorted(HTTP))
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--requests", type=int, default=400, help="in a slice")
    options = parser.parse_args(argv)
    try_use_uvloop()
    with tempfile.TemporaryDirectory() as folder:
        log_into(Path(folder) / "log.txt")
        measured = asyncio.run(_measured(HTTP[options.variant], options.pairs, options.requests))
    print(json.dumps(measured), flush=True)
    return 0


async def _measured(variant: HttpVariant, pairs: int, count: int) -> dict[str, object]:
    app = create_app(many_routes=variant.many_routes)
    switch = create_switch(variant, app)
    async with started(app):
        sent = traffic.requests(variant.traffic, traced=variant.traced)
        # Of a thousand routes each is warm in a server that has run for a while.
        warm = sent if variant.many_routes else sent[:_WARM]
        slices = _Slices(app, switch, warm, variant.status)
        for on in (False, True):
            await slices.run(sent[:count], on=on)
        # The first export opens a connection, once in a process.
        switch.flush()
        begun, own = time.process_time_ns(), time.thread_time_ns()
        served = slices.served_with
        found = [
            await slices.pair(requests, first=bool(at % 2)) for at, requests in enumerate(_turns(sent, pairs, count))
        ]
        switch.flush()
        others = (time.process_time_ns() - begun) - (time.thread_time_ns() - own)
    return {
        "pairs": found,
        "others_ns": others / (slices.served_with - served),
        "served_with": slices.served_with,
    }


class _Slices:
    def __init__(self, app: App, switch: Switch, warm: Sequence[bytes], status: int) -> None:
        self._app = app
        self._status = status
        self._switch = switch
        self._warm = warm
        self.served_with = 0

    async def pair(self, requests: Sequence[bytes], *, first: bool) -> tuple[float, float]:
        """Return the ns a request without and with telemetry; *first* says which comes first."""
        took = {on: await self.run(requests, on=on) for on in (first, not first)}
        return took[False], took[True]

    async def run(self, requests: Sequence[bytes], *, on: bool) -> float:
        """Serve the requests on a connection of their own; return the ns that the loop's thread takes for each."""
        (self._switch.on if on else self._switch.off)()
        connection = Connection(self._app)
        await connection.send(self._warm)
        gc.collect()
        begun = time.thread_time_ns()
        await connection.send(requests)
        took = time.thread_time_ns() - begun
        await connection.close()
        self._switch.off()
        answered = connection.answered(self._status)
        self.served_with += answered if on else 0
        return took / len(requests)


def _turns(sent: Sequence[bytes], turns: int, count: int) -> Iterator[Sequence[bytes]]:
    endless = itertools.cycle(sent)
    for _ in range(turns):
        yield list(itertools.islice(endless, count))


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # Everything was flushed; what gRPC does at the end of a process is not measured.
    os._exit(code)
