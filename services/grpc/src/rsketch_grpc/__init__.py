"""The gRPC service: HelloService on grpc.aio, with health and reflection."""

from rsketch_grpc.server import service

__all__ = ["service"]
