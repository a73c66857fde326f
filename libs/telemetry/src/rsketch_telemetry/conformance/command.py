"""
`python -m rsketch_telemetry check`: receive the telemetry of any service and say what is wrong with it.

It listens on loopback with the OTLP receiver, so it needs the extra `[receiver]`, and keeps nothing of what arrives but
the violations, unless it is asked to compare spans with metrics at the end.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from rsketch_telemetry.conformance.attributes import Allowances
from rsketch_telemetry.conformance.checker import Checker
from rsketch_telemetry.conformance.contract import load
from rsketch_telemetry.conformance.habits import Habits, habits
from rsketch_telemetry.conformance.report import Report, line
from rsketch_telemetry.conformance.violation import Violation
from rsketch_telemetry.conformance.whole import whole
from rsketch_telemetry.otlp.model import LogRecord, MetricPoint, Span, decode_logs, decode_metrics, decode_traces

if TYPE_CHECKING:
    from rsketch_telemetry.otlp.receiver import Export, ReceiverConfig

__all__ = ["EPILOG", "HELP", "arguments", "run"]

_Item = TypeVar("_Item", Span, MetricPoint, LogRecord)

CLEAN, VIOLATIONS, UNUSABLE, NOTHING = 0, 1, 2, 3

HELP = "receive the telemetry of a service and report what the semantic conventions do not allow"
EPILOG = """\
Point a service at it and make some calls:

    python -m rsketch_telemetry check &
    OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317 OTEL_METRIC_EXPORT_INTERVAL=1000 <the service>

Any service in any language will do. Each distinct violation is printed once, when it is first seen, with the rule's id,
the place and the section of the specification; a summary with counts follows at the end. Stop it with Ctrl-C.

exit status:
  0  telemetry arrived and nothing is wrong with it
  1  there are violations
  2  an argument is wrong, the ports cannot be listened on, or nobody reads what is printed
  3  nothing arrived
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--grpc-port", type=_port, default=4317, metavar="PORT", help="of OTLP/gRPC; 0 takes a free one (default: 4317)"
    )
    parser.add_argument(
        "--http-port", type=_port, default=4318, metavar="PORT", help="of OTLP/HTTP; 0 takes a free one (default: 4318)"
    )
    parser.add_argument("--seconds", type=_seconds, metavar="N", help="stop after N seconds (default: at Ctrl-C)")
    parser.add_argument(
        "--complete",
        action="store_true",
        help="nothing is sampled away: also compare spans with metrics at the end; keeps everything in memory",
    )
    parser.add_argument("--strict", action="store_true", help="let advice fail too")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end and nothing before it")
    parser.add_argument(
        "--known-methods", type=_words, default=frozenset(), metavar="M,…", help="further HTTP methods that are known"
    )
    parser.add_argument(
        "--query-keys", type=_words, default=frozenset(), metavar="K,…", help="query parameters that may be seen"
    )


def run(options: argparse.Namespace) -> int:
    """Listen, check and report; return the exit status."""
    try:
        from rsketch_telemetry.otlp.receiver import ReceiverConfig
    except ModuleNotFoundError as error:
        print(f"check needs the extra [receiver] of rsketch-telemetry: {error.name} is missing", file=sys.stderr)
        return UNUSABLE
    config = ReceiverConfig(host=options.host, grpc_port=options.grpc_port, http_port=options.http_port)
    checking = _Checking(options)
    try:
        asyncio.run(_listen(config, checking, options.seconds))
    except OSError as error:
        print(f"check cannot listen on {options.host}: {error}", file=sys.stderr)
        return UNUSABLE
    status = checking.conclude()
    if checking.unwritable is not None:
        print(f"check cannot write its output: {checking.unwritable.strerror}", file=sys.stderr)
        return UNUSABLE
    return status


async def _listen(config: "ReceiverConfig", checking: "_Checking", seconds: float | None) -> None:
    from rsketch_telemetry.otlp.receiver import receive

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    checking.on_unwritable = stopped.set
    async with receive(checking, config) as at:
        checking.say(f"listening for OTLP on {at.grpc_endpoint} (gRPC) and {at.http_endpoint} (HTTP)")
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stopped.wait()


class _Checking:
    """
    The receiver's handler: checks what arrives and prints what is new.

    Attributes:
        unwritable: Why standard output takes no more, such as a pipe that nobody reads; None while it does.
        on_unwritable: Called when that happens.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._checker = Checker(allowed=Allowances(methods=options.known_methods, query_keys=options.query_keys))
        self._habits = Habits()
        self._report = Report()
        self._spans: list[Span] = []
        self._points: list[MetricPoint] = []
        self._logs: list[LogRecord] = []
        self.unwritable: OSError | None = None
        self.on_unwritable: Callable[[], None] = lambda: None

    async def handle(self, export: "Export") -> None:
        """Check one request."""
        match export.request:
            case ExportTraceServiceRequest() as traces:
                self._take("spans", decode_traces(traces), self._check_spans, self._spans)
            case ExportMetricsServiceRequest() as metrics:
                self._take("metric points", decode_metrics(metrics), self._checker.points, self._points)
            case ExportLogsServiceRequest() as logs:
                self._take("log records", decode_logs(logs), self._checker.logs, self._logs)

    def _check_spans(self, items: list[Span]) -> Iterable[Violation]:
        yield from self._checker.spans(items)
        yield from self._habits.spans(items)

    def _take(
        self, kind: str, items: list[_Item], check: Callable[[list[_Item]], Iterable[Violation]], kept: list[_Item]
    ) -> None:
        self._report.items[kind] += len(items)
        self._show(check(items))
        self._show(self._habits.resources(items))
        if self._options.complete:
            kept += items

    def _show(self, found: Iterable[Violation]) -> None:
        for violation in self._report.add(found):
            self.say(line(violation))

    def say(self, text: str) -> None:
        """Print a line for people; at once, as it may go into a pipe."""
        if not self._options.json:
            self._print(text)

    def _print(self, text: str) -> None:
        if self.unwritable is not None:
            return
        try:
            print(text, flush=True)
        except OSError as error:
            # Not for the service to know, whose export this is the answer to.
            self.unwritable = error
            _discard_output()
            self.on_unwritable()

    def conclude(self) -> int:
        """Print the end and return the exit status."""
        if self._options.complete:
            self._show(whole(load(), self._spans, self._points, self._logs))
            self._show(habits(load(), self._spans, self._points))
        if self._options.json:
            self._print(self._report.as_json())
        elif not self._report.empty:
            self._print(self._report.summary())
        if self._report.empty:
            print("check: nothing arrived; is the service's OTEL_EXPORTER_OTLP_ENDPOINT this address?", file=sys.stderr)
            return NOTHING
        return VIOLATIONS if self._report.failed(strict=self._options.strict) else CLEAN


def _discard_output() -> None:
    """Send what is left in the buffer nowhere: at its end Python would try to write it, and fail, once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"accepts a port from 0 to 65535, not {text!r}")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"accepts a number of seconds above 0, not {text!r}")
    return seconds


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip() for word in text.split(",") if word.strip())
