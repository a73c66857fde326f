from collections.abc import Iterator

import pytest
from recording import checked


@pytest.fixture(autouse=True)
def _checked() -> Iterator[None]:
    """Check what a test records against the telemetry contract, also where it leaves its recording open."""
    with checked():
        yield
