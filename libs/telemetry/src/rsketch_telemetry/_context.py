"""
The current context by the shortest way: that of the API's own runtime context, where it is the one in use.

Three functions of the API are as many as six calls, with every call that is recorded.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext

__all__ = ["attach", "current", "detach"]


def _shortest() -> tuple[Callable[[], Context], Callable[[Context], Any], Callable[[Any], None]]:
    runtime = context_api._RUNTIME_CONTEXT
    variable = getattr(runtime, "_current_context", None)
    if type(runtime) is ContextVarsRuntimeContext and isinstance(variable, ContextVar):
        return variable.get, variable.set, variable.reset
    return context_api.get_current, context_api.attach, context_api.detach


current, attach, detach = _shortest()
"""As `get_current`, `attach` and `detach` of the API; but `detach` may raise where the API says so in a line."""
