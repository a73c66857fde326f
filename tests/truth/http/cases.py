"""
What can happen to a request of a Sanic application, case by case: from the first byte to the last, and every way out.

Each case names what a right record of it says. Where an ASGI server decides something before the application is asked,
or differently, the case says so for the columns in question.
"""

import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import websockets

from truth.frame import ABSENT, ANY, Call, Case, Expectation, Plain, Run
from truth.http.wire import connect, fetch, head, plain, trip
from truth.witness import CAPTURED, EXCLUDED

__all__ = ["ASGI", "CASES", "TESTING"]

ASGI = "uvicorn"
TESTING = frozenset({"sanic-testing", "sanic-testing ASGI"})

_Client = Callable[[Run], Awaitable[Plain]]

_LEFT = frozenset(
    {
        "client_disconnected",
        "asyncio.exceptions.CancelledError",
        "CancelledError",
        "RequestCancelled",
        "ConnectionReset",
    }
)
"""What may name a client that went away; the conventions leave the word open."""
_NO_TIMEOUTS = "an ASGI server has no such timeouts"
_NOT_TOLD = "an ASGI server does not tell an application that its client has left before it asks"
_SLOW = 0.3


def _error(*names: str) -> frozenset[str]:
    """Return the spellings of exception types, and of status codes, that say the same."""
    return frozenset(f"{module}{name}" for name in names for module in ("", "builtins.", "sanic.exceptions."))


def _call(code: str | None = "200", route: str | None = None, method: str = "GET", **more: Any) -> Call:
    """Return what is expected of a request to *route*, None where it matches none."""
    attributes = {"http.request.method": method, "url.scheme": "http"}
    shown = "HTTP" if method == "_OTHER" else method
    named: Mapping[str, Any] = {"http.route": route if route is not None else ABSENT}
    return Call(
        code=code,
        name=f"{shown} {route}" if route is not None else shown,
        attributes={**attributes, **named, **more.pop("attributes", {})},
        metric_attributes={"http.request.method": method, **named, **more.pop("metric_attributes", {})},
        **more,
    )


def _expect(*args: Any, **more: Any) -> Expectation:
    return Expectation(calls=(_call(*args, **more),))


def _fetching(target: str, method: str = "GET", headers: Sequence[tuple[str, str]] = (), body: bytes = b"") -> _Client:
    async def client(run: Run) -> Plain:
        return await fetch(run, target, method, headers, body)

    return client


def _simple(name: str, about: str, target: str, expect: Expectation, method: str = "GET", body: bytes = b"") -> Case:
    return Case(name=name, about=about, client=_fetching(target, method, body=body), expect=expect)


# Plain answers.

_ANSWERS = (
    _simple("plain", "A request and its answer.", "/plain", _expect(route="/plain")),
    _simple(
        "head", "HEAD has the status of GET and no body.", "/plain", _expect(route="/plain", method="HEAD"), "HEAD"
    ),
    _simple(
        "parameter",
        "The route is the template, not the path.",
        "/users/7",
        _expect(route="/users/<number:int>", attributes={"url.path": "/users/7"}),
    ),
    _simple(
        "body", "A body is read whole.", "/echo", _expect("201", "/echo", "POST"), method="POST", body=b"x" * 70_000
    ),
    _simple("empty", "204 has no body.", "/empty", _expect("204", "/empty")),
    _simple("redirect", "302 is no error.", "/moved", _expect("302", "/moved")),
    _simple("file", "A file in one piece.", "/file", _expect(route="/file")),
    _simple("file in parts", "A file that is streamed.", "/parts", _expect(route="/parts")),
    Case(
        name="range of a static file",
        about="206 from a static route.",
        client=_fetching("/static/file.txt", headers=[("range", "bytes=10-19")]),
        expect=_expect("206", "/static/file.txt"),
    ),
    _simple("not found", "404 has no route, and its path is in no name.", "/no/such/thing", _expect("404")),
    _simple(
        "method not allowed",
        "405 has the route that the path matches.",
        "/users/7",
        _expect("405", "/users/<number:int>", "POST"),
        method="POST",
    ),
    _simple("early answer of a middleware", "It has the route.", "/early/x", _expect("401", "/early/<name:str>")),
    _simple("answer replaced by a middleware", "The status is the one sent.", "/replaced", _expect("308", "/replaced")),
)


async def _background(run: Run) -> Plain:
    answer = await fetch(run, "/background")
    await run.told("returned", times=2)
    return answer


# Streams.


async def _events(run: Run) -> Plain:
    """Read event by event: they come one by one, not at the end."""
    with run.timed():
        async with connect(run) as connection:
            await connection.send(head(run, "/events"))
            start = await connection.until(b"\r\n\r\n")
            first = await connection.until(b"tick\n\n")
            early = not run.tellings() or run.tellings()[-1].what != "returned"
            rest = await connection.rest()
    return {"answer": plain(start + first + rest), "first event before the end": early}


async def _slow_upload(run: Run) -> Plain:
    return await _slowly(run, "/upload")


async def _slow_body(run: Run) -> Plain:
    return await _slowly(run, "/echo")


async def _slowly(run: Run, target: str) -> Plain:
    with run.timed():
        async with connect(run) as connection:
            await connection.send(head(run, target, "POST", [("content-length", "300")]))
            for _ in range(3):
                await connection.send(b"x" * 100)
                await asyncio.sleep(_SLOW / 3)
            raw = await connection.rest()
    return plain(raw)


async def _slow_reader(run: Run) -> Plain:
    """Read nothing for a while: the handler must be held back, not the whole be buffered."""
    with run.timed():
        async with connect(run) as connection:
            await connection.send(head(run, "/flood"))
            await connection.until(b"\r\n\r\n")
            await asyncio.sleep(2 * _SLOW)
            body = await connection.rest()
    return {"bytes": body.count(b"x"), "whole": body.endswith(b"0\r\n\r\n")}


async def _continue(run: Run) -> Plain:
    expecting = [("expect", "100-continue"), ("content-length", "5")]
    with run.timed():
        async with connect(run) as connection:
            await connection.send(head(run, "/echo", "POST", expecting))
            interim = await connection.until(b"\r\n\r\n")
            await connection.send(b"hello")
            raw = await connection.rest()
    return {"interim": plain(interim), "answer": plain(raw)}


_STREAMS = (
    _simple(
        "stream", "0.3 s of a stream are 0.3 s in the record.", "/stream", _expect(route="/stream", at_least=_SLOW)
    ),
    Case(
        name="head of a stream",
        about="Under HEAD, Sanic lets the second write of a handler fail; under ASGI it drops them all.",
        client=_fetching("/stream", "HEAD"),
        expect=_expect(route="/stream", method="HEAD", error=_error("TypeError"), exceptions=1),
        expect_in={ASGI: _expect(route="/stream", method="HEAD", at_least=_SLOW)},
    ),
    Case(
        name="server-sent events",
        about="Events arrive one by one, and the record lasts until the last.",
        client=_events,
        expect=_expect(route="/events", at_least=_SLOW),
    ),
    _simple("stream by callback", "A callback writes.", "/callback", _expect(route="/callback", at_least=_SLOW)),
    Case(
        name="streamed upload",
        about="A handler that reads a slow body part by part is recorded from the head on.",
        client=_slow_upload,
        expect=_expect(route="/upload", method="POST", at_least=_SLOW - 0.1),
        except_in={ASGI: "there Sanic's stream of a body does not end"},
    ),
    Case(
        name="slow body",
        about="The time in which a slow body comes in belongs to the request.",
        client=_slow_body,
        expect=_expect("201", "/echo", "POST", at_least=_SLOW - 0.1),
    ),
    Case(
        name="slow reader",
        about="A client that does not read holds the handler back, and the record lasts until it has read.",
        client=_slow_reader,
        expect=_expect(route="/flood", at_least=2 * _SLOW - 0.1),
    ),
    Case(
        name="100-continue",
        about="The interim answer is not the answer.",
        client=_continue,
        expect=_expect("201", "/echo", "POST"),
    ),
    Case(
        name="background task",
        about="What goes on after the answer is not in the record.",
        client=_background,
        expect=_expect("202", "/background"),
        unordered=True,
    ),
)

# Several requests.


async def _pipelined(run: Run) -> Plain:
    requests = [head(run, f"/users/{number}", last=number == 4) for number in range(5)]
    raw = await trip(run, b"".join(requests))
    return {"bodies": re.findall(r"user \d", raw.decode("latin-1")), "answers": raw.count(b"HTTP/1.1 200")}


async def _kept_alive(run: Run) -> Plain:
    answers = []
    async with connect(run) as connection:
        for last in (False, True):
            with run.timed():
                await connection.send(head(run, "/plain", last=last))
                answers.append(plain(await connection.answer()))
            await asyncio.sleep(0 if last else 2 * _SLOW)
    return answers


async def _concurrent(run: Run) -> Plain:
    answers: Any = await asyncio.gather(*(fetch(run, f"/nap?n={number}") for number in range(20)))
    return [answer["body"] for answer in answers]


async def _many_paths(run: Run) -> Plain:
    async with connect(run) as connection:
        for number in range(60):
            await connection.send(head(run, f"/probe-{number}/{number}", last=False))
            await connection.answer()
        await connection.send(head(run, "/probe"))
        await connection.rest()
    return {"sent": 61}


async def _many_methods(run: Run) -> Plain:
    async def one(number: int) -> str:
        return (await trip(run, head(run, "/plain", f"BREW{number}"))).split(b"\r\n")[0].decode()

    return [await one(number) for number in range(20)]


_SEVERAL = (
    Case(
        name="pipelining",
        about="Five requests in one packet are five records, in order.",
        client=_pipelined,
        expect=Expectation(calls=(_call(route="/users/<number:int>", times=5),)),
    ),
    Case(
        name="keep-alive with a pause",
        about="The time between two requests belongs to neither.",
        client=_kept_alive,
        expect=Expectation(calls=(_call(route="/plain", times=2),)),
    ),
    Case(
        name="concurrent requests",
        about="Requests that overlap do not mix.",
        client=_concurrent,
        expect=Expectation(calls=(_call(route="/nap", at_least=0.1, times=20),)),
        unordered=True,
    ),
    Case(
        name="many paths",
        about="A scanner's paths make one series, and are in no span's name.",
        client=_many_paths,
        expect=Expectation(calls=(_call("404", times=61),), new_series=1),
    ),
    Case(
        name="many methods",
        about="Methods that nobody knows are `_OTHER`, and make one series.",
        client=_many_methods,
        expect=Expectation(
            calls=(
                _call(
                    "405",
                    "/plain",
                    "_OTHER",
                    attributes={"http.request.method_original": ANY},
                    metric_attributes={"http.request.method_original": ABSENT},
                    times=20,
                ),
            ),
            new_series=1,
        ),
    ),
)

# Failures.

_FAILURES = (
    _simple(
        "defect",
        "An exception that nobody handles is a 500, with its type and one record of it.",
        "/defect",
        _expect("500", "/defect", error=_error("ValueError", "500"), exceptions=1),
    ),
    _simple("4xx exception", "An exception that says 418 is an answer.", "/teapot", _expect("418", "/teapot")),
    _simple(
        "handled exception",
        "What the application turns into a 410 is no error.",
        "/handled",
        _expect("410", "/handled"),
    ),
    _simple(
        "rendered exception",
        "A catch-all handler that renders a 500 does not hide what went wrong.",
        "/rendered/",
        _expect("500", "/rendered", error=_error("RuntimeError", "500"), exceptions=1),
    ),
    _simple(
        "raised 503",
        "An exception that says 503 is an error.",
        "/refused",
        _expect("503", "/refused", error=_error("SanicException", "503"), exceptions=1),
    ),
    _simple(
        "raised ServerError",
        "Sanic's own 500.",
        "/fault",
        _expect("500", "/fault", error=_error("ServerError", "500"), exceptions=1),
    ),
    _simple(
        "returned 503",
        "A 5xx without an exception has its number as error.type.",
        "/unavailable",
        _expect("503", "/unavailable", error=_error("503")),
    ),
    Case(
        name="exception before the first chunk",
        about="A stream that has not begun is answered with 500.",
        client=_fetching("/unbegun"),
        expect=_expect("500", "/unbegun", error=_error("ValueError", "500"), exceptions=1),
    ),
    Case(
        name="exception after the first chunk",
        about="A stream that breaks off has its 200, and is an error.",
        client=_fetching("/half"),
        expect=_expect("200", "/half", error=_error("ValueError"), exceptions=1),
    ),
    Case(
        name="handler cancels itself",
        about="A CancelledError that no client caused is a 500.",
        client=_fetching("/cancelled"),
        expect=_expect(
            "500",
            "/cancelled",
            error=_error("CancelledError", "500") | {"asyncio.exceptions.CancelledError"},
            exceptions=1,
        ),
        except_in={ASGI: "what cancels itself under an ASGI server takes the connection with it"},
    ),
)

# Requests that are refused.


async def _malformed(run: Run) -> Plain:
    return plain(await trip(run, b"NOT HTTP\r\n\r\n"))


async def _huge_head(run: Run) -> Plain:
    raw = await trip(run, head(run, "/plain", headers=[("x-huge", "x" * 80_000)], linked=False))
    return plain(raw)


async def _over_limit(run: Run) -> Plain:
    with run.timed():
        async with connect(run) as connection:
            await connection.send(head(run, "/echo", "POST", [("content-length", "200000")]))
            raw = await connection.rest()
    return plain(raw)


async def _half_head(run: Run) -> Plain:
    async with connect(run) as connection:
        await connection.send(b"GET /plain HTTP/1.1\r\nhost: x\r\n")
        return plain(await connection.rest())


async def _half_body(run: Run) -> Plain:
    with run.timed():
        async with connect(run) as connection:
            await connection.send(head(run, "/echo", "POST", [("content-length", "10")]) + b"half")
            # Sanic answers, and then waits for the rest of the body.
            raw = await connection.answer()
    return plain(raw)


_UNSEEN = Expectation(unlinked=True)

_REFUSED = (
    Case(
        name="malformed head",
        about="What is no HTTP is a 400 of one record, without a method of its own.",
        client=_malformed,
        expect=Expectation(
            calls=(
                Call(
                    code="400",
                    name="HTTP",
                    attributes={"http.request.method": "_OTHER", "http.route": ABSENT},
                    metric_attributes={"http.request.method": "_OTHER", "http.route": ABSENT},
                ),
            ),
            unlinked=True,
        ),
        expect_in={ASGI: _UNSEEN},
    ),
    Case(
        name="oversized head",
        about="A head over the limit is refused, and recorded.",
        client=_huge_head,
        expect=Expectation(calls=(Call(code="413", attributes={"http.route": ABSENT}),), unlinked=True),
        except_in={ASGI: "whether h11 refuses it depends on how its bytes happen to arrive"},
    ),
    Case(
        name="oversized body",
        about="A body over the limit is the client's error, on the route that it was for.",
        client=_over_limit,
        expect=_expect("413", "/echo", "POST"),
        except_in={ASGI: "Sanic checks no limit until the body has come"},
    ),
    Case(
        name="head never ends",
        about="A head that does not end in time is a 408.",
        client=_half_head,
        expect=Expectation(calls=(Call(code="408", attributes={"http.route": ABSENT}),), unlinked=True),
        except_in={ASGI: _NO_TIMEOUTS},
    ),
    Case(
        name="body never ends",
        about="To Sanic a body that does not end in time is a response that takes too long: 503 on its route.",
        client=_half_body,
        expect=_expect("503", "/echo", "POST", error=_error("ServiceUnavailable", "503"), at_least=0.7, exceptions=1),
        except_in={ASGI: _NO_TIMEOUTS},
    ),
    Case(
        name="response timeout",
        about="A handler that takes too long is the 503 that its client sees.",
        client=_fetching("/late"),
        expect=_expect("503", "/late", error=_error("ServiceUnavailable", "503"), at_least=0.7, exceptions=1),
        except_in={ASGI: _NO_TIMEOUTS},
    ),
    Case(
        name="response timeout after the first chunk",
        about="A stream that is cut by the timeout has its 200, and is an error.",
        client=_fetching("/late-end"),
        expect=_expect("200", "/late-end", error=_error("ServiceUnavailable"), at_least=0.7, exceptions=1),
        except_in={ASGI: _NO_TIMEOUTS},
    ),
)

# Clients that leave.


async def _leaves_before(run: Run) -> Plain:
    async with connect(run) as connection:
        await connection.send(head(run, "/plain", linked=False)[:-2])
        connection.vanish()
    return {}


async def _leaves_waiting(run: Run) -> Plain:
    async with connect(run) as connection:
        await connection.send(head(run, "/late"))
        began = await run.told("began")
        connection.vanish()
    return {"began": began, "handler cancelled": await run.told("cancelled")}


async def _leaves_reading(run: Run) -> Plain:
    async with connect(run) as connection:
        await connection.send(head(run, "/endless"))
        sent = await run.told("sent")
        await connection.until(b"x" * 1000)
        connection.vanish()
    return {"sent": sent, "handler cancelled": await run.told("cancelled")}


async def _leaves_after(run: Run) -> Plain:
    with run.timed():
        async with connect(run) as connection:
            await connection.send(head(run, "/plain", last=False))
            answer = plain(await connection.answer())
            connection.vanish()
    return answer


_LEAVING = (
    Case(
        name="client leaves before it has asked",
        about="Half a head and gone: there was no request.",
        client=_leaves_before,
        expect=_UNSEEN,
    ),
    Case(
        name="client leaves while it waits",
        about="No status was sent and none is recorded; it is no 500, and the handler is cancelled.",
        client=_leaves_waiting,
        expect=_expect(None, "/late", error=_LEFT, hangs=True),
        except_in={ASGI: _NOT_TOLD},
    ),
    Case(
        name="client leaves while it reads",
        about="The status was 200, and the response was not sent whole.",
        client=_leaves_reading,
        expect=_expect("200", "/endless", error=_LEFT, hangs=True),
        except_in={ASGI: _NOT_TOLD},
    ),
    Case(
        name="client leaves after the answer",
        about="It has all that it asked for: no error.",
        client=_leaves_after,
        expect=_expect(route="/plain"),
    ),
)

# What callers send.

_HOSTS = ("[::1]:99", "[::1", "a b<>", "x" * 3000, "shop.example:8080", ":", "h\xf6st", "")


async def _strange_hosts(run: Run) -> Plain:
    # Lines are compared: what Sanic makes of a host may be in the body.
    return [(await trip(run, head(run, "/plain", host=host))).split(b"\r\n")[0].decode() for host in _HOSTS]


async def _ipv6_host(run: Run) -> Plain:
    return await fetch(run, "/plain", host="[::1]:99")


async def _no_context(run: Run) -> Plain:
    junk = [
        ("traceparent", "00-nonsense"),
        ("tracestate", "\xff"),
        ("baggage", "\xff\xfe=\xff," + "x," * 300),
        ("user-agent", "\xff" * 300),
    ]
    return await fetch(run, "/plain", headers=junk, linked=False)


async def _fresh(run: Run) -> Plain:
    return await fetch(run, "/plain", linked=False)


async def _much_baggage(run: Run) -> Plain:
    many = ",".join(f"key{number}={run.secret}" for number in range(180))
    return await fetch(run, "/plain", headers=[("baggage", many)])


async def _secret_query(run: Run) -> Plain:
    names = ("token", "password", "code", "X-Amz-Signature", "sig", "AWSAccessKeyId", "anything")
    query = "&".join(f"{name}={run.secret}" for name in names)
    return await fetch(run, f"/users/7?{query}")


async def _secret_headers(run: Run) -> Plain:
    headers = [
        ("authorization", f"Bearer {run.secret}"),
        ("cookie", f"session={run.secret}"),
        ("x-api-key", run.secret),
        ("referer", f"http://x/?token={run.secret}"),
    ]
    return await fetch(run, "/plain", headers=headers)


async def _secret_user(run: Run) -> Plain:
    return await fetch(run, f"http://ada:{run.secret}@127.0.0.1/plain?x={run.secret}")


async def _secret_in_failure(run: Run) -> Plain:
    return await fetch(run, f"/defect?token={run.secret}", headers=[("authorization", f"Basic {run.secret}")])


_CALLERS = (
    Case(
        name="no trace context",
        about="A request without context begins a trace.",
        client=_fresh,
        expect=Expectation(calls=(_call(route="/plain"),), unlinked=True, baggage={}),
    ),
    Case(
        name="malformed trace context",
        about="Context that cannot be read costs the request its parent and nothing else.",
        client=_no_context,
        expect=Expectation(calls=(_call(route="/plain"),), unlinked=True),
    ),
    Case(
        name="baggage",
        about="Handlers see their caller's baggage.",
        client=_fetching("/plain", headers=[("baggage", "tenant=blue,tier=1")]),
        expect=Expectation(calls=(_call(route="/plain"),), baggage={"tenant": "blue", "tier": "1"}),
    ),
    Case(
        name="exemplar",
        about="The duration metric leads to the span that it measured.",
        client=_fetching("/plain"),
        expect=Expectation(calls=(_call(route="/plain"),), exemplar=True),
    ),
    Case(
        name="180 entries of baggage",
        about="The request is served, and nothing of the baggage is exported.",
        client=_much_baggage,
        expect=_expect(route="/plain"),
    ),
    Case(
        name="secrets in the query",
        about="Keys are kept, values are not.",
        client=_secret_query,
        expect=_expect(
            route="/users/<number:int>", attributes={"url.query": lambda query: query.count("=REDACTED") == 7}
        ),
    ),
    Case(
        name="secrets in headers",
        about="Credentials are masked, even where their header is to be captured.",
        client=_secret_headers,
        expect=_expect(route="/plain"),
    ),
    Case(
        name="secret in the user-info of a target",
        about="A target in absolute form may hold credentials.",
        client=_secret_user,
        expect=_expect(route="/plain"),
    ),
    Case(
        name="secrets in a request that fails",
        about="Neither span nor exception record repeats them.",
        client=_secret_in_failure,
        expect=_expect("500", "/defect", error=_error("ValueError", "500"), exceptions=1),
    ),
    Case(
        name="captured header",
        about="A header is captured when asked for, on the span and never on the metric.",
        client=_fetching("/plain", headers=[(CAPTURED, "blue")]),
        expect=_expect(
            route="/plain",
            attributes={f"http.request.header.{CAPTURED}": lambda value: list(value or ()) == ["blue"]},
            metric_attributes={f"http.request.header.{CAPTURED}": ABSENT},
        ),
    ),
    Case(
        name="headers as the application sees them",
        about="Recording a request leaves its headers alone.",
        client=_fetching("/headers", headers=[("x-forwarded-for", "203.0.113.9"), ("x-a", "1"), ("x-a", "2")]),
        expect=_expect(route="/headers", attributes={"client.address": "127.0.0.1"}),
    ),
    Case(
        name="IPv6 host",
        about="The host is what is in brackets.",
        client=_ipv6_host,
        expect=_expect(route="/plain", attributes={"server.address": "::1", "server.port": 99}),
    ),
    Case(
        name="strange hosts",
        about="Hosts that are none break nothing, and make no series.",
        client=_strange_hosts,
        expect=Expectation(calls=(_call(route="/plain", times=len(_HOSTS)),), new_series=1),
        except_in={ASGI: "an ASGI server refuses some of them itself"},
    ),
    Case(
        name="unknown method",
        about="`_OTHER` with the original beside it, on the span only.",
        client=_fetching("/users/7", "FOO"),
        expect=_expect(
            "405",
            "/users/<number:int>",
            "_OTHER",
            attributes={"http.request.method_original": "FOO"},
            metric_attributes={"http.request.method_original": ABSENT},
        ),
    ),
    Case(
        name="excluded path",
        about="Neither span nor metric nor record.",
        client=_fetching(EXCLUDED),
        expect=Expectation(),
    ),
)

# Websockets.


def _socket(run: Run, target: str) -> websockets.connect:
    headers = {"x-case": run.id, "traceparent": run.traceparent()}
    return websockets.connect(
        f"ws://127.0.0.1:{run.port}{target}", additional_headers=headers, compression=None, proxy=None
    )


async def _socket_closes(run: Run) -> Plain:
    got = []
    with run.timed():
        async with _socket(run, "/socket/x") as client:
            for message in ("one", "two"):
                await client.send(message)
                got.append(str(await client.recv()))
                await asyncio.sleep(_SLOW / 2)
        closed = {"code": client.close_code, "reason": client.close_reason}
    return {"got": got, **closed}


async def _socket_fails(run: Run) -> Plain:
    with run.timed():
        async with _socket(run, "/socket-fails") as client:
            await client.send("go")
            with suppress(websockets.ConnectionClosed):
                await client.recv()
        return {"code": client.close_code}


async def _socket_vanishes(run: Run) -> Plain:
    async with _socket(run, "/socket/x") as client:
        await client.send("one")
        got = str(await client.recv())
        client.transport.abort()
    await run.handlers_end()
    return {"got": got}


async def _many_sockets(run: Run) -> Plain:
    async def one(number: int) -> str:
        async with _socket(run, f"/socket/{number}") as client:
            await client.send(f"{number}")
            got = str(await client.recv())
            await asyncio.sleep(_SLOW)
            return got

    return await asyncio.gather(*(one(number) for number in range(5)))


_SOCKETS = (
    Case(
        name="websocket",
        about="One record from upgrade to close, and none in flight afterwards.",
        client=_socket_closes,
        expect=_expect("101", "/socket/<name:str>", at_least=_SLOW - 0.05),
    ),
    Case(
        name="websocket whose handler fails",
        about="The exception is its error.type, and is recorded once.",
        client=_socket_fails,
        expect=_expect("101", "/socket-fails", error=_error("ValueError"), exceptions=1),
    ),
    Case(
        name="websocket whose client vanishes",
        about="The record ends, and none stays in flight.",
        client=_socket_vanishes,
        expect=_expect("101", "/socket/<name:str>", hangs=True),
    ),
    Case(
        name="several websockets",
        about="As many records as sockets, and none in flight afterwards.",
        client=_many_sockets,
        expect=Expectation(calls=(_call("101", "/socket/<name:str>", at_least=_SLOW - 0.05, times=5),)),
        unordered=True,
    ),
    Case(
        name="websocket without upgrade",
        about="A plain request to a websocket's route has the status that it gets.",
        client=_fetching("/socket-fails"),
        expect=_expect("426", "/socket-fails"),
        expect_in={ASGI: _expect("400", "/socket-fails")},
    ),
)

# Process models.


async def _worker_killed(run: Run) -> Plain:
    """Kill one of the workers once what it has recorded has left it; the other one goes on serving."""
    before = [await _status(run) for _ in range(10)]
    await run.recorded(10)
    os.kill(run.server.pids()[0], signal.SIGKILL)
    after = [await _status(run) for _ in range(10)]
    return {"before": before, "after": after}


async def _status(run: Run) -> str:
    """Return the status line of one answer, trying again where the connection was the dead worker's."""
    request = head(run, "/plain")
    while not (raw := await trip(run, request)):
        continue
    return raw.split(b"\r\n")[0].decode()


_PROCESSES = (
    Case(
        name="a worker is killed",
        about="Of two workers one is killed; what is served afterwards is recorded like what was before.",
        client=_worker_killed,
        expect=Expectation(calls=(_call(route="/plain", times=20),)),
        only_in=frozenset({"two workers"}),
        unordered=True,
    ),
)

CASES: tuple[Case, ...] = (
    *_ANSWERS,
    *_STREAMS,
    *_SEVERAL,
    *_FAILURES,
    *_REFUSED,
    *_LEAVING,
    *_CALLERS,
    *_SOCKETS,
    *_PROCESSES,
)
