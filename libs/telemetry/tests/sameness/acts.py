"""What handlers do with the span of their request, each with what it sees of it."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Final

import httpx
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor
from opentelemetry.propagate import inject
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from rsketch_telemetry.annotations import annotate
from rsketch_telemetry.sdk import Providers

__all__ = ["ACTS", "READING", "Handled", "acted"]

_log = logging.getLogger("shop")
_LINKED = SpanContext(
    0x0AF7651916CD43DD8448EB211C80319C,
    0xB7AD6B7169203331,
    is_remote=True,
    trace_flags=TraceFlags(1),
    trace_state=TraceState([("a", "1")]),
)
_later: set[asyncio.Task[None]] = set()


@dataclass(frozen=True, slots=True)
class Handled:
    """A call being handled: the span that is current, and what the program records with."""

    span: Span
    made: Providers

    @property
    def any(self) -> Any:
        """The span, for who knows that it is the SDK's."""
        return self.span

    @property
    def tracer(self) -> trace.Tracer:
        """The program's own tracer."""
        return self.made.tracers.get_tracer("shop", "1.0")


Act = Callable[[Handled], Any]
ACTS: Final[dict[str, Act]] = {}
"""By the last part of the path; what an act returns is the answer."""


def act(does: Act) -> Act:
    """Register an act by its name."""
    ACTS[does.__name__.strip("_").replace("_", "-")] = does
    return does


async def acted(name: str, made: Providers) -> Any:
    """Act on the current span, and return what was seen."""
    found = ACTS[name](Handled(trace.get_current_span(), made))
    return await found if asyncio.iscoroutine(found) else found


def _fail() -> None:
    raise ValueError("within")


def _fields(span: SpanContext) -> list[Any]:
    return [
        f"{span.trace_id:032x}",
        f"{span.span_id:016x}",
        int(span.trace_flags),
        list(span.trace_state.items()),
        span.is_remote,
        span.is_valid,
    ]


# Attributes.


@act
def _attributes(handled: Handled) -> None:
    handled.span.set_attributes({"shop.a": 1, "shop.b": "x", "shop.c": [1.5]})


@act
def _attributes_none(handled: Handled) -> None:
    handled.span.set_attributes({})


@act
def _attributes_bad_among_good(handled: Handled) -> None:
    handled.span.set_attributes({"shop.a": 1, "shop.b": object(), "": 3, "shop.c": 2})  # type: ignore[dict-item]  # on purpose


@act
def _attribute_twice(handled: Handled) -> None:
    handled.span.set_attribute("shop.a", 1)
    handled.span.set_attribute("shop.a", "two")


@act
def _attribute_then_none(handled: Handled) -> None:
    handled.span.set_attribute("shop.a", 1)
    handled.span.set_attribute("shop.a", None)


@act
def _attribute_list_changed_later(handled: Handled) -> None:
    given = ["a"]
    handled.span.set_attribute("shop.a", given)
    given.append("b")


def _many(number: int) -> Act:
    def does(handled: Handled) -> None:
        for index in range(number):
            handled.span.set_attribute(f"shop.{index}", index)

    return does


for _number in (20, 31, 32, 33, 100, 115, 120, 128, 130, 200):
    ACTS[f"attributes-{_number}"] = _many(_number)


@act
def _attributes_200_again(handled: Handled) -> None:
    for index in range(200):
        handled.span.set_attribute(f"shop.{index}", index)
    handled.span.set_attribute("shop.0", "again")


@act
def _attributes_then_event(handled: Handled) -> None:
    handled.span.set_attribute("shop.a", 1)
    handled.span.add_event("later")
    handled.span.set_attribute("shop.b", 2)


@act
def _ours_then_plain(handled: Handled) -> None:
    handled.span.set_attribute("url.path", "/mine")
    handled.span.set_attribute("shop.a", 1)


@act
def _plain_then_ours(handled: Handled) -> None:
    handled.span.set_attribute("shop.a", 1)
    handled.span.set_attributes({"http.route": "/mine", "error.type": "mine"})


# Events, links, status, name.


@act
def _event(handled: Handled) -> None:
    handled.span.add_event("plain")


@act
def _event_attributes(handled: Handled) -> None:
    handled.span.add_event("full", {"a": 1, "b": [True]})


@act
def _event_time(handled: Handled) -> None:
    handled.span.add_event("early", None, 1)


@act
def _events_200(handled: Handled) -> None:
    for index in range(200):
        handled.span.add_event(f"event {index}")


@act
def _event_200_attributes(handled: Handled) -> None:
    handled.span.add_event("full", {f"a{index}": index for index in range(200)})


@act
def _event_bad_attributes(handled: Handled) -> None:
    handled.span.add_event("odd", {"a": object(), "": 1, "b": 2})  # type: ignore[dict-item]  # on purpose


@act
def _link(handled: Handled) -> None:
    handled.span.add_link(_LINKED, {"a": 1})


@act
def _link_invalid(handled: Handled) -> None:
    handled.span.add_link(trace.INVALID_SPAN_CONTEXT)


@act
def _link_none(handled: Handled) -> None:
    handled.span.add_link(None)  # type: ignore[arg-type]  # on purpose


@act
def _links_200(handled: Handled) -> None:
    for _ in range(200):
        handled.span.add_link(_LINKED)


@act
def _status_ok(handled: Handled) -> None:
    handled.span.set_status(StatusCode.OK)


@act
def _status_ok_described(handled: Handled) -> None:
    handled.span.set_status(StatusCode.OK, "fine")


@act
def _status_error(handled: Handled) -> None:
    handled.span.set_status(Status(StatusCode.ERROR, "bad"))


@act
def _status_error_described(handled: Handled) -> None:
    handled.span.set_status(StatusCode.ERROR, "bad")


@act
def _status_unset(handled: Handled) -> None:
    handled.span.set_status(StatusCode.UNSET)


@act
def _status_both_described(handled: Handled) -> None:
    handled.span.set_status(Status(StatusCode.ERROR, "first"), "second")


@act
def _status_error_then_ok(handled: Handled) -> None:
    handled.span.set_status(StatusCode.ERROR, "bad")
    handled.span.set_status(StatusCode.OK)


@act
def _status_ok_then_error(handled: Handled) -> None:
    handled.span.set_status(StatusCode.OK)
    handled.span.set_status(StatusCode.ERROR, "bad")


@act
def _name(handled: Handled) -> None:
    handled.span.update_name("mine")


@act
def _name_read_back(handled: Handled) -> Any:
    handled.span.update_name("mine")
    return handled.any.name


@act
def _exception(handled: Handled) -> None:
    try:
        _fail()
    except ValueError as error:
        handled.span.record_exception(error)


@act
def _exception_attributes(handled: Handled) -> None:
    handled.span.record_exception(ValueError("given"), {"a": 1}, 1, escaped=True)


# The end.


@act
def _end(handled: Handled) -> Any:
    handled.span.end()
    return handled.span.is_recording()


@act
def _end_at(handled: Handled) -> None:
    handled.span.end(handled.any.start_time + 1)


@act
def _end_twice(handled: Handled) -> None:
    handled.span.end()
    handled.span.end()


@act
def _end_then_write(handled: Handled) -> Any:
    handled.span.end()
    handled.span.set_attribute("shop.late", 1)
    handled.span.add_event("late")
    handled.span.set_status(StatusCode.ERROR)
    handled.span.update_name("late")
    return handled.any.name


@act
def _write_then_end(handled: Handled) -> Any:
    handled.span.set_attribute("shop.a", 1)
    handled.span.end()
    return handled.span.is_recording()


@act
def _end_then_child(handled: Handled) -> None:
    handled.span.end()
    handled.tracer.start_span("child").end()


@act
def _with_span(handled: Handled) -> Any:
    with handled.span as same:
        same.set_attribute("shop.a", 1)
    return handled.span.is_recording()


@act
def _with_span_that_fails(handled: Handled) -> None:
    with suppress(ValueError), handled.span:
        _fail()


@act
def _use_span(handled: Handled) -> Any:
    with trace.use_span(handled.span):
        handled.span.set_attribute("shop.a", 1)
    return handled.span.is_recording()


@act
def _use_span_that_fails(handled: Handled) -> None:
    with suppress(ValueError), trace.use_span(handled.span):
        _fail()


@act
def _use_span_to_its_end(handled: Handled) -> Any:
    with trace.use_span(handled.span, end_on_exit=True):
        pass
    return handled.span.is_recording()


@act
def _write_after_the_end(handled: Handled) -> None:
    span = handled.span

    async def later() -> None:
        await asyncio.sleep(0.02)
        span.set_attribute("shop.late", 1)
        span.add_event("late")
        span.update_name("late")
        span.set_status(StatusCode.ERROR)
        span.end()

    _go(later())


@act
def _annotate_after_the_end(handled: Handled) -> None:
    async def later() -> None:
        await asyncio.sleep(0.02)
        annotate(late=1)

    _go(later())


@act
def _read_after_the_end(handled: Handled) -> None:
    span = handled.any

    async def later() -> None:
        await asyncio.sleep(0.02)
        attributes = sorted(set(span.attributes or {}) - {"network.peer.port"})
        _log.info("%s %s %s %s", span.is_recording(), span.name, attributes, span.status.status_code)

    _go(later())


def _go(later: Any) -> None:
    task = asyncio.get_running_loop().create_task(later)
    _later.add(task)
    task.add_done_callback(_later.discard)


# What is read.


@act
def _nothing(handled: Handled) -> None:
    """Leave the span alone."""


@act
def _is_recording(handled: Handled) -> Any:
    return handled.span.is_recording()


@act
def _span_context(handled: Handled) -> Any:
    return _fields(handled.span.get_span_context())


@act
def _same_context_twice(handled: Handled) -> Any:
    first, second = handled.span.get_span_context(), trace.get_current_span().get_span_context()
    return [first == second, hash(first) == hash(second)]


@act
def _injected(handled: Handled) -> Any:
    carrier: dict[str, str] = {}
    inject(carrier)
    return [carrier, _fields(handled.span.get_span_context())]


@act
def _injected_with_baggage(handled: Handled) -> Any:
    carrier: dict[str, str] = {}
    inject(carrier, baggage.set_baggage("shop", "7"))
    return carrier


@act
def _read_name(handled: Handled) -> Any:
    return handled.any.name


@act
def _read_attributes(handled: Handled) -> Any:
    return {key: value for key, value in sorted(handled.any.attributes.items()) if not key.endswith("port")}


@act
def _read_attributes_after_setting(handled: Handled) -> Any:
    handled.span.set_attribute("shop.a", (1, 2))
    return [handled.any.attributes["shop.a"], len(handled.any.attributes), handled.any.attributes["url.path"]]


@act
def _read_rest(handled: Handled) -> Any:
    span = handled.any
    return [
        str(span.kind),
        str(span.status.status_code),
        list(span.events),
        list(span.links),
        span.end_time,
        span.start_time > 0,
        span.dropped_attributes,
        span.dropped_events,
        span.dropped_links,
        span.instrumentation_scope.name,
        span.resource.attributes["service.name"],
        _fields(span.context),
        span.parent and _fields(span.parent),
    ]


@act
def _read_then_set(handled: Handled) -> Any:
    name = handled.any.name
    handled.span.set_attribute("shop.a", name)
    return name


@act
def _instance(handled: Handled) -> Any:
    return [isinstance(handled.span, Span), bool(handled.span), handled.span == trace.get_current_span()]


READING: Final = tuple(name for name in ACTS if name.startswith(("read", "name-read", "end-at", "end-then-write")))
"""Acts that take a sampled span: another one has less to read."""


# Children.


@act
def _child(handled: Handled) -> None:
    handled.tracer.start_span("child").end()


@act
def _child_of_each_kind(handled: Handled) -> None:
    for kind in SpanKind:
        handled.tracer.start_span(f"child {kind.name}", kind=kind).end()


@act
def _child_current(handled: Handled) -> Any:
    with handled.tracer.start_as_current_span("child", attributes={"a": 1}) as child:
        child.set_attribute("b", 2)
        carrier: dict[str, str] = {}
        inject(carrier)
    return [carrier, trace.get_current_span() == handled.span]


@act
def _child_that_fails(handled: Handled) -> None:
    with suppress(ValueError), handled.tracer.start_as_current_span("child"):
        _fail()


@act
def _grandchild(handled: Handled) -> None:
    with handled.tracer.start_as_current_span("child"), handled.tracer.start_as_current_span("grandchild"):
        handled.span.set_attribute("shop.from_below", 1)


@act
def _child_linked(handled: Handled) -> None:
    handled.tracer.start_span("child", links=[Link(_LINKED), Link(handled.span.get_span_context())]).end()


@act
def _child_of_given_context(handled: Handled) -> None:
    handled.tracer.start_span("child", trace.set_span_in_context(handled.span)).end()


@act
def _root_beside(handled: Handled) -> None:
    handled.tracer.start_span("root", context.Context()).end()


@act
def _child_in_thread(handled: Handled) -> None:
    carried = copy_context()
    thread = threading.Thread(target=lambda: carried.run(handled.tracer.start_span("child").end))
    thread.start()
    thread.join()


@act
async def _child_by_executor(handled: Handled) -> None:
    await asyncio.to_thread(lambda: handled.tracer.start_span("child").end())


@act
async def _child_in_task(handled: Handled) -> None:
    async def work() -> None:
        with handled.tracer.start_as_current_span("child"):
            await asyncio.sleep(0)

    await asyncio.gather(*(asyncio.create_task(work()) for _ in range(3)))


@act
def _child_outlives(handled: Handled) -> None:
    child = handled.tracer.start_span("child")

    async def later() -> None:
        await asyncio.sleep(0.03)
        child.set_attribute("late", 1)
        child.end()

    _go(later())


@act
def _child_started_later(handled: Handled) -> None:
    async def later() -> None:
        await asyncio.sleep(0.03)
        handled.tracer.start_span("late child").end()

    _go(later())


@act
async def _set_by_many_threads(handled: Handled) -> None:
    def work(number: int) -> None:
        for index in range(5):
            handled.span.set_attribute(f"shop.{number}.{index}", index)

    with ThreadPoolExecutor(4) as pool:
        await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(pool, work, each) for each in range(4)))


@act
async def _httpx(handled: Handled) -> Any:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=request.headers["traceparent"])

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        HTTPXClientInstrumentor.instrument_client(client, tracer_provider=handled.made.tracers)
        return (await client.get("http://other.example/a?b=c")).text


@act
async def _httpx_that_fails(handled: Handled) -> Any:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        HTTPXClientInstrumentor.instrument_client(client, tracer_provider=handled.made.tracers)
        try:
            await client.get("http://other.example/a")
        except httpx.ConnectError as error:
            return str(error)


@act
def _sqlite3(handled: Handled) -> Any:
    plain = sqlite3.connect(":memory:")
    database = SQLite3Instrumentor().instrument_connection(plain, tracer_provider=handled.made.tracers)
    found = database.cursor().execute("SELECT 7").fetchall()
    plain.close()
    return found


# Annotations, baggage, logging.


@act
def _annotate(handled: Handled) -> None:
    annotate(tenant="acme", number=7, share=0.5, big=True, names=["a", "b"])


@act
def _annotate_70(handled: Handled) -> None:
    for index in range(70):
        annotate(**{f"name{index}": index})


@act
def _annotate_secrets(handled: Handled) -> None:
    annotate(password="hush", note="Bearer abcdefgh", **{"shop.token": "x"})


@act
def _annotate_ours(handled: Handled) -> None:
    ours: dict[str, Any] = {"http.route": "/mine", "error.type": "x", "url.path": "/x", "mine": 1}
    annotate(**ours)


@act
def _annotate_odd(handled: Handled) -> None:
    odd: dict[str, Any] = {"long": "x" * 5000, "huge": 2**70, "none": None, "inner": [1, None], "": 1}
    annotate(**odd)


@act
def _annotate_from_child(handled: Handled) -> None:
    with handled.tracer.start_as_current_span("child"):
        annotate(from_child=1)


@act
def _annotate_and_set(handled: Handled) -> None:
    annotate(shared="annotated")
    handled.span.set_attribute("shared", "set")
    handled.span.add_event("between")
    annotate(shared="again", more=1)


@act
def _annotate_in_thread(handled: Handled) -> None:
    carried = copy_context()
    thread = threading.Thread(target=lambda: carried.run(lambda: annotate(threaded=1)))
    thread.start()
    thread.join()


@act
def _baggage(handled: Handled) -> Any:
    return dict(baggage.get_all())


@act
def _baggage_to_child(handled: Handled) -> None:
    token = context.attach(baggage.set_baggage("tenant", "inner"))
    try:
        handled.tracer.start_span("child").end()
        _log.warning("with baggage")
    finally:
        context.detach(token)


@act
def _logs(handled: Handled) -> None:
    _log.warning("a %s", "word", extra={"shop.extra": 1})


@act
def _logs_an_exception(handled: Handled) -> None:
    try:
        _fail()
    except ValueError:
        _log.exception("caught")


@act
def _logs_in_child(handled: Handled) -> None:
    with handled.tracer.start_as_current_span("child"):
        _log.error("within")


@act
def _measures(handled: Handled) -> None:
    meter = handled.made.meters.get_meter("shop", "1.0")
    meter.create_counter("shop.sold", "1", "Sold.").add(2, {"kind": "x"})
    meter.create_histogram("shop.weight", "kg").record(1.5, {"kind": "x"})


@act
def _everything(handled: Handled) -> None:
    span = handled.span
    span.set_attribute("shop.a", 1)
    span.add_event("event", {"a": 1})
    span.add_link(_LINKED)
    span.set_status(StatusCode.ERROR, "bad")
    span.update_name("mine")
    span.record_exception(ValueError("x"))
    annotate(tenant="acme")
    handled.tracer.start_span("child").end()
    _log.warning("all of it")
