"""What the OpenAPI document says; sanic-ext builds it from the routes and from this, and serves it at /openapi.json."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from sanic import Request, Sanic
from sanic.response import BaseHTTPResponse
from sanic_ext import Extend
from sanic_ext.extensions.http.extension import HTTPExtension
from sanic_ext.extensions.openapi.builders import OperationBuilder, OperationStore, SpecificationBuilder
from sanic_ext.extensions.openapi.definitions import Component
from sanic_ext.extensions.openapi.extension import OpenAPIExtension
from sanic_ext.extensions.openapi.types import Schema as SanicSchema

from rsketch_http import problems
from rsketch_http.models import Greeting, Health, HelloBody, ProblemDocument

__all__ = [
    "DOCS",
    "HEALTH",
    "HEALTH_TEXT",
    "HEALTH_V1",
    "HELLO",
    "HELLO_STREAM",
    "LIVEZ",
    "POST_HELLO",
    "READYZ",
    "Operation",
    "describe",
    "extend",
]

# sanic-ext ships types, but has none for these.
Schema: Callable[..., Any] = SanicSchema
_operations: Callable[[], Any] = OperationStore

_ANYWHERE = (400, 408, 413, 500, 503)
_UPSTREAM = tuple(sorted({*problems.GRPC_STATUSES.values()}))
_TITLE = "rsketch"
_DESCRIPTION = "Greets people, by asking a gRPC service. Every error is a problem document (RFC 9457)."


class _Extend(Extend):
    def _display(self) -> None:
        """Say nothing: it would log a banner, and look for pages that are switched off."""


def extend(app: Sanic[Any, Any], cors_origins: tuple[str, ...]) -> None:
    """Give *app* the OpenAPI document and, where there are origins, CORS, both by sanic-ext."""
    # Both are global and collect what is described: the document is that of the app made last.
    resets: tuple[Callable[[], None], ...] = (OperationStore.reset, SpecificationBuilder.reset)
    for reset in resets:
        reset()
    SpecificationBuilder().describe(_TITLE, version("rsketch-http"), _DESCRIPTION)
    # Chosen one by one: the rest would add a signal to each request, pages of a public CDN, HEAD of streams.
    extensions: list[Any] = [OpenAPIExtension, *([HTTPExtension] if cors_origins else [])]
    _Extend(app, built_in_extensions=False, extensions=extensions, config=_settings(cors_origins))
    if cors_origins:
        app.register_middleware(_vary, "response")


async def _vary(request: Request, response: BaseHTTPResponse) -> None:
    # sanic-ext says so only to origins that are allowed; a cache must not give their answers' absence to others.
    response.headers["vary"] = "origin"


def _settings(cors_origins: tuple[str, ...]) -> dict[str, Any]:
    return {
        "oas_url_prefix": "",
        "oas_autodoc": False,
        "oas_ui_default": None,
        "oas_ui_redoc": False,
        "oas_ui_swagger": False,
        "cors_origins": list(cors_origins) if cors_origins != ("*",) else "*",
        "cors_always_send": False,
        "cors_allow_headers": ["content-type", "traceparent", "tracestate", "baggage"],
        "cors_max_age": 600,
        "http_all_methods": False,
        "http_auto_head": False,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """
    What the document says about one route.

    Attributes:
        name: operationId.
        tag: The group that it is shown in.
        summary: One line.
        answer: Media type of the 200 response, and its schema or the model that has it.
        parameters: Arguments for `OperationBuilder.parameter`.
        body: Model of a required JSON body.
        problems: Statuses it may be refused with, besides those that any request may meet.
    """

    name: str
    tag: str
    summary: str
    answer: Mapping[str, Any]
    parameters: tuple[Mapping[str, Any], ...] = ()
    body: type[BaseModel] | None = None
    problems: tuple[int, ...] = ()


_NAME = {
    "name": "name",
    "schema": Schema(type="string", example="ada"),
    "required": True,
    "description": "Whom to greet; neither empty nor blank.",
}
_COUNT = {
    "name": "count",
    "schema": Schema(type="integer", minimum=1, default=3),
    "required": False,
    "description": "How many greetings; the greeting service limits it.",
}
_INTERVAL = {
    "name": "interval",
    "schema": Schema(type="string", default="1s", example="250ms"),
    "required": False,
    "description": "The pause between two greetings: seconds, or a number with s or ms.",
}
_TEXT = Schema(type="string")
_STATUS = Schema(type="object", properties={"status": _TEXT})
_EVENTS = Schema(
    type="string",
    description="Events whose data is a Greeting; an event named error, whose data is a ProblemDocument, ends a stream "
    "that fails after it has begun.",
)

HELLO = Operation(
    name="hello",
    tag="greeting",
    summary="Greet somebody",
    answer={"application/json": Greeting},
    parameters=(_NAME,),
    problems=_UPSTREAM,
)
POST_HELLO = Operation(
    name="postHello",
    tag="greeting",
    summary="Greet somebody, named in a body",
    answer={"application/json": Greeting},
    body=HelloBody,
    problems=(*_UPSTREAM, 415, 422),
)
HELLO_STREAM = Operation(
    name="helloStream",
    tag="greeting",
    summary="Greet somebody several times, as server-sent events",
    answer={"text/event-stream": _EVENTS},
    parameters=(_NAME, _COUNT, _INTERVAL),
    problems=_UPSTREAM,
)
HEALTH_TEXT = Operation(name="healthText", tag="health", summary="Say OK", answer={"text/plain": _TEXT})
HEALTH = Operation(name="health", tag="health", summary="Say OK, who and when", answer={"application/json": Health})
HEALTH_V1 = Operation(
    name="healthV1", tag="health", summary="Say OK, who and when", answer={"application/json": Health}
)
LIVEZ = Operation(
    name="livez", tag="health", summary="Whether the process answers at all", answer={"application/json": _STATUS}
)
READYZ = Operation(
    name="readyz",
    tag="health",
    summary="Whether this process should be sent requests: 503 while it starts, drains, or cannot reach what it needs",
    answer={"application/json": _STATUS},
)
DOCS = Operation(name="docs", tag="documentation", summary="This document as a page", answer={"text/html": _TEXT})


def describe(operation: Operation | None, handler: Callable[..., Any]) -> None:
    """Put *operation* into the document of the app that *handler* is being added to; None keeps it out of it."""
    builder: OperationBuilder = _operations()[handler]
    if operation is None:
        builder.exclude()
        return
    builder.name(operation.name)
    builder.describe(operation.summary)
    builder.tag(operation.tag)
    for parameter in operation.parameters:
        builder.parameter(**parameter)
    if operation.body is not None:
        builder.body({"application/json": Component(operation.body)}, required=True)
    content = {media: _schema(of) for media, of in operation.answer.items()}
    builder.response(200, content, "Answered.")
    _describe_problems(builder, {*operation.problems, *_ANYWHERE})


def _schema(of: Any) -> Any:
    return Component(of) if isinstance(of, type) else of


def _describe_problems(builder: OperationBuilder, statuses: Iterable[int]) -> None:
    document = Component(ProblemDocument)
    for status in sorted(statuses):
        builder.response(status, {problems.CONTENT_TYPE: document}, f"{problems.title(status)}.")
