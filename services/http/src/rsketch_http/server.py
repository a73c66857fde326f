"""The one module of this package that opens sockets: it serves while its context is open."""

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

from rsketch import Address, ConfigError, Service
from sanic import Sanic
from sanic.application.state import ApplicationServerInfo
from sanic.http.constants import HTTP

from rsketch_http.app import create_app
from rsketch_http.config import HOST_SETTING, PORT_SETTING, HttpConfig
from rsketch_http.drain import drain
from rsketch_http.protocol import Protocol, is_touched_up
from rsketch_http.readiness import Phase, Readiness
from rsketch_http.upstream import open_upstream

__all__ = ["bind", "requested", "running", "serve", "service", "serving"]

_log = logging.getLogger(__name__)

_BACKLOG = 1024
_CLOSE_SECONDS = 1.0


def requested(environ: Mapping[str, str]) -> Address:
    """Return the address that the settings ask for, after checking all of them. Raises ConfigError."""
    return HttpConfig.from_env(environ).address


@asynccontextmanager
async def serve(environ: Mapping[str, str]) -> AsyncIterator[Address]:
    """
    Serve while open; closing drains.

    Raises:
        ConfigError: A setting is bad, or the port is taken.
    """
    # Sanic rewrites its own classes when its first app starts (TouchUp), and fails on the second one in a process.
    async with serving(HttpConfig.from_env(environ), touch_up=not is_touched_up()) as address:
        yield address


@asynccontextmanager
async def serving(config: HttpConfig, *, touch_up: bool) -> AsyncIterator[Address]:
    """
    Serve while open; closing drains.

    Args:
        config: Settings, already checked.
        touch_up: Let Sanic rewrite its classes for this app: faster, for the whole process, and possible once.

    Raises:
        ConfigError: The port is taken or the host is not of this machine.
    """
    async with AsyncExitStack() as stack:
        sock = await bind(config)
        stack.callback(sock.close)
        upstream = await stack.enter_async_context(open_upstream(config))
        readiness = Readiness(upstream.ready)
        app = create_app(config, upstream, readiness)
        stack.callback(Sanic.unregister_app, app)
        app.config.TOUCHUP = touch_up
        await stack.enter_async_context(running(app, sock, config, readiness))
        yield _bound(sock, config)


service = Service(serve=serve, requested=requested, port_setting=PORT_SETTING, needs=("grpc",))


@asynccontextmanager
async def running(
    app: Sanic[Any, Any], sock: socket.socket, config: HttpConfig, readiness: Readiness
) -> AsyncIterator[None]:
    """Serve *app* on *sock*, which listens already, while open; closing drains."""
    server = await _start(app, sock, config)
    readiness.phase = Phase.SERVING
    try:
        yield
    finally:
        readiness.phase = Phase.DRAINING
        await _stop(server, app, config.drain_seconds)


async def _start(app: Sanic[Any, Any], sock: socket.socket, config: HttpConfig) -> Any:
    with _quiet():
        # Any: Sanic ships types, but has none for the methods used here. Its own order would accept connections before
        # its routes are ready for them.
        server: Any = await app.create_server(
            sock=sock,
            ssl=config.tls,
            protocol=Protocol,
            backlog=_BACKLOG,
            asyncio_server_kwargs={"start_serving": False},
        )
        # Only with this entry does TouchUp drop the empty alt-svc header from each response.
        info = {"version": HTTP.VERSION_1, "host": None, "port": None, "sock": sock, "ssl": config.tls}
        app.state.server_info.append(ApplicationServerInfo(settings=info))
        try:
            await server.startup()
            await server.before_start()
            await server.start_serving()
            await server.after_start()
        except BaseException:
            server.server.close()
            raise
    return server


async def _stop(server: Any, app: Sanic[Any, Any], drain_seconds: float) -> None:
    # Before the listeners of `before_server_stop`: one of Sanic's own cuts off websockets.
    ended = await drain(server, app=app, seconds=drain_seconds)
    await server.before_stop()
    if ended:
        _log.warning("%d connections were still busy after %g s and were ended", ended, drain_seconds)
    try:
        await asyncio.wait_for(server.wait_closed(), _CLOSE_SECONDS)
    except TimeoutError:
        _log.warning("the listener did not close within %g s", _CLOSE_SECONDS)
    await server.after_stop()


async def bind(config: HttpConfig) -> socket.socket:
    """
    Return a listening socket: Sanic takes port 0 for "unset", and only here a port that is taken makes one clear line.

    Raises:
        ConfigError: The port is taken or the host is not of this machine.
    """
    family, address = await _resolve(config)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if config.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.settimeout(0)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _refused(config, error) from None
    return sock


async def _resolve(config: HttpConfig) -> tuple[socket.AddressFamily, Any]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ConfigError(HOST_SETTING, "a host name or an IP address of this machine", config.host) from None
    family, _, _, _, address = found[0]
    return family, address


def _refused(config: HttpConfig, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(PORT_SETTING, "a free port", f"{config.port} (taken)")
    if error.errno == errno.EACCES:
        return ConfigError(PORT_SETTING, "a port that this user may open", str(config.port))
    return ConfigError(HOST_SETTING, f"an address of this machine ({error.strerror})", config.host)


def _bound(sock: socket.socket, config: HttpConfig) -> Address:
    host, port, *_ = sock.getsockname()
    return Address(scheme=config.address.scheme, host=host, port=port)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Sanic's words on starting out of the log: they are about its own command, which this is not."""
    loggers = [logging.getLogger(name) for name in ("sanic.root", "sanic.error", "sanic.server")]

    def only_errors(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    for logger in loggers:
        logger.addFilter(only_errors)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(only_errors)
