"""A steady stream of greetings, each in a trace of its own whose id is known beforehand."""

import secrets
import threading
import time
from collections.abc import Callable
from types import TracebackType

import httpx

__all__ = ["Load", "traceparent"]


def traceparent(trace: str) -> dict[str, str]:
    """Return the header that puts a call into a trace (W3C Trace Context), below a span of the caller's."""
    return {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}


class Load:
    """
    Calls the HTTP service from a thread until it is left.

    Args:
        address: Returns `host:port` of the service; asked for each call, as pods come and go.
        rate: Calls a second.
        method: GET or POST; which of them a test takes tells its calls from others in the metrics.

    Attributes:
        answered: Trace ids of the calls that were answered with 200.
        failed: What became of each other call.
    """

    def __init__(self, address: Callable[[], str], rate: float, method: str = "GET") -> None:
        self.answered: list[str] = []
        self.failed: list[str] = []
        self._address = address
        self._method = method
        self._pause = 1 / rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(15)

    def _run(self) -> None:
        due = time.monotonic()
        with httpx.Client(timeout=10.0) as client:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due += self._pause
                self._call(client)

    def _call(self, client: httpx.Client) -> None:
        trace = secrets.token_hex(16)
        headers = traceparent(trace)
        url, name, is_get = f"http://{self._address()}/api/v1/hello", {"name": "ada"}, self._method == "GET"
        try:
            answer = (
                client.get(url, params=name, headers=headers)
                if is_get
                else client.post(url, json=name, headers=headers)
            )
        except httpx.HTTPError as error:
            self.failed.append(repr(error))
            return
        if answer.status_code == httpx.codes.OK:
            self.answered.append(trace)
        else:
            self.failed.append(f"{answer.status_code} {answer.text}")
