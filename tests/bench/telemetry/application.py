"""The HTTP service that is measured: answers of a few bytes, so that telemetry's share is as large as it gets."""

from typing import Any

from opentelemetry import trace
from sanic import HTTPResponse, Request, Sanic
from sanic.config import Config
from sanic.response import text

from bench.telemetry.traffic import ROUTES

__all__ = ["App", "create_app"]

App = Sanic[Any, Any]


class BrokenError(Exception):
    """What the failing handler raises."""


def create_app(*, many_routes: bool = False) -> App:
    """
    Create the app, with settings of its own only: none of the environment.

    Args:
        many_routes: Whether it has a thousand routes beside.
    """
    config = Config(env_prefix=None)
    config.update({"ACCESS_LOG": False, "AUTO_EXTEND": False, "LOG_EXTRA": False, "MOTD": False})
    app: App = Sanic("measured", config=config, configure_logging=False)
    app.add_route(hello, "/hello")
    app.add_route(user, "/users/<user_id:int>")
    app.add_route(failing, "/failing/<user_id:int>")
    app.add_route(annotated, "/annotated/<user_id:int>")
    for number in range(ROUTES) if many_routes else ():
        app.add_route(user, f"/route{number}/<user_id:int>", name=f"route{number}")
    return app


async def hello(_: Request) -> HTTPResponse:
    """Answer a constant."""
    return text("Hello, world!")


async def user(_: Request, user_id: int) -> HTTPResponse:
    """Answer something that differs."""
    return text(f"user {user_id}")


async def failing(_: Request, user_id: int) -> HTTPResponse:
    """Raise what nobody handles."""
    raise BrokenError(f"user {user_id} cannot be shown")


async def annotated(_: Request, user_id: int) -> HTTPResponse:
    """Say something about the request on its span, as a program does; without telemetry that is a call for nothing."""
    span = trace.get_current_span()
    span.set_attribute("app.user.id", user_id)
    span.set_attribute("app.user.plan", "premium")
    return text(f"user {user_id}")
