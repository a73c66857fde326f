"""Propagators chosen by `OTEL_PROPAGATORS`, on both protocols; each case in a process of its own: they are global."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
_SPAN_ID = "b7ad6b7169203331"
_W3C = {"traceparent": f"00-{_TRACE_ID}-{_SPAN_ID}-01"}
_SINGLE = {"b3": f"{_TRACE_ID}-{_SPAN_ID}-1"}
_MULTI = {"x-b3-traceid": _TRACE_ID, "x-b3-spanid": _SPAN_ID, "x-b3-sampled": "1"}
_BAGGAGE = {"baggage": "shop=corner"}

_GRPC = """
import asyncio, json, sys
import grpc, grpc.aio
from opentelemetry import baggage, trace
from opentelemetry.trace import SpanKind
from recording import Instrumented, until
from rsketch_telemetry.grpc import GrpcAioClientInstrumentor, GrpcAioServerInstrumentor
from till import SERVICE, listening, path

async def main(sent):
    seen, servers, clients = {}, Instrumented(GrpcAioServerInstrumentor()), GrpcAioClientInstrumentor()
    servers.instrument()

    async def pay(request, context):
        seen.update(baggage=dict(baggage.get_all()), names=sorted(name for name, _ in context.invocation_metadata()))
        return request

    server = grpc.aio.server()
    handlers = {"Pay": grpc.unary_unary_rpc_method_handler(pay)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    async with listening(server) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = await channel.unary_unary(path("Pay"))(b"5", metadata=tuple(sent.items()))
        await until(lambda: servers.ended(SpanKind.SERVER))
        span, = servers.ended(SpanKind.SERVER)
        said = {"answer": answer.decode(), "baggage": seen["baggage"], "parent": parent(span)}
        clients.instrument(**servers.providers)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as second:
            await second.unary_unary(path("Pay"))(b"5")
        await until(lambda: len(servers.ended(SpanKind.SERVER)) == 2)
        client, = servers.ended(SpanKind.CLIENT)
        said |= {"out": seen["names"], "joined": parent(servers.ended(SpanKind.SERVER)[1]) == identity(client.context)}
    clients.uninstrument()
    servers.close()
    return said
"""

_SANIC = """
import asyncio, json, sys
from opentelemetry import baggage, trace
from sanic.response import text
from sanic_server import Telemetry, create_app, fetch

async def main(sent):
    telemetry, app, seen = Telemetry(), create_app(), {}
    telemetry.instrument()

    async def pay(request):
        seen.update(baggage=dict(baggage.get_all()))
        return text("5")

    app.add_route(pay, "/pay")
    answer = await fetch(app, "/pay", headers=sent)
    span = await telemetry.server()
    telemetry.close()
    return {"answer": answer.text, "baggage": seen["baggage"], "parent": parent(span)}
"""

_END = """
def identity(context):
    return [f"{context.trace_id:032x}", f"{context.span_id:016x}"]

def parent(span):
    return identity(span.parent) if span.parent else None

print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
"""


def run(program: str, propagators: str | None, sent: dict[str, str]) -> tuple[dict[str, Any], str]:
    """Return what the program says of a call that carries *sent*, and what it complains of."""
    exporters = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
    environ = {
        "PYTHONPATH": str(Path(__file__).parent / "support"),
        "PATH": str(Path(sys.executable).parent),
        **exporters,
    }
    if propagators is not None:
        environ["OTEL_PROPAGATORS"] = propagators
    command = [sys.executable, "-c", program + _END, json.dumps(sent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said, done.stderr


@pytest.fixture(params=[_GRPC, _SANIC], ids=["grpc", "sanic"])
def program(request: pytest.FixtureRequest) -> str:
    """A service of each protocol, instrumented, and one call of it."""
    return str(request.param)


@pytest.mark.parametrize(
    ("propagators", "sent"),
    [
        (None, _W3C),
        ("tracecontext,baggage", _W3C),
        ("b3", _SINGLE),
        ("b3multi", _MULTI),
        ("tracecontext,baggage,b3", _SINGLE),
    ],
)
def test_parent_comes_in_the_chosen_format(program: str, propagators: str | None, sent: dict[str, str]) -> None:
    """The caller's span is the parent, in whatever format the operator chose; W3C is the default."""
    said, _ = run(program, propagators, sent)

    assert said["answer"] == "5"
    assert said["parent"] == [_TRACE_ID, _SPAN_ID]


@pytest.mark.parametrize(("propagators", "sent"), [("b3", _W3C), ("tracecontext", _SINGLE), ("none", _W3C)])
def test_other_formats_are_not_understood(program: str, propagators: str, sent: dict[str, str]) -> None:
    """A format that was not chosen carries no parent, and costs no call."""
    said, _ = run(program, propagators, sent)

    assert said["answer"] == "5"
    assert said["parent"] is None


@pytest.mark.parametrize(("propagators", "got"), [(None, {"shop": "corner"}), ("b3,baggage", {"shop": "corner"})])
def test_baggage_reaches_the_handler(program: str, propagators: str | None, got: dict[str, str]) -> None:
    """What the caller sent as baggage is there in the handler, beside any format of the trace context."""
    said, _ = run(program, propagators, _BAGGAGE)

    assert said["baggage"] == got


def test_baggage_that_was_not_chosen_does_not_come(program: str) -> None:
    """Without the propagator for baggage there is none."""
    said, _ = run(program, "tracecontext", _BAGGAGE)

    assert said["baggage"] == {}


@pytest.mark.parametrize(
    ("propagators", "names"), [("b3", {"b3"}), ("b3multi", set(_MULTI)), ("tracecontext", {"traceparent"})]
)
def test_parent_goes_out_in_the_chosen_format(propagators: str, names: set[str]) -> None:
    """A call made carries its span in that format and no other, and the server's span is the client's child."""
    said, _ = run(_GRPC, propagators, {})

    context = {name for name in said["out"] if "b3" in name or name in {"traceparent", "tracestate", "baggage"}}
    assert context == names
    assert said["joined"]


@pytest.mark.parametrize("propagators", ["nonsense", "tracecontext,nonsense", ",", "b3;b3multi"])
def test_unknown_propagator_costs_no_call(program: str, propagators: str) -> None:
    """After `configure()` a name that nobody knows is one line, and the default stands in for it."""
    configured = "import logging, rsketch_telemetry; logging.basicConfig(); rsketch_telemetry.configure()\n"
    said, complaint = run(configured + program, propagators, _W3C)

    assert said["answer"] == "5"
    assert said["parent"] == [_TRACE_ID, _SPAN_ID]
    assert complaint.count("OTEL_PROPAGATORS") == (0 if propagators == "," else 1)


def test_propagator_that_fails_costs_the_parent_only(program: str) -> None:
    """One that raises at every call costs each call its parent, and is said once."""
    failing = """
from opentelemetry.propagate import set_global_textmap
from opentelemetry.propagators.textmap import TextMapPropagator

class Failing(TextMapPropagator):
    fields = frozenset()
    def extract(self, *args, **kwargs): raise LookupError("no context")
    def inject(self, *args, **kwargs): raise LookupError("no context")

set_global_textmap(Failing())
"""
    said, complaint = run(failing + program, None, _W3C)

    assert said["answer"] == "5"
    assert said["parent"] is None
    assert complaint.count("this is said once") == 1
