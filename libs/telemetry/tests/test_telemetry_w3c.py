"""Which propagators have a short way beside them."""

from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry import propagate
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from rsketch_telemetry._w3c import is_pair


class _OfTheirOwn(TraceContextTextMapPropagator):
    """May do anything."""


class _OtherComposite(CompositePropagator):
    """Likewise."""


@dataclass
class _Unhashable(TraceContextTextMapPropagator):
    """One that is equal to others, and so has no hash."""


_TRACE, _BAGGAGE = TraceContextTextMapPropagator(), W3CBaggagePropagator()


def test_pair_is_what_the_api_begins_with() -> None:
    """The global propagator of a program that sets none is the pair; so is one made like it."""
    assert is_pair(propagate.get_global_textmap())
    assert is_pair(CompositePropagator([_TRACE, _BAGGAGE]))


@pytest.mark.parametrize(
    "propagator",
    [
        _TRACE,
        CompositePropagator([]),
        CompositePropagator([_TRACE]),
        CompositePropagator([_BAGGAGE, _TRACE]),
        CompositePropagator([_TRACE, _BAGGAGE, _TRACE]),
        CompositePropagator([_OfTheirOwn(), _BAGGAGE]),
        _OtherComposite([_TRACE, _BAGGAGE]),
        _Unhashable(),
        None,
    ],
    ids=lambda propagator: type(propagator).__name__,
)
def test_every_other_is_none(propagator: Any) -> None:
    """One that lacks something, has more, is of another kind or cannot even be told apart is asked itself."""
    assert not is_pair(propagator)
