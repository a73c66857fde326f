"""
One Chromium for the whole run, and for each test a dashboard and a page of its own.

All of it lives on the event loop of the session: Playwright's objects belong to the loop that made them.
"""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from browsing import Visit, browsing, visiting
from demo_traffic import Shop
from otlp_json import send
from playwright.async_api import Browser
from rsketch_dashboard.config import DashboardConfig
from rsketch_dashboard.server import serve


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Chromium."""
    async with browsing() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def origin(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a dashboard on a file of its own."""
    async with serve(DashboardConfig(grpc_port=0, http_port=0, file=tmp_path / "dashboard.duckdb")) as dashboard:
        yield dashboard.url


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, origin: str) -> AsyncIterator[Visit]:
    """A page of that dashboard, which has not been opened yet."""
    async with visiting(browser, origin) as opened:
        yield opened


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shop_origin(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The address of a dashboard with the shop's telemetry, for tests that only look at it."""
    file = tmp_path_factory.mktemp("shop") / "dashboard.duckdb"
    async with serve(DashboardConfig(grpc_port=0, http_port=0, file=file)) as dashboard:
        await send(dashboard.url, *Shop(time.time_ns()).requests())
        yield dashboard.url


@pytest_asyncio.fixture(loop_scope="session")
async def shop(browser: Browser, shop_origin: str) -> AsyncIterator[Visit]:
    """A page of that dashboard, which has not been opened yet."""
    async with visiting(browser, shop_origin) as opened:
        yield opened
