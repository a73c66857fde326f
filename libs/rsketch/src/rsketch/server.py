"""
`rsketch server`: from names and settings to services that run, in this process or in several.

Everything is checked before anything is opened, and telemetry is switched on before a service's code is loaded.
"""

import asyncio
import logging
import sys
from argparse import Namespace
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint
from typing import Self

import rsketch_telemetry
import uvloop
from rsketch_telemetry import Telemetry
from rsketch_telemetry.logs import formatter

from rsketch import banner, catalog, dashboard, identity, logs, ports, settings
from rsketch.dashboard import DashboardConfig
from rsketch.errors import ServiceError, UsageError
from rsketch.launch import Dashboard, Pending, known, launched
from rsketch.link import WorkerLink
from rsketch.logs import LogConfig
from rsketch.ordering import opening_order
from rsketch.runner import serve
from rsketch.service import REUSE_PORT, Address, Service
from rsketch.stop import Stop
from rsketch.supervisor import Supervisor

__all__ = ["ServerConfig", "run"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """
    Settings of the host itself.

    Attributes:
        logs: What log lines look like.
        dashboard: Whether there may be one, and where.
        flush_seconds: Time allowed for exporting what is left after all services have closed.
    """

    logs: LogConfig = field(default_factory=LogConfig)
    dashboard: DashboardConfig = field(default_factory=DashboardConfig)
    flush_seconds: float = 3.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings from *environ*. Raises ConfigError where one is malformed."""
        flush = settings.seconds(environ, "RSKETCH_TELEMETRY_FLUSH_SECONDS", cls().flush_seconds, high=300.0)
        return cls(logs=LogConfig.from_env(environ), dashboard=DashboardConfig.from_env(environ), flush_seconds=flush)


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
    lines = logs.configure(config.logs, formatter(config.logs.format))
    with _telemetry(config, environ, names) as telemetry:
        plan = _plan(names, entries, environ)
        _Server(
            config=config, options=options, argv=argv, plan=plan, telemetry=telemetry, lines=lines, stop=stop, link=link
        ).run()


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
    try:
        telemetry = rsketch_telemetry.configure(environ, identity=identity.attributes(names))
    except rsketch_telemetry.ConfigurationError as error:
        raise UsageError(str(error)) from None
    try:
        yield telemetry
    except ServiceError as error:
        logger.error("%s", error, exc_info=error.__cause__)  # noqa: TRY400 - what happened there, not here
        raise
    finally:
        telemetry.shutdown(config.flush_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """
    A process that serves, or one that supervises those that do.

    Attributes:
        lines: What writes the log.
        link: To the supervisor of this process, if it has one.
    """

    config: ServerConfig
    options: Namespace
    argv: Sequence[str]
    plan: _Plan
    telemetry: Telemetry
    lines: logging.Handler
    stop: Stop
    link: WorkerLink | None

    def run(self) -> None:
        """Run until the stop is requested."""
        if self.options.workers > 1 and self.link is None:
            # A record that it exported would start an exporter; whoever serves nothing exports nothing.
            self.telemetry.detach_logging()
            self._supervise()
        else:
            self._serve()

    def _serve(self) -> None:
        plan, telemetry = self.plan, self.telemetry
        # They have a level of their own, to which RSKETCH_LOG_LEVEL would otherwise mean nothing.
        telemetry.log_access(max(logging.INFO, logging.getLogger().level))
        if self.options.console:
            telemetry.show_spans()
        if not settings.boolean(plan.environ, REUSE_PORT, default=False):
            ports.check(plan.services, plan.wanted)
        pending = self._dashboard()
        # After all that may refuse the start: its line is then the only one.
        rsketch_telemetry.instrument(plan.environ)
        found = pending(self.stop)
        if found.url is not None:
            self._show_in(found.url)
        link = self.link
        on_all = partial(self._announce, found) if link is None else lambda _: link.ready()
        _in_loop(serve(plan.services, plan.environ, self.stop, on_first=telemetry.start, on_all=on_all))

    def _supervise(self) -> None:
        plan, command = self.plan, [*_start(self.argv), "server", *self.plan.services]
        with ports.held(plan.services, plan.wanted) as addresses:
            # Awaited before there are workers: only here it shows when it ends instead.
            found = self._dashboard()(self.stop)
            supervisor = Supervisor(
                [*command, "--console"] if self.options.console else command,
                self._for_workers(addresses, found),
                count=self.options.workers,
                stop=self.stop,
                on_ready=lambda: self._announce(found, addresses),
            )
            self.stop.abort = supervisor.kill
            _in_loop(supervisor.run())

    def _for_workers(self, addresses: Mapping[str, Address], found: Dashboard) -> Mapping[str, str]:
        plan = self.plan
        resolved = {plan.services[name].port_setting: str(address.port) for name, address in addresses.items()}
        return {**dashboard.for_workers(plan.environ, found.address), **resolved, REUSE_PORT: "1"}

    def _dashboard(self) -> Pending:
        """Start a dashboard where one is wanted, or find the one that runs."""
        config, environ, summary = self.config.dashboard, self.plan.environ, self.telemetry.summary
        if self.link is not None:
            return known(Dashboard(address=dashboard.of_supervisor(environ)))
        installed = catalog.is_published(catalog.COMMANDS, dashboard.COMMAND)
        if not installed or not dashboard.is_wanted(config, environ, summary):
            return known(Dashboard())
        if reason := dashboard.obstacle(config, summary, self.plan.wanted):
            return known(Dashboard(said=reason))
        return launched(config, summary, [*_start(self.argv), dashboard.COMMAND], environ)

    def _show_in(self, url: str) -> None:
        """Let what is worth a look be there at once, and lead to it."""
        self.telemetry.hasten()
        self.lines.setFormatter(formatter(self.config.logs.format, trace_url=f"{url}/t/"))

    def _announce(self, found: Dashboard, addresses: Mapping[str, Address]) -> None:
        facts = banner.facts(
            addresses,
            self.telemetry.summary,
            self.config.logs,
            workers=self.options.workers,
            console=self.options.console,
            dashboard=found.said,
        )
        _print(self.config.logs, facts)


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


def _print(config: LogConfig, facts: Sequence[tuple[str, str]]) -> None:
    if config.format == "json":
        # A block of plain lines would break whoever parses the log.
        logger.info("%s", banner.line(facts))
        return
    with suppress(OSError):
        print(banner.page(facts), file=sys.stderr, flush=True)
