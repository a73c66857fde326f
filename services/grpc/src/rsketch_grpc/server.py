"""
Opens the gRPC service and closes it: the only module of this package that listens.

Calls `grpc.aio.server` through its module, where telemetry wraps it; does no telemetry of its own.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from rsketch import Address, ConfigError, Service, StartError
from rsketch_protos.hello.v1 import SERVICE_NAME, add_HelloServiceServicer_to_server

from rsketch_grpc.config import HOST, PORT, GrpcConfig
from rsketch_grpc.guard import Guard
from rsketch_grpc.health import DrainingHealthServicer
from rsketch_grpc.servicer import HelloServicer

__all__ = ["requested", "serve", "service"]

_WILDCARDS = {"0.0.0.0": ("0.0.0.0", "::"), "::": ("0.0.0.0", "::")}  # noqa: S104 - compared with, not bound
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}

# How often clients may ping, and how soon one that vanished without a word is noticed and its streams are cancelled.
_KEEPALIVE = (
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)

_log = logging.getLogger(__name__)


def requested(environ: Mapping[str, str]) -> Address:
    """Return the address that the settings ask for. Raises ConfigError where one of them is malformed."""
    return GrpcConfig.from_env(environ).address


@asynccontextmanager
async def serve(environ: Mapping[str, str]) -> AsyncIterator[Address]:
    """
    Serve while open; yields the bound address.

    Raises:
        ConfigError: A setting is malformed, or the port is taken. Nothing has been opened then.
        StartError: The address cannot be opened for another reason.
    """
    config = GrpcConfig.from_env(environ)
    await _check_address(config)
    status = DrainingHealthServicer(health.OVERALL_HEALTH, SERVICE_NAME)
    server = _create_server(config, status)
    port = await _bind(server, config)
    await status.start()
    await server.start()
    try:
        yield replace(config.address, port=port)
    finally:
        await _drain(server, status, config.drain_seconds)


service = Service(serve=serve, requested=requested, port_setting=PORT)


def _create_server(config: GrpcConfig, status: DrainingHealthServicer) -> grpc.aio.Server:
    """Build the server with its three services; nothing listens yet."""
    server = grpc.aio.server(
        interceptors=(Guard(SERVICE_NAME),),
        options=_options(config),
        maximum_concurrent_rpcs=config.max_concurrent_rpcs or None,
    )
    add_HelloServiceServicer_to_server(HelloServicer(max_stream_count=config.max_stream_count), server)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    if config.reflection:
        names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    return server


def _options(config: GrpcConfig) -> tuple[tuple[str, int], ...]:
    """Translate the settings into channel arguments."""
    age = (
        ("grpc.max_connection_age_ms", _milliseconds(config.max_connection_age_seconds)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(config.max_connection_age_grace_seconds)),
    )
    return (
        # Shared by default, and then a second server on the same port goes unnoticed.
        ("grpc.so_reuseport", int(config.reuse_port)),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        *_KEEPALIVE,
        *(age if config.max_connection_age_seconds else ()),
    )


def _milliseconds(seconds: float) -> int:
    """Convert to what channel arguments take; not to 0, which would be another setting than a very short time."""
    return max(1, round(seconds * 1000))


async def _bind(server: grpc.aio.Server, config: GrpcConfig) -> int:
    """Open the port and return its number."""
    try:
        return _add_port(server, config)
    except RuntimeError as error:
        # Free a moment ago, so somebody was faster; then this names it.
        await _check_address(config)
        raise StartError(f"cannot listen on {config.address}: {error}") from None


def _add_port(server: grpc.aio.Server, config: GrpcConfig) -> int:
    """Let gRPC bind the address. Raises RuntimeError where it cannot."""
    if config.tls is None:
        return server.add_insecure_port(config.address.netloc)
    pair = (config.tls.private_key, config.tls.certificate_chain)
    return server.add_secure_port(config.address.netloc, grpc.ssl_server_credentials([pair]))


async def _check_address(config: GrpcConfig) -> None:
    """
    Try the address by a bind of our own: where gRPC's fails, it writes several lines to stderr and hides the reason.

    Raises:
        ConfigError: The port is taken or not ours to open, or no address of this machine has that name.
    """
    missing, found = 0, await _resolve(config)
    for family, address in found:
        try:
            _try_bind(family, address, reuse_port=config.reuse_port)
        except PermissionError:
            raise ConfigError(PORT, "a port that this user may open", str(config.port)) from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(PORT, "a free port", f"{config.port} (taken)") from None
            if error.errno not in _NOT_HERE:
                raise StartError(f"cannot listen on {config.address}: {error.strerror}") from None
            missing += 1
    # `localhost` has an IPv6 address also where there is no IPv6: one that works is enough, for gRPC too.
    if missing == len(found):
        raise _not_here(config)


async def _resolve(config: GrpcConfig) -> list[tuple[int, tuple[int | str | bytes, ...]]]:
    """Return every address that gRPC will bind, with its family."""
    loop, found = asyncio.get_running_loop(), []
    for host in _WILDCARDS.get(config.host, (config.host,)):
        try:
            found += await loop.getaddrinfo(host, config.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise _not_here(config) from None
    return [(family, address) for family, _, _, _, address in found]


def _not_here(config: GrpcConfig) -> ConfigError:
    return ConfigError(HOST, "a name or an IP address of this machine", config.host)


def _try_bind(family: int, address: tuple[int | str | bytes, ...], *, reuse_port: bool) -> None:
    """Bind and let go. Never listens: a worker's port is shared, and a client could be sent here meanwhile."""
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        trial.bind(address)


async def _drain(server: grpc.aio.Server, status: DrainingHealthServicer, seconds: float) -> None:
    """Turn health off, refuse new calls, let those in flight finish for *seconds*, then cancel them."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    try:
        # First, so that whoever asks or watches hears it before connections are told to go.
        await status.enter_graceful_shutdown()
        await server.stop(seconds)
    finally:
        # Where the wait itself was cancelled; does nothing to a server that has stopped.
        await server.stop(None)
        await _unwind()
    if seconds and loop.time() >= deadline:
        _log.warning("the drain time of %g s was used up: gRPC calls still in flight were cancelled", seconds)


async def _unwind() -> None:
    """Let cancelled handlers come to their end: gRPC tells them a turn or two of the loop after it has stopped."""
    for _ in range(5):
        await asyncio.sleep(0)
