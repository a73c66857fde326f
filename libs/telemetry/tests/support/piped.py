"""Pipelines that end in memory, and log records on both ways into one."""

import logging

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk._logs import LoggerProvider
from rsketch_telemetry import logs
from rsketch_telemetry._log_encoder import log_encoder
from rsketch_telemetry.otlp.frame import frame
from rsketch_telemetry.pipeline import Lane, Outcome, Pipeline, Reporter, Segment, Sent
from rsketch_telemetry.processors import BaggageLogs, PipelineLogs
from rsketch_telemetry.signal import Signal

__all__ = ["Records", "piped", "taken"]


class _Nowhere:
    """A sender whose requests all arrive."""

    where = "nowhere"

    def send(self, request: bytes, timeout_seconds: float) -> Outcome:
        """Send one export request."""
        return Outcome(Sent.ACCEPTED)

    def close(self) -> None:
        """Do nothing."""

    def renew(self) -> None:
        """Do nothing."""


def piped(signal: Signal) -> tuple[Pipeline, Lane]:
    """Return a pipeline of one signal, which sends nothing before it is asked to, and its lane."""
    lane = Lane(signal, Segment(), _Nowhere(), interval_seconds=3600, timeout_seconds=1)
    return Pipeline([lane], lambda: (b"", ""), Reporter()), lane


def taken(lane: Lane) -> ExportLogsServiceRequest:
    """Take the log records that wait in a lane, as the request that they would be sent in."""
    lane.settle()
    mark, items = lane.segment.peek(2**30, None)
    lane.segment.discard(mark)
    return ExportLogsServiceRequest.FromString(frame(b"", "", items))


class Records:
    """
    A logger provider and the pipeline behind it.

    Args:
        keys: Of baggage that goes onto records.
    """

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        self.pipeline, self.lane = piped(Signal.LOGS)
        self.loggers = LoggerProvider(shutdown_on_exit=False)
        if keys:
            self.loggers.add_log_record_processor(BaggageLogs(keys))
        self.loggers.add_log_record_processor(PipelineLogs(self.pipeline))

    def both(self, record: logging.LogRecord) -> tuple[ExportLogsServiceRequest, ExportLogsServiceRequest, bool]:
        """Return what the SDK makes of a record, what is exported where it need not, and whether it need not."""
        logs.OtlpHandler(self.loggers).handle(record)
        theirs = _timeless(taken(self.lane))
        encoder = log_encoder(self.loggers, self.pipeline)
        alone = encoder is not None and encoder.take(record)
        if not alone:
            logs.OtlpHandler(self.loggers, encoder).handle(record)
        return theirs, _timeless(taken(self.lane)), alone


def _timeless(request: ExportLogsServiceRequest) -> ExportLogsServiceRequest:
    """Return a request without the moments at which its records were observed."""
    for scope in request.resource_logs[0].scope_logs:
        for record in scope.log_records:
            assert record.observed_time_unix_nano
            record.observed_time_unix_nano = 0
    return request
