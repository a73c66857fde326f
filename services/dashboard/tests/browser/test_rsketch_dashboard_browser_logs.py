"""Logs: the live tail, what holds it still, and filters."""

import time

import pytest
from browsing import Visit
from otlp_json import Json, identified, logs, record, send, span, traces
from playwright.async_api import Page, expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECOND = 1_000_000_000
TRACE, SPAN = identified("trace"), identified("span", 8)


def lines(since: int) -> Json:
    """Return one record of each severity, a second apart."""
    return logs(
        "web",
        [
            record("cache is cold", since, severity="DEBUG"),
            record("order placed", since + SECOND, trace=TRACE, span_id=SPAN, attributes={"tenant": "acme"}),
            record("stock is low", since + 2 * SECOND, severity="WARN", attributes={"tenant": "globex"}),
            record("payment failed", since + 3 * SECOND, severity="ERROR", event_name="payment.failed"),
        ],
    )


async def bodies(page: Page) -> list[str]:
    """Return what the records say, newest first."""
    return [" ".join(line.split()) for line in await page.locator(".tail summary .clip").all_inner_texts()]


async def test_new_records_come_on_top_by_themselves(visit: Visit) -> None:
    """What is logged is on the open page within three seconds, above what was there."""
    await send(visit.origin, lines(time.time_ns() - 60 * SECOND))
    page = await visit.open("/logs")
    assert await bodies(page) == ["payment.failed payment failed", "stock is low", "order placed", "cache is cold"]

    await send(visit.origin, logs("web", [record("here I am", time.time_ns())]))

    await expect(page.locator(".tail summary").first).to_contain_text("here I am", timeout=3000)
    assert (await bodies(page))[1:] == [
        "payment.failed payment failed",
        "stock is low",
        "order placed",
        "cache is cold",
    ]


async def test_a_tail_that_somebody_reads_holds_still_and_counts(visit: Visit) -> None:
    """While a record is open nothing moves; a button says how many have come, and shows them."""
    await send(visit.origin, lines(time.time_ns() - 60 * SECOND))
    page = await visit.open("/logs")

    await page.locator(".tail summary", has_text="stock is low").click()
    await expect(page.locator(".record")).to_contain_text("globex")
    await send(visit.origin, logs("web", [record(f"late {each}", time.time_ns()) for each in range(3)]))
    await expect(page.get_by_role("button", name="3 new")).to_be_visible()
    await expect(page.locator(".tail summary")).to_have_count(4)
    await page.get_by_role("button", name="3 new").click()

    await expect(page.locator(".tail summary")).to_have_count(7)
    await expect(page.locator(".tail summary").first).to_contain_text("late")
    await expect(page.locator(".record")).to_have_count(0)


async def test_a_paused_page_holds_still(visit: Visit) -> None:
    """Pause stops every view; what has come meanwhile is there when it goes on."""
    await send(visit.origin, lines(time.time_ns() - 60 * SECOND))
    page = await visit.open("/logs")
    await expect(page.locator("#live")).to_contain_text("Live")

    await page.keyboard.press("p")
    await expect(page.locator("#live")).to_contain_text("Paused")
    await send(visit.origin, logs("web", [record("while away", time.time_ns())]))
    await expect(page.locator("#live")).to_contain_text("1 new")
    await expect(page.locator(".tail summary")).to_have_count(4)
    await page.keyboard.press("p")

    await expect(page.locator(".tail summary").first).to_contain_text("while away")


async def test_severity_text_and_attributes_narrow_the_records_and_stand_in_the_url(visit: Visit) -> None:
    """Each filter works at once and survives a reload; what matches nothing says what to do."""
    await send(visit.origin, lines(time.time_ns() - 60 * SECOND))
    page = await visit.open("/logs")

    await page.get_by_role("button", name="Warn").click()
    await expect(page.locator(".tail summary")).to_have_count(2)
    await page.reload()
    await expect(page.locator(".tail summary")).to_have_count(2)
    assert visit.query() == {"severity": ["WARN"]}
    await page.get_by_role("button", name="All", exact=True).click()
    await page.keyboard.press("/")
    await page.keyboard.type("order")
    await page.keyboard.press("Enter")
    await expect(page.locator(".tail summary")).to_have_count(1)
    assert visit.query() == {"q": ["order"]}
    await page.get_by_label("Search logs").fill("tenant=globex")
    await page.get_by_label("Search logs").press("Enter")
    await expect(page.locator(".tail summary")).to_contain_text(["stock is low"])
    assert visit.query() == {"attr": ["tenant=globex"]}
    await page.get_by_label("Search logs").fill("no such words")
    await page.get_by_label("Search logs").press("Enter")

    await expect(page.get_by_role("heading", name="No record matches")).to_be_visible()


async def test_a_record_leads_to_its_span_in_its_trace(visit: Visit) -> None:
    """The link opens the trace with the span chosen that wrote the record, which shows it."""
    since = time.time_ns() - 60 * SECOND
    call = span("GET /order", trace=TRACE, id=SPAN, at=since, ms=3000)
    await send(visit.origin, traces("web", [call]), lines(since))
    page = await visit.open("/logs")

    await expect(page.get_by_role("link", name="Open the trace")).to_have_count(1)
    await page.get_by_role("link", name="Open the trace").click()

    await expect(page.get_by_role("complementary", name="Span details")).to_contain_text("GET /order")
    await expect(page.locator(".frow.log")).to_contain_text("order placed")
    assert visit.query() == {"span": [SPAN]}


async def test_all_records_of_a_trace_are_one_click_away(visit: Visit) -> None:
    """An open record offers the others of its trace."""
    since = time.time_ns() - 60 * SECOND
    more = logs("cart", [record("in another service", since + 5 * SECOND, trace=TRACE)])
    await send(visit.origin, lines(since), more)
    page = await visit.open("/logs")

    await page.locator(".tail summary", has_text="order placed").click()
    await page.get_by_role("button", name="All logs of this trace").click()

    await expect(page.locator(".tail summary")).to_have_count(2)
    assert visit.query() == {"trace": [TRACE]}
