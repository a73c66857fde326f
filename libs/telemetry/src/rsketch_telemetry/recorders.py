"""
Which recorder serves: the lean one where the configuration is one that it knows, else the SDK's; and why.

Importing this module imports neither; what is not chosen is never loaded.
"""

import logging
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from opentelemetry import trace
from opentelemetry._logs import LoggerProvider, get_logger_provider
from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import TracerProvider

from rsketch_telemetry import semconv
from rsketch_telemetry.environment import ConfigurationError
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.otlp import wire
from rsketch_telemetry.otlp.frame import Item, Scope
from rsketch_telemetry.pipeline import Pipeline
from rsketch_telemetry.recorder import Recorder, guarded
from rsketch_telemetry.sdk_recorder import SdkRecorder
from rsketch_telemetry.signal import Signal
from rsketch_telemetry.version import __version__

if TYPE_CHECKING:
    from rsketch_telemetry.lean.cells import Cells

__all__ = ["VARIABLE", "Choice", "Made", "choose", "create_recorder"]

_log = logging.getLogger("rsketch_telemetry")

VARIABLE: Final = "RSKETCH_TELEMETRY_RECORDER"
_INTERNAL_METRICS = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"
_CONFIGURATORS = tuple(f"OTEL_PYTHON_{kind}_CONFIGURATOR" for kind in ("TRACER", "METER"))
_HISTOGRAMS = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
_TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
_EXEMPLARS = "OTEL_METRICS_EXEMPLAR_FILTER"


@dataclass(frozen=True, slots=True)
class Choice:
    """
    Which recorder serves the instrumentors.

    Attributes:
        reason: Why, in words for a banner.
    """

    recorder: Literal["lean", "sdk"]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """
    Providers of the SDK, and what they have been made of.

    Attributes:
        readers: Of metrics.
        views: Of metrics.
        own: The classes of what is ours among processors of spans and readers.
    """

    environ: Mapping[str, str]
    tracers: Any
    meters: Any
    loggers: LoggerProvider
    pipeline: Pipeline
    readers: Sequence[object]
    views: Sequence[object]
    own: Collection[type]


def choose(made: Made) -> tuple[Choice, Callable[[], list[Item]]]:
    """
    Choose the recorder for instrumentors that are given these providers, or find them as the global ones.

    Returns:
        The choice, and what returns the current metrics of the lean recorders, of which there may be none.

    Raises:
        ConfigurationError: `RSKETCH_TELEMETRY_RECORDER=lean` cannot be done.
    """
    asked = made.environ.get(VARIABLE, "auto")
    if asked == "sdk":
        return Choice("sdk", f"{VARIABLE}=sdk"), list
    against = _reason_against(made)
    if against is None:
        plain = _plain[made.tracers] = _Plain(made)
        return Choice("lean", f"{VARIABLE}=lean" if asked == "lean" else "a plain configuration"), plain.items
    if asked == "lean":
        raise ConfigurationError(f"{VARIABLE}=lean cannot be done: {against}; auto and sdk can")
    return Choice("sdk", against), list


def create_recorder(
    scope: str,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    logger_provider: LoggerProvider | None = None,
    settings: InstrumentorSettings | None = None,
) -> Recorder:
    """
    Return the recorder for an instrumentor, which lets no failure of its own reach a call.

    Args:
        scope: Name of the instrumentation scope, the instrumentor's module.
        tracer_provider: None for the global one; so for the others.
        settings: What is recorded beyond the default.
    """
    given = settings or InstrumentorSettings()
    tracers = tracer_provider or trace.get_tracer_provider()
    meters = meter_provider or get_meter_provider()
    loggers = logger_provider or get_logger_provider()
    plain = _plain.get(tracers)
    if plain is not None and plain.is_of(meters, loggers) and not given.duplicates:
        return plain.recorder(scope, given)
    sdk = SdkRecorder(scope, tracer_provider=tracers, meter_provider=meters, logger_provider=loggers, settings=given)
    return guarded(sdk)


class _Plain:
    """Providers whose configuration is plain, and what the lean recorders made for them share."""

    def __init__(self, made: Made) -> None:
        self._delta = made.environ.get(_TEMPORALITY, "cumulative") != "cumulative"
        self._exemplars = made.environ.get(_EXEMPLARS, "trace_based").lower()
        # The providers are the key of what is here.
        self._tracers, self._meters = weakref.ref(made.tracers), weakref.ref(made.meters)
        self._loggers = weakref.ref(made.loggers)
        self._pipeline = made.pipeline
        self._cells: dict[str, Cells] = {}

    def is_of(self, meters: MeterProvider, loggers: LoggerProvider) -> bool:
        """Return whether these are the other providers of the configuration."""
        return self._meters() is meters and self._loggers() is loggers

    def items(self) -> list[Item]:
        """Return the metrics of all scopes as they are now."""
        return [item for cells in tuple(self._cells.values()) for item in cells.items()]

    def recorder(self, scope: str, settings: InstrumentorSettings) -> Recorder:
        """Return a recorder for a scope."""
        from rsketch_telemetry.lean.recorder import LeanRecorder, Plain
        from rsketch_telemetry.lean.sampling import follows_parent, known

        tracers: Any = self._tracers()
        message = wire.text(1, scope) + wire.text(2, __version__)
        encoded = Scope(message, semconv.SCHEMA_URL)
        cells = self._cells.get(scope)
        if cells is None:
            cells = self._cells[scope] = self._new_cells(encoded)
        decisions = known(tracers.sampler)
        if decisions is None:
            # The program has put another sampler there meanwhile.
            return guarded(self._sdk(scope, settings, None))
        plain = Plain(
            tracers=tracers,
            decisions=decisions,
            roots=follows_parent(tracers.sampler),
            append=self._pipeline.inlet(Signal.TRACES, encoded),
            cells=cells,
            copies_baggage=_copies_baggage(tracers),
            unencodable=lambda: self._pipeline.unencodable(Signal.TRACES),
        )
        return LeanRecorder(plain, self._sdk(scope, settings, cells))

    def _sdk(self, scope: str, settings: InstrumentorSettings, series: "Cells | None") -> SdkRecorder:
        return SdkRecorder(
            scope,
            tracer_provider=self._tracers(),
            meter_provider=self._meters(),
            logger_provider=self._loggers(),
            settings=settings,
            series=series,
        )

    def _new_cells(self, scope: Scope) -> "Cells":
        from rsketch_telemetry.lean.cells import Cells

        exemplars = (self._exemplars == "always_on", self._exemplars != "always_off")
        return Cells(scope, delta=self._delta, exemplars=exemplars, found=self._pipeline.start)


_plain: "weakref.WeakKeyDictionary[Any, _Plain]" = weakref.WeakKeyDictionary()


def _copies_baggage(tracers: Any) -> bool:
    from rsketch_telemetry.processors import BaggageSpans

    return any(isinstance(each, BaggageSpans) for each in tracers._active_span_processor._span_processors)


def _reason_against(made: Made) -> str | None:
    """Return why the lean recorder cannot serve, or None where it can."""
    try:
        return _of_settings(made.environ) or _of_spans(made) or _of_metrics(made)
    except Exception as error:  # noqa: BLE001 - a release of the SDK that is another one inside
        return f"it does not know this release of the SDK ({type(error).__name__}: {error})"


def _of_settings(environ: Mapping[str, str]) -> str | None:
    if environ.get(_HISTOGRAMS, "explicit_bucket_histogram") != "explicit_bucket_histogram":
        return f"{_HISTOGRAMS} asks for other histograms"
    if environ.get(_INTERNAL_METRICS, "").strip().lower() == "true":
        return f"{_INTERNAL_METRICS} has the SDK count its spans"
    if duplicates := InstrumentorSettings.from_env(environ).duplicates:
        return f"the names of older conventions are asked for as well ({', '.join(sorted(duplicates))})"
    return next((f"{name} is set" for name in _CONFIGURATORS if environ.get(name)), None)


def _of_spans(made: Made) -> str | None:
    from rsketch_telemetry.lean import internals, sampling

    internals.check(made.tracers)
    if internals.limits(made.tracers) is not None:
        return f"attributes of spans are limited ({internals.limits(made.tracers)})"
    if sampling.known(made.tracers.sampler) is None:
        return f"it does not know the sampler {made.tracers.sampler.get_description()}"
    processors = made.tracers._active_span_processor._span_processors
    others = [type(each).__name__ for each in processors if type(each) not in made.own]
    return f"spans also go to {others[0]}" if others else None


def _of_metrics(made: Made) -> str | None:
    others = [type(each).__name__ for each in made.readers if type(each) not in made.own]
    if others:
        return f"metrics also go to {others[0]}"
    return "views change metrics" if tuple(made.views) else None
