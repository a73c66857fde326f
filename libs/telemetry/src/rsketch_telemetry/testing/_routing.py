"""
Where what is recorded goes while captures are open: which of them, and back to what was before when the last closes.

The instrumentors are not instrumented anew where they are on already: servers and channels that exist hold on to the
instrumentation they were made under, so what it records with is exchanged for the time.
"""
# ruff: noqa: TID251 - providers of the SDK, of its own and the process's, are what this is about

import importlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from opentelemetry import trace
from opentelemetry._logs import _internal as logs_internal
from opentelemetry.context import Context
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # it is untyped
from opentelemetry.metrics import _internal as metrics_internal
from opentelemetry.sdk import _logs as sdk_logs
from opentelemetry.sdk import metrics as sdk_metrics
from opentelemetry.sdk import trace as sdk_trace

from rsketch_telemetry import environment
from rsketch_telemetry.facts import Attributes, HttpOutcome, HttpRequest, RpcCall, RpcOutcome
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.logs import OtlpHandler
from rsketch_telemetry.recorder import Call, Recorder, guarded
from rsketch_telemetry.testing._captured import Captured, LogSink, PointReader, SpanSink

__all__ = ["open_capture"]

Outcome = TypeVar("Outcome", contravariant=True)

_lock = threading.RLock()
_open: tuple[Captured, ...] = ()
_here: ContextVar[Captured | None] = ContextVar("rsketch-telemetry-capture", default=None)
_undo: list[Callable[[], None]] = []
"""What takes back the exchange of recorders, the last step first."""


def open_capture(settings: InstrumentorSettings | None) -> tuple[Captured, Callable[[], None]]:
    """Return a capture that gets what is recorded from now on, and what ends that."""
    global _open  # noqa: PLW0603 - instrumentors are the process's, and so is where they record
    given = settings or InstrumentorSettings.from_env(environment.process_environ())
    with _lock:
        here = _here.get()
        captured = Captured(given, parent=here if here in _open else None)
        if not _open:
            _begin(given, captured)
        _open += (captured,)
        detach = _read_global_meters(captured)
    token = _here.set(captured)

    def close() -> None:
        global _open  # noqa: PLW0603 - as above
        with _lock:
            if captured not in _open:
                return
            try:
                captured.close()
            finally:
                detach()
                _open = tuple(each for each in _open if each is not captured)
                if not _open:
                    _end()
        # A fixture may be ended in another context than it began in; then its own is gone anyway.
        with suppress(ValueError):
            _here.reset(token)

    return captured, close


def target() -> Captured | None:
    """
    Return the capture that gets what is recorded here and now.

    A task, and with it a server's, belongs to the capture in which it was started, and to the newest one inside that.
    """
    opened, here = _open, _here.get()
    if here is not None and here in opened:
        return next(each for each in reversed(opened) if each.is_within(here))
    return opened[-1] if opened else None


def _begin(settings: InstrumentorSettings, first: Captured) -> None:
    try:
        _listen_to_globals()
        _listen_to_logging()
        if _imported("sanic"):
            _divert_sanic(settings, first)
        if _imported("grpc.aio"):
            _divert_grpc(settings, first)
    except BaseException:
        _end()
        raise


def _end() -> None:
    while _undo:
        _undo.pop()()


def _imported(framework: str) -> bool:
    """Import it if it is installed: the block may make its first server."""
    with warnings.catch_warnings():
        # They are for whoever imports it, which the program under test need not do at all.
        warnings.simplefilter("ignore")
        try:
            importlib.import_module(framework)
        except ImportError:
            return False
    return True


def _divert_sanic(settings: InstrumentorSettings, first: Captured) -> None:
    from rsketch_telemetry import sanic

    instrumentor = sanic.SanicInstrumentor()
    with _instrumented(instrumentor, settings, first):
        hooks = instrumentor._hooks
        if hooks is not None:
            _exchange(hooks, "_recorder", guarded(_Routed(sanic.__name__)))


def _divert_grpc(settings: InstrumentorSettings, first: Captured) -> None:
    from rsketch_telemetry import grpc

    for instrumentor in (grpc.GrpcAioServerInstrumentor(), grpc.GrpcAioClientInstrumentor()):
        with _instrumented(instrumentor, settings, first):
            if instrumentor._active is not None:
                watch, _ = instrumentor._active
                _exchange(watch, "recorder", guarded(_Routed(grpc.__name__)))


@contextmanager
def _instrumented(instrumentor: BaseInstrumentor, settings: InstrumentorSettings, first: Captured) -> Iterator[None]:
    """Switch an instrumentor on where it is off, until the last capture closes."""
    if not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument(
            tracer_provider=first.tracer_provider,
            meter_provider=first.meter_provider,
            logger_provider=first.logger_provider,
            settings=settings,
        )
        _undo.append(lambda: _switch_off(instrumentor))
    yield


def _switch_off(instrumentor: BaseInstrumentor) -> None:
    # The program under test may have done so itself.
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()


def _exchange(owner: Any, name: str, value: Any) -> None:
    before = getattr(owner, name)
    setattr(owner, name, value)
    _undo.append(lambda: setattr(owner, name, before))


class _Routed:
    """Records each call with the recorder of the capture that it belongs to."""

    def __init__(self, scope: str) -> None:
        self._scope = scope

    def http_server(self, request: HttpRequest, parent: Context) -> Call[HttpOutcome]:
        return self._start(lambda recorder: recorder.http_server(request, parent), parent)

    def rpc_server(self, call: RpcCall, parent: Context) -> Call[RpcOutcome]:
        return self._start(lambda recorder: recorder.rpc_server(call, parent), parent)

    def rpc_client(self, call: RpcCall, parent: Context) -> Call[RpcOutcome]:
        return self._start(lambda recorder: recorder.rpc_client(call, parent), parent)

    def in_flight(self, metric: str, change: int, attributes: Attributes) -> None:
        captured = target()
        if captured is not None:
            captured.recorder(self._scope).in_flight(metric, change, attributes)

    def _start(self, start: Callable[[Recorder], Call[Outcome]], parent: Context) -> Call[Outcome]:
        captured = target()
        # None only for a call that has begun in the very moment in which the last capture closed.
        return _Unseen(parent) if captured is None else _Call(start(captured.recorder(self._scope)), captured)


class _Call(Generic[Outcome]):
    """One call, which is found in its capture once all that belongs to it is there."""

    def __init__(self, call: Call[Outcome], captured: Captured) -> None:
        self.inner = call.inner
        self._call = call
        self._captured = captured

    def finish(self, outcome: Outcome) -> None:
        with self._captured.settling():
            self._call.finish(outcome)


class _Unseen:
    def __init__(self, context: Context) -> None:
        self.inner = context

    def finish(self, outcome: object) -> None:
        """Do nothing."""


_in_handlers = threading.local()


def _listen_to_logging() -> None:
    """Take what goes through `logging`, behind the program's own handlers as in production."""
    before = logging.Logger.callHandlers
    listening = True
    handlers: dict[int, tuple[Captured, OtlpHandler]] = {}

    def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
        depth = getattr(_in_handlers, "depth", 0)
        _in_handlers.depth = depth + 1
        try:
            before(logger, record)
        finally:
            _in_handlers.depth = depth
        captured = target() if listening else None
        if captured is not None:
            made = handlers.setdefault(id(captured), (captured, OtlpHandler(captured.logger_provider)))
            made[1].handle(record)

    def stop() -> None:
        nonlocal listening
        listening = False
        handlers.clear()
        # Where another hook stands on this one, it stays and does nothing any more.
        if logging.Logger.callHandlers is call_handlers:
            logging.Logger.callHandlers = before  # type: ignore[method-assign]  # the hook

    logging.Logger.callHandlers = call_handlers  # type: ignore[assignment, method-assign]  # the hook
    _undo.append(stop)


def _from_api() -> Captured | None:
    """Return the target of a log record of the API's; None for one that `logging` has brought, which is taken there."""
    return None if getattr(_in_handlers, "depth", 0) else target()


def _listen_to_globals() -> None:
    """Take what the program records itself, where the process has providers of the SDK."""
    tracers, loggers = trace._TRACER_PROVIDER, logs_internal._LOGGER_PROVIDER
    if isinstance(tracers, sdk_trace.TracerProvider):
        _add(tracers._active_span_processor, "_span_processors", SpanSink(target))
    if isinstance(loggers, sdk_logs.LoggerProvider):
        _add(loggers._multi_log_record_processor, "_log_record_processors", LogSink(_from_api))


def _add(owner: Any, name: str, processor: object) -> None:
    """Add a processor to a provider's; the SDK has no way to take one away again."""
    with owner._lock:
        setattr(owner, name, (*getattr(owner, name), processor))

    def remove() -> None:
        with owner._lock:
            setattr(owner, name, tuple(each for each in getattr(owner, name) if each is not processor))

    _undo.append(remove)


def _read_global_meters(captured: Captured) -> Callable[[], None]:
    """Count what the global meter provider measures from now on as well; return what ends that."""
    meters = metrics_internal._METER_PROVIDER
    if not isinstance(meters, sdk_metrics.MeterProvider):
        return lambda: None
    reader = PointReader(captured.note_unreadable)
    consumer: Any = meters._measurement_consumer
    if hasattr(consumer, "add_metric_reader"):
        consumer.add_metric_reader(reader)
        remove: Callable[[], None] = lambda: consumer.remove_metric_reader(reader)  # noqa: E731 - one of two
    else:
        remove = _add_reader(consumer, reader)
    reader._set_collect_callback(consumer.collect)
    captured.readers.append(reader)
    return remove


def _add_reader(consumer: Any, reader: PointReader) -> Callable[[], None]:
    """Do what newer releases of the SDK have a method for."""
    from opentelemetry.sdk.metrics._internal.metric_reader_storage import MetricReaderStorage

    def replace(storages: dict[Any, Any]) -> None:
        with consumer._lock:
            consumer._reader_storages = storages

    made: Any = MetricReaderStorage
    storage = made(consumer._sdk_config, reader._instrument_class_temporality, reader._instrument_class_aggregation)
    replace({**consumer._reader_storages, reader: storage})
    return lambda: replace({key: value for key, value in consumer._reader_storages.items() if key is not reader})
