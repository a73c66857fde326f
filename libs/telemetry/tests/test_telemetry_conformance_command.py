"""`python -m rsketch_telemetry check`, in a process of its own, with the exporters of the SDK as clients."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind
from rsketch_telemetry.__main__ import main
from rsketch_telemetry.facts import HttpOutcome, http_request
from rsketch_telemetry.sdk_recorder import SdkRecorder

COMMAND = (sys.executable, "-m", "rsketch_telemetry", "check")
ANY_PORT = ("--grpc-port", "0", "--http-port", "0")
RESOURCE = Resource.create({"service.name": "shop"})
REQUEST = http_request(method="GET", scheme="http", path="/users/12", protocol_version="1.1")


@dataclass(frozen=True, slots=True)
class Checking:
    """The running command."""

    process: subprocess.Popen[str]
    grpc: str
    http: str

    def stopped(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        """Stop it, and return its status and what else it wrote."""
        self.process.send_signal(number)
        # Not communicate(): it would lose what a readline() has left in the buffer.
        out, err = _rest(self.process.stdout), _rest(self.process.stderr)
        return self.process.wait(20), out, err


@contextmanager
def _checking(*arguments: str) -> Iterator[Checking]:
    argv = [*COMMAND, *(() if "--grpc-port" in arguments else ANY_PORT), *arguments]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"(http://\S+) \(gRPC\) and (http://\S+) \(HTTP\)", process.stdout.readline())
        assert found, process.communicate(timeout=20)
        yield Checking(process, found[1], found[2])
    finally:
        process.kill()
        process.communicate()


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def _rest(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.read()


def _traced(endpoint: str, *, grpc: bool) -> TracerProvider:
    exporter = GrpcSpanExporter(endpoint=endpoint, insecure=True) if grpc else HttpSpanExporter(f"{endpoint}/v1/traces")
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def _send(endpoint: str, spans: Sequence[tuple[str, dict[str, str | int]]], *, grpc: bool = True) -> None:
    tracers = _traced(endpoint, grpc=grpc)
    for name, attributes in spans:
        tracers.get_tracer("shop.web").start_span(name, kind=SpanKind.SERVER, attributes=attributes).end()
    tracers.shutdown()


GOOD: dict[str, str | int] = {
    "http.request.method": "GET",
    "url.path": "/users/12",
    "url.scheme": "http",
    "http.response.status_code": 200,
    "http.route": "/users/<id:int>",
}


@pytest.mark.parametrize("grpc", [True, False])
def test_violations_are_printed_once_and_fail(*, grpc: bool) -> None:
    """Each distinct violation has one line as soon as it is seen, with its rule and its link; the end counts them."""
    with _checking() as checking:
        bad = ("/users/12", {"http.method": "GET", **GOOD})
        _send(checking.grpc if grpc else checking.http, [bad, bad, ("GET /users/<id:int>", GOOD)], grpc=grpc)
        at_once = [_line(checking.process.stdout) for _ in range(2)]
        status, out, _ = checking.stopped()

    said = "".join(at_once) + out
    assert status == 1
    assert said.count("violation: span-name: SERVER span '/users/12' [shop.web]") == 1
    assert "https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server-span" in said
    assert said.count("advice: duplicate-name") == 1
    assert "2 x span-name" in said
    assert "checked 3 spans, 0 metric points, 0 log records" in said


def test_clean_telemetry_passes() -> None:
    """Spans and metrics of our own recorder are clean, also compared with each other; the status says so."""
    with _checking("--complete") as checking:
        tracers = _traced(checking.grpc, grpc=True)
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{checking.http}/v1/metrics"))
        meters = MeterProvider([reader], resource=RESOURCE, shutdown_on_exit=False)
        recorder = SdkRecorder("rsketch_telemetry.test", tracer_provider=tracers, meter_provider=meters)
        recorder.http_server(REQUEST, Context()).finish(HttpOutcome(status_code=200, route="/users/<id:int>"))
        tracers.shutdown()
        meters.shutdown()
        status, out, err = checking.stopped(signal.SIGTERM)

    assert (status, err) == (0, "")
    assert "checked 1 spans, 1 metric points, 0 log records: no violation" in out


def test_machines_get_one_json_object() -> None:
    """With --json nothing but one object is on standard output, with a count for each distinct violation."""
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        grpc_port, http_port = first.getsockname()[1], second.getsockname()[1]
    ports = ["--grpc-port", str(grpc_port), "--http-port", str(http_port)]
    process = subprocess.Popen(
        [*COMMAND, *ports, "--json", "--seconds", "8"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        # The exporter tries again until the port is open.
        _send(f"http://127.0.0.1:{grpc_port}", [("/users/12", GOOD)])
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()

    said = json.loads(out)
    assert process.returncode == 1
    assert said["checked"]["spans"] == 1
    assert [(each["rule"], each["count"]) for each in said["violations"] if each["rule"] == "span-name"] == [
        ("span-name", 1)
    ]


def test_output_that_nobody_reads_ends_it() -> None:
    """A pipe that is closed ends the check with one line; the service whose telemetry it is notices nothing."""
    with _checking() as checking:
        assert checking.process.stdout is not None
        checking.process.stdout.close()
        _send(checking.grpc, [("/users/12", GOOD)])
        status, err = checking.process.wait(20), _rest(checking.process.stderr)
        # Nothing is left for the end to read.
        checking.process.stdout = None

    assert status == 2
    assert err == "check cannot write its output: Broken pipe\n"


def test_a_full_disk_is_one_line() -> None:
    """What cannot be written is said, and not taken for a port that cannot be listened on."""
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*COMMAND, *ANY_PORT, "--seconds", "5"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=30
        )

    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == "check cannot write its output: No space left on device"


def test_any_name_can_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the terminal has not the letters of a name they are escaped."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with _checking() as checking:
        _send(checking.grpc, [("GET /bücher", GOOD)])
        status, out, err = checking.stopped()

    assert (status, err) == (1, "")
    assert "SERVER span 'GET /b\\xfccher'" in out


def test_nothing_arrived_is_no_success() -> None:
    """A service that is not pointed at the check must not look clean."""
    result = subprocess.run([*COMMAND, *ANY_PORT, "--seconds", "0.1"], capture_output=True, text=True, timeout=30)

    assert result.returncode == 3
    assert "nothing arrived" in result.stderr
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in result.stderr


def test_a_port_that_is_taken_is_one_line() -> None:
    """The status is 2, and the line names the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ["--grpc-port", "0", "--http-port", str(port), "--seconds", "5"]
        result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=30)

    assert result.returncode == 2
    assert f"127.0.0.1:{port}" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--grpc-port", "70000"], "accepts a port from 0 to 65535, not '70000'"),
        (["--seconds", "soon"], "accepts a number of seconds above 0, not 'soon'"),
        (["--seconds", "0"], "accepts a number of seconds above 0, not '0'"),
        (["--loud"], "unrecognized arguments: --loud"),
    ],
)
def test_a_wrong_argument_says_what_is_accepted(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named with what it accepts, and the status is 2."""
    with pytest.raises(SystemExit) as ended:
        main(["check", *arguments])

    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """The help shows how to point a service at it, and what the status means."""
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    said = capsys.readouterr().out

    assert "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317" in said
    assert "nothing arrived" in said


def test_without_the_extra_it_is_one_line() -> None:
    """The receiver stands on Sanic; where it is missing the extra is named."""
    program = "import sys; sys.modules['sanic'] = None; from rsketch_telemetry.__main__ import main; main(['check'])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)

    assert result.stderr.count("\n") == 1
    assert "needs the extra [receiver]" in result.stderr
