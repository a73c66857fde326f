"""The shapes that go in and out as JSON or as a query, and their checks."""

import re
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from rsketch_http.errors import RefusedError

__all__ = ["Greeting", "Health", "HelloBody", "ProblemDocument", "StreamQuery", "parse_body", "parse_query"]

_INTERVAL = re.compile(r"(?P<number>\d{1,6}(?:\.\d{1,9})?)(?P<unit>ms|s)?")
_MAX_INTERVAL_SECONDS = 86400.0
_MAX_FIELDS = 10

Model = TypeVar("Model", bound=BaseModel)


def _interval(raw: object) -> float:
    found = _INTERVAL.fullmatch(str(raw))
    value = float(found["number"]) * (0.001 if found["unit"] == "ms" else 1.0) if found else -1.0
    if not 0 <= value <= _MAX_INTERVAL_SECONDS:
        raise PydanticCustomError("interval", "Input should be a duration of at most one day such as 1, 0.5s or 250ms")
    return value


def _optional(description: str, *, pattern: str | None = None) -> Any:
    # Such a member is left out, never null or empty: it has no default that a document could show.
    return Field(
        default=None, description=description, pattern=pattern, json_schema_extra=lambda schema: schema.pop("default")
    )


class HelloBody(BaseModel):
    """What to POST."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(description="Whom to greet.")


class StreamQuery(BaseModel):
    """The query of a stream; what the greeting service allows it decides itself."""

    name: str = ""
    count: int = Field(default=3, ge=0, le=2**32 - 1)
    interval: Annotated[float, BeforeValidator(_interval)] = 1.0


class Greeting(BaseModel):
    """A greeting."""

    message: str = Field(description='The greeting, for example "Hello, ada!".')


class Health(BaseModel):
    """That the process answers; says nothing about what it depends on."""

    status: str = Field(description='"ok".')
    service: str = Field(description='"rsketch-http".')
    timestamp: datetime
    version: str = _optional("Only where it is switched on.")


class ProblemDocument(BaseModel):
    """A problem (RFC 9457)."""

    type: str = Field(description='"about:blank": the status says it all.')
    title: str = Field(description="Name of the HTTP status.")
    status: int = Field(description="The HTTP status.", ge=400, le=599)
    detail: str = Field(description="What happened, for people.")
    instance: str = _optional("Path of the request.")
    trace_id: str = _optional("The trace to look for.", pattern="^[0-9a-f]{32}$")
    fields: dict[str, str] = _optional("What is wrong with each named part of the input.")


def parse_body(model: type[Model], body: bytes) -> Model:
    """
    Return *body*, which must be JSON, as *model*.

    Raises:
        RefusedError: 400, it is not JSON; 422, it has another shape, with the fields named.
    """
    try:
        return model.model_validate_json(body or b" ")
    except ValidationError as error:
        if any(item["type"] == "json_invalid" for item in error.errors(include_url=False, include_context=False)):
            raise RefusedError(400, "The body is not valid JSON.") from None
        raise _refusal(422, "body", error) from None


def parse_query(model: type[Model], query: dict[str, Any]) -> Model:
    """
    Return *query* as *model*.

    Raises:
        RefusedError: 400, with the parameters named.
    """
    try:
        return model.model_validate(query)
    except ValidationError as error:
        raise _refusal(400, "query", error) from None


def _refusal(status: int, part: str, error: ValidationError) -> RefusedError:
    # Neither the input nor the context is repeated: a value may be a secret that was put into the wrong field.
    found = error.errors(include_url=False, include_context=False, include_input=False)
    fields = {".".join(map(str, item["loc"])) or part: item["msg"] for item in found[:_MAX_FIELDS]}
    said = "; ".join(f"{name}: {message}" for name, message in fields.items())
    return RefusedError(status, f"The {part} is not as expected: {said}.", fields)
