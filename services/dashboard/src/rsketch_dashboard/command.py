"""
The command line: `rsketch-dashboard`, and behind `rsketch dashboard`.

0: stopped as asked, or after being idle. 1: it cannot start or go on. 2: an argument or a setting is malformed.
"""

import argparse
import asyncio
import gc
import http.client
import json
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rsketch_dashboard.config import HOST, DashboardConfig, forward_endpoint, idle_seconds, port
from rsketch_dashboard.errors import DashboardError, SettingError

__all__ = ["HELP", "arguments", "main", "run"]

HELP = "show traces, metrics and logs of programs on this machine"
_EPILOG = """\
Any program that exports OTLP to this machine is seen, with nothing configured where it keeps to the default endpoint:

  rsketch-dashboard
  opentelemetry-instrument python app.py

settings, each also an option:
  RSKETCH_DASHBOARD_GRPC_PORT   of OTLP/gRPC (4317)
  RSKETCH_DASHBOARD_HTTP_PORT   of OTLP/HTTP and the page (4318)
  RSKETCH_DASHBOARD_FILE        the data file ($XDG_STATE_HOME/rsketch/dashboard.duckdb)
  RSKETCH_DASHBOARD_IDLE        end after so long without telemetry and without an open page (15m; 0 for never)
  RSKETCH_DASHBOARD_FORWARD     an OTLP/gRPC endpoint that gets a copy of everything

It listens on 127.0.0.1 alone. It keeps about a day, a million spans, half a million log records, two million points and
half a gigabyte at the most, whichever is reached first, and over restarts.
"""
_STOP_SECONDS = 10.0
_GARBAGE_OBJECTS = 50_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("--grpc-port", metavar="PORT", help="of OTLP/gRPC; 0 takes a free one")
    parser.add_argument("--http-port", metavar="PORT", help="of OTLP/HTTP and the page; 0 takes a free one")
    parser.add_argument("--file", metavar="PATH", help="where telemetry is kept")
    parser.add_argument("--idle", metavar="TIME", help="end after so long without telemetry and without an open page")
    parser.add_argument("--forward", metavar="URL", help="send a copy to this OTLP/gRPC endpoint")
    parser.add_argument("--stop", action="store_true", help="stop the dashboard that runs on these ports")


def main(words: Sequence[str] | None = None) -> int:
    """Do what *words* say, by default those of this process; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="rsketch-dashboard", description=f"{HELP[0].upper()}{HELP[1:]}.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"rsketch-dashboard {version('rsketch-dashboard')}")
    arguments(parser)
    return run(parser.parse_args(words), dict(os.environ))  # noqa: TID251 - the command reads it, nobody else


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run the command with parsed arguments; return the exit status."""
    try:
        config = _config(options, environ)
        return _stop(config) if options.stop else asyncio.run(_serve(config))
    except SettingError as error:
        return _complain(error, 2)
    except (DashboardError, OSError) as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return 130


def _config(options: argparse.Namespace, environ: Mapping[str, str]) -> DashboardConfig:
    config = DashboardConfig.from_env(environ)
    given: dict[str, Any] = {}
    if options.grpc_port is not None:
        given["grpc_port"] = port("--grpc-port", options.grpc_port)
    if options.http_port is not None:
        given["http_port"] = port("--http-port", options.http_port)
    if options.file is not None:
        given["file"] = Path(options.file)
    if options.idle is not None:
        given["idle_seconds"] = idle_seconds("--idle", options.idle)
    if options.forward is not None:
        given["forward"] = forward_endpoint("--forward", options.forward)
    return replace(config, **given)


async def _serve(config: DashboardConfig) -> int:
    # Imported late: --help and --stop need neither a database nor a server.
    from rsketch_dashboard.server import serve

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    # What it makes is for its owner alone.
    os.umask(0o077)
    async with serve(config) as dashboard:
        # A span makes a few objects that live until it is stored, in no circle. To look for circles whenever 700 have
        # been made, through all that there is since the start, took a tenth of what a span costs.
        gc.freeze()
        gc.set_threshold(_GARBAGE_OBJECTS)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, dashboard.stopped.set)
        _say(f"dashboard  {dashboard.url}")
        _say(f"OTLP       {dashboard.receiver.grpc_endpoint} (gRPC), {dashboard.receiver.http_endpoint} (HTTP)")
        _say(f"data       {config.file}")
        await dashboard.stopped.wait()
    return 0


def _stop(config: DashboardConfig) -> int:
    """Ask the dashboard on these ports to end, and wait until it has."""
    identity = _identity(config.http_port)
    if identity is None:
        return _complain(DashboardError(f"no dashboard runs on port {config.http_port}"), 1)
    with _watched(identity["pid"]) as ended:
        _request("POST", config.http_port, "/-/stop")
        if not ended(_STOP_SECONDS):
            return _complain(DashboardError(f"process {identity['pid']} does not end"), 1)
    _say(f"dashboard of process {identity['pid']} stopped")
    return 0


@contextmanager
def _watched(pid: int) -> Iterator[Callable[[float], bool]]:
    """
    Yield a function that waits for the end of a process, for some seconds, and returns whether it came.

    Its port is closed some time before: the file is last, and whoever starts another one next needs that.
    """
    handle = os.pidfd_open(pid)
    try:
        yield lambda seconds: bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def _identity(http_port: int) -> dict[str, Any] | None:
    """Return what the server on a port says of itself; None where there is none, or it is no dashboard."""
    try:
        found = json.loads(_request("GET", http_port, "/-/identity"))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("name") == "rsketch-dashboard" else None


def _request(method: str, http_port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection(HOST, http_port, timeout=2)
    try:
        connection.request(method, path)
        return connection.getresponse().read(65536)
    finally:
        connection.close()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _complain(error: Exception, status: int) -> int:
    _say(f"rsketch-dashboard: {error}")
    return status
