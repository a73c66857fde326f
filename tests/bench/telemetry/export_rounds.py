"""
One process that lets spans gather and then sends them, and says what the sending took.

    python -m bench.telemetry.export_rounds --rounds 30

The spans are those of requests that were served. Whatever the process does while its main thread waits for the flush
is the export: framing, sending, and what gRPC does on threads of its own.
"""

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sanic.server.loop import try_use_uvloop

from bench.telemetry import traffic
from bench.telemetry.application import create_app
from bench.telemetry.connection import Connection, started
from bench.telemetry.switch import create_switch, log_into
from bench.telemetry.variants import HTTP

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Send so often; write what came out as one line of JSON."""
    parser = argparse.ArgumentParser(prog="export_rounds", description="What does it take to send a span?")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--spans", type=int, default=1000, help="in a round")
    options = parser.parse_args(argv)
    try_use_uvloop()
    with tempfile.TemporaryDirectory() as folder:
        log_into(Path(folder) / "log.txt")
        print(json.dumps(asyncio.run(_measured(options.rounds, options.spans))), flush=True)
    return 0


async def _measured(rounds: int, spans: int) -> dict[str, object]:
    app = create_app()
    switch = create_switch(HTTP["users"], app)
    requests = list(itertools.islice(itertools.cycle(traffic.requests("users")), spans))
    async with started(app):
        switch.on()
        connection = Connection(app)
        took = []
        # The first opens the connection.
        for at in range(rounds + 1):
            await connection.send(requests)
            begun = time.process_time_ns()
            switch.flush()
            if at:
                took.append((time.process_time_ns() - begun) / spans)
    return {"took": took, "spans": (rounds + 1) * spans}


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # Everything was flushed; what gRPC does at the end of a process is not measured.
    os._exit(code)
