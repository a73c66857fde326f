"""A line for whoever waits."""

import sys

__all__ = ["say"]


def say(text: str) -> None:
    """Write a line that is no part of the result."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
