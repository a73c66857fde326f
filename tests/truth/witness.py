"""
The side of the program under test: it tells the suite what its handlers see, and does what the suite asks it to.

It uses one datagram socket beside the protocols that are measured, so that nothing an instrumentor does to those can
change what is told. It neither makes nor needs telemetry: of OpenTelemetry it reads the current span and baggage only,
which are empty where nothing is instrumented.
"""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from opentelemetry import baggage, trace

__all__ = ["CAPTURED", "ENDED", "EXCLUDED", "Witness"]

_Say = Callable[[str], None]
_Command = Callable[..., Awaitable[object]]

EXCLUDED = "/excluded"
"""A path whose requests are to have no telemetry."""
CAPTURED = "x-captured"
"""A request header that is to be captured."""
ENDED = ("returned", "raised", "cancelled", "closed")
"""First words of what a handler tells last."""


class Witness:
    """
    Tells the suite what happens in this process; made from the environment that the suite has started it with.

    Attributes:
        subject: Name of the instrumentation under test.
        port: A TCP port that is free for this program; it may also use another one and tell it in `ready`.
        folder: For files of the program's own.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:  # noqa: TID251 - a program of its own
        self.subject = environ["TRUTH_SUBJECT"]
        self.port = int(environ["TRUTH_PORT"])
        self.folder = Path(environ["TRUTH_FOLDER"])
        self._to = environ["TRUTH_WITNESS"]
        self._socket: socket.socket | None = None
        self._owner = 0

    def tell(self, case: str, what: str, **note: Any) -> None:
        """
        Tell something of one run of a case; *note* is for what bare and instrumented need not have in common.

        Args:
            case: The run's id, as the client sent it; empty for what belongs to the process.
        """
        if self._socket is None or self._owner != os.getpid():
            self._socket, self._owner = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), os.getpid()
        said = json.dumps({"pid": os.getpid(), "case": case, "what": what, "note": note})
        self._socket.sendto(said.encode(), self._to)

    def ready(self, **address: Any) -> None:
        """Tell that this process serves; `port=` where it is not the one that was given."""
        self.tell("", "ready", **({"port": self.port} | address))

    @contextmanager
    def serving(self, case: str) -> Iterator[_Say]:
        """
        Tell that a handler began and how it ended; what is yielded tells more in between.

        The end is `returned`, `cancelled`, `closed` (a generator that is not read to its end) or `raised <type>`.
        """
        self.tell(case, "began", **current())
        try:
            yield lambda what: self.tell(case, what)
        except asyncio.CancelledError:
            self.tell(case, "cancelled")
            raise
        except GeneratorExit:
            self.tell(case, "closed")
            raise
        except BaseException as error:
            self.tell(case, f"raised {type(error).__name__}")
            raise
        else:
            self.tell(case, "returned")

    @asynccontextmanager
    async def obeying(self, commands: Mapping[str, _Command]) -> AsyncIterator[None]:
        """While open, let the suite run *commands* in this process, by name and with keyword arguments (`Run.ask`)."""
        loop, path = asyncio.get_running_loop(), f"{self._to}.{os.getpid()}"
        tasks: set[asyncio.Task[None]] = set()

        class Orders(asyncio.DatagramProtocol):
            def datagram_received(_, data: bytes, __: object) -> None:  # noqa: N805 - `self` is the witness
                task = loop.create_task(self._obey(commands, json.loads(data)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        transport, _ = await loop.create_datagram_endpoint(Orders, local_addr=path, family=socket.AF_UNIX)
        self.tell("", "obeys", at=path)
        try:
            yield
        finally:
            transport.close()

    def obey(self, commands: Mapping[str, Callable[..., object]]) -> None:
        """Do the same without an event loop, until the process is ended: for commands that run loops of their own."""
        path = f"{self._to}.{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as orders:
            orders.bind(path)
            self.tell("", "obeys", at=path)
            while True:
                order = json.loads(orders.recv(65536))
                try:
                    result = commands[order["do"]](**order["arguments"])
                    self.tell("", "did", order=order["order"], result=result)
                except Exception as error:
                    self.tell("", "did", order=order["order"], failed=f"{type(error).__name__}: {error}")

    async def _obey(self, commands: Mapping[str, _Command], order: dict[str, Any]) -> None:
        try:
            result = await commands[order["do"]](**order["arguments"])
            self.tell("", "did", order=order["order"], result=result)
        except (Exception, asyncio.CancelledError) as error:
            self.tell("", "did", order=order["order"], failed=f"{type(error).__name__}: {error}")


def current() -> dict[str, Any]:
    """Return what a handler can see of its caller's context: the span that it runs in, and the baggage."""
    span = trace.get_current_span()
    context = span.get_span_context()
    seen = {str(key): str(value) for key, value in sorted(baggage.get_all().items())}
    return {
        "span": trace.format_span_id(context.span_id) if context.is_valid and span.is_recording() else "",
        "trace": trace.format_trace_id(context.trace_id) if context.is_valid else "",
        "baggage": seen,
    }
