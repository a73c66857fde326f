"""The SDK's sampler that follows sampling rules."""

from collections.abc import Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import (  # noqa: TID251 - a sampler is a class of the SDK's
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes

from rsketch_telemetry.sampling import Rule

__all__ = ["RuleSampler", "by_rules"]


def by_rules(rules: Sequence[Rule], otherwise: Sampler) -> Sampler:
    """
    Return a sampler by which a span's parent decides, and of a root span the first rule that matches.

    Args:
        rules: For server spans alone.
        otherwise: Decides on root spans that no rule is for.
    """
    # The parent decides whatever *otherwise* is: a trace that a rule began must not lose its inner spans to a ratio.
    return ParentBased(RuleSampler(rules, otherwise))


class RuleSampler(Sampler):
    """
    Decides by the first rule that matches, for server spans, and otherwise as another sampler does.

    Attributes:
        rules: Each with the sampler of its ratio.
        otherwise: The other sampler.
    """

    def __init__(self, rules: Sequence[Rule], otherwise: Sampler) -> None:
        self.rules = tuple((rule, TraceIdRatioBased(rule.ratio)) for rule in rules)
        self.otherwise = otherwise

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide; see `Sampler`."""
        sampler = self._for(attributes or {}) if kind is SpanKind.SERVER else self.otherwise
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def _for(self, attributes: Mapping[str, object]) -> Sampler:
        return next((sampler for rule, sampler in self.rules if rule.matches(attributes)), self.otherwise)

    def get_description(self) -> str:
        """Return the rules as they were written, and the other sampler."""
        return f"{', '.join(rule.text for rule, _ in self.rules)}, else {self.otherwise.get_description()}"
