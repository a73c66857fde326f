"""
How a scenario is run in a column: here, against a server under test, or there, by a client under test.

Here is the suite's process, which nothing instruments. Where the client alone is under test, its servers are here.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc.aio
from opentelemetry import context as context_api
from opentelemetry.propagate import extract

from truth.frame import Bounds, Plain, Run, Server
from truth.rpc.bench import Bench
from truth.rpc.scenarios import SCENARIOS
from truth.rpc.servers import Making, open_servers
from truth.witness import Witness

__all__ = ["CLIENT", "SERVER", "drive"]

SERVER, CLIENT = "grpc.aio server", "grpc.aio client"
"""The columns in which one end alone is under test; in all others both are, in one process."""


async def drive(run: Run, scenario: str) -> Plain:
    """Run *scenario* where the column has its client, and return what it saw."""
    if run.column == SERVER:
        return await _here(run, scenario)
    if run.column == CLIENT:
        making = Making(interceptors=[_Carries()])
        async with open_servers(_Neighbour(run.server), run.server.folder, making) as targets:
            return await _there(run, scenario, targets)
    return await _there(run, scenario, {})


async def _here(run: Run, scenario: str) -> Plain:
    targets = next(said.note["targets"] for said in run.server.said if said.what == "ready")
    bench = Bench(run.id, targets, run.told, secret=run.secret, parent=run.traceparent)
    seen = await SCENARIOS[scenario](bench)
    run.bounds += [Bounds(*pair) for pair in bench.bounds]
    return seen


async def _there(run: Run, scenario: str, targets: dict[str, str]) -> Plain:
    async with _passing_on(run):
        done: dict[str, Any] = await run.ask(
            "run",
            scenario=scenario,
            case=run.id,
            secret=run.secret,
            traceparent=run.traceparent(),
            targets=targets,
        )
    run.bounds += _bounds(run, [Bounds(*pair) for pair in done["bounds"]])
    seen: Plain = done["seen"]
    return seen


def _bounds(run: Run, measured: list[Bounds]) -> list[Bounds]:
    """Return bounds of what is expected: of a call that both ends record, those of its client are the server's too."""
    calls = [call for call in run.case.expected(run.column).calls for _ in range(call.times)]
    clients = sum(call.kind == "CLIENT" for call in calls)
    if len(calls) == 2 * clients == 2 * len(measured):
        return measured * 2
    return measured if len(measured) == len(calls) else []


@asynccontextmanager
async def _passing_on(run: Run) -> AsyncIterator[None]:
    """Let the scenario's process hear what handlers tell."""
    task = asyncio.create_task(_pass_on(run))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _pass_on(run: Run) -> None:
    passed: list[str] = []
    while True:
        await run.server.until(lambda _: len(run.tellings()) > len(passed), 60)
        what = run.tellings()[len(passed)].what
        passed.append(what)
        await run.ask("hear", case=run.id, what=what)


class _Neighbour(Witness):
    """A witness in the suite's own process: over the socket it would wait for itself once a few are under way."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()

    def tell(self, case: str, what: str, **note: Any) -> None:
        said = json.dumps({"pid": os.getpid(), "case": case, "what": what, "note": note}).encode()
        # Handlers in threads tell as well.
        self._loop.call_soon_threadsafe(self._server.datagram_received, said, None)


class _Carries(grpc.aio.ServerInterceptor):
    """Makes the caller's context the handler's, as a server that is traced does: what was sent along is seen then."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        sent = {key: value for key, value in handler_call_details.invocation_metadata if isinstance(value, str)}
        context_api.attach(extract(sent))
        return await continuation(handler_call_details)
