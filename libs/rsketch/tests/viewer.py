"""
A dashboard in the style of somebody else's package, for child processes: it listens on both ports and says who it is.

`VIEWER_FAULT` makes it fail in one of several ways. `VIEWER_JOURNAL` gets a line with its process id and environment.
"""

import asyncio
import json
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path

from rsketch import Command


def run(_options: Namespace, environ: Mapping[str, str]) -> int:
    """Serve until it is killed."""
    with Path(environ["VIEWER_JOURNAL"]).open("a") as journal:
        journal.write(json.dumps({"pid": os.getpid(), "session": os.getsid(0), "environ": dict(environ)}) + "\n")
    fault = environ.get("VIEWER_FAULT", "")
    if fault == "die":
        print("the lens is broken", file=sys.stderr)
        return 3
    time.sleep({"late": 1.0, "hang": 60.0}.get(fault, 0.0))
    asyncio.run(_serve(*(int(environ[f"RSKETCH_DASHBOARD_{kind}_PORT"]) for kind in ("GRPC", "HTTP"))))
    return 0


async def _serve(grpc_port: int, http_port: int) -> None:
    about = json.dumps({"name": "rsketch-dashboard", "pid": os.getpid(), "grpc": f"http://127.0.0.1:{grpc_port}"})

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        known = head.startswith(b"GET /-/identity ")
        writer.write(f"HTTP/1.0 200 OK\r\n\r\n{about}".encode() if known else b"HTTP/1.0 404 Not Found\r\n\r\n")
        writer.close()

    async with (
        await asyncio.start_server(lambda *_: None, "127.0.0.1", grpc_port),
        await asyncio.start_server(answer, "127.0.0.1", http_port) as server,
    ):
        await server.serve_forever()


def _arguments(_parser: ArgumentParser) -> None:
    """It has none."""


command = Command(help="shows", arguments=_arguments, run=run)
