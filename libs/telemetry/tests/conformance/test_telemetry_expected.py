"""
The product held against expectations that were written from the conventions alone, without a look at it.

Each scenario of `expected.toml` is run by real servers, channels and sockets, and what comes of it is compared after a
way through OTLP. Where they disagree, the product is wrong until the conventions are shown to say otherwise: the file
is never fitted to the product.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rsketch_telemetry import semconv
from rsketch_telemetry.otlp.model import Event, Span

# Imported for the runners that they register.
from . import grpc_scenarios, http_scenarios  # noqa: F401
from .expectations import META, SCENARIOS, Observed, disagreements, unheeded
from .runners import RUNNERS


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_scenario(scenario: str, tmp_path: Path) -> None:
    """What a call makes is what the conventions ask of it."""
    assert scenario in RUNNERS, f"nobody runs {scenario}"
    found = [
        wrong
        for observed in await RUNNERS[scenario](tmp_path)
        for wrong in disagreements(SCENARIOS[scenario], observed)
    ]

    said = "\n".join([SCENARIOS[scenario]["given"], *(f"- {wrong}" for wrong in found)])
    assert not found, said


def test_each_runner_has_its_scenario() -> None:
    """No runner is left over, and no scenario without one."""
    assert RUNNERS.keys() == SCENARIOS.keys()


def test_every_expectation_is_compared() -> None:
    """The file says nothing that the comparison leaves out."""
    assert unheeded() == []


def test_lists_of_the_conventions_are_ours() -> None:
    """The known HTTP methods, and the gRPC codes that are an error of the server, are the conventions'."""
    assert set(META["known_http_methods"]) == semconv.HTTP_METHODS
    assert set(META["grpc_server_errors"]) == semconv.RPC_SERVER_ERRORS
    assert META["schema_url"] == semconv.SCHEMA_URL


def _span(**changes: Any) -> Callable[[Observed], Observed]:
    return lambda seen: replace(seen, spans=(replace(seen.spans[0], **changes),))


def _ending(end_ns: Callable[[Span], int]) -> Callable[[Observed], Observed]:
    return lambda seen: _span(end_ns=end_ns(seen.spans[0]))(seen)


def _point(**changes: Any) -> Callable[[Observed], Observed]:
    return lambda seen: replace(seen, points=(replace(seen.points[0], **changes), *seen.points[1:]))


def _log(**changes: Any) -> Callable[[Observed], Observed]:
    return lambda seen: replace(seen, logs=(replace(seen.logs[0], **changes),))


def _attribute(kind: str, name: str, value: object) -> Callable[[Observed], Observed]:
    """Set an attribute of the one item of a kind, or take it away with None."""

    def change(seen: Observed) -> Observed:
        (item,) = getattr(seen, kind)
        attributes = {key: each for key, each in {**item.attributes, name: value}.items() if each is not None}
        changes: dict[str, Any] = {kind: (replace(item, attributes=attributes),)}
        return replace(seen, **changes)

    return change


_FAULTS: dict[str, Callable[[Observed], Observed]] = {
    "span: expected 1 of them": lambda seen: replace(seen, spans=()),
    "metric: expected 1 of them": lambda seen: replace(seen, points=seen.points * 2),
    "log: expected 1 of them": lambda seen: replace(seen, logs=()),
    "span's name": _span(name="GET /items/500"),
    "span's kind": _span(kind="CLIENT"),
    "span's status": _span(status="OK"),
    "span http.response.status_code": _attribute("spans", "http.response.status_code", "500"),
    "span url.path": _attribute("spans", "url.path", None),
    "span client.address: expected, but not there": _attribute("spans", "client.address", None),
    "span url.full: must not be there": _attribute("spans", "url.full", "http://127.0.0.1/items/500"),
    "metric's unit": _point(unit="ms"),
    "metric's instrument": _point(type="exponential_histogram"),
    "metric's boundaries": _point(bounds=(0.0, 5.0)),
    "metric's count of observations": _point(count=2),
    "metric: expected the duration of the span": _point(sum=0.0),
    "metric error.type: '500', but 'ValueError' on the span": _attribute("points", "error.type", "500"),
    "metric url.path: must not be there": _attribute("points", "url.path", "/items/500"),
    "log's event": _log(event_name="exception"),
    "log's severity": _log(severity_number=5),
    "log: expected in the context of the span": _log(span_id=""),
    "log exception.stacktrace: expected": _attribute("logs", "exception.stacktrace", None),
    "log exception.escaped: must not be there": _attribute("logs", "exception.escaped", True),
    "schema of LogRecord": lambda seen: _log(scope=replace(seen.logs[0].scope, schema_url=""))(seen),
}


_FAULTS_ELSEWHERE: dict[str, tuple[str, Callable[[Observed], Observed]]] = {
    "span http.route: expected '/items/<id:int>'": ("http-405", _attribute("spans", "http.route", "/items/7")),
    "s3cr3t-two is in": ("http-query-secrets", _attribute("spans", "x", "a s3cr3t-two")),
    "span error.type: must not be '499'": (
        "http-client-leaves-mid-stream",
        _attribute("spans", "error.type", "499"),
    ),
    "span: lasts 'until": ("http-client-leaves-mid-stream", _ending(lambda span: span.start_ns)),
    "span: expected to last 0.2 s": ("grpc-server-streaming", _ending(lambda span: span.start_ns)),
    "span: must not have the event message": (
        "grpc-server-streaming",
        _span(events=(Event(name="message", time_ns=1, attributes={}),)),
    ),
}
"""What can be wrong only elsewhere, with the scenario where it can."""


async def test_comparison_finds_each_fault(tmp_path: Path) -> None:
    """Whatever is changed in telemetry that was right is found, and named."""
    scenario = SCENARIOS["http-500-unhandled-exception"]
    (seen,) = await RUNNERS["http-500-unhandled-exception"](tmp_path)

    for said, fault in _FAULTS.items():
        assert any(wrong.startswith(said) for wrong in disagreements(scenario, fault(seen))), said


@pytest.mark.parametrize("said", _FAULTS_ELSEWHERE)
async def test_comparison_finds_faults_elsewhere(said: str, tmp_path: Path) -> None:
    """So is what only some scenarios speak of."""
    scenario, fault = _FAULTS_ELSEWHERE[said]
    (seen,) = await RUNNERS[scenario](tmp_path)

    assert disagreements(SCENARIOS[scenario], seen) == []
    assert any(wrong.startswith(said) for wrong in disagreements(SCENARIOS[scenario], fault(seen)))
