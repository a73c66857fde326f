"""Settings: where they come from, and what each accepts."""

from pathlib import Path

import pytest
from rsketch_dashboard import DashboardConfig
from rsketch_dashboard.config import forward_endpoint, idle_seconds, port
from rsketch_dashboard.errors import SettingError


def test_without_settings_the_standards_ports_and_places_are_used() -> None:
    """OTLP's own ports, and the folder for state that the desktop's standard has."""
    config = DashboardConfig.from_env({"HOME": "/home/ada"})

    assert (config.grpc_port, config.http_port, config.idle_seconds, config.forward) == (4317, 4318, 900.0, None)
    assert config.file == Path("/home/ada/.local/state/rsketch/dashboard.duckdb")


@pytest.mark.parametrize(
    ("environ", "file"),
    [
        ({"XDG_STATE_HOME": "/state", "HOME": "/home/ada"}, "/state/rsketch/dashboard.duckdb"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/home/ada"}, "/home/ada/.local/state/rsketch/dashboard.duckdb"),
        ({"XDG_STATE_HOME": "/state", "RSKETCH_DASHBOARD_FILE": "/tmp/t.duckdb"}, "/tmp/t.duckdb"),
        ({"XDG_STATE_HOME": "/state", "RSKETCH_DASHBOARD_FILE": " "}, "/state/rsketch/dashboard.duckdb"),
    ],
)
def test_the_file_is_where_state_belongs_unless_said_otherwise(environ: dict[str, str], file: str) -> None:
    """A relative XDG_STATE_HOME counts as unset, as its specification has it, and so does whatever is empty."""
    assert DashboardConfig.from_env(environ).file == Path(file)


def test_every_setting_is_read() -> None:
    """Each variable has its field."""
    config = DashboardConfig.from_env(
        {
            "RSKETCH_DASHBOARD_GRPC_PORT": "1",
            "RSKETCH_DASHBOARD_HTTP_PORT": " 2 ",
            "RSKETCH_DASHBOARD_FILE": "t.duckdb",
            "RSKETCH_DASHBOARD_IDLE": "90",
            "RSKETCH_DASHBOARD_FORWARD": "https://collector.example:4317/",
        }
    )

    assert config == DashboardConfig(
        grpc_port=1,
        http_port=2,
        file=Path("t.duckdb"),
        idle_seconds=90.0,
        forward="https://collector.example:4317/",
    )


@pytest.mark.parametrize(
    ("raw", "seconds"), [("0", 0), ("90", 90), ("90s", 90), ("1.5m", 90), ("500ms", 0.5), ("168h", 604_800)]
)
def test_durations_have_units(raw: str, seconds: float) -> None:
    """Seconds are meant where none is given."""
    assert idle_seconds("--idle", raw) == seconds


@pytest.mark.parametrize("raw", ["", "-1", "1d", "169h", "1 m", "1h30m", "inf", "1e3", "٣"])
def test_durations_that_are_none_are_refused(raw: str) -> None:
    """The message names the setting and what it accepts."""
    with pytest.raises(SettingError, match=r"^--idle: accepts a duration"):
        idle_seconds("--idle", raw)


@pytest.mark.parametrize("raw", ["", "-1", "65536", "4317/tcp", "1e3", "٣", "0x10", "000000"])
def test_ports_that_are_none_are_refused(raw: str) -> None:
    """The message names the setting and what it accepts."""
    with pytest.raises(SettingError, match=r"^--grpc-port: accepts a port from 0 to 65535"):
        port("--grpc-port", raw)


@pytest.mark.parametrize(
    "raw",
    [
        *("localhost:4317", "http://localhost", "http://:4317", "ftp://localhost:4317", "http://localhost:99999"),
        *("http://localhost:4317/v1/traces", "http://[::1:4317", "http://localhost:port"),
    ],
)
def test_endpoints_that_are_none_are_refused(raw: str) -> None:
    """The message names the setting and what it accepts."""
    with pytest.raises(SettingError, match=r"^--forward: accepts an OTLP/gRPC endpoint"):
        forward_endpoint("--forward", raw)


def test_an_error_shows_little_of_what_was_given() -> None:
    """A value that is long is cut: it may be a secret in the wrong place."""
    with pytest.raises(SettingError) as caught:
        port("--grpc-port", "x" * 1000)

    assert len(str(caught.value)) < 200
