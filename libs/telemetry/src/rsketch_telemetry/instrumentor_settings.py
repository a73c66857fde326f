"""What an operator may set about the instrumentors, read once from the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from rsketch_telemetry import semconv

__all__ = ["InstrumentorSettings", "expression"]

_HEALTH_URLS = (re.compile(r"^/(?:health|healthz|livez|readyz|api/health|api/v\d+/health)/?$"),)
_HEALTH_SERVICES = frozenset({"grpc.health.v1.Health"})


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentorSettings:
    """
    Settings of the Sanic and grpc.aio instrumentors.

    Attributes:
        known_methods: HTTP methods recorded by name; any other is `_OTHER`.
        allowed_query_keys: Query parameters whose values are recorded; those of all others are replaced.
        excluded_urls: Patterns searched in the path; a match gets neither span nor metric nor access line.
        excluded_services: Fully qualified gRPC services of which the same holds.
    """

    known_methods: frozenset[str] = semconv.HTTP_METHODS
    allowed_query_keys: frozenset[str] = frozenset()
    excluded_urls: tuple[re.Pattern[str], ...] = _HEALTH_URLS
    excluded_services: frozenset[str] = _HEALTH_SERVICES

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """
        Read the settings; unset ones keep their defaults, so a given exclusion list replaces the health endpoints.

        Reads `OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`, `OTEL_PYTHON_SANIC_EXCLUDED_URLS` (else
        `OTEL_PYTHON_EXCLUDED_URLS`), `OTEL_PYTHON_GRPC_EXCLUDED_SERVICES` and `RSKETCH_TELEMETRY_QUERY_KEYS`, each a
        comma-separated list. A pattern that is no regular expression matches the text itself.
        """
        urls = _words(environ, "OTEL_PYTHON_SANIC_EXCLUDED_URLS") or _words(environ, "OTEL_PYTHON_EXCLUDED_URLS")
        return cls(
            known_methods=frozenset(_words(environ, "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS")) or semconv.HTTP_METHODS,
            allowed_query_keys=frozenset(_words(environ, "RSKETCH_TELEMETRY_QUERY_KEYS")),
            excluded_urls=tuple(_pattern(url) for url in urls) or _HEALTH_URLS,
            excluded_services=frozenset(_words(environ, "OTEL_PYTHON_GRPC_EXCLUDED_SERVICES")) or _HEALTH_SERVICES,
        )

    def excludes_url(self, path: str) -> bool:
        """Return whether a path gets no telemetry."""
        return any(pattern.search(path) for pattern in self.excluded_urls)


def _words(environ: Mapping[str, str], name: str) -> list[str]:
    return [word.strip() for word in environ.get(name, "").split(",") if word.strip()]


def _pattern(text: str) -> re.Pattern[str]:
    return expression(text) or re.compile(re.escape(text))


def expression(text: str) -> re.Pattern[str] | None:
    """Return the regular expression that *text* is, or None where it is none."""
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError):
        # The last two are for numbers and depths beyond what the module counts with.
        return None
