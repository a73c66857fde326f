"""
The pictures of the README, of the shop's telemetry.

They are written to the folder that `RSKETCH_SCREENSHOTS` names, as `./hatchw run screenshots` does; otherwise it is
only tried whether they can be made.
"""

import os
from pathlib import Path

import httpx
import pytest
from browsing import visiting
from playwright.async_api import Browser, expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROOT = Path(__file__).parents[4]
MOST_BYTES = 200_000
SETTINGS = {"viewport": {"width": 1440, "height": 900}, "device_scale_factor": 1, "color_scheme": "light"}
PNG = b"\x89PNG\r\n\x1a\n"


async def failed_order(origin: str) -> str:
    """Return the URL of an order that failed, with the span chosen in which it did."""
    async with httpx.AsyncClient(base_url=origin, trust_env=False, timeout=30) as client:
        trace = (await client.get("/api/traces?status=error&limit=1")).json()["traces"][0]["trace_id"]
        spans = (await client.get(f"/api/trace/{trace}")).json()["spans"]
    chosen = next(span for span in spans if span["kind"] == "SERVER" and span["depth"])
    return f"/t/{trace}?span={chosen['span_id']}"


@pytest.mark.parametrize("name", ["overview", "trace", "metrics"])
async def test_the_readme_has_pictures(browser: Browser, shop_origin: str, tmp_path: Path, name: str) -> None:
    """Each is small enough for a repository, and of a page that has drawn everything."""
    wanted = os.environ.get("RSKETCH_SCREENSHOTS")
    folder = ROOT / wanted if wanted else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"dashboard-{name}.png"
    url = {
        "overview": "/",
        "trace": await failed_order(shop_origin),
        "metrics": "/metrics?name=http.server.request.duration&group=http.route",
    }[name]

    async with visiting(browser, shop_origin, reduced_motion="reduce", **SETTINGS) as visit:
        page = await visit.open(url)
        await expect(page.locator("#live")).to_contain_text("Live")
        await page.screenshot(path=picture, animations="disabled")

    assert picture.read_bytes().startswith(PNG)
    assert picture.stat().st_size < MOST_BYTES
