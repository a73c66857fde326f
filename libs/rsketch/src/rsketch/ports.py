"""
Which ports are free, and holding them for workers. Nothing here accepts a connection.

A port that is taken would otherwise go unnoticed in places: grpc.aio shares ports by default.
"""

import errno
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from rsketch.errors import ConfigError
from rsketch.service import Address, Service

__all__ = ["check", "held", "is_free"]

_BACKLOG = 1

# `localhost` stands for ::1 too where IPv6 is switched off.
_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def check(services: Mapping[str, Service], wanted: Mapping[str, Address]) -> None:
    """
    Make sure that each service can have its port for itself.

    Raises:
        ConfigError: A port is taken, wanted twice or not allowed, or the host is not one of this machine; the message
            names the setting.
    """
    with ExitStack() as stack:
        for name, address in wanted.items():
            for probe in _bound(services[name], address, share=False):
                stack.enter_context(probe)
                _listen(services[name], address, probe)


@contextmanager
def held(services: Mapping[str, Service], wanted: Mapping[str, Address]) -> Iterator[Mapping[str, Address]]:
    """
    Keep the ports of all services bound but not listening, and yield the addresses with port 0 resolved.

    Workers join such a port with `SO_REUSEPORT`; the kernel gives connections only to sockets that listen. Nobody else
    gets the port in the moments when no worker lives.

    Raises:
        ConfigError: As `check`, which is done first.
    """
    check(services, wanted)
    with ExitStack() as stack:
        addresses: dict[str, Address] = {}
        for name, address in wanted.items():
            sockets = [stack.enter_context(taken) for taken in _bound(services[name], address, share=True)]
            addresses[name] = replace(address, port=sockets[0].getsockname()[1])
        yield addresses


def is_free(host: str, port: int) -> bool:
    """Return whether *port* of the IPv4 address *host* can be had."""
    try:
        with _bind(socket.AF_INET, (host, port), share=False) as probe:
            probe.listen(_BACKLOG)
    except OSError:
        return False
    return True


def _bound(service: Service, address: Address, *, share: bool) -> list[socket.socket]:
    """Return one bound socket for each IP address of the host, all on one port."""
    with ExitStack() as stack:
        port = address.port
        sockets: list[socket.socket] = []
        missing: OSError | None = None
        try:
            for family, host in _resolved(address):
                try:
                    sockets.append(stack.enter_context(_bind(family, (host, port), share=share)))
                    port = sockets[0].getsockname()[1]
                except OSError as error:
                    if error.errno not in _ABSENT:
                        raise
                    missing = error
            if missing and not sockets:
                raise missing
        except OSError as error:
            raise _refusal(service, address, error) from None
        stack.pop_all()
        return sockets


def _resolved(address: Address) -> list[tuple[int, str]]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:
        # What Python says to a name with an empty or overlong label, before it asks anybody.
        raise OSError(errno.EINVAL, "no host name") from None
    # A hosts file may name one address twice.
    return list(dict.fromkeys((family, str(where[0])) for family, _, _, _, where in found))


def _bind(family: int, where: tuple[str, int], *, share: bool) -> socket.socket:
    taken = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Without it a restart would meet the connections of the last run that are still in TIME_WAIT.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, share)
        taken.bind(where)
        if share:
            # Off again: two sockets that have it and do not listen would both get the port.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        taken.close()
        raise
    return taken


def _listen(service: Service, address: Address, probe: socket.socket) -> None:
    try:
        probe.listen(_BACKLOG)
    except OSError as error:
        raise _refusal(service, address, error) from None


def _refusal(service: Service, address: Address, error: OSError) -> ConfigError:
    reason = error.strerror or str(error)
    if error.errno in {errno.EADDRINUSE, errno.EACCES}:
        reason = "taken" if error.errno == errno.EADDRINUSE else reason
        return ConfigError(service.port_setting, "a free port", f"{address.netloc} ({reason})")
    # By convention the host's setting is called like the port's.
    setting = f"{service.port_setting.removesuffix('_PORT')}_HOST"
    return ConfigError(setting, "a name or an IP address of this machine", f"{address.host} ({reason})")
