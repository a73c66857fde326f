"""A copy for a real collector."""

import asyncio
import socket
import time
from pathlib import Path

import grpc
from rsketch_telemetry.otlp.handler import Answer, Export, Refusal
from rsketch_telemetry.otlp.receiver import ReceiverConfig, receive
from rsketch_telemetry.otlp.store import TelemetryStore
from telemetry_made import NOW, Open, Sent, logs, opened, points, spans


async def _until_sent(at: Open, count: int) -> dict[str, object]:
    async with asyncio.timeout(10):
        while True:
            found: dict[str, object] = (await at.get("/api/status"))["forward"]
            if int(str(found["sent"])) + int(str(found["dropped"])) >= count:
                return found
            await asyncio.sleep(0.02)


async def test_a_second_receiver_gets_the_same(tmp_path: Path) -> None:
    """Spans, records and points arrive at the collector as they arrived here."""
    collector = TelemetryStore()
    async with (
        receive(collector, ReceiverConfig(grpc_port=0, http_port=0)) as receiver,
        opened(tmp_path, forward=receiver.grpc_endpoint) as at,
    ):
        await at.send(spans(Sent(name="GET /", attributes=[("a", 1)])))
        await at.send(logs("hello"))
        await at.send(points(5))
        counts = await _until_sent(at, 3)

    assert [(span.name, span.attributes, span.start_ns) for span in collector.spans] == [("GET /", {"a": 1}, NOW)]
    assert [record.body for record in collector.logs] == ["hello"]
    assert [point.value for point in collector.points] == [5]
    assert counts == {"to": receiver.grpc_endpoint, "sent": 3, "dropped": 0, "error": ""}


async def test_what_is_sent_again_is_not_sent_on(tmp_path: Path) -> None:
    """A copy of each request that was stored: a dashboard that forwards to itself does not go round for ever."""
    collector = TelemetryStore()
    async with (
        receive(collector, ReceiverConfig(grpc_port=0, http_port=0)) as receiver,
        opened(tmp_path, forward=receiver.grpc_endpoint) as at,
    ):
        for _ in range(3):
            await at.send(spans(Sent(name="once")))
        await at.send(spans(Sent(trace=2, name="last")))
        await _until_sent(at, 2)

    assert [span.name for span in collector.spans] == ["once", "last"]


async def test_a_collector_that_is_away_holds_nobody_up(tmp_path: Path) -> None:
    """Senders are answered as ever, why it fails is shown, and closing waits only a moment."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
    async with opened(tmp_path, forward=endpoint) as at:
        started = time.monotonic()
        for number in range(1, 21):
            await at.send(spans(Sent(trace=number)))
        took = time.monotonic() - started
        async with asyncio.timeout(10):
            while not (found := (await at.get("/api/status"))["forward"])["error"]:
                await asyncio.sleep(0.02)
        stored, closing = (await at.get("/api/status"))["spans"], time.monotonic()
    closed = time.monotonic() - closing

    assert (stored, found["sent"]) == (20, 0)
    assert took < 5
    assert closed < 6


class _Refusing:
    async def handle(self, _: Export) -> Answer:
        """Refuse for good."""
        return Refusal(code=grpc.StatusCode.INVALID_ARGUMENT, message="not like this")


async def test_what_a_collector_refuses_is_counted(tmp_path: Path) -> None:
    """What it does not take and never will is dropped, counted, and its words are shown."""
    async with (
        receive(_Refusing(), ReceiverConfig(grpc_port=0, http_port=0)) as receiver,
        opened(tmp_path, forward=receiver.grpc_endpoint) as at,
    ):
        await at.send(spans(Sent(trace=1)))
        await at.send(spans(Sent(trace=2)))
        counts = await _until_sent(at, 2)

    assert (counts["sent"], counts["dropped"]) == (0, 2)
    assert "not like this" in str(counts["error"])
