"""What a newcomer sees in a browser: `rsketch server`, one request, and its trace on the dashboard's page."""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
from browsing import Visit, browsing, visiting
from harness.collector import free_ports
from harness.server import MODULE, Server, serving
from playwright.async_api import Browser, expect

SLOW = "/api/v1/hello/stream?name=ada&count=2&interval=600ms"
SHOWN_SECONDS = 3.0


@asynccontextmanager
async def _newcomer(folder: Path) -> AsyncIterator[tuple[Server, Browser, str]]:
    """Run a server, its dashboard on ports of its own, and Chromium; yield with where the dashboard's page is."""
    grpc, http = free_ports(2)
    environ = {
        "RSKETCH_DASHBOARD": "1",
        # For one that a failed test leaves behind.
        "RSKETCH_DASHBOARD_IDLE": "60s",
        "RSKETCH_DASHBOARD_GRPC_PORT": str(grpc),
        "RSKETCH_DASHBOARD_HTTP_PORT": str(http),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{grpc}",
    }
    url = f"http://127.0.0.1:{http}"
    async with browsing() as browser, serving(MODULE, folder, environ) as server:
        pid = await _pid(url)
        try:
            yield server, browser, url
        finally:
            await _end(pid)


async def _pid(url: str) -> int:
    """Wait until the dashboard answers; return its process id."""
    async with asyncio.timeout(30), httpx.AsyncClient(trust_env=False) as client:
        while True:
            with suppress(httpx.TransportError):
                return int((await client.get(f"{url}/-/identity")).json()["pid"])
            await asyncio.sleep(0.05)


async def _end(pid: int) -> None:
    """End the dashboard, which is nobody's child any more, and wait until it has."""
    async with asyncio.timeout(15):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            while not _is_zombie(pid):
                os.kill(pid, 0)
                await asyncio.sleep(0.02)


def _is_zombie(pid: int) -> bool:
    """Whether it has ended and only its parent has not taken note."""
    with suppress(OSError):
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False


async def _appears(visit: Visit, name: str) -> float:
    """Wait until a trace is in the list; return how long that took."""
    began = time.monotonic()
    await expect(visit.page.locator("tbody td.name", has_text=name)).to_have_count(1)
    return time.monotonic() - began


async def test_a_request_is_on_the_page_at_once(tmp_path: Path) -> None:
    """Its trace comes to the open page by itself within three seconds, and is on one that is opened then."""
    async with _newcomer(tmp_path) as (server, browser, url):
        banner = server.child.text()
        async with visiting(browser, url) as visit, server.client() as client:
            await visit.open("/traces")
            await expect(visit.page.locator("#live")).to_contain_text("Live")
            await client.get("/api/v1/hello?name=ada")
            seconds = await _appears(visit, "GET /api/v1/hello")
            page = await visit.open("/traces")
            await page.get_by_role("link", name="GET /api/v1/hello").click()
            await expect(page.get_by_role("treegrid")).to_contain_text("Hello")
            # Both services: the request, the call that it made, and its answer.
            await expect(page.locator(".frow.span")).not_to_have_count(1)

    assert banner.count(url) == 1
    assert re.search(rf"^  dashboard  {url}( \(still starting\))?$", banner, re.MULTILINE)
    assert seconds <= SHOWN_SECONDS


async def test_the_link_of_a_slow_request_opens_its_trace(tmp_path: Path) -> None:
    """A line of the log leads to the page of that trace; whoever is early sees it come."""
    async with (
        _newcomer(tmp_path) as (server, browser, url),
        visiting(browser, url) as visit,
        server.client() as client,
    ):
        await client.get(SLOW)
        link = await server.child.written(rf"GET /api/v1/hello/stream 200 .*({url}/t/[0-9a-f]{{32}})$")
        with visit.watch.expecting("status of 404.*/api/trace/"):
            page = await visit.open(link[1].removeprefix(url))
            await expect(page.get_by_role("heading", level=1)).to_have_text("GET /api/v1/hello/stream")

        await expect(page.locator(".frow.span").first).to_contain_text("GET /api/v1/hello/stream")
        await expect(page.locator(".frow.log").first).to_be_visible()


async def test_the_doctor_finds_our_own_server_healthy(tmp_path: Path) -> None:
    """After calls of every kind, a malformed one included, it has nothing to complain about."""
    async with (
        _newcomer(tmp_path) as (server, browser, url),
        visiting(browser, url) as visit,
        server.client() as client,
    ):
        for path in ("/api/v1/hello?name=ada", SLOW, "/api/v1/hello?name=", "/nothing/here/42", "/readyz", "/docs"):
            for _ in range(5 if path != SLOW else 1):
                await client.get(path)
        await visit.open("/traces")
        await _appears(visit, "GET /api/v1/hello/stream")
        # Metrics come every five seconds; the page shows them when they do.
        await visit.open("/metrics")
        await expect(visit.page.get_by_role("heading", name="http.server.request.duration")).to_be_visible()

        page = await visit.open("/doctor")

        await expect(page.locator(".findings, .empty")).to_have_count(1)
        said = await page.locator("main").inner_text()

    assert "Nothing to complain about" in said, said
