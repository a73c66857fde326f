"""The settings of the gRPC service: defaults, bad values, and the table in the README."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from rsketch import REUSE_PORT, ConfigError
from rsketch_grpc import service
from rsketch_grpc.config import GrpcConfig

README = Path(__file__).resolve().parents[1] / "README.md"
ROW = re.compile(r"^\| `(RSKETCH_GRPC_\w+)` \| (?:`(\S+)`|unset) \|", re.MULTILINE)


class Recorder(Mapping[str, str]):
    """An environment that remembers which variables were asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_defaults() -> None:
    """Without any setting the service asks for loopback, port 50051, in plaintext."""
    assert str(service.requested({})) == "grpc://127.0.0.1:50051"
    assert GrpcConfig.from_env({}) == GrpcConfig()
    assert service.port_setting == "RSKETCH_GRPC_PORT"


def test_empty_means_unset() -> None:
    """An empty variable is the same as none."""
    assert GrpcConfig.from_env({name: "" for name, _ in ROW.findall(README.read_text())}) == GrpcConfig()


def test_readme_lists_every_setting_with_its_default() -> None:
    """The table names exactly the variables that are read, and each default in it changes nothing."""
    rows, environ = ROW.findall(README.read_text()), Recorder()
    GrpcConfig.from_env(environ)

    # The switch that the supervisor sets for its workers is not for users.
    assert {name for name, _ in rows} == environ.asked - {REUSE_PORT}
    assert GrpcConfig.from_env(dict(rows)) == GrpcConfig()


def test_values_reach_their_fields() -> None:
    """Each variable sets the field of its name."""
    environ = {
        "RSKETCH_GRPC_HOST": "::1",
        "RSKETCH_GRPC_PORT": "0",
        "RSKETCH_GRPC_DRAIN_SECONDS": "500ms",
        "RSKETCH_GRPC_MAX_MESSAGE_BYTES": "64KiB",
        "RSKETCH_GRPC_MAX_CONNECTION_AGE_SECONDS": "0",
        "RSKETCH_GRPC_MAX_CONNECTION_AGE_GRACE_SECONDS": "1m",
        "RSKETCH_GRPC_MAX_CONCURRENT_RPCS": "7",
        "RSKETCH_GRPC_MAX_STREAM_COUNT": "9",
        "RSKETCH_GRPC_REFLECTION": "off",
        REUSE_PORT: "1",
    }

    assert GrpcConfig.from_env(environ) == GrpcConfig(
        host="::1",
        port=0,
        reuse_port=True,
        drain_seconds=0.5,
        max_message_bytes=65536,
        max_connection_age_seconds=0.0,
        max_connection_age_grace_seconds=60.0,
        max_concurrent_rpcs=7,
        max_stream_count=9,
        reflection=False,
    )


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("RSKETCH_GRPC_HOST", ("[::1]", "unix:/tmp/x", "a,b", "127.0.0.1:80", "a b", "::zz")),
        ("RSKETCH_GRPC_PORT", ("65536", "-1", "http", "1.5")),
        ("RSKETCH_GRPC_DRAIN_SECONDS", ("-1", "soon", "10 s", "25h", "nan")),
        ("RSKETCH_GRPC_MAX_MESSAGE_BYTES", ("0", "4MB", "-1", "4GiB", "2048MiB")),
        ("RSKETCH_GRPC_MAX_CONNECTION_AGE_SECONDS", ("x", "-5")),
        ("RSKETCH_GRPC_MAX_CONNECTION_AGE_GRACE_SECONDS", ("x", "25h")),
        ("RSKETCH_GRPC_MAX_CONCURRENT_RPCS", ("-1", "many", "2147483648")),
        ("RSKETCH_GRPC_MAX_STREAM_COUNT", ("0", "1e3")),
        ("RSKETCH_GRPC_REFLECTION", ("maybe", "2")),
    ],
)
async def test_bad_values(setting: str, values: tuple[str, ...]) -> None:
    """A malformed value is one line that begins with the setting, before the address is known and before a start."""
    for value in values:
        with pytest.raises(ConfigError, match=f"^{setting}: accepts .+") as refused:
            service.requested({setting: value})
        assert "\n" not in str(refused.value)
        with pytest.raises(ConfigError, match=f"^{setting}: "):
            async with service.serve({setting: value}):
                pass
