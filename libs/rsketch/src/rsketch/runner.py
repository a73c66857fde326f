"""Runs services in this process: opens them in order, waits for the stop, closes them in reverse order."""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace

from rsketch.errors import RsketchError, ServiceError, oneline
from rsketch.service import Address, Service
from rsketch.stop import Stop

__all__ = ["address_variable", "serve"]

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound

logger = logging.getLogger(__name__)


async def serve(
    services: Mapping[str, Service],
    environ: Mapping[str, str],
    stop: Stop,
    *,
    on_first: Callable[[], None],
    on_all: Callable[[Mapping[str, Address]], None],
) -> None:
    """
    Serve until the stop is requested; a request during the start closes what is open by then.

    Args:
        services: In the order of opening; each finds the addresses of those before it in its mapping.
        environ: The settings.
        stop: Ends the serving.
        on_first: Called when the first service has opened.
        on_all: Called with all addresses when the last one has.

    Raises:
        RsketchError: A service failed; the others have been closed.
    """
    stop.attach()
    async with AsyncExitStack() as stack:
        addresses: dict[str, Address] = {}
        for name, service in services.items():
            if stop.requested():
                return
            known = {address_variable(other): _reachable(at).netloc for other, at in addresses.items()}
            opening = _blamed(name, service.serve({**environ, **known}))
            address = await stop.until(stack.enter_async_context(opening))
            if address is None:
                return
            addresses[name] = address
            if len(addresses) == 1:
                on_first()
        on_all(addresses)
        await stop.wait()
        logger.info("stopping, asked by %s", stop.reason)


def address_variable(name: str) -> str:
    """Return the variable that holds the address of the service called *name*."""
    return f"RSKETCH_{name.upper().replace('-', '_')}_ADDRESS"


def _reachable(address: Address) -> Address:
    """An address to connect to: one that listens everywhere is reached on the loopback interface."""
    return replace(address, host=_WILDCARDS.get(address.host, address.host))


@asynccontextmanager
async def _blamed(name: str, service: AbstractAsyncContextManager[Address]) -> AsyncIterator[Address]:
    """Let whatever the service raises say which one it was; errors that are made for the user pass as they are."""
    try:
        async with service as address:
            yield address
    except Exception as error:
        cause = _innermost(error)
        if isinstance(cause, RsketchError):
            raise cause from cause.__cause__
        raise ServiceError(f"service {name} failed: {oneline(cause)}") from error


def _innermost(error: Exception) -> Exception:
    """The error that a task group wraps, where it is only one."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
