"""The settings of the gRPC service, read from a mapping and checked; opens nothing that listens."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Self

from rsketch import REUSE_PORT, Address, ConfigError, settings

from rsketch_grpc.tls import KeyPair

__all__ = ["HOST", "PORT", "GrpcConfig"]

HOST = "RSKETCH_GRPC_HOST"
PORT = "RSKETCH_GRPC_PORT"

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_INT32 = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcConfig:
    """
    Where and how the gRPC service listens.

    Attributes:
        host: Name or IP address, without brackets; `0.0.0.0` and `::` both mean every address of either family.
        port: TCP port; 0 asks the kernel for a free one.
        reuse_port: Share the port with processes that do the same (`SO_REUSEPORT`) instead of owning it.
        drain_seconds: Time allowed for calls in flight after a stop signal.
        max_message_bytes: Largest message, received or sent.
        max_connection_age_seconds: Age at which a connection is asked to go, so that clients that balance by DNS find
            new servers; gRPC varies it by a tenth. 0 means never.
        max_connection_age_grace_seconds: Time allowed for calls in flight on a connection that reached its age.
        max_concurrent_rpcs: Calls in flight over all connections; more are answered RESOURCE_EXHAUSTED. 0 means any
            number.
        max_stream_count: Greetings that one stream may ask for.
        reflection: Whether clients may ask for the contract.
        tls: Certificate and key, or None for plaintext.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    reuse_port: bool = False
    drain_seconds: float = 10.0
    max_message_bytes: int = 4 * 1024 * 1024
    max_connection_age_seconds: float = 300.0
    max_connection_age_grace_seconds: float = 3600.0
    max_concurrent_rpcs: int = 0
    max_stream_count: int = 1000
    reflection: bool = True
    tls: KeyPair | None = None

    @property
    def address(self) -> Address:
        """The address that is asked for."""
        return Address(scheme="grpcs" if self.tls else "grpc", host=self.host, port=self.port)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """
        Read the settings from *environ*, falling back to the field defaults.

        Raises:
            ConfigError: A value is malformed; the message names the variable and what it accepts.
        """
        base = cls()
        return cls(
            host=_host(environ, base.host),
            port=settings.port(environ, PORT, base.port),
            reuse_port=settings.boolean(environ, REUSE_PORT, default=base.reuse_port),
            drain_seconds=settings.seconds(environ, "RSKETCH_GRPC_DRAIN_SECONDS", base.drain_seconds),
            max_message_bytes=settings.size(environ, "RSKETCH_GRPC_MAX_MESSAGE_BYTES", base.max_message_bytes),
            max_connection_age_seconds=settings.seconds(
                environ, "RSKETCH_GRPC_MAX_CONNECTION_AGE_SECONDS", base.max_connection_age_seconds
            ),
            max_connection_age_grace_seconds=settings.seconds(
                environ, "RSKETCH_GRPC_MAX_CONNECTION_AGE_GRACE_SECONDS", base.max_connection_age_grace_seconds
            ),
            max_concurrent_rpcs=settings.integer(
                environ, "RSKETCH_GRPC_MAX_CONCURRENT_RPCS", base.max_concurrent_rpcs, low=0, high=_INT32
            ),
            max_stream_count=settings.integer(
                environ, "RSKETCH_GRPC_MAX_STREAM_COUNT", base.max_stream_count, low=1, high=_INT32
            ),
            reflection=settings.boolean(environ, "RSKETCH_GRPC_REFLECTION", default=base.reflection),
            tls=KeyPair.from_env(environ),
        )


def _host(environ: Mapping[str, str], default: str) -> str:
    """Return a host that can stand in a gRPC address: gRPC reads `unix:x` or `a,b` there as something else."""
    raw = settings.text(environ, HOST, default)
    if not (_NAME.fullmatch(raw) or _is_ipv6(raw)):
        raise ConfigError(HOST, "a host name or an IP address without brackets", raw)
    return raw


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except AddressValueError:
        return False
    return True
