"""
Starts the dashboard as a process of its own, which outlives this one, or finds the one that runs.

Whatever goes wrong with it is one line of the banner, and neither stops the server nor holds it up for long.
"""

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsketch_telemetry import Summary

from rsketch import ports, settings
from rsketch.dashboard import HOST, DashboardConfig, is_destination
from rsketch.errors import oneline
from rsketch.fate import fate
from rsketch.stop import Stop

__all__ = ["Dashboard", "Pending", "known", "launched"]

_NAME = "rsketch-dashboard"
_START_SECONDS = 5.0
_GRACE_SECONDS = 1.0
_POLL_SECONDS = 0.025
_ANSWER_SECONDS = 0.5
_LONGEST_ANSWER = 8192
_AUTO_INSTRUMENTATION = "opentelemetry/instrumentation/auto_instrumentation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """
    What a server has for a dashboard.

    Attributes:
        address: Where its pages are, as `host:port`; None where there is none.
        said: What the banner says of it; None for nothing.
    """

    address: str | None = None
    said: str | None = None

    @property
    def url(self) -> str | None:
        """Where its pages are; None where there is none."""
        return f"http://{self.address}" if self.address else None


Pending = Callable[[Stop], Dashboard]
"""Waits, for some seconds at most and not beyond a stop, until it is known what becomes of a dashboard."""


def known(dashboard: Dashboard) -> Pending:
    """Return what needs no waiting for."""
    return lambda _: dashboard


def launched(config: DashboardConfig, summary: Summary, command: Sequence[str], environ: Mapping[str, str]) -> Pending:
    """
    Find the dashboard that runs, or start one; return at once in either case.

    Args:
        config: Where it listens.
        summary: What this process's telemetry does.
        command: What starts it.
        environ: The settings of this process.
    """
    taken = _taken(config)
    if taken is not None:
        patience = time.monotonic() + _GRACE_SECONDS
        return lambda stop: _found(config, stop, patience) or _foreign(taken, summary)
    log = _log_path(config, environ)
    try:
        process = _spawn(command, _cleaned(environ), log)
    except OSError as error:
        return known(Dashboard(said=f"not started: {oneline(error)}"))
    deadline = time.monotonic() + _START_SECONDS
    return lambda stop: _awaited(config, process, log, stop, deadline)


def _found(config: DashboardConfig, stop: Stop, deadline: float) -> Dashboard | None:
    """Return the dashboard that has the ports; one that another server has just started takes a moment to answer."""
    while not _answers(config):
        if stop.requested() or time.monotonic() > deadline:
            return None
        time.sleep(_POLL_SECONDS)
    return _serving(config)


def _awaited(
    config: DashboardConfig, process: "subprocess.Popen[bytes]", log: Path, stop: Stop, deadline: float
) -> Dashboard:
    while not stop.requested():
        if _answers(config):
            return _serving(config)
        now = time.monotonic()
        if process.returncode is not None:
            # Two servers that start at the same time start two, of which one ends and the other is about to answer.
            deadline = min(deadline, now + _GRACE_SECONDS)
        if now > deadline:
            break
        time.sleep(_POLL_SECONDS)
    if process.returncode is None:
        return Dashboard(address=config.address, said=f"http://{config.address} (still starting)")
    details = f", see {log}" if log.is_file() else ""
    return Dashboard(said=f"not started: it {fate(process.returncode)}{details}")


def _serving(config: DashboardConfig) -> Dashboard:
    return Dashboard(address=config.address, said=f"http://{config.address}")


def _foreign(port: int, summary: Summary) -> Dashboard:
    whose = "another program, which gets the telemetry" if is_destination(port, summary) else "another program"
    return Dashboard(said=f"not started: port {port} is taken by {whose}")


def _taken(config: DashboardConfig) -> int | None:
    """Return the first of its ports that is not free."""
    return next((port for port in config.ports if not ports.is_free(HOST, port)), None)


def _answers(config: DashboardConfig) -> bool:
    """Whether a dashboard answers, and receives at the port that telemetry goes to."""
    try:
        about = json.loads(_identity(config.http_port))
        return bool(about["name"] == _NAME and str(about["grpc"]).endswith(f":{config.grpc_port}"))
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        # Nobody is there, or another program, which may answer anything.
        return False


def _identity(port: int) -> bytes:
    """Return what `/-/identity` answers, cut off where it is too long; an old version of HTTP has no chunks."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    answer = b""
    with socket.create_connection((HOST, port), timeout=_ANSWER_SECONDS) as connection:
        connection.sendall(f"GET /-/identity HTTP/1.0\r\nHost: {HOST}:{port}\r\n\r\n".encode())
        while len(answer) < _LONGEST_ANSWER and (more := connection.recv(4096)):
            answer += more
            left = deadline - time.monotonic()
            if left <= 0:
                # A timeout of the socket is for each piece: an answer in drops would hold the server up.
                raise TimeoutError
            connection.settimeout(left)
    return answer.partition(b"\r\n\r\n")[2]


def _spawn(command: Sequence[str], environ: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """Start it in a session of its own, so that a Ctrl-C in the terminal does not reach it."""
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_NOFOLLOW
    output = os.open(log, flags, 0o600)
    try:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    finally:
        os.close(output)
    # Somebody has to take note of its end, or it stays a zombie for as long as the server runs.
    threading.Thread(target=process.wait, name=f"rsketch-dashboard-{process.pid}", daemon=True).start()
    return process


def _cleaned(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what makes telemetry: the dashboard would export its own to itself."""
    paths = environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [path for path in paths if not path.rstrip("/").endswith(_AUTO_INSTRUMENTATION)]
    others = {name: value for name, value in environ.items() if not name.startswith("OTEL_")}
    return {**others, "PYTHONPATH": os.pathsep.join(kept), "OTEL_SDK_DISABLED": "true"}


def _log_path(config: DashboardConfig, environ: Mapping[str, str]) -> Path:
    """Return where its output goes; nowhere for a user without a home."""
    home = settings.text(environ, "HOME", "")
    state = settings.text(environ, "XDG_STATE_HOME", f"{home}/.local/state" if home else "")
    return Path(state, "rsketch", f"dashboard-{config.http_port}.log") if state else Path(os.devnull)
