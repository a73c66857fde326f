"""Tests of the delay before a worker is replaced."""

from rsketch.backoff import Backoff


def test_delay_doubles_up_to_its_limit() -> None:
    """Workers that die one after the other are replaced more and more slowly."""
    backoff = Backoff()

    delays = [backoff.after(1.0) for _ in range(8)]

    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_a_healthy_life_resets_the_delay() -> None:
    """A worker that served for a while is replaced at once."""
    backoff = Backoff()
    for _ in range(5):
        backoff.after(0.0)

    assert backoff.after(30.0) == 0.2
    assert backoff.after(1.0) == 0.4
