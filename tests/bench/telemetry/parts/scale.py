"""Whether it stays so: with several workers, and for as long as the load lasts."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import written
from bench.telemetry import traffic, variants
from bench.telemetry.effort import Effort
from bench.telemetry.estimate import Estimate, added, ratio, slope
from bench.telemetry.external import Compared, compare
from bench.telemetry.load import http_load, missing
from bench.telemetry.parts.hosted import program
from bench.telemetry.progress import say
from bench.telemetry.rows import Row
from bench.telemetry.server import cores, resident_bytes, server
from bench.telemetry.sink import sink

__all__ = ["measure"]

_WORKERS = (1, 2)


def measure(effort: Effort) -> list[Row]:
    """Measure workers, and memory over time."""
    if packages := missing(["wrk"]):
        reason = f"apt-get install {' '.join(packages)}"
        return [Row(name="scale", about="workers, memory", estimate=None, remark=reason)]
    return [*(row for workers in _WORKERS for row in _workers(workers, effort)), *_memory(effort)]


def _workers(workers: int, effort: Effort) -> Iterator[Row]:
    found = Compared()
    with tempfile.TemporaryDirectory() as name, sink(cores()[1]) as collector:
        folder = Path(name)
        load = http_load(traffic.requests("hello"), folder)
        for at in range(effort.launches):
            say(f"workers: {workers}, {at + 1} of {effort.launches}")
            bare = program(folder / f"bare-{at}", None, workers=workers)
            traced = program(folder / f"traced-{at}", collector, workers=workers)
            compare(bare, traced, load, found, turns=effort.turns // 2, seconds=effort.seconds)
        lost = max(0, found.served - collector.counts().all_spans)
    cpu = added(found.cpu)
    about = f"Sanic's manager, {workers} worker{'s' if workers > 1 else ''}"
    remark = f"two programs in turn; {lost} of {found.served:,} spans lost"
    yield Row(name=f"scale.workers{workers}", about=about, estimate=cpu, noise=cpu.is_noise, remark=remark)
    # Of several workers the load generator has a share of the cores.
    beside = "the load is on the same cores" if workers > 1 else ""
    name, about = f"scale.workers{workers}.throughput", f"{about}: throughput on bare"
    yield Row(name=name, about=about, estimate=ratio(found.speed), unit="%", remark=beside)


def _memory(effort: Effort) -> Iterator[Row]:
    """Yield the memory at the end of a long load and how it grew in the second half of it."""
    with tempfile.TemporaryDirectory() as name, sink(cores()[1]) as collector:
        settings = {"OTEL_SERVICE_NAME": "measured", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc, **variants.LEAN}
        load = http_load(traffic.requests("users"), Path(name))
        points, served = [], 0
        with server("bench.telemetry.toggled", ("http", "users"), settings) as measured:
            measured.turn("on")
            begun = time.monotonic()
            say(f"memory: {effort.minutes:g} minutes of full load")
            while (minutes := (time.monotonic() - begun) / 60) < effort.minutes:
                served += load.run(measured.port, 1, cores()[1]).requests
                points.append((minutes, resident_bytes(measured.pid) / 1024))
            measured.flush()
        lost = max(0, served - collector.counts().all_spans)
    half = points[len(points) // 2 :]
    resident = half[-1][1] / 1024
    grown = slope(half)
    remark = f"{lost} of {served:,} spans lost"
    yield Row(
        name="scale.memory",
        about=f"memory after {effort.minutes:g} minutes of full load",
        estimate=Estimate(resident, min(kib for _, kib in half) / 1024, max(kib for _, kib in half) / 1024),
        unit="MiB",
        remark=f"the range of the second half; {remark}",
    )
    flat = "flat: the interval holds 0" if grown.is_noise else f"from {written(half[0][1] / 1024)} MiB"
    about = "its growth in the second half"
    yield Row(name="scale.growth", about=about, estimate=grown, unit="KiB/min", remark=flat)
