import asyncio
import gc
import signal
import sys
from pathlib import Path

import grpc
import pytest
from harness.children import clean_environ, running
from harness.collector import collecting, runnable
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rsketch_telemetry.otlp.receiver import ReceiverConfig, receive
from rsketch_telemetry.otlp.store import TelemetryStore

ORPHAN = """
import subprocess, sys
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], **quiet)
print("started")
"""


async def test_what_the_collector_accepted_is_delivered_when_it_is_drained(tmp_path: Path) -> None:
    """A span that was sent just before the collector is stopped is at the receiver when `drain` returns."""
    store = TelemetryStore()
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name="x", trace_id=bytes(16), span_id=bytes(8))
    async with (
        receive(store, ReceiverConfig(grpc_port=0, http_port=0)) as receiver,
        collecting(receiver.grpc_endpoint, tmp_path) as collector,
    ):
        async with grpc.aio.insecure_channel(collector.endpoints["grpc"].removeprefix("http://")) as channel:
            path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
            for _ in range(3):
                await method(request.SerializeToString())
        await collector.drain()

    assert [span.name for span in store.spans] == ["x", "x", "x"]


async def test_an_orphan_is_seen_and_ended(tmp_path: Path) -> None:
    """A process that outlives the child that started it is listed by the child, and killed at the end."""
    async with running([sys.executable, "-c", ORPHAN], environ=clean_environ(tmp_path), folder=tmp_path) as child:
        await child.written("started")
        status = await child.ended()
        left = child.left()

    assert status == 0
    assert len(left) == 1
    assert "time.sleep(60)" in left[0]
    assert child.left() == []


async def test_waiting_for_a_line_of_a_child_that_ended_says_what_it_wrote(tmp_path: Path) -> None:
    """A wait for output ends with the child, long before its time is over."""
    argv = [sys.executable, "-c", "print('something else')"]
    async with running(argv, environ=clean_environ(tmp_path), folder=tmp_path) as child:
        async with asyncio.timeout(10):
            with pytest.raises(AssertionError, match="something else"):
                await child.written("never", seconds=60)


async def test_a_child_sees_nothing_of_the_tests_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the shell that the tests run in do not reach a server under test."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "leaked")
    argv = [sys.executable, "-c", "import os; print(sorted(os.environ))"]
    async with running(argv, environ=clean_environ(tmp_path, {"A": "1"}), folder=tmp_path) as child:
        await child.ended()

    assert "OTEL_SERVICE_NAME" not in child.text()
    assert "'A'" in child.text()


async def test_what_is_left_at_the_end_is_killed_without_a_trace(tmp_path: Path) -> None:
    """A child that is not stopped by the test ends with the block, its output read and its pipes closed."""
    argv = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    async with running(argv, environ=clean_environ(tmp_path), folder=tmp_path) as child:
        await child.written("up")

    assert child.status == -signal.SIGKILL
    assert child.left() == []
    gc.collect()


@pytest.mark.parametrize(("ci", "outcome"), [(False, pytest.skip.Exception), (True, pytest.fail.Exception)])
def test_a_collector_that_cannot_run_is_a_skip_on_a_laptop_and_a_failure_in_ci(
    ci: bool, outcome: type[BaseException], tmp_path: Path
) -> None:
    """Where the collector's library is missing, one line names the Debian package that brings it."""
    agent = tmp_path / "rotel-agent"
    agent.write_text("#!/bin/sh\necho 'error while loading shared libraries: libpython3.11.so.1.0' >&2\nexit 127\n")
    agent.chmod(0o755)

    with pytest.raises(outcome, match=r"Debian package libpython3\.11"):
        runnable(agent, ci=ci)
