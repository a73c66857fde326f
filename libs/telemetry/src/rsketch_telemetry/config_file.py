"""
`OTEL_CONFIG_FILE`: providers as a declarative configuration describes them.

Reading, substitution and checking are the work of the package opentelemetry-configuration, and so is making samplers,
limits, views, propagators and whatever exporters are not plain OTLP. The first plain OTLP exporter of each signal is
taken out before and becomes a destination of our pipeline, which loses less than a stock exporter does.

The file alone counts then, not the `OTEL_*` variables, as the specification has it, but for `OTEL_SDK_DISABLED`; a
signal that it leaves out is not recorded. Our own settings, `RSKETCH_TELEMETRY_*`, hold on top. A file that cannot be
used costs one line, and the variables hold.

See https://opentelemetry.io/docs/specs/otel/configuration/data-model/.
"""

import atexit
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk._logs import LoggerProvider  # noqa: TID251 - the package makes the SDK's
from opentelemetry.sdk.metrics import MeterProvider  # noqa: TID251 - likewise
from opentelemetry.sdk.metrics.export import MetricReader  # noqa: TID251 - likewise
from opentelemetry.sdk.resources import Resource  # noqa: TID251 - likewise
from opentelemetry.sdk.trace import TracerProvider  # noqa: TID251 - likewise
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF  # noqa: TID251 - likewise

from rsketch_telemetry import environment
from rsketch_telemetry.environment import Complaint
from rsketch_telemetry.redaction import scrub
from rsketch_telemetry.signal import Signal

__all__ = ["VARIABLE", "Declared", "declared", "placed"]

VARIABLE: Final = "OTEL_CONFIG_FILE"

_log = logging.getLogger("rsketch_telemetry")
_PACKAGE_LOGGER = "opentelemetry.configuration"
_LARGEST_BYTES = 1 << 20
"""Reading one that is larger would hold up the start of the program for many seconds."""
_LONGEST_TIMEOUT_MS = 300_000
_SOON_MS = 200
"""How often the pipeline sends what the file wants sent at once; alone, each item would hold up whoever ends it."""
_SECTIONS = {Signal.TRACES: "tracer_provider", Signal.METRICS: "meter_provider", Signal.LOGS: "logger_provider"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """
    What a configuration file makes of this process.

    Attributes:
        environ: The destinations of our pipeline, as the variables that mean the same, and our own settings.
        disabled: Nothing is recorded; what follows is not set up then.
        readers: Of metrics, without that of our pipeline.
        meters: What a meter provider is made with beside readers, resource and exemplar filter.
        propagator: For the whole process.
        foreign: The exporters that are not our pipeline's, as `signal: name`.
    """

    environ: dict[str, str]
    disabled: bool
    resource: Resource
    tracers: TracerProvider
    readers: tuple[MetricReader, ...]
    meters: Mapping[str, Any]
    loggers: LoggerProvider
    propagator: TextMapPropagator
    foreign: tuple[str, ...]


def declared(
    environ: Mapping[str, str], identified: Callable[[Resource], Resource], complaints: list[Complaint]
) -> Declared | None:
    """
    Return what the file says that *environ* names; None where it names none, or none that can be used.

    Args:
        environ: Checked settings.
        identified: Adds to the file's resource what it does not say.
        complaints: Why the file cannot be used is added.
    """
    path = environ.get(VARIABLE)
    if path is None:
        return None
    if _size(path) > _LARGEST_BYTES:
        complaints.append(_complaint(path, f"a file of at most {_LARGEST_BYTES >> 20} MiB"))
        return None
    try:
        import opentelemetry.configuration.file as package
    except Exception as error:  # noqa: BLE001 - it is not installed, or not for this release of the SDK
        missing = isinstance(error, ModuleNotFoundError)
        reason = "" if missing else f", which fails to load ({type(error).__name__})"
        complaints.append(_complaint(path, f"a file only with the package opentelemetry-configuration{reason}"))
        return None
    try:
        with environment.presented(environ, prefix=""), _retold():
            return _Maker(package, environ, complaints).make(package.load_config_file(path), identified)
    except Exception as error:  # noqa: BLE001 - whatever the file, the package or a plug-in is guilty of
        complaints.append(_complaint(path, f"a declarative configuration, which this file is not: {_reason(error)}"))
        return None


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        # The package says what is wrong with it.
        return 0


def placed(complaint: Complaint) -> Complaint:
    """Return a complaint of a variable that stands for a part of the file, as one of that part."""
    for signal, section in _SECTIONS.items():
        prefix = f"OTEL_EXPORTER_OTLP_{signal.value.upper()}_"
        if complaint.variable.startswith(prefix):
            part = complaint.variable.removeprefix(prefix).lower()
            return dataclasses.replace(complaint, variable=f"{VARIABLE}: {part} of {section}")
    return dataclasses.replace(complaint, variable=f"{VARIABLE}: {complaint.variable}")


def _complaint(path: str, reason: str) -> Complaint:
    return Complaint(variable=VARIABLE, value=scrub(path, 200), reason=reason, used="the OTEL_* variables")


class _Maker:
    """Makes providers, and ends those that were made where a later one fails."""

    def __init__(self, package: Any, environ: Mapping[str, str], complaints: list[Complaint]) -> None:
        self._package = package
        self._complaints = complaints
        self._environ = {name: value for name, value in environ.items() if name.startswith("RSKETCH_")}
        self._foreign: list[str] = []
        self._made: list[Any] = []

    def make(self, config: Any, identified: Callable[[Resource], Resource]) -> Declared:
        """Return what the parsed *config* says."""
        if config.disabled:
            # Its parts may name plug-ins that are there only where telemetry is on.
            config = type(config)(file_format=config.file_format, disabled=True)
        try:
            return self._make(config, identified(self._package.create_resource(config.resource)))
        except Exception:
            for provider in self._made:
                provider.shutdown()
            raise

    def _make(self, config: Any, resource: Resource) -> Declared:
        limits = config.attribute_limits
        tracers = self._tracers(config.tracer_provider, resource, limits)
        readers, meters = self._meters(config.meter_provider, resource)
        loggers = self._loggers(config.logger_provider, resource, limits)
        propagator = self._package.create_propagator(config.propagator)
        if not config.disabled:
            _set_level(config.log_level)
            _say_what_is_left_out(config)
        return Declared(
            environ=self._checked(),
            disabled=bool(config.disabled),
            resource=resource,
            tracers=tracers,
            readers=readers,
            meters=meters,
            loggers=loggers,
            propagator=propagator,
            foreign=tuple(self._foreign),
        )

    def _checked(self) -> dict[str, str]:
        sane, complaints = environment.checked(self._environ)
        # Our own settings have been complained of before.
        self._complaints += [placed(each) for each in complaints if each.variable.startswith("OTEL_")]
        return sane

    def _tracers(self, config: Any, resource: Resource, limits: Any) -> TracerProvider:
        rest = self._without_ours(Signal.TRACES, config)
        if rest is None:
            return TracerProvider(resource=resource, sampler=ALWAYS_OFF, shutdown_on_exit=False)
        made: TracerProvider = self._ending(self._package.create_tracer_provider(rest, resource, limits))
        return made

    def _loggers(self, config: Any, resource: Resource, limits: Any) -> LoggerProvider:
        rest = self._without_ours(Signal.LOGS, config)
        if rest is None:
            return LoggerProvider(resource=resource, shutdown_on_exit=False)
        made: LoggerProvider = self._ending(self._package.create_logger_provider(rest, resource, limits))
        return made

    def _meters(self, config: Any, resource: Resource) -> tuple[tuple[MetricReader, ...], dict[str, Any]]:
        if config is None:
            self._note(Signal.METRICS, [], ours=False)
            return (), {}
        readers = list(config.readers)
        ours = next((each for each in readers if _plain_reader(each) is not None), None)
        if ours is not None:
            readers.remove(ours)
            self._environ |= _plain_reader(ours) or {}
        self._note(Signal.METRICS, readers, ours=ours is not None)
        if config.exemplar_filter is not None:
            self._environ["OTEL_METRICS_EXEMPLAR_FILTER"] = config.exemplar_filter.value
        rest = dataclasses.replace(config, readers=readers)
        return _taken_apart(self._ending(self._package.create_meter_provider(rest, resource)))

    def _without_ours(self, signal: Signal, config: Any) -> Any:
        """Take the first plain OTLP exporter over; return the section without it, None for none."""
        processors = [] if config is None else list(config.processors)
        ours = next((each for each in processors if _plain_processor(signal, each) is not None), None)
        if ours is not None:
            processors.remove(ours)
            self._environ |= _plain_processor(signal, ours) or {}
        self._note(signal, processors, ours=ours is not None)
        return None if config is None else dataclasses.replace(config, processors=processors)

    def _note(self, signal: Signal, others: list[Any], *, ours: bool) -> None:
        self._environ[f"OTEL_{signal.value.upper()}_EXPORTER"] = "otlp" if ours else "none"
        self._foreign += [f"{signal.value}: {_kind(each)}" for each in others]

    def _ending(self, provider: Any) -> Any:
        """Leave a provider's end to `Telemetry.shutdown`, where the package would have it end by itself."""
        atexit.unregister(provider.shutdown)
        self._made.append(provider)
        return provider


def _taken_apart(made: MeterProvider) -> tuple[tuple[MetricReader, ...], dict[str, Any]]:
    """Return the readers of a meter provider and what else it is made of: ours has to have one more from its start."""
    readers = tuple(made._metric_readers)
    for reader in readers:
        # They are given to another one.
        MeterProvider._all_metric_readers.discard(reader)
    return readers, {"views": made._sdk_config.views, "_meter_configurator": made._meter_configurator}


def _plain_processor(signal: Signal, processor: Any) -> dict[str, str] | None:
    """Return the variables for a processor that exports plain OTLP; None for any other."""
    if processor.batch is not None:
        exporter, batch = processor.batch.exporter, processor.batch
        delay = batch.schedule_delay
        sizes = {"MAX_QUEUE_SIZE": batch.max_queue_size, "MAX_EXPORT_BATCH_SIZE": batch.max_export_batch_size}
        timeout = batch.export_timeout
    elif processor.simple is not None:
        exporter, delay, sizes, timeout = processor.simple.exporter, _SOON_MS, {}, None
    else:
        return None
    variables = _plain_exporter(signal, exporter)
    if variables is None:
        return None
    prefix = "OTEL_BSP" if signal is Signal.TRACES else "OTEL_BLRP"
    given = {"SCHEDULE_DELAY": delay, "EXPORT_TIMEOUT": timeout, **sizes}
    return variables | {f"{prefix}_{name}": str(value) for name, value in given.items() if value}


def _plain_reader(reader: Any) -> dict[str, str] | None:
    """Return the variables for a reader that exports plain OTLP; None for any other."""
    periodic = reader.periodic
    if periodic is None or periodic.producers or periodic.cardinality_limits:
        return None
    variables = _plain_exporter(Signal.METRICS, periodic.exporter)
    if variables is None:
        return None
    exporter = periodic.exporter.otlp_grpc or periodic.exporter.otlp_http
    given = {
        "OTEL_METRIC_EXPORT_INTERVAL": periodic.interval,
        "OTEL_METRIC_EXPORT_TIMEOUT": periodic.timeout,
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": _value(exporter.temporality_preference).replace("_", ""),
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": _value(exporter.default_histogram_aggregation),
    }
    return variables | {name: str(value) for name, value in given.items() if value}


def _plain_exporter(signal: Signal, exporter: Any) -> dict[str, str] | None:
    """Return the variables for an exporter of OTLP in protobuf; None for any other."""
    at = exporter.otlp_grpc or exporter.otlp_http
    if at is None or _value(getattr(at, "encoding", None)) == "json":
        return None
    tls = at.tls
    timeout = None if at.timeout is None else (at.timeout or _LONGEST_TIMEOUT_MS) / 1000
    given = {
        "PROTOCOL": "grpc" if exporter.otlp_grpc is not None else "http/protobuf",
        "ENDPOINT": at.endpoint,
        "HEADERS": _headers(at),
        "COMPRESSION": at.compression,
        "TIMEOUT": None if timeout is None else str(timeout),
        "CERTIFICATE": tls and tls.ca_file,
        "CLIENT_CERTIFICATE": tls and tls.cert_file,
        "CLIENT_KEY": tls and tls.key_file,
        "INSECURE": "true" if tls and getattr(tls, "insecure", None) else None,
    }
    prefix = f"OTEL_EXPORTER_OTLP_{signal.value.upper()}_"
    return {f"{prefix}{name}": value for name, value in given.items() if value}


def _headers(at: Any) -> str:
    """Return the headers as a variable has them; of two with one name the last counts, which is the pair's."""
    pairs = [f"{quote(each.name)}={quote(each.value or '', safe='')}" for each in at.headers or ()]
    return ",".join([*filter(None, [at.headers_list]), *pairs])


def _value(choice: Any) -> str:
    return "" if choice is None else str(choice.value)


def _kind(component: Any) -> str:
    """Return what a file calls the exporter within a processor or reader, or else the processor or reader."""
    outer = next(iter(_present(component)), ("unknown", None))
    exporter = getattr(outer[1], "exporter", None)
    return next(iter(_present(exporter)), outer)[0] if exporter is not None else outer[0]


def _present(component: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        if value is not None:
            yield field.name, value
    yield from dict(getattr(component, "additional_properties", None) or {}).items()


def _set_level(level: Any) -> None:
    """Set how much the SDK says of itself; the levels have the names of logging's, but for a digit and two others."""
    name = _value(level).rstrip("234").upper()
    if name:
        known = {"TRACE": "DEBUG", "FATAL": "CRITICAL", "WARN": "WARNING"}
        logging.getLogger("opentelemetry").setLevel(known.get(name, name))


def _say_what_is_left_out(config: Any) -> None:
    if config.propagator is None:
        _log.warning("telemetry: %s names no propagator, so no trace context comes in or goes out", VARIABLE)
    if config.instrumentation_development is not None:
        _log.warning("telemetry: %s: instrumentation is left out; what is installed is instrumented", VARIABLE)


@contextmanager
def _retold() -> Iterator[None]:
    """Make one line of each thing that the package says meanwhile: it logs its failures with tracebacks."""
    logger = logging.getLogger(_PACKAGE_LOGGER)
    handler, before = _Retelling(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


class _Retelling(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # What is worse comes as an exception, too.
        if record.levelno == logging.WARNING:
            _log.warning("telemetry: %s: %s", VARIABLE, _line(record.getMessage()))


def _reason(error: BaseException) -> str:
    """Return what is wrong and where, without the values, of which some are secrets."""
    cause = error.__cause__
    mark = getattr(cause, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {_line(str(getattr(cause, 'problem', '')))}"
    if (validator := getattr(cause, "validator", None)) is not None:
        place = " / ".join(str(part) for part in getattr(cause, "absolute_path", ())) or "the top"
        return f"at {place}: {_broken(str(validator), cause)}"
    return _line(f"{error}" or type(error).__name__)


def _broken(validator: str, cause: Any) -> str:
    """Return which rule of the schema is broken: the message of some quotes the value, of these only names."""
    if validator in ("required", "additionalProperties", "unevaluatedProperties"):
        return _line(str(cause.message))
    return _line(f"{validator} must be {cause.validator_value}")


def _line(text: str) -> str:
    return " ".join(scrub(text, 200).split())
