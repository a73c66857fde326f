"""
`rsketch server`: from names and settings to services that run, in this process or in several.

Everything is checked before anything is opened, and telemetry is switched on before a service's code is loaded.
"""

import asyncio
import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Self

import rsketch_telemetry
import uvloop
from rsketch_telemetry import Telemetry
from rsketch_telemetry.logs import formatter

from rsketch import banner, catalog, identity, logs, ports, settings
from rsketch.errors import ServiceError, UsageError
from rsketch.link import WorkerLink
from rsketch.logs import LogConfig
from rsketch.ordering import opening_order
from rsketch.runner import serve
from rsketch.service import REUSE_PORT, Address, Service
from rsketch.stop import Stop
from rsketch.supervisor import Supervisor

__all__ = ["ServerConfig", "run"]

_Opened = Callable[[Mapping[str, Address]], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """
    Settings of the host itself.

    Attributes:
        logs: What log lines look like.
        flush_seconds: Time allowed for exporting what is left after all services have closed.
    """

    logs: LogConfig = field(default_factory=LogConfig)
    flush_seconds: float = 3.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings from *environ*. Raises ConfigError where one is malformed."""
        flush = settings.seconds(environ, "RSKETCH_TELEMETRY_FLUSH_SECONDS", cls().flush_seconds, high=300.0)
        return cls(logs=LogConfig.from_env(environ), flush_seconds=flush)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is going to run: services in the order of opening, and where their settings say that they listen."""

    services: Mapping[str, Service]
    wanted: Mapping[str, Address]
    environ: Mapping[str, str]


def run(options: Namespace, environ: Mapping[str, str], argv: Sequence[str], stop: Stop) -> None:
    """
    Run services until the stop is requested and they are drained.

    Args:
        options: What the command line says.
        environ: The settings.
        argv: The whole command line of this process; workers are started the same way.
        stop: Ends the serving.

    Raises:
        UsageError: An argument or a setting is malformed; nothing was opened. Without text in a worker, which has told
            its supervisor.
        RsketchError: A service failed; all are closed.
    """
    link = WorkerLink(stop) if options.worker else None
    try:
        _run(options, environ, argv, stop, link)
    except UsageError as error:
        if link is None:
            raise
        link.refused(str(error))
        raise UsageError from error


def _run(
    options: Namespace, environ: Mapping[str, str], argv: Sequence[str], stop: Stop, link: WorkerLink | None
) -> None:
    entries = catalog.published(catalog.SERVICES)
    names = catalog.chosen(options.services, entries)
    config = ServerConfig.from_env(environ)
    logs.configure(config.logs, formatter(config.logs.format))
    with _telemetry(config, environ, names) as telemetry:
        plan = _plan(names, entries, environ)

        def announce(addresses: Mapping[str, Address]) -> None:
            facts = banner.facts(
                addresses, telemetry.summary, config.logs, workers=options.workers, console=options.console
            )
            _announce(config.logs, facts)

        if options.workers > 1 and link is None:
            # A record that it exported would start an exporter; whoever serves nothing exports nothing.
            telemetry.detach_logging()
            _supervise(plan, [*_start(argv), "server", *plan.services], options, stop, announce)
        else:
            _serve(plan, telemetry, options, stop, (lambda _: link.ready()) if link else announce)


def _plan(names: Sequence[str], entries: Mapping[str, EntryPoint], environ: Mapping[str, str]) -> _Plan:
    loaded = {name: catalog.load_service(entries[name]) for name in names}
    services = {name: loaded[name] for name in opening_order({name: loaded[name].needs for name in names})}
    return _Plan(
        services=services,
        wanted={name: service.requested(environ) for name, service in services.items()},
        environ=environ,
    )


@contextmanager
def _telemetry(config: ServerConfig, environ: Mapping[str, str], names: Sequence[str]) -> Iterator[Telemetry]:
    """Telemetry from before services are loaded until they have closed; an unforeseen failure is exported as well."""
    telemetry = rsketch_telemetry.configure(environ, identity=identity.attributes(names))
    try:
        yield telemetry
    except ServiceError as error:
        logger.error("%s", error, exc_info=error.__cause__)  # noqa: TRY400 - what happened there, not here
        raise
    finally:
        telemetry.shutdown(config.flush_seconds)


def _serve(plan: _Plan, telemetry: Telemetry, options: Namespace, stop: Stop, on_all: _Opened) -> None:
    # They have a level of their own, to which RSKETCH_LOG_LEVEL would otherwise mean nothing.
    telemetry.log_access(max(logging.INFO, logging.getLogger().level))
    if options.console:
        telemetry.show_spans()
    if not settings.boolean(plan.environ, REUSE_PORT, default=False):
        ports.check(plan.services, plan.wanted)
    # After all that may refuse the start: its line is then the only one.
    rsketch_telemetry.instrument(plan.environ)
    _in_loop(serve(plan.services, plan.environ, stop, on_first=telemetry.start, on_all=on_all))


def _supervise(plan: _Plan, command: Sequence[str], options: Namespace, stop: Stop, on_all: _Opened) -> None:
    with ports.held(plan.services, plan.wanted) as addresses:
        resolved = {plan.services[name].port_setting: str(address.port) for name, address in addresses.items()}
        supervisor = Supervisor(
            [*command, "--console"] if options.console else command,
            {**plan.environ, **resolved, REUSE_PORT: "1"},
            count=options.workers,
            stop=stop,
            on_ready=lambda: on_all(addresses),
        )
        stop.abort = supervisor.kill
        _in_loop(supervisor.run())


def _in_loop(work: Coroutine[None, None, None]) -> None:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
    except asyncio.CancelledError:
        raise ServiceError("a service ended by itself and did not say why") from None


def _start(argv: Sequence[str]) -> list[str]:
    """What starts `rsketch` again with this interpreter and its options."""
    found = identity.split(argv)
    return [sys.executable, *found[0][1:]] if found else [sys.executable, "-m", "rsketch"]


def _announce(config: LogConfig, facts: Sequence[tuple[str, str]]) -> None:
    if config.format == "json":
        # A block of plain lines would break whoever parses the log.
        logger.info("%s", banner.line(facts))
        return
    with suppress(OSError):
        print(banner.page(facts), file=sys.stderr, flush=True)
