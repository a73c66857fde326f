"""Tests of whether a server brings a dashboard along, told from settings alone."""

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest
from rsketch import Address, ConfigError
from rsketch.dashboard import DashboardConfig, for_workers, is_destination, is_wanted, obstacle, of_supervisor
from rsketch_telemetry import Exported, Summary

SIGNALS = ("traces", "metrics", "logs")
OFF = Summary(disabled=True, service_name="", sampler="", recorder="", destinations=())
MOVED = {"RSKETCH_DASHBOARD_GRPC_PORT": "14317", "RSKETCH_DASHBOARD_HTTP_PORT": "14318"}


def _to(*endpoints: str) -> Summary:
    """Return what telemetry says of itself that goes to these places, the last one for the signals that are left."""
    places = [*endpoints, *endpoints[-1:] * len(SIGNALS)]
    exported = [
        Exported(signal=signal, protocol="grpc", endpoint=place) for signal, place in zip(SIGNALS, places, strict=False)
    ]
    return replace(OFF, disabled=False, destinations=tuple(exported))


DEFAULT = _to("http://localhost:4317")


def _wanted(environ: Mapping[str, str], summary: Summary = DEFAULT) -> bool:
    return is_wanted(DashboardConfig.from_env(environ), environ, summary)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RSKETCH_DASHBOARD": "yes"},
        {"RSKETCH_DASHBOARD": "", "OTEL_EXPORTER_OTLP_ENDPOINT": " ", "OTEL_CONFIG_FILE": "", "CI": ""},
        {"CI": "false"},
        {"CI": "0", "KUBERNETES_SERVICE_HOST": ""},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_SERVICE_NAME": "shop"},
        {**MOVED, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:14317"},
        {**MOVED, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:14318/"},
    ],
)
def test_it_is_wanted_where_nobody_has_said_where_telemetry_goes(environ: dict[str, str]) -> None:
    """On somebody's own machine; on ports of its own the endpoint that leads there says nothing else."""
    assert _wanted(environ)


@pytest.mark.parametrize(
    "environ",
    [
        {"RSKETCH_DASHBOARD": "0"},
        {"RSKETCH_DASHBOARD": "Off"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"},
        # A collector of the user's may come later, and needs the port.
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://jaeger:4317"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://prometheus:4317"},
        {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://loki:4317"},
        {**MOVED, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"},
        {
            **MOVED,
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:14317",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://loki:4317",
        },
        {"OTEL_CONFIG_FILE": "otel.yaml"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {"CI": "true"},
        {"CI": "1"},
        {"CI": "woodpecker"},
    ],
)
def test_it_is_not_wanted_where_nobody_would_look(environ: dict[str, str]) -> None:
    """Switched off, with a receiver of the user's own, in a cluster, in a build."""
    assert not _wanted(environ)


@pytest.mark.parametrize(
    "summary", [OFF, replace(DEFAULT, destinations=()), replace(DEFAULT, destinations=(), foreign=("traces: console",))]
)
def test_it_is_not_wanted_where_no_telemetry_leaves(summary: Summary) -> None:
    """Telemetry is switched off, or each of its exporters is `none` or another one."""
    assert not _wanted({}, summary)


@pytest.mark.parametrize("name", ["RSKETCH_DASHBOARD", "RSKETCH_DASHBOARD_GRPC_PORT", "RSKETCH_DASHBOARD_HTTP_PORT"])
def test_a_bad_setting_is_named(name: str) -> None:
    """Port 0 is one too: nobody would know which one it became."""
    for value in ("maybe", "65536") if name == "RSKETCH_DASHBOARD" else ("many", "0", "65536"):
        with pytest.raises(ConfigError, match=f"^{name}: accepts "):
            DashboardConfig.from_env({name: value})


@pytest.mark.parametrize(
    ("environ", "summary", "said"),
    [
        ({}, DEFAULT, None),
        ({}, _to("http://localhost:4318/v1/traces"), None),
        ({}, _to("http://127.0.0.1:4317"), None),
        ({}, _to("http://localhost:4317", "http://localhost:9"), None),
        (MOVED, _to("http://127.0.0.1:14317"), None),
        (MOVED, DEFAULT, "port 14317; set OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:14317 too"),
        ({}, _to("http://elsewhere:4317"), "port 4317; set OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317 too"),
    ],
)
def test_a_dashboard_that_would_see_nothing_is_not_started(
    environ: dict[str, str], summary: Summary, said: str | None
) -> None:
    """Its ports can be moved, the telemetry of a process that is configured already cannot; the reason is said."""
    found = obstacle(DashboardConfig.from_env(environ), summary, {})

    assert found == (said and f"not started: telemetry does not go to {said}")


def test_a_service_has_its_port_for_itself() -> None:
    """One that wants a port of the dashboard's gets it."""
    services = {
        "grpc": Address(scheme="grpc", host="127.0.0.1", port=50051),
        "http": Address(scheme="http", host="127.0.0.1", port=4318),
    }

    assert obstacle(DashboardConfig(), DEFAULT, services) == "not started: port 4318 is that of service http"


def test_a_destination_is_a_port_of_this_machine() -> None:
    """The same number elsewhere is another one."""
    summary = _to("http://localhost:4317", "http://127.0.0.1:4318/v1/metrics", "http://far:4319")

    assert [is_destination(port, summary) for port in (4317, 4318, 4319, 4320)] == [True, True, False, False]


def test_workers_are_told_by_their_supervisor_alone() -> None:
    """What stands in the environment of a supervisor without a dashboard does not reach them."""
    stale = {"RSKETCH_DASHBOARD_ADDRESS": "127.0.0.1:1", "A": "b"}

    assert for_workers(stale, None) == {"A": "b"}
    assert of_supervisor(for_workers(stale, "127.0.0.1:4318")) == "127.0.0.1:4318"
    assert of_supervisor({}) is None
    assert not re.search("4318", str(stale))
