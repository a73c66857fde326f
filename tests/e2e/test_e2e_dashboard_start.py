"""
A newcomer's start: `rsketch server` without a collector brings the dashboard along, and leads to what went wrong.

The dashboard gets ports of its own here, which is why its endpoint is stated; the default ones are for people.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.children import BIN, Child, clean_environ, running
from harness.collector import free_ports
from harness.server import INSTRUMENTED, MODULE, Server, StartMode, serving, starting
from rsketch_telemetry.otlp.model import LogRecord, MetricPoint, Span
from rsketch_telemetry.otlp.receiver import ReceiverConfig, receive
from rsketch_telemetry.otlp.store import TelemetryStore

SLOW = "/api/v1/hello/stream?name=ada&count=2&interval=600ms"


class Desk:
    """The dashboard of one test, which may run or not: how a server comes by it, and what it has."""

    def __init__(self, folder: Path, client: httpx.AsyncClient, ports: list[int]) -> None:
        self._folder = folder
        self._client = client
        self.url = f"http://127.0.0.1:{ports[1]}"
        self.environ = {
            "RSKETCH_DASHBOARD": "1",
            # For one that a failed test leaves behind.
            "RSKETCH_DASHBOARD_IDLE": "60s",
            "RSKETCH_DASHBOARD_GRPC_PORT": str(ports[0]),
            "RSKETCH_DASHBOARD_HTTP_PORT": str(ports[1]),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{ports[0]}",
        }

    async def pid(self) -> int:
        """Wait until one answers, for which a server on a busy machine may not have waited; return its process id."""
        async with asyncio.timeout(30):
            while True:
                with suppress(httpx.TransportError):
                    return int((await self.get("/-/identity")).json()["pid"])
                await asyncio.sleep(0.05)

    def shown_by(self, child: Child) -> bool:
        """Return whether a banner has exactly one line of it."""
        (line,) = child.matching("^  dashboard ")
        return line in {f"  dashboard  {self.url}", f"  dashboard  {self.url} (still starting)"}

    async def get(self, path: str) -> httpx.Response:
        """Ask it."""
        return await self._client.get(self.url + path)

    async def has(self, trace_id: str, seconds: float) -> float:
        """Wait until it shows a trace; return how long that took."""
        clock = asyncio.get_running_loop().time
        began = clock()
        while (await self.get(f"/api/trace/{trace_id}")).status_code != 200:
            assert clock() - began < seconds, f"trace {trace_id} is not there after {seconds:g} s"
            await asyncio.sleep(0.05)
        return clock() - began

    async def received(self) -> Mapping[str, Any]:
        """Return how many items it has got, by signal."""
        found: Mapping[str, Any] = (await self.get("/api/status")).json()["received"]
        return found

    async def stop(self) -> None:
        """End it, where one runs."""
        environ = clean_environ(self._folder, self.environ)
        async with running([BIN / "rsketch", "dashboard", "--stop"], environ=environ, folder=self._folder) as child:
            await child.ended()


@asynccontextmanager
async def _desk(folder: Path) -> AsyncIterator[Desk]:
    """Choose ports for a dashboard, and leave none behind."""
    async with httpx.AsyncClient(trust_env=False, timeout=15) as client:
        desk = Desk(folder, client, free_ports(2))
        try:
            yield desk
        finally:
            await desk.stop()


def _trace(server: Server, path: str) -> str:
    (line,) = server.child.matching(rf"rsketch_telemetry\.access: GET {re.escape(path)} ")
    found = re.search(r"trace_id=(\w+)", line)
    assert found
    return found[1]


@pytest.mark.parametrize("mode", [INSTRUMENTED, MODULE, MODULE.with_workers(2)], ids=str)
async def test_a_call_is_seen_at_once(mode: StartMode, tmp_path: Path) -> None:
    """With nothing set but ports: all three signals arrive while the server runs, spans in a moment."""
    async with _desk(tmp_path) as desk, serving(mode, tmp_path, desk.environ) as server, server.client() as client:
        await desk.pid()
        await client.get("/api/v1/hello?name=ada")
        await server.child.written(r"GET /api/v1/hello 200")
        seconds = await desk.has(_trace(server, "/api/v1/hello"), 5)
        async with asyncio.timeout(15):
            while not all((await desk.received()).values()):
                await asyncio.sleep(0.1)

    assert seconds < 3
    assert desk.shown_by(server.child)


async def test_the_log_leads_to_a_call_that_was_slow(tmp_path: Path) -> None:
    """Its lines have a link to its trace; those of a quick call have none."""
    async with _desk(tmp_path) as desk, serving(MODULE, tmp_path, desk.environ) as server, server.client() as client:
        await desk.pid()
        await client.get("/api/v1/hello?name=ada")
        await client.get(SLOW)
        await server.child.written(r"GET /api/v1/hello/stream 200")
        trace_id = _trace(server, "/api/v1/hello/stream")
        await desk.has(trace_id, 5)
        page = await desk.get(f"/t/{trace_id}")
        linked = server.child.matching(f" {desk.url}/t/{trace_id}$")
        every = server.child.matching(f"{desk.url}/t/")

    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert len(linked) == len(every) == 2


@pytest.mark.parametrize("form", ["text", "json"])
async def test_the_log_leads_to_a_call_that_failed(form: str, tmp_path: Path) -> None:
    """A service behind that is away is a 503; its line has the link, and no attribute beside those of the contract."""
    environ = {"RSKETCH_HTTP_GRPC_TARGET": "127.0.0.1:1", "RSKETCH_LOG_FORMAT": form}
    alone = StartMode("http-alone", (*MODULE.argv, "http"))
    async with _desk(tmp_path) as desk, starting(alone, tmp_path, desk.environ | environ) as child:
        await desk.pid()
        url = await child.written(r"\bhttp +(http://127\.0\.0\.1:\d+)")
        async with httpx.AsyncClient(trust_env=False, timeout=15) as client:
            answer = await client.get(f"{url[1]}/api/v1/hello?name=ada")
        link = await child.written(f"GET /api/v1/hello 503 .*{desk.url}/t/([0-9a-f]{{32}})")
        await desk.has(link[1], 5)
        status = await child.stop()

    assert (answer.status_code, status) == (503, 0)
    assert answer.json()["trace_id"] == link[1]
    assert ('"trace_url": "http' in link.string) is (form == "json")


async def test_it_outlives_the_server_and_serves_the_next(tmp_path: Path) -> None:
    """Two servers and one that starts when they have ended have one dashboard; no process of theirs is left."""
    async with _desk(tmp_path) as desk:
        async with (
            serving(MODULE, tmp_path, desk.environ) as first,
            serving(INSTRUMENTED, tmp_path, desk.environ) as second,
        ):
            pid = await desk.pid()
            statuses = [await first.child.stop(), await second.child.stop()]
            left = [*first.child.left(), *second.child.left()]
        async with serving(MODULE, tmp_path, desk.environ) as third:
            again = await desk.pid()

    assert statuses == [0, 0]
    assert left == []
    assert again == pid
    for server in (first, second, third):
        assert desk.shown_by(server.child)


async def test_two_servers_that_start_at_the_same_time_share_one(tmp_path: Path) -> None:
    """Each starts a dashboard, of which one finds its ports or its file taken; nobody is told of that."""
    async with (
        _desk(tmp_path) as desk,
        starting(MODULE, tmp_path, desk.environ) as first,
        starting(MODULE, tmp_path, desk.environ) as second,
    ):
        for child in (first, second):
            await child.written("  workers  ")
        await desk.pid()

    assert desk.shown_by(first)
    assert desk.shown_by(second)


@pytest.mark.parametrize("mode", [INSTRUMENTED, MODULE.with_workers(2)], ids=str)
async def test_a_run_is_tagged_with_the_commit_that_is_checked_out(mode: StartMode, tmp_path: Path) -> None:
    """Started in a checkout, everything that a server exports names the commit."""
    commit = "5ca1ab1e" * 5
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text(commit + "\n")
    store = TelemetryStore()
    async with (
        receive(store, ReceiverConfig(grpc_port=0, http_port=0)) as at,
        serving(mode, tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": at.grpc_endpoint}) as server,
        server.client() as client,
    ):
        await client.get("/api/v1/hello?name=ada")
        await server.child.stop()
    items: list[Span | MetricPoint | LogRecord] = [*store.spans, *store.points, *store.logs]

    assert store.spans
    assert {item.resource.attributes["vcs.ref.head.revision"] for item in items} == {commit}
