"""What an operator may set about the instrumentors, read once from the environment."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from rsketch_telemetry import semconv

__all__ = ["OPT_IN_METRICS", "RESPONSE_TRACE_HEADERS", "InstrumentorSettings", "expression"]

_HEALTH_URLS = (re.compile(r"^/(?:health|healthz|livez|readyz|api/health|api/v\d+/health)/?$"),)
_HEALTH_SERVICES = frozenset({"grpc.health.v1.Health"})
_CAPTURE = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS"
OPT_IN_METRICS: Final = frozenset({semconv.HTTP_ACTIVE_REQUESTS})
"""What `RSKETCH_TELEMETRY_OPT_IN_METRICS` accepts."""
RESPONSE_TRACE_HEADERS: Final = frozenset({"server-timing", "traceresponse"})
"""What `RSKETCH_TELEMETRY_RESPONSE_HEADERS` accepts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentorSettings:
    """
    Settings of the Sanic and grpc.aio instrumentors.

    Attributes:
        known_methods: HTTP methods recorded by name; any other is `_OTHER`.
        allowed_query_keys: Query parameters whose values are recorded; those of all others are replaced.
        excluded_urls: Patterns searched in the path; a match gets neither span nor metric nor access line.
        excluded_services: Fully qualified gRPC services of which the same holds.
        request_headers: HTTP request headers recorded on spans, in lower case; so for *response_headers*.
        masked_headers: Names of headers and metadata that are recorded without their values, as credentials always are.
        rpc_request_metadata: Entries of gRPC metadata recorded on spans of both sides; so for the next two.
        response_trace_headers: Of `traceresponse` and `server-timing`, those that HTTP responses get.
        opt_in_metrics: Metrics that are off unless asked for.
        duplicates: Of `http` and `rpc`, those recorded under the names of old conventions as well.
        exception_events: Whether an exception is an event of its span as well, beside its log record.
    """

    known_methods: frozenset[str] = semconv.HTTP_METHODS
    allowed_query_keys: frozenset[str] = frozenset()
    excluded_urls: tuple[re.Pattern[str], ...] = _HEALTH_URLS
    excluded_services: frozenset[str] = _HEALTH_SERVICES
    request_headers: frozenset[str] = frozenset()
    response_headers: frozenset[str] = frozenset()
    masked_headers: tuple[re.Pattern[str], ...] = ()
    rpc_request_metadata: frozenset[str] = frozenset()
    rpc_response_metadata: frozenset[str] = frozenset()
    rpc_response_trailers: frozenset[str] = frozenset()
    response_trace_headers: frozenset[str] = frozenset()
    opt_in_metrics: frozenset[str] = frozenset()
    duplicates: frozenset[str] = frozenset()
    exception_events: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """
        Read the settings; unset ones keep their defaults, so a given exclusion list replaces the health endpoints.

        Each variable is a comma-separated list. A pattern that is no regular expression matches the text itself.
        """
        urls = _words(environ, "OTEL_PYTHON_SANIC_EXCLUDED_URLS") or _words(environ, "OTEL_PYTHON_EXCLUDED_URLS")
        stability = _lower(environ, "OTEL_SEMCONV_STABILITY_OPT_IN")
        return cls(
            known_methods=frozenset(_words(environ, "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS")) or semconv.HTTP_METHODS,
            allowed_query_keys=frozenset(_words(environ, "RSKETCH_TELEMETRY_QUERY_KEYS")),
            excluded_urls=tuple(_pattern(url) for url in urls) or _HEALTH_URLS,
            excluded_services=frozenset(_words(environ, "OTEL_PYTHON_GRPC_EXCLUDED_SERVICES")) or _HEALTH_SERVICES,
            request_headers=_lower(environ, f"{_CAPTURE}_SERVER_REQUEST"),
            response_headers=_lower(environ, f"{_CAPTURE}_SERVER_RESPONSE"),
            masked_headers=tuple(_pattern(name.lower()) for name in _words(environ, f"{_CAPTURE}_SANITIZE_FIELDS")),
            rpc_request_metadata=_lower(environ, "RSKETCH_TELEMETRY_RPC_REQUEST_METADATA"),
            rpc_response_metadata=_lower(environ, "RSKETCH_TELEMETRY_RPC_RESPONSE_METADATA"),
            rpc_response_trailers=_lower(environ, "RSKETCH_TELEMETRY_RPC_RESPONSE_TRAILERS"),
            response_trace_headers=_lower(environ, "RSKETCH_TELEMETRY_RESPONSE_HEADERS") & RESPONSE_TRACE_HEADERS,
            opt_in_metrics=_lower(environ, "RSKETCH_TELEMETRY_OPT_IN_METRICS") & OPT_IN_METRICS,
            duplicates=frozenset(name for name in ("http", "rpc") if f"{name}/dup" in stability),
            exception_events="logs/dup" in _lower(environ, "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"),
        )

    def excludes_url(self, path: str) -> bool:
        """Return whether a path gets no telemetry."""
        return any(pattern.search(path) for pattern in self.excluded_urls)


def _words(environ: Mapping[str, str], name: str) -> list[str]:
    return [word.strip() for word in environ.get(name, "").split(",") if word.strip()]


def _lower(environ: Mapping[str, str], name: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _words(environ, name))


def _pattern(text: str) -> re.Pattern[str]:
    return expression(text) or re.compile(re.escape(text))


def expression(text: str) -> re.Pattern[str] | None:
    """Return the regular expression that *text* is, or None where it is none."""
    try:
        with warnings.catch_warnings():
            # One that may come to mean something else is one all the same, also where warnings are errors.
            warnings.simplefilter("ignore", FutureWarning)
            return re.compile(text)
    except (re.error, OverflowError, RecursionError):
        # The last two are for numbers and depths beyond what the module counts with.
        return None
