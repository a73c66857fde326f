"""The command line of `rsketch`: a parser, and help that teaches."""

import re
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from typing import NoReturn

from rsketch.errors import ConfigError, UsageError
from rsketch.service import Command

__all__ = ["MOST_WORKERS", "create_parser", "parse"]

MOST_WORKERS = 64

_OVERVIEW = """\
examples:
  rsketch server                 run every installed service
  rsketch server http            run only the one called http
  rsketch server --console       show each call as a tree of spans in the terminal
  rsketch server --workers 4     four processes on the same ports
  rsketch --version              versions of the host and of what is installed for it

Settings are environment variables: RSKETCH_* for the host and its services, OTEL_* for
telemetry, which goes to http://localhost:4317 unless OTEL_EXPORTER_OTLP_ENDPOINT says otherwise.
"""

_SERVER = """\
examples:
  rsketch server
  RSKETCH_HTTP_PORT=8080 rsketch server http
  OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4317 rsketch server --workers 4
  opentelemetry-instrument rsketch server

settings:
  RSKETCH_LOG_FORMAT                text or json (text)
  RSKETCH_LOG_LEVEL                 debug, info, warning or error (info)
  RSKETCH_TELEMETRY_FLUSH_SECONDS   time for the last export at the stop (3s)
  RSKETCH_DASHBOARD                 0: without the dashboard, which comes along where it is installed, no OTLP
                                    endpoint is set, and this is neither Kubernetes nor CI (1)

Ctrl-C or SIGTERM stops: requests in flight finish, telemetry is flushed. A second one ends it at once.
"""


class _Parser(ArgumentParser):
    """A parser whose complaints are one line like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see: {self.prog} --help)")


def create_parser(services: Sequence[str], commands: Mapping[str, Command]) -> ArgumentParser:
    """
    Return the parser.

    Args:
        services: Names of the installed services, for the help.
        commands: Further sub-commands by name.
    """
    parser = _Parser(
        prog="rsketch",
        description="Runs HTTP and gRPC services that can be watched from the first request.",
        epilog=_OVERVIEW,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print versions and exit")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    server = parsers.add_parser(
        "server",
        help="run services until they are told to stop",
        description="Runs services in one process, or in several with --workers.",
        epilog=_SERVER,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_server_arguments(server, services)
    for name, command in commands.items():
        command.arguments(parsers.add_parser(name, help=command.help, description=command.help, allow_abbrev=False))
    return parser


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """
    Return what the arguments say.

    Raises:
        UsageError: They are malformed; the message says which and what is accepted.
    """
    found = parser.parse_args(arguments)
    if found.command == "server":
        found.workers = _number("--workers", found.workers, 1)
        found.worker = _number("--worker", found.worker, None)
    return found


def _add_server_arguments(server: ArgumentParser, services: Sequence[str]) -> None:
    installed = ", ".join(services) or "none is installed"
    server.add_argument("services", nargs="*", metavar="SERVICE", help=f"what to run; all by default ({installed})")
    server.add_argument("--workers", metavar="N", help=f"processes that share the ports, 1 to {MOST_WORKERS} (1)")
    server.add_argument("--console", action="store_true", help="print each span on stdout, as a tree")
    server.add_argument("--worker", help=SUPPRESS)


def _number(setting: str, raw: str | None, default: int | None) -> int | None:
    if raw is None:
        return default
    if not re.fullmatch(r"[0-9]{1,4}", raw) or not 1 <= int(raw) <= MOST_WORKERS:
        raise ConfigError(setting, f"a whole number from 1 to {MOST_WORKERS}", raw)
    return int(raw)
