"""The command as people run it: real processes, their output, their exit status, and what they leave on the disk."""

import asyncio
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from harness.children import BIN, Child, clean_environ, running
from rsketch_telemetry.otlp.receiver import ReceiverConfig, receive
from rsketch_telemetry.otlp.store import TelemetryStore
from telemetry_made import Sent, logs, spans, trace_id

COMMAND = BIN / "rsketch-dashboard"
ANY_PORT = ("--grpc-port", "0", "--http-port", "0")


@dataclass(frozen=True, slots=True)
class Running:
    """A dashboard in a process of its own."""

    child: Child
    url: str
    grpc: str

    async def get(self, path: str) -> Any:
        """Return the JSON at a path."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=20) as client:
            return (await client.get(path)).json()


@asynccontextmanager
async def _dashboard(
    folder: Path, *words: str, argv: Sequence[str | Path] = (COMMAND,), **environ: str
) -> AsyncIterator[Running]:
    """Run a dashboard on free ports, with its file below *folder*."""
    async with running([*argv, *ANY_PORT, *words], environ=clean_environ(folder, environ), folder=folder) as child:
        url = (await child.written(r"dashboard  (http://\S+)"))[1]
        target = (await child.written(r"OTLP       http://(\S+) \(gRPC\)"))[1]
        await child.written("data       ")
        yield Running(child, url, target)


def _run(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *words], env=clean_environ(folder, environ), cwd=folder, capture_output=True, text=True, timeout=30
    )


def _method(channel: grpc.aio.Channel) -> Any:
    return channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")


async def _send(at: Running, *sent: Sent) -> None:
    async with grpc.aio.insecure_channel(at.grpc) as channel:
        assert await _method(channel)(spans(*sent).SerializeToString()) == b""


def test_help_and_version_need_neither_database_nor_server(tmp_path: Path) -> None:
    """They are answered at once, with every setting and its default."""
    helped, versioned = _run(tmp_path, "--help"), _run(tmp_path, "--version")

    assert (helped.returncode, versioned.returncode) == (0, 0)
    assert versioned.stdout == f"rsketch-dashboard {version('rsketch-dashboard')}\n"
    for name in ("GRPC_PORT", "HTTP_PORT", "FILE", "IDLE", "FORWARD"):
        assert f"RSKETCH_DASHBOARD_{name}" in helped.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "environ", "name"),
    [
        (["--grpc-port", "99999"], {}, "--grpc-port"),
        (["--http-port", "http"], {}, "--http-port"),
        (["--idle", "soon"], {}, "--idle"),
        (["--forward", "localhost:14317"], {}, "--forward"),
        ([], {"RSKETCH_DASHBOARD_GRPC_PORT": "-1"}, "RSKETCH_DASHBOARD_GRPC_PORT"),
        ([], {"RSKETCH_DASHBOARD_HTTP_PORT": "4318/tcp"}, "RSKETCH_DASHBOARD_HTTP_PORT"),
        ([], {"RSKETCH_DASHBOARD_IDLE": "1d"}, "RSKETCH_DASHBOARD_IDLE"),
        ([], {"RSKETCH_DASHBOARD_FORWARD": "ftp://localhost:21"}, "RSKETCH_DASHBOARD_FORWARD"),
        ([], {"RSKETCH_DASHBOARD_FORWARD": "http://localhost:99999"}, "RSKETCH_DASHBOARD_FORWARD"),
    ],
)
def test_a_setting_that_is_wrong_is_named(tmp_path: Path, words: list[str], environ: dict[str, str], name: str) -> None:
    """Nothing is started, and one line names the setting and what it accepts."""
    ended = _run(tmp_path, *words, **environ)

    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith(f"rsketch-dashboard: {name}: accepts ")


@pytest.mark.parametrize("option", ["--grpc-port", "--http-port"])
def test_a_port_that_a_stranger_has_is_one_line(tmp_path: Path, option: str) -> None:
    """The line names the port, and the file is free again."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        ended = _run(tmp_path, *ANY_PORT, option, str(port))

    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert f"127.0.0.1:{port}" in ended.stderr


@pytest.mark.parametrize("place", ["file/below/t.duckdb", "/proc/t.duckdb"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, place: str) -> None:
    """It says where, and nothing is started."""
    (tmp_path / "file").touch()
    ended = _run(tmp_path, *ANY_PORT, "--file", place)

    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert place.split("/")[1] in ended.stderr


async def test_a_file_that_another_one_has_is_one_line(tmp_path: Path) -> None:
    """A second dashboard on the same file says so and ends, the first goes on."""
    async with _dashboard(tmp_path) as first:
        ended = await asyncio.to_thread(_run, tmp_path, *ANY_PORT)
        await _send(first, Sent())
        status = await first.get("/api/status")

    assert ended.returncode == 1
    assert ended.stderr == f"rsketch-dashboard: {status['file']}: another program has it open\n"
    assert status["spans"] == 1


async def test_what_it_makes_is_for_its_owner_alone(tmp_path: Path) -> None:
    """The file and the log of changes beside it are 0600, and the folder is 0700."""
    async with _dashboard(tmp_path) as at:
        await _send(at, Sent())
        folder = tmp_path / ".local/state/rsketch"
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}

        assert modes == {"dashboard.duckdb": 0o600, "dashboard.duckdb.wal": 0o600}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_a_file_that_is_none_of_ours_is_moved_aside(tmp_path: Path) -> None:
    """The command says so in one line, starts, and the page shows it as a notice."""
    (tmp_path / "t.duckdb").write_bytes(b"garbage")
    async with _dashboard(tmp_path, "--file", "t.duckdb") as at:
        status = await at.get("/api/status")
        said = at.child.matching("was moved to")

    assert [notice["level"] for notice in status["notices"]] == ["warning"]
    assert len(said) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_well(tmp_path: Path, number: signal.Signals) -> None:
    """It ends with status 0 while a page is open, and whatever was acknowledged is there at the next start."""
    async with _dashboard(tmp_path) as at:
        await _send(at, *(Sent(id=each) for each in range(1, 101)))
        async with httpx.AsyncClient(base_url=at.url, trust_env=False) as client, client.stream("GET", "/api/live"):
            status = await at.child.stop(number)
        said = at.child.lines
    async with _dashboard(tmp_path) as again:
        found = await again.get(f"/api/trace/{trace_id(1)}")

    assert (status, len(said)) == (0, 3)
    assert len(found["spans"]) == 100


async def test_nothing_acknowledged_is_lost_by_a_signal(tmp_path: Path) -> None:
    """Under load SIGTERM ends it with status 0, and each span that was acknowledged is in the file."""
    async with _dashboard(tmp_path) as at:
        acknowledged, senders = set[int](), _senders(at, 1)
        async with asyncio.TaskGroup() as tasks:
            sending = [tasks.create_task(sender(acknowledged)) for sender in senders]
            await _until(lambda: len(acknowledged) > 500)
            status = await at.child.stop()
            del sending
    async with _dashboard(tmp_path) as again:
        found = await again.get(f"/api/trace/{trace_id(1)}")

    assert status == 0
    assert {int(span["span_id"], 16) for span in found["spans"]} >= acknowledged


async def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    """Killed again and again at random moments, it has at the next start whatever it had acknowledged."""
    seed = random.randrange(2**32)
    chance, rounds = random.Random(seed), 4
    acknowledged: dict[int, set[int]] = {}
    for number in range(1, rounds + 1):
        async with _dashboard(tmp_path) as at:
            for earlier, expected in acknowledged.items():
                found = await at.get(f"/api/trace/{trace_id(earlier)}")
                lost = expected - {int(span["span_id"], 16) for span in found["spans"]}
                assert not lost, f"round {earlier} of seed {seed} has lost {len(lost)} of {len(expected)} spans"
            mine = acknowledged[number] = set()
            async with asyncio.TaskGroup() as tasks:
                for sender in _senders(at, number):
                    tasks.create_task(sender(mine))
                await _until(lambda mine=mine: len(mine) > 50)
                await asyncio.sleep(chance.uniform(0, 0.5))
                os.kill(at.child.pid, signal.SIGKILL)
    async with _dashboard(tmp_path) as at:
        status = await at.get("/api/status")
        found = await at.get(f"/api/trace/{trace_id(rounds)}")

    assert {int(span["span_id"], 16) for span in found["spans"]} >= acknowledged[rounds], seed
    assert status["notices"] == []


def _senders(at: Running, trace: int) -> list[Any]:
    """Return three senders, which send numbered spans until the dashboard is gone and note what was acknowledged."""

    def sender(first: int) -> Any:
        async def send(acknowledged: set[int]) -> None:
            async with grpc.aio.insecure_channel(at.grpc) as channel:
                for start in range(first, first + 6_000, 10):
                    numbers = range(start, start + 10)
                    body = spans(*(Sent(trace=trace, id=each, attributes=[("n", each)]) for each in numbers))
                    try:
                        await _method(channel)(body.SerializeToString())
                    except grpc.aio.AioRpcError:
                        return
                    acknowledged.update(numbers)

        return send

    return [sender(first) for first in (1, 6_001, 12_001)]


async def _until(condition: Any, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_it_is_stopped_by_another_one(tmp_path: Path) -> None:
    """--stop ends the dashboard on the port, and has waited until the file is free: the next start succeeds."""
    async with _dashboard(tmp_path) as at:
        await _send(at, *(Sent(id=each, attributes=[("n", each)]) for each in range(1, 5_001)))
        port = at.url.rpartition(":")[2]
        stopped = await asyncio.to_thread(_run, tmp_path, "--stop", "--http-port", port)
        async with _dashboard(tmp_path) as again:
            status = await again.get("/api/status")
        ended = await at.child.ended()
        nobody = await asyncio.to_thread(_run, tmp_path, "--stop", "--http-port", port)

    assert (stopped.returncode, stopped.stderr) == (0, f"dashboard of process {at.child.pid} stopped\n")
    assert (ended, status["spans"]) == (0, 5_000)
    assert (nobody.returncode, nobody.stderr) == (1, f"rsketch-dashboard: no dashboard runs on port {port}\n")


def test_a_stranger_is_not_stopped(tmp_path: Path) -> None:
    """What listens on the port but is no dashboard is left alone."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        ended = _run(tmp_path, "--stop", "--http-port", str(stranger.getsockname()[1]))

    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)


async def test_it_ends_when_nobody_needs_it(tmp_path: Path) -> None:
    """Without telemetry and without an open page it ends after the time that was set, with status 0."""
    async with _dashboard(tmp_path, RSKETCH_DASHBOARD_IDLE="1s") as at:
        started = time.monotonic()
        status = await at.child.ended(15)

    assert status == 0
    assert time.monotonic() - started < 10


async def test_it_stays_while_a_page_is_open(tmp_path: Path) -> None:
    """A page that listens keeps it; when that has gone it ends."""
    async with _dashboard(tmp_path, RSKETCH_DASHBOARD_IDLE="500ms") as at:
        async with httpx.AsyncClient(base_url=at.url, trust_env=False) as client, client.stream("GET", "/api/live"):
            await asyncio.sleep(1.5)
            open_for = at.child.status
        status = await at.child.ended(15)

    assert (open_for, status) == (None, 0)


async def test_it_stays_while_telemetry_comes(tmp_path: Path) -> None:
    """Telemetry keeps it, by whichever signal."""
    async with _dashboard(tmp_path, RSKETCH_DASHBOARD_IDLE="1s") as at:
        async with httpx.AsyncClient(base_url=at.url, trust_env=False) as client:
            headers = {"content-type": "application/x-protobuf"}
            for number in range(10):
                body = logs(f"log {number}").SerializeToString()
                await client.post("/v1/logs", content=body, headers=headers)
                await asyncio.sleep(0.25)
        alive = at.child.status
        status = await at.child.ended(15)

    assert (alive, status) == (None, 0)


async def test_it_reports_nothing_of_itself(tmp_path: Path) -> None:
    """Whatever the environment says of telemetry, it exports none: it would watch itself for ever."""
    collector = TelemetryStore()
    async with receive(collector, ReceiverConfig(grpc_port=0, http_port=0)) as receiver:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint, "OTEL_BSP_SCHEDULE_DELAY": "10"}
        async with _dashboard(tmp_path, **environ) as at:
            await _send(at, Sent())
            await at.get("/api/traces")
            status = await at.get("/api/status")
            await at.child.stop()

    assert (status["spans"], status["logs"], status["points"]) == (1, 0, 0)
    assert (collector.spans, collector.logs, collector.points) == ([], [], [])


WITHOUT_THE_HOST = """
import sys
sys.modules["rsketch"] = None
from rsketch_dashboard.command import main
sys.exit(main(sys.argv[1:]))
"""


async def test_it_needs_no_host(tmp_path: Path) -> None:
    """It receives and shows where the host is not installed."""
    async with _dashboard(tmp_path, argv=(sys.executable, "-c", WITHOUT_THE_HOST)) as at:
        await _send(at, Sent())
        found = await at.get(f"/api/trace/{trace_id(1)}")
        status = await at.child.stop()

    assert (len(found["spans"]), status) == (1, 0)


async def test_it_is_soon_there(tmp_path: Path) -> None:
    """From the start of the process to the first answer takes moderate time, also with a file from before."""
    async with _dashboard(tmp_path) as at:
        await _send(at, *(Sent(id=each) for each in range(1, 1001)))
        with suppress(ProcessLookupError):
            os.kill(at.child.pid, signal.SIGKILL)
    started = time.monotonic()
    async with _dashboard(tmp_path) as at:
        identity = await at.get("/-/identity")
        took = time.monotonic() - started

    assert identity["pid"] == at.child.pid
    assert took < 10
