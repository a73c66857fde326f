"""
One process's telemetry: configured once, by whoever comes first, and ended once.

Importing this module is cheap and reads nothing: `opentelemetry-instrument` imports the package in every process.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TextIO

from rsketch_telemetry import access, environment
from rsketch_telemetry.environment import Complaint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rsketch_telemetry.sdk import Providers

__all__ = ["Exported", "Summary", "Telemetry", "configure", "current", "instrument"]

_log = logging.getLogger("rsketch_telemetry")
_lock = threading.RLock()
_current: Telemetry | None = None

_EXIT_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """Where one signal goes: its name, the OTLP protocol, and the endpoint without secrets."""

    signal: str
    protocol: str
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """
    What telemetry does, in words for a start-up banner; holds no secret.

    Attributes:
        disabled: `OTEL_SDK_DISABLED` is true: nothing is recorded.
        sampler: Its name as `OTEL_TRACES_SAMPLER` has it, and its argument, behind the sampling rules.
        recorder: Which recorder serves the instrumentors, `lean` or `sdk`, and why.
        destinations: Empty where nothing is exported over OTLP.
        foreign: Exporters other than OTLP, as `signal: name`.
    """

    disabled: bool
    service_name: str
    sampler: str
    recorder: str
    destinations: tuple[Exported, ...]
    foreign: tuple[str, ...] = ()


class Telemetry:
    """
    The telemetry of this process; made by `configure`.

    Args:
        providers: None where telemetry is switched off.
        identified: Whether the program, or a package that knows it, has said who it is: it was made for this library.
    """

    def __init__(self, providers: Providers | None, *, identified: bool = False) -> None:
        self._providers = providers
        self._ended = False
        self._shows_spans = False
        self.identified = identified

    @property
    def summary(self) -> Summary:
        """What is recorded and where it goes."""
        if self._providers is None:
            return Summary(disabled=True, service_name="", sampler="", recorder="", destinations=())
        made = self._providers
        return Summary(
            disabled=False,
            service_name=str(made.tracers.resource.attributes.get("service.name", "")),
            sampler=made.sampler,
            recorder="sdk (spans are shown)" if self._shows_spans else f"{made.choice.recorder} ({made.choice.reason})",
            destinations=tuple(
                Exported(signal=to.signal.value, protocol=to.protocol, endpoint=to.masked) for to in made.destinations
            ),
            foreign=made.foreign,
        )

    @property
    def access_log(self) -> bool:
        """Whether one line a call is logged, by logger `rsketch_telemetry.access`."""
        return logging.getLogger(access.LOGGER_NAME).isEnabledFor(logging.INFO)

    @access_log.setter
    def access_log(self, on: bool) -> None:
        self.log_access(logging.INFO if on else access.OFF)

    def log_access(self, level: int = logging.INFO) -> None:
        """Log the access lines of *level* and above: INFO for every call served, WARNING for those that failed."""
        logging.getLogger(access.LOGGER_NAME).setLevel(level)

    def detach_logging(self) -> None:
        """Export none of the program's log records from now on; its own handlers get them as before."""
        if self._providers is not None:
            from rsketch_telemetry import logs

            logs.uninstall()

    def show_spans(self, stream: TextIO | None = None) -> None:
        """Write each finished trace of this process to *stream*, None for stdout, as a tree, one line a span."""
        if self._providers is not None:
            from rsketch_telemetry.console import SpanTree

            self._shows_spans = True
            self._providers.tracers.add_span_processor(SpanTree(sys.stdout if stream is None else stream))

    def watch_loop(self) -> None:
        """Measure how late the event loop of this thread is, for whoever starts a server on it; twice is once."""
        if self._providers is not None and self._providers.lag is not None:
            self._providers.lag.watch()

    def start(self) -> None:
        """Start exporting now rather than with the first item, so that metrics go out at their interval."""
        if self._providers is not None:
            self._providers.pipeline.start()

    def hasten(self, *, spans_seconds: float = 0.3, metrics_seconds: float = 5.0) -> None:
        """
        Export sooner from now on, for somebody who watches; each interval that a variable states is kept to.

        Args:
            spans_seconds: Between two exports of spans, and of log records.
            metrics_seconds: Between two exports of metrics.
        """
        if self._providers is not None:
            from rsketch_telemetry.signal import Signal

            soon = dict.fromkeys((Signal.TRACES, Signal.LOGS), spans_seconds)
            self._providers.pipeline.hasten({**soon, Signal.METRICS: metrics_seconds})

    def flush(self, timeout_seconds: float = _EXIT_SECONDS) -> bool:
        """Send what there is; return whether all of it was delivered in time."""
        return self._providers is None or self._providers.pipeline.flush(timeout_seconds)

    def shutdown(self, timeout_seconds: float = _EXIT_SECONDS) -> bool:
        """
        Flush all signals against one deadline and stop; return whether everything was delivered.

        A second call does nothing. Spans that end later are not recorded.
        """
        if self._providers is None or self._ended:
            return True
        self._ended = True
        made = self._providers
        if made.lag is not None:
            made.lag.stop()
        delivered = made.pipeline.shutdown(timeout_seconds)
        _quietly(made.tracers.shutdown)
        if made.foreign:
            _quietly(made.loggers.shutdown)
            _quietly(lambda: made.meters.shutdown(timeout_seconds * 1000))
        return delivered


def _quietly(shutdown: Callable[[], None]) -> None:
    try:
        shutdown()
    except Exception:  # noqa: BLE001 - other people's exporters; the program is about to end and must end well
        _log.exception("telemetry: an exporter failed to shut down")


def current() -> Telemetry | None:
    """Return this process's telemetry, or None before `configure`."""
    return _current


def serving() -> None:
    """Take note that a server starts on the event loop of this thread: an idle one is heard of from then on, too."""
    if _current is not None:
        _current.watch_loop()


def configure(environ: Mapping[str, str] | None = None, *, identity: Mapping[str, str] | None = None) -> Telemetry:
    """
    Switch telemetry on: traces, metrics and logs over OTLP as the `OTEL_*` variables say. Only the first call counts.

    A provider that the program set before is left alone, which is said once. Malformed values are replaced by their
    defaults and logged, one line each.

    Args:
        environ: None for the process environment.
        identity: Resource attributes that hold where the environment says nothing else. None asks the installed
            packages (entry points `rsketch_telemetry.identity`, each called with `sys.orig_argv`).

    Returns:
        The process's telemetry, the same for every call.

    Raises:
        ConfigurationError: `RSKETCH_TELEMETRY_RECORDER=lean` cannot be done with the other settings.
    """
    global _current  # noqa: PLW0603 - one process has one telemetry
    with _lock:
        if _current is None:
            given = environment.process_environ() if environ is None else environ
            _current = _configured(given, identity)
            atexit.register(_current.shutdown)
            _end_with_forked_workers(_current)
        return _current


def instrument(environ: Mapping[str, str] | None = None) -> None:
    """
    Load every installed instrumentor, as `opentelemetry-instrument` does; nothing where that has happened already.

    Args:
        environ: None for the process environment.
    """
    # Imported late: upstream's part of it reads the propagators, which `configure` must have checked before.
    configure(environ)
    from rsketch_telemetry import distro

    distro.instrument(environ)


def _configured(given: Mapping[str, str], identity: Mapping[str, str] | None) -> Telemetry:
    environ, complaints = environment.checked(given)
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    _load_propagators(environ, complaints)
    with environment.presented(environ):
        who = _identity(identity)
        providers = None if disabled else _providers(environ, who, complaints)
    # Of several workers with one environment, their supervisor has said it.
    for complaint in () if "RSKETCH_TELEMETRY_WORKER" in environ else complaints:
        _log.warning("telemetry: %s", complaint)
    return Telemetry(providers, identified=bool(who))


def _load_propagators(environ: dict[str, str], complaints: list[Complaint]) -> None:
    """Import the API's propagators now: that fails on a bad `OTEL_PROPAGATORS`, wherever it happens first."""
    with environment.presented(environ):
        try:
            import opentelemetry.propagate
        except Exception as error:  # noqa: BLE001 - a propagator of another package that does not load
            reason = f"names of propagators that can be loaded ({type(error).__name__})"
            name, used = "OTEL_PROPAGATORS", "tracecontext,baggage"
            complaints.append(Complaint(variable=name, value=environ.pop(name, ""), reason=reason, used=used))
    with environment.presented(environ):
        import opentelemetry.propagate  # noqa: F401 - a failed import is tried again


def _end_with_forked_workers(telemetry: Telemetry) -> None:
    """Flush in children of `multiprocessing` that were forked: they end without what `atexit` has registered."""
    from multiprocessing import util

    util.register_after_fork(telemetry, lambda forked: util.Finalize(None, forked.shutdown, exitpriority=0))


def _providers(
    environ: Mapping[str, str], identity: Mapping[str, str], complaints: list[Complaint]
) -> Providers | None:
    from rsketch_telemetry import logs
    from rsketch_telemetry.sdk import create_providers

    providers = create_providers(environ, identity, complaints)
    if providers.disabled:
        return None
    _set_globals(providers)
    if providers.logs_leave:
        logs.install(providers.loggers, providers.pipeline)
    if str(providers.tracers.resource.attributes["service.name"]).startswith("unknown_service"):
        _log.warning("telemetry: this service has no name; set OTEL_SERVICE_NAME")
    return providers


def _set_globals(providers: Providers) -> None:
    """Set the global providers where the program has set none."""
    from opentelemetry import _logs, metrics, trace
    from opentelemetry._logs import _internal as logs_internal
    from opentelemetry.metrics import _internal as metrics_internal

    if trace._TRACER_PROVIDER is None:
        trace.set_tracer_provider(providers.tracers)
    else:
        _log.warning("telemetry: the program has a tracer provider of its own, which is left alone")
    if metrics_internal._METER_PROVIDER is None:
        metrics.set_meter_provider(providers.meters)
    else:
        _log.warning("telemetry: the program has a meter provider of its own, which is left alone")
    if logs_internal._LOGGER_PROVIDER is None:
        _logs.set_logger_provider(providers.loggers)
    else:
        _log.warning("telemetry: the program has a logger provider of its own, which is left alone")


def _identity(given: Mapping[str, str] | None) -> dict[str, str]:
    """Return the attributes given, or those of every installed package that knows this program by its arguments."""
    if given is not None:
        return dict(given)
    found: dict[str, str] = {}
    for entry_point in entry_points(group="rsketch_telemetry.identity"):
        try:
            found |= entry_point.load()(sys.orig_argv)
        except Exception:  # noqa: BLE001 - another package's code; without it the service still has a name
            _log.exception("telemetry: %s does not say who this process is", entry_point.value)
    return found
