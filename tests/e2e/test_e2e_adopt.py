"""docs/adopt.md is followed as it stands there: its programs are written down, its commands typed; the others' too."""

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from harness.children import Child, clean_environ, running
from harness.collector import free_ports
from rsketch_telemetry.otlp.model import Span
from rsketch_telemetry.otlp.receiver import ReceiverConfig, receive
from rsketch_telemetry.otlp.store import TelemetryStore
from workspace import ROOT, uv, without_constraints

DOCS = ROOT / "docs"
PAGE, MIGRATE = (DOCS / "adopt.md").read_text(), (DOCS / "migrate.md").read_text()
TROUBLES = (DOCS / "troubleshooting.md").read_text()
PROGRAMS = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """Return the blocks of a page that are to be typed."""
    return [block.strip() for block in re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)]


COMMANDS = commands(PAGE)
INSTALLS = [command for command in COMMANDS if command.startswith("pip install ")]
CHECKS = [command for command in COMMANDS if " check" in command]
TESTS = [command for command in COMMANDS if command.startswith("pytest ")]
CALLS = [command for command in COMMANDS if command.startswith("curl ")]
BUYER = next(command for command in COMMANDS if command.endswith("buyer.py"))
SERVERS = [
    command for command in COMMANDS if command.startswith("OTEL_SERVICE_NAME=") and not command.endswith("buyer.py")
]
SHOPS = [command for command in SERVERS if "till" not in command]
TILLS = [command for command in SERVERS if "till" in command]
SECONDS = 30.0
"""For each thing that is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Where a reader of the page sits: a folder with its programs, a receiver, and ports of this run's own."""

    folder: Path
    telemetry: TelemetryStore
    environ: dict[str, str]
    http_port: int
    grpc_port: int

    def ported(self, text: str) -> str:
        """Return a program or a command with this run's ports."""
        return text.replace("8000", str(self.http_port)).replace("50051", str(self.grpc_port))

    @asynccontextmanager
    async def typed(self, command: str, environ: dict[str, str] | None = None) -> AsyncIterator[Child]:
        """Type a command of the page; at the end Ctrl-C, if it still runs."""
        shell = ["sh", "-c", self.ported(command)]
        given = self.environ | (environ or {})
        async with running(shell, environ=given, folder=self.folder, name=command) as child:
            yield child
            if child.status is None:
                # To the whole group, as a terminal does.
                os.killpg(child.pid, signal.SIGINT)
            await child.ended(SECONDS)

    async def span(self, name: str, kind: str) -> Span:
        """Wait for a span."""
        found = await self.telemetry.wait_for(
            lambda seen: [each for each in seen.spans if (each.name, each.kind) == (name, kind)], SECONDS
        )
        return found[0]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Write the page's programs down, and listen for what they export."""
    telemetry = TelemetryStore()
    async with receive(telemetry, ReceiverConfig(grpc_port=0, http_port=0)) as receiver:
        environ = clean_environ(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint})
        http_port, grpc_port = free_ports(2)
        here = Desk(folder=tmp_path, telemetry=telemetry, environ=environ, http_port=http_port, grpc_port=grpc_port)
        for name, program in PROGRAMS:
            (tmp_path / name).write_text(here.ported(program))
        yield here


def test_every_block_of_the_page_is_used_by_a_test() -> None:
    """No command is of a kind that no test below knows, and no program is without a name."""
    assert sorted(COMMANDS) == sorted([*INSTALLS, *CHECKS, *TESTS, *CALLS, BUYER, *SHOPS, *TILLS])
    assert len(PROGRAMS) == PAGE.count("```python")
    unused = [name for name, _ in PROGRAMS if not any(name.removesuffix(".py") in command for command in COMMANDS)]
    assert unused == ["conftest.py"]
    assert min(map(len, (INSTALLS, CHECKS, TESTS, CALLS, SHOPS, TILLS))) > 0


@pytest.mark.parametrize("command", INSTALLS)
def test_what_is_to_be_installed_exists(command: str) -> None:
    """The requirement, extras included, is what this environment was made by."""
    ended = subprocess.run(
        [uv(), "pip", "install", "--dry-run", "--offline", "--python", sys.executable, *shlex.split(command)[2:]],
        env=without_constraints(),
        capture_output=True,
        text=True,
    )

    assert ended.returncode == 0, ended.stderr
    assert "no changes" in ended.stderr
    assert "extra" not in ended.stderr


async def ask(desk: Desk, command: str, server: Child) -> str:
    """Send what a `curl` of the page asks for, once the server is ready: earlier Sanic does not survive Ctrl-C."""
    workers = 2 if "--workers 2" in server.name else 1
    async with asyncio.timeout(SECONDS):
        while len(server.matching("Worker ready|Uvicorn running")) < workers:
            await asyncio.sleep(0.05)
    _, address = desk.ported(command).split()
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
        return (await client.get(f"http://{address}")).text


@pytest.mark.parametrize("command", SHOPS)
async def test_a_shop_is_heard(desk: Desk, command: str) -> None:
    """However it is started, the request of the page is one span of a named service, with its duration."""
    basket = "basket" in command
    (call,) = [each for each in CALLS if ("baskets" in each) is basket]
    async with desk.typed(command) as server:
        answer = await ask(desk, call, server)
        name = "GET /baskets/<number:int>" if basket else "GET /orders/<number:int>"
        served = await desk.span(name, "SERVER")
    durations = [point for point in desk.telemetry.points if point.name == "http.server.request.duration"]

    assert answer == ('{"basket":7}' if basket else '{"order":7}')
    assert served.resource.attributes["service.name"] == ("basket" if basket else "shop")
    assert len([span for span in desk.telemetry.spans if span.kind == "SERVER"]) == 1
    assert {(point.unit, point.attributes["http.route"]) for point in durations} == {("s", name.removeprefix("GET "))}
    if basket:
        priced = await desk.span("price", "INTERNAL")
        said = [log for log in desk.telemetry.logs if log.body == "basket 7 is priced"]
        assert priced.parent_span_id == served.span_id
        assert served.attributes["tenant"] == "acme"
        assert [log.span_id for log in said] == [priced.span_id]
        assert {point.value for point in desk.telemetry.points if point.name == "shop.baskets"} == {1}


@pytest.mark.parametrize("command", TILLS)
async def test_a_till_and_its_buyer_are_one_trace(desk: Desk, command: str) -> None:
    """The client's span is the parent of the server's, and each is of its own service."""
    async with desk.typed(command):
        await until_open(desk.grpc_port)
        async with desk.typed(BUYER) as buyer:
            await buyer.ended(SECONDS)
        bought = await desk.span("shop.Till/Pay", "CLIENT")
        paid = await desk.span("shop.Till/Pay", "SERVER")

    assert "b'thanks'" in buyer.text()
    assert (paid.trace_id, paid.parent_span_id) == (bought.trace_id, bought.span_id)
    assert [each.resource.attributes["service.name"] for each in (bought, paid)] == ["buyer", "till"]


async def until_open(port: int) -> None:
    """Wait until somebody listens."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


@pytest.mark.parametrize("command", TESTS)
async def test_the_test_of_the_page_passes(desk: Desk, command: str) -> None:
    """Pytest finds the fixture by itself, and nothing is exported."""
    async with desk.typed(command) as child:
        assert await child.ended(SECONDS) == 0, child.text()

    assert "1 passed" in child.text()
    assert desk.telemetry.spans == []


@pytest.mark.parametrize("command", sorted({*CHECKS, *commands(TROUBLES)}))
async def test_the_checker_finds_nothing_wrong(desk: Desk, command: str) -> None:
    """It receives what the app of the page exports, and its exit status says that all is well."""
    ports = free_ports(2)
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{ports[0]}"}
    async with desk.typed(f"exec {command} --grpc-port {ports[0]} --http-port {ports[1]}") as checker:
        await until_open(ports[0])
        async with desk.typed(SHOPS[0], endpoint) as server:
            await ask(desk, CALLS[0], server)
        assert await checker.stop(signal.SIGINT, SECONDS) == 0, checker.text()


async def test_old_names_are_beside_the_new_while_migrating(desk: Desk) -> None:
    """The first command of docs/migrate.md records each request under both."""
    command, _ = commands(MIGRATE)
    async with desk.typed(command) as server:
        await ask(desk, CALLS[0], server)
        served = await desk.span("GET /orders/<number:int>", "SERVER")
    units = {point.name: point.unit for point in desk.telemetry.points if point.name.startswith("http.server.")}

    assert served.attributes["http.status_code"] == served.attributes["http.response.status_code"] == 200
    assert served.attributes["http.target"] == served.attributes["url.path"] == "/orders/7"
    assert units == {"http.server.duration": "ms", "http.server.request.duration": "s"}


async def test_the_way_back_leads_back(desk: Desk) -> None:
    """The second switches ours off, and the other package's instrumentor, which is installed here, is on."""
    _, command = commands(MIGRATE)
    async with desk.typed(command) as server:
        await ask(desk, CALLS[0], server)
        served = await desk.telemetry.wait_for(
            lambda seen: [span for span in seen.spans if span.kind == "SERVER"], SECONDS
        )

    assert {span.scope.name.partition(".")[0] for span in served} == {"opentelemetry"}
