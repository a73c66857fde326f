"""What telemetry adds end to end: real servers under full load, with it and without in turn."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.figures import written
from bench.telemetry import grpc_service, traffic, variants
from bench.telemetry.effort import Effort
from bench.telemetry.estimate import Estimate, added, ratio
from bench.telemetry.load import Load, grpc_load, http_load, missing
from bench.telemetry.progress import say
from bench.telemetry.rows import Goal, Row
from bench.telemetry.server import Server, cores, server
from bench.telemetry.sink import Sink, sink

__all__ = ["Subject", "Turned", "measure", "turned"]

_PROGRAM = "bench.telemetry.toggled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """
    A server under load.

    Attributes:
        about: In words.
        arguments: Of the program.
        kind: Of the requests; empty for gRPC.
        null: Whether a wrapper that does nothing is measured, too.
        spans: A request.
        metric: That each request is in once.
        share: The least of its bare throughput that is the goal.
        added: The most that may be added; None for no goal.
    """

    about: str
    arguments: Sequence[str]
    kind: str = ""
    null: bool = False
    spans: int = 1
    metric: str = "http.server.request.duration"
    share: float | None = None
    added: float | None = None


_SUBJECTS: Final[Mapping[str, Subject]] = {
    "hello": Subject(
        about="hello-Sanic: traces and metrics", arguments=("http", "hello"), kind="hello", null=True, share=0.85
    ),
    "record": Subject(
        about="Sanic, 1,000 paths: traces, metrics and the access line as a log record",
        arguments=("http", "record"),
        kind="users",
    ),
    "grpc": Subject(
        about="gRPC server: traces and metrics", arguments=("grpc",), null=True, metric="rpc.server.call.duration"
    ),
    "services": Subject(
        about="HTTP → gRPC, this repository's services, three spans a request",
        arguments=("services",),
        kind="greeting",
        spans=3,
        share=0.95,
    ),
}


@dataclass(slots=True)
class Turned:
    """
    What the turns of one subject gave, launch by launch.

    Attributes:
        cpu: µs of CPU a request without, and with telemetry.
        null: The same with a wrapper that does nothing in its place.
        speed: Requests a second without, and with.
        lost: Spans and measurements that did not come.
        served: Requests with telemetry.
    """

    cpu: list[list[tuple[float, float]]] = field(default_factory=list)
    null: list[list[tuple[float, float]]] = field(default_factory=list)
    speed: list[list[tuple[float, float]]] = field(default_factory=list)
    lost: int = 0
    served: int = 0


def measure(effort: Effort) -> list[Row]:
    """Measure all servers."""
    if packages := missing():
        reason = f"apt-get install {' '.join(packages)}"
        return [
            Row(name=f"served.{name}", about=each.about, estimate=None, remark=reason)
            for name, each in _SUBJECTS.items()
        ]
    found = {name: Turned() for name in _SUBJECTS}
    with tempfile.TemporaryDirectory() as folder, sink(cores()[1]) as collector:
        for at in range(effort.launches):
            for name, subject in _SUBJECTS.items():
                say(f"end to end, {at + 1} of {effort.launches}: {name}")
                turned(subject, found[name], collector, Path(folder), effort)
    return [*(row for name, each in found.items() for row in _rows(name, each)), _lost(found)]


def turned(subject: Subject, found: Turned, collector: Sink, folder: Path, effort: Effort) -> None:
    """Launch a server and load it in turns, without telemetry and with."""
    load = _load(subject, folder)
    modes = ["off", "on", *(["null"] if subject.null else [])]
    settings = {"OTEL_SERVICE_NAME": "measured", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc, **variants.LEAN}
    before = collector.counts()
    cpu: list[dict[str, float]] = []
    speed: list[dict[str, float]] = []
    with server(_PROGRAM, subject.arguments, settings) as measured:
        # The first of each is its warm-up.
        served = {mode: _slice(measured, mode, load, 1)[0] for mode in modes}["on"]
        for at in range(effort.turns):
            order = modes[at % len(modes) :] + modes[: at % len(modes)]
            slices = {mode: _slice(measured, mode, load, effort.seconds) for mode in order}
            cpu.append({mode: used for mode, (_, used, _) in slices.items()})
            speed.append({mode: fast for mode, (_, _, fast) in slices.items()})
            served += slices["on"][0]
    found.cpu.append([(each["off"], each["on"]) for each in cpu])
    found.speed.append([(each["off"], each["on"]) for each in speed])
    if subject.null:
        found.null.append([(each["off"], each["null"]) for each in cpu])
    after = collector.counts()
    spans = after.all_spans - before.all_spans
    points = after.measured.get(subject.metric, 0) - before.measured.get(subject.metric, 0)
    # A request that the load generator cut at its end was served, but not counted there.
    found.lost += max(0, subject.spans * served - spans) + max(0, served - points)
    found.served += served


def _slice(measured: Server, mode: str, load: Load, seconds: int) -> tuple[int, float, float]:
    """Return requests, µs of CPU for each, and requests a second."""
    measured.turn(mode)
    before = measured.cpu_ns()
    ran = load.run(measured.port, seconds, cores()[1])
    # What the slice has left to send is its own.
    measured.flush()
    return ran.requests, (measured.cpu_ns() - before) / 1e3 / ran.requests, ran.per_second


def _load(subject: Subject, folder: Path) -> Load:
    if subject.kind:
        return http_load(traffic.requests(subject.kind), folder)
    return grpc_load(grpc_service.PATH, b"\x08\x07", folder)


def _rows(name: str, found: Turned) -> Iterator[Row]:
    subject = _SUBJECTS[name]
    cpu = added(found.cpu)
    null = added(found.null) if found.null else None
    if null is not None:
        yield Row(
            name=f"served.{name}.null",
            about=f"{subject.about.partition(':')[0]}: a wrapper that does nothing, the noise floor",
            estimate=null,
            noise=null.is_noise,
        )
    bare = sorted(before for launch in found.cpu for before, _ in launch)
    noise = cpu.is_noise or (null is not None and cpu.low <= null.high)
    yield Row(
        name=f"served.{name}",
        about=subject.about,
        estimate=cpu,
        noise=noise,
        remark=f"bare {written(bare[len(bare) // 2])}",
    )
    yield Row(
        name=f"served.{name}.throughput",
        about=f"{subject.about}: throughput on bare",
        estimate=ratio(found.speed),
        unit="%",
        goal=Goal(subject.share, least=True) if subject.share else None,
    )


def _lost(found: Mapping[str, Turned]) -> Row:
    lost, served = sum(each.lost for each in found.values()), sum(each.served for each in found.values())
    return Row(
        name="served.lost",
        about="spans and measurements lost at full load",
        estimate=Estimate(float(lost), float(lost), float(lost)),
        unit="",
        goal=Goal(0),
        remark=f"of {served:,} requests with telemetry, counted where they arrive",
    )
