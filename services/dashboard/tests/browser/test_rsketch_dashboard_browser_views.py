"""What holds for every view: its URL is its state, everybody can use it, and it fits the screen."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from axe_playwright_python.async_playwright import Axe  # type: ignore[import-untyped]
from browsing import Visit, visiting
from demo_traffic import WEB
from playwright.async_api import Browser, Page, expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

STATES = {
    "overview": f"/?last=1h&dir=outgoing&service={WEB}",
    "traces": f"/traces?service={WEB}&min_ms=10&sort=duration&last=1h",
    "map": "/map?last=1h",
    "metrics": "/metrics?name=http.server.request.duration&group=http.route&last=1h",
    "logs": "/logs?severity=WARN&last=1h",
    "compare": f"/compare?service={WEB}&operation=POST+/orders",
    "runs": "/compare?tab=runs",
    "doctor": "/doctor",
    "sql": "/sql?query=SELECT+service,+name,+count(*)+FROM+operations+GROUP+BY+ALL+ORDER+BY+ALL",
    "trace": "/t/{trace}?span={span}",
}
"""A state of each view that is not the one it begins with."""
LOOKS: Mapping[str, Mapping[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "mobile": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
SCROLLED = ".scroll, .scroll-map, .result, .fall, pre, .command, .tabs, .segments, nav, svg, .sr"
"""What may be wider than the screen, for it can be scrolled by itself or is not seen."""
OVERFLOW = f"""() => [...document.querySelectorAll('main *')]
  .filter((each) => each.getBoundingClientRect().right > innerWidth + 1 && !each.closest('{SCROLLED}'))
  .slice(0, 5).map((each) => each.outerHTML.slice(0, 150))"""
CONTROLS = """() => [...document.querySelectorAll('main :is([aria-pressed], [aria-selected], [aria-current])')]
  .map((each) => ['aria-pressed', 'aria-selected', 'aria-current'].map((name) => each.getAttribute(name)).join()
    + each.textContent.trim())"""


async def url_of(state: str, origin: str) -> str:
    """Return the URL of a state, with the ids of a failed trace where it names one."""
    if "{" not in STATES[state]:
        return STATES[state]
    async with httpx.AsyncClient(base_url=origin, trust_env=False, timeout=30) as client:
        trace = (await client.get("/api/traces?status=error&limit=1")).json()["traces"][0]["trace_id"]
        spans = (await client.get(f"/api/trace/{trace}")).json()["spans"]
    return STATES[state].format(trace=trace, span=spans[-1]["span_id"])


async def settled(page: Page) -> Page:
    """Wait until every chart has been drawn and nothing fades any more."""
    await page.evaluate("Promise.all(document.getAnimations().map((each) => each.finished.catch(() => 0)))")
    await page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page


@pytest.mark.parametrize("state", STATES)
async def test_the_url_is_the_state(shop: Visit, state: str) -> None:
    """A view opened at a URL, and reloaded, shows the same as before, and keeps the URL as it is."""
    url = await url_of(state, shop.origin)
    page = await shop.open(url)
    await settled(page)
    await page.keyboard.press("p")
    before = re.sub(r"in [\d.]+ ms", "", await page.locator("main").inner_text())
    controls = await page.evaluate(CONTROLS)

    await settled(await shop.reload())

    assert page.url.removeprefix(shop.origin) == url
    assert await page.evaluate(CONTROLS) == controls
    # What is of the last so many minutes moves on, and a query takes a moment of another length each time.
    if state not in ("overview", "metrics", "map"):
        assert re.sub(r"in [\d.]+ ms", "", await page.locator("main").inner_text()) == before


@pytest.mark.parametrize("look", LOOKS)
async def test_everybody_can_use_every_view(browser: Browser, shop_origin: str, look: str) -> None:
    """Axe finds nothing serious in any view, in light and dark, on a desk and on a phone; nothing is too wide."""
    found = []
    # Axe is put into the page by Playwright, as a script that our Content-Security-Policy forbids; only here it may.
    async with visiting(browser, shop_origin, bypass_csp=True, reduced_motion="reduce", **LOOKS[look]) as visit:
        for state in STATES:
            page = await settled(await visit.open(await url_of(state, shop_origin)))
            results = await Axe().run(page)
            found += [
                f"{state}: {violation['id']}: {violation['help']}: {node['html'][:160]} {node['failureSummary'][:200]}"
                for violation in results.response["violations"]
                if violation["impact"] in ("serious", "critical")
                for node in violation["nodes"][:2]
            ]
            if await page.evaluate("document.scrollingElement.scrollWidth > innerWidth"):
                found.append(f"{state}: wider than the screen: {await page.evaluate(OVERFLOW)}")

    assert not found, "\n".join(found)


@asynccontextmanager
async def looking(browser: Browser, origin: str, **media: Any) -> AsyncIterator[Visit]:
    """Open a page with emulated media features."""
    async with visiting(browser, origin) as visit:
        await visit.page.emulate_media(**media)
        yield visit


async def test_every_view_works_in_forced_colours_and_with_reduced_motion(browser: Browser, shop_origin: str) -> None:
    """Both are drawn without an error; with reduced motion nothing moves."""
    async with looking(browser, shop_origin, forced_colors="active", reduced_motion="reduce") as visit:
        for state in STATES:
            page = await visit.open(await url_of(state, shop_origin))
            await expect(page.get_by_role("heading", level=1)).not_to_have_count(0)
            moving = await page.evaluate(
                "document.getAnimations().filter((each) => each.effect.getTiming().duration > 50).length"
            )
            assert moving == 0, state


@pytest.mark.parametrize("state", ["traces", "metrics", "logs"])
async def test_every_chart_has_a_table_twin(shop: Visit, state: str) -> None:
    """What is drawn on a canvas can be read as a table, which has a head, and rows."""
    page = await shop.open(await url_of(state, shop.origin))
    await settled(page)
    charts = page.locator("rs-chart")

    assert await charts.count() > 0
    for chart in await charts.all():
        await chart.get_by_role("button", name="Show as table").click()
        await expect(chart.locator("canvas")).to_have_count(0)
        await expect(chart.locator("thead th")).not_to_have_count(0)
        await expect(chart.locator("tbody tr")).not_to_have_count(0)


async def test_the_map_shows_who_calls_whom_also_as_a_table(shop: Visit) -> None:
    """The services, their database and the calls between them; a box leads to its traces."""
    page = await shop.open("/map")
    await expect(page.locator(".graph .node")).to_have_count(3)

    await page.get_by_role("button", name="Show as table").click()
    await expect(page.get_by_role("table", name="Services").locator("tbody tr")).to_have_count(3)
    calls = page.get_by_role("table", name="Calls").locator("tbody tr")
    await expect(calls).to_have_count(2)
    await expect(page.get_by_role("table", name="Calls")).to_contain_text("postgresql")
    await page.reload()
    await expect(calls).to_have_count(2)
    await page.get_by_role("table", name="Services").get_by_role("link", name="shop-web").click()

    await expect(page.get_by_role("heading", level=1)).to_have_text("Traces")
    assert shop.query()["service"] == ["shop-web"]


async def test_the_overview_leads_to_the_traces_of_an_operation(shop: Visit) -> None:
    """Rate, errors and durations of each operation, and the traces that are worth a look."""
    page = await shop.open("/")

    table = page.get_by_role("table", name="Operations")
    await expect(table.locator("tbody tr")).not_to_have_count(0)
    await expect(page.locator(".tile")).to_have_count(4)
    await expect(page.get_by_role("heading", name="Failed traces")).to_be_visible()
    await table.get_by_role("link", name="POST /orders").click()

    await expect(page.get_by_role("heading", level=1)).to_have_text("Traces")
    assert shop.query() == {"service": ["shop-web"], "operation": ["POST /orders"], "last": ["15m"]}
