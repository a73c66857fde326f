"""Every command of docs/opentelemetry.md is run as it stands there."""

import os
import re
import signal
from pathlib import Path

import pytest
from harness.children import Child, clean_environ, running
from harness.server import MODULE, serving

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "opentelemetry.md"
COMMANDS = [block.strip() for block in re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)]
SERVERS = [command for command in COMMANDS if re.search(r"[ :]server\b", command)]
CALLS = [command for command in COMMANDS if command.startswith("rsketch hello")]
FREE_PORTS = {"RSKETCH_HTTP_PORT": "0", "RSKETCH_GRPC_PORT": "0"}


def test_every_command_of_the_page_is_run_by_a_test() -> None:
    """No command is left out because no test below knows its kind."""
    assert sorted(COMMANDS) == sorted(SERVERS + CALLS)
    assert len(COMMANDS) >= 8


def _package_sources() -> dict[str, str]:
    """Return what this machine says of where packages come from: an environment may have to be made first."""
    kept = ("HOME", "PIP_", "SSL_", "UV_", "http_proxy", "https_proxy", "no_proxy")
    return {
        name: value
        for name, value in os.environ.items()  # noqa: TID251 - the machine's, which no test can know
        if name.startswith(kept) and not name.endswith("CONSTRAINT")
    }


async def _stop(child: Child) -> None:
    """Press Ctrl-C: the signal reaches the whole group, so also a server behind hatch and a shell."""
    os.killpg(child.pid, signal.SIGINT)
    await child.ended()


@pytest.mark.parametrize("command", SERVERS)
async def test_a_server_command_serves(command: str, tmp_path: Path) -> None:
    """It says where it listens, and Ctrl-C leaves nothing behind."""
    checkout = command.startswith("./")
    environ = clean_environ(tmp_path, FREE_PORTS | (_package_sources() if checkout else {}))
    folder = ROOT if checkout else tmp_path
    async with running(
        ["sh", "-c", f"exec {command}" if "=" not in command else command], environ=environ, folder=folder
    ) as child:
        await child.written(r"\b(http +http|grpc +grpc)://127\.0\.0\.1:\d+", seconds=120)
        await _stop(child)

        assert child.left() == []
        assert "Traceback" not in child.text()


@pytest.mark.parametrize("command", CALLS)
async def test_a_call_prints_greeting_and_trace_id(command: str, tmp_path: Path) -> None:
    """Where a server runs, its answer and the trace id are printed."""
    async with serving(MODULE, tmp_path, {}) as server:
        environ = clean_environ(tmp_path, {"RSKETCH_HTTP_PORT": str(server.http_port)})
        async with running(["sh", "-c", f"exec {command}"], environ=environ, folder=tmp_path) as child:
            status = await child.ended()

    assert status == 0
    assert child.lines[0] == "Hello, ada!"
    assert re.fullmatch(r"trace [0-9a-f]{32}", child.lines[1])
