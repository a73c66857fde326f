"""
A method of bytes by grpc.aio, which knows nothing of telemetry; it runs with ours and with that of others.

    python grpc_app.py --port 50051
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio


def main(argv: Sequence[str]) -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args(argv)
    asyncio.run(_serve(options.port))


async def _serve(port: int) -> None:
    async def reserve(_: bytes, __: Any) -> bytes:
        return b"\x08\x01"

    server = grpc.aio.server()
    handlers: dict[str, Any] = {"Reserve": grpc.unary_unary_rpc_method_handler(reserve)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.v1.Stock", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(1.0)


if __name__ == "__main__":
    main(sys.argv[1:])
