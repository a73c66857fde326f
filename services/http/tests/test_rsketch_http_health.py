"""Health and readiness."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING

import httpx
import pytest
from rsketch_http.readiness import Phase, Readiness

if TYPE_CHECKING:
    from services.http.tests.conftest import OpenClient, OpenUpstream, Upstream


async def until(client: httpx.AsyncClient, status: int) -> httpx.Response:
    """Ask for readiness until it has *status*."""
    async with asyncio.timeout(10):
        while (response := await client.get("/readyz")).status_code != status:
            await asyncio.sleep(0.05)
    return response


async def test_health_is_two_letters(client: httpx.AsyncClient) -> None:
    """For programs that can only compare texts."""
    response = await client.get("/health")

    assert (response.status_code, response.text) == (200, "OK")
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/api/health", "/api/v1/health"])
async def test_json_health_says_who_and_when(client: httpx.AsyncClient, path: str) -> None:
    """Status, service and the time in UTC (RFC 3339); no version unless asked for."""
    response = await client.get(path)

    body = response.json()
    told = datetime.fromisoformat(body.pop("timestamp"))
    assert body == {"status": "ok", "service": "rsketch-http"}
    assert told.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - told) < timedelta(seconds=5)


async def test_the_version_is_told_only_where_it_is_switched_on(upstream: Upstream, open_client: OpenClient) -> None:
    """A version helps attackers as well."""
    async with open_client(upstream.port, {"RSKETCH_HTTP_HEALTH_VERSION": "1"}) as client:
        response = await client.get("/api/health")

    assert response.json()["version"] == version("rsketch-http")


@pytest.mark.parametrize("path", ["/health", "/api/health", "/livez", "/readyz"])
async def test_health_answers_are_not_cached(client: httpx.AsyncClient, path: str) -> None:
    """An answer from a cache would be about another moment; HEAD is answered as well."""
    response = await client.head(path)

    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"


async def test_health_does_not_depend_on_the_greeting_service(open_client: OpenClient) -> None:
    """A restart of this process would not bring the other one back."""
    async with open_client(1) as client:
        answers = [(await client.get(path)).status_code for path in ("/health", "/api/health", "/livez", "/readyz")]

    assert answers == [200, 200, 200, 503]


async def test_readiness_follows_the_greeting_service(open_upstream: OpenUpstream, open_client: OpenClient) -> None:
    """Ready while it serves; 503 when it says it does not, when it is gone; ready again when it is back."""
    async with open_upstream() as first, open_client(first.port) as client:
        ready = await until(client, 200)
        await first.set_serving(serving=False)
        refused = await until(client, 503)
        await first.set_serving(serving=True)
        await until(client, 200)
        await first.server.stop(0)
        gone = await until(client, 503)
        async with open_upstream(first.port):
            await until(client, 200)

    assert ready.json() == {"status": "ready"}
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["detail"] == gone.json()["detail"] == "Not ready: greeting service not ready."
    assert "127.0.0.1" not in gone.text


async def test_readiness_is_said_by_phase() -> None:
    """Before and after serving the reason is the phase, and nobody is asked."""
    asked = 0

    async def probe() -> bool:
        nonlocal asked
        asked += 1
        return True

    readiness = Readiness(probe)
    starting = await readiness.reason()
    readiness.phase = Phase.DRAINING
    draining = await readiness.reason()

    assert (starting, draining, asked) == ("starting", "draining", 0)


async def test_many_questions_are_one_probe() -> None:
    """The greeting service is asked once a second at most, however many ask at once."""
    asked = 0

    async def probe() -> bool:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.05)
        return True

    readiness = Readiness(probe)
    readiness.phase = Phase.SERVING
    begun = time.monotonic()
    answers = await asyncio.gather(*(readiness.reason() for _ in range(50)))
    await readiness.reason()

    assert set(answers) == {None}
    assert asked == 1 or time.monotonic() - begun >= 1


async def test_a_drain_that_begins_during_a_probe_is_told() -> None:
    """The later news wins."""
    readiness = Readiness(lambda: asyncio.sleep(0.05, result=True))
    readiness.phase = Phase.SERVING
    asking = asyncio.create_task(readiness.reason())
    await asyncio.sleep(0)
    readiness.phase = Phase.DRAINING

    assert await asking == "draining"


async def test_a_probe_that_its_asker_leaves_does_not_block_others(upstream: Upstream, open_client: OpenClient) -> None:
    """A client that goes away while readiness is found out leaves nothing locked."""
    readiness = Readiness(lambda: asyncio.sleep(0.05, result=True))
    readiness.phase = Phase.SERVING
    asking = asyncio.create_task(readiness.reason())
    await asyncio.sleep(0)
    asking.cancel()

    assert await asyncio.wait_for(readiness.reason(), 5) is None
