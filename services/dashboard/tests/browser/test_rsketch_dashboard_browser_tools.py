"""Compare, doctor and SQL, and telemetry that leaves a dashboard and comes into another one."""

import json
import re
import time
from pathlib import Path

import httpx
import pytest
from browsing import Visit
from demo_traffic import SLOW_REGION, WEB, Shop
from otlp_json import event, identified, logs, record, send, span, traces
from playwright.async_api import expect

TWO = "SELECT 1; SELECT 2"

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_slow_calls_against_the_rest_show_what_they_have_in_common(shop: Visit) -> None:
    """The region whose orders are slow stands first, and its row leads to these traces."""
    page = await shop.open(f"/compare?service={WEB}&operation=POST+/orders")

    first = page.get_by_role("table").locator("tbody tr").first
    await expect(first).to_contain_text("shop.region")
    await expect(first).to_contain_text(SLOW_REGION)
    await first.get_by_role("link").click()

    await expect(page.get_by_role("heading", level=1)).to_have_text("Traces")
    await expect(page.locator("tbody td.name")).not_to_have_count(0)
    assert shop.query()["attr"] == [f"shop.region={SLOW_REGION}"]


async def test_one_run_stands_against_the_one_before(shop: Visit) -> None:
    """The two starts of a service are found by themselves, with their revisions; what became faster says so."""
    page = await shop.open("/compare")

    await page.get_by_role("tab", name="Run against run").click()
    await page.get_by_label("After").select_option(f"{WEB}-run-2")
    await expect(page.locator("tbody tr", has_text="POST /orders")).to_have_count(1)
    await page.get_by_label("Before").select_option(f"{WEB}-run-1")
    await expect(page.locator("tbody tr", has_text="POST /orders")).to_have_count(1)
    await expect(page.locator("tbody tr", has_text="POST /orders")).to_contain_text("ms")
    await page.reload()

    await expect(page.locator("tbody tr", has_text="POST /orders")).to_have_count(1)
    await expect(page.get_by_label("Before").locator("option:checked")).to_contain_text("3f9c2ab")
    assert shop.query() == {"tab": ["runs"], "a": [f"{WEB}-run-1"], "b": [f"{WEB}-run-2"]}


async def test_the_doctor_finds_what_was_planted(visit: Visit) -> None:
    """A raw path in a name, a failure without its status, a missing parent and a missing service name are found."""
    at = time.time_ns() - 120 * 10**9
    spans = [
        span(
            f"GET /users/{each}", trace=identified(f"raw {each}"), at=at, ms=3, attributes={"http.route": "/users/{id}"}
        )
        for each in range(40)
    ]
    spans += [
        span("GET /broken", trace=identified("broken"), at=at, ms=3, attributes={"http.response.status_code": 500}),
        *(
            span("lost", trace=identified(f"lost {each}"), parent=identified("gone", 8), at=at, ms=3, kind="INTERNAL")
            for each in range(40)
        ),
    ]
    await send(
        visit.origin, traces("web", spans), traces("unknown_service", [span("x", trace=identified("x"), at=at, ms=1)])
    )

    page = await visit.open("/doctor")

    findings = page.locator(".findings li")
    await expect(findings).not_to_have_count(0)
    said = (await page.locator(".findings").inner_text()).lower()
    for words in ("service.name", "parent", "/users/", "5xx"):
        assert words in said, said
    await findings.get_by_role("link").first.click()
    await expect(page.get_by_role("treegrid")).to_be_visible()


async def test_a_query_is_answered_shows_its_mistakes_and_may_only_read(visit: Visit) -> None:
    """A SELECT gives a table and stands in the URL; a mistake is one line; what would change the store is refused."""
    await send(visit.origin, *Shop(time.time_ns(), requests=20).requests())
    page = await visit.open("/sql")
    query = page.get_by_label("Query")
    count = "SELECT count(*) AS n, 'two' AS word FROM spans"

    await query.fill(count)
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".result th")).to_contain_text(["n", "word"])
    await expect(page.locator(".result tbody")).to_contain_text("two")
    assert visit.query() == {"query": [count]}
    await page.reload()
    await expect(page.locator(".result tbody")).to_contain_text("two")
    with visit.watch.expecting("status of 400.*/api/sql"):
        for wrong in ("SELECT nonsense FROM spans", "INSERT INTO spans SELECT * FROM spans", "DROP TABLE spans", TWO):
            await query.fill(wrong)
            await page.get_by_role("button", name="Run", exact=True).click()
            await expect(page.get_by_role("alert")).not_to_be_empty()
            assert "\n" not in await page.locator("#problem").inner_text()
            await query.fill(count)
            await page.get_by_role("button", name="Run", exact=True).click()
            await expect(page.locator("#problem")).to_be_empty()
    await page.get_by_role("complementary").get_by_role("button").first.click()

    await expect(page.get_by_role("status").filter(has_text="row")).to_be_visible()


async def test_what_one_page_exports_another_imports(shop: Visit, visit: Visit, tmp_path: Path) -> None:
    """The failed traces, saved here and loaded there, are listed at once; each looks the same, its logs included."""
    page = await shop.open("/traces?status=error")
    rows = await page.locator("tbody tr").count()
    failed = await page.locator("tbody a[data-row]").first.get_attribute("href") or ""
    async with page.expect_download() as downloading:
        await page.get_by_role("link", name="Export").click()
    file = tmp_path / "traces.jsonl"
    await (await downloading.value).save_as(file)
    assert all(json.loads(line) for line in file.read_text().splitlines())
    there = await visit.open("/traces?last=all")

    await there.locator("input[type=file]").set_input_files(file)

    await expect(there.locator("tbody tr")).to_have_count(rows)
    await visit.open(failed)
    await expect(there.get_by_role("heading", level=1)).to_have_text("POST /orders")
    await expect(there.locator(".frow.log")).not_to_have_count(0)
    await expect(there.locator(".summary")).to_contain_text("3 errors")


async def test_a_file_that_holds_no_telemetry_is_refused_with_a_line(visit: Visit, tmp_path: Path) -> None:
    """Whoever chooses the wrong file is told so."""
    (tmp_path / "wrong.json").write_text("no json")
    await send(visit.origin, traces("web", [span("GET /", trace=identified("t"), at=time.time_ns(), ms=5)]))
    page = await visit.open("/traces")

    with visit.watch.expecting("status of 400.*/api/import"):
        await page.locator("input[type=file]").set_input_files(tmp_path / "wrong.json")

        await expect(page.locator("#say, .bar.error").filter(has_text=re.compile("."))).to_have_count(1)


async def test_a_trace_with_everything_in_it_survives_the_way_out_and_in(visit: Visit) -> None:
    """Events, links, attributes of all kinds and log records are exported as they came."""
    trace, at = identified("full"), time.time_ns() - 10**9
    attributes = {"text": "ä", "whole": 2**53 + 1, "real": 0.1, "yes": True, "list": ["a", "b"], "map": {"k": 1}}
    full = span(
        "full",
        trace=trace,
        at=at,
        ms=1.5,
        attributes=attributes,
        events=[event("tick", at + 1, {"n": 1})],
        links=[{"traceId": identified("far"), "spanId": identified("far", 8), "attributes": []}],
        error="no",
    )
    await send(visit.origin, traces("web", [full]), logs("web", [record("line", at, trace=trace)]))

    async with httpx.AsyncClient(base_url=visit.origin, trust_env=False, timeout=30) as client:
        exported = (await client.get(f"/api/trace/{trace}/export")).json()

    sent = exported["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    values = {each["key"]: each["value"] for each in sent["attributes"]}
    assert values["whole"] == {"intValue": str(2**53 + 1)}
    assert values["real"] == {"doubleValue": 0.1}
    assert values["yes"] == {"boolValue": True}
    assert set(values) == set(attributes)
    assert sent["startTimeUnixNano"] == str(at)
    assert [each["name"] for each in sent["events"]] == ["tick"]
    assert sent["links"][0]["traceId"] == identified("far")
    assert sent["status"]["message"] == "no"
    assert exported["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["body"] == {"stringValue": "line"}
