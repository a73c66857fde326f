from pathlib import Path

import pytest
from opentelemetry import baggage as api
from opentelemetry.context import Context
from programs import ANY_PORT, run
from rsketch_telemetry import baggage
from rsketch_telemetry.otlp.receiver import receive
from rsketch_telemetry.otlp.store import TelemetryStore


@pytest.mark.parametrize("key", ["tenant", "plan", "shop.region", "user", "x-tenant", "http"])
def test_what_may_be_copied(key: str) -> None:
    """A program's own keys, also those that merely begin like a name of the conventions."""
    assert baggage.acceptable(key)


@pytest.mark.parametrize(
    "key",
    [
        "http.route",
        "rpc.method",
        "url.path",
        "error.type",
        "service.name",
        "exception.type",
        "rsketch.x",
        "user.id",
        "password",
        "api_key",
        "session-token",
        "authorization",
        "",
        "a b",
        "a,b",
        "ä",
        "x" * 129,
    ],
)
def test_what_is_refused(key: str) -> None:
    """What would pass for an instrumentor's word, what is named like a secret, and what is no key at all."""
    assert not baggage.acceptable(key)


def test_values_are_bounded_and_redacted() -> None:
    """A caller decides on them, so they are cut, made valid, and freed of what looks like a credential."""
    context = Context()
    for key, value in {"a": "x" * 500, "b": "\ud800", "c": "Bearer hunter22hunter22", "d": "not listed"}.items():
        context = api.set_baggage(key, value, context)

    assert baggage.entries(("a", "b", "c", "z"), context) == {"a": "x" * 256, "b": "\ufffd", "c": "Bearer REDACTED"}
    assert baggage.entries(("a",), Context()) == {}


PROGRAM = """
from opentelemetry import baggage, context
from opentelemetry._logs import LogRecord, get_logger
telemetry = rsketch_telemetry.configure()
tracer = trace.get_tracer("test")
carried = context.get_current()
for key, value in {"tenant": "acme", "plan": "gold", "password": "hunter22", "other": "x"}.items():
    carried = baggage.set_baggage(key, value, carried)
with tracer.start_as_current_span("outer", carried, attributes={"plan": "mine"}):
    get_logger("test").emit(LogRecord(body="elsewhere", context=carried))
token = context.attach(carried)
with tracer.start_as_current_span("here"):
    tracer.start_span("inner").end()
    logging.getLogger("shop").warning("sold", extra={"plan": "mine"})
context.detach(token)
tracer.start_span("without").end()
logging.getLogger("shop").warning("closed")
say(processors=len(trace.get_tracer_provider()._active_span_processor._span_processors))
"""


async def test_listed_keys_are_on_every_span_and_log_record(tmp_path: Path) -> None:
    """They come from the parent's context; what span and record have by themselves stays; a bad key costs one line."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(PROGRAM, at, tmp_path, {"RSKETCH_TELEMETRY_BAGGAGE_KEYS": "tenant, plan,password,http.route"})

    everything = {"tenant": "acme", "plan": "gold"}
    assert {span.name: dict(span.attributes) for span in store.spans} == {
        "outer": {"tenant": "acme", "plan": "mine"},
        "here": everything,
        "inner": everything,
        "without": {},
    }
    copied = {
        str(record.body): {key: record.attributes[key] for key in everything if key in record.attributes}
        for record in store.logs
    }
    assert copied == {"elsewhere": everything, "sold": {"tenant": "acme", "plan": "mine"}, "closed": {}}
    (line,) = [line for line in ended.stderr.splitlines() if "telemetry" in line]
    assert line.startswith("telemetry: RSKETCH_TELEMETRY_BAGGAGE_KEYS='tenant, plan,password,http.route'")
    assert line.endswith("using tenant,plan")


async def test_by_default_nothing_is_copied(tmp_path: Path) -> None:
    """No list, no processor, and baggage stays where it is."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(PROGRAM, at, tmp_path)

    assert ended.said == {"processors": 1}
    attributes = [*(span.attributes for span in store.spans), *(record.attributes for record in store.logs)]
    assert not any("tenant" in each for each in attributes)
