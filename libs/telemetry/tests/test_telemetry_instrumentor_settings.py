import re

import pytest
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings


def test_unset_settings_are_the_defaults() -> None:
    """An empty environment gives what the constructor gives."""
    assert InstrumentorSettings.from_env({}) == InstrumentorSettings()


@pytest.mark.parametrize(
    ("variable", "field"),
    [
        ("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST", "request_headers"),
        ("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE", "response_headers"),
        ("RSKETCH_TELEMETRY_RPC_REQUEST_METADATA", "rpc_request_metadata"),
        ("RSKETCH_TELEMETRY_RPC_RESPONSE_METADATA", "rpc_response_metadata"),
        ("RSKETCH_TELEMETRY_RPC_RESPONSE_TRAILERS", "rpc_response_trailers"),
    ],
)
def test_names_of_headers_are_read_in_lower_case(variable: str, field: str) -> None:
    """Header names know no case, and blanks and empty parts of the list do not count."""
    settings = InstrumentorSettings.from_env({variable: " X-Shop, x-user ,,"})

    assert getattr(settings, field) == {"x-shop", "x-user"}


@pytest.mark.parametrize(
    ("variable", "value", "field", "read"),
    [
        ("RSKETCH_TELEMETRY_RESPONSE_HEADERS", "TraceResponse,nonsense", "response_trace_headers", {"traceresponse"}),
        ("RSKETCH_TELEMETRY_OPT_IN_METRICS", "http.server.active_requests,x", "opt_in_metrics", None),
        ("OTEL_SEMCONV_STABILITY_OPT_IN", "http/dup,database/dup,rpc", "duplicates", {"http"}),
        ("OTEL_SEMCONV_STABILITY_OPT_IN", "http,rpc", "duplicates", set()),
        ("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "logs/dup", "exception_events", True),
        ("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "logs", "exception_events", False),
    ],
)
def test_choices_keep_what_is_known(variable: str, value: str, field: str, read: object) -> None:
    """What is not one of the choices is left out here; the check of the environment complains of it."""
    expected = {"http.server.active_requests"} if read is None else read

    assert getattr(InstrumentorSettings.from_env({variable: value}), field) == expected


def test_masked_headers_are_patterns() -> None:
    """As in other instrumentations each is a regular expression, and one that is malformed matches itself."""
    settings = InstrumentorSettings.from_env(
        {"OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS": "X-Secret.*,a["}
    )

    assert settings.masked_headers == (re.compile("x-secret.*"), re.compile(re.escape("a[")))
