"""Tests of what is free and of holding it."""

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from rsketch import Address, ConfigError, Service
from rsketch.ports import check, held, is_free


def _service(name: str) -> Service:
    @asynccontextmanager
    async def serve(environ: Mapping[str, str]) -> AsyncIterator[Address]:
        yield _address(0)

    return Service(serve=serve, requested=lambda _: _address(0), port_setting=f"{name}_PORT")


def _address(port: int, host: str = "127.0.0.1") -> Address:
    return Address(scheme="http", host=host, port=port)


def _listener(*, share: bool = False) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, share)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


SERVICES = {"a": _service("A"), "b": _service("B")}


@pytest.mark.parametrize("share", [False, True])
def test_a_taken_port_is_named(share: bool) -> None:
    """A port is taken also where its owner would share it."""
    with _listener(share=share) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^B_PORT: accepts a free port, not '127\.0\.0\.1:{port} \(taken\)'$"):
            check(SERVICES, {"a": _address(0), "b": _address(port)})


def test_a_free_port_is_told_from_one_that_is_taken() -> None:
    """Whether its owner would share it makes no difference."""
    with _listener(share=True) as listener:
        port = listener.getsockname()[1]
        assert not is_free("127.0.0.1", port)

    assert is_free("127.0.0.1", port)


def test_a_port_that_two_services_want_is_taken() -> None:
    """The second one is told."""
    with _listener() as listener:
        port = listener.getsockname()[1]

    with pytest.raises(ConfigError, match=r"^B_PORT: .*taken"):
        check(SERVICES, {"a": _address(port), "b": _address(port)})


def test_a_foreign_host_is_named() -> None:
    """An address that is not of this machine is a matter of the host's setting."""
    with pytest.raises(
        ConfigError, match=r"^A_HOST: accepts a name or an IP address of this machine, not '192\.0\.2\.1"
    ):
        check(SERVICES, {"a": _address(0, "192.0.2.1")})


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "nowhere.invalid"])
def test_a_name_that_is_none_is_named(host: str) -> None:
    """Whether Python or the resolver refuses a name, it is a matter of the host's setting."""
    with pytest.raises(ConfigError, match=r"^A_HOST: accepts a name or an IP address of this machine, not "):
        check(SERVICES, {"a": _address(0, host)})


def test_a_port_is_free_while_old_connections_linger() -> None:
    """A restart is not refused because of connections in TIME_WAIT."""
    listener = _listener()
    where = listener.getsockname()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with socket.create_connection(where) as client:
        listener.accept()[0].close()
        client.recv(1)
    listener.close()

    check(SERVICES, {"a": _address(where[1])})
    with held(SERVICES, {"a": _address(where[1])}) as addresses:
        assert addresses["a"].port == where[1]


def test_a_held_port_is_resolved_and_shared_only_on_request() -> None:
    """Workers join it, others find it taken, and it never accepts a connection itself."""
    with held(SERVICES, {"a": _address(0), "b": _address(0)}) as addresses:
        where = ("127.0.0.1", addresses["a"].port)
        with pytest.raises(ConfigError, match="taken"):
            check(SERVICES, {"a": addresses["a"]})
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(where)
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(where)
            worker.listen()
            for _ in range(20):
                socket.create_connection(where, timeout=5).close()

    check(SERVICES, addresses)


def test_a_name_with_several_addresses_is_held_on_one_port() -> None:
    """`localhost` may stand for IPv4 and IPv6, of which a machine need not have both."""
    with held(SERVICES, {"a": _address(0, "localhost")}) as addresses:
        assert addresses["a"].port > 0
        with pytest.raises(ConfigError, match="taken"):
            check(SERVICES, {"a": addresses["a"]})
