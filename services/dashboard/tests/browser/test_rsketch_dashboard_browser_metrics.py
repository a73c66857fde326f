"""Metrics: a histogram as heatmap and quantiles, exemplars that open their traces, and the same question in PromQL."""

import re
import time

import pytest
from browsing import Visit
from otlp_json import metrics, number, send
from playwright.async_api import expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECOND = 1_000_000_000
ABSENT = "\N{EN DASH}"
DURATION = "http.server.request.duration"


async def test_a_histogram_is_a_heatmap_with_quantiles_and_each_has_its_numbers_as_a_table(shop: Visit) -> None:
    """Distribution, quantiles and rate are drawn; each chart has a table twin; the newest quantiles are in words."""
    page = await shop.open(f"/metrics?name={DURATION}")

    await expect(page.locator(".stats dt")).to_have_text(["p50", "p95", "p99", "rate"])
    assert re.fullmatch(r"[\d.]+ m?s", await page.locator(".stats dd").first.inner_text())
    for title in ("Distribution", "Quantiles", "Rate"):
        chart = page.locator("rs-chart").filter(has=page.locator("figcaption b", has_text=title))
        await expect(chart.get_by_role("img", name=title)).to_be_visible()
        await chart.get_by_role("button", name="Show as table").click()
        await expect(chart.get_by_role("table").first).to_be_visible()
        await expect(chart.locator("tbody tr")).not_to_have_count(0)
        cells = await chart.locator("tbody td.num").all_inner_texts()
        assert any(cell not in (ABSENT, "0", "0/s") for cell in cells), title
        await chart.get_by_role("button", name="Show as chart").click()
        await expect(chart.get_by_role("img", name=title)).to_be_visible()


async def test_an_exemplar_opens_its_trace(shop: Visit) -> None:
    """The highest exemplars are links, each to the span that was measured."""
    page = await shop.open(f"/metrics?name={DURATION}")

    link = page.locator("section", has=page.get_by_role("heading", name="Highest exemplars")).locator("a").first
    trace = (await link.get_attribute("href") or "").removeprefix("/t/").partition("?")[0]
    await link.click()

    await expect(page.get_by_role("treegrid")).to_be_visible()
    await expect(page.get_by_role("complementary", name="Span details")).to_be_visible()
    assert f"/t/{trace}" in page.url


async def test_the_question_stands_in_promql_and_can_be_copied(shop: Visit) -> None:
    """What the charts show is written as Prometheus is asked for it, grouped as they are."""
    await shop.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = await shop.open(f"/metrics?name={DURATION}")
    promql = page.locator("section", has=page.get_by_role("heading", name="The same in PromQL")).locator("code")

    await expect(promql).to_contain_text("histogram_quantile(0.95")
    await expect(promql).to_contain_text("http_server_request_duration_seconds_bucket")
    await page.get_by_label("Group by").select_option("http.route")
    await expect(promql).to_contain_text("http_route")
    await expect(page.get_by_role("group", name="Series").get_by_role("button")).to_have_count(3)
    await page.get_by_role("button", name="Copy PromQL").click()
    await expect(page.locator("#say")).to_have_text("Copied")

    assert await page.evaluate("navigator.clipboard.readText()") == await promql.inner_text()
    assert shop.query() == {"name": [DURATION], "group": ["http.route"]}


async def test_the_list_finds_a_metric_and_the_choice_stands_in_the_url(shop: Visit) -> None:
    """Names are listed with kind and unit, narrowed as one types, and a reload shows the same metric."""
    page = await shop.open("/metrics")
    names = page.get_by_role("navigation", name="Metrics")

    await page.keyboard.press("/")
    await page.keyboard.type("memory")
    await expect(names.get_by_role("link")).to_have_count(1)
    await names.get_by_role("link").click()
    await expect(page.get_by_role("heading", name="process.memory.usage")).to_be_visible()
    await page.reload()
    await expect(page.get_by_role("heading", name="process.memory.usage")).to_be_visible()

    await expect(page.locator(".facts .badge")).to_have_text(["gauge", "By"])
    await expect(page.locator("rs-chart")).to_have_count(1)


async def test_a_counter_is_shown_as_its_rate_and_new_points_come_by_themselves(visit: Visit) -> None:
    """A cumulative sum that grows by ten in ten seconds is one a second; a new series appears without a reload."""
    now = time.time_ns()
    start = now - 120 * SECOND
    for step in range(12):
        at = start + (step + 1) * 10 * SECOND
        point = number("jobs", 10 * (step + 1), at, unit="{job}", start=start, attributes={"queue": "a"})
        await send(visit.origin, metrics("worker", [point]))
    page = await visit.open("/metrics?name=jobs&last=5m")

    chart = page.locator("rs-chart")
    await chart.get_by_role("button", name="Show as table").click()
    await expect(chart.locator("tbody")).to_contain_text("1.00/s")
    fresh = number("jobs", 5, now, unit="{job}", start=start, attributes={"queue": "b"})
    await send(visit.origin, metrics("worker", [fresh]))

    await expect(page.get_by_role("group", name="Series").get_by_role("button")).to_have_count(2)
