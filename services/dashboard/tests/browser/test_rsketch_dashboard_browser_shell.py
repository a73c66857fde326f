"""What surrounds the views: the keyboard, live updates, being without a server, and having nothing to show yet."""

import signal
import sys
import time
from pathlib import Path

import pytest
from browsing import VIEWS, Visit, visiting
from demo_traffic import Shop
from harness.children import Child, clean_environ, running
from harness.collector import free_ports
from otlp_json import identified, send, span, traces
from playwright.async_api import Browser, Page, expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

EMPTY = {"/metrics": "Waiting for telemetry", "/sql": "Ask the store"}
"""What a view says of an empty store, unless it is what most of them say."""
FOCUS = """() => {
  const at = document.activeElement;
  const seen = (element, pseudo) => {
    const style = element ? getComputedStyle(element, pseudo) : { outlineStyle: 'none', boxShadow: 'none' };
    return style.outlineStyle !== 'none' || style.boxShadow !== 'none' || parseFloat(style.strokeWidth) > 2;
  };
  return at !== document.body && at.getClientRects().length > 0 && (seen(at) || seen(at, '::after')
    || seen(at.closest('.code')) || seen(at.querySelector('.cursor, .box')));
}"""
"""Whether the focus is on something, and marked: on it, on the row that it is a link of, or on the box around it."""


async def heading(page: Page, name: str) -> None:
    """Wait for the heading of a view."""
    await expect(page.get_by_role("heading", level=1)).to_have_text(name)


async def test_an_empty_store_says_in_every_view_what_to_do(visit: Visit) -> None:
    """Each view has an empty state with a line that helps; none of them complains."""
    for path in VIEWS:
        page = await visit.open(path)

        await expect(page.locator(".empty h2")).to_have_text(EMPTY.get(path, "Waiting for telemetry"))
        if path != "/sql":
            port = visit.origin.rpartition(":")[2]
            await expect(page.locator(".empty")).to_contain_text(f"localhost:{port}")
            await expect(page.locator(".empty .command")).not_to_have_count(0)


async def test_the_first_telemetry_fills_the_page_by_itself(visit: Visit) -> None:
    """The page that waits shows what arrives, within three seconds and without a reload."""
    page = await visit.open("/")
    await expect(page.locator("#live")).to_contain_text("Live")

    call = span("GET /first", trace=identified("first"), at=time.time_ns(), ms=5)
    await send(visit.origin, traces("web", [call]))

    await expect(page.get_by_role("link", name="GET /first").first).to_be_visible(timeout=3000)


async def test_everything_can_be_reached_by_keyboard_alone(visit: Visit) -> None:
    """Letters jump between views, j and k walk rows, Enter opens, Esc goes back, and the focus is always seen."""
    await send(visit.origin, *Shop(time.time_ns(), requests=30).requests())
    page = await visit.open("/")

    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    keys = {"t": "Traces", "m": "Service map", "e": "Metrics", "l": "Logs", "c": "Compare", "d": "Doctor", "s": "SQL"}
    for key, name in {**keys, "o": "Overview"}.items():
        await page.keyboard.press("g")
        await page.keyboard.press(key)
        await heading(page, name)
    await page.keyboard.press("g")
    await page.keyboard.press("t")
    await expect(page.locator("tbody tr")).not_to_have_count(0)
    for key in ("j", "j", "ArrowDown", "k", "ArrowUp"):
        await page.keyboard.press(key)
        assert await page.evaluate(FOCUS), key
    await expect(page.locator("tbody tr:nth-child(1) a[data-row]")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("treegrid")).to_be_visible()
    for _ in range(3):
        await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("complementary", name="Span details")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("complementary", name="Span details")).to_be_hidden()
    await page.keyboard.press("Escape")
    await heading(page, "Traces")
    await page.keyboard.press("/")
    await expect(page.get_by_label("Search traces")).to_be_focused()
    await page.keyboard.press("Escape")

    await expect(page.get_by_label("Search traces")).not_to_be_focused()


async def test_the_tab_key_reaches_the_content_of_every_view_and_shows_where_it_is(visit: Visit) -> None:
    """The first stop skips to the content; each of the next stops is visible, and marked."""
    await send(visit.origin, *Shop(time.time_ns(), requests=30).requests())
    for path in VIEWS:
        page = await visit.open(path)
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        await page.keyboard.press("Enter")

        for stop in range(6):
            await page.keyboard.press("Tab")
            at = await page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
            assert await page.evaluate(FOCUS), f"{path}, stop {stop}: {at}"
        assert await page.evaluate("document.querySelector('main').contains(document.activeElement)"), path


async def test_the_theme_is_that_of_the_system_until_one_is_chosen(visit: Visit) -> None:
    """`w` changes between light and dark, and the choice outlives the page."""
    page = await visit.open("/")
    background = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(background)
    await page.emulate_media(color_scheme="dark")
    dark = await page.evaluate(background)

    await page.keyboard.press("w")
    assert await page.evaluate(background) == light
    await page.reload()

    assert light != dark
    assert await page.evaluate(background) == light


async def test_a_page_outlives_its_server(browser: Browser, tmp_path: Path) -> None:
    """Without the server the page says so; when it is back it shows by itself what was and what has come since."""
    http, grpc = free_ports(2)
    origin = f"http://127.0.0.1:{http}"
    argv = [sys.executable, "-m", "rsketch_dashboard", "--http-port", str(http), "--grpc-port", str(grpc)]

    async def started(child: Child) -> None:
        await child.written("data ")

    def call(name: str) -> dict[str, object]:
        return traces("web", [span(name, trace=identified(name), at=time.time_ns(), ms=5)])

    async with visiting(browser, origin) as visit:
        first = running(argv, environ=clean_environ(tmp_path), folder=tmp_path, name="dashboard")
        async with first as child:
            await started(child)
            await send(origin, call("GET /before"))
            page = await visit.open("/traces")
            await expect(page.locator("tbody td.name")).to_have_text("GET /before")
            await expect(page.locator("#live")).to_contain_text("Live")
            with visit.watch.expecting(r"net::ERR_|Failed to fetch"):
                await child.stop(signal.SIGKILL)
                await expect(page.locator("#live")).to_contain_text("Reconnecting")
                again = running(argv, environ=clean_environ(tmp_path), folder=tmp_path, name="dashboard")
                async with again as second:
                    await started(second)
                    await expect(page.locator("#live")).to_contain_text("Live")
                    await send(origin, call("GET /after"))
                    await expect(page.locator("tbody td.name").first).to_have_text("GET /after")
                    await expect(page.locator("tbody td.name").last).to_have_text("GET /before")
                    await expect(page.locator(".bar.error")).to_have_count(0)
                    # Closed before the server is, whose end it would rightly complain of.
                    await page.close()
