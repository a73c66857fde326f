"""Tests of the order in which services are opened."""

import pytest
from rsketch import StartError
from rsketch.ordering import opening_order


def test_needed_services_come_first() -> None:
    """A chain is opened from its end."""
    assert opening_order({"a": ["b"], "b": ["c"], "c": []}) == ("c", "b", "a")


def test_independent_services_are_ordered_by_name() -> None:
    """The order does not depend on how the services were found."""
    assert opening_order({"z": [], "m": [], "a": []}) == opening_order({"a": [], "m": [], "z": []}) == ("a", "m", "z")


def test_a_need_that_does_not_run_is_skipped() -> None:
    """A service may run without another that it would use."""
    assert opening_order({"http": ["grpc", "cache"], "cache": []}) == ("cache", "http")


def test_a_circle_is_named() -> None:
    """The message shows the way around."""
    with pytest.raises(StartError, match=r"^services cannot be put in order: (\w) needs \w needs \w needs \1$"):
        opening_order({"a": ["b"], "b": ["c"], "c": ["a"]})
