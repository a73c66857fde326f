"""
Somebody else's app, from a wheel in an environment of its own: `opentelemetry-instrument python web.py` is enough.

The example shop runs as its README says, with upstream's distro and contrib's instrumentors installed beside ours.
"""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import build
import grpc
import httpx
import pytest
from harness.children import Child, clean_environ, running
from harness.collector import Collector, collecting, free_ports
from rsketch_telemetry import semconv
from rsketch_telemetry.otlp.model import LogRecord, MetricPoint, Span
from rsketch_telemetry.otlp.receiver import ReceiverConfig, receive
from rsketch_telemetry.otlp.store import TelemetryStore
from workspace import LOCKS, ROOT, uv, without_constraints

SHOP = ROOT / "libs" / "telemetry" / "examples" / "shop"
BESIDE = (
    "opentelemetry-distro",
    "opentelemetry-instrumentation-asgi",
    "opentelemetry-instrumentation-grpc",
    "opentelemetry-instrumentation-httpx",
    "opentelemetry-instrumentation-logging",
    "opentelemetry-instrumentation-sanic",
    "opentelemetry-instrumentation-sqlite3",
)
OURS = "rsketch-telemetry[sanic,grpc]"
README = ROOT / "libs" / "telemetry" / "README.md"
SECONDS = 30.0
"""For each thing that is waited for: a start without compiled files, an answer, a clean end."""

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
"""The context that the caller sends along whom the warehouse turns away."""

RESERVE, GET_LEVEL = "corner.stock.v1.Stock/Reserve", "corner.stock.v1.Stock/GetLevel"
STAND_DOWN = ("grpc_aio_client", "grpc_aio_server", "sanic")
INSTALLED = "import importlib.metadata as m, json; print(json.dumps([each.name for each in m.distributions()]))"
PROBE = """
import json, logging, threading
from opentelemetry import _logs, metrics, trace

before = threading.active_count()
with trace.get_tracer("probe").start_as_current_span("probe"):
    logging.getLogger("probe").warning("probing")
providers = [trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider()]
sdk = [type(each).__module__.startswith("opentelemetry.sdk.") for each in providers]
print(json.dumps({"before": before, "after": threading.active_count(), "sdk": sdk}))
"""
COUNTER = """
from opentelemetry import metrics

metrics.get_meter("counter").create_counter("beans").add(3)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """
    One visit to the shop, from its start to its end.

    Attributes:
        answers: What the customer got, by what was asked for.
        turned_away: The status of a call of the warehouse without its token.
        web: The process of `web.py`, ended; so for the others.
        probe: A third program, which prints its own providers and threads.
        errors: What each of them wrote to stderr.
        telemetry: All that arrived.
    """

    answers: Mapping[str, httpx.Response]
    turned_away: grpc.StatusCode
    web: Child
    stock: Child
    probe: Child
    errors: Mapping[str, str]
    telemetry: TelemetryStore

    def served(self, answer: str) -> Span:
        """Return the one SERVER span behind an answer."""
        response = self.answers[answer]
        wanted = {
            "http.request.method": response.request.method,
            "http.response.status_code": response.status_code,
            "url.path": response.request.url.path,
        }
        (span,) = [each for each in self.spans("SERVER") if wanted.items() <= each.attributes.items()]
        return span

    def spans(self, kind: str) -> list[Span]:
        """Return all spans of a kind."""
        return [each for each in self.telemetry.spans if each.kind == kind]

    def below(self, parent: Span) -> list[Span]:
        """Return the children of a span in the order they started."""
        children = [each for each in self.telemetry.spans if each.parent_span_id == parent.span_id]
        return sorted(children, key=lambda span: span.start_ns)

    def points(self, name: str) -> list[MetricPoint]:
        """Return the last point of each stream of a metric."""
        points = [each for each in self.telemetry.points if each.name == name]
        return list({(service(each), str(sorted(each.attributes.items()))): each for each in points}.values())

    def logs(self, body: str) -> list[LogRecord]:
        """Return the log records with a body."""
        return [each for each in self.telemetry.logs if each.body == body]


def service(item: Span | MetricPoint | LogRecord) -> str:
    """Return the name of the service that an item is about."""
    return str(item.resource.attributes["service.name"])


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment outside the repository with our wheel, what the shop needs and contrib's packages, by the lock."""
    releases, venv = tmp_path_factory.mktemp("releases"), tmp_path_factory.mktemp("stranger") / "venv"
    build.build(ROOT / "libs" / "telemetry", releases)
    (wheel,) = releases.glob("rsketch_telemetry-*.whl")
    ours = f"{OURS} @ {wheel.as_uri()}"
    run(uv(), "venv", "--quiet", "--python", sys.executable, venv)
    locked = ("--constraint", LOCKS / "dev.txt")
    run(uv(), "pip", "install", "--quiet", "--python", venv, *locked, ours, "-r", SHOP / "requirements.txt", *BESIDE)
    return venv


def run(*command: str | Path) -> str:
    """Run a command that must succeed, and return what it wrote."""
    return subprocess.run(command, env=without_constraints(), check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.fixture(scope="module")
def visit(venv: Path, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """One visit to a shop in a folder of its own."""
    folder = tmp_path_factory.mktemp("shop")
    for file in SHOP.glob("*.py"):
        shutil.copy(file, folder)
    return asyncio.run(visit_shop(venv, folder))


async def visit_shop(venv: Path, folder: Path) -> Visit:
    """Run both programs, ask for everything, stop them, and wait for all that they have to say."""
    web_port, stock_port = free_ports(2)
    async with collected(venv, folder) as (telemetry, collector, exporting):
        environ = exporting | {"SHOP_PORT": str(web_port), "STOCK_PORT": str(stock_port)}
        async with (
            instrumented("stock", environ | {"OTEL_SERVICE_NAME": "stock"}, folder, "stock.py") as stock,
            instrumented("web", environ, folder, "web.py") as web,
        ):
            await stock.written("stock listens", SECONDS)
            await web.written("Worker ready", SECONDS)
            answers = await ask_for_everything(web_port)
            turned_away = await call_without_token(stock_port)
            await web.stop()
            await stock.stop()
        async with instrumented("probe", environ | {"OTEL_SERVICE_NAME": "probe"}, folder, "-c", PROBE) as probe:
            await probe.ended(SECONDS)
        await collector.drain()
    return Visit(
        answers=answers,
        turned_away=turned_away,
        web=web,
        stock=stock,
        probe=probe,
        errors={child.name: (folder / f"{child.name}.err").read_text() for child in (web, stock, probe)},
        telemetry=telemetry,
    )


@asynccontextmanager
async def collected(venv: Path, folder: Path) -> AsyncIterator[tuple[TelemetryStore, Collector, dict[str, str]]]:
    """Open a receiver and a collector before it; yield both, and the environment of a stranger who exports to them."""
    telemetry = TelemetryStore()
    async with (
        receive(telemetry, ReceiverConfig(grpc_port=0, http_port=0)) as receiver,
        collecting(receiver.grpc_endpoint, folder) as collector,
    ):
        environ = clean_environ(folder, {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoints["grpc"]})
        yield telemetry, collector, environ | {"PATH": f"{venv / 'bin'}:{environ['PATH']}"}


@asynccontextmanager
async def instrumented(name: str, environ: Mapping[str, str], folder: Path, *arguments: str) -> AsyncIterator[Child]:
    """Run `opentelemetry-instrument python …` as a person would, but with stderr in a file."""
    shell = ("sh", "-c", f'exec "$@" 2>{name}.err', "sh")
    command = (*shell, "opentelemetry-instrument", "python", *arguments)
    async with running(command, environ=environ, folder=folder, name=name) as child:
        yield child


async def ask_for_everything(port: int) -> dict[str, httpx.Response]:
    """Send one request of each kind."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=SECONDS) as client:
        return {
            "listed": await client.get("/catalog"),
            "priced": await client.get("/catalog/1/price/CHF"),
            "bug": await client.get("/catalog/1/price/XXX"),
            "ordered": await client.post("/orders", json={"lines": [line(1, pieces=2), line(2, pieces=1)]}),
            "refused": await client.post("/orders", json={"lines": [line(1, pieces=1), line(2, pieces=0)]}),
            "uploaded": await client.post("/catalog/1/picture", files={"picture": ("tea.png", b"\x89PNG" * 20_000)}),
            "missing": await client.get("/orders/99"),
        }


def line(item: int, *, pieces: int) -> dict[str, int]:
    """Return one line of an order."""
    return {"item": item, "pieces": pieces}


async def call_without_token(port: int) -> grpc.StatusCode:
    """Call the warehouse as a traced caller with a wrong token, and return the status."""
    metadata = (("x-stock-token", "wrong"), ("traceparent", f"00-{TRACE}-{CALLER}-01"))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{GET_LEVEL}")
        try:
            await method(b"", metadata=metadata, timeout=SECONDS)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_the_shop_works_as_before(visit: Visit) -> None:
    """Customers get the same answers as without telemetry, rich errors included, and both programs end with 0."""
    answers = visit.answers

    assert answers["listed"].json() == {"items": ["tea", "teapot", "samovar"]}
    assert answers["priced"].json() == {"price": 4.23, "currency": "CHF"}
    assert answers["ordered"].json() == {"cents": 3800, "left": {"1": 18, "2": 4}}
    assert answers["refused"].json()["fields"] == {"pieces": "must be at least 1"}
    assert visit.turned_away is grpc.StatusCode.UNAUTHENTICATED
    statuses = {name: answer.status_code for name, answer in answers.items()}
    assert statuses == {
        "listed": 200,
        "priced": 200,
        "bug": 500,
        "ordered": 201,
        "refused": 422,
        "uploaded": 201,
        "missing": 404,
    }
    assert (visit.web.status, visit.stock.status) == (0, 0)


def test_nothing_else_of_ours_is_installed(venv: Path) -> None:
    """The wheel brings no other package of this repository, and what must stand beside it is there."""
    names = set(json.loads(run(venv / "bin" / "python", "-c", INSTALLED)))

    assert [name for name in names if name.startswith("rsketch")] == ["rsketch-telemetry"]
    assert set(BESIDE) <= names


def test_an_order_is_one_trace_across_both_programs(visit: Visit) -> None:
    """HTTP server, the shop's own span, sqlite below both, gRPC client and server: one trace, each parent right."""
    served = visit.served("ordered")
    priced, asked, stored = visit.below(served)
    (reserved,) = visit.below(asked)

    assert (served.name, served.parent_span_id) == ("POST /orders", "")
    assert (priced.name, priced.kind, priced.attributes["shop.basket.lines"]) == ("shop.price_basket", "INTERNAL", 2)
    assert [(each.name, each.kind) for each in visit.below(priced)] == [("SELECT", "CLIENT")] * 2
    assert (asked.name, asked.kind, asked.attributes["rpc.status_code"]) == (RESERVE, "CLIENT", "OK")
    assert (stored.name, stored.kind) == ("INSERT", "CLIENT")
    assert (reserved.name, reserved.kind, service(reserved)) == (RESERVE, "SERVER", "stock")
    assert {each.trace_id for each in (priced, asked, stored, reserved)} == {served.trace_id}


def test_a_request_by_httpx_joins_the_trace(visit: Visit) -> None:
    """What contrib's httpx instrumentor injects is what our Sanic instrumentor takes as parent."""
    served = visit.served("priced")
    (called,) = [each for each in visit.below(served) if each.kind == "CLIENT" and each.name == "GET"]
    (rated,) = visit.below(called)

    assert served.name == "GET /catalog/<item_id:int>/price/<currency:alpha>"
    assert (rated.kind, rated.name, rated.trace_id) == ("SERVER", "GET /rates/<currency:alpha>", served.trace_id)


def test_each_call_has_one_span_of_each_side(visit: Visit) -> None:
    """Although contrib's sanic and grpc instrumentors are installed, a call is recorded once, by ours."""
    asked = Counter(answer.request.url.path for answer in visit.answers.values())
    scopes = {each.scope.name for each in visit.spans("SERVER")}
    served = Counter(str(each.attributes.get("url.path")) for each in visit.spans("SERVER"))
    ids = Counter(each.span_id for each in visit.telemetry.spans)

    assert asked.items() <= served.items()
    assert scopes == {"rsketch_telemetry.sanic", "rsketch_telemetry.grpc"}
    assert [span for span, count in ids.items() if count > 1] == []


def test_both_programs_say_how_they_are(visit: Visit) -> None:
    """Process, garbage collector, event loop, pipeline and calls in flight, of each without a line of its code."""
    said: dict[str, set[str]] = defaultdict(set)
    for point in visit.telemetry.points:
        said[str(point.resource.attributes["service.name"])].add(point.name)
    wanted = {"process.cpu.time", "cpython.gc.collections", "rsketch.event_loop.lag", "otel.sdk.exporter.span.exported"}

    programs = {str(span.resource.attributes["service.name"]) for span in visit.spans("SERVER")}

    assert len(programs) == 2
    assert not {name: wanted - said[name] for name in programs if wanted - said[name]}
    assert any("rsketch.rpc.server.active_calls" in names for names in said.values())


def test_a_refusal_is_the_callers_error(visit: Visit) -> None:
    """INVALID_ARGUMENT fails the client's span and not the server's; the 422 made of it is no error of the shop."""
    served = visit.served("refused")
    (asked,) = [each for each in visit.below(served) if each.name == RESERVE]
    (answered,) = visit.below(asked)

    assert (asked.status, asked.attributes["error.type"]) == ("ERROR", "INVALID_ARGUMENT")
    assert (answered.status, answered.attributes["rpc.status_code"]) == ("UNSET", "INVALID_ARGUMENT")
    assert (served.status, served.attributes.get("error.type")) == ("UNSET", None)


def test_an_interceptor_that_turns_callers_away_is_recorded(visit: Visit) -> None:
    """A call that the shop's own interceptor answers has its span, below the caller's."""
    (turned_away,) = [each for each in visit.spans("SERVER") if each.trace_id == TRACE]

    assert (turned_away.name, turned_away.parent_span_id) == (GET_LEVEL, CALLER)
    assert turned_away.attributes["rpc.status_code"] == "UNAUTHENTICATED"


def test_an_unhandled_exception_is_said_on_span_metric_and_log(visit: Visit) -> None:
    """The bug in the shop is one failed span, one exception record in it, and the same error type in the histogram."""
    served = visit.served("bug")
    (said,) = [each for each in visit.telemetry.logs if each.event_name == "http.server.request.exception"]
    (counted,) = [each for each in visit.points("http.server.request.duration") if "error.type" in each.attributes]

    assert (served.status, served.attributes["error.type"]) == ("ERROR", "httpx.HTTPStatusError")
    assert (said.trace_id, said.span_id) == (served.trace_id, served.span_id)
    assert said.attributes["exception.type"] == "httpx.HTTPStatusError"
    assert (counted.attributes["error.type"], counted.count) == ("httpx.HTTPStatusError", 1)


def test_an_upload_and_a_missing_page_have_their_route(visit: Visit) -> None:
    """The span is called after the template and never after the path."""
    assert visit.served("uploaded").name == "POST /catalog/<item_id:int>/picture"
    assert visit.served("missing").name == "GET /orders/<order_id:int>"


def test_the_background_task_has_traces_of_its_own(visit: Visit) -> None:
    """What the shop does between requests is a root, with its calls of the warehouse below."""
    looked = [each for each in visit.telemetry.spans if each.name == "shop.look_at_stock"]
    calls = [each for each in visit.below(looked[0]) if each.name == GET_LEVEL]

    assert {each.parent_span_id for each in looked} == {""}
    assert [(each.kind, len(visit.below(each))) for each in calls] == [("CLIENT", 1)] * 3


def test_durations_of_both_protocols_arrive(visit: Visit) -> None:
    """The three duration histograms are in seconds, with the conventions' buckets, and count what was called."""
    for name, where in (
        ("http.server.request.duration", "unknown_service"),
        ("rpc.client.call.duration", "unknown_service"),
        ("rpc.server.call.duration", "stock"),
    ):
        points = visit.points(name)

        assert {(each.unit, each.type, each.bounds) for each in points} == {
            ("s", "histogram", semconv.DURATION_BUCKETS)
        }
        assert all(service(each).startswith(where) for each in points), name
        examples = {example.trace_id for each in points for example in each.exemplars}
        assert examples & {span.trace_id for span in visit.telemetry.spans}, name
    reserved = [each for each in visit.points("rpc.server.call.duration") if each.attributes["rpc.method"] == RESERVE]
    assert {each.attributes["rpc.status_code"]: each.count for each in reserved} == {"OK": 1, "INVALID_ARGUMENT": 1}


def test_the_shops_own_counter_arrives(visit: Visit) -> None:
    """A counter made at import, before or after the provider, counts."""
    points = visit.points("shop.orders")

    assert {each.attributes["shop.order.result"]: each.value for each in points} == {"placed": 1, "refused": 1}
    assert {(each.unit, each.scope.name) for each in points} == {("{order}", "shop")}


def test_logs_are_correlated_and_the_shops_logging_is_its_own(visit: Visit) -> None:
    """A line arrives once, in its span, although the shop sets up logging later; its own output looks as before."""
    (placed,) = visit.logs("order over 3800 cents placed")
    reserved = visit.logs("reserved 2 of item 1")
    served = visit.served("ordered")

    assert (placed.trace_id, placed.span_id) == (served.trace_id, served.span_id)
    assert (placed.severity_text, placed.scope.name) == ("INFO", "shop")
    assert [each.trace_id for each in reserved] == [served.trace_id]
    assert len(visit.web.matching(r"^\S+ \S+ INFO shop: order over 3800 cents placed$")) == 1


def test_there_is_one_set_of_providers_and_one_exporter(visit: Visit) -> None:
    """The SDK's providers serve the globals, and one thread exports all signals, from the first item on."""
    said = json.loads(visit.probe.text())

    assert said == {"before": 1, "after": 2, "sdk": [True, True, True]}
    assert len(visit.logs("probing")) == 1


def test_a_service_keeps_its_name(visit: Visit) -> None:
    """Ours sets no name: it is the variable's, or the specification's default; the distro says who it is."""
    resources = {service(each): each.resource.attributes for each in visit.telemetry.spans}
    (nameless,) = resources.keys() - {"stock", "probe"}
    instances = {str(attributes["service.instance.id"]) for attributes in resources.values()}

    assert nameless.startswith("unknown_service")
    assert {each["telemetry.distro.name"] for each in resources.values()} == {"rsketch-telemetry"}
    assert {each["telemetry.distro.version"] for each in resources.values()} == {version("rsketch-telemetry")}
    assert len(instances) == 3


def test_nobody_is_bothered_with_warnings(visit: Visit) -> None:
    """On stderr: one line on who stood down, one that asks the nameless program for a name, and the program's own."""
    own = {"web": "OTEL_SERVICE_NAME", "probe": "probing"}

    for program, said in visit.errors.items():
        stood_down = [line for line in said.splitlines() if all(name in line for name in STAND_DOWN)]
        others = [line for line in said.splitlines() if line not in stood_down]
        assert len(stood_down) == 1, said
        assert len(others) == (program in own), said
        assert all(own[program] in line for line in others)


async def test_a_program_that_only_counts_is_heard(venv: Path, tmp_path: Path) -> None:
    """A metric arrives from a program that never makes a span or a log line."""
    async with collected(venv, tmp_path) as (telemetry, collector, environ):
        async with instrumented("counter", environ, tmp_path, "-c", COUNTER) as counter:
            await counter.ended(SECONDS)
        await collector.drain()

    assert [(point.name, point.value) for point in telemetry.points if point.scope.name == "counter"] == [("beans", 3)]


async def test_workers_of_sanics_own_manager_are_heard(venv: Path, tmp_path: Path) -> None:
    """Under Sanic's worker manager each request is still one span, and a worker an instance of its own."""
    shutil.copytree(SHOP, tmp_path, dirs_exist_ok=True)
    web_port, stock_port = free_ports(2)
    async with collected(venv, tmp_path) as (telemetry, collector, exporting):
        environ = exporting | {"SHOP_PORT": str(web_port), "STOCK_PORT": str(stock_port), "SHOP_WORKERS": "2"}
        async with instrumented("web", environ, tmp_path, "web.py") as web:
            async with asyncio.timeout(SECONDS):
                while len(web.matching("Worker ready")) < 2:
                    await asyncio.sleep(0.05)
            for _ in range(10):
                await ask(web_port, "/catalog")
            status = await web.stop(seconds=SECONDS)
        await collector.drain()
    served = [span for span in telemetry.spans if span.kind == "SERVER"]
    ready = [log for log in telemetry.logs if str(log.body).startswith("Worker ready")]

    assert status == 0
    assert len({str(log.resource.attributes["service.instance.id"]) for log in ready}) == 2
    assert [span.name for span in served] == ["GET /catalog"] * 10
    assert len({span.span_id for span in served}) == 10
    assert web.left() == []


async def test_the_readmes_program_is_heard(venv: Path, tmp_path: Path) -> None:
    """The example in the README that switches telemetry on from code gives a span when started by plain `python`."""
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (port,) = free_ports(1)
    (tmp_path / "app.py").write_text(program.replace("8000", str(port)))
    async with collected(venv, tmp_path) as (telemetry, collector, environ):
        async with running(["python", "app.py"], environ=environ, folder=tmp_path) as app:
            # Sanic answers a little earlier, and ignores or does not survive a signal until then.
            await app.written("Worker ready", SECONDS)
            answer = await ask(port, "/hello/ada")
            await app.stop()
        await collector.drain()

    assert answer.text == "Hello, ada!"
    assert [(span.kind, span.name) for span in telemetry.spans] == [("SERVER", "GET /hello/<name:str>")]


def test_the_readmes_commands_are_those_of_these_tests() -> None:
    """What people are told to type is what ran above."""
    for readme in (README, SHOP / "README.md"):
        text = readme.read_text()
        assert f"pip install '{OURS}'" in text
        assert "opentelemetry-instrument python" in text
    assert all(name in README.read_text() for name in BESIDE if "sqlite3" in name or "httpx" in name)


async def ask(port: int, path: str) -> httpx.Response:
    """Send one GET on a connection of its own, as soon as somebody listens."""
    async with asyncio.timeout(SECONDS), httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
        while True:
            try:
                return await client.get(f"http://127.0.0.1:{port}{path}")
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
