"""What a missing program means for a test: on a laptop a skip that names it, with CI set a failure."""

import os
from collections.abc import Generator

import pytest
from kube.toolchain import ToolMissing


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    """Skip a test whose fixtures need what is not there."""
    yield from _skipping()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Skip a test that needs what is not there."""
    yield from _skipping()


def _skipping() -> Generator[None, None, None]:
    try:
        yield
    except ToolMissing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))
