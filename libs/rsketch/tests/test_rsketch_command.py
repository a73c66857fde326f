"""Tests of the command as a user starts it: arguments, help, versions, bad input."""

import os
import re
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from libs.rsketch.tests.conftest import Start


def _only_line(text: str) -> str:
    assert text.startswith("rsketch: ")
    assert text.count("\n") == 1, text
    return text


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["gamma"], {}, "SERVICE: accepts alpha or beta.*, not 'gamma'"),
        (["--workers", "0"], {}, "--workers: accepts a whole number from 1 to 64, not '0'"),
        (["--workers", "many"], {}, "--workers: accepts a whole number from 1 to 64, not 'many'"),
        (["--frobnicate"], {}, "unrecognized arguments: --frobnicate"),
        (["--worker", "1"], {}, "--worker: accepts nothing from you"),
        (["alpha"], {"RSKETCH_LOG_FORMAT": "xml"}, "RSKETCH_LOG_FORMAT: accepts text or json, not 'xml'"),
        (["alpha"], {"RSKETCH_LOG_LEVEL": "loud"}, "RSKETCH_LOG_LEVEL: accepts debug, info, warning or error"),
        (["alpha"], {"RSKETCH_TELEMETRY_FLUSH_SECONDS": "soon"}, "RSKETCH_TELEMETRY_FLUSH_SECONDS: accepts a duration"),
        (["alpha", "beta"], {"STRANGER_ALPHA_LIMIT": "10"}, "STRANGER_ALPHA_LIMIT: accepts a whole number"),
        (["alpha", "--workers", "2"], {"STRANGER_ALPHA_PORT": "65536"}, "STRANGER_ALPHA_PORT: accepts a whole number"),
        (["alpha", "beta"], {"STRANGER_ALPHA_FAULT": "config"}, "STRANGER_ALPHA_FAULT: accepts nothing of the kind"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    start: "Start", arguments: list[str], settings: dict[str, str], said: str
) -> None:
    """The line names what is wrong and what is accepted; nothing stays open."""
    host = start("server", *arguments, **settings)

    assert host.status() == 2
    assert re.search(said, _only_line(host.errors))
    assert [line for line in host.journal if "alpha opened" in line] == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port_is_one_line_and_status_2(start: "Start", workers: str) -> None:
    """It is noticed before anything is opened, with one process and with several."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        host = start("server", "alpha", "beta", "--workers", workers, STRANGER_ALPHA_PORT=port)

        assert host.status() == 2

    assert f"STRANGER_ALPHA_PORT: accepts a free port, not '127.0.0.1:{port} (taken)'" in _only_line(host.errors)
    assert host.journal == []


def test_version_lists_the_host_and_what_is_installed(start: "Start") -> None:
    """Each distribution that publishes something is listed; none of them is imported."""
    host = start("--version", PYTHONWARNINGS="error")

    lines = dict(line.split() for line in host.output().splitlines())

    assert lines["rsketch"] == version("rsketch")
    assert lines["rsketch-telemetry"] == version("rsketch-telemetry")
    assert lines["stranger"] == "1.5"


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_help_teaches(start: "Start", arguments: list[str]) -> None:
    """The overview shows examples and the commands of other packages."""
    text = start(*arguments).output()

    assert "examples:\n  rsketch server " in text
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in text


def test_help_of_the_server_names_the_services(start: "Start") -> None:
    """What may be given is listed, what is internal is not."""
    text = start("server", "--help").output()

    assert re.search(r"SERVICE\s+what to run; all by default \([^)]*alpha,\s+beta", text)
    assert "--workers N" in text
    assert "--worker " not in text
    assert "RSKETCH_DASHBOARD  " in text


def test_an_unknown_command_is_one_line(start: "Start") -> None:
    """The line lists the commands that exist."""
    host = start("serve")

    assert host.status() == 2
    assert "invalid choice: 'serve'" in _only_line(host.errors)


def test_commands_of_other_packages_run(start: "Start", tmp_path: Path) -> None:
    """Arguments and environment reach the command, and its status is the process's; its errors are one line."""
    _publish_commands(tmp_path)

    good = start("double", "--by", "4", FACTOR="3")
    assert (good.output(), good.status()) == ("12\n", 7)
    bad = start("double", "--by", "0")
    assert (bad.status(), _only_line(bad.errors)) == (2, "rsketch: --by: accepts more\n")


def test_help_survives_a_broken_command(start: "Start", tmp_path: Path) -> None:
    """A command that cannot be imported is listed with the reason and fails in one line when it is called."""
    _publish_commands(tmp_path)

    listed = start("--help").output()
    assert "multiplies" in listed
    assert "cannot be loaded" in " ".join(listed.split())
    host = start("broken")
    assert host.status() == 1
    assert "ModuleNotFoundError" in _only_line(host.errors)


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_a_reader_that_leaves_is_no_error(argument: str) -> None:
    """Nothing is written to stderr when stdout is closed early, as `| head -1` does."""
    reading, writing = os.pipe()
    os.close(reading)
    found = subprocess.run(
        [sys.executable, "-m", "rsketch", argument], env={}, stdout=writing, stderr=subprocess.PIPE, timeout=20
    )
    os.close(writing)

    assert found.stderr == b""
    assert found.returncode == 141


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_error(closed: str) -> None:
    """What is started without them works, and nothing else gets their numbers."""
    script = (
        "import os, sys\n"
        "from rsketch.command import main\n"
        "status = main(['--version'])\n"
        "print('printed to nowhere', flush=True)\n"
        "sys.exit(status if os.open('/', os.O_RDONLY) > 2 else 9)\n"
    )
    shell = f'exec "$0" -c "$1" {closed}'
    found = subprocess.run(["sh", "-c", shell, sys.executable, script], env={}, capture_output=True, timeout=20)

    assert found.stderr == b""
    assert found.returncode == 0


def _publish_commands(folder: Path) -> None:
    (folder / "doubling.py").write_text(
        "from rsketch import Command, ConfigError\n"
        "def run(options, environ):\n"
        "    if options.by < 1:\n"
        "        raise ConfigError('--by', 'more')\n"
        "    print(options.by * int(environ['FACTOR']))\n"
        "    return 7\n"
        "def arguments(parser):\n"
        "    parser.add_argument('--by', type=int)\n"
        "command = Command(help='multiplies by 100%%', arguments=arguments, run=run)\n"
    )
    info = folder / "doubling-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: doubling\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[rsketch.commands]\ndouble = doubling:command\nbroken = nowhere.at_all:command\n"
    )
