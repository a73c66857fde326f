"""The settings of the HTTP service: read from a mapping, checked completely before anything is opened."""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rsketch import REUSE_PORT, Address, ConfigError, settings

__all__ = ["PORT_SETTING", "HttpConfig"]

HOST_SETTING = "RSKETCH_HTTP_HOST"
PORT_SETTING = "RSKETCH_HTTP_PORT"
_TARGET = "RSKETCH_HTTP_GRPC_TARGET"
_OPENED_TARGET = "RSKETCH_GRPC_ADDRESS"
_CA = "RSKETCH_HTTP_GRPC_CA"
_CERTIFICATE = "RSKETCH_HTTP_TLS_CERTIFICATE"
_KEY = "RSKETCH_HTTP_TLS_KEY"
_ORIGINS = "RSKETCH_HTTP_CORS_ORIGINS"

_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?")
_ORIGIN = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """
    Where and how the HTTP service listens, and where the gRPC service is.

    Attributes:
        host: Name or IP address to listen on, without brackets.
        port: TCP port; 0 asks the kernel for a free one.
        reuse_port: Join a port that others of our processes serve too (`SO_REUSEPORT`).
        drain_seconds: Time allowed for requests in flight after a stop signal.
        grpc_target: gRPC target of the greeting service.
        grpc_root_certificates: PEM certificates that its certificate must lead to; None connects without TLS.
        grpc_timeout_seconds: Time that one request may take, counted from its head; what is left of it when the gRPC
            call is made becomes the deadline of that call.
        stream_timeout_seconds: The same for one event stream.
        max_body_bytes: Largest request body; a larger one is answered with 413.
        request_timeout_seconds: Time for a request's head to arrive; 408 after it.
        response_timeout_seconds: Time without progress while a request is answered; 503 after it, or 408 when it was
            the request's body that did not arrive.
        keep_alive_seconds: Time that an idle connection is kept.
        cors_origins: Web origins that may read answers, or `*` alone for all; empty switches CORS off.
        health_version: Whether health answers carry the version.
        tls: Certificate and key, loaded; None serves plain HTTP.
    """

    host: str = "127.0.0.1"
    port: int = 3000
    reuse_port: bool = False
    drain_seconds: float = 10.0
    grpc_target: str = "127.0.0.1:50051"
    grpc_root_certificates: bytes | None = None
    grpc_timeout_seconds: float = 5.0
    stream_timeout_seconds: float = 300.0
    max_body_bytes: int = 1024 * 1024
    request_timeout_seconds: float = 15.0
    response_timeout_seconds: float = 30.0
    keep_alive_seconds: float = 75.0
    cors_origins: tuple[str, ...] = ()
    health_version: bool = False
    tls: ssl.SSLContext | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """
        Read the settings from *environ*, falling back to the field defaults.

        Raises:
            ConfigError: A value is malformed or a file cannot be used; the message names the variable and what it
                accepts.
        """
        default = cls()
        return cls(
            host=_host(environ, default.host),
            port=settings.port(environ, PORT_SETTING, default.port),
            reuse_port=settings.boolean(environ, REUSE_PORT, default=False),
            drain_seconds=settings.seconds(environ, "RSKETCH_HTTP_DRAIN_SECONDS", default.drain_seconds),
            grpc_target=_target(environ, default.grpc_target),
            grpc_root_certificates=_root_certificates(environ),
            grpc_timeout_seconds=_timeout(environ, "RSKETCH_HTTP_GRPC_TIMEOUT_SECONDS", default.grpc_timeout_seconds),
            stream_timeout_seconds=_timeout(
                environ, "RSKETCH_HTTP_STREAM_TIMEOUT_SECONDS", default.stream_timeout_seconds
            ),
            max_body_bytes=settings.size(environ, "RSKETCH_HTTP_MAX_BODY_BYTES", default.max_body_bytes),
            request_timeout_seconds=_timeout(
                environ, "RSKETCH_HTTP_REQUEST_TIMEOUT_SECONDS", default.request_timeout_seconds
            ),
            response_timeout_seconds=_timeout(
                environ, "RSKETCH_HTTP_RESPONSE_TIMEOUT_SECONDS", default.response_timeout_seconds
            ),
            keep_alive_seconds=_timeout(environ, "RSKETCH_HTTP_KEEP_ALIVE_SECONDS", default.keep_alive_seconds),
            cors_origins=_origins(environ),
            health_version=settings.boolean(environ, "RSKETCH_HTTP_HEALTH_VERSION", default=default.health_version),
            tls=_tls(environ),
        )

    @property
    def address(self) -> Address:
        """The address that is asked for; its port may be 0."""
        return Address(scheme="https" if self.tls else "http", host=self.host, port=self.port)


def _host(environ: Mapping[str, str], default: str) -> str:
    raw = settings.text(environ, HOST_SETTING, default)
    host = raw[1:-1] if raw.startswith("[") and raw.endswith("]") else raw
    if not _HOST.fullmatch(host):
        raise ConfigError(HOST_SETTING, "a host name or an IP address", raw)
    return host


def _timeout(environ: Mapping[str, str], name: str, default: float) -> float:
    value = settings.seconds(environ, name, default)
    if value <= 0:
        raise ConfigError(name, "a duration over 0 s such as 2, 2.5s, 500ms or 3m", environ[name])
    return value


def _target(environ: Mapping[str, str], default: str) -> str:
    # The address that the host has opened is a fallback, so that an explicit target always wins.
    name = _TARGET if settings.text(environ, _TARGET, "") else _OPENED_TARGET
    return settings.target(environ, name, default)


def _root_certificates(environ: Mapping[str, str]) -> bytes | None:
    path = settings.optional_file(environ, _CA)
    if path is None:
        return None
    pem = path.read_bytes()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError, ValueError):
        raise ConfigError(_CA, "the path of a file with PEM certificates", str(path)) from None
    return pem


def _origins(environ: Mapping[str, str]) -> tuple[str, ...]:
    origins = settings.words(environ, _ORIGINS)
    wrong = [origin for origin in origins if not _ORIGIN.fullmatch(origin)]
    if wrong and origins != ("*",):
        raise ConfigError(
            _ORIGINS, "web origins such as https://app.example, separated by commas, or * alone", wrong[0]
        )
    return origins


def _tls(environ: Mapping[str, str]) -> ssl.SSLContext | None:
    certificate = settings.optional_file(environ, _CERTIFICATE)
    key = settings.optional_file(environ, _KEY)
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing, given = (_KEY, _CERTIFICATE) if key is None else (_CERTIFICATE, _KEY)
        raise ConfigError(missing, f"the path of a PEM file when {given} is set")
    return _tls_context(certificate, key)


def _tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An encrypted key must fail here: without a password callback OpenSSL would ask on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, ValueError):
        accepts = f"the path of a PEM certificate chain that fits the unencrypted key in {_KEY}"
        raise ConfigError(_CERTIFICATE, accepts, str(certificate)) from None
    return context
