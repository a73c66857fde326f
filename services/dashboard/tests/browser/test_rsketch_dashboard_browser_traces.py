"""The list of traces: the scatter and its brush, filters and their place in the URL, and what arrives meanwhile."""

import time
from collections.abc import Sequence

import pytest
from browsing import Visit
from otlp_json import Json, identified, send, span, traces
from playwright.async_api import Locator, Page, expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECOND = 1_000_000_000


def calls(count: int, ms: float, *, name: str = "GET /fast", since: int, **more: object) -> list[Json]:
    """Return entry spans of *count* traces, one a second."""
    return [
        span(name, trace=identified(f"{name} {each}"), at=since + each * SECOND, ms=ms, **more)  # type: ignore[arg-type]
        for each in range(count)
    ]


async def stored(visit: Visit, *, error: str | None = "broken") -> None:
    """Send ten fast calls of one service and ten slow ones of another, of which one may have failed."""
    since = time.time_ns() - 60 * SECOND
    slow = calls(9, 900, name="GET /slow", since=since, attributes={"tenant": "acme", "http.response.status_code": 200})
    failed = span(
        "GET /slow",
        trace=identified("failed"),
        at=since + 9 * SECOND,
        ms=1200,
        error=error,
        attributes={"tenant": "globex", "http.response.status_code": 500},
    )
    await send(visit.origin, traces("web", calls(10, 12, since=since)), traces("api", [*slow, failed]))


def listed(page: Page) -> Locator:
    """Return the rows of the list."""
    return page.get_by_role("table", name="Traces").locator("tbody tr")


async def names(page: Page) -> Sequence[str]:
    """Return the names in the list, in their order."""
    return await page.locator("table.rows tbody td.name .clip").all_inner_texts()


async def drag(page: Page, chart: Locator, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over a canvas, from and to the given shares of its width and height."""
    box = await chart.bounding_box()
    assert box
    x, y, width, height = (box[each] for each in ("x", "y", "width", "height"))
    await page.mouse.move(x + start[0] * width, y + start[1] * height)
    await page.mouse.down()
    await page.mouse.move(x + (start[0] + end[0]) / 2 * width, y + (start[1] + end[1]) / 2 * height)
    await page.mouse.move(x + end[0] * width, y + end[1] * height)
    await page.mouse.up()


async def test_a_brush_narrows_the_list_and_stands_in_the_url(visit: Visit) -> None:
    """Dragging a box keeps what is in it; a reload keeps the box, and going back drops it."""
    await stored(visit)
    page = await visit.open("/traces")
    await expect(listed(page)).to_have_count(20)

    await drag(page, page.locator("canvas"), (0.08, 0.06), (0.98, 0.4))
    await expect(listed(page)).to_have_count(10)
    assert set(await names(page)) == {"GET /slow"}
    asked = visit.query()
    assert set(asked) == {"from_us", "to_us", "min_ms", "max_ms"}
    assert 12 < float(asked["min_ms"][0]) < 900
    await page.reload()
    await expect(listed(page)).to_have_count(10)
    await expect(page.locator(".plot .box")).to_be_visible()
    assert visit.query() == asked
    await page.go_back()

    await expect(listed(page)).to_have_count(20)
    await expect(page.locator(".plot .box")).to_be_hidden()
    assert visit.query() == {}


async def test_a_click_on_a_dot_opens_its_trace(visit: Visit) -> None:
    """The dots are targets."""
    since = time.time_ns() - 60 * SECOND
    await send(visit.origin, traces("web", calls(1, 12, since=since)))
    page = await visit.open("/traces")
    await expect(listed(page)).to_have_count(1)
    box = await page.locator("canvas").bounding_box()
    assert box

    # A single dot is in the middle of the plot, which leaves room for the axes at the left and at the bottom.
    await page.mouse.click(box["x"] + (62 + box["width"] - 10) / 2, box["y"] + (10 + box["height"] - 24) / 2)

    await expect(page.get_by_role("heading", level=1)).to_have_text("GET /fast")


SEARCHES: dict[str, tuple[dict[str, list[str]], int]] = {
    "slow": ({"q": ["slow"]}, 10),
    "tenant=acme": ({"attr": ["tenant=acme"]}, 9),
    "tenant=": ({"attr": ["tenant"]}, 10),
    "tenant=globex slow": ({"attr": ["tenant=globex"], "q": ["slow"]}, 1),
    "service=web": ({"service": ["web"]}, 10),
    "status=error": ({"status": ["error"]}, 1),
    "min=20 max=1000": ({"min_ms": ["20"], "max_ms": ["1000"]}, 9),
    "kind=CLIENT": ({"kind": ["CLIENT"]}, 0),
    "nothing-like-this": ({"q": ["nothing-like-this"]}, 0),
}
"""What is typed, what then stands in the URL, and how many traces there are of it."""


async def test_the_search_box_takes_words_and_filters(visit: Visit) -> None:
    """Words look into names, `key=value` into attributes, and some keys are filters of their own; all is in the URL."""
    await stored(visit)
    page = await visit.open("/traces")

    for line, (asked, count) in SEARCHES.items():
        await page.get_by_role("link", name="Traces", exact=True).click()
        await expect(listed(page)).to_have_count(20)
        await page.keyboard.press("/")
        await expect(page.get_by_label("Search traces")).to_be_focused()
        await page.keyboard.type(line)
        await page.keyboard.press("Enter")
        await expect(listed(page)).to_have_count(count)
        assert visit.query() == asked, line
        await expect(page.get_by_role("heading", name="No trace matches")).to_be_visible(visible=not count)


async def test_facets_status_limits_and_order_narrow_the_list(visit: Visit) -> None:
    """Each control filters at once, can be taken back, and survives a reload."""
    await stored(visit)
    page = await visit.open("/traces")
    await expect(listed(page)).to_have_count(20)

    await page.get_by_role("button", name="api 10").click()
    await expect(listed(page)).to_have_count(10)
    await page.get_by_role("button", name="Errors").click()
    await expect(listed(page)).to_have_count(1)
    await page.reload()
    await expect(listed(page)).to_have_count(1)
    await page.get_by_role("button", name="All", exact=True).click()
    await page.get_by_role("button", name="Remove filter service api").click()
    await expect(listed(page)).to_have_count(20)
    await page.get_by_label("Operation").select_option("GET /fast")
    await expect(listed(page)).to_have_count(10)
    await page.get_by_role("button", name="Remove filter operation GET /fast").click()
    await page.get_by_label("Minimum duration").fill("1000")
    await page.get_by_label("Minimum duration").press("Enter")
    await expect(listed(page)).to_have_count(1)
    await page.get_by_label("Minimum duration").fill("")
    await page.get_by_label("Minimum duration").press("Enter")
    await page.get_by_label("Maximum duration").fill("1000")
    await page.get_by_label("Maximum duration").press("Enter")
    await expect(listed(page)).to_have_count(19)
    await page.get_by_role("button", name="Slowest").click()
    await expect(page.locator("tbody td.name").first).to_contain_text("GET /slow")

    assert visit.query() == {"max_ms": ["1000"], "sort": ["duration"]}
    assert (await names(page))[:9] == ["GET /slow"] * 9


async def test_health_checks_are_hidden_until_asked_for(visit: Visit) -> None:
    """Probes come every few seconds and hide everything else; one button shows them."""
    since = time.time_ns() - 60 * SECOND
    checks = calls(3, 1, name="GET /readyz", since=since)
    await send(visit.origin, traces("web", [*calls(2, 12, since=since), *checks]))
    page = await visit.open("/traces")
    await expect(listed(page)).to_have_count(2)

    await page.get_by_role("button", name="Health checks").click()

    await expect(listed(page)).to_have_count(5)
    assert visit.query() == {"health": ["1"]}


async def test_new_traces_come_on_top_by_themselves_and_wait_while_paused(visit: Visit) -> None:
    """The open list grows within a second; paused it holds still and counts, and shows all when resumed."""
    now = time.time_ns()
    await send(visit.origin, traces("web", calls(1, 12, name="GET /first", since=now - 30 * SECOND)))
    page = await visit.open("/traces")
    await expect(listed(page)).to_have_count(1)

    await send(visit.origin, traces("web", calls(1, 12, name="GET /second", since=now - 20 * SECOND)))
    await expect(page.locator("tbody td.name").first).to_contain_text("GET /second", timeout=3000)
    await page.keyboard.press("p")
    await expect(page.locator("#live")).to_contain_text("Paused")
    await send(visit.origin, traces("web", calls(1, 12, name="GET /third", since=now - 10 * SECOND)))
    await expect(page.locator("#live")).to_contain_text("Paused · 1 new")
    assert list(await names(page)) == ["GET /second", "GET /first"]
    await page.get_by_role("button", name="Paused").click()

    await expect(page.locator("tbody td.name").first).to_contain_text("GET /third")


async def test_a_long_list_loads_more_when_it_is_scrolled(visit: Visit) -> None:
    """The first page is a hundred traces; the end of the list brings the next ones, until there are none."""
    since = time.time_ns() - 600 * SECOND
    await send(visit.origin, traces("web", calls(250, 12, since=since)))
    page = await visit.open("/traces")
    await expect(listed(page)).to_have_count(100)

    await page.locator(".end").scroll_into_view_if_needed()
    await expect(listed(page)).to_have_count(200)
    await page.locator(".end").scroll_into_view_if_needed()

    await expect(listed(page)).to_have_count(250)
    await expect(page.locator(".end")).to_contain_text("250 traces, nothing older")
