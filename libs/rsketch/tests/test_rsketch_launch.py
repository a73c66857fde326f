"""Tests of the dashboard beside a server: started, found, refused, broken. Another program's command stands for it."""

import json
import os
import random
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rsketch.dashboard import DashboardConfig
from rsketch.launch import Dashboard, launched
from rsketch.stop import Stop
from rsketch_telemetry import Exported, Summary

if TYPE_CHECKING:
    from libs.rsketch.tests.conftest import Start


class Viewers:
    """
    The dashboards of one test, of which at most one serves at a time.

    Attributes:
        settings: With which a server starts one, and sends its telemetry there.
    """

    def __init__(self, folder: Path) -> None:
        self._journal = folder / "viewers"
        self.grpc_port, self.http_port = _free_port(), _free_port()
        self.settings = {
            "HOME": str(folder),
            "OTEL_SDK_DISABLED": "",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.grpc_port}",
            "RSKETCH_DASHBOARD_GRPC_PORT": str(self.grpc_port),
            "RSKETCH_DASHBOARD_HTTP_PORT": str(self.http_port),
            "RSKETCH_TELEMETRY_FLUSH_SECONDS": "100ms",
            "VIEWER_JOURNAL": str(self._journal),
        }
        self.line = f"\n  dashboard  http://127.0.0.1:{self.http_port}\n"

    def started(self) -> list[dict[str, Any]]:
        """Return process id, session and environment of each that was started."""
        lines = self._journal.read_text().splitlines() if self._journal.exists() else []
        return [json.loads(line) for line in lines]

    def running(self) -> list[int]:
        """Return the process ids of those that run."""
        pids = [viewer["pid"] for viewer in self.started()]
        return [pid for pid in pids if _command(pid).endswith(b"\0dashboard\0")]

    def close(self) -> None:
        """Leave none behind."""
        for pid in self.running():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _free_port() -> int:
    """Return a port that is free and not among those that the kernel gives to outgoing connections."""
    for _ in range(200):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", random.randrange(10240, 32000)))
            return int(probe.getsockname()[1])
    raise RuntimeError("no free port was found in 200 tries")


@pytest.fixture
def viewers(start: "Start", tmp_path: Path) -> Iterator[Viewers]:
    """Dashboards of a package that is installed instead of ours: the first of two of one name counts."""
    info = tmp_path / "rsketch_dashboard-9.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rsketch-dashboard\nVersion: 9.0\n")
    (info / "entry_points.txt").write_text("[rsketch.commands]\ndashboard = viewer:command\n")
    made = Viewers(tmp_path)
    yield made
    made.close()


def test_a_server_starts_one_that_outlives_it(start: "Start", viewers: Viewers) -> None:
    """It is there before the banner, in a session of its own, and the next server finds it."""
    first = start("server", "beta", **viewers.settings).serving()
    (viewer,) = viewers.started()
    assert viewers.line in first.errors
    assert viewer["session"] == viewer["pid"] != first.process.pid

    first.send_all(signal.SIGINT)
    assert first.status() == 0
    assert viewers.running() == [viewer["pid"]]

    # Both write to one file.
    second = start("server", "beta", **viewers.settings)
    second.until(lambda: second.errors.count("\n  workers") == 2)
    assert second.errors.count(viewers.line) == 2
    assert second.send(signal.SIGTERM).status() == 0
    assert viewers.running() == [viewer["pid"]]
    assert len(viewers.started()) == 1


def test_it_does_not_export_its_own_telemetry(start: "Start", viewers: Viewers) -> None:
    """Nothing of what makes telemetry reaches it, neither settings nor the folder of `opentelemetry-instrument`."""
    folder = "/x/opentelemetry/instrumentation/auto_instrumentation"
    host = start("server", "beta", **viewers.settings, OTEL_SERVICE_NAME="shop", PYTHONPATH=_with(folder, viewers))
    host.serving()
    environ = viewers.started()[0]["environ"]

    assert {name: value for name, value in environ.items() if name.startswith("OTEL_")} == {"OTEL_SDK_DISABLED": "true"}
    assert folder not in environ["PYTHONPATH"]
    assert environ["PYTHONPATH"].endswith(str(Path(__file__).parent))
    assert environ["RSKETCH_DASHBOARD_HTTP_PORT"] == str(viewers.http_port)


def _with(folder: str, viewers: Viewers) -> str:
    return os.pathsep.join([folder, viewers.settings["HOME"], str(Path(__file__).parent)])


def test_a_machine_reads_of_it_too(start: "Start", viewers: Viewers) -> None:
    """With JSON logs it is a part of the one line."""
    host = start("server", "beta", **viewers.settings, RSKETCH_LOG_FORMAT="json")
    host.until(lambda: "workers 1" in host.errors)

    assert f"; dashboard http://127.0.0.1:{viewers.http_port};" in json.loads(host.errors.splitlines()[0])["message"]


def test_workers_share_the_one_of_their_supervisor(start: "Start", viewers: Viewers) -> None:
    """One is started, and each worker is told where it is."""
    host = start("server", "beta", "--workers", "2", **viewers.settings).serving()
    address = f"RSKETCH_DASHBOARD_ADDRESS=127.0.0.1:{viewers.http_port}"

    assert viewers.line in host.errors
    assert sorted(host.journal) == [f"beta opened {address} RSKETCH_TELEMETRY_WORKER={number}" for number in (1, 2)]
    assert len(viewers.started()) == 1
    assert host.send(signal.SIGTERM).status() == 0


def test_two_servers_at_once_share_one(start: "Start", viewers: Viewers) -> None:
    """Each starts one, and the one that finds the ports taken ends; both servers have the other."""
    hosts = [start("server", "beta", **viewers.settings) for _ in range(2)]
    # Both write to one file.
    hosts[0].until(lambda: hosts[0].errors.count("\n  workers") == 2)

    assert hosts[0].errors.count(viewers.line) == 2
    hosts[0].until(lambda: len(viewers.running()) == 1)


def test_one_that_needs_a_moment_is_waited_for(start: "Start", viewers: Viewers) -> None:
    """The first telemetry finds somebody who takes it."""
    host = start("server", "beta", **viewers.settings, VIEWER_FAULT="late").serving()

    assert viewers.line in host.errors


def test_one_that_dies_is_said_and_harms_nobody(start: "Start", viewers: Viewers) -> None:
    """The line has the status and the file with its last words; workers are told of none."""
    host = start("server", "beta", "--workers", "2", **viewers.settings, VIEWER_FAULT="die").serving()
    said = re.search(r"\n  dashboard  not started: it ended with status 3, see (\S+)\n", host.errors)

    assert said, host.errors
    assert Path(said[1]).read_text() == "the lens is broken\n"
    assert [line for line in host.journal if "DASHBOARD" in line] == []
    assert host.ask("beta") in host.pids()


def test_one_that_takes_too_long_is_said_and_left_alone(start: "Start", viewers: Viewers) -> None:
    """The services are opened after a few seconds all the same."""
    began = time.monotonic()
    host = start("server", "beta", **viewers.settings, VIEWER_FAULT="hang").serving()

    assert f"  dashboard  http://127.0.0.1:{viewers.http_port} (still starting)\n" in host.errors
    assert time.monotonic() - began < 12
    assert host.ask("beta") == host.process.pid


def test_a_stop_is_not_kept_waiting(start: "Start", viewers: Viewers) -> None:
    """A signal while the dashboard starts ends the server at once."""
    host = start("server", "beta", **viewers.settings, VIEWER_FAULT="hang")
    host.until(viewers.started)
    began = time.monotonic()

    assert host.send(signal.SIGTERM).status() == 0
    assert time.monotonic() - began < 3
    assert host.journal == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_start_that_is_refused_starts_none(start: "Start", viewers: Viewers, workers: str) -> None:
    """Everything is checked before anything is opened."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = {**viewers.settings, "STRANGER_BETA_PORT": str(taken.getsockname()[1])}
        assert start("server", "beta", "--workers", workers, **settings).status() == 2

    assert viewers.started() == []


@pytest.mark.parametrize("settings", [{"RSKETCH_DASHBOARD": "0"}, {"CI": "true"}, {"OTEL_SDK_DISABLED": "true"}])
def test_where_none_is_wanted_nothing_is_said(start: "Start", viewers: Viewers, settings: dict[str, str]) -> None:
    """No line, no process."""
    host = start("server", "beta", **{**viewers.settings, **settings}).serving()

    assert "dashboard" not in host.errors
    assert viewers.started() == []


def test_without_the_package_nothing_is_said(start: "Start", viewers: Viewers, tmp_path: Path) -> None:
    """A production image has none."""
    (tmp_path / "rsketch_dashboard-9.0.dist-info" / "entry_points.txt").write_text("")
    host = start("server", "beta", **viewers.settings).serving()

    assert "dashboard" not in host.errors
    assert host.ask("beta") == host.process.pid


@pytest.mark.parametrize("taken", ["grpc", "http"])
def test_a_port_of_another_program_is_left_alone(start: "Start", viewers: Viewers, taken: str) -> None:
    """The banner says so, and who gets the telemetry."""
    port = viewers.grpc_port if taken == "grpc" else viewers.http_port
    with socket.create_server(("127.0.0.1", port)):
        host = start("server", "beta", **viewers.settings).serving()
    gets = ", which gets the telemetry" if taken == "grpc" else ""

    assert f"  dashboard  not started: port {port} is taken by another program{gets}\n" in host.errors
    assert viewers.started() == []


def test_a_service_on_its_port_comes_first(start: "Start", viewers: Viewers) -> None:
    """What the user asked for is served, and the banner says why there is no dashboard."""
    settings = {**viewers.settings, "STRANGER_BETA_PORT": str(viewers.http_port)}
    host = start("server", "beta", **settings).serving()

    assert f"  dashboard  not started: port {viewers.http_port} is that of service beta\n" in host.errors
    assert host.ask("beta") == host.process.pid
    assert viewers.started() == []


# Without a process: what answers at the port, and what cannot be started.


def _summary(port: int) -> Summary:
    to = Exported(signal="traces", protocol="grpc", endpoint=f"http://localhost:{port}")
    return Summary(disabled=False, service_name="", sampler="", recorder="", destinations=(to,))


@contextmanager
def _answering(*pieces: bytes) -> Iterator[int]:
    """Accept connections while open and send each the same, piece by piece; then keep them open."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    for piece in pieces:
                        connection.sendall(piece)
                        time.sleep(0.05)
                    connection.recv(1)
                    connection.recv(1)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"SSH-2.0-OpenSSH\r\n"],
        [HEAD, b"{}"],
        [HEAD, b'"rsketch-dashboard"'],
        [HEAD, b'{"name": "shop", "grpc": "http://127.0.0.1:4317"}'],
        [HEAD, b'{"name": "rsketch-dashboard", "grpc": "http://127.0.0.1:1"}'],
        [HEAD, b"[" * 8000],
        [HEAD, b"\xff" * 100_000],
        [b"x"] * 100,
    ],
    ids=["silence", "ssh", "empty", "text", "another", "other-port", "deep", "long", "drops"],
)
def test_another_program_is_known_by_its_answer(pieces: list[bytes]) -> None:
    """Whatever it answers, and however slowly, it is left alone soon."""
    began = time.monotonic()
    with _answering(*pieces) as port:
        found = launched(DashboardConfig(grpc_port=_free_port(), http_port=port), _summary(1), ["false"], {})(Stop())

    assert found == Dashboard(said=f"not started: port {port} is taken by another program")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("command", "state", "said"),
    [
        (["/no/such/python"], "state", "FileNotFoundError"),
        (
            [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"],
            "state",
            r"was ended by signal 9 \(Killed\), see",
        ),
        ([sys.executable, "-c", ""], "state", "ended with status 0, see "),
        ([sys.executable, "-c", ""], "file", "FileExistsError|NotADirectoryError"),
    ],
)
def test_whatever_keeps_it_from_starting_is_one_line(command: list[str], state: str, said: str, tmp_path: Path) -> None:
    """A command that is missing, one that dies, a log that cannot be written: nothing is raised."""
    (tmp_path / "file").touch()
    config = DashboardConfig(grpc_port=_free_port(), http_port=_free_port())
    found = launched(config, _summary(1), command, {"XDG_STATE_HOME": str(tmp_path / state)})(Stop())

    assert found.address is None
    assert found.said
    assert "\n" not in found.said
    assert re.match(rf"not started: .*({said})", found.said)


def test_without_a_home_there_is_no_log() -> None:
    """What it writes goes nowhere, and no file is named."""
    config = DashboardConfig(grpc_port=_free_port(), http_port=_free_port())
    found = launched(config, _summary(1), [sys.executable, "-c", "print('x')"], {})(Stop())

    assert found == Dashboard(said="not started: it ended with status 0")


def test_a_log_is_for_its_owner_and_starts_anew(tmp_path: Path) -> None:
    """It may hold what telemetry holds, and must not grow for ever."""
    config = DashboardConfig(grpc_port=_free_port(), http_port=_free_port())
    for word in ("first", "second"):
        command = [sys.executable, "-c", f"print('{word}')"]
        launched(config, _summary(1), command, {"HOME": str(tmp_path)})(Stop())
    log = tmp_path / ".local/state/rsketch" / f"dashboard-{config.http_port}.log"

    assert log.read_text() == "second\n"
    assert log.stat().st_mode & 0o777 == 0o600
    assert log.parent.stat().st_mode & 0o777 == 0o700
