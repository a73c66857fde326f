"""
Two services in the style of somebody else's package, for child processes; they tell a journal what happens to them.

Each answers a connection with its process id. `STRANGER_<NAME>_FAULT` makes it fail in one of several ways.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from rsketch import REUSE_PORT, Address, ConfigError, Service, StartError, settings


def create_service(name: str, *needs: str) -> Service:
    """Return a service whose settings start with STRANGER_ and its name."""
    prefix = f"STRANGER_{name.upper()}_"

    def requested(environ: Mapping[str, str]) -> Address:
        settings.integer(environ, f"{prefix}LIMIT", 1, low=0, high=9)
        return Address(scheme="grpc", host="127.0.0.1", port=settings.port(environ, f"{prefix}PORT", 0))

    @asynccontextmanager
    async def serve(environ: Mapping[str, str]) -> AsyncIterator[Address]:
        wanted = requested(environ)
        journal = Journal(Path(environ["STRANGER_JOURNAL"]), name)
        fault = environ.get(f"{prefix}FAULT", "")
        await _fail_at_start(fault, f"{prefix}FAULT")
        with _bind(wanted, share=environ.get(REUSE_PORT) == "1") as bound:
            hit = asyncio.Event()
            server = await asyncio.start_server(_answer(hit), sock=bound)
            known = [f"{key}={environ[key]}" for key in environ if key.endswith(("_ADDRESS", "_WORKER"))]
            journal.write("opened", *sorted(known))
            if settings.boolean(environ, f"{prefix}CALL", default=False):
                logging.getLogger("rsketch_telemetry.access").info("a call of %s", name)
            try:
                async with asyncio.TaskGroup() as group:
                    failing = group.create_task(_fail_later(fault, hit))
                    yield Address(scheme="grpc", host="127.0.0.1", port=bound.getsockname()[1])
                    failing.cancel()
            finally:
                server.close()
                journal.write("closing")
                await asyncio.sleep(float(environ.get(f"{prefix}DRAIN", "0")))
                journal.write("closed")
        if fault == "close":
            raise RuntimeError("broken drain")

    return Service(serve=serve, requested=requested, port_setting=f"{prefix}PORT", needs=needs)


class Journal:
    """A file to which all processes append lines."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name

    def write(self, *words: str) -> None:
        """Append one line."""
        with self._path.open("a") as file:
            file.write(" ".join([str(os.getpid()), self._name, *words]) + "\n")


def _bind(wanted: Address, *, share: bool) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, share)
    bound.bind((wanted.host, wanted.port))
    return bound


def _answer(hit: asyncio.Event) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1) == b"!":
            hit.set()
        writer.write(str(os.getpid()).encode())
        writer.close()

    return handle


async def _fail_at_start(fault: str, setting: str) -> None:
    if fault == "config":
        raise ConfigError(setting, "nothing of the kind", fault)
    if fault == "start":
        raise StartError("the moon is in the wrong place")
    if fault == "bug":
        raise ZeroDivisionError("one\nof those")
    if fault == "die":
        os._exit(9)
    if fault == "hang":
        await asyncio.sleep(60)


async def _fail_later(fault: str, hit: asyncio.Event) -> None:
    await hit.wait()
    if fault == "later":
        raise RuntimeError("the cable was cut")


alpha = create_service("alpha", "beta", "gamma")
beta = create_service("beta")
