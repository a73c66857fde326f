"""The SDK's providers, built from checked settings, with the pipeline behind them."""

import functools
import inspect
import logging
import os
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from opentelemetry.context import Context
from opentelemetry.propagate import set_global_textmap
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk import metrics as sdk_metrics
from opentelemetry.sdk._logs import LoggerProvider, LogRecordLimits, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    ExemplarFilter,
    MeterProvider,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import Aggregation, ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Sampler
from opentelemetry.util.types import Attributes

from rsketch_telemetry import baggage, pipeline_metrics, process, sampling
from rsketch_telemetry.config_file import Declared, declared, placed
from rsketch_telemetry.destinations import Destination, destination
from rsketch_telemetry.environment import Complaint
from rsketch_telemetry.event_loop import LoopLag
from rsketch_telemetry.otlp.encode import metric_items, resource_message
from rsketch_telemetry.otlp.frame import Item
from rsketch_telemetry.otlp.send import sender
from rsketch_telemetry.pipeline import Lane, Pipeline, Reporter, Segment
from rsketch_telemetry.processors import BaggageLogs, BaggageSpans, PipelineLogs, PipelineSpans, count_unencodable
from rsketch_telemetry.recorders import Choice, Made, choose
from rsketch_telemetry.redaction import clean
from rsketch_telemetry.rule_sampler import by_rules
from rsketch_telemetry.signal import Signal
from rsketch_telemetry.version import __version__

__all__ = ["Providers", "create_providers"]

_log = logging.getLogger("rsketch_telemetry")
_DISTRO = {"telemetry.distro.name": "rsketch-telemetry", "telemetry.distro.version": __version__}
_OTLP = frozenset({"otlp", "otlp_proto_grpc", "otlp_proto_http"})
_BUILT_IN_SAMPLERS = frozenset(
    {
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    }
)


@dataclass(frozen=True, slots=True)
class Providers:
    """What one process records with, and how it leaves."""

    tracers: TracerProvider
    meters: MeterProvider
    loggers: LoggerProvider
    pipeline: Pipeline
    destinations: tuple[Destination, ...]
    foreign: tuple[str, ...]
    """Exporters other than OTLP that the environment asks for, such as `console`."""
    logs_leave: bool
    """Whether anything is done with log records."""
    sampler: str
    """Its name, as `OTEL_TRACES_SAMPLER` has it, and its argument, behind the sampling rules."""
    lag: LoopLag | None
    """Measures event loops; None where nothing is measured of the process."""
    disabled: bool
    """Whether a configuration file switches telemetry off; the providers do nothing then."""
    choice: Choice
    """Which recorder serves the instrumentors."""


def create_providers(environ: Mapping[str, str], identity: Mapping[str, str], complaints: list[Complaint]) -> Providers:
    """
    Build the providers and the pipeline; starts no thread and opens no connection.

    The caller presents *environ* as the process environment meanwhile (`environment.presented`), as the SDK reads its
    limits, sampler and detectors there.

    Args:
        environ: Checked settings; a configuration file that they name takes the place of most.
        identity: Resource attributes that hold where the environment says nothing else.
        complaints: Malformed destinations, and a file that cannot be used, are added.
    """
    file = declared(environ, lambda found: _identified(found, identity, environ), complaints)
    base = _of_variables(environ, identity) if file is None else _of_file(file)
    given = base.environ
    names = {signal: _exporter_names(given, signal) for signal in Signal}
    said: list[Complaint] = []
    destinations = tuple(destination(given, signal, said) for signal in Signal if _OTLP & set(names[signal]))
    complaints += said if file is None else map(placed, said)
    foreign = {signal: _foreign(signal, names[signal]) for signal in Signal}

    reader = _PipelineReader(given)
    lanes = [_lane(given, to, reader) for to in destinations]
    pipeline = Pipeline(lanes, _EncodedResource(lambda: base.tracers.resource), Reporter())
    reader.feed(pipeline)

    sampler = _sample_by_rules(base.tracers, given, base.sampler)
    own_reader = [reader] if pipeline.takes(Signal.METRICS) else []
    readers = [*own_reader, *map(_periodic, foreign[Signal.METRICS].values()), *base.readers]
    meters = MeterProvider(
        metric_readers=readers,
        resource=base.tracers.resource,
        exemplar_filter=_Starting(given, pipeline),
        shutdown_on_exit=False,
        **base.meters,
    )
    lag = _observe_process(given, meters, pipeline, destinations) if readers else None
    _start_with_observed(meters, pipeline)
    _renew_after_fork(meters)
    _process_spans(base.tracers, given, pipeline, foreign[Signal.TRACES], lag)
    _process_logs(base.loggers, given, pipeline, foreign[Signal.LOGS])
    choice, reader.lean = choose(
        Made(
            environ=given,
            tracers=base.tracers,
            meters=meters,
            loggers=base.loggers,
            pipeline=pipeline,
            readers=readers,
            views=base.meters.get("views", ()),
            own=(BaggageSpans, PipelineSpans, _PipelineReader),
        )
    )
    if base.propagator is not None:
        set_global_textmap(base.propagator)
    named = (*(f"{signal.value}: {name}" for signal in Signal for name in foreign[signal]), *base.foreign)
    return Providers(
        tracers=base.tracers,
        meters=meters,
        loggers=base.loggers,
        pipeline=pipeline,
        destinations=destinations,
        foreign=named,
        logs_leave=pipeline.takes(Signal.LOGS) or any(name.startswith(f"{Signal.LOGS.value}:") for name in named),
        sampler=sampler,
        lag=lag,
        disabled=base.disabled,
        choice=choice,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """
    What the pipeline is put into: made of the variables, or of a configuration file.

    Attributes:
        environ: What the rest is made of.
        readers: Of metrics, beside those that *environ* asks for.
        meters: What the meter provider is made with beside its readers.
        sampler: Its description.
        propagator: None for the one that the API has chosen.
        foreign: Exporters beside those that *environ* asks for.
    """

    environ: Mapping[str, str]
    tracers: TracerProvider
    loggers: LoggerProvider
    sampler: str
    meters: Mapping[str, Any]
    readers: tuple[MetricReader, ...] = ()
    propagator: TextMapPropagator | None = None
    foreign: tuple[str, ...] = ()
    disabled: bool = False


def _of_variables(environ: Mapping[str, str], identity: Mapping[str, str]) -> _Base:
    resource = _resource(environ, identity)
    _read_log_limits_once()
    return _Base(
        environ=environ,
        tracers=_tracers(environ, resource),
        loggers=LoggerProvider(
            resource=resource, shutdown_on_exit=False, **_configurator(environ, "logger", LoggerProvider)
        ),
        sampler=_sampler_name(environ),
        meters=_configurator(environ, "meter", MeterProvider),
    )


def _of_file(file: Declared) -> _Base:
    return _Base(
        environ=file.environ,
        tracers=file.tracers,
        loggers=file.loggers,
        sampler=file.tracers.sampler.get_description(),
        meters=file.meters,
        readers=file.readers,
        propagator=None if file.disabled else file.propagator,
        foreign=file.foreign,
        disabled=file.disabled,
    )


def _tracers(environ: Mapping[str, str], resource: Resource) -> TracerProvider:
    return TracerProvider(
        resource=resource,
        sampler=_sampler(environ),
        id_generator=_plugin("opentelemetry_id_generator", environ.get("OTEL_PYTHON_ID_GENERATOR", "random")),
        shutdown_on_exit=False,
        **_configurator(environ, "tracer", TracerProvider),
    )


def _process_spans(
    tracers: TracerProvider,
    environ: Mapping[str, str],
    pipeline: Pipeline,
    foreign: Mapping[str, Any],
    lag: LoopLag | None,
) -> None:
    if keys := _baggage_keys(environ):
        tracers.add_span_processor(BaggageSpans(keys))
    if pipeline.takes(Signal.TRACES):
        tracers.add_span_processor(PipelineSpans(pipeline, lag.watch if lag is not None else None))
    for exporter in foreign.values():
        tracers.add_span_processor(BatchSpanProcessor(exporter))


def _process_logs(
    loggers: LoggerProvider, environ: Mapping[str, str], pipeline: Pipeline, foreign: Mapping[str, Any]
) -> None:
    if keys := _baggage_keys(environ):
        # Before those of a configuration file: a record is exported as the processors before have left it.
        first = loggers._multi_log_record_processor
        others, first._log_record_processors = first._log_record_processors, ()
        loggers.add_log_record_processor(BaggageLogs(keys))
        first._log_record_processors += others
    if pipeline.takes(Signal.LOGS):
        loggers.add_log_record_processor(PipelineLogs(pipeline))
    for exporter in foreign.values():
        loggers.add_log_record_processor(BatchLogRecordProcessor(exporter))


def _baggage_keys(environ: Mapping[str, str]) -> tuple[str, ...]:
    words = (word.strip() for word in environ.get(baggage.VARIABLE, "").split(","))
    return tuple(dict.fromkeys(word for word in words if word))


def _observe_process(
    environ: Mapping[str, str], meters: MeterProvider, pipeline: Pipeline, destinations: Sequence[Destination]
) -> LoopLag | None:
    """
    Let this process and the pipeline be collected with everything else.

    Called before observed instruments start the pipeline: a command that records nothing exports nothing.
    """
    if environ.get("RSKETCH_TELEMETRY_PROCESS_METRICS") == "false":
        return None
    process.observe(meters)
    pipeline_metrics.observe(pipeline, destinations, meters)
    return LoopLag(meters)


def _sample_by_rules(tracers: TracerProvider, environ: Mapping[str, str], otherwise: str) -> str:
    """Let the sampling rules decide first, if there are any; return how the sampler is described."""
    found = sampling.rules(environ.get(sampling.VARIABLE, ""))
    if not found:
        return otherwise
    tracers.sampler = by_rules(found, tracers.sampler)
    return f"{', '.join(rule.text for rule in found)}, else {otherwise}"


def _resource(environ: Mapping[str, str], identity: Mapping[str, str]) -> Resource:
    given = _given(environ)
    defaults = {name: clean(value) for name, value in identity.items() if name not in given}
    detected = Resource.create({**defaults, **_DISTRO})
    return detected.merge(_instance(detected, environ, given="service.instance.id" in given))


def _identified(found: Resource, identity: Mapping[str, str], environ: Mapping[str, str]) -> Resource:
    """Return the resource of a configuration file with what it does not say."""
    given = {name for name, value in found.attributes.items() if not str(value).startswith("unknown_service")}
    defaults = {name: clean(value) for name, value in identity.items() if name not in given}
    whole = found.merge(Resource({**defaults, **_DISTRO}))
    return whole.merge(_instance(whole, environ, given="service.instance.id" in given))


def _instance(resource: Resource, environ: Mapping[str, str], *, given: bool) -> Resource:
    instance = str(resource.attributes["service.instance.id"]) if given else str(uuid.uuid4())
    worker = environ.get("RSKETCH_TELEMETRY_WORKER", "")
    if worker and given:
        # Several workers share one environment, so an id that was given is not unique among them.
        instance += f"-{worker}"
    return Resource({"service.instance.id": instance})


def _given(environ: Mapping[str, str]) -> set[str]:
    """Return the resource attributes that the environment states."""
    pairs = [pair.partition("=") for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")]
    names = {name.strip() for name, _, value in pairs if value.strip()}
    return names | ({"service.name"} if environ.get("OTEL_SERVICE_NAME") else set())


class _EncodedResource:
    """The encoded resource and its schema URL, encoded once a process."""

    def __init__(self, resource: Callable[[], Resource]) -> None:
        self._resource = resource
        self._made_by = self._encoded_by = os.getpid()
        self._encoded: tuple[bytes, str] | None = None

    def __call__(self) -> tuple[bytes, str]:
        process = os.getpid()
        if self._encoded is None or self._encoded_by != process:
            resource = self._resource()
            if process != self._made_by:
                # Newer releases of the SDK do so themselves: a forked child is an instance of its own.
                resource = resource.merge(Resource({"service.instance.id": str(uuid.uuid4())}))
            self._encoded, self._encoded_by = (_message(resource), resource.schema_url), process
        return self._encoded


def _message(resource: Resource) -> bytes:
    try:
        return resource_message(resource)
    except Exception:  # noqa: BLE001 - a detector may say anything; without a resource nothing at all would arrive
        plain = {
            name: value if isinstance(value, (bool, int, float)) else clean(str(value))
            for name, value in resource.attributes.items()
        }
        return resource_message(Resource(plain))


def _exporter_names(environ: Mapping[str, str], signal: Signal) -> list[str]:
    names = [name.strip() for name in environ.get(f"OTEL_{signal.value.upper()}_EXPORTER", "otlp").split(",")]
    return [] if "none" in names else names


def _foreign(signal: Signal, names: list[str]) -> dict[str, Any]:
    """Return the exporters other than OTLP, by name; one that cannot be made is left out and said."""
    made = {name: _plugin(f"opentelemetry_{signal.value}_exporter", name) for name in names if name not in _OTLP}
    return {name: exporter for name, exporter in made.items() if exporter is not None}


def _periodic(exporter: Any) -> MetricReader:
    return exporter if isinstance(exporter, MetricReader) else PeriodicExportingMetricReader(exporter)


def _plugin(group: str, name: str, *arguments: object) -> Any:
    """Return a new object of an installed plug-in, whose name has been checked; None, which is said, where it fails."""
    (found,) = list(entry_points(group=group, name=name))[:1]
    try:
        return found.load()(*arguments)
    except Exception:  # noqa: BLE001 - another package's code
        _log.exception("telemetry: %s of %s cannot be used and is left out", name, group)
        return None


def _start_with_observed(meters: MeterProvider, pipeline: Pipeline) -> None:
    """Start the pipeline with the first observed instrument too: nothing is recorded until someone collects."""
    consumer = meters._measurement_consumer
    register = consumer.register_asynchronous_instrument

    def starting(instrument: Any) -> None:
        register(instrument)
        if pipeline.takes(Signal.METRICS):
            pipeline.start()

    consumer.register_asynchronous_instrument = starting  # type: ignore[method-assign]  # nobody else is told of one


def _read_log_limits_once() -> None:
    """Let older releases of the SDK not read the limits again at each record, where a malformed one would end it."""
    make = ReadWriteLogRecord._from_api_log_record
    if "limits" not in inspect.signature(make).parameters:
        limits = LogRecordLimits()

        def limited(*, record: Any, **others: Any) -> ReadWriteLogRecord:
            return ReadWriteLogRecord(log_record=record, limits=limits, **others)

        ReadWriteLogRecord._from_api_log_record = limited  # type: ignore[method-assign]  # it takes no limits itself


def _renew_after_fork(meters: MeterProvider) -> None:
    """Let a forked child count from nothing: what its parent counted would be counted twice."""
    consumer = meters._measurement_consumer

    def renew() -> None:
        # Whoever held the lock is not in this process.
        consumer._lock = threading.Lock()
        storages: dict[Any, Any] = dict(consumer._reader_storages)
        consumer._reader_storages = {
            reader: type(storage)(
                consumer._sdk_config, reader._instrument_class_temporality, reader._instrument_class_aggregation
            )
            for reader, storage in storages.items()
        }

    os.register_at_fork(after_in_child=renew)


def _sampler(environ: Mapping[str, str]) -> Sampler | None:
    """Return a plug-in's sampler; None leaves the built-in ones to the SDK, which reads the same variables."""
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip()
    if not name or name in _BUILT_IN_SAMPLERS:
        return None
    made = _plugin("opentelemetry_traces_sampler", name, environ.get("OTEL_TRACES_SAMPLER_ARG"))
    return made if isinstance(made, Sampler) else DEFAULT_ON


def _sampler_name(environ: Mapping[str, str]) -> str:
    name = environ.get("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    argument = environ.get("OTEL_TRACES_SAMPLER_ARG", "")
    return f"{name} {argument}" if argument and "ratio" in name else name


def _configurator(environ: Mapping[str, str], kind: str, provider: Callable[..., Any]) -> dict[str, Any]:
    """Return the experimental configurator that `OTEL_PYTHON_<KIND>_CONFIGURATOR` names, as keyword arguments."""
    name = environ.get(f"OTEL_PYTHON_{kind.upper()}_CONFIGURATOR", "")
    found = list(entry_points(group=f"_opentelemetry_{kind}_configurator", name=name)) if name else []
    keyword = f"_{kind}_configurator"
    # Older releases of the SDK have only the tracer's.
    known = keyword in inspect.signature(provider).parameters
    return {keyword: found[0].load()} if found and known else {}


def _lane(environ: Mapping[str, str], to: Destination, reader: "_PipelineReader") -> Lane:
    if to.signal is Signal.METRICS:
        interval = _milliseconds(environ, "OTEL_METRIC_EXPORT_INTERVAL", 60000)
        timeout = _milliseconds(environ, "OTEL_METRIC_EXPORT_TIMEOUT", 30000)
        return Lane(
            to.signal,
            Segment(),
            sender(to),
            interval_seconds=interval,
            timeout_seconds=min(to.timeout_seconds, timeout),
            asked="OTEL_METRIC_EXPORT_INTERVAL" in environ,
            collect=reader.gather,
        )
    prefix, delay = ("OTEL_BSP", 5000) if to.signal is Signal.TRACES else ("OTEL_BLRP", 1000)
    return Lane(
        to.signal,
        Segment(limit_items=_optional(environ, f"{prefix}_MAX_QUEUE_SIZE")),
        sender(to),
        interval_seconds=_milliseconds(environ, f"{prefix}_SCHEDULE_DELAY", delay),
        timeout_seconds=min(to.timeout_seconds, _milliseconds(environ, f"{prefix}_EXPORT_TIMEOUT", 30000)),
        asked=f"{prefix}_SCHEDULE_DELAY" in environ,
        batch_items=_optional(environ, f"{prefix}_MAX_EXPORT_BATCH_SIZE"),
    )


def _milliseconds(environ: Mapping[str, str], name: str, default: int) -> float:
    return int(environ.get(name, default)) / 1000


def _optional(environ: Mapping[str, str], name: str) -> int | None:
    # Unset, the bound in bytes holds alone: the SDK's default of 2,048 items would lose a burst for no reason.
    return int(environ[name]) if name in environ else None


class _Starting(ExemplarFilter):
    """Starts the pipeline with the first measurement: the SDK asks this filter at each, and tells nobody else."""

    def __init__(self, environ: Mapping[str, str], pipeline: Pipeline) -> None:
        self._filter = _EXEMPLAR_FILTERS[environ.get("OTEL_METRICS_EXEMPLAR_FILTER", "trace_based").lower()]()
        self._pipeline = pipeline

    def should_sample(self, value: int | float, time_unix_nano: int, attributes: Attributes, context: Context) -> bool:
        if not self._pipeline.started and self._pipeline.takes(Signal.METRICS):
            self._pipeline.start()
        return self._filter.should_sample(value, time_unix_nano, attributes, context)


class _PipelineReader(MetricReader):
    """Collected by the pipeline's thread, so that metrics need no thread of their own."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        temporality = environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative").lower()
        histograms = environ.get("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "").lower()
        super().__init__(_TEMPORALITIES[temporality], _AGGREGATIONS.get(histograms))
        # Only a snapshot that says everything since the start makes an unsent older one worthless.
        self._replaces = temporality == "cumulative"
        self._pipeline: Pipeline | None = None
        self._items: list[Item] = []
        self.lean: Callable[[], list[Item]] = list

    def feed(self, pipeline: Pipeline) -> None:
        """Name the pipeline that collections go to."""
        self._pipeline = pipeline

    def gather(self) -> None:
        """Put the current metrics into the pipeline: the SDK's and those of the lean recorders."""
        self._items = []
        try:
            self.collect()
        finally:
            # Also where a callback of the program's has raised.
            self._hand_over([*self._items, *self.lean()])

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: object) -> None:
        """Take what the SDK has, which is not asked for where it has nothing."""
        if (pipeline := self._pipeline) is not None:
            refused = functools.partial(count_unencodable, pipeline, Signal.METRICS)
            self._items = list(metric_items(metrics_data, refused))

    def _hand_over(self, items: list[Item]) -> None:
        pipeline = self._pipeline
        if pipeline is None or not items:
            return
        if self._replaces:
            pipeline.replace(Signal.METRICS, items)
            return
        for item in items:
            pipeline.append(Signal.METRICS, item)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._pipeline is None or self._pipeline.flush(timeout_millis / 1000)

    def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:
        """Do nothing: the pipeline is shut down by its owner."""


_EXEMPLAR_FILTERS: dict[str, type[ExemplarFilter]] = {
    "trace_based": TraceBasedExemplarFilter,
    "always_on": AlwaysOnExemplarFilter,
    "always_off": AlwaysOffExemplarFilter,
}
_MONOTONIC = (sdk_metrics.Counter, sdk_metrics.Histogram)
_TEMPORALITIES: dict[str, dict[type, AggregationTemporality]] = {
    "cumulative": {},
    "delta": dict.fromkeys((*_MONOTONIC, sdk_metrics.ObservableCounter), AggregationTemporality.DELTA),
    "lowmemory": dict.fromkeys(_MONOTONIC, AggregationTemporality.DELTA),
}
_AGGREGATIONS: dict[str, dict[type, Aggregation]] = {
    "base2_exponential_bucket_histogram": {sdk_metrics.Histogram: ExponentialBucketHistogramAggregation()}
}
