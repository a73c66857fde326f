"""
Version 1 of the greeting contract: messages, stub and servicer of `rsketch.hello.v1.HelloService`.

The modules beside this file are generated from `hello.proto`; import from here.
"""

from typing import TYPE_CHECKING

from rsketch_protos.hello.v1.hello_pb2 import DESCRIPTOR, HelloRequest, HelloResponse, HelloStreamRequest
from rsketch_protos.hello.v1.hello_pb2_grpc import (
    HelloServiceServicer,
    HelloServiceStub,
    add_HelloServiceServicer_to_server,
)

if TYPE_CHECKING:
    from rsketch_protos.hello.v1.hello_pb2_grpc import HelloServiceAsyncStub
else:
    # The stubs give the stub of an asyncio channel a type of its own, which does not exist at run time.
    HelloServiceAsyncStub = HelloServiceStub

__all__ = [
    "SERVICE_NAME",
    "HelloRequest",
    "HelloResponse",
    "HelloServiceAsyncStub",
    "HelloServiceServicer",
    "HelloServiceStub",
    "HelloStreamRequest",
    "add_HelloServiceServicer_to_server",
]

SERVICE_NAME: str = DESCRIPTOR.services_by_name["HelloService"].full_name
"""The full name of the service, as health checks, reflection and telemetry know it."""
