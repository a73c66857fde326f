"""How problems leave: as `application/problem+json`, whatever went wrong and wherever in Sanic it did."""

import logging
from typing import Any

from opentelemetry import trace
from sanic import HTTPResponse, Request
from sanic.exceptions import ServiceUnavailable
from sanic.handlers import ErrorHandler
from sanic.response import json as json_response

from rsketch_http import problems
from rsketch_http.errors import RefusedError
from rsketch_http.problems import Problem
from rsketch_http.protocol import body_is_missing

__all__ = ["ProblemHandler", "problem_document", "problem_response"]

_log = logging.getLogger(__name__)


class ProblemHandler(ErrorHandler):
    """Sanic's last resort for every exception, its own ones included."""

    def default(self, request: Request, exception: Exception) -> HTTPResponse:
        """Return the problem response for *exception*; log it with its traceback where it is a fault of ours."""
        problem = problems.from_exception(_in_time(request, exception))
        if problem.unexpected:
            _log.error("unhandled exception in %s", _where(request), exc_info=exception)
        return problem_response(request, problem)


def problem_response(request: Request, problem: Problem) -> HTTPResponse:
    """Return the response for *problem*."""
    return json_response(
        _document(request, problem),
        status=problem.status,
        headers=dict(problem.headers),
        content_type=problems.CONTENT_TYPE,
    )


def problem_document(request: Request, exception: BaseException) -> dict[str, Any]:
    """Return the document for *exception*, for a response that has already begun."""
    return _document(request, problems.from_exception(exception))


def _document(request: Request, problem: Problem) -> dict[str, Any]:
    # For a head that could not be read Sanic makes up a request with the method NONE.
    instance = None if request.method == "NONE" else request.path
    return problem.document(instance=instance, trace_id=_trace_id())


def _trace_id() -> str | None:
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def _in_time(request: Request, exception: Exception) -> Exception:
    # Sanic counts the body as part of the response and would blame itself for a body that never came.
    if isinstance(exception, ServiceUnavailable) and body_is_missing(request):
        return RefusedError(408, "The body did not arrive in time.")
    return exception


def _where(request: Request) -> str:
    # The route and not the path: a path is the caller's text, and the query may hold secrets.
    return f"{request.method} /{request.route.path}" if request.route else "a request without a route"
