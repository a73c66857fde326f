"""Senders of framed OTLP requests: bytes over gRPC and over HTTP, and what the answers mean."""

import gzip
import io
import logging
import time
import zlib
from collections.abc import Iterable, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from rsketch_telemetry.destinations import Destination
from rsketch_telemetry.pipeline import THREAD_NAME, Outcome, Sender, Sent
from rsketch_telemetry.redaction import scrub
from rsketch_telemetry.signal import Signal
from rsketch_telemetry.version import __version__

if TYPE_CHECKING:
    import grpc
    import requests

__all__ = ["GrpcSender", "HeldSender", "HttpSender", "sender"]

_USER_AGENT = f"rsketch-telemetry/{__version__}"
_GRPC_METHODS = {
    Signal.TRACES: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    Signal.METRICS: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    Signal.LOGS: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
_GRPC_RETRY = frozenset({"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"})
_GRPC_UNAUTHORIZED = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
_HTTP_RETRY = frozenset({408, 429, 500, 502, 503, 504})
_HTTP_UNAUTHORIZED = frozenset({401, 403})
_ANSWER_BYTES = 64 * 1024
"""Of an answer no more is read: an OTLP one has a number and a sentence."""
_HOLD_SECONDS = 30.0


def sender(destination: Destination) -> Sender:
    """Return the sender for a destination; it opens nothing before the first request."""
    if destination.held is not None:
        return HeldSender(destination)
    return GrpcSender(destination) if destination.protocol == "grpc" else HttpSender(destination)


class HeldSender:
    """Sends nothing: a credential or certificate is broken, as was said when the settings were read."""

    def __init__(self, destination: Destination) -> None:
        self.where = _where(destination)

    def send(self, request: bytes, timeout_seconds: float) -> Outcome:
        """Hold the request back."""
        return Outcome(Sent.HELD, retry_after_seconds=_HOLD_SECONDS)

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def renew(self) -> None:
        """Do nothing: nothing is open."""


class GrpcSender:
    """Sends over one gRPC channel, which is opened by the first request."""

    def __init__(self, destination: Destination) -> None:
        self.where = _where(destination)
        self._destination = destination
        self._channel: grpc.Channel | None = None
        self._export: grpc.UnaryUnaryMultiCallable[bytes, bytes] | None = None
        self._inherited: list[grpc.Channel] = []

    def send(self, request: bytes, timeout_seconds: float) -> Outcome:
        """Make one Export call."""
        import grpc

        try:
            export = self._export or self._open()
            metadata = tuple(self._destination.headers.items())
            answer = export(request, timeout=timeout_seconds, metadata=metadata)
        except grpc.RpcError as error:
            return _grpc_failure(error)
        except Exception as error:  # noqa: BLE001 - whatever the transport makes of its settings
            return _unusable(error)
        return _accepted(self._destination.signal, answer)

    def close(self) -> None:
        """Close the channel; a request under way fails at once."""
        if self._channel is not None:
            self._channel.close()

    def renew(self) -> None:
        """Forget the channel; it is kept, as closing what a parent has forked can hang."""
        if self._channel is not None:
            self._inherited.append(self._channel)
        self._channel = self._export = None

    def _open(self) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
        import grpc

        at = self._destination
        target = at.endpoint.partition("://")[2].rpartition("@")[2]
        options: Sequence[tuple[str, str | int]] = (
            ("grpc.primary_user_agent", _USER_AGENT),
            # The pipeline paces the attempts itself; the channel must be ready to connect when it asks.
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 5000),
        )
        compression = grpc.Compression.Gzip if at.compression == "gzip" else grpc.Compression.NoCompression
        if at.tls:
            credentials = grpc.ssl_channel_credentials(
                at.certificate.read_bytes() if at.certificate else None,
                at.client_key.read_bytes() if at.client_key else None,
                at.client_certificate.read_bytes() if at.client_certificate else None,
            )
            self._channel = grpc.secure_channel(target, credentials, options, compression)
        else:
            self._channel = grpc.insecure_channel(target, options, compression)
        self._export = self._channel.unary_unary(_GRPC_METHODS[at.signal])
        return self._export


def _grpc_failure(error: "grpc.RpcError") -> Outcome:
    code, details = error.code().name, error.details() or ""
    retry_after = _retry_info(error)
    # gRPC core repeats itself for each address; the last error is the reason.
    reason = f"{code}: {_first_line(details.rpartition('last error: ')[2])}"
    if code in _GRPC_UNAUTHORIZED:
        return Outcome(Sent.RETRY, reason, retry_after_seconds=_HOLD_SECONDS)
    if code in _GRPC_RETRY or (code == "RESOURCE_EXHAUSTED" and retry_after is not None):
        return Outcome(Sent.RETRY, reason, retry_after_seconds=retry_after)
    return Outcome(Sent.REFUSED, reason, error=code)


def _retry_info(error: "grpc.RpcError") -> float | None:
    """Return the seconds that the collector asks for in `google.rpc.RetryInfo`, if it does."""
    trailers = dict(cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ()))
    details = trailers.get("grpc-status-details-bin")
    return _retry_delay(details) if isinstance(details, bytes) else None


def _retry_delay(status: bytes) -> float | None:
    # Not at the start, which would take longer for what is seldom needed.
    from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]  # the package has no marker
    from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # likewise

    retry = RetryInfo()
    try:
        details = Status.FromString(status).details
        found = any(detail.Unpack(retry) for detail in details)
    except DecodeError:
        return None
    return retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9 if found else None


class HttpSender:
    """Posts protobuf over one HTTP session, which is opened by the first request."""

    def __init__(self, destination: Destination) -> None:
        self.where = _where(destination)
        self._destination = destination
        self._session: requests.Session | None = None
        self._verify = str(destination.certificate) if destination.certificate else None

    def send(self, request: bytes, timeout_seconds: float) -> Outcome:
        """Post one request; redirects are refused, as an answer from elsewhere confirms nothing."""
        import requests

        session = self._session or self._open()
        body, url = _compressed(request, self._destination.compression), self._destination.endpoint
        try:
            answer = session.post(
                url,
                body,
                timeout=timeout_seconds,
                allow_redirects=False,
                stream=True,
                # With each request: REQUESTS_CA_BUNDLE outranks the session's.
                verify=self._verify,
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            return Outcome(Sent.RETRY, _connection_reason(error))
        except Exception as error:  # noqa: BLE001 - whatever the transport makes of its settings
            return _unusable(error)
        try:
            with answer:
                return self._judge(answer)
        except Exception as error:  # noqa: BLE001 - whatever reading makes of an answer
            # The settings were good enough for an answer: what is wrong with that may pass.
            return Outcome(Sent.RETRY, _connection_reason(error))

    def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            self._session.close()

    def renew(self) -> None:
        """Forget the session, whose connections the parent goes on using."""
        self._session = None

    def _open(self) -> "requests.Session":
        import requests

        # It says each request and each dropped connection again; the pipeline says what matters once.
        logging.getLogger("urllib3.connectionpool").addFilter(_not_of_an_export)
        at = self._destination
        session = requests.Session()
        for prefix in ("http://", "https://"):
            session.mount(prefix, _timed_adapter())
        session.headers.update({"Content-Type": "application/x-protobuf", "User-Agent": _USER_AGENT})
        session.headers.update(at.headers)
        if at.compression != "none":
            session.headers["Content-Encoding"] = at.compression
        if at.client_certificate:
            certificate = str(at.client_certificate)
            session.cert = (certificate, str(at.client_key)) if at.client_key else certificate
        self._session = session
        return session

    def _judge(self, answer: "requests.Response") -> Outcome:
        if answer.status_code in _HTTP_RETRY:
            after = _retry_after(answer.headers.get("Retry-After", ""))
            return Outcome(Sent.RETRY, f"HTTP {answer.status_code}", retry_after_seconds=after)
        if answer.status_code in _HTTP_UNAUTHORIZED:
            return Outcome(Sent.RETRY, f"HTTP {answer.status_code}", retry_after_seconds=_HOLD_SECONDS)
        if not 200 <= answer.status_code < 300:
            return Outcome(Sent.REFUSED, f"HTTP {answer.status_code}", error=str(answer.status_code))
        if "json" in answer.headers.get("Content-Type", ""):
            # Allowed only for JSON requests, but some collectors answer so; what it says is a success all the same.
            return Outcome(Sent.ACCEPTED)
        return _accepted(self._destination.signal, _body(answer))


def _body(answer: "requests.Response") -> bytes:
    body = b""
    for piece in answer.iter_content(_ANSWER_BYTES):
        body += piece
        if len(body) > _ANSWER_BYTES:
            break
    return body


def _timed_adapter() -> "requests.adapters.HTTPAdapter":
    """Return the transport of requests with one deadline for a whole answer, where its own is for each read."""
    import http.client

    import requests.adapters
    import urllib3

    class _Answer(http.client.HTTPResponse):
        def __init__(self, sock: Any, *arguments: Any, **others: Any) -> None:
            super().__init__(sock, *arguments, **others)
            self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock))

    def timed(pool: Any) -> Any:
        connection = type("_Connection", (pool.ConnectionCls,), {"response_class": _Answer})
        return type("_Pool", (pool,), {"ConnectionCls": connection})

    adapter = requests.adapters.HTTPAdapter()
    adapter.poolmanager.pool_classes_by_scheme = {
        "http": timed(urllib3.HTTPConnectionPool),
        "https": timed(urllib3.HTTPSConnectionPool),
    }
    return adapter


class _TimedReader(io.RawIOBase):
    """Reads from a socket until as long after its making as the socket's timeout is, however little a read brings."""

    def __init__(self, raw: Any, sock: Any) -> None:
        self._raw = raw
        self._sock = sock
        timeout = sock.gettimeout()
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the answer took too long")
            self._sock.settimeout(left)
        return cast("int | None", self._raw.readinto(buffer))

    def close(self) -> None:
        self._raw.close()
        super().close()


def _accepted(signal: Signal, answer: bytes) -> Outcome:
    """Judge the body of a success: it may reject some items, and what does not parse is no OTLP answer at all."""
    try:
        rejected, message = _partial_success(signal, answer)
    except DecodeError:
        return Outcome(Sent.RETRY, "the answer is not OTLP; is this the right port?")
    return Outcome(Sent.ACCEPTED, _first_line(message), rejected)


def _partial_success(signal: Signal, answer: bytes) -> tuple[int, str]:
    if signal is Signal.TRACES:
        traces = ExportTraceServiceResponse.FromString(answer).partial_success
        return traces.rejected_spans, traces.error_message
    if signal is Signal.METRICS:
        metrics = ExportMetricsServiceResponse.FromString(answer).partial_success
        return metrics.rejected_data_points, metrics.error_message
    logs = ExportLogsServiceResponse.FromString(answer).partial_success
    return logs.rejected_log_records, logs.error_message


def _compressed(request: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return gzip.compress(request, compresslevel=1)
    return zlib.compress(request, level=1) if compression == "deflate" else request


def _retry_after(value: str) -> float | None:
    """Return the seconds of a Retry-After header, a number or a date; None where it is neither."""
    if value.isascii() and value.isdigit():
        return float(value[:6])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _connection_reason(error: Exception) -> str:
    """Return the innermost reason of a failed connection: the outer ones repeat the address and object names."""
    inner: BaseException = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__ or inner
    return _first_line(f"{type(inner).__name__}: {inner}")


def _unusable(error: Exception) -> Outcome:
    # Only its name: gRPC and requests both put header values, which are credentials, into the text.
    return Outcome(Sent.HELD, f"these settings cannot be used ({type(error).__name__})", 0, _HOLD_SECONDS)


def _not_of_an_export(record: logging.LogRecord) -> bool:
    return record.threadName != THREAD_NAME


def _where(destination: Destination) -> str:
    # Without the path, which differs by signal: one collector that is away is one trouble.
    scheme, _, rest = destination.masked.partition("://")
    return f"{scheme}://{rest.partition('/')[0]} ({destination.protocol})"


def _first_line(text: str) -> str:
    """Return the start of what the other end, or a library, said, fit for a log."""
    line = next(iter(text.strip().splitlines()), "")
    return "".join(each if each.isprintable() else "?" for each in scrub(line, 200))
