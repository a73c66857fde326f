"""
The contract between the host and a service: what a package publishes as an entry point in `rsketch.services`.

A service is an async context manager: it serves while it is open, and closing it drains it. The host enters and leaves
it in one task. A service that fails while it is open cancels that task and raises what went wrong when it is left,
which is what an `asyncio.TaskGroup` around its `yield` does; all services then stop.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

__all__ = ["REUSE_PORT", "Address", "Command", "Service"]

REUSE_PORT = "RSKETCH_REUSE_PORT"
"""Set to 1 by the supervisor in a worker's mapping: join the port that the supervisor holds (`SO_REUSEPORT`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """
    Where something listens.

    Attributes:
        scheme: `http`, `https`, `grpc` or `grpcs`.
        host: Name or IP address, without brackets.
        port: TCP port; 0 only in an address that was asked for, never in one that is bound.
    """

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """`host:port`, an IPv6 host in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """
    One deployable service, as its package publishes it.

    Attributes:
        serve: Checks its settings before it starts anything, serves while open, yields the bound address. Closing
            turns readiness off, refuses new work, lets work in flight finish within the service's drain time, then
            ends the rest. Raises ConfigError for a bad setting or a port that is taken, StartError for the rest.
        requested: The address its settings ask for, after checking all of them, without opening anything. Raises
            ConfigError.
        port_setting: The variable that holds its port; the supervisor puts the resolved port there.
        needs: Names of services that are opened before it where they are installed and asked for. The address of
            each opened one, as `host:port`, is in the mapping as `RSKETCH_<NAME>_ADDRESS`.
    """

    serve: Callable[[Mapping[str, str]], AbstractAsyncContextManager[Address]]
    requested: Callable[[Mapping[str, str]], Address]
    port_setting: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """
    A sub-command of `rsketch`, published as an entry point in `rsketch.commands` under its name.

    Attributes:
        help: One line for `rsketch --help`.
        arguments: Adds its arguments to the parser it is given.
        run: Does the work and returns the exit status. May raise RsketchError.
    """

    help: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace, Mapping[str, str]], int]
