"""Opening and closing the service: addresses, ports, TLS, and more than one life in a process."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import httpx
import pytest
import trustme
from rsketch import ConfigError
from rsketch_http.config import HttpConfig
from rsketch_http.server import service, serving
from sanic import Sanic

if TYPE_CHECKING:
    from services.http.tests.conftest import OpenUpstream, Upstream


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


async def test_port_zero_yields_the_bound_address(upstream: Upstream) -> None:
    """Port 0 is resolved before callers see the address, and requests are answered there."""
    config = HttpConfig.from_env({"RSKETCH_HTTP_PORT": "0", "RSKETCH_GRPC_ADDRESS": f"127.0.0.1:{upstream.port}"})
    async with serving(config, touch_up=False) as at, httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(f"{at}/api/v1/hello?name=ada")

    assert at.port > 0
    assert response.json() == {"message": "Hello, ada!"}


async def test_ipv6_is_served() -> None:
    """An IPv6 address is bound and written in brackets."""
    async with (
        serving(HttpConfig(host="::1", port=0), touch_up=False) as at,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        response = await client.get(f"{at}/health")

    assert str(at).startswith("http://[::1]:")
    assert response.text == "OK"


async def test_a_taken_port_is_one_clear_line(taken: int) -> None:
    """It is a setting that is wrong, named with the port, and nothing is left behind."""
    with pytest.raises(ConfigError) as raised:
        async with service.serve({"RSKETCH_HTTP_PORT": str(taken)}):
            pass

    assert str(raised.value) == f"RSKETCH_HTTP_PORT: accepts a free port, not '{taken} (taken)'"
    assert "rsketch_http" not in Sanic._app_registry


async def test_a_second_service_on_the_port_is_refused() -> None:
    """Also when the first one is ours: without the setting of workers a port is not shared."""
    async with serving(HttpConfig(port=0), touch_up=False) as at:
        with pytest.raises(ConfigError, match="taken"):
            async with serving(HttpConfig(port=at.port), touch_up=False):
                pass


async def test_workers_share_a_port_that_is_held_for_them() -> None:
    """With the setting of workers the service joins a port that is bound with SO_REUSEPORT and not listened on."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with pytest.raises(ConfigError, match="taken"):
            async with service.serve({"RSKETCH_HTTP_PORT": str(port)}):
                pass
        config = HttpConfig.from_env({"RSKETCH_HTTP_PORT": str(port), "RSKETCH_REUSE_PORT": "1"})
        async with serving(config, touch_up=False) as at, httpx.AsyncClient(trust_env=False) as client:
            response = await client.get(f"{at}/health")

    assert at.port == port
    assert response.text == "OK"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "no..host", "192.0.2.1"])
async def test_a_host_that_is_not_ours_is_one_clear_line(host: str) -> None:
    """A name that does not resolve and an address of another machine are the fault of the same setting."""
    with pytest.raises(ConfigError) as raised:
        async with service.serve({"RSKETCH_HTTP_HOST": host, "RSKETCH_HTTP_PORT": "0"}):
            pass

    assert raised.value.setting == "RSKETCH_HTTP_HOST"


async def test_a_bad_setting_opens_nothing(taken: int) -> None:
    """All settings are checked before the port is tried."""
    with pytest.raises(ConfigError) as raised:
        async with service.serve({"RSKETCH_HTTP_PORT": str(taken), "RSKETCH_HTTP_DRAIN_SECONDS": "soon"}):
            pass

    assert raised.value.setting == "RSKETCH_HTTP_DRAIN_SECONDS"


async def test_the_app_leaves_the_registry() -> None:
    """After closing, Sanic knows no app of ours, so that a next one can be made."""
    async with serving(HttpConfig(port=0), touch_up=False):
        during = "rsketch_http" in Sanic._app_registry

    assert during
    assert "rsketch_http" not in Sanic._app_registry


async def test_the_port_is_free_after_closing() -> None:
    """The same port can be opened again at once, although connections were made."""
    async with serving(HttpConfig(port=0), touch_up=False) as at, httpx.AsyncClient(trust_env=False) as client:
        await client.get(f"{at}/health")
    async with serving(HttpConfig(port=at.port), touch_up=False) as again:
        assert again == at


async def test_sanic_settings_of_the_environment_do_not_count(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """SANIC_* variables would bypass our checks; and Sanic prints nothing when it starts."""
    monkeypatch.setenv("SANIC_KEEP_ALIVE", "false")
    async with serving(HttpConfig(port=0), touch_up=False) as at, httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(f"{at}/health")

    assert response.headers["connection"] == "keep-alive"
    assert capfd.readouterr() == ("", "")


async def test_tls_is_served_and_spoken(open_upstream: OpenUpstream, tmp_path: Path) -> None:
    """HTTPS towards callers and TLS towards the greeting service, each with its own files."""
    ca = trustme.CA()
    certificate = ca.issue_cert("localhost", "127.0.0.1")
    chain = certificate.cert_chain_pems[0].bytes()
    paths = {name: tmp_path / name for name in ("ca", "chain", "key")}
    paths["ca"].write_bytes(ca.cert_pem.bytes())
    paths["chain"].write_bytes(chain)
    paths["key"].write_bytes(certificate.private_key_pem.bytes())
    credentials = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    trusting = ssl.create_default_context(cafile=str(paths["ca"]))

    async with open_upstream(0, credentials) as upstream:
        environ = {
            "RSKETCH_HTTP_PORT": "0",
            "RSKETCH_HTTP_GRPC_TARGET": f"localhost:{upstream.port}",
            "RSKETCH_HTTP_GRPC_CA": str(paths["ca"]),
            "RSKETCH_HTTP_TLS_CERTIFICATE": str(paths["chain"]),
            "RSKETCH_HTTP_TLS_KEY": str(paths["key"]),
        }
        async with (
            serving(HttpConfig.from_env(environ), touch_up=False) as at,
            httpx.AsyncClient(verify=trusting, trust_env=False) as client,
        ):
            response = await client.get(f"{at}/api/v1/hello?name=ada")
            ready = await client.get(f"{at}/readyz")

    assert at.scheme == "https"
    assert response.json() == {"message": "Hello, ada!"}
    assert ready.status_code == 200


AGAIN = """
import asyncio, logging, sys
import uvloop
from rsketch_http import service

logging.basicConfig(level=logging.INFO, format="%(message)s")

async def ask(at, path):
    reader, writer = await asyncio.open_connection(at.host, at.port)
    writer.write(f"GET {path} HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    print(answer.split()[1], "alt-svc" in answer)

async def main():
    for _ in range(3):
        async with service.serve({"RSKETCH_HTTP_PORT": "0"}) as at:
            for path in ("/health", "/nowhere", "/api/v1/hello?name=ada", "/openapi.json"):
                await ask(at, path)

{"uvloop": uvloop, "asyncio": asyncio}[sys.argv[1]].run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_one_process_can_serve_again_and_again(loop: str) -> None:
    """The first life has Sanic's rewritten classes, later ones use them; nothing is logged, on either event loop."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGAIN, loop, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(child.communicate(), 60)

    assert err.decode() == ""
    assert out.decode().splitlines() == ["200 False", "404 False", "503 False", "200 False"] * 3
