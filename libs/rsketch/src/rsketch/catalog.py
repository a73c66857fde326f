"""
What other packages publish for the host: services and commands, found by their entry points.

Listing imports nothing of theirs; loading does.
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points, version

from rsketch.errors import ConfigError, RsketchError, ServiceError, StartError, UsageError, oneline
from rsketch.service import Command, Service

__all__ = [
    "COMMANDS",
    "SERVICES",
    "chosen",
    "describe_command",
    "is_published",
    "load_command",
    "load_service",
    "published",
    "versions",
]

SERVICES = "rsketch.services"
COMMANDS = "rsketch.commands"


def published(group: str) -> Mapping[str, EntryPoint]:
    """
    Return the entry points of *group* by name, in the order of their names.

    Raises:
        StartError: Two distributions publish the same name. The order in which they are found is that of the file
            system, so none of them may win.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise StartError(f"{group}: both {_origin(other)} and {_origin(entry)} publish {entry.name!r}")
    return found


def is_published(group: str, name: str) -> bool:
    """Return whether some distribution publishes *name*; what is wrong with it shows when it is loaded."""
    return bool(entry_points(group=group, name=name))


def chosen(asked: Iterable[str], installed: Iterable[str]) -> tuple[str, ...]:
    """
    Return the services to run, each once: those that are *asked* for, or all *installed* ones.

    Raises:
        UsageError: No service is installed.
        ConfigError: One that is asked for is not installed; the message lists those that are.
    """
    available = tuple(installed)
    if not available:
        raise UsageError("no service is installed; rsketch-http and rsketch-grpc publish one each")
    names = tuple(dict.fromkeys(asked))
    for name in names:
        if name not in available:
            raise ConfigError("SERVICE", " or ".join(available), name)
    return names or available


def load_service(entry: EntryPoint) -> Service:
    """Import a service. Raises ServiceError where its package is broken, StartError where it is something else."""
    service = _load(entry)
    if not isinstance(service, Service):
        raise StartError(f"service {entry.name}: {entry.value} is no rsketch.Service")
    return service


def load_command(entry: EntryPoint) -> Command:
    """Import a sub-command. Raises ServiceError or StartError as `load_service` does."""
    command = _load(entry)
    if not isinstance(command, Command):
        raise StartError(f"command {entry.name}: {entry.value} is no rsketch.Command")
    return command


def describe_command(entry: EntryPoint) -> Command:
    """Import a sub-command for a list of all; a broken one is listed with what is wrong."""
    try:
        return load_command(entry)
    except RsketchError as error:
        return Command(
            help=f"({str(error).replace('%', '%%')})",
            arguments=lambda _: None,
            run=lambda _options, _environ: 1,
        )


def versions() -> Mapping[str, str]:
    """Return the version of each installed distribution that is part of the host or publishes something for it."""
    entries = [*entry_points(group=SERVICES), *entry_points(group=COMMANDS)]
    others = {entry.dist.name: entry.dist.version for entry in entries if entry.dist}
    own = {name: version(name) for name in ("rsketch", "rsketch-telemetry")}
    return own | dict(sorted(others.items()))


def _load(entry: EntryPoint) -> object:
    try:
        return entry.load()
    except Exception as error:
        raise ServiceError(f"{_origin(entry)} cannot be loaded: {oneline(error)}") from error


def _origin(entry: EntryPoint) -> str:
    return f"{entry.dist.name} ({entry.value})" if entry.dist else entry.value
