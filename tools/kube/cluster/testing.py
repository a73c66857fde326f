"""What pytest needs to know about the mini cluster: whether these tests can run here."""

import os
from collections.abc import Mapping

import pytest

from kube.cluster.inside import is_inside

__all__ = ["require_inside"]

_COMMAND = "python -m kube.cluster.enter -- python -m pytest tests/infra/e2e"


def require_inside(environ: Mapping[str, str] = os.environ) -> None:
    """Skip the module that calls it, with one line, unless it runs inside `kube.cluster.enter`; with CI set, fail."""
    if is_inside(environ):
        return
    message = f"needs the mini cluster's namespaces; run: {_COMMAND}"
    if environ.get("CI"):
        raise RuntimeError(message)
    pytest.skip(message, allow_module_level=True)
