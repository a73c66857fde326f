"""The contract that goes over the wire, and the names that its users import."""

from pathlib import Path

import grpc
import rsketch_protos
from google.protobuf.duration_pb2 import Duration
from rsketch_protos.hello import v1
from rsketch_protos.hello.v1 import hello_pb2

ROOT = Path(rsketch_protos.__file__).parents[1]


def test_wire_contract_is_stable() -> None:
    """Service, methods and field numbers are what clients in the field speak."""
    [service] = hello_pb2.DESCRIPTOR.services_by_name.values()
    methods = [(each.name, each.client_streaming, each.server_streaming) for each in service.methods]
    fields = {
        name: {field.name: field.number for field in message.fields}
        for name, message in hello_pb2.DESCRIPTOR.message_types_by_name.items()
    }

    assert (service.full_name, v1.SERVICE_NAME) == ("rsketch.hello.v1.HelloService",) * 2
    assert methods == [("Hello", False, False), ("HelloStream", False, True)]
    assert fields == {
        "HelloRequest": {"name": 1},
        "HelloStreamRequest": {"name": 1, "count": 2, "interval": 3},
        "HelloResponse": {"message": 1},
    }


def test_proto_path_is_the_package_path() -> None:
    """The proto file lies where its import path says, inside the package, so that generated imports work unchanged."""
    assert (ROOT / hello_pb2.DESCRIPTOR.name).is_file()
    assert hello_pb2.DESCRIPTOR.package == "rsketch.hello.v1"


def test_every_exported_name_exists() -> None:
    """What `__all__` promises can be imported at run time, the stub type of asyncio channels included."""
    assert [name for name in v1.__all__ if not hasattr(v1, name)] == []


async def test_stub_on_an_asyncio_channel_has_the_asyncio_type() -> None:
    """The annotation below is what the type checker infers for the stub of an asyncio channel."""
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        stub: v1.HelloServiceAsyncStub = v1.HelloServiceStub(channel)
        call = stub.HelloStream(v1.HelloStreamRequest(name="ada", count=1, interval=Duration(seconds=1)))

        assert isinstance(call, grpc.aio.Call)
        assert call.cancel()
