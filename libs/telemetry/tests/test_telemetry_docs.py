"""The pages on adopting, migrating and troubleshooting say what the code does: names, settings and quoted lines."""

import asyncio
import pkgutil
import re
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import rsketch_telemetry
from rsketch_telemetry import environment
from rsketch_telemetry.duplicates import OLD_METRICS, old_http, old_rpc
from rsketch_telemetry.facts import Attributes

ROOT = Path(__file__).resolve().parents[3]
ADOPT, MIGRATE, TROUBLES = (
    (ROOT / "docs" / f"{name}.md").read_text() for name in ("adopt", "migrate", "troubleshooting")
)
README = (ROOT / "libs" / "telemetry" / "README.md").read_text()
SETTING = re.compile(r"\b(?:OTEL|RSKETCH_TELEMETRY)_[A-Z_]+[A-Z]\b")
HOSTS_OWN = {"RSKETCH_TELEMETRY_FLUSH_SECONDS"}
"""Read by the host alone, which says so on its own page."""
NAME = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+(?:\.[a-z-]+|\.<\w+>)?")


def test_every_setting_of_ours_is_on_the_page_and_no_other() -> None:
    """What the code reads under `RSKETCH_TELEMETRY_` is in the tables of docs/adopt.md, and what is there is read."""
    named = {name for name in SETTING.findall(ADOPT) if name.startswith("RSKETCH_TELEMETRY_")}

    assert named == environment._SETTINGS - environment._INTERNAL - HOSTS_OWN


def test_every_variable_that_is_checked_is_on_the_page() -> None:
    """Of those that exist for each signal, or for each kind of item, the common one is."""
    signals = re.compile(r"^(OTEL_EXPORTER_OTLP)_(?:TRACES|METRICS|LOGS)_(TIMEOUT|PROTOCOL|COMPRESSION|INSECURE)$")
    kinds = re.compile(r"^OTEL_(?:SPAN|EVENT|LINK|LOGRECORD)_(ATTRIBUTE_)")
    common = {kinds.sub(r"OTEL_\1", signals.sub(r"\1_\2", name)) for name in environment._RULES}

    assert common - set(SETTING.findall(ADOPT)) == set()


def test_other_pages_name_no_other_settings() -> None:
    """Whatever a page tells people to set is in the tables, but for what is another package's."""
    others = {"OTEL_PYTHON_ASGI_EXCLUDED_URLS", "OTEL_PYTHON_INSTRUMENTATION_HTTP_CAPTURE_ALL_METHODS"}
    wrong = {"RSKETCH_TELEMETRY_QUERY_KEY"}

    assert set(SETTING.findall(MIGRATE)) - set(SETTING.findall(ADOPT)) == others
    assert set(SETTING.findall(TROUBLES)) - set(SETTING.findall(ADOPT)) == wrong


def rows(page: str, first: str) -> list[list[str]]:
    """Return the cells of all tables of a page whose first column's title begins with *first*."""
    found, inside = [], False
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0].startswith(first):
            inside = True
        elif inside and not cells[0].startswith("--"):
            found.append(cells)
    return found


def names(cell: str) -> list[str]:
    """Return what looks like the name of an attribute, a metric or an event in a cell."""
    return [code for code in re.findall(r"`([^`]+)`", cell) if NAME.fullmatch(code)]


def emitted() -> set[str]:
    """Return the names of the contract."""
    source = pkgutil.get_data("rsketch_telemetry.conformance", "contract.toml")
    assert source is not None
    contract = tomllib.loads(source.decode())
    return {name for kind in ("attribute", "metric", "event") for name in contract[kind]}


def test_every_new_name_is_one_that_is_emitted() -> None:
    """The right columns of docs/migrate.md hold names of the contract; of a template the part before the key."""
    known = emitted()
    templates = tuple(name for name in known if name.endswith("."))
    new = [name for _, cell, *_ in rows(MIGRATE, "Old") for name in names(cell)]

    assert len(new) > 50
    assert [name for name in new if name not in known and not name.startswith(templates)] == []


def test_the_old_names_are_those_of_the_duplicate_mode() -> None:
    """The table on both names has exactly what `http/dup` and `rpc/dup` record, each beside its new name."""
    facts: Attributes = {"url.path": "/", "server.address": "a", "server.port": 1, "network.peer.address": "b"}
    http: Attributes = {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/",
        "url.scheme": "http",
    }
    more: Attributes = {"network.peer.port": 2, "network.protocol.version": "1.1", "user_agent.original": "c"}
    rpc: Attributes = {"rpc.system.name": "grpc", "rpc.method": "a.B/C", "rpc.status_code": "OK"}
    old = {*old_http({**facts, **http, **more}), *old_rpc({**facts, **more, **rpc}), *OLD_METRICS.values()}
    table = {name: cells for cells in rows(MIGRATE, "Old, beside") for name in names(cells[0])}

    assert set(table) == old
    assert {table[before][1].split("`")[1] for before in OLD_METRICS.values()} == set(OLD_METRICS)


def test_the_code_that_the_pages_name_exists() -> None:
    """Each dotted name of ours can be imported."""
    dotted = set(re.findall(r"\brsketch_telemetry(?:\.[A-Za-z]\w*)+", ADOPT + MIGRATE + TROUBLES))

    assert len(dotted) > 5
    for name in dotted:
        pkgutil.resolve_name(name)
    assert all(hasattr(rsketch_telemetry, name) for name in ("annotate", "configure", "instrument"))


@pytest.mark.parametrize("page", [ADOPT, MIGRATE, TROUBLES, README], ids=["adopt", "migrate", "troubles", "readme"])
def test_links_lead_somewhere(page: str) -> None:
    """Each page and each heading that is linked to exists."""
    folder = ROOT / "libs" / "telemetry" if page is README else ROOT / "docs"
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", page)):
        if "://" in target:
            continue
        file = folder / target
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}, anchor


def test_the_pages_are_linked() -> None:
    """Whoever reads the library's page or the one on OpenTelemetry finds all three."""
    for page in (README, (ROOT / "docs" / "opentelemetry.md").read_text()):
        assert all(f"{name}.md)" in page for name in ("adopt", "migrate", "troubleshooting"))


CONFIGURE = "import rsketch_telemetry\nrsketch_telemetry.configure().shutdown(1)\n"
ONE_SPAN = (
    "import rsketch_telemetry\nfrom opentelemetry import trace\ntelemetry = rsketch_telemetry.configure()\n"
    "trace.get_tracer('shop').start_span('sold').end()\ntelemetry.shutdown(1)\n"
)
OWN_PROVIDER = (
    "from opentelemetry import trace\nfrom opentelemetry.sdk.trace import TracerProvider\n"
    "trace.set_tracer_provider(TracerProvider())\n"
)
OTHERS_FIRST = """
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorServer
from opentelemetry.instrumentation.sanic import SanicInstrumentor as Theirs
from rsketch_telemetry.grpc import GrpcAioServerInstrumentor
from rsketch_telemetry.sanic import SanicInstrumentor
for each in (Theirs, GrpcAioInstrumentorServer, SanicInstrumentor, GrpcAioServerInstrumentor):
    each().instrument()
"""
SERVERS = """
import asyncio
from concurrent import futures
import grpc
from rsketch_telemetry.grpc import GrpcAioServerInstrumentor

async def main():
    server = grpc.aio.server()
    GrpcAioServerInstrumentor().instrument()
    await server.start()
    await server.stop(None)

asyncio.run(main())
grpc.server(futures.ThreadPoolExecutor()).stop(None)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A program that runs into what the page is about."""

    program: str = CONFIGURE
    environ: dict[str, str] = field(default_factory=dict)
    launcher: bool = False


MALFORMED = {
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "10000",
    "OTEL_METRIC_EXPORT_INTERVAL": "15s",
    "OTEL_PROPAGATORS": "tracecontext,b4",
    "OTEL_PYTHON_SANIC_EXCLUDED_URLS": "/static,(",
    "OTEL_RESOURCE_ATTRIBUTES": "team",
    "OTEL_TRACES_SAMPLER": "traceidratio",
    "OTEL_TRACES_SAMPLER_ARG": "10%",
    "RSKETCH_TELEMETRY_QUERY_KEY": "page",
    "RSKETCH_TELEMETRY_RESPONSE_HEADERS": "traceparent",
    "RSKETCH_TELEMETRY_SAMPLING_RULES": "grpc:shop.Till/Pay=0.1,http:/orders=two",
}
GUARDED = {"OTEL_EXPORTER_OTLP_HEADERS": "api-key", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere/ca.pem"}
CASES = (
    Trouble(environ=MALFORMED),
    Trouble(environ=GUARDED | {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://127.0.0.1:9"}),
    Trouble(environ={"OTEL_SERVICE_NAME": ""}),
    Trouble(program=ONE_SPAN, environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}),
    Trouble(program=OWN_PROVIDER + CONFIGURE),
    Trouble(program=OTHERS_FIRST),
    Trouble(program=SERVERS),
    Trouble(program="", launcher=True),
    Trouble(program="", environ={"OTEL_PROPAGATORS": "tracecontext,b4"}, launcher=True),
)


async def said(trouble: Trouble, folder: Path) -> list[str]:
    """Run a program to its end, and return the lines it writes to stderr."""
    binaries = Path(sys.executable).parent
    environ = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(folder), "OTEL_SERVICE_NAME": "shop"}
    child = await asyncio.create_subprocess_exec(
        *([binaries / "opentelemetry-instrument"] if trouble.launcher else []),
        *("python", "-W", "ignore", "-c", trouble.program),
        cwd=folder,
        env=environ | trouble.environ,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, written = await child.communicate()
    return written.decode().splitlines()


async def test_the_lines_that_are_quoted_are_those_that_are_written(tmp_path: Path) -> None:
    """Each line of docs/troubleshooting.md is one that a program in that trouble writes, to the letter."""
    blocks = re.findall(r"^```text\n(.*?)^```$", TROUBLES, re.DOTALL | re.MULTILINE)
    quoted = [line for block in blocks for line in block.splitlines()]
    written = [await said(trouble, tmp_path) for trouble in CASES]

    def pattern(line: str) -> str:
        return ".+".join(re.escape(part) for part in line.split("…"))

    everything = [line for lines in written for line in lines]
    assert len(quoted) > 20
    assert [line for line in quoted if not any(re.fullmatch(pattern(line), each) for each in everything)] == []
    # And no case is here for nothing.
    assert all(any(re.fullmatch(pattern(line), each) for line in quoted for each in lines) for lines in written)
