"""`rsketch dashboard`: the same command where the host is installed. Only the host imports this module."""

from rsketch import Command

from rsketch_dashboard.command import HELP, arguments, run

__all__ = ["command"]

command = Command(help=HELP, arguments=arguments, run=run)
