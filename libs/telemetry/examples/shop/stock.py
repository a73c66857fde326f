"""The warehouse: a grpc.aio service with a token check, a stream in both directions and rich errors."""

import asyncio
import logging
import os
import signal
import sys

import grpc
import stock_pb2
import stock_pb2_grpc
from google.protobuf.any_pb2 import Any
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

PORT = int(os.environ.get("STOCK_PORT", "50061"))
TOKEN = os.environ.get("STOCK_TOKEN", "open-sesame")

log = logging.getLogger("stock")


class TokenCheck(grpc.aio.ServerInterceptor):
    """Lets in those who bring the token and answers everybody else UNAUTHENTICATED."""

    def __init__(self, token):
        self._expected = ("x-stock-token", token)

        async def deny(request_iterator, context):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no valid x-stock-token")

        self._denied = grpc.stream_stream_rpc_method_handler(deny)

    async def intercept_service(self, continuation, handler_call_details):
        if self._expected in handler_call_details.invocation_metadata:
            return await continuation(handler_call_details)
        log.warning("turned away a call of %s", handler_call_details.method)
        return self._denied


class Stock(stock_pb2_grpc.StockServicer):
    def __init__(self):
        self._pieces = {1: 20, 2: 5, 3: 0}

    async def GetLevel(self, request, context):  # noqa: N802
        if request.item_id not in self._pieces:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no item {request.item_id}")
        return stock_pb2.Level(item_id=request.item_id, pieces=self._pieces[request.item_id])

    async def Reserve(self, request_iterator, context):  # noqa: N802
        async for line in request_iterator:
            if line.pieces < 1:
                await refuse(context, "pieces", "must be at least 1")
            if self._pieces.get(line.item_id, 0) < line.pieces:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"not enough of item {line.item_id}")
            self._pieces[line.item_id] -= line.pieces
            log.info("reserved %d of item %d", line.pieces, line.item_id)
            yield stock_pb2.Reserved(item_id=line.item_id, left=self._pieces[line.item_id])


async def refuse(context, field, why):
    """End the call with INVALID_ARGUMENT and a google.rpc.BadRequest that names the field."""
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=why)
    detail = Any()
    detail.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    rich = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=f"{field} {why}", details=[detail])
    status = rpc_status.to_status(rich)
    await context.abort(status.code, status.details, status.trailing_metadata)


async def main():
    server = grpc.aio.server(interceptors=[TokenCheck(TOKEN)])
    stock_pb2_grpc.add_StockServicer_to_server(Stock(), server)
    server.add_insecure_port(f"127.0.0.1:{PORT}")
    await server.start()
    log.info("stock listens on port %d", PORT)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await server.stop(grace=5)
    log.info("stock is closed")


if __name__ == "__main__":
    layout = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=layout, stream=sys.stdout)
    asyncio.run(main())
