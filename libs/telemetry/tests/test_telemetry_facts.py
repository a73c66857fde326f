import asyncio
import re

import pytest
from rsketch_telemetry.facts import (
    HttpOutcome,
    HttpRequest,
    RpcCall,
    RpcOutcome,
    captured,
    error_name,
    host_and_port,
    http_request,
    rpc_method,
)


def _request(**changes: str) -> HttpRequest:
    facts = {"method": "GET", "scheme": "http", "path": "/a"} | changes
    return http_request(**facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("shop.example", ("shop.example", 80)),
        ("Shop.Example:8080", ("shop.example", 8080)),
        ("[::1]:99", ("::1", 99)),
        ("[::1]", ("::1", 80)),
        ("shop.example:99999", (None, None)),
        ("a b", (None, None)),
        ("[::1", (None, None)),
        ("user@shop.example", (None, None)),
        ("", (None, None)),
        (None, (None, None)),
    ],
)
def test_host_headers(host: str | None, expected: tuple[str | None, int | None]) -> None:
    """A Host header gives address and port without brackets; a malformed one gives neither."""
    assert host_and_port(host, "http") == expected


def test_request_attributes_are_those_of_the_conventions() -> None:
    """Everything that a sampler may see is there, redacted, and nothing that is unknown."""
    request = http_request(
        method="GET",
        scheme="https",
        path="/hello",
        query="name=ada",
        protocol_version="1.1",
        host="shop.example",
        client_address="192.0.2.1",
        peer=("10.0.0.1", 4711),
        user_agent="curl/8",
    )

    assert request.attributes() == {
        "http.request.method": "GET",
        "url.path": "/hello",
        "url.scheme": "https",
        "url.query": "name=REDACTED",
        "network.protocol.version": "1.1",
        "server.address": "shop.example",
        "server.port": 443,
        "client.address": "192.0.2.1",
        "network.peer.address": "10.0.0.1",
        "network.peer.port": 4711,
        "user_agent.original": "curl/8",
    }
    assert request.kind.metric_attributes() == {
        "http.request.method": "GET",
        "url.scheme": "https",
        "network.protocol.version": "1.1",
    }


def test_an_unknown_method_is_other_and_its_span_http() -> None:
    """An invented method makes no new series; what was sent is on the span alone."""
    request = _request(method="FOO")

    assert request.attributes()["http.request.method"] == "_OTHER"
    assert request.attributes()["http.request.method_original"] == "FOO"
    assert "http.request.method_original" not in request.kind.metric_attributes()
    assert request.kind.span_name("/a/<b>") == "HTTP /a/<b>"
    assert request.kind.span_name() == "HTTP"


def test_a_span_is_named_by_its_route_and_never_by_its_path() -> None:
    """Without a route the method stands alone."""
    assert _request(path="/users/12").kind.span_name() == "GET"
    assert _request(path="/users/12").kind.span_name("/users/<id:int>") == "GET /users/<id:int>"


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (HttpOutcome(status_code=200), None),
        (HttpOutcome(status_code=404), None),
        (HttpOutcome(status_code=503), "503"),
        (HttpOutcome(status_code=500, exception=KeyError("x")), "KeyError"),
        (HttpOutcome(status_code=200, error_type="client_disconnected"), "client_disconnected"),
        (HttpOutcome(status_code=None), None),
    ],
)
def test_http_errors(outcome: HttpOutcome, error: str | None) -> None:
    """A 5xx is an error by its exception or its code, an unfinished response by its reason, a 4xx is none."""
    assert outcome.attributes().get("error.type") == error


@pytest.mark.parametrize(
    ("status", "server", "client"),
    [
        ("OK", None, None),
        ("INVALID_ARGUMENT", None, "INVALID_ARGUMENT"),
        ("CANCELLED", None, "CANCELLED"),
        ("UNKNOWN", "UNKNOWN", "UNKNOWN"),
        ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
    ],
)
def test_rpc_errors(status: str, server: str | None, client: str | None) -> None:
    """Every status but OK is an error to the client; to the server only those that are its own fault."""
    outcome = RpcOutcome(status_code=status)

    assert outcome.error(server=True) == server
    assert outcome.error(server=False) == client


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/pkg.Service/Method", ("pkg.Service/Method", None)),
        ("pkg.Service/Method", ("pkg.Service/Method", None)),
        ("/nothing", ("_OTHER", "/nothing")),
        ("/a/b/c", ("_OTHER", "/a/b/c")),
        ("", ("_OTHER", "")),
    ],
)
def test_rpc_methods(path: str, expected: tuple[str, str | None]) -> None:
    """A path that is no fully qualified method is `_OTHER`."""
    assert rpc_method(path) == expected


def test_an_unknown_rpc_is_named_grpc() -> None:
    """Its span is `grpc`, and the path as sent is on the span alone."""
    call = RpcCall(method="_OTHER", method_original="/x/y")

    assert call.span_name() == "grpc"
    assert call.attributes()["rpc.method_original"] == "/x/y"
    assert "rpc.method_original" not in call.metric_attributes()


def test_exception_names() -> None:
    """Built-in exceptions go by their bare name, others by their qualified one."""
    assert error_name(KeyError()) == "KeyError"
    assert error_name(asyncio.QueueFull()) == "asyncio.queues.QueueFull"


def test_captured_headers_keep_every_value_of_what_was_asked_for() -> None:
    """Names know no case, bytes become base64, and what was not asked for is left out."""
    pairs: list[tuple[str, str | bytes]] = [("X-Shop", "a"), ("x-shop", "b"), ("x-other", "c"), ("x-bin", b"\0\xff")]

    assert captured("http.request.header.", pairs, {"x-shop", "x-bin"}) == {
        "http.request.header.x-shop": ("a", "b"),
        "http.request.header.x-bin": ("AP8=",),
    }


def test_captured_headers_hold_no_secret() -> None:
    """Credentials are masked whatever was asked for, and so are the names that the settings add."""
    pairs: list[tuple[str, str | bytes]] = [
        ("authorization", "Basic abc"),
        ("set-cookie", "sid=1"),
        ("x-api-key", "k"),
        ("x-mine", "s"),
        ("x-note", "bearer abcdefgh"),
        ("token-bin", b"abc"),
    ]
    kept = captured("p.", pairs, {name for name, _ in pairs}, (re.compile("x-mi.*"),))

    assert kept == {
        "p.authorization": ("REDACTED",),
        "p.set-cookie": ("REDACTED",),
        "p.x-api-key": ("REDACTED",),
        "p.x-mine": ("REDACTED",),
        "p.x-note": ("bearer REDACTED",),
        "p.token-bin": ("REDACTED",),
    }


def test_captured_headers_are_bounded_and_valid_text() -> None:
    """At most 16 values of 512 characters, without surrogates."""
    (values,) = captured("p.", [("a", "\udc80" * 600)] * 20, {"a"}).values()

    assert values == ("\ufffd" * 512,) * 16
