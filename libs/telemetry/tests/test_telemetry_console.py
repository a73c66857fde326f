import io
import time
from contextlib import redirect_stdout
from typing import TextIO

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Status, StatusCode
from rsketch_telemetry import Telemetry
from rsketch_telemetry.console import SpanTree
from rsketch_telemetry.sdk import create_providers


class _Broken(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


def _shown(stream: io.StringIO, provider: TracerProvider) -> list[str]:
    provider.shutdown()
    return stream.getvalue().splitlines()


def _provider(stream: TextIO) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SpanTree(stream))
    return provider


def test_a_trace_is_a_tree() -> None:
    """Children stand below their parent in order of start, failures are marked, and the trace is named."""
    stream = io.StringIO()
    provider = _provider(stream)
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("GET /a") as root:
        with tracer.start_as_current_span("first"), tracer.start_as_current_span("inner"):
            pass
        with tracer.start_as_current_span("second") as second:
            second.set_status(Status(StatusCode.ERROR))
    lines = _shown(stream, provider)

    assert lines[0] == f"trace {root.get_span_context().trace_id:032x}"
    assert [(len(line) - len(line.lstrip()), line.split("  ")[0] or line.split()[0]) for line in lines[1:]] == [
        (2, "GET"), (4, "first"), (6, "inner"), (4, "second")
    ]  # fmt: skip
    assert [line.endswith("ERROR") for line in lines[1:]] == [False, False, False, True]


def test_without_a_stream_it_is_what_stdout_is_by_then() -> None:
    """A program that has replaced stdout since the import gets its spans there."""
    exporters = ("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER")
    providers = create_providers(dict.fromkeys(exporters, "none"), {}, [])
    telemetry, stream = Telemetry(providers), io.StringIO()
    with redirect_stdout(stream):
        telemetry.show_spans()
    providers.tracers.get_tracer("test").start_span("work").end()
    telemetry.shutdown()

    assert "work" in stream.getvalue()


def test_a_terminal_cannot_be_written_to_by_a_span_name() -> None:
    """Control characters in a name are escaped."""
    stream = io.StringIO()
    provider = _provider(stream)
    provider.get_tracer("test").start_span("a\x1b[2J").end()

    assert "\x1b" not in "".join(_shown(stream, provider))


def test_what_cannot_be_shown_is_counted() -> None:
    """Ending many traces at once never waits for the terminal; what is left out is said."""
    stream = io.StringIO()
    provider = _provider(stream)
    tracer = provider.get_tracer("test")
    started = time.monotonic()
    for _ in range(5000):
        tracer.start_span("busy").end()
    elapsed = time.monotonic() - started
    tracer.start_span("last").end()
    lines = _shown(stream, provider)

    assert elapsed < 5.0
    assert len(lines) < 5000


def test_a_stream_that_is_gone_ends_the_display_alone() -> None:
    """A closed terminal is no error of the program."""
    provider = _provider(_Broken())
    tracer = provider.get_tracer("test")
    for _ in range(3):
        tracer.start_span("a").end()
    provider.shutdown()


def test_a_terminal_without_some_letters_shows_the_rest() -> None:
    """What an ASCII terminal lacks becomes a question mark, and the display goes on."""
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    provider = _provider(stream)
    provider.get_tracer("test").start_span("caf\u00e9").end()
    provider.shutdown()

    assert b"caf?" in buffer.getvalue()


def test_many_traces_that_never_end_are_bounded_and_counted() -> None:
    """Spans left open push the oldest traces out, which is said with the next one shown."""
    stream = io.StringIO()
    provider = _provider(stream)
    tracer = provider.get_tracer("test")
    open_spans = [tracer.start_span("open") for _ in range(1005)]
    tracer.start_span("last").end()
    lines = _shown(stream, provider)

    assert len(open_spans) == 1005
    assert lines[-1] == "… 6 more traces are not shown"
