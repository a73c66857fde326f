"""The HTTP suite: its process models and who is run in them."""

from collections.abc import Mapping
from pathlib import Path

from truth.frame import Column
from truth.http.cases import CASES
from truth.http.programs import PROGRAMS
from truth.subjects import OURS, SDK, contrib, plugin
from truth.suite import Suite

__all__ = ["HTTP"]

_PROGRAM = ("-m", "truth.http.serve")
_ALL = frozenset({"ours", "contrib", "plugin"})
_SANIC = frozenset({"ours", "plugin"})

_FEW = frozenset(
    {
        "plain",
        "parameter",
        "stream",
        "not found",
        "method not allowed",
        "early answer of a middleware",
        "defect",
        "4xx exception",
        "returned 503",
        "secrets in the query",
        "baggage",
        "excluded path",
    }
)
_OVER_SOCKETS = _FEW | {
    "exception after the first chunk",
    "pipelining",
    "client leaves while it waits",
    "websocket",
    "websocket whose client vanishes",
}


def _beside(_port: int, _folder: Path) -> Mapping[str, str]:
    """Let every instrumentor that is installed be loaded; ours has to see to it that each call is recorded once."""
    return {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ""}


def _hello(_port: int, _folder: Path) -> Mapping[str, str]:
    # What is excluded by default is what is looked at.
    return {"RSKETCH_HTTP_PORT": "0", "RSKETCH_GRPC_PORT": "0", "OTEL_PYTHON_EXCLUDED_URLS": ""}


HTTP = Suite(
    protocol="http",
    cases=CASES + PROGRAMS,
    subjects={"ours": OURS, "sdk": SDK, "contrib": contrib(), "plugin": plugin("sanic")},
    columns=(
        Column(
            name="single process",
            about="Sanic's own server in one process.",
            program=(*_PROGRAM, "single"),
            subjects=_SANIC,
        ),
        Column(
            name="two workers",
            about="Sanic's worker manager with two workers.",
            program=(*_PROGRAM, "workers"),
            processes=2,
            subjects=_SANIC,
            cases=_OVER_SOCKETS | {"a worker is killed"},
        ),
        Column(name="uvicorn", about="Sanic as an ASGI application.", program=(*_PROGRAM, "uvicorn"), subjects=_ALL),
        Column(
            name="sanic-testing",
            about="Requests by sanic-testing's client, which serves around each.",
            program=(*_PROGRAM, "testing"),
            subjects=_SANIC,
            cases=_FEW,
        ),
        Column(
            name="sanic-testing ASGI",
            about="Requests by sanic-testing's client without sockets.",
            program=(*_PROGRAM, "testing-asgi"),
            subjects=_SANIC,
            cases=_FEW,
        ),
        Column(
            name="instrumented before the app",
            about="The program instruments itself and then makes its application.",
            program=(*_PROGRAM, "before"),
            launched=False,
            subjects=_SANIC,
            cases=_OVER_SOCKETS,
        ),
        Column(
            name="instrumented after the app",
            about="The program makes its application and then instruments itself.",
            program=(*_PROGRAM, "after"),
            launched=False,
            # The third party's says that it has to come before.
            cases=_OVER_SOCKETS,
        ),
        Column(
            name="beside others",
            about="Contrib's and the third party's packages are installed, and none is disabled.",
            program=(*_PROGRAM, "single"),
            cases=_OVER_SOCKETS,
            environ=_beside,
        ),
        Column(
            name="Hello",
            about="`rsketch server` with both its services.",
            program=("rsketch", "server"),
            command=True,
            environ=_hello,
            bare_environ={"OTEL_SDK_DISABLED": "true"},
            announces=r"\bhttp +http://127\.0\.0\.1:(\d+)",
            cases=frozenset(case.name for case in PROGRAMS),
        ),
        Column(
            name="the shop",
            about="The example shop: a web application and a warehouse that know nothing of us.",
            program=("-m", "truth.http.shop"),
            launched=False,
            # It asks for the stock of each of its three items.
            starts_with={"CLIENT": 3, "SERVER": 3},
            cases=frozenset(case.name for case in PROGRAMS),
        ),
    ),
)
