"""The example shop without any telemetry: what it does, and that it is a stranger to rsketch."""

import ast
import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

SHOP = Path(__file__).resolve().parent.parent / "examples" / "shop"
OWN = sorted(file for file in SHOP.glob("*.py") if "_pb2" not in file.name)
START_SECONDS = 20.0


def test_the_shop_imports_no_package_of_ours() -> None:
    """It stands for an app that was there before us: it knows the OpenTelemetry API at most."""
    trees = [ast.parse(file.read_text()) for file in OWN]
    named = {
        alias.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    taken = {str(node.module) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert not [name for name in named | taken if name.startswith(("rsketch", "opentelemetry.sdk"))]
    assert "opentelemetry" in taken


def test_the_shop_stays_small() -> None:
    """Without its generated code it is an example of at most 400 lines."""
    assert sum(len(file.read_text().splitlines()) for file in OWN) <= 400


def test_the_generated_code_matches_the_proto(tmp_path: Path) -> None:
    """What `stock_pb2.py` describes is what `stock.proto` says, by today's compiler."""
    compiled = tmp_path / "stock.bin"
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{SHOP}", f"--descriptor_set_out={compiled}", "stock.proto"]
    subprocess.run(protoc, check=True)
    show = "import stock_pb2, sys; sys.stdout.buffer.write(stock_pb2.DESCRIPTOR.serialized_pb)"
    committed = subprocess.run([sys.executable, "-B", "-c", show], cwd=SHOP, stdout=subprocess.PIPE, check=True).stdout
    (described,) = FileDescriptorSet.FromString(compiled.read_bytes()).file
    for field in [field for message in described.message_type for field in message.field]:
        # Only a descriptor set spells the JSON names out.
        field.ClearField("json_name")

    assert described == FileDescriptorProto.FromString(committed)


async def test_the_shop_works_with_the_api_alone(tmp_path: Path) -> None:
    """With no SDK configured it serves catalog, prices, orders, uploads and errors, and ends cleanly on SIGTERM."""
    async with open_shop(tmp_path) as customer:
        listed = await customer.get("/catalog")
        priced = await customer.get("/catalog/1/price/CHF")
        placed = await customer.post("/orders", json={"lines": [{"item": 1, "pieces": 2}, {"item": 2, "pieces": 1}]})
        refused = await customer.post("/orders", json={"lines": [{"item": 1, "pieces": 0}]})
        sold_out = await customer.post("/orders", json={"lines": [{"item": 3, "pieces": 1}]})
        uploaded = await customer.post("/catalog/1/picture", files={"picture": ("tea.png", b"\x89PNG")})
        shown = await customer.get("/catalog/1/picture")
        missing = await customer.get("/orders/99")

    assert listed.json() == {"items": ["tea", "teapot", "samovar"]}
    assert priced.json() == {"price": 4.23, "currency": "CHF"}
    assert (placed.status_code, placed.json()) == (201, {"cents": 3800, "left": {"1": 18, "2": 4}})
    assert (refused.status_code, refused.json()["fields"]) == (422, {"pieces": "must be at least 1"})
    assert sold_out.status_code == 409
    assert (uploaded.status_code, uploaded.json()["name"]) == (201, "tea.png")
    assert shown.content == b"\x89PNG"
    assert missing.status_code == 404


@asynccontextmanager
async def open_shop(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Run both processes of the shop with their files in *folder*; check that each ends with status 0."""
    web, stock = free_port(), free_port()
    settings = {"SHOP_PORT": str(web), "STOCK_PORT": str(stock), "SHOP_DATABASE": str(folder / "shop.db")}
    with child("stock.py", settings), child("web.py", settings) as serving:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{web}", trust_env=False) as customer:
            await answers(customer, stock, serving)
            yield customer


@contextmanager
def child(program: str, settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run one program of the shop, and stop it by SIGTERM."""
    command = [sys.executable, "-B", str(SHOP / program)]
    process = subprocess.Popen(command, env=os.environ | settings)
    try:
        yield process
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


async def answers(customer: httpx.AsyncClient, stock: int, serving: subprocess.Popen[bytes]) -> None:
    """Wait until both processes take connections."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            assert serving.poll() is None, "web.py has ended"
            try:
                await customer.get("/catalog")
                socket.create_connection(("127.0.0.1", stock), timeout=1).close()
            except (OSError, httpx.TransportError):
                await asyncio.sleep(0.05)
            else:
                return


def free_port() -> int:
    """Return a TCP port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
