"""The opt-in components with the real collector, on loopback: what it acknowledges is kept as their pages say."""

import asyncio
import contextlib
import gzip
import http.server
import os
import re
import ssl
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import grpc
import httpx
import pytest
import trustme
import yaml
from kube.objects import Object
from kube.render import deployments, render
from kube.toolchain import tool
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from rsketch_telemetry.otlp.receiver import ReceiverConfig, receive
from rsketch_telemetry.otlp.store import TelemetryStore

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = ROOT / "infra" / "components"
EXAMPLES = sorted(path.parent for path in (COMPONENTS / "examples").glob("*/*/kustomization.yaml"))
CONFIG_FOLDER, DATA_FOLDER = "/etc/otelcol", "/var/lib/otelcol"

_hosts = count(1)


def host() -> str:
    """Return a loopback address that no other test has: the collector's ports are the same everywhere."""
    return f"127.{64 + os.getpid() // 250 % 64}.{os.getpid() % 250 + 1}.{next(_hosts)}"


@pytest.fixture(scope="module")
def otelcol() -> Path:
    """The real collector."""
    return tool("otelcol")


# --- what is rendered ---


def workload(objects: Sequence[Object], name: str) -> Object:
    """Return the one workload of a name."""
    (found,) = (each for each in objects if each["kind"] in ("Deployment", "StatefulSet") and metadata(each) == name)
    return found


def metadata(thing: Object) -> str:
    """Return an object's name."""
    return str(thing["metadata"]["name"])


def kustomization(folder: Path, overlay: str, *components: str) -> Path:
    """Write a kustomization that puts components onto an overlay, in their order."""

    def reach(path: Path) -> str:
        return os.path.relpath(path.resolve(), folder.resolve())

    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [reach(ROOT / "infra" / "overlays" / overlay)],
        "components": [reach(COMPONENTS / each) for each in components],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(document))
    return folder


def config_files(objects: Sequence[Object], name: str) -> dict[str, str]:
    """Return the configuration files of a workload by their names, in the order in which it reads them."""
    pod = workload(objects, name)["spec"]["template"]["spec"]
    (volume,) = (each for each in pod["volumes"] if each["name"] == "config")
    (data,) = (each["data"] for each in objects if metadata(each) == volume["configMap"]["name"])
    paths = [Path(argument.removeprefix("--config=")) for argument in pod["containers"][0]["args"]]
    assert {str(path.parent) for path in paths} == {CONFIG_FOLDER}
    return {path.name: data[path.name] for path in paths}


# --- what runs ---


@dataclass
class Collector:
    """A collector that can be started, killed and started again with what its volume holds."""

    program: Path
    folder: Path
    address: str
    files: Mapping[str, str]
    environ: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it is healthy."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            (self.folder / name).write_text(text.replace(DATA_FOLDER, str(self.folder / "data")))
        (self.folder / "data").mkdir(exist_ok=True)
        environ = {
            "POD_IP": self.address,
            "POD_NAME": self.folder.name,
            "K8S_ATTRIBUTES_PASSTHROUGH": "true",
            **self.environ,
        }
        arguments = [f"--config={self.folder / name}" for name in self.files]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([self.program, *arguments], env=environ, stdout=log, stderr=log)
        await self._healthy()

    async def _healthy(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + 30
        async with httpx.AsyncClient() as client:
            while time.monotonic() < deadline and self.process.poll() is None:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(f"http://{self.address}:13133/")).is_success:
                        return
                await asyncio.sleep(0.05)
        pytest.fail(f"{self.folder.name} is not healthy:\n{self.log()[-4000:]}")

    def log(self) -> str:
        """Return what it has written."""
        return (self.folder / "log").read_text()

    def kill(self) -> None:
        """End it as the kernel does when memory is short: it cannot write anything down."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def export(self, request: Any) -> None:
        """Send a request once; an error is the collector's answer."""
        async with grpc.aio.insecure_channel(f"{self.address}:4317") as channel:
            await export_over(channel, request)


SERVICES = {
    ExportTraceServiceRequest: "trace.v1.TraceService",
    ExportMetricsServiceRequest: "metrics.v1.MetricsService",
    ExportLogsServiceRequest: "logs.v1.LogsService",
}


async def export_over(channel: grpc.aio.Channel, request: Any) -> None:
    """Send a request over an open channel."""
    method = f"/opentelemetry.proto.collector.{SERVICES[type(request)]}/Export"
    await channel.unary_unary(method, request_serializer=type(request).SerializeToString)(request, timeout=10)


class Start(Protocol):
    """What `running` gives."""

    async def __call__(self, name: str, files: Mapping[str, str], address: str, **environ: str) -> Collector:
        """Start a collector with these files and variables; *name* is its folder's."""


@pytest.fixture
async def running(otelcol: Path, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts collectors, and kills those that are left."""
    started: list[Collector] = []

    async def start(name: str, files: Mapping[str, str], address: str, **environ: str) -> Collector:
        collector = Collector(otelcol, tmp_path / name, address, files, environ)
        started.append(collector)
        await collector.start()
        return collector

    yield start
    for collector in started:
        collector.kill()


@asynccontextmanager
async def backend(address: str) -> AsyncIterator[TelemetryStore]:
    """A backend for all signals at one address, with OTLP over gRPC and HTTP."""
    store = TelemetryStore()
    async with receive(store, ReceiverConfig(host=address)):
        yield store


def rewired(files: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """Return configuration files with other addresses or times; each of the changes must find its place."""
    text = dict(files)
    for old, new in changes.items():
        assert any(old in each for each in text.values()), f"{old!r} is in none of {', '.join(text)}"
        text = {name: each.replace(old, new) for name, each in text.items()}
    return text


def to_backend(address: str) -> dict[str, str]:
    """Return the changes that send all three signals to one address."""
    return {
        "jaeger:4317": f"{address}:4317",
        "http://prometheus:9090/api/v1/otlp": f"http://{address}:4318",
        "http://loki:3100/otlp": f"http://{address}:4318",
    }


# --- what is sent ---


def spans(trace: bytes, name: str, *, service: str = "shop", seconds: float = 0.01, error: bool = False) -> Any:
    """Return an export of one span."""
    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add()
    for key, value in {"service.namespace": "test", "service.name": service}.items():
        of_resource.resource.attributes.add(key=key).value.string_value = value
    now = time.time_ns()
    of_resource.scope_spans.add().spans.add(
        trace_id=trace,
        span_id=os.urandom(8),
        name=name,
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=now - int(seconds * 1e9),
        end_time_unix_nano=now,
        status=Status(code=Status.STATUS_CODE_ERROR if error else Status.STATUS_CODE_UNSET),
    )
    return request


def metric(value: int) -> Any:
    """Return an export of one data point."""
    request = ExportMetricsServiceRequest()
    of_resource = request.resource_metrics.add()
    of_resource.resource.attributes.add(key="service.name").value.string_value = "shop"
    added = of_resource.scope_metrics.add().metrics.add(name="test.value")
    added.gauge.data_points.add(as_int=value, time_unix_nano=time.time_ns())
    return request


def log(body: str) -> Any:
    """Return an export of one log record."""
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=time.time_ns())
    record.body.string_value = body
    return request


def ids(number: int) -> list[bytes]:
    """Return trace ids."""
    return [os.urandom(16) for _ in range(number)]


# --- every component ---


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: str(folder.relative_to(COMPONENTS / "examples")))
def test_an_example_renders_and_is_among_what_is_checked(folder: Path) -> None:
    """Each example makes objects, none of them twice, and the other checks find it."""
    names = Counter((each["kind"], each["metadata"].get("namespace"), metadata(each)) for each in render(folder))

    assert names
    assert not [name for name, number in names.items() if number > 1]
    assert folder in [each.folder for each in deployments()]


def test_each_component_has_a_page_and_examples() -> None:
    """A component that nobody can switch on or check would rot."""
    components = {path.parent for path in COMPONENTS.glob("*/**/kustomization.yaml")} - set(EXAMPLES)
    shown = {path.parts[-2] for path in EXAMPLES}

    assert components
    for component in components:
        name = component.relative_to(COMPONENTS).parts[0]
        assert (COMPONENTS / name / "README.md").is_file()
        assert name in shown


COMBINATIONS = [
    ("prod/platform", "otel-collector", ["spool-persistent", "otlp-cloud"]),
    ("prod/platform", "otel-collector", ["otlp-cloud", "spool-persistent"]),
    ("prod/platform", "otel-collector", ["tail-sampling", "spool-persistent", "tls/platform"]),
    ("local/platform", "otel-collector", ["tls/platform", "otlp-cloud"]),
    ("local/platform", "otel-sampler", ["tail-sampling"]),
]


@pytest.mark.parametrize(
    ("overlay", "name", "components"),
    COMBINATIONS,
    ids=lambda value: "+".join([value] if isinstance(value, str) else value),
)
def test_combined_components_are_valid(
    otelcol: Path, tmp_path: Path, overlay: str, name: str, components: list[str]
) -> None:
    """The real collector accepts the files of components that are switched on together."""
    files = config_files(render(kustomization(tmp_path / "k", overlay, *components)), name)
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    environ = {
        "POD_IP": "127.0.0.1",
        "POD_NAME": "a",
        "SPOOL_ENABLED": str("spool-persistent" in components).lower(),
        "OTLP_CLOUD_ENDPOINT": "https://otlp.example.com",
        "OTLP_CLOUD_HEADERS": '{"authorization": "Bearer a"}',
    }
    arguments = [f"--config={tmp_path / file}" for file in files]

    done = subprocess.run([otelcol, "validate", *arguments], env=environ, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr


def test_the_spool_keeps_what_the_overlay_gave_the_deployment() -> None:
    """In place of the Deployment stands a StatefulSet with its resources and spread; the autoscaler follows it."""
    before = render(ROOT / "infra/overlays/prod/platform")
    after = render(COMPONENTS / "examples/spool-persistent/prod")
    old, new = (workload(objects, "otel-collector") for objects in (before, after))
    (scaler,) = (each["spec"] for each in after if each["kind"] == "HorizontalPodAutoscaler")

    assert (old["kind"], new["kind"]) == ("Deployment", "StatefulSet")
    old_pod, new_pod = (each["spec"]["template"]["spec"] for each in (old, new))
    assert new_pod["topologySpreadConstraints"] == old_pod["topologySpreadConstraints"]
    assert new_pod["containers"][0]["resources"] == old_pod["containers"][0]["resources"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "otel-collector"}
    assert scaler["behavior"]["scaleDown"]["selectPolicy"] == "Disabled"


def test_prometheus_scrapes_the_samplers() -> None:
    """The Service that Prometheus scrapes collectors by selects the samplers' pods, so that alerts cover them."""
    objects = render(COMPONENTS / "examples/tail-sampling/prod")
    (service,) = (each for each in objects if each["metadata"]["name"] == "otel-collector-metrics")
    pods = workload(objects, "otel-sampler")["spec"]["template"]["metadata"]["labels"]

    assert service["spec"]["selector"].items() <= pods.items()


# --- spool-persistent ---


async def test_the_spool_outlives_the_collector(running: Start) -> None:
    """What was acknowledged while no backend was there arrives after kill -9, of all three signals."""
    files = config_files(render(COMPONENTS / "examples/spool-persistent/local"), "otel-collector")
    behind, wanted = host(), 40
    collector = await running("spool", rewired(files, to_backend(behind)), host())
    traces = ids(wanted)
    for number, trace in enumerate(traces):
        await collector.export(spans(trace, "spooled"))
        await collector.export(metric(number))
        await collector.export(log(f"record {number}"))
    collector.kill()
    await collector.start()
    async with backend(behind) as store:
        await store.wait_for(
            lambda store: (
                {span.trace_id for span in store.spans} == {trace.hex() for trace in traces}
                and len({point.value for point in store.points}) == wanted
                and {record.body for record in store.logs} == {f"record {number}" for number in range(wanted)}
            ),
            60,
        )


async def test_a_full_spool_refuses_for_now(running: Start) -> None:
    """The sender hears at once that a full queue did not take the item, with a status that lets it try again."""
    files = config_files(render(COMPONENTS / "examples/spool-persistent/local"), "otel-collector")
    collector = await running(
        "full", rewired(files, to_backend(host()) | {"queue_size: 1073741824": "queue_size: 600"}), host()
    )

    async def fill() -> None:
        for trace in ids(100):
            await collector.export(spans(trace, "one too many"))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await fill()

    assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


# --- tail-sampling ---

SHORTER = {"metrics_flush_interval: 15s": "metrics_flush_interval: 500ms", "flush_timeout: 1s": "flush_timeout: 100ms"}


@asynccontextmanager
async def samplers(
    running: Start, behind: str, changes: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Collector, list[Collector]]]:
    """A gateway and two samplers that send to one backend, with *changes* to the samplers' configuration."""
    objects = render(COMPONENTS / "examples/tail-sampling/local")
    addresses = [host(), host()]
    to = to_backend(behind)
    of_sampler = rewired(
        config_files(objects, "otel-sampler"), {**dict([*to.items()][:2]), **SHORTER, **(changes or {})}
    )
    # Names need a DNS; the resolver for fixed addresses feeds the same ring.
    fixed = re.compile(r"dns:\n\s+hostname: otel-sampler\n\s+port: \"4317\"\n\s+interval: 5s")
    of_gateway = {
        name: fixed.sub(f"static: {{hostnames: [{', '.join(f'{each}:4317' for each in addresses)}]}}", text)
        for name, text in rewired(config_files(objects, "otel-collector"), to).items()
    }
    started = [await running(f"otel-sampler-{number}", of_sampler, address) for number, address in enumerate(addresses)]
    yield await running("gateway", of_gateway, host()), started


def counted(store: TelemetryStore) -> dict[str, float]:
    """Return the newest counts of spans, added up by span name."""
    newest: dict[tuple[object, ...], tuple[str, float]] = {}
    for point in store.points:
        if point.name == "traces.span.metrics.calls":
            labels = tuple(sorted({**point.resource.attributes, **point.attributes}.items()))
            assert point.value is not None
            newest[labels] = str(point.attributes["span.name"]), point.value
    totals: dict[str, float] = defaultdict(float)
    for name, value in newest.values():
        totals[name] += value
    return dict(totals)


async def test_samplers_keep_errors_and_count_everything(running: Start) -> None:
    """Of traces sent in two halves the failed and the slow ones are stored whole, and every span is counted."""
    behind, failed, slow, rest = host(), ids(30), ids(10), ids(200)
    async with backend(behind) as store, samplers(running, behind) as (gateway, _):
        for trace in (*failed, *slow, *rest):
            await gateway.export(spans(trace, "first half"))
        for trace in (*failed, *slow, *rest):
            second = spans(trace, "second half", service="cart", error=trace in failed, seconds=3 * (trace in slow))
            await gateway.export(second)

        def kept(store: TelemetryStore) -> dict[str, set[str]]:
            found = defaultdict(set)
            for span in store.spans:
                found[span.trace_id].add(span.name)
            return found

        whole = {"first half", "second half"}
        await store.wait_for(lambda store: all(kept(store).get(each.hex()) == whole for each in (*failed, *slow)), 30)
        await store.wait_for(lambda store: counted(store) == {"first half": 240, "second half": 240}, 30)
        others = {each.hex() for each in rest} & kept(store).keys()

    assert 0 < len(others) < len(rest) / 2
    assert {frozenset(kept(store)[each]) for each in others} == {frozenset(whole)}
    assert {tuple(sorted(point.resource.attributes.items())) for point in store.points if "calls" in point.name} == {
        (("service.instance.id", sampler), ("service.name", service), ("service.namespace", "test"))
        for sampler in ("otel-sampler-0", "otel-sampler-1")
        for service in ("shop", "cart")
    }


async def test_kept_traces_outlive_the_samplers(running: Start) -> None:
    """Error traces that were acknowledged while there was no Jaeger arrive after kill -9 of every sampler."""
    behind, failed = host(), ids(60)
    async with samplers(running, behind) as (gateway, each):
        for trace in failed:
            await gateway.export(spans(trace, "failed", error=True))
        # From the acknowledgement to the volume is a matter of milliseconds, in which it is in memory only.
        await asyncio.sleep(0.5)
        for sampler in each:
            sampler.kill()
        for sampler in each:
            await sampler.start()
        async with backend(behind) as store:
            await store.wait_for(
                lambda store: {span.trace_id for span in store.spans} == {trace.hex() for trace in failed}, 60
            )


async def decided(sampler: Collector) -> float:
    """Return on how many traces a sampler has decided, by its own telemetry."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://{sampler.address}:8888/metrics")).text
    name = "otelcol_processor_tail_sampling_global_count_traces_sampled"
    return sum(float(value) for value in re.findall(rf"^{name}\S* (\S+)$", text, re.MULTILINE))


async def test_a_late_error_is_kept(running: Start) -> None:
    """An error that comes after decision_wait is stored, and more traces than the memory takes are waited with."""
    behind, late = host(), ids(30)
    sooner = {"decision_wait: 30s": "decision_wait: 1s", "num_traces: 100000": "num_traces: 10"}
    async with backend(behind) as store, samplers(running, behind, sooner) as (gateway, each):
        for trace in late:
            await gateway.export(spans(trace, "early"))
        async with asyncio.timeout(30):
            while sum([await decided(sampler) for sampler in each]) < len(late):
                await asyncio.sleep(0.1)
        for trace in late:
            await gateway.export(spans(trace, "late", error=True))
        await store.wait_for(
            lambda store: (
                {span.trace_id for span in store.spans if span.name == "late"} == {trace.hex() for trace in late}
            ),
            30,
        )


async def test_without_samplers_the_sender_keeps_the_trace(running: Start) -> None:
    """The gateway has no queue: what no sampler has taken is refused, with a status that lets the sender try again."""
    async with samplers(running, host()) as (gateway, each):
        for sampler in each:
            sampler.kill()

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await gateway.export(spans(os.urandom(16), "early"))

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


# --- tls ---


async def test_the_receivers_serve_with_the_mounted_certificate(running: Start, tmp_path: Path) -> None:
    """Both protocols take an export from who trusts the CA; probes stay plain, and plain text is refused."""
    authority, address, behind = trustme.CA(), host(), host()
    certificate = authority.issue_cert(address)
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    changes = {**to_backend(behind), "/etc/otelcol-tls/": f"{tmp_path}/"}
    files = rewired(config_files(render(COMPONENTS / "examples/tls/local"), "otel-collector"), changes)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    trusting = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    async with backend(behind) as store:
        collector = await running("tls", files, address)
        async with grpc.aio.secure_channel(f"{address}:4317", trusting) as channel:
            await export_over(channel, spans(os.urandom(16), "over gRPC"))
        async with httpx.AsyncClient(verify=context) as client:
            answer = await client.post(
                f"https://{address}:4318/v1/traces",
                content=spans(os.urandom(16), "over HTTP").SerializeToString(),
                headers={"Content-Type": "application/x-protobuf"},
            )
        with pytest.raises(grpc.aio.AioRpcError):
            await collector.export(spans(os.urandom(16), "in plain text"))

    assert answer.is_success
    assert sorted(span.name for span in store.spans) == ["over HTTP", "over gRPC"]


# --- otlp-cloud ---


class _Cloud(http.server.BaseHTTPRequestHandler):
    """Takes what carries the right header, when it is told to."""

    server: "_CloudServer"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        known = self.headers.get("Authorization") == "Bearer right"
        status = 401 if not known else 200 if self.server.open else 503
        if status == 200:
            self.server.taken.append((self.path, body))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _CloudServer(http.server.ThreadingHTTPServer):
    taken: list[tuple[str, bytes]]
    open = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that was killed."""


@contextmanager
def cloud(folder: Path) -> Iterator[tuple[_CloudServer, dict[str, str]]]:
    """A backend elsewhere with TLS, and the variables with which a collector finds it, trusts it and is let in."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    server = _CloudServer(("127.0.0.1", 0), _Cloud)
    server.taken = []
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield (
            server,
            {
                "OTLP_CLOUD_ENDPOINT": f"https://localhost:{server.server_address[1]}",
                "OTLP_CLOUD_HEADERS": '{"authorization": "Bearer right"}',
                "SSL_CERT_FILE": str(folder / "ca.pem"),
            },
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def export_all(collector: Collector) -> None:
    """Send one export of each signal."""
    for request in (spans(os.urandom(16), "to the cloud"), metric(1), log("to the cloud")):
        await collector.export(request)


async def until(done: Any, seconds: float = 30) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "not within time"
        await asyncio.sleep(0.05)


CLOUD_PATHS = ["/v1/logs", "/v1/metrics", "/v1/traces"]


async def test_the_cloud_takes_all_signals_before_they_are_acknowledged(running: Start, tmp_path: Path) -> None:
    """All three reach the backend with the Secret's header; while it is down, the sender hears so."""
    files = config_files(render(COMPONENTS / "examples/otlp-cloud/local"), "otel-collector")
    with cloud(tmp_path) as (server, environ):
        collector = await running("cloud", files, host(), **environ)
        await export_all(collector)
        taken = sorted(path for path, _ in server.taken)
        server.open = False
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await collector.export(log("while it is down"))

    assert taken == CLOUD_PATHS
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_wrong_header_is_no_reason_to_try_again(running: Start, tmp_path: Path) -> None:
    """What the backend refuses for good is refused for good, and nothing counts as taken."""
    files = config_files(render(COMPONENTS / "examples/otlp-cloud/local"), "otel-collector")
    with cloud(tmp_path) as (server, environ):
        wrong = {**environ, "OTLP_CLOUD_HEADERS": '{"authorization": "Bearer wrong"}'}
        collector = await running("cloud", files, host(), **wrong)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await collector.export(log("unknown"))

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert not server.taken


@pytest.mark.parametrize("order", [("spool-persistent", "otlp-cloud"), ("otlp-cloud", "spool-persistent")])
async def test_the_spool_covers_the_cloud(running: Start, tmp_path: Path, order: tuple[str, str]) -> None:
    """With both components, in either order, what was acknowledged while the backend was down outlives kill -9."""
    objects = render(kustomization(tmp_path / "k", "local/platform", *order))
    container = workload(objects, "otel-collector")["spec"]["template"]["spec"]["containers"][0]
    given = {each["name"]: each["value"] for each in container["env"] if each["name"] == "SPOOL_ENABLED"}
    with cloud(tmp_path) as (server, environ):
        server.open = False
        collector = await running("both", config_files(objects, "otel-collector"), host(), **environ, **given)
        await export_all(collector)
        collector.kill()
        server.open = True
        await collector.start()
        await until(lambda: sorted({path for path, _ in server.taken}) == CLOUD_PATHS, 60)
