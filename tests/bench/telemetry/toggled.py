"""
A server under load, whose telemetry is put on and taken off while it runs: one process, so that nothing else differs.

    python -m bench.telemetry.toggled http hello

It writes the port that it serves on as a line of JSON, and again after each line that comes in: `off`, `on` and
`null`, a wrapper that does nothing, say what stands around the requests from then on; `flush` sends what is left. It
ends with its input. What holds on to its hooks is opened anew, as the servers of gRPC.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc.aio
import rsketch_telemetry
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # it is untyped
from rsketch_telemetry.sanic import SanicInstrumentor
from sanic.server.loop import try_use_uvloop

from bench.telemetry import grpc_service
from bench.telemetry.application import create_app
from bench.telemetry.connection import started
from bench.telemetry.grpc_service import SIDES
from bench.telemetry.switch import Switch, create_switch, log_into
from bench.telemetry.variants import HTTP

__all__ = ["main"]

Turn = Callable[[str], Awaitable[int]]
"""Takes a mode and returns the port that is served on then."""


def main(argv: Sequence[str]) -> int:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(prog="toggled", description="A server that telemetry is put on and taken off.")
    parser.add_argument("kind", choices=sorted(_KINDS))
    parser.add_argument("variant", choices=sorted(HTTP), nargs="?", default="hello", help="of HTTP")
    options = parser.parse_args(argv)
    if options.kind != "grpc":
        # As Sanic's own server does, and the host of our services.
        try_use_uvloop()
    with tempfile.TemporaryDirectory() as folder:
        log_into(Path(folder) / "log.txt")
        asyncio.run(_serve(options.kind, options.variant))
    return 0


async def _serve(kind: str, variant: str) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with _KINDS[kind](variant) as turn:
        print(json.dumps({"port": await turn("off")}), flush=True)
        while line := (await lines.readline()).decode().strip():
            if line == "flush":
                _flush()
                print(json.dumps({}), flush=True)
            else:
                print(json.dumps({"port": await turn(line)}), flush=True)


def _flush() -> None:
    if not rsketch_telemetry.configure().flush(30.0):
        raise RuntimeError("telemetry could not send what there was")


@asynccontextmanager
async def _http(variant: str) -> AsyncIterator[Turn]:
    app = create_app(many_routes=HTTP[variant].many_routes)
    switches: Mapping[str, Switch] = {"on": create_switch(HTTP[variant], app), "null": create_switch(HTTP["null"], app)}
    async with started(app, serving=True) as port:

        async def turn(mode: str) -> int:
            for switch in switches.values():
                switch.off()
            if mode in switches:
                switches[mode].on()
            return port

        yield turn


@asynccontextmanager
async def _grpc(_: str) -> AsyncIterator[Turn]:
    rsketch_telemetry.configure().start()

    @asynccontextmanager
    async def opened(mode: str) -> AsyncIterator[int]:
        interceptors = [_Through()] if mode == "null" else []
        async with _instrumented([SIDES["server"]] if mode == "on" else []), grpc_service.serving(interceptors) as port:
            yield port

    async with _reopened(opened) as turn:
        yield turn


@asynccontextmanager
async def _services(_: str) -> AsyncIterator[Turn]:
    """Serve by this repository's own services: HTTP, which asks gRPC, both in this process."""
    from rsketch_grpc.server import serve as serve_grpc
    from rsketch_http.server import serve as serve_http

    rsketch_telemetry.configure().start()

    @asynccontextmanager
    async def opened(mode: str) -> AsyncIterator[int]:
        instrumentors: list[type[BaseInstrumentor]] = [SanicInstrumentor, *SIDES.values()] if mode == "on" else []
        async with (
            _instrumented(instrumentors),
            serve_grpc({"RSKETCH_GRPC_PORT": "0", "RSKETCH_GRPC_DRAIN_SECONDS": "1s"}) as rpc,
            serve_http(
                {
                    "RSKETCH_HTTP_PORT": "0",
                    "RSKETCH_HTTP_DRAIN_SECONDS": "1s",
                    "RSKETCH_HTTP_GRPC_TARGET": f"127.0.0.1:{rpc.port}",
                }
            ) as http,
        ):
            yield http.port

    async with _reopened(opened) as turn:
        yield turn


_KINDS: Final[Mapping[str, Callable[[str], Any]]] = {"http": _http, "grpc": _grpc, "services": _services}


@asynccontextmanager
async def _reopened(opened: Callable[[str], Any]) -> AsyncIterator[Turn]:
    """Yield what closes what is open, and opens it in another mode."""
    async with AsyncExitStack() as last:
        current = await last.enter_async_context(AsyncExitStack())

        async def turn(mode: str) -> int:
            await current.aclose()
            port: int = await current.enter_async_context(opened(mode))
            return port

        yield turn


@asynccontextmanager
async def _instrumented(instrumentors: Sequence[type[BaseInstrumentor]]) -> AsyncIterator[None]:
    for instrumentor in instrumentors:
        instrumentor().instrument()
    try:
        yield
    finally:
        for instrumentor in instrumentors:
            instrumentor().uninstrument()


class _Through(grpc.aio.ServerInterceptor):
    """Stands around each call, as telemetry does, and does nothing."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return await continuation(handler_call_details)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
