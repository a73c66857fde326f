"""
Telemetry as OTLP-JSON, written by hand: requests for `/v1/traces`, `/v1/logs` and `/v1/metrics`.

Ids are hexadecimal text, times nanoseconds since the epoch, durations milliseconds
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx

__all__ = [
    "BOUNDS",
    "event",
    "histogram",
    "identified",
    "logs",
    "metrics",
    "number",
    "record",
    "send",
    "span",
    "traces",
]

Json = dict[str, Any]
Attributes = Mapping[str, Any]

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""The bounds that the semantic conventions advise for durations, in seconds."""
_KINDS = {"INTERNAL": 1, "SERVER": 2, "CLIENT": 3, "PRODUCER": 4, "CONSUMER": 5}
_SEVERITIES = {"DEBUG": 5, "INFO": 9, "WARN": 13, "ERROR": 17, "FATAL": 21}
_SCOPE = {"name": "shop", "version": "1.0"}


def identified(name: str, size: int = 16) -> str:
    """Return an id of *size* bytes that belongs to *name*."""
    return hashlib.sha256(name.encode()).hexdigest()[: 2 * size]


def span(
    name: str,
    *,
    trace: str,
    at: int,
    ms: float,
    id: str = "",  # noqa: A002 - as OTLP calls it
    parent: str = "",
    kind: str = "SERVER",
    attributes: Attributes | None = None,
    error: str | None = None,
    events: Sequence[Json] = (),
    links: Sequence[Json] = (),
) -> Json:
    """
    Return a span.

    Args:
        name: Its name.
        trace: The trace's id.
        at: When it begins.
        ms: How long it takes.
        id: Its id; by default one that belongs to its trace, name and beginning.
        parent: The id of its parent.
        kind: Its kind.
        attributes: Its attributes.
        error: The message of its status where it failed; None where it has none.
        events: What `event` returned.
        links: As in OTLP.
    """
    return {
        "traceId": trace,
        "spanId": id or identified(f"{trace} {name} {at}", 8),
        "parentSpanId": parent,
        "name": name,
        "kind": _KINDS[kind],
        "startTimeUnixNano": str(at),
        "endTimeUnixNano": str(at + round(ms * 1e6)),
        "attributes": _pairs(attributes or {}),
        "events": list(events),
        "links": list(links),
        "status": {} if error is None else {"code": 2, "message": error},
    }


def event(name: str, at: int, attributes: Attributes | None = None) -> Json:
    """Return an event of a span."""
    return {"name": name, "timeUnixNano": str(at), "attributes": _pairs(attributes or {})}


def traces(service: str, spans: Iterable[Json], resource: Attributes | None = None) -> Json:
    """Return a request with spans of one service."""
    scope = {"scope": _SCOPE, "spans": list(spans)}
    return {"resourceSpans": [{"resource": _resource(service, resource), "scopeSpans": [scope]}]}


def record(
    body: str,
    at: int,
    *,
    severity: str = "INFO",
    trace: str = "",
    span_id: str = "",
    attributes: Attributes | None = None,
    event_name: str = "",
) -> Json:
    """Return a log record."""
    return {
        "timeUnixNano": str(at),
        "observedTimeUnixNano": str(at),
        "severityNumber": _SEVERITIES[severity],
        "severityText": severity,
        "body": {"stringValue": body},
        "attributes": _pairs(attributes or {}),
        "traceId": trace,
        "spanId": span_id,
        "eventName": event_name,
    }


def logs(service: str, records: Iterable[Json], resource: Attributes | None = None) -> Json:
    """Return a request with log records of one service."""
    scope = {"scope": _SCOPE, "logRecords": list(records)}
    return {"resourceLogs": [{"resource": _resource(service, resource), "scopeLogs": [scope]}]}


def metrics(service: str, instruments: Iterable[Json], resource: Attributes | None = None) -> Json:
    """Return a request with metrics of one service."""
    scope = {"scope": _SCOPE, "metrics": list(instruments)}
    return {"resourceMetrics": [{"resource": _resource(service, resource), "scopeMetrics": [scope]}]}


def histogram(
    name: str,
    counts: Mapping[tuple[tuple[str, Any], ...], Sequence[int]],
    *,
    start: int,
    at: int,
    unit: str = "s",
    description: str = "",
    exemplars: Mapping[tuple[tuple[str, Any], ...], Sequence[tuple[float, int, str, str]]] | None = None,
) -> Json:
    """
    Return a cumulative histogram over `BOUNDS`.

    Args:
        name: Of the metric.
        counts: The counts of the buckets, by attributes.
        start: When counting began.
        at: When it was read.
        unit: In UCUM.
        description: For humans.
        exemplars: Value, time, trace id and span id of some samples, by attributes.
    """
    points = [
        {
            "attributes": _pairs(dict(attributes)),
            "startTimeUnixNano": str(start),
            "timeUnixNano": str(at),
            "count": str(sum(buckets)),
            "sum": sum(count * bound for count, bound in zip(buckets, BOUNDS, strict=False)),
            "bucketCounts": [str(count) for count in buckets],
            "explicitBounds": list(BOUNDS),
            "exemplars": [
                {"asDouble": value, "timeUnixNano": str(when), "traceId": trace, "spanId": span_id}
                for value, when, trace, span_id in (exemplars or {}).get(attributes, ())
            ],
        }
        for attributes, buckets in counts.items()
    ]
    return {
        "name": name,
        "unit": unit,
        "description": description,
        "histogram": {"aggregationTemporality": 2, "dataPoints": points},
    }


def number(
    name: str,
    value: float,
    at: int,
    *,
    unit: str = "1",
    start: int | None = None,
    description: str = "",
    attributes: Attributes | None = None,
) -> Json:
    """Return a gauge, or with *start* a cumulative monotonic sum, of one point."""
    point = {"attributes": _pairs(attributes or {}), "timeUnixNano": str(at), "asDouble": value}
    about = {"name": name, "unit": unit, "description": description}
    if start is None:
        return {**about, "gauge": {"dataPoints": [point]}}
    points = [{**point, "startTimeUnixNano": str(start)}]
    return {**about, "sum": {"aggregationTemporality": 2, "isMonotonic": True, "dataPoints": points}}


async def send(url: str, *requests: Json) -> None:
    """Send requests to the receiver at *url*; they are stored when this returns."""
    paths = {"resourceSpans": "traces", "resourceLogs": "logs", "resourceMetrics": "metrics"}
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        for request in requests:
            answer = await client.post(f"/v1/{paths[next(iter(request))]}", json=request)
            assert answer.status_code == 200, answer.text


def _resource(service: str, more: Attributes | None) -> Json:
    attributes = {"service.name": service, "service.version": "1.0", "service.instance.id": f"{service}-1"}
    return {"attributes": _pairs({**attributes, **(more or {})})}


def _pairs(attributes: Attributes) -> list[Json]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Any) -> Json:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list() | tuple():
            return {"arrayValue": {"values": [_value(each) for each in value]}}
        case dict():
            return {"kvlistValue": {"values": _pairs(value)}}
        case _:
            return {"stringValue": str(value)}
