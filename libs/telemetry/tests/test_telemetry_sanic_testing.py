"""The clients of sanic-testing: each request of a test is recorded like any other, and no test is changed by it."""

import subprocess
import sys
from pathlib import Path

import pytest
import sanic

# In a child process: these clients start servers in the process that calls them, recompile Sanic for their one
# application and leave it so.
_PROGRAM = """
from rsketch_telemetry.sanic import SanicInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import asyncio
from sanic import Sanic, text
from sanic_testing.reusable import ReusableClient

ORDER, CLIENT = "{order}", "{client}"
spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
instrument = lambda: SanicInstrumentor().instrument(tracer_provider=provider)

if ORDER == "before":
    instrument()
app = Sanic("shop")


@app.get("/orders/<number:int>")
async def order(request, number):
    return text(str(number))


@app.get("/stream")
async def stream(request):
    response = await request.respond()
    await response.send("a")
    await response.send("b")


@app.get("/broken")
async def broken(request):
    raise ValueError("broken")


if ORDER == "after":
    instrument()

PATHS = ("/orders/7", "/stream", "/broken", "/nothing")


def plain():
    return [app.test_client.get(path)[1] for path in PATHS]


def reusable():
    client = ReusableClient(app)
    with client:
        return [client.get(path)[1] for path in PATHS]


def asgi():
    async def ask():
        return [(await app.asgi_client.get(path))[1] for path in PATHS]

    return asyncio.run(ask())


answers = {{"plain": plain, "reusable": reusable, "asgi": asgi}}[CLIENT]()
print("ANSWERS", *[(answer.status_code, answer.text[:7]) for answer in answers][:2], *[a.status_code for a in answers])
for span in spans.get_finished_spans():
    said = span.attributes
    print("SPAN", span.name, said.get("http.response.status_code"), said.get("error.type"))
"""


# sanic-testing is no dependency of the oldest environment.
@pytest.mark.skipif(sanic.__version__ < "25", reason="with a current Sanic only")
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("client", ["plain", "reusable", "asgi"])
def test_clients_of_sanic_testing(tmp_path: Path, client: str, order: str) -> None:
    """Whichever client asks and whenever the application was made, each request is one span with its outcome."""
    program = tmp_path / "shop.py"
    program.write_text(_PROGRAM.format(order=order, client=client))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("ANSWERS", "SPAN"))]

    assert lines == [
        "ANSWERS (200, '7') (200, 'ab') 200 200 500 404",
        "SPAN GET /orders/<number:int> 200 None",
        "SPAN GET /stream 200 None",
        "SPAN GET /broken 500 ValueError",
        "SPAN GET 404 None",
    ], done.stderr
