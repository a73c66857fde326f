"""
The frame of the truth suite: what a case, a column and a subject are, and how one column is run.

A **case** is a client's scenario. A **column** is a process model: a server program and how it is started. A
**subject** is what instruments that program: `bare` (nothing), `ours`, `contrib` or `plugin`. `ours` records with the
lean recorder, and `sdk`, which is ours as well, with the SDK's. One program is started
for each (column, subject), and serves the column's cases one after another, so that what arrives between the start of
a case and the moment its telemetry has settled is that case's. `bare` runs beside each subject; what the caller and the
handlers see must be equal.

**To write a case**, write its client, its handler and what is expected:

    async def _hello(run: Run) -> Plain:           # runs here, in the suite's process, which is not instrumented
        with run.timed():                          # optional: bounds of the next expected call's duration
            answer = await get(run, "/hello")      # sends `run.id` (as `x-case`) and `run.traceparent()`
        await run.told("wrote 3")                  # optional: waits for what the handler tells
        return {"status": answer.status, ...}      # a plain value without times, ports or ids

    Case(name="hello", about="…", client=_hello, expect=Expectation(calls=(Call(code="200"),)))

In the program (`truth.witness.Witness`): `with witness.serving(case_id) as say:` around the handler's body; `say("…")`
in it. `began` and one of returned / raised X / cancelled / closed are told by that; the suite waits for the end of each
handler that began. Tellings are part of the observation, in order (sorted, with `Case.unordered`); their notes are not
(`began` notes the span, trace id and baggage that the handler sees; see `Expectation.baggage`).
The program tells `witness.ready(port=…)` once per process that serves, when it serves (`Column.processes` of them).
For what must be *done* in the program, such as a call by an instrumented client, the program holds `witness.obeying(
{"name": coroutine_function})` open and the case calls `await run.ask("name", **plain_arguments)` for the result; pass
`case=run.id` and `traceparent=run.traceparent()` along. Its expected records are `Call(kind="CLIENT")`.

**How telemetry is matched.** Spans by the trace id of `run.traceparent()`; where a case sends no usable context
(`Expectation.unlinked`), spans of the case's window that carry no run's trace id. Expected calls meet spans of their
kind in order of their start. Metric points are counted by window, as increments of the series of that window,
whatever their temporality.

**How it is judged** is in `truth.judge`: five verdicts for each case, `bare equal`, `status right`, `duration right`,
`no leak`, `conformant`. A client that wants to prove that nothing leaks plants `run.secret`, which is unique to it.

**To run**: `truth.suite` pairs `bare` with each subject and judges; `observe_column` here is one program's whole life.
"""

import asyncio
import json
import secrets
import select
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from harness.children import Child, clean_environ, running
from harness.collector import free_ports
from rsketch_telemetry.otlp.receiver import ReceiverConfig, receive

from truth.arrivals import Arrivals, Settled, Window
from truth.witness import ENDED

__all__ = [
    "ABSENT",
    "ANY",
    "COLUMNS_OF_TABLE",
    "Bounds",
    "Call",
    "Case",
    "Column",
    "Expectation",
    "Judgement",
    "Observation",
    "Plain",
    "Record",
    "Run",
    "Server",
    "Subject",
    "Verdict",
    "observe_column",
]

Plain: TypeAlias = "str | int | float | bool | Sequence[Plain] | Mapping[str, Plain] | None"
"""What an observation is made of: values that compare and print."""

Client: TypeAlias = "Callable[[Run], Awaitable[Plain]]"

COLUMNS_OF_TABLE = ("bare equal", "status right", "duration right", "no leak", "conformant")
_CLIENT_SECONDS = 30.0
_HANDLER_SECONDS = 8.0
_CALM_SECONDS = 5.0


class _Mark:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


ABSENT = _Mark("ABSENT")
"""As an expected attribute: the span must not have it."""
ANY = _Mark("ANY")
"""As an expected attribute: the span must have it, with whatever value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """
    One call that must be recorded: one span and one count of the duration metric.

    Attributes:
        kind: `SERVER` or `CLIENT`.
        code: What went over the wire: `"200"`, `"DEADLINE_EXCEEDED"`; None where no status was sent.
        error: The values of `error.type` that are right; empty where the call is no error and may have none.
        at_least: Seconds that the call lasted by what its handler does. The upper bound is measured by the client.
        exceptions: How many exceptions are to be recorded, as log records or span events.
        name: Name of the span, where the conventions fix it.
        attributes: Attributes of the span: a value, `ABSENT`, `ANY`, or a function that says whether a value is right.
        metric_attributes: The same of the metric's point.
        times: How many such calls, in a row.
        hangs: The call ends only after the client is through with it (it left, say): no upper bound is measured.
    """

    kind: str = "SERVER"
    code: str | None = None
    error: frozenset[str] = frozenset()
    at_least: float = 0.0
    exceptions: int = 0
    name: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    metric_attributes: Mapping[str, Any] = field(default_factory=dict)
    times: int = 1
    hangs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """
    The telemetry that a case must make.

    Attributes:
        calls: In the order in which they start; none for what is excluded.
        unlinked: The case sends no usable trace context: each span is a root, found by its time.
        baggage: What each handler must see of the caller's baggage; None where it is not looked at.
        exemplar: Whether the duration metric must have one that leads to the span.
        new_series: At most so many series of duration metrics may be new; None for any number.
        parents: Whether each span's parent must be the one that the client named, in order; off where calls overlap.
    """

    calls: tuple[Call, ...] = ()
    unlinked: bool = False
    baggage: Mapping[str, str] | None = None
    exemplar: bool = False
    new_series: int | None = None
    parents: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """
    One scenario.

    Attributes:
        name: Words with blanks, unique in its protocol: a row of the table.
        about: One sentence on what is done and what is right.
        client: Does it, from outside, and returns what it saw.
        expect: What must be recorded.
        expect_in: The same for columns in which another is right, by their names.
        except_in: Columns in which the case makes no sense, with the reason.
        unordered: Handlers overlap, so that the order of what they tell says nothing.
        only_in: The columns that it is for; empty for all.
    """

    name: str
    about: str
    client: Client
    expect: Expectation
    expect_in: Mapping[str, Expectation] = field(default_factory=dict)
    except_in: Mapping[str, str] = field(default_factory=dict)
    unordered: bool = False
    only_in: frozenset[str] = frozenset()

    def expected(self, column: str) -> Expectation:
        """Return what must be recorded in *column*."""
        return self.expect_in.get(column, self.expect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """
    What instruments a program.

    Attributes:
        name: `bare`, `ours`, `sdk`, `contrib` or `plugin`.
        kind: What programs and columns know it by, where that is another subject's name.
        launcher: Goes before the program's command; empty where nothing does.
        environ: Its settings; the endpoint and the intervals are added.
        settle_seconds: How long its telemetry is waited for; shorter for peers, some of which never send all.
        patience: Times how long handlers and clients are waited for; shorter for peers, some of which hold them up.
    """

    name: str
    kind: str = ""
    launcher: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    settle_seconds: float = 1.5
    patience: float = 0.4

    def fits(self, column: "Column") -> bool:
        """Return whether it can be run in *column*."""
        return (self.kind or self.name) in column.subjects


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """
    One process model.

    Attributes:
        name: Short, unique in its protocol.
        about: One sentence.
        program: Arguments of `python`, such as `("-m", "truth.http.app", "single")`; or a whole command, see `command`.
        command: `program` is a command of the environment instead, such as `("rsketch", "server")`.
        launched: Whether the subject's launcher is put before it; False where the program instruments itself in code,
            by what `Witness.subject` names.
        processes: How many tell `ready`.
        subjects: Kinds of those that can be run in it, beside `bare`.
        cases: Names of its cases; None for all that are not `except_in` it.
        environ: More settings for every subject, as a function of the port and the folder that it is given.
        bare_environ: More settings for `bare`, where the program would instrument itself.
        starts_with: Calls that the program makes and serves by itself while it starts, by kind; they are waited for.
        announces: For a program that tells nothing: the pattern of a line of its output that has its port in a group.
    """

    name: str
    about: str
    program: tuple[str, ...]
    command: bool = False
    launched: bool = True
    processes: int = 1
    subjects: frozenset[str] = frozenset({"ours"})
    cases: frozenset[str] | None = None
    environ: Callable[[int, Path], Mapping[str, str]] = lambda _port, _folder: {}
    bare_environ: Mapping[str, str] = field(default_factory=dict)
    starts_with: Mapping[str, int] = field(default_factory=dict)
    announces: str = ""

    def takes(self, case: Case) -> bool:
        """Return whether *case* is run in it."""
        if self.name in case.except_in or (case.only_in and self.name not in case.only_in):
            return False
        return self.cases is None or case.name in self.cases


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """
    What one run looked like from outside and from inside; equal with and without instrumentation.

    Attributes:
        caller: What the client returned.
        handlers: What the handlers told, in order.
        failed: Why the case could not be run to its end; empty where it could.
    """

    caller: Plain
    handlers: tuple[str, ...]
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Bounds:
    """When something happened at the earliest and at the latest, in ns since the epoch."""

    begin_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """How long it took at most."""
        return (self.end_ns - self.begin_ns) / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """
    One run of a case, whole: what was seen and what arrived.

    Attributes:
        bounds: Of each expected call, in order; of the whole case where the client measured none.
        parents: Span ids that the client sent as parents, in order.
        notes: What handlers noted when they began.
    """

    case: Case
    column: str
    subject: str
    trace_id: str
    secret: str
    observation: Observation
    whole: Bounds
    bounds: tuple[Bounds, ...]
    parents: tuple[str, ...]
    notes: tuple[Mapping[str, Any], ...]
    window: Window


@dataclass(frozen=True, slots=True)
class Verdict:
    """One cell: right or wrong, and why; `right` is None where it was not judged."""

    right: bool | None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """
    The row of one case in one column for one subject.

    Attributes:
        verdicts: One by each name in `COLUMNS_OF_TABLE`.
        recorded: What was recorded, see `truth.recorded`.
    """

    column: str
    case: str
    subject: str
    verdicts: Mapping[str, Verdict]
    recorded: tuple[str, ...] = ()

    @property
    def wrong(self) -> list[str]:
        """What is wrong, a line each."""
        return [f"{name}: {verdict.why}" for name, verdict in self.verdicts.items() if verdict.right is False]


@dataclass(frozen=True, slots=True)
class Said:
    """One telling of a program."""

    pid: int
    case: str
    what: str
    note: Mapping[str, Any]


class Server(asyncio.DatagramProtocol):
    """
    A program under test that serves.

    Attributes:
        subject: Name of what instruments it.
        port: Where it listens on 127.0.0.1.
        child: Its process.
        said: All that it has told.
        folder: Its folder for files of its own.
        patience: See `Subject`.
    """

    def __init__(self, subject: str, folder: Path, patience: float = 1.0) -> None:
        self.subject = subject
        self.patience = patience
        self.folder = folder
        self.port = 0
        self.child: Child | None = None
        self.said: list[Said] = []
        self._told = asyncio.Condition()
        self._waking: set[asyncio.Task[None]] = set()
        self._orders = 0
        self._socket: Any = None

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Keep what the program tells."""
        self.said.append(Said(**json.loads(data)))
        task = asyncio.get_running_loop().create_task(self._wake())
        self._waking.add(task)
        task.add_done_callback(self._waking.discard)

    async def _wake(self) -> None:
        async with self._told:
            self._told.notify_all()

    def listens_by(self, transport: asyncio.DatagramTransport) -> None:
        """Remember where tellings come in."""
        self._socket = transport.get_extra_info("socket")

    async def heard(self) -> None:
        """Read all that has been told so far: the loop reads one telling at a time, and may be behind."""
        while select.select([self._socket.fileno()], [], [], 0)[0]:
            await asyncio.sleep(0)

    async def until(self, holds: Callable[[list[Said]], object], seconds: float) -> bool:
        """Wait until *holds* is true of what was told; return whether it was in time."""
        try:
            async with asyncio.timeout(seconds), self._told:
                await self._told.wait_for(lambda: bool(holds(self.said)))
        except TimeoutError:
            return False
        return True

    def pids(self) -> list[int]:
        """Return the processes that have told `ready`, in order."""
        return [said.pid for said in self.said if said.what == "ready"]

    async def ask(self, do: str, arguments: Mapping[str, Plain], seconds: float = _CLIENT_SECONDS) -> Any:
        """Let the program run one of its commands and return its result; raises what the program says went wrong."""
        self._orders += 1
        order = self._orders
        await self.until(lambda said: any(each.what == "obeys" for each in said), seconds)
        to = next(each.note["at"] for each in self.said if each.what == "obeys")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(json.dumps({"order": order, "do": do, "arguments": arguments}).encode(), to)
        await self.until(lambda said: self._done(order), seconds)
        done = self._done(order)
        if not done or "failed" in done[0].note:
            raise RuntimeError(done[0].note["failed"] if done else f"{do} has not ended after {seconds:g} s")
        return done[0].note["result"]

    def _done(self, order: int) -> list[Said]:
        return [said for said in self.said if said.what == "did" and said.note["order"] == order]


class Run:
    """
    One run of one case against one server: what a client function is given.

    Attributes:
        id: Send it as header or metadata `x-case`, so that the handler can tell whose it is.
        case: The case.
        column: Name of the column.
        server: Where to.
        secret: Unique to this run; planted where it must not leak from.
        trace_id: 32 hexadecimal digits.
    """

    def __init__(self, case: Case, column: str, server: Server, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._opened = arrivals.open()
        self.id = f"{case.name.replace(' ', '-')}-{secrets.token_hex(4)}"
        self.case = case
        self.column = column
        self.server = server
        self.secret = f"hush{secrets.token_hex(8)}"
        self.trace_id = secrets.token_hex(16)
        self.parents: list[str] = []
        self.bounds: list[Bounds] = []

    @property
    def port(self) -> int:
        """Where the server listens on 127.0.0.1."""
        return self.server.port

    def traceparent(self) -> str:
        """Return a new caller's W3C traceparent in this run's trace; use one for each call."""
        self.parents.append(secrets.token_hex(8))
        return f"00-{self.trace_id}-{self.parents[-1]}-01"

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure one call, as its caller sees it; the n-th is the n-th expected call."""
        begin = time.time_ns()
        try:
            yield
        finally:
            self.bounds.append(Bounds(begin, time.time_ns()))

    def tellings(self) -> list[Said]:
        """Return what this run's handlers have told so far."""
        return [said for said in self.server.said if said.case == self.id]

    async def told(self, what: str, seconds: float = _HANDLER_SECONDS, times: int = 1) -> bool:
        """Wait until a handler of this run has told *what*; return whether it did in time."""
        return await self.server.until(
            lambda said: sum(each.case == self.id and each.what == what for each in said) >= times,
            seconds * self.server.patience,
        )

    async def ask(self, do: str, **arguments: Plain) -> Any:
        """Let the program do something (see `Witness.obeying`) and return its result."""
        return await self.server.ask(do, arguments)

    def common(self, value: Plain) -> Plain:
        """Return *value* with what is this run's alone replaced, so that two runs' observations can be compared."""
        if isinstance(value, str):
            for own, shown in ((self.trace_id, "<trace>"), (self.id, "<run>"), (self.secret, "<secret>")):
                value = value.replace(own, shown)
            return value
        if isinstance(value, Mapping):
            return {key: self.common(each) for key, each in value.items()}
        return [self.common(each) for each in value] if isinstance(value, Sequence) else value

    async def recorded(self, calls: int) -> None:
        """Wait until the telemetry of so many served calls has arrived; not at all where nothing is instrumented."""
        if self.server.subject != "bare":
            wanted = Settled(calls={"SERVER": calls}, exceptions=0, trace_id=self.trace_id)
            await self._arrivals.settle(self._opened, wanted, _HANDLER_SECONDS)

    async def handlers_end(self) -> None:
        """Wait until each handler that began has ended."""

        def ended(said: list[Said]) -> bool:
            mine = [each.what for each in said if each.case == self.id]
            return mine.count("began") <= sum(what.startswith(ENDED) for what in mine)

        await self.server.heard()
        await self.server.until(ended, _HANDLER_SECONDS * self.server.patience)
        await self.server.heard()


@asynccontextmanager
async def serving(column: Column, subject: Subject, endpoint: str, folder: Path) -> AsyncIterator[Server]:
    """Run the column's program, instrumented by *subject*, while open; it serves when this yields."""
    loop = asyncio.get_running_loop()
    server = Server(subject.name, folder, subject.patience)
    path = str(folder / "witness")
    (port,) = free_ports(1)
    transport, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=path, family=socket.AF_UNIX)
    try:
        server.listens_by(transport)
        environ = clean_environ(folder, _environ(column, subject, endpoint, folder, port))
        async with running(_argv(column, subject), environ=environ, folder=folder, name=column.name) as child:
            server.child, server.port = child, port
            await _serves(server, column)
            yield server
    finally:
        transport.close()


def _argv(column: Column, subject: Subject) -> list[str]:
    launcher = subject.launcher if column.launched else ()
    return [*launcher, *(() if column.command else (sys.executable,)), *column.program]


def _environ(column: Column, subject: Subject, endpoint: str, folder: Path, port: int) -> dict[str, str]:
    tests = Path(__file__).parents[1]
    exporting = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_BSP_SCHEDULE_DELAY": "30",
        "OTEL_BLRP_SCHEDULE_DELAY": "30",
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
    }
    return {
        "PYTHONPATH": str(tests),
        "PYTHONUNBUFFERED": "1",
        "TRUTH_SUBJECT": subject.kind or subject.name,
        "TRUTH_PORT": str(port),
        "TRUTH_FOLDER": str(folder),
        "TRUTH_WITNESS": str(folder / "witness"),
        **({} if subject.name == "bare" else exporting),
        **subject.environ,
        **column.environ(port, folder),
        **(column.bare_environ if subject.name == "bare" else {}),
    }


async def _serves(server: Server, column: Column) -> None:
    assert server.child is not None
    if column.announces:
        server.port = int((await server.child.written(column.announces))[1])
        return
    if not await server.until(lambda _: len(server.pids()) >= column.processes, 30):
        raise AssertionError(f"{column.name} ({server.subject}) does not serve:\n{server.child.text()}")
    server.port = next(said.note["port"] for said in server.said if said.what == "ready")


async def observe_column(column: Column, subject: Subject, cases: Sequence[Case]) -> list[Record]:
    """Start the column's program under *subject*, run *cases* one after another, stop it, and return what was seen."""
    arrivals = Arrivals()
    async with AsyncExitStack() as opened:
        receiver = await opened.enter_async_context(receive(arrivals, ReceiverConfig(grpc_port=0, http_port=0)))
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="truth")))
        runs: list[tuple[Run, Observation, Bounds, Window]] = []
        async with serving(column, subject, receiver.http_endpoint, folder) as server:
            await _calm(arrivals, column, subject)
            for case in cases:
                run = Run(case, column.name, server, arrivals)
                runs.append(await _run(run, arrivals, subject))
            assert server.child is not None
            await server.child.stop()
        ours = frozenset(run.trace_id for run, *_ in runs)
        return [_record(run, seen, whole, arrivals, window, ours) for run, seen, whole, window in runs]


async def _calm(arrivals: Arrivals, column: Column, subject: Subject) -> None:
    """Let what the program records while it starts arrive before the first case's window is opened."""
    if subject.name != "bare":
        if column.starts_with:
            await arrivals.settle(
                arrivals.open(), Settled(calls=column.starts_with, exceptions=0, trace_id=""), _CALM_SECONDS
            )
        await arrivals.quiet(_CALM_SECONDS)


async def _run(run: Run, arrivals: Arrivals, subject: Subject) -> tuple[Run, Observation, Bounds, Window]:
    opened = arrivals.open()
    begin = time.time_ns()
    caller: Plain = None
    failed = ""
    try:
        caller = run.common(await asyncio.wait_for(run.case.client(run), _CLIENT_SECONDS * subject.patience))
    except Exception as error:
        failed = f"{type(error).__name__}: {error}"
    end = time.time_ns()
    await run.handlers_end()
    told = [said.what for said in run.tellings()]
    seen = Observation(caller=caller, handlers=tuple(sorted(told) if run.case.unordered else told), failed=failed)
    if subject.name != "bare":
        await arrivals.settle(opened, _settled(run), subject.settle_seconds)
    return run, seen, Bounds(begin, end), arrivals.close(opened)


def _settled(run: Run) -> Settled:
    expect = run.case.expected(run.column)
    counts = {kind: sum(call.times for call in expect.calls if call.kind == kind) for kind in ("SERVER", "CLIENT")}
    return Settled(
        calls=counts,
        exceptions=sum(call.exceptions * call.times for call in expect.calls),
        trace_id="" if expect.unlinked else run.trace_id,
    )


def _record(
    run: Run, seen: Observation, whole: Bounds, arrivals: Arrivals, window: Window, ours: frozenset[str]
) -> Record:
    expect = run.case.expected(run.column)
    return Record(
        case=run.case,
        column=run.column,
        subject=run.server.subject,
        trace_id=run.trace_id,
        secret=run.secret,
        observation=seen,
        whole=whole,
        bounds=tuple(run.bounds),
        parents=tuple(run.parents),
        notes=tuple(said.note for said in run.tellings() if said.what == "began"),
        window=arrivals.finish(window, run.trace_id, unlinked=expect.unlinked, others=ours, secret=run.secret),
    )
