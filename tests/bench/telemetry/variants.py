"""What is measured in process: which requests meet which telemetry, beside the same app without."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = ["HTTP", "HttpVariant", "Line"]

Line = Literal["", "written", "exported"]
"""The access line: none; in a file; in a file and as an OTLP log record."""

LEAN: Final = {"RSKETCH_TELEMETRY_RECORDER": "lean"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpVariant:
    """
    One way to serve HTTP with telemetry.

    Attributes:
        about: In words, for the table.
        traffic: A kind of `traffic.requests`.
        traced: Whether the requests come with a `traceparent`.
        line: The access line; without telemetry the app writes Sanic's own wherever there is one.
        many_routes: Whether the app has a thousand of them.
        wrapped: Whether, in place of telemetry, one function stands around each request and does nothing.
        sampled: Share of the requests whose spans are exported.
        status: Of the answers.
        environ: Settings of telemetry.
    """

    about: str
    traffic: str = "users"
    traced: bool = False
    line: Line = ""
    many_routes: bool = False
    wrapped: bool = False
    sampled: float = 1.0
    status: int = 200
    environ: Mapping[str, str] = field(default_factory=lambda: LEAN)


def _sampler(name: str, share: str = "") -> dict[str, str]:
    return {**LEAN, "OTEL_TRACES_SAMPLER": name, **({"OTEL_TRACES_SAMPLER_ARG": share} if share else {})}


HTTP: Final[Mapping[str, HttpVariant]] = {
    "null": HttpVariant(about="a wrapper that does nothing", wrapped=True),
    "hello": HttpVariant(about="traces and metrics, one path", traffic="hello"),
    "users": HttpVariant(about="traces and metrics, 1,000 paths of one route"),
    "line": HttpVariant(
        about="the same, and the access line in a file", line="written", environ={**LEAN, "OTEL_LOGS_EXPORTER": "none"}
    ),
    "record": HttpVariant(about="the same, and the access line as a log record too", line="exported"),
    "traced": HttpVariant(about="traces and metrics, callers that send a `traceparent`", traced=True),
    "query": HttpVariant(about="traces and metrics, a query of three parameters", traffic="query"),
    "routes": HttpVariant(about="traces and metrics, 1,000 routes", traffic="routes", many_routes=True),
    "annotated": HttpVariant(about="traces and metrics, two attributes by the handler", traffic="annotated"),
    "missing": HttpVariant(about="traces and metrics, a 404 without a route", traffic="missing", status=404),
    "failing": HttpVariant(
        about="traces, metrics and the exception as a log record, a 500", traffic="failing", status=500
    ),
    "tenth": HttpVariant(
        about="10 % of the traces, metrics", sampled=0.1, environ=_sampler("parentbased_traceidratio", "0.1")
    ),
    "hundredth": HttpVariant(
        about="1 % of the traces, metrics", sampled=0.01, environ=_sampler("parentbased_traceidratio", "0.01")
    ),
    "unsampled": HttpVariant(about="no traces, metrics", sampled=0.0, environ=_sampler("always_off")),
    "sdk": HttpVariant(about="traces and metrics by the SDK's recorder", environ={"RSKETCH_TELEMETRY_RECORDER": "sdk"}),
}
