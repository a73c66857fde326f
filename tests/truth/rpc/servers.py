"""
The servers of the gRPC cases: one that serves all, and a few with a limit or a fate of their own.

They are opened in the program under test, or in the suite's process where only the client is under test.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from truth.rpc.servicer import BIG, SERVICE, method_handlers
from truth.witness import Witness

__all__ = ["Making", "open_servers"]

_GRACE_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """
    How an application makes its servers.

    Attributes:
        server: `grpc.aio.server`, under whatever name it was imported.
        interceptors: The application's own.
        registered: Whether methods are registered by name too, as generated code does.
    """

    server: Callable[..., Any] = grpc.aio.server
    interceptors: Sequence[Any] = ()
    registered: bool = False


@asynccontextmanager
async def open_servers(witness: Witness, folder: Path, making: Making | None = None) -> AsyncIterator[dict[str, str]]:
    """
    Serve while open; yields the targets by name.

    `main` by address, and the same server as `host`, `dns`, `unix` and `several`; `small` takes and sends small
    messages only; `narrow` serves one call at a time; `doomed` stops when it is asked to; `late` listens once `main` is
    asked to open it; `nowhere` is no server.
    """
    servers = _Servers(witness, folder / f"{secrets.token_hex(3)}.sock", making or Making())
    async with AsyncExitStack() as opened:
        opened.push_async_callback(servers.close)
        yield await servers.open()


class _Servers:
    def __init__(self, witness: Witness, path: Path, making: Making) -> None:
        self._witness = witness
        self._path = path
        self._late_path = path.with_suffix(".late")
        self._making = making
        self._opened: list[Any] = []
        self._stopping: set[asyncio.Task[None]] = set()

    async def open(self) -> dict[str, str]:
        main = await self._serve("127.0.0.1:0", f"unix:{self._path}")
        limits = [(f"grpc.max_{way}_message_length", BIG // 4) for way in ("receive", "send")]
        small = await self._serve("127.0.0.1:0", options=limits)
        narrow = await self._serve("127.0.0.1:0", maximum_concurrent_rpcs=1)
        doomed = await self._serve("127.0.0.1:0")
        return {
            "main": f"127.0.0.1:{main}",
            "host": f"localhost:{main}",
            "dns": f"dns:///localhost:{main}",
            "unix": f"unix:{self._path}",
            "several": f"ipv4:127.0.0.1:1,127.0.0.1:{main}",
            "small": f"127.0.0.1:{small}",
            "narrow": f"127.0.0.1:{narrow}",
            "doomed": f"127.0.0.1:{doomed}",
            "late": f"unix:{self._late_path}",
            "nowhere": "127.0.0.1:1",
        }

    async def close(self) -> None:
        await asyncio.gather(*(server.stop(None) for server in self._opened), *self._stopping)

    async def _serve(self, *addresses: str, **options: Any) -> int:
        """Open a server and return the port of its first address."""
        server = self._making.server(interceptors=self._making.interceptors, **options)
        self._opened.append(server)
        handlers = method_handlers(self._witness, open_late=self._open_late, stop=lambda: self._stop(server))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        if self._making.registered:
            server.add_registered_method_handlers(SERVICE, handlers)
        ports = [server.add_insecure_port(address) for address in addresses]
        await server.start()
        return int(ports[0])

    async def _open_late(self) -> None:
        await self._serve(f"unix:{self._late_path}")

    def _stop(self, server: Any) -> None:
        task = asyncio.get_running_loop().create_task(server.stop(_GRACE_SECONDS))
        self._stopping.add(task)
