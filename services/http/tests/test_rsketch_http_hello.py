"""`rsketch hello`, in-process, against a real server."""

from __future__ import annotations

import asyncio
import re
import socket
from argparse import ArgumentParser
from typing import TYPE_CHECKING

import pytest
import trustme
from rsketch import ConfigError
from rsketch_http.config import HttpConfig
from rsketch_http.hello import command
from rsketch_http.server import serving

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from services.http.tests.conftest import Upstream


@pytest.fixture
def unused_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def run(*arguments: str, environ: Mapping[str, str] | None = None) -> int:
    """Run the command with arguments as its user writes them."""
    parser = ArgumentParser()
    command.arguments(parser)
    return command.run(parser.parse_args(arguments), environ or {})


async def hello(upstream: Upstream, *arguments: str) -> int:
    """Run the command against a server in front of *upstream*."""
    config = HttpConfig(port=0, grpc_target=f"127.0.0.1:{upstream.port}")
    async with serving(config, touch_up=False) as at:
        return await asyncio.to_thread(run, *arguments, "--url", f"{at}/")


@pytest.mark.parametrize(
    ("arguments", "greeting"), [((), "Hello, world!"), (("ada",), "Hello, ada!"), (("a&b ü",), "Hello, a&b ü!")]
)
async def test_it_prints_the_greeting_and_the_trace_id(
    upstream: Upstream, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], greeting: str
) -> None:
    """Two lines: what the server said, and the trace to look for."""
    status = await hello(upstream, *arguments)
    said, trace = capsys.readouterr().out.splitlines()

    assert status == 0
    assert said == greeting
    assert re.fullmatch(r"trace [0-9a-f]{32}", trace)


async def test_the_settings_of_the_server_say_where_it_is(
    upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the shell in which a server was started, no address is needed."""
    async with serving(HttpConfig(port=0, grpc_target=f"127.0.0.1:{upstream.port}"), touch_up=False) as at:
        environ = {"RSKETCH_HTTP_HOST": "0.0.0.0", "RSKETCH_HTTP_PORT": str(at.port)}
        status = await asyncio.to_thread(run, environ=environ)

    assert status == 0
    assert capsys.readouterr().out.startswith("Hello, world!")


async def test_a_certificate_that_is_not_trusted_is_named(
    upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that is there but not trusted is not reported as absent."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain", tmp_path / "key"
    chain.write_bytes(certificate.cert_chain_pems[0].bytes())
    key.write_bytes(certificate.private_key_pem.bytes())
    environ = {
        "RSKETCH_HTTP_PORT": "0",
        "RSKETCH_HTTP_GRPC_TARGET": f"127.0.0.1:{upstream.port}",
        "RSKETCH_HTTP_TLS_CERTIFICATE": str(chain),
        "RSKETCH_HTTP_TLS_KEY": str(key),
    }
    async with serving(HttpConfig.from_env(environ), touch_up=False) as at:
        status = await asyncio.to_thread(run, environ=environ | {"RSKETCH_HTTP_PORT": str(at.port)})

    assert status == 1
    assert f"https://127.0.0.1:{at.port} has a certificate that this machine does not trust" in capsys.readouterr().err


async def test_each_call_has_a_sampled_trace_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """The traceparent that is sent is valid, sampled, and has the id that is printed."""
    seen: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        seen.append(head.partition("traceparent: ")[2].partition("\r\n")[0])
        writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 16\r\nconnection: close\r\n\r\n{"message":"Hi"}')
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for _ in range(2):
            await asyncio.to_thread(run, "--url", f"http://127.0.0.1:{port}")
    printed = re.findall(r"trace (\w+)", capsys.readouterr().out)

    assert [re.sub(r"-[0-9a-f]{16}-01$", "", header) for header in seen] == [f"00-{trace}" for trace in printed]
    assert len(set(printed)) == 2


async def test_a_refusal_is_one_line(upstream: Upstream, capsys: pytest.CaptureFixture[str]) -> None:
    """What the problem says is told, with the trace id to look for."""
    status = await hello(upstream, "")
    told = capsys.readouterr()

    assert status == 1
    assert told.out == ""
    assert re.fullmatch(
        r"rsketch hello: http://\S+ answered 400: name: must not be empty \(trace [0-9a-f]{32}\)\n", told.err
    )


def test_no_server_is_one_line(unused_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the address and how to start a server."""
    status = run("--url", f"http://127.0.0.1:{unused_port}")

    assert status == 1
    assert capsys.readouterr().err == (
        f"rsketch hello: no server answers at http://127.0.0.1:{unused_port}; start one with: rsketch server\n"
    )


@pytest.mark.parametrize("answer", ["Hi", '"Hi"', "{}"])
async def test_another_server_is_one_line(capsys: pytest.CaptureFixture[str], answer: str) -> None:
    """Something else that answers there is not taken for a greeting."""
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(answer)}\r\nconnection: close\r\n\r\n"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write((head + answer).encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        status = await asyncio.to_thread(run, "--url", f"http://127.0.0.1:{port}")

    assert status == 1
    assert capsys.readouterr().err.endswith("answered, but not as the greeting service does\n")


@pytest.mark.parametrize(
    "url", ["", "localhost:3000", "ftp://localhost", "file:///etc/passwd", "http://", "http://h:99999", "http://a b"]
)
def test_a_bad_address_is_refused(url: str) -> None:
    """Anything but an http or https address is a mistake in the argument."""
    with pytest.raises(ConfigError, match=r"^--url: accepts an address such as http://127.0.0.1:3000"):
        run("--url", url)
