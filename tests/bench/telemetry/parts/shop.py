"""What telemetry adds to somebody else's app, with an instrumentor of others below ours."""

import sys
import tempfile
from pathlib import Path

from bench.figures import written
from bench.telemetry import traffic, variants
from bench.telemetry.effort import Effort
from bench.telemetry.estimate import added, ratio
from bench.telemetry.external import Compared, Program, compare
from bench.telemetry.load import http_load, missing
from bench.telemetry.progress import say
from bench.telemetry.rows import Row
from bench.telemetry.server import cores
from bench.telemetry.sink import Sink, sink

__all__ = ["measure"]

_SHOP = Path(__file__).parents[4] / "libs" / "telemetry" / "examples" / "shop"
_BIN = Path(sys.executable).parent
_ABOUT = "the example shop: a query of sqlite in each request, with contrib's span"
_SPANS = 2


def measure(effort: Effort) -> list[Row]:
    """Measure the example."""
    if packages := missing(["wrk"]):
        return [Row(name="shop", about=_ABOUT, estimate=None, remark=f"apt-get install {' '.join(packages)}")]
    found = Compared()
    with tempfile.TemporaryDirectory() as name, sink(cores()[1]) as collector:
        folder = Path(name)
        load = http_load(traffic.requests("catalog"), folder)
        for at in range(effort.launches):
            say(f"shop, {at + 1} of {effort.launches}")
            both = _program(folder / f"bare-{at}", None), _program(folder / f"traced-{at}", collector)
            compare(*both, load, found, turns=effort.turns, seconds=effort.seconds)
        spans = collector.counts().all_spans
    lost = max(0, _SPANS * found.served - spans)
    bare = sorted(without for launch in found.cpu for without, _ in launch)[len(found.cpu) // 2]
    cpu = added(found.cpu)
    remark = f"bare {written(bare)}; two processes in turn; {lost:,} of {_SPANS * found.served:,} spans lost"
    return [
        Row(name="shop", about=_ABOUT, estimate=cpu, noise=cpu.is_noise, remark=remark),
        Row(name="shop.throughput", about=f"{_ABOUT}: throughput on bare", estimate=ratio(found.speed), unit="%"),
    ]


def _program(folder: Path, collector: Sink | None) -> Program:
    """Return the shop as it is started by hand; without a collector, without telemetry."""
    folder.mkdir()
    environ = {"PATH": f"{_BIN}:/usr/bin:/bin", "HOME": str(folder), "SHOP_PORT": "{port}"}
    # Nobody answers at the warehouse's port, and nobody is asked: of that there is a line at the start.
    environ |= {"SHOP_DATABASE": str(folder / "shop.db"), "SHOP_LOOK_EVERY_SECONDS": "86400", "STOCK_PORT": "1"}
    command = [sys.executable, str(_SHOP / "web.py")]
    if collector is None:
        return Program(command=command, environ=environ, folder=folder)
    environ |= {"OTEL_SERVICE_NAME": "shop", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc, **variants.LEAN}
    return Program(command=[str(_BIN / "opentelemetry-instrument"), *command], environ=environ, folder=folder)
