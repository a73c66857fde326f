"""The HTTP port: what each path answers, to whom, and with which headers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from rsketch_dashboard.guard import HEADERS, allowed
from rsketch_dashboard.live import Live
from rsketch_dashboard.store import Notice, Outcome
from rsketch_telemetry.otlp.receiver import Export, Signal
from telemetry_made import CLIENT, NOW, Open, Sent, logs, opened, points, spans, trace_id

STATUS = {
    *("version", "now_us", "started_us", "file", "spans", "logs", "points", "bytes", "limits", "received", "dropped"),
    *("refused", "rejected", "malformed", "duplicates", "queue", "forward", "notices", "endpoints", "services"),
    *("oldest_us", "newest_us"),
}
ROW = {
    "listed_us",
    "listed_ns",
    *("trace_id", "root", "service", "kind", "start_us", "duration_ns", "status", "spans", "errors", "services"),
    *("code", "orphan", "logs"),
}
OPERATION = {
    *("service", "name", "kind", "count", "errors", "rate", "p50_ns", "p95_ns", "p99_ns", "max_ns", "counts"),
    *("errors_by_step", "p95_by_step"),
}
SPAN = {
    *("span_id", "parent_span_id", "name", "service", "run", "kind", "start_us", "start_ns", "duration_ns", "status"),
    *("status_message", "attributes", "resource", "scope", "events", "links", "dropped", "orphan", "critical"),
    *("self_ns", "depth"),
}
RECORD = {
    *("id", "time_us", "severity", "severity_number", "body", "event_name", "service", "logger", "trace_id"),
    *("span_id", "attributes"),
}
VIEWS = ["/", "/traces", f"/t/{trace_id(1)}", "/t/anything", "/map", "/metrics", "/logs", "/compare", "/doctor", "/sql"]


@asynccontextmanager
async def _filled(folder: Path) -> AsyncIterator[Open]:
    """Open a dashboard with two services, one of which calls the other, logs and a metric."""
    code = [("http.response.status_code", 500)]
    async with opened(folder) as at:
        await at.send(
            spans(
                Sent(name="GET /", id=1, took=9_000_000, failed=True, run="run-1", attributes=code),
                Sent(name="POST", id=2, parent=1, kind=CLIENT, at=1_000_000, took=5_000_000, run="run-1"),
                Sent(name="POST /pay", id=3, parent=2, at=2_000_000, took=3_000_000, service="till"),
                Sent(name="GET /health", trace=2, id=1),
            )
        )
        await at.send(logs("paid", "failed", severity=17, trace=1))
        await at.send(points(1, 2.5))
        yield at


async def test_every_route_answers_as_the_page_expects(tmp_path: Path) -> None:
    """Each answer has the fields of the contract, and none of them is missing where there is something to say."""
    async with _filled(tmp_path) as at:
        status = await at.get("/api/status")
        overview = await at.get("/api/overview?last=all")
        listed = await at.get("/api/traces?facets=1")
        scatter = await at.get("/api/scatter")
        found = await at.get(f"/api/trace/{trace_id(1)}")
        graph = await at.get("/api/map?last=all")
        records = await at.get("/api/logs")
        services, runs = await at.get("/api/services"), await at.get("/api/runs")

    assert set(status) >= STATUS
    assert (status["spans"], status["logs"], status["points"]) == (4, 2, 2)
    assert set(overview) == {"window", "steps", "totals", "operations", "outgoing", "slowest", "failed"}
    assert {frozenset(each) for each in overview["operations"] + overview["outgoing"]} == {frozenset(OPERATION)}
    assert set(overview["totals"]) == {"spans", "requests", "errors", "rate", "p50_ns", "p95_ns", "p99_ns"}
    assert [set(row) for row in listed["traces"]] == [ROW]
    assert set(listed["facets"]) == {"services", "operations", "statuses"}
    assert set(scatter) == {"points", "operations", "total", "sampled"}
    assert {frozenset(span) for span in found["spans"]} == {frozenset(SPAN)}
    assert {frozenset(record) for record in found["logs"] + records["logs"]} == {frozenset(RECORD)}
    assert [(row["code"], row["logs"], row["services"]) for row in listed["traces"]] == [("500", 2, ["shop", "till"])]
    assert {"from", "to", "count", "errors", "p95_ns", "kind"} <= set(graph["edges"][0])
    assert [set(each) for each in services["services"]] == [{"name", "spans", "first_us", "last_us", "runs"}] * 2
    assert [(each["run"], each["spans"], each["errors"]) for each in runs["runs"]] == [("run-1", 2, 1)]


WRONG = (
    ("/api/trace/xyz", 400, "an id: accepts 32 hexadecimal digits"),
    (f"/api/trace/{'0' * 31}", 400, "an id: accepts 32 hexadecimal digits"),
    (f"/api/trace/{'0' * 33}", 400, "an id: accepts 32 hexadecimal digits"),
    (f"/api/trace/{trace_id(77)}", 404, "this trace is not here"),
    ("/api/traces?limit=-1", 400, "limit: accepts a whole number"),
    ("/api/traces?limit=1e3", 400, "limit: accepts a whole number"),
    ("/api/traces?limit=99999999", 400, "limit: accepts a whole number"),
    ("/api/traces?min_ms=NaN", 400, "min_ms: accepts a number"),
    ("/api/traces?max_ms=-5", 400, "max_ms: accepts a number"),
    ("/api/traces?kind=server", 400, "kind: accepts UNSPECIFIED, INTERNAL"),
    ("/api/traces?status=bad", 400, "status: accepts error, ok"),
    ("/api/traces?sort=name", 400, "sort: accepts newest, duration"),
    ("/api/traces?last=15", 400, "last: accepts a number and s, m, h or d"),
    ("/api/traces?last=0m", 400, "last: accepts a number and s, m, h or d"),
    ("/api/overview?last=-1h", 400, "last: accepts a number and s, m, h or d"),
    ("/api/overview?from_us=5&to_us=5", 400, "from_us: accepts a time before to_us"),
    ("/api/overview?from_us=99999999999999999999", 400, "from_us: accepts a whole number"),
    ("/api/logs?severity=LOUD", 400, "severity: accepts TRACE, DEBUG"),
    ("/api/logs?trace=1", 400, "an id: accepts 32 hexadecimal digits"),
    ("/api/logs?after_us=x", 400, "after_us: accepts a whole number"),
)


async def test_what_cannot_be_answered_is_one_line(tmp_path: Path) -> None:
    """A parameter that is none is a 400 that names it and what it accepts; what is not here is a 404."""
    async with _filled(tmp_path) as at:
        responses = [await at.client.get(path) for path, _, _ in WRONG]
    said = [response.json()["error"] for response in responses]

    assert [response.status_code for response in responses] == [status for _, status, _ in WRONG]
    assert [words for (_, _, words), line in zip(WRONG, said, strict=True) if not line.startswith(words)] == []
    assert not any("\n" in line for line in said)


HOSTILE = (
    "service=%27%3B+DROP+TABLE+spans_1%3B+--",
    "q=%25_%27%22%00",
    "attr=%27%3D%27&attr==&attr=a",
    "operation=%E2%80%AE&run=%00",
    "from_us=1&to_us=9223372036854774",
    "last=999999d",
    "before_us=9223372036854774",
    "min_ms=0&max_ms=999999999999",
    "limit=0",
    "last=&service=&attr=",
    "unknown=1",
)


async def test_hostile_parameters_are_only_values(tmp_path: Path) -> None:
    """Whatever stands in a query string finds something or nothing; no view fails."""
    views = ("traces", "scatter", "overview", "map", "logs", "runs", "services")
    async with _filled(tmp_path) as at:
        paths = [f"/api/{view}?{query}" for view in views for query in HOSTILE]
        answered = {path: (await at.client.get(path)).status_code for path in paths}
        status = await at.get("/api/status")

    assert {path: code for path, code in answered.items() if code != 200} == {}
    assert status["spans"] == 4


@pytest.mark.parametrize(
    ("host", "origin", "fine"),
    [
        ("localhost:4318", None, True),
        ("LOCALHOST:4318", None, True),
        ("127.0.0.1:4318", "http://127.0.0.1:4318", True),
        ("127.0.0.1:4318", "http://localhost:4318", True),
        ("[::1]:4318", "http://[::1]:4318", True),
        ("localhost", "http://localhost", True),
        ("localhost:4318", "http://localhost:3000", False),
        ("localhost:4318", "https://localhost:4318", False),
        ("localhost:4318", "http://localhost", False),
        ("localhost:4318", "null", False),
        ("localhost:4318", "", False),
        ("localhost:4318", "https://evil.example", False),
        ("localhost:4318", "http://localhost:4318.evil.example", False),
        ("evil.example:4318", None, False),
        ("localhost.evil.example:4318", None, False),
        ("127.0.0.1.evil.example", None, False),
        ("127.0.0.2:4318", None, False),
        ("0.0.0.0:4318", None, False),
        ("[::]:4318", None, False),
        ("::1", None, False),
        ("localhost:4318:4318", None, False),
        ("localhost:", None, False),
        ("localhost@evil.example:4318", None, False),
        ("", None, False),
        (None, None, True),
        (None, "http://evil.example", False),
    ],
)
def test_who_is_answered(host: str | None, origin: str | None, fine: bool) -> None:
    """Names of loopback alone, and pages of the same port alone."""
    assert allowed(host, origin) is fine


EVERYTHING = (
    ("GET", "/"),
    ("GET", "/api/status"),
    ("GET", "/api/live"),
    ("GET", "/assets/app.js"),
    ("GET", "/-/identity"),
    ("POST", "/-/stop"),
    ("POST", "/v1/traces"),
    ("POST", "/api/sql"),
    ("POST", "/api/import"),
    ("GET", "/nothing"),
    ("OPTIONS", "/v1/traces"),
)


@pytest.mark.parametrize("foreign", [{"host": "evil.example"}, {"origin": "http://evil.example"}])
async def test_a_page_from_elsewhere_gets_nothing(tmp_path: Path, foreign: dict[str, str]) -> None:
    """By whatever path, a foreign Host (DNS rebinding) or Origin is a 403, does nothing, and may not be framed."""
    headers, body = {"content-type": "application/x-protobuf", **foreign}, spans(Sent()).SerializeToString()
    async with opened(tmp_path) as at:
        responses = [await at.client.request(*each, headers=headers, content=body) for each in EVERYTHING]
        status = await at.get("/api/status")

    assert [response.status_code for response in responses] == [403] * len(EVERYTHING)
    assert not any("access-control-allow-origin" in response.headers for response in responses)
    assert [_protection(response) for response in responses] == [dict(HEADERS)] * len(EVERYTHING)
    assert (status["spans"], at.dashboard.stopped.is_set()) == (0, False)


def _protection(response: httpx.Response) -> dict[str, str | None]:
    return {name: response.headers.get(name) for name in HEADERS}


ANSWERS = (
    *(("GET", view, 200) for view in VIEWS),
    ("GET", "/api/status", 200),
    ("GET", "/api/trace/x", 400),
    ("GET", f"/api/trace/{trace_id(9)}", 404),
    ("GET", "/assets/app.js", 200),
    ("GET", "/assets/../config.py", 404),
    ("GET", "/assets/%2e%2e/config.py", 404),
    ("GET", "/assets/index.html", 404),
    ("GET", "/nothing", 404),
    ("GET", "/api/nothing", 404),
    ("GET", "/v1/traces", 405),
    ("DELETE", "/api/status", 405),
    ("POST", "/v1/traces", 415),
    ("GET", "/-/identity", 200),
    ("GET", "/-/stop", 405),
)


async def test_every_answer_keeps_the_page_to_itself(tmp_path: Path) -> None:
    """The headers that protect the page are on every answer, errors included."""
    async with opened(tmp_path) as at:
        responses = [await at.client.request(method, path) for method, path, _ in ANSWERS]

    assert [response.status_code for response in responses] == [status for _, _, status in ANSWERS]
    assert [_protection(response) for response in responses] == [dict(HEADERS)] * len(ANSWERS)


async def test_every_view_is_a_path(tmp_path: Path) -> None:
    """Each path of a view answers the same page, so that a link or a reload shows it."""
    async with opened(tmp_path) as at:
        responses = [await at.client.get(view) for view in VIEWS]

    assert {response.text for response in responses} == {responses[0].text}
    assert responses[0].headers["content-type"] == "text/html; charset=utf-8"
    assert "<script" in responses[0].text


async def test_files_of_the_page_are_compared_by_their_tag(tmp_path: Path) -> None:
    """A browser asks each time, and is sent a file only if it has another one."""
    async with opened(tmp_path) as at:
        first = await at.client.get("/assets/app.js")
        tag = first.headers["etag"]
        again = await at.client.get("/assets/app.js", headers={"if-none-match": tag})
        other = await at.client.get("/assets/app.js", headers={"if-none-match": '"other"'})

    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    assert (first.headers["cache-control"], again.headers["etag"]) == ("no-cache", tag)
    assert (first.status_code, again.status_code, other.status_code) == (200, 304, 200)
    assert (again.content, other.content) == (b"", first.content)


async def test_the_identity_says_who_it_is(tmp_path: Path) -> None:
    """Who finds the port taken learns by whom, of which version, and where telemetry goes."""
    async with opened(tmp_path) as at:
        found = await at.get("/-/identity")

    assert found["name"] == "rsketch-dashboard"
    assert found["version"] == version("rsketch-dashboard")
    assert (found["url"], found["grpc"]) == (at.dashboard.url, at.dashboard.receiver.grpc_endpoint)
    assert found["pid"] > 0


async def test_it_is_stopped_by_a_post_alone(tmp_path: Path) -> None:
    """A GET, which any page can cause, stops nothing."""
    async with opened(tmp_path) as at:
        got = (await at.client.get("/-/stop")).status_code, at.dashboard.stopped.is_set()
        posted = (await at.client.post("/-/stop")).status_code, at.dashboard.stopped.is_set()

    assert (got, posted) == ((405, False), (200, True))


class _Events:
    """Server-sent events as a browser reads them."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self, seconds: float = 5.0) -> tuple[str, Any]:
        """Return name and data of the next event."""
        name = ""
        async with asyncio.timeout(seconds):
            async for line in self._lines:
                key, _, value = line.partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    return name, json.loads(value)
        raise AssertionError("the stream has ended")

    async def end(self, seconds: float = 5.0) -> None:
        """Read to the end of the stream."""
        async with asyncio.timeout(seconds):
            async for _ in self._lines:
                pass


@asynccontextmanager
async def _listening(at: Open) -> AsyncIterator[_Events]:
    async with at.client.stream("GET", "/api/live") as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        yield _Events(response)


async def test_a_listener_is_told_at_once_and_after_each_change(tmp_path: Path) -> None:
    """The first event says what there is; what is stored is told within a second, with how much of it is new."""
    async with opened(tmp_path) as at, _listening(at) as events:
        first = await events.next()
        started = time.monotonic()
        await at.send(spans(Sent(id=1), Sent(id=2)))
        second = await events.next()
        took = time.monotonic() - started
        await at.send(logs("a"))
        third = await events.next()

    assert (first[0], first[1]["spans"], first[1]["new"]) == ("change", 0, {"spans": 0, "logs": 0, "points": 0})
    assert (second[1]["spans"], second[1]["new"]) == (2, {"spans": 2, "logs": 0, "points": 0})
    assert (third[1]["logs"], third[1]["new"]) == (1, {"spans": 0, "logs": 1, "points": 0})
    assert took < 1.0


async def test_many_changes_are_told_four_times_a_second(tmp_path: Path) -> None:
    """However much arrives a page is told at most every quarter of a second, and nothing is left out."""
    async with opened(tmp_path) as at, _listening(at) as events:
        await events.next()
        started, told = time.monotonic(), list[Any]()
        for number in range(1, 41):
            await at.send(spans(Sent(trace=number)))
        while sum(each["new"]["spans"] for each in told) < 40:
            told.append((await events.next())[1])
        took = time.monotonic() - started

    assert told[-1]["spans"] == 40
    assert len(told) <= took / 0.25 + 1


async def test_many_pages_listen(tmp_path: Path) -> None:
    """Each of thirty pages is told."""
    async with opened(tmp_path) as at:
        async with httpx.AsyncClient(
            base_url=at.dashboard.url, trust_env=False, limits=httpx.Limits(max_connections=40)
        ) as browser:
            streams = [browser.stream("GET", "/api/live") for _ in range(30)]
            listening = [_Events(await stream.__aenter__()) for stream in streams]
            await asyncio.gather(*(events.next() for events in listening))
            await at.send(spans(Sent()))
            told = await asyncio.gather(*(events.next() for events in listening))
            for stream in streams:
                await stream.__aexit__(None, None, None)

        assert [data["new"]["spans"] for _, data in told] == [1] * 30


async def test_a_page_that_stops_reading_holds_nobody_up(tmp_path: Path) -> None:
    """While one page reads nothing others are told, telemetry is stored, and closing does not wait for it."""
    async with opened(tmp_path) as at:
        _, silent = await asyncio.open_connection("127.0.0.1", at.dashboard.receiver.http_port)
        silent.write(b"GET /api/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        async with _listening(at) as events:
            await events.next()
            await at.send(spans(Sent()))
            told = (await events.next())[1]["new"]["spans"]
        started = time.monotonic()
    closed = time.monotonic() - started
    silent.close()

    assert told == 1
    assert closed < 3.0


async def test_streams_end_when_it_closes(tmp_path: Path) -> None:
    """An open page is not cut off in the middle of an event, and closing takes no longer for it."""
    async with opened(tmp_path) as at:
        client = httpx.AsyncClient(base_url=at.dashboard.url, trust_env=False)
        stream = client.stream("GET", "/api/live")
        events = _Events(await stream.__aenter__())
        await events.next()
        started = time.monotonic()
    closed = time.monotonic() - started
    await events.end()
    await stream.__aexit__(None, None, None)
    await client.aclose()

    assert closed < 3.0


def _export() -> Export:
    return Export(signal=Signal.TRACES, request=spans(), protocol="grpc", headers={})


async def test_a_quiet_stream_has_heartbeats() -> None:
    """A listener to whom nothing happens is sent a comment, by which both sides know that the other is there."""
    live = Live(lambda: {"spans": 0}, heartbeat_seconds=0.01)
    events = live.events()
    found = [await anext(events) for _ in range(4)]
    await events.aclose()

    assert found[0] == "retry: 1000\n\n"
    assert found[1].startswith("event: change\n")
    assert found[2:] == [": still here\n\n"] * 2
    assert live.listeners == 0


async def test_notices_are_told_and_do_not_pile_up() -> None:
    """Whoever listens is told each notice once; of thousands only the latest are remembered."""
    live = Live(lambda: {"spans": 0}, heartbeat_seconds=0.01)
    events = live.events()
    assert (await anext(events)) == "retry: 1000\n\n"
    for number in range(1000):
        live.notice(Notice(NOW, "warning", f"notice {number}"))
    await asyncio.sleep(0)
    told = []
    while not (event := await anext(events)).startswith("event: change"):
        told.append(event)
    live.notice(Notice(NOW, "info", "the last"))
    last = await anext(events)
    await events.aclose()

    assert [json.loads(event.split("data: ")[1])["text"] for event in told] == [f"notice {n}" for n in range(950, 1000)]
    assert json.loads(last.split("data: ")[1]) == {"at_us": NOW // 1000, "level": "info", "text": "the last"}


async def test_a_page_that_reads_late_is_told_the_sum() -> None:
    """What happens between two reads comes as one event."""
    live = Live(lambda: {"spans": 0}, heartbeat_seconds=5)
    events = live.events()
    assert [(await anext(events))[:5] for _ in range(2)] == ["retry", "event"]
    for _ in range(500):
        live.stored(_export(), Outcome(taken=2))
    event = await anext(events)
    await events.aclose()

    assert json.loads(event.split("data: ")[1])["new"]["spans"] == 1000
