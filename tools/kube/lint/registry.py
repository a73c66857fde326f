"""The rules by name, and how they are run on a unit."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from kube.lint.finding import Fault, Finding
from kube.lint.unit import Unit
from kube.objects import Object, mapping

__all__ = ["RULES", "WAIVER", "Rule", "lint", "rule"]

Check = Callable[[Unit], Iterable[Fault]]

# An annotation `lint.rsketch/<rule>: <reason>` on an object says why that rule does not hold for it. It silences the
# findings whose subject, the last word of what was found, the reason mentions.
WAIVER = "lint.rsketch/"
_WORD = re.compile(r"[\w.-]+")
# How it ends when a rule meets a value of another type than the schema has: a text for a number, a list for a name.
_MISREAD = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
# What a reason need not repeat.
_NOTHING = {"false", "none", "nothing", "true"}


@dataclass(frozen=True, slots=True)
class Rule:
    """
    One thing that manifests must keep to.

    Attributes:
        name: What findings call it.
        summary: What it asks for, in a sentence.
        check: Yields what breaks it.
        house: Whether it is a custom of this repository, which other people's manifests need not share.
    """

    name: str
    summary: str
    check: Check
    house: bool


RULES: dict[str, Rule] = {}


def rule(name: str, *, house: bool = False) -> Callable[[Check], Check]:
    """Register a function as the rule *name*; the first line of its docstring is what the rule asks for."""

    def register(check: Check) -> Check:
        assert name not in RULES, name
        RULES[name] = Rule(name, (check.__doc__ or "").strip().splitlines()[0], check, house)
        return check

    return register


def lint(unit: Unit, names: Collection[str] = ()) -> list[Finding]:
    """Return what is wrong in *unit*, by the rules in *names* or, without any, by all that apply to it."""
    rules = [RULES[name] for name in names] or [each for each in RULES.values() if unit.house or not each.house]
    faults = [(each.name, fault) for each in rules for fault in _faults(unit, each)]
    waived = {(id(fault.thing), name) for name, fault in faults if _is_waived(name, fault)}
    standing = {Finding.of(name, fault) for name, fault in faults if not _is_waived(name, fault)}
    return sorted(standing | set(_idle_waivers(unit, waived, {each.name for each in rules})))


def _faults(unit: Unit, each: Rule) -> list[Fault]:
    try:
        return list(each.check(unit))
    except _MISREAD as error:
        found = f"what cannot be read ({type(error).__name__}: {error})"
        return [Fault(_culprit(unit, each), "the object", found, "types that its schema, or its program, accepts")]


def _culprit(unit: Unit, each: Rule) -> Object:
    """Return the object with which a rule can no longer read what there is."""
    things, own = [*unit.objects, *unit.neighbours], len(unit.objects)
    for number, thing in enumerate(things, 1):
        try:
            list(each.check(replace(unit, objects=things[:number][:own], neighbours=things[own:number])))
        except _MISREAD:
            return thing
    raise AssertionError(each.name)


def _is_waived(name: str, fault: Fault) -> bool:
    reason = mapping(fault.thing, "metadata", "annotations").get(f"{WAIVER}{name}")
    if reason is None:
        return False
    subject = _WORD.findall(fault.found.lower())[-1:]
    return bool(str(reason).strip()) and all(word in _NOTHING or word in str(reason).lower() for word in subject)


def _idle_waivers(unit: Unit, waived: set[tuple[int, str]], names: set[str]) -> Iterator[Finding]:
    """Yield the waivers that silence nothing: they are misspelt, or left over."""
    for thing in unit.objects:
        for key, reason in mapping(thing, "metadata", "annotations").items():
            name = key.removeprefix(WAIVER)
            if key.startswith(WAIVER) and (name in names or name not in RULES) and (id(thing), name) not in waived:
                expected = "a rule that finds something here, and a reason that mentions what it finds"
                yield Finding.of("waiver", Fault(thing, f"metadata.annotations[{key}]", repr(reason), expected))
