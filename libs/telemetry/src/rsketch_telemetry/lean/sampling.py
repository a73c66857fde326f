"""The decisions of the SDK's own samplers, and of our rules, without their results' objects."""

from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.sdk.trace.sampling import (  # noqa: TID251 - what is looked into is the SDK's
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanContext, SpanKind

from rsketch_telemetry.rule_sampler import RuleSampler

__all__ = ["Decide", "Sampled", "follows_parent", "known"]

Sampled = Callable[[], Mapping[str, object]]
"""Returns the attributes that a span begins with; most decisions do not ask for them."""
Decide = Callable[[SpanContext | None, int, Sampled], bool]
"""Whether a span is sampled: of its valid parent (None for a root), its trace's id, and what it begins with."""


def known(sampler: Sampler) -> Mapping[SpanKind, Decide] | None:
    """
    Return what decides as *sampler* does, for the kinds of spans that calls have; None for a sampler that is not known.

    Known samplers hand the parent's trace state on, whatever they decide.
    """
    server, client = _decide(sampler, server=True), _decide(sampler, server=False)
    return None if server is None or client is None else {SpanKind.SERVER: server, SpanKind.CLIENT: client}


def follows_parent(sampler: Sampler) -> bool | None:
    """
    Return what *sampler* decides of all roots, where it leaves all else to the parent's flag; None where it does not.

    So the default does, and most others do.
    """
    if type(sampler).should_sample is not ParentBased.should_sample:
        return None
    given: Any = sampler
    sampled = (given._remote_parent_sampled, given._local_parent_sampled)
    dropped = (given._remote_parent_not_sampled, given._local_parent_not_sampled)
    if any(each is not ALWAYS_ON for each in sampled) or any(each is not ALWAYS_OFF for each in dropped):
        return None
    return {ALWAYS_ON: True, ALWAYS_OFF: False}.get(given._root)


def _decide(sampler: Sampler, *, server: bool) -> Decide | None:
    if isinstance(sampler, RuleSampler):
        return _by_rules(sampler, server=server)
    # A class of the program's that is derived from one of these may decide otherwise.
    for kind, make in _KNOWN:
        if type(sampler).should_sample is kind.should_sample:
            return make(sampler, server=server)
    return None


def _static(sampler: StaticSampler, *, server: bool) -> Decide:
    sampled = sampler._decision is Decision.RECORD_AND_SAMPLE
    return lambda parent, trace_id, attributes: sampled


def _ratio(sampler: TraceIdRatioBased, *, server: bool) -> Decide:
    bound, low = sampler.bound, sampler.TRACE_ID_LIMIT
    return lambda parent, trace_id, attributes: trace_id & low < bound


def _parent_based(sampler: ParentBased, *, server: bool) -> Decide | None:
    root = _decide(sampler._root, server=server)
    delegates = (
        _decide(sampler._local_parent_not_sampled, server=server),
        _decide(sampler._local_parent_sampled, server=server),
        _decide(sampler._remote_parent_not_sampled, server=server),
        _decide(sampler._remote_parent_sampled, server=server),
    )
    if root is None or None in delegates:
        return None
    begin = root

    def decide(parent: SpanContext | None, trace_id: int, attributes: Sampled) -> bool:
        if parent is None:
            return begin(parent, trace_id, attributes)
        delegate = delegates[2 * parent.is_remote + parent.trace_flags.sampled]
        return delegate is not None and delegate(parent, trace_id, attributes)

    return decide


def _by_rules(sampler: RuleSampler, *, server: bool) -> Decide | None:
    otherwise = _decide(sampler.otherwise, server=server)
    if otherwise is None or not server:
        return otherwise
    fallback = otherwise
    rules = [(rule, _ratio(ratio, server=server)) for rule, ratio in sampler.rules]

    def decide(parent: SpanContext | None, trace_id: int, attributes: Sampled) -> bool:
        begun = attributes()
        chosen = next((by_ratio for rule, by_ratio in rules if rule.matches(begun)), fallback)
        return chosen(parent, trace_id, attributes)

    return decide


_KNOWN: tuple[tuple[type[Sampler], Callable[..., Decide | None]], ...] = (
    (StaticSampler, _static),
    (TraceIdRatioBased, _ratio),
    (ParentBased, _parent_based),
)
