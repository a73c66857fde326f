"""
The command line of rsketch-telemetry: `python -m rsketch_telemetry <command>`.

A command is a module with `HELP`, `EPILOG`, `arguments(parser)` and `run(options)`, which returns the exit status.
"""

import argparse
import io
import sys
from collections.abc import Sequence

from rsketch_telemetry.conformance import command as check

COMMANDS = {"check": check}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 2 where the arguments are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m rsketch_telemetry", description="Tools for OpenTelemetry that tells the truth."
    )
    commands = parser.add_subparsers(dest="command", metavar="<command>", required=True)
    for name, command in COMMANDS.items():
        one = commands.add_parser(
            name,
            help=command.HELP,
            description=f"{command.HELP[0].upper()}{command.HELP[1:]}.",
            epilog=command.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.arguments(one)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What others call their spans need not be in the alphabet of this terminal.
        sys.stdout.reconfigure(errors="backslashreplace")
    options = parser.parse_args(arguments)
    status: int = COMMANDS[options.command].run(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
