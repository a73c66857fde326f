"""What a rule reports."""

from dataclasses import dataclass

from kube.objects import Object, title

__all__ = ["Fault", "Finding"]


@dataclass(frozen=True, slots=True)
class Fault:
    """
    What is wrong at one place, as a rule yields it.

    Attributes:
        thing: The object.
        path: Where in it.
        found: What stands there.
        expected: What is accepted.
    """

    thing: Object
    path: str
    found: str
    expected: str


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """
    What is wrong at one place, and the rule that says so.

    Attributes:
        object: The object as `Kind namespace/name`.
        path: Where in it.
        rule: The rule's name.
        found: What stands there.
        expected: What is accepted.
    """

    object: str
    path: str
    rule: str
    found: str
    expected: str

    @classmethod
    def of(cls, rule: str, fault: Fault) -> "Finding":
        """Return the finding of *rule*."""
        return cls(title(fault.thing), fault.path, rule, fault.found, fault.expected)

    def __str__(self) -> str:
        return f"{self.object}: {self.rule}: {self.path}: found {self.found}, expected {self.expected}"
