"""
The program of the gRPC columns: an application with a grpc.aio server, a grpc.aio client, or both, in one event loop.

`python -m truth.rpc.app server|client|both|intercepted|registered|early|threads`. Nothing in here but `_instrument`
knows of telemetry, and that is for the column whose program instruments itself.
"""

# The names are taken before anything can have been instrumented: that is one of the columns.
from grpc.aio import insecure_channel, server  # isort: skip

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from opentelemetry import context as context_api
from opentelemetry.propagate import extract

from truth.rpc import threads
from truth.rpc.bench import BAGGAGE, Bench, Seen
from truth.rpc.interceptors import client_interceptors, server_interceptors
from truth.rpc.scenarios import SCENARIOS
from truth.rpc.servers import Making, open_servers
from truth.witness import Witness

_SECONDS = 8
"""How long a handler may take to tell what is waited for."""

_SCENARIO_SECONDS = 20
"""How long a scenario may take, which under a peer may never end; longer than all that it waits for."""

_Heard = dict[str, list[str]]


class _Caller:
    """
    Runs scenarios in this process.

    Args:
        targets: Of servers of this process, if it has any.
        options: Of each bench.
    """

    def __init__(self, targets: Mapping[str, str], **options: Any) -> None:
        self._targets = targets
        self._options = options
        self._heard: _Heard = {}
        self._hearing = asyncio.Condition()

    async def hear(self, case: str, what: str) -> None:
        """Take what a handler has told; the suite passes it on, as the handler may be in another process."""
        async with self._hearing:
            self._heard.setdefault(case, []).append(what)
            self._hearing.notify_all()

    async def run(
        self, scenario: str, case: str, secret: str, traceparent: str, targets: Mapping[str, str]
    ) -> dict[str, Any]:
        """Run a scenario as the child of a caller that the suite made up."""

        async def told(what: str) -> bool:
            try:
                async with asyncio.timeout(_SECONDS), self._hearing:
                    return await self._hearing.wait_for(lambda: what in self._heard.get(case, ()))
            except TimeoutError:
                return False

        bench = Bench(case, targets or self._targets, told, secret=secret, **self._options)
        token = context_api.attach(extract({"traceparent": traceparent, "baggage": BAGGAGE}))
        try:
            async with asyncio.timeout(_SCENARIO_SECONDS):
                seen: Seen = await SCENARIOS[scenario](bench)
        finally:
            context_api.detach(token)
        return {"seen": seen, "bounds": bench.bounds}


def _making(mode: str, witness: Witness) -> Making:
    return Making(
        server=server if mode == "early" else grpc.aio.server,
        interceptors=server_interceptors(witness) if mode == "intercepted" else (),
        registered=mode == "registered",
    )


@asynccontextmanager
async def _serving(mode: str, witness: Witness) -> AsyncIterator[dict[str, str]]:
    if mode == "client":
        yield {}
        return
    async with open_servers(witness, Path(witness.folder), _making(mode, witness)) as targets:
        yield targets


async def _main(mode: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    witness = Witness()
    async with _serving(mode, witness) as targets:
        caller = _Caller(
            targets,
            interceptors=client_interceptors() if mode == "intercepted" else (),
            make_channel=insecure_channel if mode == "early" else grpc.aio.insecure_channel,
        )
        async with witness.obeying({"run": caller.run, "hear": caller.hear}):
            witness.ready(targets=targets)
            await stopped.wait()


def _instrument(subject: str) -> None:
    """Instrument this very process, as its author would in code."""
    if subject == "ours":
        import rsketch_telemetry

        rsketch_telemetry.instrument()
    elif subject == "contrib":
        from opentelemetry.instrumentation.auto_instrumentation import initialize

        initialize()


def main() -> None:
    """Run until SIGTERM."""
    mode = sys.argv[1]
    if mode == "early":
        _instrument(Witness().subject)
    run: Callable[[str], Any] = threads.main if mode == "threads" else _main
    asyncio.run(run(mode))


if __name__ == "__main__":
    main()
