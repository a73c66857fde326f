import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from programs import ANY_PORT, own_points, run
from rsketch_telemetry.otlp.receiver import receive
from rsketch_telemetry.otlp.store import TelemetryStore

ALL_SIGNALS = """
with trace.get_tracer("test").start_as_current_span("work"):
    logging.getLogger("shop").warning("sold")
metrics.get_meter("test").create_counter("sales").add(3)
"""


def _names(store: TelemetryStore) -> tuple[list[str], list[str], list[object]]:
    return (
        [span.name for span in store.spans],
        [point.name for point in own_points(store)],
        [record.body for record in store.logs],
    )


async def test_from_code_everything_arrives_by_the_end(tmp_path: Path) -> None:
    """`configure()` counts once, starts nothing, and what was recorded is flushed at exit by one thread."""
    program = f"""
telemetry = rsketch_telemetry.configure()
say(before=threads(), same=rsketch_telemetry.configure() is telemetry is rsketch_telemetry.current())
{ALL_SIGNALS}
say(after=threads())
"""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(program, at, tmp_path)

    assert ended.said == {"before": [], "same": True, "after": ["rsketch-telemetry"]}
    assert _names(store) == (["work"], ["sales"], ["sold"])
    assert store.logs[0].trace_id == store.spans[0].trace_id
    assert ended.stderr == "sold\n"


async def test_under_the_launcher_everything_is_set_up_once(tmp_path: Path) -> None:
    """Beside upstream's distro and the community's instrumentors: our distro, one set of providers, one thread."""
    program = f"""
import httpx, sqlite3
said_before = [str(each) for each in (trace.get_tracer_provider(), metrics.get_meter_provider())]
telemetry = rsketch_telemetry.configure()
{ALL_SIGNALS}
from rsketch_telemetry.distro import RsketchDistro
say(
    threads=threads(),
    same=said_before == [str(each) for each in (trace.get_tracer_provider(), metrics.get_meter_provider())],
    distro=RsketchDistro.loading,
    processors=len(trace.get_tracer_provider()._active_span_processor._span_processors),
)
"""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(program, at, tmp_path, {"PYTHONWARNINGS": "default"}, launcher=True)

    assert ended.said == {"threads": ["rsketch-telemetry"], "same": True, "distro": True, "processors": 1}
    assert _names(store) == (["work"], ["sales"], ["sold"])
    assert store.spans[0].resource.attributes["telemetry.distro.name"] == "rsketch-telemetry"
    own = [line for line in ended.stderr.splitlines() if "site-packages" not in line and "_pb2" not in line]
    stand_down = [line for line in own if line.startswith("telemetry: ours take the place of the instrumentors")]
    assert len(stand_down) == (1 if _contrib() else 0)
    assert [line for line in own if "telemetry" in line.lower()] == stand_down


def _contrib() -> bool:
    """Return whether instrumentors of the community that do our work are installed beside ours."""
    names = {each.name for each in entry_points(group="opentelemetry_instrumentor")}
    return bool(names & {"grpc_aio_client", "grpc_aio_server", "sanic"})


async def test_a_provider_of_the_program_is_left_alone(tmp_path: Path) -> None:
    """It is said once; the other signals are ours all the same."""
    program = f"""
from opentelemetry.sdk.trace import TracerProvider
own = TracerProvider(shutdown_on_exit=False)
trace.set_tracer_provider(own)
rsketch_telemetry.configure()
rsketch_telemetry.configure()
say(own=trace.get_tracer_provider() is own)
{ALL_SIGNALS}
"""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(program, at, tmp_path)

    assert ended.said == {"own": True}
    assert _names(store) == ([], ["sales"], ["sold"])
    assert ended.stderr.count("tracer provider of its own") == 1


@pytest.mark.parametrize("launcher", [False, True])
async def test_switched_off_nothing_is_recorded(tmp_path: Path, launcher: bool) -> None:
    """`OTEL_SDK_DISABLED=true`: no thread, nothing arrives, and the summary says so."""
    program = f"""
telemetry = rsketch_telemetry.configure()
{ALL_SIGNALS}
say(threads=threads(), disabled=telemetry.summary.disabled, ended=telemetry.shutdown())
"""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(program, at, tmp_path, {"OTEL_SDK_DISABLED": "true"}, launcher=launcher)

    assert ended.said == {"threads": [], "disabled": True, "ended": True}
    assert _names(store) == ([], [], [])


@pytest.mark.parametrize("launcher", [False, True])
async def test_where_nothing_is_recorded_nothing_is_sent(tmp_path: Path, launcher: bool) -> None:
    """A command that records nothing, such as `--version`, has no thread and exports nothing, at exit either."""
    program = "rsketch_telemetry.configure()\nsay(threads=threads(), grpc='grpc._channel' in sys.modules)"
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(program, at, tmp_path, {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"}, launcher=launcher)

    assert ended.said == {"threads": [], "grpc": False}
    assert _names(store) == ([], [], [])


@pytest.mark.parametrize(
    ("program", "arrived"),
    [
        ("metrics.get_meter('test').create_counter('sales').add(3)", ([], ["sales"], [])),
        (
            "metrics.get_meter('test').create_observable_gauge('stock', [lambda _: [metrics.Observation(7)]])",
            ([], ["stock"], []),
        ),
        ("logging.getLogger('shop').warning('sold')", ([], [], ["sold"])),
        ("work()", (["work"], [], [])),
    ],
)
async def test_one_signal_alone_starts_the_thread(
    tmp_path: Path, program: str, arrived: tuple[list[str], list[str], list[object]]
) -> None:
    """The first item of any signal starts the exporter, and it arrives by the end."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(f"rsketch_telemetry.configure()\n{program}\nsay(threads=threads())", at, tmp_path)

    assert ended.said == {"threads": ["rsketch-telemetry"]}
    assert _names(store) == arrived


@pytest.mark.parametrize("launcher", [False, True])
@pytest.mark.parametrize(
    ("variable", "missing"),
    [
        ("", None),
        ("OTEL_BSP_SCHEDULE_DELAY", 0),
        ("OTEL_METRIC_EXPORT_INTERVAL", 1),
        ("OTEL_BLRP_SCHEDULE_DELAY", 2),
    ],
)
async def test_exports_are_hastened_where_no_interval_is_set(
    tmp_path: Path, launcher: bool, variable: str, missing: int | None
) -> None:
    """A program that is killed after a moment has exported everything but the signal whose interval is set."""
    program = f"""
import time
telemetry = rsketch_telemetry.configure()
telemetry.start()
telemetry.hasten(spans_seconds=0.1, metrics_seconds=0.2)
{ALL_SIGNALS}
time.sleep(0.9)
os._exit(0)
"""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        await run(program, at, tmp_path, {variable: "60000"} if variable else {}, launcher=launcher)
    arrived = [sorted(set(map(str, names))) for names in _names(store)]

    assert arrived == [[] if at == missing else [name] for at, name in enumerate(["work", "sales", "sold"])]


@pytest.mark.parametrize(("exporters", "arrived"), [("console", []), ("otlp,console", ["work"])])
async def test_an_exporter_of_others_serves_beside_or_alone(tmp_path: Path, exporters: str, arrived: list[str]) -> None:
    """What `OTEL_TRACES_EXPORTER` names is used, and is flushed at exit as well."""
    program = "telemetry = rsketch_telemetry.configure()\nwork()\nsay(foreign=telemetry.summary.foreign)"
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(program, at, tmp_path, {"OTEL_TRACES_EXPORTER": exporters})

    assert ended.said == {"foreign": ["traces: console"]}
    assert json.loads(ended.stdout)["name"] == "work"
    assert _names(store)[0] == arrived
    assert ended.stderr == ""


async def test_all_foreign_exporters_end_once_and_quietly(tmp_path: Path) -> None:
    """A shutdown from code and the one at exit are one; with a queue below the default batch nothing raises."""
    program = f"telemetry = rsketch_telemetry.configure()\n{ALL_SIGNALS}\ntelemetry.shutdown()"
    every = {f"OTEL_{signal}_EXPORTER": "console" for signal in ("TRACES", "METRICS", "LOGS")}
    async with receive(TelemetryStore(), ANY_PORT) as at:
        ended = await run(program, at, tmp_path, {"OTEL_BSP_MAX_QUEUE_SIZE": "100", **every})

    assert [name in ended.stdout for name in ('"work"', '"sales"', "sold")] == [True] * 3
    assert ended.stderr == "sold\n"


METRICS = """
rsketch_telemetry.configure()
meter = metrics.get_meter("test")
meter.create_counter("sales").add(3)
meter.create_histogram("size").record(2.0)
"""


@pytest.mark.parametrize(("preference", "temporality"), [("delta", "DELTA"), ("cumulative", "CUMULATIVE")])
async def test_temporality(tmp_path: Path, preference: str, temporality: str) -> None:
    """The preference holds for counters and histograms, in any case of letters."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        variable = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
        await run(METRICS, at, tmp_path, {variable: preference.upper()})

    assert {point.name: point.temporality for point in own_points(store)} == {"sales": temporality, "size": temporality}


async def test_exponential_histograms(tmp_path: Path) -> None:
    """The default aggregation of histograms can be chosen."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        await run(
            METRICS,
            at,
            tmp_path,
            {"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram"},
        )

    assert {point.name: point.type for point in store.points}["size"] == "exponential_histogram"


BAD = {
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "many",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "-1",
    "OTEL_BLRP_MAX_QUEUE_SIZE": "1e3",
    "OTEL_BLRP_SCHEDULE_DELAY": "1s",
    "OTEL_BSP_EXPORT_TIMEOUT": "never",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "0",
    "OTEL_BSP_MAX_QUEUE_SIZE": "abc",
    "OTEL_BSP_SCHEDULE_DELAY": "five",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "1,000",
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "otel,nosuch",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "brotli",
    "OTEL_EXPORTER_OTLP_INSECURE": "maybe",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "sum",
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "sometimes",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "10000",
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "none, please",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "nan",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "0x10",
    "OTEL_LOGS_EXPORTER": "otlp,nosuch",
    "OTEL_METRICS_EXEMPLAR_FILTER": "some",
    "OTEL_METRICS_EXPORTER": "otlp,oltp",
    "OTEL_METRIC_EXPORT_INTERVAL": "1m",
    "OTEL_METRIC_EXPORT_TIMEOUT": "soon",
    "OTEL_PROPAGATORS": "tracecontext,nosuch",
    "OTEL_PYTHON_EXCLUDED_URLS": "[",
    "OTEL_PYTHON_ID_GENERATOR": "dice",
    "OTEL_PYTHON_LOGGER_PROVIDER": "nosuch",
    "OTEL_PYTHON_METER_PROVIDER": "nosuch",
    "OTEL_PYTHON_TRACER_PROVIDER": "nosuch",
    "OTEL_PYTHON_SANIC_EXCLUDED_URLS": "[",
    "OTEL_RESOURCE_ATTRIBUTES": "a=b,broken",
    "OTEL_SDK_DISABLED": "yes please",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "long",
    "OTEL_SPAN_EVENT_COUNT_LIMIT": "12.5",
    "OTEL_TRACES_EXPORTER": "jaeger",
    "OTEL_TRACES_SAMPLER": "mostly",
}


@pytest.mark.parametrize("variable", BAD)
async def test_a_bad_value_costs_one_line(tmp_path: Path, variable: str) -> None:
    """The program runs, one line on stderr names the variable, and every signal arrives all the same."""
    program = f"rsketch_telemetry.configure()\n{ALL_SIGNALS}"
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(program, at, tmp_path, {variable: BAD[variable]})

    assert _names(store) == (["work"], ["sales"], ["sold"])
    (line,) = [line for line in ended.stderr.splitlines() if line != "sold"]
    assert line.startswith(f"telemetry: {variable}=")


async def test_many_bad_values_under_the_launcher(tmp_path: Path) -> None:
    """All at once, but for the one that ends upstream's launcher: one line each, and every signal arrives."""
    bad = {name: value for name, value in BAD.items() if name != "OTEL_PROPAGATORS"}
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(ALL_SIGNALS, at, tmp_path, bad, launcher=True)

    assert _names(store) == (["work"], ["sales"], ["sold"])
    named = [
        line.partition("=")[0].removeprefix("telemetry: ") for line in ended.stderr.splitlines() if "OTEL_" in line
    ]
    assert sorted(named) == sorted(bad)
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("chosen", ["OTEL_PYTHON_DISTRO", "OTEL_PYTHON_CONFIGURATOR"])
async def test_an_unknown_distro_does_not_switch_telemetry_off(tmp_path: Path, chosen: str) -> None:
    """Upstream would silently record nothing; here it is named, and everything arrives."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(ALL_SIGNALS, at, tmp_path, {chosen: "nosuch"}, launcher=True)

    assert _names(store) == (["work"], ["sales"], ["sold"])
    assert ended.stderr.count(f"telemetry: {chosen}='nosuch'") == 1


@pytest.mark.parametrize(
    "endpoint", ["localhost:99999", "http://[::1:4317", "[::1:4317", "http:///x", "a b", "ftp://c"]
)
async def test_a_bad_endpoint_leaves_the_signals_that_have_their_own(tmp_path: Path, endpoint: str) -> None:
    """One line names it, and the signal whose own endpoint is fine arrives."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(
            "rsketch_telemetry.configure()\nwork()",
            at,
            tmp_path,
            {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": at.grpc_endpoint},
        )

    assert _names(store) == (["work"], [], [])
    assert ended.stderr.count("telemetry: OTEL_EXPORTER_OTLP_ENDPOINT=") == 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization Bearer hunter22hunter22"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter22\udcff"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file.pem"),
        ("OTEL_PYTHON_EXPORTER_OTLP_GRPC_CREDENTIAL_PROVIDER", "vault"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "-----BEGIN PRIVATE KEY-----hunter22"),
    ],
)
async def test_what_guards_secrecy_holds_its_signals_back(tmp_path: Path, variable: str, value: str) -> None:
    """Nothing is sent with less protection than was asked for; one line says so, one what is left, none a secret."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run("rsketch_telemetry.configure()\nwork()", at, tmp_path, {variable: value})

    assert _names(store) == ([], [], [])
    assert ended.stderr.count(f"telemetry: {variable}=") == 1
    assert "not delivered before the end: 1 spans" in ended.stderr
    assert "hunter22" not in ended.stderr


async def test_no_line_holds_a_secret(tmp_path: Path) -> None:
    """Credentials in malformed and in good values stay out of what is logged and out of the summary."""
    program = "telemetry = rsketch_telemetry.configure()\nwork()\nsay(summary=repr(telemetry.summary))"
    async with receive(TelemetryStore(), ANY_PORT) as at:
        address = at.grpc_endpoint.removeprefix("http://")
        ended = await run(
            program,
            at,
            tmp_path,
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:hunter22@{address}",
                "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://user:hunter22@nowhere.invalid:99999/?token=hunter22",
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://user:hunter22@nowhere.invalid:4317",
                "OTEL_EXPORTER_OTLP_HEADERS": "api-key=hunter22",
                "OTEL_RESOURCE_ATTRIBUTES": "broken,api_key=hunter22",
            },
        )

    assert address in ended.said["summary"]
    assert "hunter22" not in ended.stderr + ended.said["summary"]


async def test_a_service_without_a_name_is_asked_for_one(tmp_path: Path) -> None:
    """The name is the specification's default, and one line asks for a better one."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run("rsketch_telemetry.configure()\nwork()", at, tmp_path, {"OTEL_SERVICE_NAME": None})

    assert str(store.spans[0].resource.attributes["service.name"]).startswith("unknown_service")
    assert ended.stderr == "telemetry: this service has no name; set OTEL_SERVICE_NAME\n"


async def test_the_environment_outranks_the_identity(tmp_path: Path) -> None:
    """What the program is by default holds only where the environment says nothing else."""
    program = """
identity = {"service.name": "default", "service.version": "1", "service.namespace": "ours"}
rsketch_telemetry.configure(identity=identity)
work()
"""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        given = "service.version=2,team=a%20b"
        await run(program, at, tmp_path, {"OTEL_SERVICE_NAME": "named", "OTEL_RESOURCE_ATTRIBUTES": given})
    attributes = store.spans[0].resource.attributes

    assert {name: attributes[name] for name in ("service.name", "service.version", "service.namespace", "team")} == {
        "service.name": "named",
        "service.version": "2",
        "service.namespace": "ours",
        "team": "a b",
    }


@pytest.mark.parametrize(
    ("environ", "instance"),
    [
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=mine", "RSKETCH_TELEMETRY_WORKER": "2"}, "mine-2"),
    ],
)
async def test_a_given_instance_id_is_kept(tmp_path: Path, environ: dict[str, str], instance: str) -> None:
    """One worker is what was given; several cannot all be."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        await run("rsketch_telemetry.configure()\nwork()", at, tmp_path, environ)

    assert store.spans[0].resource.attributes["service.instance.id"] == instance


async def test_every_process_is_an_instance_of_its_own(tmp_path: Path) -> None:
    """Two runs of one program have two ids."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        for _ in range(2):
            await run("rsketch_telemetry.configure()\nwork()", at, tmp_path)

    assert len({span.resource.attributes["service.instance.id"] for span in store.spans}) == 2


FORK = """
rsketch_telemetry.configure()
counter = metrics.get_meter("test").create_counter("sales")
counter.add(100)
trace.get_tracer("test").start_span("parent").end()
{fork}
"""
FORKS = {
    "os.fork": """
if (child := os.fork()) == 0:
    work()
    counter.add(1)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
    # Its children end by os._exit, without what atexit has registered.
    "multiprocessing": """
import multiprocessing

def serve():
    work()
    counter.add(1)

child = multiprocessing.get_context("fork").Process(target=serve)
child.start()
child.join()
assert child.exitcode == 0
""",
}


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("fork", FORKS)
async def test_a_forked_child_exports_what_is_its_own(tmp_path: Path, fork: str, protocol: str) -> None:
    """Its items arrive under an id of its own; the parent's arrive once, and are not counted again by the child."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        endpoint = at.grpc_endpoint if protocol == "grpc" else at.http_endpoint
        await run(
            FORK.format(fork=FORKS[fork]),
            at,
            tmp_path,
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=parent",
            },
        )

    assert sorted(span.name for span in store.spans) == ["parent", "work"]
    instances = {span.name: span.resource.attributes["service.instance.id"] for span in store.spans}
    assert instances["parent"] == "parent" != instances["work"]
    points = [point for point in store.points if point.name == "sales"]
    sales = {point.resource.attributes["service.instance.id"]: point.value for point in points}
    assert sales == {"parent": 100, instances["work"]: 1}


async def test_the_environment_stays_as_it_was(tmp_path: Path) -> None:
    """Children inherit no default and nothing checked; a malformed value stays what it was."""
    program = """
before = dict(os.environ)
rsketch_telemetry.configure()
work()
say(same=dict(os.environ) == before)
"""
    async with receive(TelemetryStore(), ANY_PORT) as at:
        ended = await run(
            program, at, tmp_path, {"OTEL_BSP_SCHEDULE_DELAY": "bad", "OTEL_TRACES_EXPORTER": "otlp,nosuch"}
        )

    assert ended.said == {"same": True}


def test_importing_the_package_costs_little() -> None:
    """Neither the SDK nor grpc is imported before telemetry is configured: every process pays for the import."""
    script = "import sys, rsketch_telemetry; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert "rsketch_telemetry.telemetry" in modules
    assert [name for name in modules if name.startswith(("opentelemetry.sdk", "grpc", "requests", "sanic"))] == []
