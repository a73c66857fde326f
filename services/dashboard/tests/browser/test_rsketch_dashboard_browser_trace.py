"""The page of one trace: its tree, what is inside each span, and finding one's way in ten thousand of them."""

import json
import time

import pytest
from browsing import Visit
from otlp_json import Json, event, identified, logs, record, send, span, traces
from playwright.async_api import Page, expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

MS = 1_000_000
TRACE = identified("trace")
ROOT, CALL = identified("root", 8), identified("call", 8)


def order(at: int) -> list[Json]:
    """Return a trace of two services: a call, six equal queries, a failed one, and lines of a log in between."""
    web = [
        span("GET /cart", trace=TRACE, id=ROOT, at=at, ms=100, attributes={"http.route": "/cart", "user.id": 17}),
        span("render", trace=TRACE, parent=ROOT, at=at + 85 * MS, ms=10, kind="INTERNAL"),
        span("Cart/Get", trace=TRACE, id=CALL, parent=ROOT, at=at + 5 * MS, ms=78, kind="CLIENT"),
    ]
    queries = [
        span("SELECT item", trace=TRACE, parent=CALL, at=at + (10 + 6 * each) * MS, ms=5, kind="CLIENT")
        for each in range(6)
    ]
    failed = span(
        "UPDATE cart",
        trace=TRACE,
        parent=CALL,
        at=at + 60 * MS,
        ms=9,
        kind="CLIENT",
        error="the cart is locked",
        events=[event("exception", at + 68 * MS, {"exception.type": "Locked"})],
        links=[{"traceId": identified("other"), "spanId": identified("other", 8), "attributes": []}],
    )
    lines = [
        record("looking into the cart", at + 2 * MS, trace=TRACE, span_id=ROOT),
        record("gave up", at + 90 * MS, severity="ERROR", trace=TRACE, span_id=CALL, attributes={"tries": 3}),
    ]
    return [traces("web", web), traces("cart", [*queries, failed]), logs("web", lines)]


async def rows(page: Page) -> list[str]:
    """Return what the waterfall's rows say, indented by their level."""
    found = []
    for row in await page.locator(".frow:not(.top)").all():
        label = " ".join((await row.locator(".who").inner_text()).split())
        found.append("  " * (int(await row.get_attribute("aria-level") or 0) - 1) + label)
    return found


async def test_spans_stand_as_a_tree_in_the_order_of_their_start_with_logs_between_them(visit: Visit) -> None:
    """Children are below their parent, by start; log lines are where they were written; repeats are one row."""
    await send(visit.origin, *order(time.time_ns() - 10**9))

    page = await visit.open(f"/t/{TRACE}")
    await expect(page.get_by_role("heading", level=1)).to_have_text("GET /cart")

    assert await rows(page) == [
        "GET /cart web",
        "  INFO looking into the cart",
        "  Cart/Get",
        "    6 \N{MULTIPLICATION SIGN} SELECT item cart",
        "    UPDATE cart cart",
        "    ERROR gave up",
        "  render",
    ]


async def test_folded_repeats_open_and_a_collapsed_span_hides_what_is_below_it(visit: Visit) -> None:
    """A click on a fold shows its spans, the arrow of a span hides its children, and one button undoes both."""
    await send(visit.origin, *order(time.time_ns() - 10**9))
    page = await visit.open(f"/t/{TRACE}")

    await page.locator(".frow.fold").click()
    await expect(page.locator(".frow .who", has_text="SELECT item")).to_have_count(6)
    await page.locator(f"#r-{CALL}").get_by_role("button", name="Collapse").click()
    await expect(page.locator(".frow.span")).to_have_count(3)
    await expect(page.locator(f"#r-{CALL}")).to_have_attribute("aria-expanded", "false")
    await page.get_by_role("button", name="Reset folds").click()

    await expect(page.locator(".frow.fold")).to_have_count(1)
    await expect(page.locator(f"#r-{CALL}")).to_have_attribute("aria-expanded", "true")


async def test_details_of_a_span_show_all_that_was_sent_and_stand_in_the_url(visit: Visit) -> None:
    """Status, attributes, events, logs, resource and links of the chosen span are shown; a reload keeps it chosen."""
    await send(visit.origin, *order(time.time_ns() - 10**9))
    page = await visit.open(f"/t/{TRACE}")
    detail = page.get_by_role("complementary", name="Span details")

    await page.locator(".frow", has_text="UPDATE cart").click()
    await expect(detail).to_contain_text("the cart is locked")
    await detail.get_by_role("tab", name="Events").click()
    await expect(detail.get_by_role("tabpanel")).to_contain_text("exception.type")
    await detail.get_by_role("tab", name="Links").click()
    await expect(detail.get_by_role("link", name=identified("other"))).to_be_visible()
    await detail.get_by_role("tab", name="Resource").click()
    await expect(detail.get_by_role("tabpanel")).to_contain_text("service.name")
    await expect(detail.get_by_role("tabpanel")).to_contain_text("cart")
    await page.locator(f"#r-{ROOT}").click()
    await detail.get_by_role("tab", name="Attributes").click()
    await expect(detail.get_by_role("tabpanel")).to_contain_text("/cart")
    await detail.get_by_role("tab", name="Logs").click()
    await expect(detail.get_by_role("tabpanel")).to_contain_text("looking into the cart")

    assert visit.query()["span"] == [ROOT]
    await page.reload()
    await expect(detail.get_by_role("heading", name="GET /cart")).to_be_visible()


async def test_find_walks_through_what_contains_the_words(visit: Visit) -> None:
    """Names, services and attributes are searched, folds with a hit open, and n leads to the next one."""
    await send(visit.origin, *order(time.time_ns() - 10**9))
    page = await visit.open(f"/t/{TRACE}")

    await page.keyboard.press("/")
    await page.keyboard.type("select item")
    await expect(page.locator(".hits")).to_have_text("1 of 6")
    await page.keyboard.press("Enter")
    await expect(page.locator(".hits")).to_have_text("2 of 6")
    await expect(page.locator(".frow.hit")).to_have_count(6)
    await page.keyboard.press("Escape")

    await expect(page.locator(".frow.hit")).to_have_count(0)
    await expect(page.get_by_role("treegrid")).to_be_focused()


async def test_the_trace_can_be_copied_and_downloaded_as_otlp_json(visit: Visit) -> None:
    """Both give a request that another receiver takes: the spans and the log records of this trace."""
    await send(visit.origin, *order(time.time_ns() - 10**9))
    await visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = await visit.open(f"/t/{TRACE}")

    await page.get_by_role("button", name="OTLP").click()
    await expect(page.locator("#say")).to_have_text("Copied as OTLP-JSON")
    copied = json.loads(await page.evaluate("navigator.clipboard.readText()"))
    async with page.expect_download() as downloading:
        await page.get_by_role("link", name="Download").click()
    downloaded = json.loads((await (await downloading.value).path()).read_text())

    assert copied == downloaded
    names = {
        each["name"]
        for resource in copied["resourceSpans"]
        for scope in resource["scopeSpans"]
        for each in scope["spans"]
    }
    assert names == {"GET /cart", "render", "Cart/Get", "SELECT item", "UPDATE cart"}
    assert "gave up" in json.dumps(copied["resourceLogs"])


async def test_spans_without_their_parent_and_clocks_that_differ_are_pointed_out(visit: Visit) -> None:
    """An orphan is shown at the top with a note; so is a span that begins before its parent."""
    at = time.time_ns() - 10**9
    spans = [
        span("root", trace=TRACE, id=ROOT, at=at, ms=50),
        span("early", trace=TRACE, parent=ROOT, at=at - 20 * MS, ms=5),
        span("orphan", trace=TRACE, parent=identified("gone", 8), at=at + 10 * MS, ms=5),
    ]
    await send(visit.origin, traces("web", spans))

    page = await visit.open(f"/t/{TRACE}")

    await expect(page.locator(".note")).to_contain_text("1 span without the parent")
    await expect(page.locator(".note")).to_contain_text("clocks that differ")
    assert await rows(page) == ["root web", "  early", "orphan web"]


async def test_a_trace_of_ten_thousand_spans_is_drawn_by_its_visible_rows_alone(visit: Visit) -> None:
    """The document stays small, the end can be reached by key and by wheel, and the last span is there."""
    at = time.time_ns() - 60 * 10**9
    spans = [span("root", trace=TRACE, id=ROOT, at=at, ms=30_000)]
    spans += [
        span(f"step {each}", trace=TRACE, parent=ROOT, at=at + each * MS, ms=2, kind="INTERNAL")
        for each in range(1, 10_000)
    ]
    for first in range(0, len(spans), 2500):
        await send(visit.origin, traces("web", spans[first : first + 2500]))

    page = await visit.open(f"/t/{TRACE}")
    await expect(page.locator(".summary")).to_contain_text("10,000 spans")
    fall = page.get_by_role("treegrid")
    assert await page.locator(".frow").count() < 120
    assert await page.evaluate("document.querySelectorAll('*').length") < 4000
    await fall.focus()
    await page.keyboard.press("End")
    await expect(page.locator(".frow", has_text="step 9999")).to_be_in_viewport()
    await fall.evaluate("(each) => each.scrollTo(0, 0)")
    await expect(page.locator(f"#r-{ROOT}")).to_be_in_viewport()
    await fall.evaluate("(each) => each.scrollTo(0, each.scrollHeight)")

    await expect(page.locator(".frow", has_text="step 9999")).to_be_in_viewport()
    assert await page.locator(".frow").count() < 120
    assert await fall.get_attribute("aria-rowcount") == "10001"


async def test_logs_of_a_trace_without_a_span_are_shown(visit: Visit) -> None:
    """A trace of which only log records have arrived is a page all the same."""
    at = time.time_ns() - 10**9
    await send(visit.origin, logs("web", [record("alone", at, trace=TRACE, span_id=ROOT)]))

    page = await visit.open(f"/t/{TRACE}")

    assert await rows(page) == ["INFO alone"]


async def test_a_trace_that_has_not_arrived_appears_by_itself(visit: Visit) -> None:
    """An unknown trace says why it may be missing, and is shown as soon as it comes."""
    with visit.watch.expecting(f"404.*api/trace/{TRACE}"):
        page = await visit.open(f"/t/{TRACE}")
        await expect(page.get_by_role("heading", name="This trace has not arrived")).to_be_visible()
        await send(visit.origin, *order(time.time_ns() - 10**9))

        await expect(page.get_by_role("heading", level=1)).to_have_text("GET /cart")
    await expect(page.locator(".bar")).to_have_count(0)
