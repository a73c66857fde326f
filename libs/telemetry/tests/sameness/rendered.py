"""
Telemetry as lines of text that two processes can agree on.

Every field that has arrived is in them; of one that cannot be equal by its nature, that it is there. What is rendered
is OTLP itself, so that a field which nobody has thought of is compared as well, and a key that is there twice is seen.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar, HistogramDataPoint, NumberDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from rsketch_telemetry.otlp.handler import Export

__all__ = ["CALLER_SPAN", "CALLER_TRACE", "MASKED", "TEXTS", "Reader", "is_repeated"]

CALLER_TRACE: Final = "0af7651916cd43dd"
"""What the trace ids begin with that callers send: these are compared as they are."""
CALLER_SPAN: Final = "b7ad6b71"
"""Likewise their span ids."""

MASKED: Final[Mapping[str, str]] = {
    "Span.start_time_unix_nano": "time",
    "Span.end_time_unix_nano": "time",
    "Event.time_unix_nano": "time",
    "LogRecord.time_unix_nano": "time",
    "LogRecord.observed_time_unix_nano": "time",
    "HistogramDataPoint.start_time_unix_nano": "time",
    "HistogramDataPoint.time_unix_nano": "time",
    "NumberDataPoint.start_time_unix_nano": "time",
    "NumberDataPoint.time_unix_nano": "time",
    "Exemplar.time_unix_nano": "time",
    "Exemplar.as_double": "duration",
    "HistogramDataPoint.sum": "duration",
    "HistogramDataPoint.min": "duration",
    "HistogramDataPoint.max": "duration",
    "HistogramDataPoint.bucket_counts": "counts",
    "network.peer.port": "ephemeral port",
    "client.port": "ephemeral port",
    "service.instance.id": "instance",
}
"""
Fields, and attributes, of which it is compared that they are there, and of attributes the type.

Ids are not among them: each is replaced by the name of the span or the trace that it belongs to.
"""

_HEXADECIMAL: Final = re.compile(r"(?<![0-9a-f])(?:[0-9a-f]{32}|[0-9a-f]{16})(?![0-9a-f])")
TEXTS: Final[Sequence[tuple[re.Pattern[str], str]]] = (
    (re.compile(r"0x[0-9a-f]{6,}"), "<address>"),
    (re.compile(r"\b[0-9]+(?:\.[0-9]+)? ?ms\b"), "<duration>"),
    (re.compile(r"(?<=dur=)[0-9.]+"), "<duration>"),
    (re.compile(r"(?<=127\.0\.0\.1:)[0-9]+"), "<port>"),
    (re.compile(r"(?<=Task-)[0-9]+"), "<number>"),
    (re.compile(r"^date: .*"), "date: <time>"),
    # Which of them grpc's core says depends on what it is doing at that moment.
    (re.compile(r"Stream removed \(Deadline Exceeded\)"), "Deadline Exceeded"),
    # The recorders read unsampled spans at different depths of their own.
    (re.compile(r'  File "[^"]*/rsketch_telemetry/[^\n]*\n(?:    [^\n]*\n)*'), ""),
)
"""What is replaced in texts."""

_IDS: Final = {"trace_id", "span_id", "parent_span_id"}

Names: TypeAlias = dict[bytes, str]
"""Of spans and traces, by their ids."""
_Points: TypeAlias = HistogramDataPoint | NumberDataPoint


class Reader:
    """
    Renders what one process exports, call by call.

    Args:
        ports: Those that its servers listen on, which are others in the next process.
    """

    def __init__(self, ports: Collection[int] = ()) -> None:
        self._ports = ports
        self._before: dict[str, int] = {}
        self._resources: set[str] = set()
        self._all: dict[str, _Point] = {}

    def call(self, exports: Sequence[Export], answer: Sequence[str] = ()) -> list[str]:
        """Return what has been exported since the last call, and what the caller was answered."""
        spans: list[tuple[str, Span]] = []
        logs: list[tuple[str, Message]] = []
        points: dict[str, _Point] = {}
        for export in exports:
            match export.request:
                case ExportTraceServiceRequest() as traces:
                    spans += [(scope, span) for scope, part in self._parts(traces, "spans") for span in part.spans]
                case ExportLogsServiceRequest() as sent:
                    logs += [(scope, log) for scope, part in self._parts(sent, "logs") for log in part.log_records]
                case ExportMetricsServiceRequest() as metrics:
                    self._add(metrics, points)
        names = self._named(spans)
        durations = {span.span_id: (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 for _, span in spans}
        items = [
            *sorted(self._item("span", scope, span, names) + _ordered(span) for scope, span in spans),
            *sorted(point.lines(self, names, self._increment(key, point), durations) for key, point in points.items()),
            *sorted(self._item("log record", scope, log, names) for scope, log in logs),
        ]
        self._all |= points
        said = [f"answer: {self.text(line, names)}" for line in answer]
        return [*said, *(line for item in items for line in item)]

    def whole(self) -> list[str]:
        """Return what there is no call for: resources, and all series of cumulative metrics as they were at last."""
        items = sorted(point.lines(self, {}, None, {}) for point in self._all.values())
        return [*sorted(self._resources), *(line for item in items for line in item)]

    def counted(self, exports: Sequence[Export], metrics: Collection[str]) -> int:
        """Return how many calls have been measured since the last."""
        points: dict[str, _Point] = {}
        for export in exports:
            if isinstance(export.request, ExportMetricsServiceRequest):
                self._add(export.request, points)
        return sum(self._increment(key, each, keep=False) or 0 for key, each in points.items() if each.name in metrics)

    def _parts(self, request: Any, signal: str) -> Iterator[tuple[str, Any]]:
        """Yield what is sent of each scope, behind the scope."""
        for by_resource in getattr(request, f"resource_{signal}"):
            lines = [*self._fields(by_resource.resource, {}), f"schema_url: {by_resource.schema_url}"]
            self._resources.add("\n".join([f"resource of {signal}", *(f"    {line}" for line in lines)]))
            for part in getattr(by_resource, f"scope_{signal}"):
                scope = part.scope
                yield f"{scope.name} {scope.version} {part.schema_url} {sorted(map(str, scope.attributes))}", part

    def _add(self, request: ExportMetricsServiceRequest, points: dict[str, "_Point"]) -> None:
        for scope, part in self._parts(request, "metrics"):
            for metric in part.metrics:
                kind = metric.WhichOneof("data")
                data = getattr(metric, kind)
                settings = [line for line in self._fields(data, {}) if not line.startswith((" ", "data_points"))]
                head = [
                    scope,
                    f"{metric.name} [{metric.unit}] {metric.description!r}",
                    f"{kind}: {', '.join(settings)}",
                ]
                for point in data.data_points:
                    attributes = [*_attributes("attributes", point.attributes, {}, self)]
                    key = "\n".join([*head, *attributes])
                    found = points.setdefault(key, _Point(metric.name, head))
                    found.add(point, delta=getattr(data, "aggregation_temporality", 0) == 1)

    def _increment(self, key: str, point: "_Point", *, keep: bool = True) -> int | None:
        if point.count is None:
            return None
        change = point.count if point.delta else point.count - self._before.get(key, 0)
        if keep:
            self._before[key] = point.count
        return change

    def _named(self, spans: Sequence[tuple[str, Span]]) -> Names:
        """Return names for all ids, which follow from what the spans are."""
        names: Names = {}
        # Of spans that are alike there is no first one.
        numbers: dict[str, int] = {}
        ordered = sorted(("\n".join(self._item("", scope, span, {})), span.span_id, span) for scope, span in spans)
        for text, _, span in ordered:
            name = f"{numbers.setdefault(text, len(numbers))} {span.name}"
            names[span.span_id] = f"<span {name}>"
            if not span.trace_id.hex().startswith(CALLER_TRACE):
                names.setdefault(span.trace_id, f"<trace of span {name}>")
        return names

    def _item(self, what: str, scope: str, message: Message, names: Names) -> list[str]:
        return [f"{what} of {scope}", *(f"    {line}" for line in self._fields(message, names))]

    def _fields(self, message: Any, names: Names) -> Iterator[str]:
        """Yield a line for each field that is set."""
        for field, value in message.ListFields():
            known = f"{message.DESCRIPTOR.name}.{field.name}"
            values = list(value) if is_repeated(field) else [value]
            if known in MASKED:
                yield f"{field.name}: <{MASKED[known]}>"
            elif field.message_type is None:
                yield f"{field.name}: {', '.join(self._plain(field.name, each, names) for each in values)}"
            elif field.message_type.name == "KeyValue":
                yield from _attributes(field.name, values, names, self)
            elif field.message_type.name == "AnyValue":
                yield f"{field.name}: {self.value(values[0], names)}"
            else:
                for each in values:
                    yield f"{field.name}:"
                    yield from (f"    {line}" for line in self._fields(each, names))

    def _plain(self, name: str, value: Any, names: Names) -> str:
        if name in _IDS:
            return _id(value, names)
        return repr(self.text(value, names)) if isinstance(value, str) else repr(value)

    def value(self, value: AnyValue, names: Names, name: str = "") -> str:
        """Return the type and the text of an attribute's value."""
        kind = value.WhichOneof("value") or "nothing"
        if name in MASKED:
            return f"{kind} <{MASKED[name]}>"
        match kind:
            case "string_value":
                return f"{kind} {self.text(value.string_value, names)!r}"
            case "int_value" if value.int_value in self._ports:
                return f"{kind} <port>"
            case "array_value":
                return f"{kind} [{', '.join(self.value(each, names) for each in value.array_value.values)}]"
            case "kvlist_value":
                pairs = (f"{each.key}={self.value(each.value, names)}" for each in value.kvlist_value.values)
                return f"{kind} {{{', '.join(pairs)}}}"
            case "nothing":
                return kind
        return f"{kind} {getattr(value, kind)!r}"

    def text(self, text: str, names: Names) -> str:
        """Return a text without what is another one each time."""
        for pattern, instead in TEXTS:
            text = pattern.sub(instead, text)
        for port in self._ports:
            text = re.sub(rf"(?<=:){port}\b", "<port>", text)
        return _HEXADECIMAL.sub(lambda found: _id(bytes.fromhex(found[0]), names), text)


class _Point:
    """One series, of as many collections as there were."""

    def __init__(self, name: str, head: Sequence[str]) -> None:
        self.name = name
        self._head = head
        self.count: int | None = None
        self.delta = False
        self._exemplars: list[Exemplar] = []
        self._last: Any = None

    def add(self, point: _Points, *, delta: bool) -> None:
        """Add what a collection says."""
        self._last, self.delta = point, delta
        self._exemplars += point.exemplars
        if not isinstance(point, NumberDataPoint):
            self.count = point.count + (self.count or 0 if delta else 0)

    def lines(self, reader: Reader, names: Names, increment: int | None, durations: Mapping[bytes, float]) -> list[str]:
        """Return the series as lines; none where nothing came to it, with *increment* None all of it."""
        if increment == 0 and not self._exemplars:
            return []
        rest = type(self._last)()
        rest.CopyFrom(self._last)
        rest.ClearField("exemplars")
        if self.count is not None:
            rest.ClearField("count")
        fields = [*reader._fields(rest, names), *_adding_up(self._last), *self._counted(increment)]
        exemplars = [] if increment is None else self._said(reader, names, increment, durations)
        return ["point", *(f"    {line}" for line in [*self._head, *fields, *exemplars])]

    def _counted(self, increment: int | None) -> list[str]:
        if self.count is None:
            return []
        # Of a whole run nothing remains of delta but its last collection.
        return [f"count: {self.count}"] if increment is None and not self.delta else [f"count: + {increment}"]

    def _said(self, reader: Reader, names: Names, increment: int, durations: Mapping[bytes, float]) -> list[str]:
        if increment != 1:
            # Of several measurements in one bucket any may be the one.
            return sorted({f"exemplars, of {_whose(each, names)}" for each in self._exemplars})
        found = []
        for each in self._exemplars:
            found += ["exemplar:", *(f"    {line}" for line in reader._fields(each, names))]
            if each.span_id in durations:
                same = abs(durations[each.span_id] - each.as_double) < 1e-6
                found.append(f"    the duration of its span: {same}")
        return found


def _whose(exemplar: Exemplar, names: Names) -> str:
    if not exemplar.span_id:
        return "no span"
    return "a recorded span" if exemplar.span_id in names else "a span that is not recorded"


def _adding_up(point: Any) -> list[str]:
    if not isinstance(point, HistogramDataPoint):
        return []
    right = sum(point.bucket_counts) == point.count and point.min <= point.max <= point.sum + 1e-9
    return [f"buckets: {len(point.bucket_counts)}, which add up: {right}"]


def _ordered(span: Span) -> list[str]:
    return [f"    ends after it starts: {span.start_time_unix_nano <= span.end_time_unix_nano}"]


def _attributes(name: str, pairs: Iterable[KeyValue], names: Names, reader: Reader) -> list[str]:
    return sorted(f"{name} {pair.key!r}: {reader.value(pair.value, names, pair.key)}" for pair in pairs)


def _id(value: bytes, names: Names) -> str:
    if value in names:
        return names[value]
    given = value.hex()
    return given if given.startswith((CALLER_TRACE, CALLER_SPAN)) or not any(value) else "<id>"


def is_repeated(field: Any) -> bool:
    """Return whether a field of a message is a list."""
    # Older releases of protobuf know but the label, which newer ones warn of.
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
