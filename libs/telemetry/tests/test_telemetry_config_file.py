import json
from importlib.metadata import version
from pathlib import Path

import pytest
from programs import ANY_PORT, Ended, own_points, run
from rsketch_telemetry.otlp.handler import Export
from rsketch_telemetry.otlp.receiver import Receiver, receive
from rsketch_telemetry.otlp.store import TelemetryStore

# The package is made for one release of the SDK each, and there is none for older ones.
released = pytest.mark.skipif(
    tuple(map(int, version("opentelemetry-sdk").split(".")[:2])) < (1, 45), reason="no package for this old a SDK"
)

ALL_SIGNALS = """
with trace.get_tracer("test").start_as_current_span("work"):
    logging.getLogger("shop").warning("sold")
metrics.get_meter("test").create_counter("sales").add(3)
"""
CONFIGURED = f"""
telemetry = rsketch_telemetry.configure()
{ALL_SIGNALS}
say(summary=str(telemetry.summary), threads=threads())
"""
# As variables have it, nothing would arrive.
ELSEWHERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_SAMPLER": "always_off"}

WHOLE = """
file_format: "1.0"
resource:
  attributes:
    - {name: service.name, value: "${NAME:-till}"}
    - {name: service.version, value: "2"}
propagator: {composite: [{tracecontext: }, {baggage: }]}
tracer_provider:
  processors: [{batch: {exporter: {otlp_grpc: {endpoint: "${TO}"}}}}]
meter_provider:
  readers: [{periodic: {exporter: {otlp_grpc: {endpoint: "${TO}"}}}}]
logger_provider:
  processors: [{batch: {exporter: {otlp_grpc: {endpoint: "${TO}"}}}}]
"""


class _Store(TelemetryStore):
    """Keeps the headers as well."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[str] = []

    async def handle(self, export: Export) -> None:
        self.headers.append(f"{export.protocol} {export.headers.get('api-key')}")
        await super().handle(export)


def _names(store: TelemetryStore) -> tuple[list[str], list[str], list[object]]:
    return (
        [span.name for span in store.spans],
        [point.name for point in own_points(store)],
        [record.body for record in store.logs],
    )


EVERYTHING: tuple[list[str], list[str], list[object]] = (["work"], ["sales"], ["sold"])


async def _run(
    file: str,
    at: Receiver,
    folder: Path,
    program: str = CONFIGURED,
    *,
    name: str = "otel.yaml",
    launcher: bool = False,
    **environ: str,
) -> Ended:
    (folder / name).write_text(file)
    given = {"OTEL_CONFIG_FILE": name, "TO": at.grpc_endpoint, "TO_HTTP": at.http_endpoint, **environ}
    return await run(program, at, folder, given, launcher=launcher)


@released
@pytest.mark.parametrize("launcher", [False, True])
async def test_a_file_takes_the_place_of_the_variables(tmp_path: Path, launcher: bool) -> None:
    """All signals go by our pipeline's one thread to where the file says, with its resource and what we add to it."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await _run(WHOLE, at, tmp_path, launcher=launcher, **ELSEWHERE)
    attributes = store.spans[0].resource.attributes

    assert _names(store) == EVERYTHING
    assert ended.said["threads"] == ["rsketch-telemetry"]
    assert "sampler='ParentBased{root:AlwaysOnSampler," in ended.said["summary"]
    assert (attributes["service.name"], attributes["service.version"]) == ("till", "2")
    assert attributes["telemetry.distro.name"] == "rsketch-telemetry"
    assert attributes["service.instance.id"]
    assert {line for line in ended.stderr.splitlines() if "instrumentors" not in line} == {"sold"}


@released
async def test_a_huge_file_holds_nothing_up(tmp_path: Path) -> None:
    """It is not read at all: one line says so, and the variables hold."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await _run(WHOLE + "#" * (2 << 20), at, tmp_path)

    assert _names(store) == EVERYTHING
    assert store.spans[0].resource.attributes["service.name"] == "shop"
    assert "OTEL_CONFIG_FILE='otel.yaml' cannot be used: it accepts a file of at most 1 MiB; using" in ended.stderr


@released
async def test_variables_within_the_file(tmp_path: Path) -> None:
    """They are those of the mapping that `configure` is given, also where the process has none of that name."""
    program = f"""
rsketch_telemetry.configure({{**os.environ, "NAME": "kiosk"}})
{ALL_SIGNALS}
say(kept="NAME" in os.environ)
"""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await _run(WHOLE, at, tmp_path, program)

    assert store.spans[0].resource.attributes["service.name"] == "kiosk"
    assert ended.said == {"kept": False}


@released
async def test_json_over_http_with_headers(tmp_path: Path) -> None:
    """A file in JSON; each signal has an endpoint, headers and compression of its own."""

    def exporter(path: str) -> dict[str, object]:
        pairs = [{"name": "api-key", "value": f"{path}, = %41"}]
        return {
            "otlp_http": {
                "endpoint": f"${{TO_HTTP}}/v1/{path}",
                "headers": pairs,
                "headers_list": "api-key=not-this",
                "compression": "gzip",
                "timeout": 5000,
            }
        }

    file = {
        "file_format": "1.0",
        "propagator": {"composite_list": "tracecontext"},
        "tracer_provider": {"processors": [{"simple": {"exporter": exporter("traces")}}]},
        "meter_provider": {"readers": [{"periodic": {"exporter": exporter("metrics")}}]},
        "logger_provider": {"processors": [{"batch": {"exporter": exporter("logs")}}]},
    }
    store = _Store()
    async with receive(store, ANY_PORT) as at:
        ended = await _run(json.dumps(file), at, tmp_path, name="otel.json")

    assert _names(store) == EVERYTHING
    assert set(store.headers) == {f"http/protobuf {path}, = %41" for path in ("traces", "metrics", "logs")}
    assert "%41" not in ended.said["summary"] + ended.stderr


@released
async def test_samplers_views_and_temporality(tmp_path: Path) -> None:
    """What only the package can make is made by it, around our pipeline."""
    file = """
file_format: "1.0"
propagator: {composite: [{tracecontext: }]}
tracer_provider:
  sampler: {always_off: }
  processors: [{batch: {exporter: {otlp_grpc: {endpoint: "${TO}"}}}}]
meter_provider:
  views:
    - {selector: {instrument_name: sales}, stream: {name: sold, attribute_keys: {included: [kind]}}}
  readers:
    - periodic:
        exporter: {otlp_grpc: {endpoint: "${TO}", temporality_preference: delta}}
"""
    program = """
rsketch_telemetry.configure()
work()
metrics.get_meter("test").create_counter("sales").add(3, {"kind": "tea", "who": "ada"})
logging.getLogger("shop").warning("sold")
"""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        await _run(file, at, tmp_path, program)
    (point,) = own_points(store)

    assert (point.name, dict(point.attributes), point.temporality) == ("sold", {"kind": "tea"}, "DELTA")
    assert (store.spans, store.logs) == ([], [])


@released
async def test_other_exporters_stand_beside_ours(tmp_path: Path) -> None:
    """The console, and a second collector, are the package's; all end with the program, once and quietly."""
    again = "{simple: {exporter: {console: }}}, {batch: {exporter: {otlp_http: {endpoint: '${TO_HTTP}/v1/traces'}}}}"
    file = WHOLE.replace('processors: [{batch: {exporter: {otlp_grpc: {endpoint: "${TO}"}}}}]', "%s", 1)
    file = file % f'processors: [{again}, {{batch: {{exporter: {{otlp_grpc: {{endpoint: "${{TO}}"}}}}}}}}]'
    file = file.replace("readers: [", "readers: [{periodic: {exporter: {console: }}}, ")
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await _run(file, at, tmp_path)

    assert [span.name for span in store.spans] == ["work", "work"]
    assert ('"name": "work"' in ended.stdout, '"sales"' in ended.stdout) == (True, True)
    assert "foreign=('traces: console', 'traces: otlp_grpc', 'metrics: console')" in ended.said["summary"]
    assert ended.stderr == "sold\n"


@released
async def test_our_own_settings_hold_on_top(tmp_path: Path) -> None:
    """Sampling rules stand before the file's sampler, listed baggage is copied, and the process is not measured."""
    program = """
from opentelemetry import baggage
telemetry = rsketch_telemetry.configure()
carried = baggage.set_baggage("tenant", "acme")
for path in ("/health", "/other"):
    attributes = {"http.request.method": "GET", "url.path": path}
    span = trace.get_tracer("test").start_span(path, carried, trace.SpanKind.SERVER, attributes)
    with trace.use_span(span, end_on_exit=True):
        pass
say(sampler=telemetry.summary.sampler)
"""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await _run(
            WHOLE,
            at,
            tmp_path,
            program,
            RSKETCH_TELEMETRY_SAMPLING_RULES="http:/health=0",
            RSKETCH_TELEMETRY_BAGGAGE_KEYS="tenant",
            RSKETCH_TELEMETRY_PROCESS_METRICS="false",
        )

    assert [(span.name, span.attributes["tenant"]) for span in store.spans] == [("/other", "acme")]
    assert store.points == []
    assert ended.said["sampler"].startswith("http:/health=0, else ParentBased{")


@released
async def test_what_the_file_leaves_out(tmp_path: Path) -> None:
    """A signal that it does not name is not recorded, and what is passed over is said."""
    file = """
file_format: "1.0"
tracer_provider: {processors: [{batch: {exporter: {otlp_grpc: {endpoint: "${TO}"}}}}]}
instrumentation/development: {python: {httpx: {}}}
"""
    program = f"""
{CONFIGURED}
from opentelemetry.propagate import get_global_textmap
say(fields=sorted(get_global_textmap().fields))
"""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await _run(file, at, tmp_path, program)

    assert _names(store) == (["work"], [], [])
    assert store.points == []
    assert ended.said["fields"] == []
    assert sorted(ended.stderr.splitlines()) == [
        "sold",
        "telemetry: OTEL_CONFIG_FILE names no propagator, so no trace context comes in or goes out",
        "telemetry: OTEL_CONFIG_FILE: instrumentation is left out; what is installed is instrumented",
        "telemetry: this service has no name; set OTEL_SERVICE_NAME",
    ]


@released
async def test_a_file_may_switch_telemetry_off(tmp_path: Path) -> None:
    """Nothing is made then, also of what else it says."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await _run(f"disabled: true\n{WHOLE}", at, tmp_path)

    assert _names(store) == ([], [], [])
    assert (ended.said["threads"], ended.stderr) == ([], "sold\n")
    assert "disabled=True" in ended.said["summary"]


BROKEN = {
    "no YAML": ("file_format: [", "line 1, column 15: "),
    "no mapping": ("- a", "Configuration must be a mapping/object, got list"),
    "empty": ("", "Configuration file is empty"),
    "no version": ("resource: {}", "at the top: 'file_format' is a required property"),
    "another version": ('file_format: "9.0"', "Unsupported file_format '9.0'"),
    "a wrong type": (WHOLE.replace("{endpoint:", "{timeout: soon, endpoint:"), "/ exporter / otlp_grpc / timeout: "),
    "an unknown key": (WHOLE.replace("batch:", "btch: {}, batch:"), "at "),
    "an unknown exporter": (WHOLE.replace("{otlp_grpc: {endpoint", "{nosuch: {endpoint"), "Plugin 'nosuch' not found"),
    "a late mistake": (WHOLE.replace("[{tracecontext: }", "[{nosuch: }"), "Plugin 'nosuch' not found"),
    "a secret in the wrong place": (
        WHOLE.replace("{endpoint:", "{headers: {api-key: hunter22}, endpoint:"),
        "/ otlp_grpc / headers: type must be ",
    ),
}


@released
@pytest.mark.parametrize("broken", BROKEN)
async def test_a_file_that_cannot_be_used_costs_one_line(tmp_path: Path, broken: str) -> None:
    """It names the file and the place, without a traceback or a secret; then the variables hold."""
    file, place = BROKEN[broken]
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await _run(file, at, tmp_path)

    assert _names(store) == EVERYTHING
    assert store.spans[0].resource.attributes["service.name"] == "shop"
    (line,) = [line for line in ended.stderr.splitlines() if line != "sold"]
    assert line.startswith("telemetry: OTEL_CONFIG_FILE='otel.yaml' cannot be used: it accepts a declarative")
    assert place in line
    assert line.endswith("; using the OTEL_* variables")
    assert "hunter22" not in line


@released
@pytest.mark.parametrize(("path", "reason"), [("nosuch.yaml", "not found"), (".", "is not a file"), ("app.py", ".py")])
async def test_a_file_that_is_none(tmp_path: Path, path: str, reason: str) -> None:
    """A path that leads to nothing, or to something else, is said as well."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(CONFIGURED, at, tmp_path, {"OTEL_CONFIG_FILE": path})

    assert _names(store) == EVERYTHING
    (line,) = [line for line in ended.stderr.splitlines() if line != "sold"]
    assert reason in line


@released
async def test_what_guards_secrecy_holds_its_signal_back(tmp_path: Path) -> None:
    """A certificate of the file that cannot be read is never done without; the line names its place."""
    file = WHOLE.replace('{endpoint: "${TO}"}', '{endpoint: "${TO}", tls: {ca_file: /no/such.pem}}', 1)
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await _run(file, at, tmp_path)

    assert _names(store) == ([], *EVERYTHING[1:])
    lines = [line for line in ended.stderr.splitlines() if line != "sold"]
    assert lines[0].startswith("telemetry: OTEL_CONFIG_FILE: certificate of tracer_provider='/no/such.pem' cannot")
    assert lines[1:] == ["telemetry: not delivered before the end: 1 spans"]


async def test_without_the_package_one_line_says_so(tmp_path: Path) -> None:
    """It names the package, and the variables hold."""
    program = f"sys.modules['opentelemetry.configuration'] = None\n{CONFIGURED}"
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await _run(WHOLE, at, tmp_path, program)

    assert _names(store) == EVERYTHING
    (line,) = [line for line in ended.stderr.splitlines() if line != "sold"]
    assert line == (
        "telemetry: OTEL_CONFIG_FILE='otel.yaml' cannot be used: "
        "it accepts a file only with the package opentelemetry-configuration; using the OTEL_* variables"
    )
