"""
The pytest plugin: the fixture `telemetry`.

pytest loads it wherever rsketch-telemetry is installed, so it imports nothing but pytest until the fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rsketch_telemetry.testing._captured import Captured

__all__ = ["telemetry"]


@pytest.fixture
def telemetry() -> Iterator[Captured]:
    """What Sanic and grpc.aio record during the test: spans, points and logs; see `rsketch_telemetry.testing`."""
    from rsketch_telemetry.testing import capture

    with capture() as captured:
        yield captured
