"""
What schemas do not see: whether the objects of a deployment fit each other, and do what they are there for.

A rule is a function that takes a `Unit` and yields faults; the modules hold the rules by topic. They read manifests and
nothing else, so they judge anybody's; the house rules among them are customs of this repository.
"""

from kube.lint import (  # noqa: F401 - each registers its rules
    backends,
    collector,
    customs,
    environment,
    images,
    ports,
    rbac,
    reach,
    receiving,
    references,
    resources,
    security,
    selectors,
    volumes,
)
from kube.lint.finding import Fault, Finding
from kube.lint.registry import RULES, Rule, lint, rule
from kube.lint.unit import Unit

__all__ = ["RULES", "Fault", "Finding", "Rule", "Unit", "lint", "rule"]
