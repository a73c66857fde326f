"""The Sanic instrumentor in child processes: each way to serve an application, recompiled at its start or not."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import websockets
from recording import until

_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

# The program of a child process: an application as strangers write it, whose spans go to the file named first.
_PROGRAM = """
import json, os, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from rsketch_telemetry.sanic import SanicInstrumentor
from sanic import Sanic, text

TARGET, ORDER, PORT = "{target}", "{order}", {port}


class ToFile(SpanExporter):
    def export(self, spans):
        with open(TARGET, "a") as out:
            for span in spans:
                parent = span.parent and span.parent.span_id
                row = [span.kind.name, span.name, dict(span.attributes), parent, span.context.span_id, os.getpid()]
                out.write(json.dumps(row) + "\\n")
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ToFile()))
instrument = lambda: SanicInstrumentor().instrument(tracer_provider=provider)

if ORDER == "before":
    instrument()
app = Sanic("shop")
app.config.MOTD = False
app.config.ACCESS_LOG = False


async def background():
    provider.get_tracer("user").start_span("background").end()


@app.get("/orders/<number:int>")
async def order(request, number):
    request.app.add_task(background())
    return text(type(request.stream).__name__)


@app.get("/stream")
async def stream(request):
    response = await request.respond()
    await response.send("a")
    await response.send("b")


@app.get("/pid")
async def pid(request):
    return text(str(os.getpid()))


@app.websocket("/feed")
async def feed(request, ws):
    await ws.send("hello")
    await ws.recv()
    await ws.recv()


@app.get("/broken")
async def broken(request):
    raise ValueError("broken")


@app.get("/half")
async def half(request):
    response = await request.respond()
    await response.send("a")
    raise ValueError("half")


@app.on_response
async def mark(request, response):
    response.headers["x-touched"] = str(getattr(Sanic, "__touched__", False))


if ORDER == "after":
    instrument()
if ORDER == "started":
    @app.before_server_start
    async def late(app):
        instrument()
if __name__ == "__main__":
    app.run("127.0.0.1", PORT, {run})
"""


@contextmanager
def running(
    tmp_path: Path, order: str, run: str = "single_process=True", command: tuple[str, ...] = ("shop.py",)
) -> Iterator[tuple[int, Path]]:
    """Run the program in a child process until the block ends; yields its port and the file with its spans."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    target = tmp_path / "spans"
    (tmp_path / "shop.py").write_text(_PROGRAM.format(target=target, order=order, port=port, run=run))
    arguments = [sys.executable, *(part.format(port=port) for part in command)]
    with (tmp_path / "output").open("wb") as output:
        child = subprocess.Popen(
            arguments, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_for_port(port, child)
        yield port, target
    finally:
        _stop(child)


def _stop(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        # Sanic's worker manager may miss the signal; its worker must not stay behind.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _wait_for_port(port: int, child: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and child.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"no server on port {port}")


_ASGI = ("-m", "uvicorn", "shop:app", "--port", "{port}", "--log-level", "error")


@pytest.mark.parametrize(
    ("order", "run", "command", "stream", "touched"),
    [
        ("before", "single_process=True", ("shop.py",), "Http", "True"),
        ("after", "single_process=True", ("shop.py",), "Http", "True"),
        ("started", "single_process=True", ("shop.py",), "Http", "True"),
        ("before", "single_process=True, debug=True", ("shop.py",), "Http", "False"),
        ("before", "workers=1", ("shop.py",), "Http", "True"),
        ("before", "", _ASGI, "ASGIApp", "True"),
        ("after", "", _ASGI, "ASGIApp", "True"),
    ],
)
async def test_ways_to_serve(
    tmp_path: Path, order: str, run: str, command: tuple[str, ...], stream: str, touched: str
) -> None:
    """However an app is served, and whether it is recompiled at start or not, its requests are recorded once."""
    with running(tmp_path, order, run, command) as (port, target):
        async with httpx.AsyncClient() as client:
            base = f"http://127.0.0.1:{port}"
            found = await client.get(f"{base}/orders/7", headers={"traceparent": _PARENT})
            streamed = await client.get(f"{base}/stream")
            await client.get(f"{base}/broken")
            with suppress(httpx.RemoteProtocolError):
                await client.get(f"{base}/half")
            await client.get(f"{base}/nothing")
            await client.post(f"{base}/stream")
            await until(lambda: target.exists() and len(target.read_text().splitlines()) == 7)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    servers = [row for row in rows if row[0] == "SERVER"]
    (background,) = [row for row in rows if row[0] == "INTERNAL"]
    seen = [(name, said.get("http.response.status_code"), said.get("error.type")) for _, name, said, *_ in servers]

    assert found.text == stream
    assert found.headers["x-touched"] == touched
    assert streamed.text == "ab"
    assert seen == [
        ("GET /orders/<number:int>", 200, None),
        ("GET /stream", 200, None),
        ("GET /broken", 500, "ValueError"),
        ("GET /half", 200, "ValueError"),
        ("GET", 404, None),
        ("POST /stream", 405, None),
    ]
    assert servers[0][2]["server.port"] == port
    assert servers[0][2]["network.peer.address"] == "127.0.0.1"
    assert servers[0][3] == 0xB7AD6B7169203331
    assert background[3] == servers[0][4]


async def _pids(port: int, wanted: Callable[[set[int]], bool]) -> list[int]:
    """Ask on new connections which process answers, until *wanted* holds of those that did."""
    seen: list[int] = []
    async with asyncio.timeout(30), httpx.AsyncClient() as client:
        while not wanted(set(seen)):
            with suppress(httpx.TransportError):
                answer = await client.get(f"http://127.0.0.1:{port}/pid", headers={"connection": "close"})
                seen.append(int(answer.text))
    return seen


async def test_two_workers_of_which_one_is_killed(tmp_path: Path) -> None:
    """Each worker records its own requests once, also when the other is gone."""
    with running(tmp_path, "before", "workers=2") as (port, target):
        before = await _pids(port, lambda pids: len(pids) == 2)
        killed = before[-1]
        os.kill(killed, signal.SIGKILL)
        # Whichever answers then: the one that is left or the one that takes the place.
        after = await _pids(port, lambda pids: bool(pids - {killed}))
        answered = [pid for pid in (*before, *after) if pid != killed]
        await until(lambda: len([pid for pid in _recorded(target, "GET /pid") if pid != killed]) >= len(answered))
    recorded = [pid for pid in _recorded(target, "GET /pid") if pid != killed]

    assert sorted(recorded) == sorted(answered)


def _recorded(target: Path, name: str) -> list[int]:
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    return [row[5] for row in rows if row[1] == name]


@pytest.mark.parametrize("run", ["single_process=True", "workers=1"])
async def test_a_server_that_is_told_to_stop_ends_its_websockets(tmp_path: Path, run: str) -> None:
    """A websocket that is open when the server gets its signal has a span from upgrade to that end."""
    with running(tmp_path, "before", run) as (port, target):
        (pid,) = await _pids(port, bool)
        async with websockets.connect(f"ws://127.0.0.1:{port}/feed") as client:
            assert await client.recv() == "hello"
            os.kill(pid, signal.SIGTERM)
            await client.wait_closed()
        await until(lambda: _recorded(target, "GET /feed"))
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    (said,) = [row[2] for row in rows if row[1] == "GET /feed"]

    assert said["http.response.status_code"] == 101
    assert "error.type" not in said
