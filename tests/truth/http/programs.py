"""Cases of two whole programs that were not written for this suite: Hello with both services, and the example shop."""

import json

from truth.frame import ABSENT, Call, Case, Expectation, Plain, Run
from truth.http.wire import fetch

__all__ = ["PROGRAMS"]

_GREETER = "rsketch.hello.v1.HelloService"
_STOCK = "corner.stock.v1.Stock"
_JSON = [("content-type", "application/json")]
_ORDER: Plain = {"lines": [{"item": 1, "pieces": 2}, {"item": 2, "pieces": 1}]}
_REFUSED: Plain = {"lines": [{"item": 1, "pieces": 0}]}


def _http(code: str, route: str | None, method: str = "GET") -> Call:
    name = f"{method} {route}" if route else method
    return Call(code=code, name=name, attributes={"http.route": route or ABSENT})


def _rpc(kind: str, method: str, code: str = "OK", error: str = "") -> Call:
    errors = frozenset({error} if error else ())
    return Call(kind=kind, code=code, name=method, attributes={"rpc.method": method}, error=errors)


def _both(method: str, code: str = "OK", error: str = "") -> tuple[Call, Call]:
    """Return both sides of one RPC; for its client every status but OK is an error."""
    return _rpc("CLIENT", method, code, "" if code == "OK" else code), _rpc("SERVER", method, code, error)


def _case(program: str, name: str, about: str, target: str, calls: tuple[Call, ...], body: Plain = None) -> Case:
    async def client(run: Run) -> Plain:
        if body is None:
            return await fetch(run, target)
        return await fetch(run, target, "POST", _JSON, json.dumps(body).encode())

    return Case(
        name=f"{program}: {name}",
        about=about,
        client=client,
        expect=Expectation(calls=calls),
        only_in=frozenset({program}),
    )


_HELLO = (
    _case(
        "Hello",
        "a greeting",
        "One HTTP request, one RPC on both its sides, one trace.",
        "/api/v1/hello?name=ada",
        (_http("200", "/api/v1/hello"), *_both(f"{_GREETER}/Hello")),
    ),
    _case(
        "Hello",
        "a stream of greetings",
        "The stream of the one is the stream of the other.",
        "/api/v1/hello/stream?name=ada&count=2",
        (_http("200", "/api/v1/hello/stream"), *_both(f"{_GREETER}/HelloStream")),
    ),
    _case(
        "Hello",
        "no name",
        "What the greeter calls an invalid argument is a 400; only the call's client sees an error.",
        "/api/v1/hello?name=",
        (_http("400", "/api/v1/hello"), *_both(f"{_GREETER}/Hello", "INVALID_ARGUMENT")),
    ),
    _case("Hello", "no such path", "404 without a route.", "/nothing", (_http("404", None),)),
    _case("Hello", "health", "Health endpoints have no telemetry.", "/livez", ()),
)

_SHOP = (
    _case("the shop", "catalog", "A list.", "/catalog", (_http("200", "/catalog"),)),
    _case(
        "the shop",
        "no such item",
        "404 by the application has its route.",
        "/catalog/9",
        (_http("404", "/catalog/<item_id:int>"),),
    ),
    _case(
        "the shop",
        "an order",
        "A stream in both directions behind a request.",
        "/orders",
        (_http("201", "/orders", "POST"), *_both(f"{_STOCK}/Reserve")),
        body=_ORDER,
    ),
    _case(
        "the shop",
        "a refused order",
        "The warehouse refuses, the customer gets a 422; only the call's client sees an error.",
        "/orders",
        (_http("422", "/orders", "POST"), *_both(f"{_STOCK}/Reserve", "INVALID_ARGUMENT")),
        body=_REFUSED,
    ),
    _case(
        "the shop",
        "an order without lines",
        "400 before any call.",
        "/orders",
        (_http("400", "/orders", "POST"),),
        body={},
    ),
)

PROGRAMS: tuple[Case, ...] = (*_HELLO, *_SHOP)
