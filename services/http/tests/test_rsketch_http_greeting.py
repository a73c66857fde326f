"""The greeting endpoints, against a real gRPC server."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from services.http.tests.conftest import OpenClient, OpenUpstream, Upstream


def events(text: str) -> list[tuple[str, Any]]:
    """Return (event name, data) of each event in *text*; comments are left out."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


async def test_get_greets_the_name_in_the_query(client: httpx.AsyncClient) -> None:
    """The answer is the greeting of the gRPC service, as JSON and byte for byte as documented."""
    response = await client.get("/api/v1/hello?name=ada")

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.text == '{"message":"Hello, ada!"}'


@pytest.mark.parametrize("name", ["Ada Lovelace", "Zoë", "李", "a&b=c", "x" * 4000])
async def test_any_name_arrives_as_it_was_sent(client: httpx.AsyncClient, name: str) -> None:
    """Blanks, other alphabets, reserved characters and long names survive the query and the body."""
    by_query = await client.get("/api/v1/hello", params={"name": name})
    by_body = await client.post("/api/v1/hello", json={"name": name})

    assert by_query.json() == by_body.json() == {"message": f"Hello, {name}!"}


async def test_head_answers_without_a_body(client: httpx.AsyncClient) -> None:
    """HEAD has the headers of GET and no body."""
    response = await client.head("/api/v1/hello?name=ada")

    assert response.status_code == 200
    assert response.content == b""
    assert response.headers["content-length"] == str(len('{"message":"Hello, ada!"}'))


async def test_post_accepts_a_charset_beside_the_media_type(client: httpx.AsyncClient) -> None:
    """Parameters of the content type do not matter."""
    headers = {"content-type": "application/json; charset=utf-8"}
    response = await client.post("/api/v1/hello", content=b'{"name":"ada"}', headers=headers)

    assert response.json() == {"message": "Hello, ada!"}


@pytest.mark.parametrize("path", ["/api/v1/hello", "/api/v1/hello?name=", "/api/v1/hello/stream"])
async def test_a_missing_name_is_refused_by_the_greeting_service(client: httpx.AsyncClient, path: str) -> None:
    """The rule and its words are the greeting service's; the caller sees a 400 that names the field."""
    response = await client.get(path)

    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"] == "name: must not be empty"


@pytest.mark.parametrize("sent", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_another_content_type_is_refused(client: httpx.AsyncClient, sent: str) -> None:
    """A body that is not declared as JSON is not read as JSON."""
    response = await client.post("/api/v1/hello", content=b'{"name":"ada"}', headers={"content-type": sent})

    assert response.status_code == 415
    assert response.json()["detail"] == "The body must be application/json."


@pytest.mark.parametrize("body", [b"", b"{", b"ada", b'{"name":"a"} x', b"\xff\xfe", b'{"name":"\\ud800"}'])
async def test_malformed_json_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    """What is not JSON is a 400 without a word of the parser."""
    response = await client.post("/api/v1/hello", content=body, headers={"content-type": "application/json"})

    assert response.status_code == 400
    assert response.json()["detail"] == "The body is not valid JSON."


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": 1}, "name"),
        ({"name": None}, "name"),
        ({"name": "ada", "age": 36}, "age"),
        ([], "body"),
        ("ada", "body"),
    ],
)
async def test_another_shape_is_refused_with_the_field_named(
    client: httpx.AsyncClient, body: object, field: str
) -> None:
    """The problem names the field, in words for people and as a member for programs, and repeats no value."""
    response = await client.post("/api/v1/hello", json=body)

    problem = response.json()
    assert response.status_code == 422
    assert field in problem["fields"]
    assert f"{field}: " in problem["detail"]
    assert "36" not in response.text


async def test_many_wrong_fields_do_not_make_a_large_answer(client: httpx.AsyncClient) -> None:
    """The number of fields that are named is limited."""
    response = await client.post("/api/v1/hello", json={f"f{number}": 1 for number in range(5000)})

    assert response.status_code == 422
    assert len(response.content) < 4096


async def test_the_deadline_of_a_request_goes_with_the_call(upstream: Upstream, open_client: OpenClient) -> None:
    """The gRPC call may take what is left of the request's time, which the greeting service sees."""
    async with open_client(upstream.port, {"RSKETCH_HTTP_GRPC_TIMEOUT_SECONDS": "3s"}) as client:
        await client.get("/api/v1/hello?name=ada")

    assert 2.0 < upstream.greeter.seconds_left[0] <= 3.0


async def test_time_spent_on_the_body_is_taken_off_the_deadline(upstream: Upstream, open_client: OpenClient) -> None:
    """A slow upload leaves less for the call, and when nothing is left the call is not made at all."""

    async def body() -> Any:
        yield b'{"name":'
        await asyncio.sleep(0.3)
        yield b'"ada"}'

    headers = {"content-type": "application/json"}
    async with open_client(upstream.port, {"RSKETCH_HTTP_GRPC_TIMEOUT_SECONDS": "3s"}) as client:
        await client.post("/api/v1/hello", content=body(), headers=headers)
    async with open_client(upstream.port, {"RSKETCH_HTTP_GRPC_TIMEOUT_SECONDS": "100ms"}) as client:
        late = await client.post("/api/v1/hello", content=body(), headers=headers)

    assert late.status_code == 504
    assert len(upstream.greeter.seconds_left) == 1
    assert upstream.greeter.seconds_left[0] <= 2.75


async def test_a_call_that_takes_too_long_is_a_gateway_timeout(upstream: Upstream, open_client: OpenClient) -> None:
    """DEADLINE_EXCEEDED becomes 504, in the time that was set, and the call does not go on."""
    async with open_client(upstream.port, {"RSKETCH_HTTP_GRPC_TIMEOUT_SECONDS": "200ms"}) as client:
        response = await client.get("/api/v1/hello?name=stuck")
        await asyncio.wait_for(upstream.greeter.cancelled.wait(), 5)

    assert response.status_code == 504
    assert response.json()["detail"] == "The greeting service did not answer in time."


async def test_an_absent_greeting_service_is_a_503(open_client: OpenClient) -> None:
    """Nobody there is UNAVAILABLE, told at once and without an address."""
    async with open_client(1) as client:
        response = await client.get("/api/v1/hello?name=ada")

    assert response.status_code == 503
    assert "127.0.0.1" not in response.text


async def test_one_channel_serves_all_requests(upstream: Upstream, client: httpx.AsyncClient) -> None:
    """Requests share one connection to the greeting service."""
    await asyncio.gather(*(client.get("/api/v1/hello?name=ada") for _ in range(20)))

    assert len(upstream.greeter.peers) == 1


async def test_the_greeting_service_is_used_again_when_it_is_back(
    open_upstream: OpenUpstream, open_client: OpenClient
) -> None:
    """After an outage requests succeed again within seconds, not after the minutes that grpc would wait."""
    async with open_upstream() as first:
        port = first.port
        async with open_client(port) as client:
            assert (await client.get("/api/v1/hello?name=ada")).status_code == 200
            await first.server.stop(0)
            assert (await client.get("/api/v1/hello?name=ada")).status_code == 503

            async with open_upstream(port), asyncio.timeout(10):
                while (await client.get("/api/v1/hello?name=ada")).status_code != 200:
                    await asyncio.sleep(0.05)


async def test_a_stream_is_sent_as_events(client: httpx.AsyncClient) -> None:
    """Each greeting is one event with JSON data; nothing caches or buffers them."""
    response = await client.get("/api/v1/hello/stream?name=ada&count=3&interval=10ms")

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-store"
    assert events(response.text) == [("message", {"message": "Hello, ada!"})] * 3


async def test_events_arrive_as_they_are_made(upstream: Upstream, client: httpx.AsyncClient) -> None:
    """The first event is there while the greeting service still waits to send the second one."""
    async with client.stream("GET", "/api/v1/hello/stream?name=ada&count=2&interval=60s") as response:
        first = await anext(response.aiter_text())

    assert events(first) == [("message", {"message": "Hello, ada!"})]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("count=many", "count"),
        ("count=-1", "count"),
        ("count=1.5", "count"),
        ("count=4294967296", "count"),
        ("interval=soon", "interval"),
        ("interval=-1s", "interval"),
        ("interval=90000", "interval"),
    ],
)
async def test_a_malformed_query_is_refused_with_the_parameter_named(
    client: httpx.AsyncClient, query: str, field: str
) -> None:
    """What cannot be passed on is a 400 that names the parameter."""
    response = await client.get(f"/api/v1/hello/stream?name=ada&{query}")

    assert response.status_code == 400
    assert list(response.json()["fields"]) == [field]
    assert f"{field}: Input should be" in response.json()["detail"]


async def test_a_failure_in_mid_stream_is_an_error_event(client: httpx.AsyncClient) -> None:
    """The status line is gone by then; the problem comes as the last event and tells nothing of upstream's words."""
    response = await client.get("/api/v1/hello/stream?name=fail-INTERNAL&interval=0")

    greeting, (kind, problem) = events(response.text)
    assert response.status_code == 200
    assert greeting == ("message", {"message": "Hello, fail-INTERNAL!"})
    assert kind == "error"
    assert (problem["status"], problem["detail"]) == (500, "The greeting service failed.")
    assert problem["instance"] == "/api/v1/hello/stream"


async def test_a_stream_has_a_deadline_of_its_own(upstream: Upstream, open_client: OpenClient) -> None:
    """A stream outlives the time of one request, and ends with an error event after its own."""
    environ = {"RSKETCH_HTTP_GRPC_TIMEOUT_SECONDS": "50ms", "RSKETCH_HTTP_STREAM_TIMEOUT_SECONDS": "400ms"}
    async with open_client(upstream.port, environ) as client:
        response = await client.get("/api/v1/hello/stream?name=ada&count=99&interval=100ms")

    found = events(response.text)
    assert found[1] == ("message", {"message": "Hello, ada!"})
    assert (found[-1][0], found[-1][1]["status"]) == ("error", 504)


async def test_a_client_that_leaves_cancels_the_call(upstream: Upstream, client: httpx.AsyncClient) -> None:
    """The greeting service stops working for a stream that nobody reads."""
    async with client.stream("GET", "/api/v1/hello/stream?name=ada&count=2&interval=60s") as response:
        await anext(response.aiter_text())
        await asyncio.wait_for(upstream.greeter.arrived.wait(), 5)

    await asyncio.wait_for(upstream.greeter.cancelled.wait(), 5)


async def test_a_client_that_leaves_cancels_a_single_call(upstream: Upstream, client: httpx.AsyncClient) -> None:
    """The same for a request that is still waiting for its only answer."""
    asking = asyncio.create_task(client.get("/api/v1/hello?name=stuck"))
    await asyncio.wait_for(upstream.greeter.arrived.wait(), 5)
    asking.cancel()

    await asyncio.wait_for(upstream.greeter.cancelled.wait(), 5)


async def test_a_slow_stream_is_kept_alive(upstream: Upstream, open_client: OpenClient) -> None:
    """Comments keep a stream open whose events are further apart than the time a response may be silent."""
    async with open_client(upstream.port, {"RSKETCH_HTTP_RESPONSE_TIMEOUT_SECONDS": "500ms"}) as client:
        response = await client.get("/api/v1/hello/stream?name=ada&count=2&interval=1500ms")

    assert ": keep-alive\n\n" in response.text
    assert events(response.text) == [("message", {"message": "Hello, ada!"})] * 2


async def test_a_call_that_was_turned_away_is_tried_again(client: httpx.AsyncClient, upstream: Upstream) -> None:
    """A server on its way out answers UNAVAILABLE: the caller of HTTP does not notice."""
    answer = await client.get("/api/v1/hello", params={"name": "moving"})

    assert (answer.status_code, answer.json()) == (200, {"message": "Hello, moving!"})
    assert upstream.greeter.turned_away == 2
