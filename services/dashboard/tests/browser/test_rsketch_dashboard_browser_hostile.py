"""Telemetry is what strangers have sent: whatever is in it stays text, and breaks nothing."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from browsing import Visit, visiting
from otlp_json import Json, event, histogram, identified, logs, metrics, number, record, send, span, traces
from playwright.async_api import Browser, Page, expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECOND = 1_000_000_000
Key = tuple[tuple[str, Any], ...]
MARKUP = (
    "<script>window.hit=1;alert(1)</script>",
    "<img src=x onerror=\"window.hit=1;alert(1)\"><svg onload='window.hit=1'>",
    "\"'><style>*{display:none}</style></textarea></title><iframe src=javascript:window.hit=1>",
    "${window.hit=1}{{window.hit=1}}<?lit$0$><!--?lit$1$-->",
    "'; DROP TABLE spans; -- ../../../etc/passwd?a=b&c=d#e%00%2f",
)
PAYLOADS = {
    "markup": " ".join(MARKUP),
    "url": "javascript:window.hit=1//",
    "right-to-left": "\u202egnp.exe\u2066 \u05e9\u05dc\u05d5\u05dd \u202a\u0007\ufeff",
    "long": "x" * 10_000,
}
VIEWS = ("/", "/traces", "/map", "/metrics", "/logs", "/compare", "/compare?tab=runs", "/doctor", "/sql")
FOREIGN = "main :is(script, img, iframe, style, object, embed, form[action], a[href^='javascript' i])"


def hostile(text: str, since: int) -> Iterator[Json]:
    """Yield requests with *text* wherever text can be."""
    trace, root = identified("hostile"), identified("hostile root", 8)
    attributes: dict[str, Any] = {text: text, "http.route": text, "url.full": text, "list": [text], "map": {text: text}}
    resource = {"service.version": text, "service.instance.id": text, "vcs.ref.head.revision": text, text: text}
    spans = [
        span(
            text,
            trace=trace,
            id=root,
            at=since,
            ms=900,
            attributes=attributes,
            error=text,
            events=[event(text, since + SECOND // 10, {text: text, "exception.stacktrace": text})],
            links=[{"traceId": identified("far"), "spanId": root, "attributes": []}],
        ),
        span(
            text,
            trace=trace,
            parent=root,
            at=since + SECOND // 5,
            ms=300,
            kind="CLIENT",
            attributes={"peer.service": text, "db.system.name": text},
        ),
    ]
    yield traces(text, spans, resource)
    others = [
        span(text, trace=identified(f"other {each}"), at=since, ms=each, attributes=attributes) for each in range(1, 9)
    ]
    yield traces(text, others, resource)
    yield logs(
        text,
        [
            record(
                text,
                since,
                severity="ERROR",
                trace=trace,
                span_id=root,
                attributes={
                    **attributes,
                    "exception.type": text,
                    "exception.message": text,
                    "exception.stacktrace": text,
                },
                event_name=text,
            )
        ],
        resource,
    )
    key: Key = ((text, text), ("http.route", text))
    for at in (since, since + 10 * SECOND):
        buckets = [1, 2, 3, *[0] * 12]
        exemplars = {key: [(0.02, at, trace, root)]}
        instruments = [
            histogram(
                f"h {text}",
                {key: buckets},
                start=since - SECOND,
                at=at,
                unit=text,
                description=text,
                exemplars=exemplars,
            ),
            number(text, 1.5, at, unit=text, description=text, attributes={text: text}),
        ]
        yield metrics(text, instruments, resource)


async def harmless(page: Page, where: str) -> None:
    """Assert that nothing ran, that no element came of text, and that nothing is wider than the screen."""
    assert await page.evaluate("window.hit") is None, where
    assert await page.locator(FOREIGN).count() == 0, where
    assert await page.evaluate("document.scrollingElement.scrollWidth <= innerWidth"), f"{where} is too wide"
    await expect(page.locator("header#top nav")).to_be_visible()


@pytest.mark.parametrize("name", PAYLOADS)
async def test_whatever_is_sent_stays_text(browser: Browser, origin: str, name: str) -> None:
    """In no view and no detail does text become markup, run, or push the layout apart; no page complains."""
    text = PAYLOADS[name]
    await send(origin, *hostile(text, time.time_ns() - 60 * SECOND))
    async with visiting(browser, origin) as visit:
        # So long a name does not fit into the URL of a question about it.
        with visit.watch.expecting("status of 4.*/api/(compare|metric)" if name == "long" else "nothing"):
            for path in VIEWS:
                page = await visit.open(path, failing=name == "long")
                await harmless(page, f"{path}, {name}")
        page = await visit.open(f"/t/{identified('hostile')}")
        await page.locator(".frow.span").first.click()
        detail = page.get_by_role("complementary", name="Span details")
        for tab in ("Attributes", "Events", "Logs", "Resource", "Links"):
            await detail.get_by_role("tab", name=tab).click()
            await harmless(page, f"{tab}, {name}")
        page = await visit.open("/logs")
        await page.locator(".tail summary").first.click()
        await expect(page.locator(".record pre").first).to_have_text(text)
        await harmless(page, f"a record, {name}")
        await page.set_viewport_size({"width": 390, "height": 844})
        for path in ("/", "/traces", "/logs", "/doctor", f"/t/{identified('hostile')}"):
            await harmless(await visit.open(path), f"{path} on a phone, {name}")


async def test_what_stands_in_a_url_stays_text(visit: Visit) -> None:
    """Parameters of every kind are taken as they are, and are shown as text where they are shown."""
    await send(visit.origin, traces("web", [span("GET /", trace=identified("t"), at=time.time_ns(), ms=5)]))
    text = "%3Cimg%20src%3Dx%20onerror%3D%22window.hit%3D1%22%3E"
    with visit.watch.expecting("status of 40[04].*/api/"):
        for path in ("/", "/traces", "/map", "/metrics", "/logs", "/compare", "/doctor"):
            page = visit.page
            await page.goto(
                f"{path}?service={text}&operation={text}&q={text}&attr={text}&name={text}&last={text}&sort={text}&status={text}&tab={text}&from_us={text}&view={text}&group={text}"
            )
            await expect(page.locator("header#top nav")).to_be_visible()
            await page.wait_for_load_state("load")
            await harmless(page, path)
