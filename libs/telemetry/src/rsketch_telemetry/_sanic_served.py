"""One request being served: what happens to it, and with which outcome that leaves it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from sanic.asgi import ASGIApp
from sanic.exceptions import MethodNotAllowed, RequestCancelled, SanicException
from sanic.http import Http
from sanic.http.constants import Stage
from sanic.request import Request
from sanic.server.protocols.base_protocol import SanicProtocol

from rsketch_telemetry import _sanic_request, semconv
from rsketch_telemetry._sanic_answers import Answers
from rsketch_telemetry._sanic_departure import Departure
from rsketch_telemetry.facts import Attributes, HttpOutcome, HttpRequest, error_name
from rsketch_telemetry.recorder import Call, Recorder

__all__ = ["CLIENT_DISCONNECTED", "Begun", "Served"]

CLIENT_DISCONNECTED = "client_disconnected"
"""`error.type` of a request whose client left before it had the whole response."""


class Begun(NamedTuple):
    """
    A request in flight.

    Attributes:
        facts: What was recorded of it.
        request: Sanic's, which is empty for one whose head could not be read.
        stream: Of the request; kept, because Sanic cuts it from the request when it is through with it.
    """

    call: Call[HttpOutcome]
    facts: HttpRequest
    request: Request
    stream: Any


class Served:
    """
    One request in flight, of which there is more to say than when it began and which answer it got.

    Args:
        answers: What most requests end with.

    Attributes:
        answered_later: It left `handle_request` unanswered, and the server answers through `handle_exception`.
        departure: Tells when the client leaves, where only an ASGI server knows.
        let_go: Takes back what was asked of somebody who outlives the request; None where nothing was.
    """

    def __init__(self, begun: Begun, answers: Answers) -> None:
        self.call, self._facts, self.request, self._stream = begun
        self.answered_later = False
        self.departure: Departure | None = None
        self.let_go: Callable[[], object] | None = None
        self._answers = answers
        self._exception: BaseException | None = None
        self._broken = False
        self._route_of_405: str | None = None
        self._websocket: Attributes | None = None
        self._answer: HttpOutcome | None = None

    def watched(self, departure: Departure) -> None:
        """Be told when the client leaves."""
        self.departure = departure

    def expected(self, let_go: Callable[[], object]) -> None:
        """Be ended later: with the server's answer to an error, or else by somebody whom *let_go* holds back."""
        self.answered_later = True
        self.let_go = let_go

    def caught(self, exception: BaseException) -> None:
        """Remember what was raised: the last exception before the response begins, or else the first after."""
        if self._broken:
            return
        self._exception = exception
        self._broken = self._stage not in (None, Stage.HANDLER)
        if isinstance(exception, MethodNotAllowed) and self.request.route is None:
            self._route_of_405 = _sanic_request.other_methods_route(self.request, exception)

    def upgraded(self, recorder: Recorder) -> None:
        """Count a websocket that was accepted, until the request ends."""
        if self._websocket is None:
            self._websocket = {semconv.URL_SCHEME: self._facts.kind.scheme}
            if route := _sanic_request.route(self.request):
                self._websocket[semconv.HTTP_ROUTE] = route
            recorder.in_flight(semconv.RSKETCH_WEBSOCKETS, 1, self._websocket)

    def websocket_failed(self, exception: Exception) -> None:
        """Remember what a websocket's handler raised; errors of plain requests come through `caught`."""
        if self._websocket is not None:
            self._exception = exception
            self._broken = True

    def will_be_answered(self, error: BaseException) -> bool:
        """Return whether the server calls `handle_exception`, and may still send a response, after *error*."""
        if self._stage is not Stage.HANDLER or self._connection_lost:
            return False
        if isinstance(self._stream, Http):
            # What Sanic raises where the client has left, an application may raise for its own reasons.
            transport = self._stream.protocol.transport
            open_ = transport is not None and not transport.is_closing()
            return open_ and isinstance(error, Exception | asyncio.CancelledError)
        return isinstance(self._stream, ASGIApp) and isinstance(error, Exception)

    def end(self, recorder: Recorder, error: BaseException | None) -> None:
        """End the record; *error* is what `handle_request` was left by, if the request ended with that."""
        if self.departure is not None:
            self.departure.stop()
        if self._websocket is not None:
            recorder.in_flight(semconv.RSKETCH_WEBSOCKETS, -1, self._websocket)
        self.call.finish(self._outcome(error))

    def answered(self) -> SanicProtocol | None:
        """
        Keep how the request went, before its connection goes on to another.

        Returns:
            The connection, if it still holds so much of the response that it takes no more; None otherwise.
        """
        protocol = getattr(self._stream, "protocol", None)
        if not isinstance(protocol, SanicProtocol) or protocol._can_write.is_set() or self._websocket is not None:
            return None
        self._answer = self._outcome(None)
        return protocol

    def sent(self, failure: str | None) -> None:
        """End the record of a request that was `answered`, whose bytes have gone now, or never will for *failure*."""
        answer = self._answer or self._outcome(None)
        self.call.finish(replace(answer, error_type=answer.error_type or failure))

    def _outcome(self, error: BaseException | None) -> HttpOutcome:
        error_type, exception = self._failure(error)
        return HttpOutcome(
            status_code=self._status,
            route=_sanic_request.route(self.request) or self._route_of_405,
            error_type=error_type,
            exception=exception,
            headers=self._response_headers(),
        )

    def _failure(self, error: BaseException | None) -> tuple[str | None, BaseException | None]:
        """Return `error.type` where the status alone does not say it, and the exception to record."""
        exception = self._exception
        if error is not None and not (self._sent_whole and isinstance(error, asyncio.CancelledError)):
            if self._client_left(error):
                return CLIENT_DISCONNECTED, exception if exception is not None and _is_defect(exception) else None
            # Sanic cancels a request that takes too long, and says why here.
            cause = getattr(self._stream, "exception", None) or error
            return error_name(cause), cause if isinstance(cause, Exception) else exception
        if exception is None:
            return None, None
        status = self._status
        if self._broken or status is None:
            return error_name(exception), exception
        return None, exception if status >= 500 else None

    @property
    def _stage(self) -> Stage | None:
        return getattr(self._stream, "stage", None)

    @property
    def _status(self) -> int | None:
        """The status that was sent, which a middleware or an exception handler may have changed."""
        if self._websocket is not None:
            return 101
        stream = self._stream
        if getattr(stream, "stage", None) is Stage.HANDLER:
            # Nothing was sent. Sanic fails when it is to refuse a websocket under ASGI, which the server then does.
            refused = isinstance(stream, ASGIApp) and stream.ws is not None and self.answered_later
            return 500 if refused else None
        response = getattr(stream, "response", None)
        return int(response.status) if response is not None else None

    def _response_headers(self) -> Attributes | None:
        response = getattr(self._stream, "response", None)
        if response is None or self._stage is Stage.HANDLER:
            return None
        return self._answers.headers(response)

    @property
    def _sent_whole(self) -> bool:
        return self._status is not None and self._stage is Stage.IDLE

    @property
    def _connection_lost(self) -> bool:
        return bool(self.request.conn_info and self.request.conn_info.lost)

    def _client_left(self, error: BaseException) -> bool:
        """Return whether the connection was lost and not cut by the server, which says why or forgets its transport."""
        if getattr(self._stream, "exception", None) is not None:
            return False
        if isinstance(error, RequestCancelled):
            return True
        protocol = getattr(self._stream, "protocol", None)
        return self._connection_lost and getattr(protocol, "transport", None) is not None


def _is_defect(exception: BaseException) -> bool:
    """Return whether an exception is more than a way to say a 4xx."""
    return not (isinstance(exception, SanicException) and (exception.status_code or 500) < 500)
