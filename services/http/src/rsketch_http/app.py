"""The Sanic app: every route in one table, errors as problems, nothing of it started or opened."""

from collections.abc import Callable
from typing import Any

from sanic import Sanic
from sanic.config import Config

from rsketch_http import openapi
from rsketch_http.config import HttpConfig
from rsketch_http.docs import DocsPage
from rsketch_http.greeting import GreetingApi
from rsketch_http.health import HealthApi
from rsketch_http.openapi import Operation
from rsketch_http.protocol import HeadRequest
from rsketch_http.readiness import Readiness
from rsketch_http.responses import ProblemHandler
from rsketch_http.upstream import Upstream

__all__ = ["create_app"]

_GET = ("GET", "HEAD")

Route = tuple[str, tuple[str, ...], Callable[..., Any], Operation | None]


def create_app(config: HttpConfig, upstream: Upstream, readiness: Readiness) -> Sanic[Any, Any]:
    """
    Create the app; it is in Sanic's registry until `Sanic.unregister_app` takes it out.

    Args:
        config: How it answers.
        upstream: Whom it asks.
        readiness: What its readiness endpoint answers.
    """
    app = Sanic(
        "rsketch_http",
        config=_sanic_config(config),
        configure_logging=False,
        error_handler=ProblemHandler(),
        request_class=HeadRequest,
        strict_slashes=True,
    )
    app.ctx.max_body_bytes = config.max_body_bytes
    openapi.extend(app, config.cors_origins)
    for path, methods, handler, operation in _routes(config, upstream, readiness):
        _add(app, path, methods, handler, operation)
    return app


def _routes(config: HttpConfig, upstream: Upstream, readiness: Readiness) -> list[Route]:
    greeting = GreetingApi(config, upstream)
    health = HealthApi(readiness, with_version=config.health_version)
    docs = DocsPage()
    return [
        ("/api/v1/hello", _GET, greeting.hello, openapi.HELLO),
        ("/api/v1/hello", ("POST",), greeting.post_hello, openapi.POST_HELLO),
        ("/api/v1/hello/stream", ("GET",), greeting.hello_stream, openapi.HELLO_STREAM),
        ("/health", _GET, health.health_text, openapi.HEALTH_TEXT),
        ("/api/health", _GET, health.health, openapi.HEALTH),
        ("/api/v1/health", _GET, health.health_v1, openapi.HEALTH_V1),
        ("/livez", _GET, health.livez, openapi.LIVEZ),
        ("/readyz", _GET, health.readyz, openapi.READYZ),
        ("/docs", _GET, docs.page, openapi.DOCS),
        ("/docs/docs.js", _GET, docs.script, None),
        ("/docs/docs.css", _GET, docs.style, None),
    ]


def _add(
    app: Sanic[Any, Any], path: str, methods: tuple[str, ...], handler: Callable[..., Any], operation: Operation | None
) -> None:
    # Bodies are read with any method: Sanic would else complain in the log about each GET that has one.
    name = handler.__name__
    app.add_route(handler, path, methods=methods, name=name, ignore_body=False)
    openapi.describe(operation, handler)


def _sanic_config(config: HttpConfig) -> Config:
    # An empty prefix keeps Sanic from reading SANIC_* variables, which would bypass the checks of our settings.
    made = Config(env_prefix="")
    made.update(
        ACCESS_LOG=False,
        AUTO_EXTEND=False,
        KEEP_ALIVE_TIMEOUT=config.keep_alive_seconds,
        LOG_EXTRA=False,
        MOTD=False,
        REQUEST_TIMEOUT=config.request_timeout_seconds,
        RESPONSE_TIMEOUT=config.response_timeout_seconds,
    )
    return made
