"""Whatever a caller sends: the short way to a context and to a header says what the API's propagator says."""

from hostile import TRACEPARENT
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.propagate import get_global_textmap
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from rsketch_telemetry._grpc_propagation import inject
from rsketch_telemetry._w3c import NOTHING, Caller, parent, traceparent

_PROPAGATOR = TraceContextTextMapPropagator()
_WELL_FORMED = st.from_regex("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True)
_NEARLY = st.from_regex(r"[ \t]?(00|01|ff)-(0{32}|[0-9a-f]{32})-(0{16}|[0-9a-f]{16})-[0-9a-f]{2}(-x?)?[ \t\n]?")
_STATES = st.sampled_from([None, TraceState(), TraceState([("shop", "1")])])
_SPANS = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.integers(0, 255).map(TraceFlags),
)


def _asked(header: str) -> Context:
    return _PROPAGATOR.extract({"traceparent": header}, Context())


def _identity(context: Context) -> SpanContext:
    return trace.get_current_span(context).get_span_context()


@given(st.one_of(TRACEPARENT, _NEARLY, _WELL_FORMED))
def test_parent_is_the_propagator_s(header: str) -> None:
    """Any header gives the context that the propagator makes of it, unless it is left to that."""
    found = parent(header)

    if found is not None:
        assert set(found) == set(_asked(header))
        assert _identity(found) == _identity(_asked(header))


@given(_WELL_FORMED)
def test_usual_header_is_not_left_to_the_propagator(header: str) -> None:
    """What tracers send gives a remote span whose parts are its context's, flags and their class included."""
    found = parent(header)

    assert found is not None
    if found is not NOTHING:
        caller, context = trace.get_current_span(found), _identity(found)
        assert isinstance(caller, Caller)
        assert not caller.is_recording()
        assert (caller.trace_id, caller.span_id, caller.is_remote) == context[:3]
        assert (caller.trace_flags, caller.trace_state) == (context.trace_flags, context.trace_state)
        assert type(caller.trace_flags) is TraceFlags
        assert f"{context.trace_id:x}" in repr(caller)


@given(_SPANS)
def test_header_is_the_propagator_s(span: SpanContext) -> None:
    """Any valid span is named as the propagator names it, and read back."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(NonRecordingSpan(span), Context()))

    assert carrier == {"traceparent": traceparent(span)}
    found = parent(traceparent(span))
    assert found is not None
    assert _identity(found)[:2] == span[:2]


@given(
    st.none()
    | st.builds(SpanContext, st.integers(0, 2), st.integers(0, 2), st.booleans(), st.just(TraceFlags(1)), _STATES),
    st.dictionaries(st.sampled_from(["shop", "till"]), st.sampled_from(["", "1", "ä"])),
)
def test_metadata_of_a_call_is_the_propagator_s(span: SpanContext | None, entries: dict[str, str]) -> None:
    """Any context goes with a call as the global propagator would send it, which has more to say of some."""
    context = Context() if span is None else trace.set_span_in_context(NonRecordingSpan(span), Context())
    for name, value in entries.items():
        context = baggage.set_baggage(name, value, context)
    expected: dict[str, str] = {}
    get_global_textmap().inject(expected, context)

    assert inject(context) == expected
