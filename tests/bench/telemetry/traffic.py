"""
What the clients of the measured services send: whole HTTP requests, as bytes that a real client would send.

Ids, query values and trace contexts differ from request to request, so that no cache makes a figure that it would not
make in service. The same seed gives the same requests.
"""

import random
from collections.abc import Callable, Mapping, Sequence

__all__ = ["IDS", "ROUTES", "requests"]

IDS = 1000
"""Different requests before they repeat."""
ROUTES = 1000
"""Of the application that has many."""

_HEAD = (
    "GET {path} HTTP/1.1\r\n"
    "Host: api.example.com\r\n"
    "User-Agent: python-httpx/0.28.1\r\n"
    "Accept: */*\r\n"
    "Accept-Encoding: gzip, deflate\r\n"
    "Connection: keep-alive\r\n"
    "{more}\r\n"
)

Path = Callable[[int], str]


def requests(kind: str, *, traced: bool = False, seed: int = 1) -> Sequence[bytes]:
    """
    Return the requests of a kind, in the order in which they are sent, again and again.

    Args:
        kind: A key of `_PATHS`.
        traced: Whether each comes with the `traceparent` of a trace of its own.
        seed: Of whatever differs.
    """
    choose = random.Random(seed)
    order = list(range(IDS))
    choose.shuffle(order)
    path = _PATHS[kind]
    return [_request(path(number), _traceparent(choose) if traced else "") for number in order]


def _request(path: str, more: str) -> bytes:
    return _HEAD.format(path=path, more=more).encode()


def _traceparent(choose: random.Random) -> str:
    return f"traceparent: 00-{choose.getrandbits(128):032x}-{choose.getrandbits(64):016x}-01\r\n"


_PATHS: Mapping[str, Path] = {
    "hello": lambda number: "/hello",
    "users": lambda number: f"/users/{100_000 + 7 * number}",
    "query": lambda number: f"/users/{100_000 + 7 * number}?page={number % 20}&sort=name&token=s{number * 7919}",
    "missing": lambda number: f"/nowhere/{100_000 + 7 * number}",
    "failing": lambda number: f"/failing/{100_000 + 7 * number}",
    "annotated": lambda number: f"/annotated/{100_000 + 7 * number}",
    "catalog": lambda number: f"/catalog/{1 + number % 3}",
    "greeting": lambda number: f"/api/v1/hello?name=visitor{number}",
    "routes": lambda number: f"/route{number % ROUTES}/{100_000 + 7 * number}",
}
