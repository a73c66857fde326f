"""Whatever a caller sends: facts are bounded, valid and without secrets, and nothing raises."""

import re
import string
from typing import Any

from hostile import TEXT, assert_fit_to_leave
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import context as context_api
from opentelemetry.context import Context
from recording import Recording
from rsketch_telemetry import annotate, facts, semconv
from rsketch_telemetry.facts import HttpOutcome, RpcCall, RpcOutcome
from rsketch_telemetry.otlp.encode import span_item
from rsketch_telemetry.redaction import REDACTED, clean, redact_query, scrub

_SECRETS = st.text(string.ascii_letters + string.digits, min_size=12, max_size=40)
_KEYS = st.text(string.ascii_letters + "_-.", max_size=11)


@given(TEXT, st.integers(0, 100))
def test_clean_text_is_bounded_and_can_be_encoded(text: str, limit: int) -> None:
    """Every text becomes UTF-8 of at most the given length, and what was fine stays as it was."""
    cleaned = clean(text, limit)
    cleaned.encode("utf-8")

    assert len(cleaned) <= limit
    assert cleaned == text[:limit] or re.search("[\ud800-\udfff]", text)


@given(st.lists(st.tuples(_KEYS, _SECRETS), max_size=80))
def test_no_value_of_a_query_is_kept(parameters: list[tuple[str, str]]) -> None:
    """Of any query the keys are kept and no value is."""
    redacted = redact_query("&".join(f"{key}={value}" for key, value in parameters))
    said = [part.partition("=") for part in redacted.split("&") if part]

    assert [(key, value) for key, _, value in said] == [(key, REDACTED) for key, _ in parameters[:64]]


@given(TEXT, st.sets(TEXT, max_size=3))
def test_any_query_is_redacted_without_raising(query: str, allowed: set[str]) -> None:
    """A query of any characters, with any allow-list, gives text that can be encoded and is bounded."""
    redact_query(query, allowed).encode("utf-8")


@given(TEXT)
def test_scrubbing_raises_nothing_and_is_bounded(text: str) -> None:
    """Free text of any characters can be scrubbed, and scrubbing it again finds nothing more."""
    once = scrub(text)
    once.encode("utf-8")

    assert scrub(once) == once


@given(TEXT)
def test_host_headers_of_any_kind(host: str) -> None:
    """A Host header gives an address and a port in range, or neither."""
    address, port = facts.host_and_port(host, "http")

    assert (address is None) == (port is None)
    assert port is None or 0 <= port <= 65535
    assert address is None or re.fullmatch(r"[a-z0-9._~:%-]+", address)


@given(TEXT)
def test_rpc_methods_of_any_kind(path: str) -> None:
    """A gRPC path is a method of a service, or `_OTHER` with a bounded original."""
    method, original = facts.rpc_method(path)

    assert re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", method) or method == semconv.OTHER
    assert (original is None) == (method != semconv.OTHER)
    assert original is None or len(original.encode("utf-8")) <= 4 * 256


@given(st.lists(st.tuples(TEXT, st.one_of(TEXT, st.binary(max_size=20))), max_size=40), st.sets(TEXT, max_size=10))
def test_captured_headers_of_any_kind(pairs: list[tuple[str, str | bytes]], wanted: set[str]) -> None:
    """Any headers can be captured; only those asked for are kept, each bounded."""
    kept = facts.captured("http.request.header.", pairs, wanted)

    assert {name.removeprefix("http.request.header.") for name in kept} <= wanted
    for values in kept.values():
        assert isinstance(values, tuple)
        assert len(values) <= 16
        assert all(len(value.encode("utf-8")) <= 4 * 512 for value in values)


_REQUESTS = st.fixed_dictionaries(
    {"method": TEXT, "scheme": st.sampled_from(["http", "https"]), "path": TEXT},
    optional={
        "query": TEXT,
        "host": TEXT,
        "user_agent": TEXT,
        "client_address": TEXT,
        "peer": st.tuples(st.just("127.0.0.1"), st.integers(0, 65535)),
    },
)


@given(_REQUESTS, st.one_of(st.none(), st.integers(100, 599)), TEXT)
def test_any_request_makes_telemetry_that_can_be_encoded(
    request: dict[str, Any], status: int | None, message: str
) -> None:
    """From any request comes one span that OTLP can hold, and log records that are fit to leave."""
    recording = Recording()
    recorder = recording.create_recorder()
    call = recorder.http_server(facts.http_request(**request), Context())
    call.finish(HttpOutcome(status_code=status, exception=ValueError(message) if status and status > 499 else None))
    (span,) = recording.spans.get_finished_spans()

    span_item(span)
    assert_fit_to_leave([span, *recording.records()])
    assert span.name in {request["method"], "HTTP"}
    assert len(span.attributes or {}) < 20
    recording.close()


@given(TEXT, st.sampled_from(sorted({"OK", *semconv.RPC_SERVER_ERRORS})), st.booleans())
def test_any_rpc_makes_telemetry_that_can_be_encoded(path: str, status: str, server: bool) -> None:
    """From any method comes one span that OTLP can hold; its name is the method or `grpc`."""
    recording = Recording()
    recorder = recording.create_recorder()
    method, original = facts.rpc_method(path)
    start = recorder.rpc_server if server else recorder.rpc_client
    address = None if server else "till.example"
    start(RpcCall(method=method, method_original=original, server_address=address), Context()).finish(
        RpcOutcome(status_code=status)
    )
    (span,) = recording.spans.get_finished_spans()

    span_item(span)
    assert_fit_to_leave([span])
    assert span.name in {method, "grpc"}
    recording.close()


_VALUES = st.one_of(
    TEXT,
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.booleans(),
    st.none(),
    st.binary(max_size=9),
    st.lists(st.one_of(TEXT, st.integers()), max_size=50),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
)


@given(st.dictionaries(TEXT, _VALUES, max_size=80))
def test_any_annotation_leaves_a_span_that_can_be_encoded(attributes: dict[str, Any]) -> None:
    """Whatever an application annotates, its request goes on and the span can leave."""
    recording = Recording()
    recording.exempt("an application may give an attribute of the conventions any value")
    call = recording.create_recorder().http_server(facts.http_request(method="GET", scheme="http", path="/"), Context())
    token = context_api.attach(call.inner)
    annotate(**attributes)
    context_api.detach(token)
    call.finish(HttpOutcome(status_code=200))
    (span,) = recording.spans.get_finished_spans()

    span_item(span)
    assert_fit_to_leave([span])
    recording.close()
