"""
The column of the synchronous stack: a `grpc.server` with a thread pool and a synchronous channel.

Ours leave it to contrib; what must be seen of them here is nothing at all.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from truth.witness import Witness

__all__ = ["SCENARIOS", "main"]

_PREFIX = "/truth.v1.Threads/"


class _Servicer:
    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    def echo(self, request: bytes, context: Any) -> bytes:
        with self._witness.serving(_case(context)):
            context.set_trailing_metadata((("thread", "yes"),))
            return request.upper()

    def watch(self, request: bytes, context: Any) -> Iterator[bytes]:
        with self._witness.serving(_case(context)):
            for number in range(3):
                yield request + b"%d" % number

    def abort(self, _request: bytes, context: Any) -> bytes:
        with self._witness.serving(_case(context)):
            context.abort(grpc.StatusCode.DATA_LOSS, "gone")
            return b""

    def fail(self, _request: bytes, context: Any) -> bytes:
        with self._witness.serving(_case(context)):
            raise LookupError("no such till")


def _case(context: Any) -> str:
    return next(str(value) for key, value in context.invocation_metadata() if key == "x-case")


def _unary(method: str) -> Callable[[Any, str], dict[str, Any]]:
    def scenario(channel: Any, case: str) -> dict[str, Any]:
        call = channel.unary_unary(_PREFIX + method)
        try:
            answer, over = call.with_call(b"a", metadata=(("x-case", case),))
        except grpc.RpcError as error:
            answer, over = b"", error
        trailing = [list(pair) for pair in over.trailing_metadata() or ()]
        return {"answer": answer.decode(), "code": over.code().name, "details": over.details(), "trailing": trailing}

    return scenario


def _watch(channel: Any, case: str) -> dict[str, Any]:
    call = channel.unary_stream(_PREFIX + "Watch")(b"a", metadata=(("x-case", case),))
    return {"answer": [message.decode() for message in call], "code": call.code().name}


SCENARIOS: dict[str, Callable[[Any, str], dict[str, Any]]] = {
    "threads_unary": _unary("Echo"),
    "threads_stream": _watch,
    "threads_abort": _unary("Abort"),
    "threads_exception": _unary("Fail"),
}


async def main(_mode: str) -> None:
    """Serve and call until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    witness = Witness()
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((_handlers(_Servicer(witness)),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    async def run(scenario: str, case: str, **_: Any) -> dict[str, Any]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            return {"seen": await asyncio.to_thread(SCENARIOS[scenario], channel, case), "bounds": []}

    async def hear(**_: Any) -> None:
        """Take what handlers tell; nobody waits for it here."""

    async with witness.obeying({"run": run, "hear": hear}):
        witness.ready()
        await stopped.wait()
    server.stop(0).wait()


def _handlers(servicer: _Servicer) -> Any:
    methods: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(servicer.echo),
        "Watch": grpc.unary_stream_rpc_method_handler(servicer.watch),
        "Abort": grpc.unary_unary_rpc_method_handler(servicer.abort),
        "Fail": grpc.unary_unary_rpc_method_handler(servicer.fail),
    }
    return grpc.method_handlers_generic_handler("truth.v1.Threads", methods)
