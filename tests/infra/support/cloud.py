"""
A backend outside of the cluster: OTLP over HTTP and TLS on port 443, for whoever knows the headers.

It runs in this process and listens in a pod of its own, so that the cluster's names and policies apply to it.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress

import grpc
from kube.cluster import Cluster, Pod
from kube.cluster.kernel import join_network
from rsketch_telemetry.otlp.handler import Export, Refusal
from rsketch_telemetry.otlp.receiver import ReceiverConfig, receive
from rsketch_telemetry.otlp.store import TelemetryStore

__all__ = ["Cloud", "cloud"]

_ADDRESS = "203.0.113.9"
_PORT = 443
_CHUNK = 65536


class Cloud:
    """
    Keeps what comes with the right headers and refuses the rest.

    Args:
        headers: What each export must carry.

    Attributes:
        store: What it has taken.
        protocols: How that came.
        refused: How many exports it has refused.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.store = TelemetryStore()
        self.protocols: set[str] = set()
        self.refused = 0
        self._headers = headers

    async def handle(self, export: Export) -> Refusal | None:
        """Take an export, or refuse it for good."""
        if any(export.headers.get(name) != value for name, value in self._headers.items()):
            self.refused += 1
            return Refusal(code=grpc.StatusCode.UNAUTHENTICATED, message="unknown")
        self.protocols.add(export.protocol)
        await self.store.handle(export)
        return None


@contextmanager
def cloud(cluster: Cluster, host: str, headers: Mapping[str, str], tls: ssl.SSLContext) -> Iterator[Cloud]:
    """Run a backend that the pods of a cluster find under a name."""
    taking = Cloud(headers)
    with (
        cluster.running("default", {}, ["sleep", "infinity"], host=host, address=_ADDRESS) as pod,
        _in_background(_serving(taking, _listening(pod), tls)),
    ):
        yield taking


def _listening(pod: Pod) -> socket.socket:
    """Return a socket on a pod's port, which a program in it could not have: below 1024 is for root."""
    found: list[socket.socket] = []

    def listen() -> None:
        # Only this thread moves; the socket stays where it was created.
        join_network(pod.link.namespace)
        found.append(socket.create_server((pod.ip, _PORT)))

    thread = threading.Thread(target=listen, name="listen")
    thread.start()
    thread.join()
    return found[0]


@asynccontextmanager
async def _serving(taking: Cloud, listening: socket.socket, tls: ssl.SSLContext) -> AsyncIterator[None]:
    """Put TLS in front of the receiver, which has none."""
    async with receive(taking, ReceiverConfig(grpc_port=0, http_port=0)) as at:

        async def front(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner, to_inner = await asyncio.open_connection(at.host, at.http_port)
            try:
                await asyncio.gather(_pass_on(reader, to_inner), _pass_on(inner, writer))
            finally:
                # A pod that was killed says no farewell, and TLS would wait for one.
                writer.transport.abort()
                to_inner.transport.abort()

        async with await asyncio.start_server(front, sock=listening, ssl=tls):
            yield


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Write what is read until it ends; then so does the other side."""
    with suppress(ConnectionError, ssl.SSLError):
        try:
            while data := await reader.read(_CHUNK):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


@contextmanager
def _in_background(serving: AbstractAsyncContextManager[None]) -> Iterator[None]:
    """Open and close it on an event loop in a thread of its own."""
    opened: Future[Callable[[], object]] = Future()

    async def run() -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        async with serving:
            opened.set_result(lambda: loop.call_soon_threadsafe(over.set))
            await over.wait()

    def report(ended: Future[None]) -> None:
        if not opened.done():
            opened.set_exception(ended.exception())

    with ThreadPoolExecutor(1, thread_name_prefix="cloud") as pool:
        running = pool.submit(asyncio.run, run())
        running.add_done_callback(report)
        close = opened.result()
        try:
            yield
        finally:
            close()
            running.result()
