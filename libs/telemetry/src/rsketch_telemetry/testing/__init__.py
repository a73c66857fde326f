"""
For tests of instrumented programs: spans, metric points and log records of a block, as plain values.

    with capture() as telemetry:
        await client.get("/orders/7")
        served = await telemetry.await_span("GET /orders/<order_id:int>")
    assert served.attributes["http.response.status_code"] == 200

Nothing global is set, no environment is changed and nothing is left after the block. pytest users have the fixture
`telemetry`, which is such a block around one test.

Importing this package loads neither the SDK nor Sanic nor gRPC: pytest imports it in every run of everybody.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
    from rsketch_telemetry.testing._captured import Captured

__all__ = ["capture"]


@contextmanager
def capture(settings: InstrumentorSettings | None = None) -> Iterator[Captured]:
    """
    Capture what this process records while open.

    Sanic and grpc.aio record into it whether they have been instrumented before, which is as it was afterwards, or
    not. What the program records itself through the API is captured where the process has providers of the SDK, such
    as those of `configure()`; else give it the providers of what is yielded here.

    An `instrument()` inside the block finds its work done, and ends with the block.

    Blocks may be nested, then the innermost one gets what happens; and they may run side by side, in tasks or in
    threads, as long as each starts the servers that it calls. What cannot be told apart goes to the one opened last.

    Args:
        settings: None for those of the process environment. Instrumentors that were on before keep their exclusions.
    """
    # Imported late: see above.
    from rsketch_telemetry.testing import _routing

    captured, close = _routing.open_capture(settings)
    try:
        yield captured
    finally:
        close()
