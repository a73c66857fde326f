"""Tests of what is printed once everything listens."""

from dataclasses import replace
from importlib.metadata import version

from rsketch import Address
from rsketch.banner import facts, line, page
from rsketch.logs import LogConfig
from rsketch_telemetry import Exported, Summary

ADDRESSES = {
    "grpc": Address(scheme="grpc", host="::1", port=50051),
    "http": Address(scheme="https", host="127.0.0.1", port=3000),
}
ON = Summary(
    disabled=False,
    service_name="shop",
    sampler="AlwaysOn",
    recorder="lean (a plain configuration)",
    destinations=tuple(
        Exported(signal=signal, protocol="grpc", endpoint="http://localhost:4317") for signal in ("traces", "metrics")
    ),
)


def _page(summary: Summary, *, console: bool = False) -> list[str]:
    return page(facts(ADDRESSES, summary, LogConfig(), workers=2, console=console)).splitlines()


def test_page_is_aligned_and_plain() -> None:
    """Each fact is one line of label and value, without colour."""
    assert _page(ON) == [
        f"rsketch {version('rsketch')}",
        "  grpc       grpc://[::1]:50051",
        "  http       https://127.0.0.1:3000",
        "  telemetry  traces, metrics to http://localhost:4317 (grpc)",
        "  service    shop",
        "  sampler    AlwaysOn",
        "  recorder   lean (a plain configuration)",
        "  logs       text, info and above, on stderr",
        "  workers    2",
    ]


def test_a_dashboard_is_one_line_behind_the_services() -> None:
    """Whatever is said of it; where nothing is, there is none."""
    said = facts(ADDRESSES, ON, LogConfig(), workers=2, console=False, dashboard="http://127.0.0.1:4318")

    assert page(said).splitlines()[2:5] == [
        "  http       https://127.0.0.1:3000",
        "  dashboard  http://127.0.0.1:4318",
        "  telemetry  traces, metrics to http://localhost:4317 (grpc)",
    ]
    assert "; dashboard http://127.0.0.1:4318;" in line(said)


def test_different_destinations_are_listed_apart() -> None:
    """Signals are collapsed only where they go to the same place in the same way."""
    logs = Exported(signal="logs", protocol="http/protobuf", endpoint="http://localhost:4318/v1/logs")

    lines = _page(replace(ON, destinations=(*ON.destinations, logs), foreign=("traces: zipkin",)))

    assert lines[3:6] == [
        "  telemetry  traces, metrics to http://localhost:4317 (grpc)",
        "  telemetry  logs to http://localhost:4318/v1/logs (http/protobuf)",
        "  telemetry  traces: zipkin",
    ]


def test_disabled_telemetry_is_one_line() -> None:
    """Nothing is said about a sampler that does not run."""
    lines = _page(replace(ON, disabled=True))

    assert lines[3:5] == ["  telemetry  off (OTEL_SDK_DISABLED)", "  logs       text, info and above, on stderr"]


def test_no_destination_is_said() -> None:
    """Recording without export is worth a line."""
    assert "  telemetry  exported nowhere" in _page(replace(ON, destinations=()))


def test_line_holds_the_same_facts_in_one_line() -> None:
    """Where logs are JSON the banner is one record."""
    text = line(facts(ADDRESSES, ON, LogConfig(), workers=1, console=True))

    assert "\n" not in text
    assert text.startswith(f"rsketch {version('rsketch')}; grpc grpc://[::1]:50051; http https://127.0.0.1:3000;")
    assert "spans shown on stdout" in text
