"""In which order services are opened: one that another needs comes first. Closing is the reverse."""

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from rsketch.errors import StartError

__all__ = ["opening_order"]


def opening_order(needs: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """
    Return the keys of *needs* so that each comes after those it needs, otherwise by name.

    Args:
        needs: Names of the services that each service needs. One that is no key is not going to run and is skipped.

    Raises:
        StartError: They need each other in a circle.
    """
    sorter = TopologicalSorter({name: [need for need in needs[name] if need in needs] for name in sorted(needs)})
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " needs ".join(reversed(error.args[1]))
        raise StartError(f"services cannot be put in order: {circle}") from None
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order += ready
        sorter.done(*ready)
    return tuple(order)
