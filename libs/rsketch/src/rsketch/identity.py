"""
Who this process is, for the resource of its telemetry, told from its command line.

`opentelemetry-instrument` asks in every Python process it starts, before the program runs, so this module imports
next to nothing and answers with an empty mapping for a program that is not `rsketch`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import entry_points, version
from pathlib import Path, PurePath

from rsketch.checkout import revision

__all__ = ["attributes", "from_argv", "split"]

# Options of `rsketch server` that are followed by a value.
_WITH_VALUE = frozenset({"--worker", "--workers"})

# Options of the interpreter: these letters end a group such as -Bum and take a value, joined or as the next word.
_OPTION = re.compile(r"-(?:-.+|[^-cmWX]*(?P<letter>[cmWX])(?P<value>.*)|[^-cmWX]+)")
_LONG_WITH_VALUE = "--check-hash-based-pycs"


def from_argv(argv: Sequence[str]) -> Mapping[str, str]:
    """
    Return defaults for resource attributes, or nothing where *argv* does not start the `rsketch` command.

    Args:
        argv: The whole command line with the interpreter and its options, as in `sys.orig_argv`.
    """
    found = split(argv)
    if found is None:
        return {}
    _, arguments = found
    return attributes(_named(arguments[1:]) if arguments[:1] == ["server"] else None)


def attributes(names: Iterable[str] | None) -> Mapping[str, str]:
    """
    Return the attributes of a process that serves *names*: the version is that of its one service, else the host's.

    A process that serves is a run of what is checked out in its working directory, and tells the commit.

    Args:
        names: What is asked for; nothing means every installed service, None that the process serves nothing.
    """
    common = {"service.name": "rsketch"}
    if names is None:
        return {**common, "service.version": version("rsketch")}
    return {**common, "service.version": _release(names), **_run()}


def _release(names: Iterable[str]) -> str:
    installed = {entry.name: entry.dist for entry in entry_points(group="rsketch.services")}
    served = set(names) or set(installed)
    only = installed.get(served.pop()) if len(served) == 1 else None
    return only.version if only else version("rsketch")


def _run() -> Mapping[str, str]:
    with suppress(OSError):
        # The working directory may have been removed.
        commit = revision(Path.cwd())
        return {"vcs.ref.head.revision": commit} if commit else {}
    return {}


def split(argv: Sequence[str]) -> tuple[list[str], list[str]] | None:
    """Part a command line into what starts `rsketch` and the arguments for it; None where it starts something else."""
    position = 1
    while position < len(argv) and (option := _OPTION.fullmatch(argv[position])):
        following = argv[position + 1] if position + 1 < len(argv) else ""
        width = 2 if (option["letter"] and not option["value"]) or argv[position] == _LONG_WITH_VALUE else 1
        if option["letter"] == "m" and (option["value"] or following) == "rsketch":
            return list(argv[: position + width]), list(argv[position + width :])
        if option["letter"] in {"c", "m"}:
            return None
        position += width
    if position < len(argv) and PurePath(argv[position]).name == "rsketch":
        return list(argv[: position + 1]), list(argv[position + 1 :])
    return None


def _named(arguments: Sequence[str]) -> list[str]:
    """The services among the arguments of `rsketch server`; the test compares it with the real parser."""
    names: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            names.append(word)
    return names
