"""
The `rsketch` command: the one place that reads the process environment, handles signals and decides exit statuses.

0: done, or stopped as asked. 1: something failed. 2: an argument or a setting is malformed, nothing was started.
"""

import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from rsketch import catalog
from rsketch.arguments import create_parser, parse
from rsketch.errors import RsketchError, UsageError
from rsketch.service import Command
from rsketch.stop import Stop

__all__ = ["main"]

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BROKEN_PIPE = 128 + signal.SIGPIPE
_LAST_STANDARD = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Do what *arguments* say, by default those of this process.

    Returns:
        The exit status.
    """
    _open_standard_streams()
    words = sys.argv[1:] if arguments is None else arguments
    environ = dict(os.environ)  # noqa: TID251 - read here, passed on as a mapping everywhere else
    try:
        status = _run(words, environ)
        # Here, where a reader that has left can be dealt with; the interpreter's own flush would complain.
        sys.stdout.flush()
    except RsketchError as error:
        return _complain(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return _silence()
    return status


def _run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    serving = "server" in arguments[:1]
    stop = Stop()
    if serving:
        # First of all: a signal during the start, too, has to end in a clean stop.
        _handle_signals(stop)
    commands = {} if serving else _commands(arguments)
    parser = create_parser(tuple(catalog.published(catalog.SERVICES)), commands)
    try:
        options = parse(parser, arguments)
    except SystemExit:
        # How argparse ends after printing a help text; it raises UsageError for everything else.
        return 0
    if options.command == "server":
        return _serve(options, environ, stop)
    if options.command is not None:
        return commands[options.command].run(options, environ)
    return _versions() if options.version else _help(parser)


def _serve(options: Namespace, environ: Mapping[str, str], stop: Stop) -> int:
    # Not at the top of the file: it loads uvloop and telemetry, which `rsketch --version` and `hello` do not need.
    from rsketch import server

    server.run(options, environ, sys.orig_argv, stop)
    return 0


def _versions() -> int:
    found = catalog.versions()
    width = max(map(len, found))
    for name, version in found.items():
        print(f"{name:<{width}}  {version}")
    return 0


def _help(parser: ArgumentParser) -> int:
    parser.print_help()
    return 0


def _commands(arguments: Sequence[str]) -> Mapping[str, Command]:
    """Load the sub-command that is asked for; all of them where none is, because the help lists them."""
    entries = catalog.published(catalog.COMMANDS)
    asked = next((word for word in arguments if not word.startswith("-")), None)
    if asked is not None and asked in entries:
        return {asked: catalog.load_command(entries[asked])}
    if "--version" in arguments:
        return {}
    return {name: catalog.describe_command(entry) for name, entry in entries.items()}


def _handle_signals(stop: Stop) -> None:
    """
    Let the first signal request the stop and the second end the process at once.

    Handlers of the interpreter instead of the loop's: they work before the loop runs and while something blocks it.
    """
    seen = 0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        name = signal.Signals(number).name
        if seen == 1:
            stop.request(name)
            return
        stop.abort()
        with suppress(OSError):
            os.write(2, f"rsketch: ended at once by a second signal, {name}\n".encode())
        os._exit(128 + number)

    for number in _STOP_SIGNALS:
        signal.signal(number, handle)
    # A supervisor starts workers with these blocked, because until now they would have been fatal.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def _complain(error: RsketchError) -> int:
    # A worker has told its supervisor, which says it once for all of them, and raises an error without text.
    if str(error):
        with suppress(OSError):
            print(f"rsketch: {error}", file=sys.stderr, flush=True)
    return 2 if isinstance(error, UsageError) else 1


def _open_standard_streams() -> None:
    """
    Open to nowhere what a parent has closed of the standard streams.

    Their numbers would go to the next files and sockets that are opened, and these would get what others print. For
    a closed stream `sys` holds None, on which even a flush fails.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD:
        os.set_inheritable(number, True)  # noqa: FBT003 - its own interface; for the workers
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # Never closed: it is for the rest of the process.
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


def _silence() -> int:
    """Whoever read standard output has gone: let nothing else fail on it, the interpreter's last flush included."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return _BROKEN_PIPE
