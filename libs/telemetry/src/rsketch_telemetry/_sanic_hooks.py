"""
Where Sanic is hooked: methods that every request passes, whatever serves it.

`Sanic.handle_request` returns when the response's last byte was given to the transport, for plain and streamed
responses, Sanic's own server and ASGI; it is the span, and what the transport still holds then is waited for.
`Sanic.handle_exception` is told each exception. Where a head cannot be read neither is called for a request, and
`Http.error_response` is the span. Two more methods tell that a websocket was accepted. At start-up Sanic's TouchUp
recompiles some of these from their source, so the hooks are taken off before it runs and put on again after. Lifecycle
signals are not used: under ASGI most of them are never dispatched.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from sanic import Sanic
from sanic.asgi import ASGIApp
from sanic.compat import Header
from sanic.exceptions import RequestCancelled, SanicException
from sanic.handlers import ErrorHandler
from sanic.http import Http
from sanic.http.constants import Stage
from sanic.request import Request
from sanic.response import BaseHTTPResponse
from sanic.server.protocols.websocket_protocol import WebSocketProtocol
from sanic.server.websockets.connection import WebSocketConnection
from sanic.touchup import TouchUp

from rsketch_telemetry import _sanic_head, _sanic_request, _sanic_trace_headers
from rsketch_telemetry._context import attach, current, detach
from rsketch_telemetry._once import Once
from rsketch_telemetry._sanic_answers import Answers
from rsketch_telemetry._sanic_arrival import Arrivals
from rsketch_telemetry._sanic_departure import Departure
from rsketch_telemetry._sanic_patch import Patch
from rsketch_telemetry._sanic_served import Begun, Served
from rsketch_telemetry._sanic_unsent import Unsent
from rsketch_telemetry.facts import HttpOutcome, HttpRequest, error_name
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.recorder import Recorder
from rsketch_telemetry.telemetry import serving

__all__ = ["Parent", "SanicHooks"]

_App = Sanic[Any, Any]
_HandleRequest = Callable[[_App, Request], Awaitable[None]]
_HandleException = Callable[..., Awaitable[None]]
_ErrorResponse = Callable[[Http, Exception], Awaitable[None]]
Parent = Callable[[Header], Context]

_tuple: Any = tuple.__new__
"""Makes a named tuple in half the time that its class takes."""
_STREAM = Begun._fields.index("stream")


class SanicHooks:
    """
    The hooks, and the requests in flight.

    Args:
        parent: Returns the context of a request's caller.
    """

    def __init__(self, recorder: Recorder, settings: InstrumentorSettings, parent: Parent) -> None:
        self._recorder = recorder
        self._settings = settings
        self._parent_context = parent
        self._answers = Answers(settings)
        self._exclusions = [pattern.search for pattern in settings.excluded_urls]
        self._active = False
        self._failed = Once("a Sanic request could not be recorded; this is said once")
        self._begun: dict[int, Begun] = {}
        self._served: dict[int, Served] = {}
        self._arrivals = Arrivals(self._safely)
        self._reader = _sanic_request.RequestReader(settings, self._arrivals)
        self._unsent = Unsent(self._safely, self._arrivals.lost)
        self._recompiled = (
            Patch(Sanic, "handle_request", self._around_request),
            Patch(Sanic, "handle_exception", self._around_exception),
            self._arrivals.patch,
        )
        self._others = [
            Patch(TouchUp, "run", self._around_touch_up),
            Patch(ErrorHandler, "log", self._around_log),
            Patch(Http, "error_response", self._around_error_response),
            Patch(WebSocketProtocol, "websocket_handshake", self._around_handshake),
            Patch(WebSocketConnection, "accept", self._around_accept),
            *self._unsent.patches,
        ]
        if settings.response_trace_headers:
            self._others.append(Patch(BaseHTTPResponse, "processed_headers", self._around_headers))

    def install(self) -> None:
        """Put the hooks on, for applications that exist and for those to come."""
        self._active = True
        try:
            for patch in (*self._others, *self._recompiled):
                patch.apply()
        except Exception:
            # All or nothing: what begins a record without what ends it is worse than neither.
            self.remove()
            raise

    def remove(self) -> None:
        """Take the hooks off. Connections that are open hold on to theirs, which do nothing from now on."""
        self._active = False
        for patch in (*self._others, *self._recompiled):
            patch.undo()
        self._unsent.clear()

    def _around_touch_up(self, original: Any) -> Any:
        def run(cls: type[TouchUp], app: _App) -> None:
            for patch in self._recompiled:
                patch.undo()
            try:
                original.__get__(None, cls)(app)
            finally:
                if self._active:
                    for patch in self._recompiled:
                        patch.apply()
                    serving()

        return classmethod(functools.wraps(original.__func__)(run))

    def _around_request(self, original: _HandleRequest) -> _HandleRequest:
        @functools.wraps(original)
        async def handle_request(app: _App, request: Request) -> None:
            begun = self._begin(request)
            if begun is None:
                await original(app, request)
                return
            token = attach(begun[0].inner)
            try:
                await original(app, request)
            except BaseException as error:
                self._left(request, error)
                raise
            else:
                self._answered(request, begun)
            finally:
                try:
                    detach(token)
                except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the request
                    self._failed()

        return handle_request

    def _around_exception(self, original: _HandleException) -> _HandleException:
        @functools.wraps(original)
        async def handle_exception(
            app: _App,
            request: Request,
            exception: BaseException,
            run_middleware: bool = True,  # noqa: FBT001, FBT002 - as Sanic calls it
        ) -> None:
            served = self._of(request)
            if served is not None:
                self._safely(served.caught, exception)
            if served is None or not served.answered_later:
                await original(app, request, exception, run_middleware)
                return
            # The server's own answer to what left handle_request. Where this fails, another try follows or the
            # connection ends, and with it the request.
            token = attach(served.call.inner)
            try:
                await original(app, request, exception, run_middleware)
                self._answered_oddly(served)
            finally:
                self._safely(detach, token)

        return handle_exception

    def _around_error_response(self, original: _ErrorResponse) -> _ErrorResponse:
        @functools.wraps(original)
        async def error_response(stream: Http, exception: Exception) -> None:
            served = self._begin_unread(stream, exception)
            if served is None:
                await original(stream, exception)
                return
            token = attach(served.call.inner)
            try:
                await original(stream, exception)
            except BaseException as error:
                self._end(served, error)
                raise
            else:
                self._end(served)
            finally:
                self._safely(detach, token)

        return error_response

    def _around_log(self, original: Any) -> Any:
        def log(request: Request, exception: Exception) -> None:
            # The one place that is told what a websocket handler raised.
            served = self._of(request)
            if served is not None:
                self._safely(served.websocket_failed, exception)
            original.__func__(request, exception)

        return staticmethod(functools.wraps(original.__func__)(log))

    def _around_handshake(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def websocket_handshake(protocol: WebSocketProtocol, request: Request, *how: Any, **more: Any) -> Any:
            websocket = await original(protocol, request, *how, **more)
            self._upgraded(request)
            return websocket

        return websocket_handshake

    def _around_accept(self, original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(original)
        async def accept(connection: WebSocketConnection, *how: Any, **more: Any) -> None:
            await original(connection, *how, **more)
            self._safely(self._accepted, connection)

        return accept

    def _around_headers(self, original: property) -> property:
        assert original.fget is not None
        given = original.fget

        @functools.wraps(given)
        def processed_headers(response: BaseHTTPResponse) -> Iterable[tuple[bytes, bytes]]:
            return (*given(response), *self._trace_headers(response))

        return property(processed_headers)

    def _trace_headers(self, response: BaseHTTPResponse) -> Iterable[tuple[bytes, bytes]]:
        begun = self._begun.get(id(getattr(response.stream, "request", None)))
        if begun is None:
            return ()
        try:
            return _sanic_trace_headers.pairs(self._settings.response_trace_headers, begun.call.inner, response.headers)
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the request
            self._failed()
            return ()

    def _begin(self, request: Request) -> Begun | None:
        """Start the record of a request; None where it is to have none, or already has one."""
        try:
            # In most contexts there is nothing at all, and so nothing that suppresses instrumentation.
            if not self._active or id(request) in self._begun or not (not current() or is_instrumentation_enabled()):
                return None
            try:
                path = request.path
            except (AttributeError, UnicodeDecodeError):
                path = _sanic_request.path_as_sent(request)
            for excludes in self._exclusions:
                if excludes(path):
                    return None
            try:
                parent_of = self._parent_context
                parent = parent_of(request.headers)
            except Exception:  # noqa: BLE001 - a propagator that fails costs a request its parent, never its record
                parent = self._no_parent()
            stream: Any = request.stream
            facts = self._reader.read(request, path, stream)
            call = self._recorder.http_server(facts, parent)
            begun: Begun = _tuple(Begun, (call, facts, request, stream))
            self._begun[id(request)] = begun
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the request
            self._failed()
            return None
        if type(stream) is not Http:
            self._safely(self._watch, request)
        return begun

    def _of(self, request: Request | None) -> Served | None:
        """Return what is known of a request in flight, which is kept from now on; None for any other."""
        at = id(request)
        served = self._served.get(at)
        if served is None and at in self._begun:
            served = self._served[at] = Served(self._begun[at], self._answers)
        return served

    def _watch(self, request: Request) -> None:
        stream: Any = request.stream
        # A websocket's handler is told by itself.
        if isinstance(stream, ASGIApp) and stream.ws is None and (served := self._of(request)) is not None:
            served.watched(Departure(stream, lambda: self._end(served, RequestCancelled())))

    def _begin_unread(self, stream: Any, exception: Exception) -> Served | None:
        """Start the record of a request whose head cannot be read; None for any other, or for one that stopped."""
        if not (self._active and is_instrumentation_enabled()) or isinstance(exception, RequestCancelled):
            return None
        try:
            if stream.stage is not Stage.REQUEST or stream.request is not None:
                return None
            head = _sanic_head.read(stream.recv_buffer)
            if self._settings.excludes_url(head.path):
                return None
            waited = self._arrivals.waited_seconds(stream)
            facts = _sanic_head.http_request(head, stream, self._settings, waited)
            return self._start_unread(stream, facts, head.headers)
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the request
            self._failed()
            return None

    def _start_unread(self, stream: Http, facts: HttpRequest, headers: Header) -> Served | None:
        call = self._recorder.http_server(facts, self._parent(headers))
        try:
            # As Sanic does next.
            stream.create_empty_request()
        except SanicException as error:
            # On a target that is no URL: Sanic fails in the same way, and closes the connection without an answer.
            call.finish(HttpOutcome(status_code=None, error_type=error_name(error)))
            return None
        self._begun[id(stream.request)] = Begun(call, facts, stream.request, stream)
        return self._of(stream.request)

    def _parent(self, headers: Header) -> Context:
        try:
            return self._parent_context(headers)
        except Exception:  # noqa: BLE001 - as above
            return self._no_parent()

    def _no_parent(self) -> Context:
        self._failed()
        return Context()

    def _accepted(self, _: object) -> None:
        self._upgraded(Request._current.get(None))

    def _upgraded(self, request: Request | None) -> None:
        served = self._of(request)
        if served is not None:
            self._safely(served.upgraded, self._recorder)

    def _left(self, request: Request, error: BaseException) -> None:
        """End the record of a request that *error* ends, unless the server goes on to answer it."""
        served = self._of(request)
        if served is None:
            return
        try:
            task = asyncio.current_task() if served.will_be_answered(error) else None
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the request
            self._failed()
            task = None
        if task is None:
            self._end(served, error)
            return

        def over(_: object) -> None:
            self._end(served)

        task.add_done_callback(over)
        # The task may be that of a connection, with many more requests to come.
        served.expected(functools.partial(task.remove_done_callback, over))

    def _answered(self, request: Request, begun: Begun) -> None:
        """End the record of a request that was answered, at once or when the transport is rid of the answer."""
        try:
            if id(request) not in self._served:
                outcome = self._answers.plain(request, begun[_STREAM])
                if outcome is not None:
                    # It may have ended with its client, before the handler was through.
                    if self._begun.pop(id(request), None) is begun:
                        begun[0].finish(outcome)
                    return
            served = self._of(request)
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the request
            self._failed()
            self._begun.pop(id(request), None)
            return
        if served is not None:
            self._answered_oddly(served)

    def _answered_oddly(self, served: Served) -> None:
        """Do so for a request of which there is more to say."""
        try:
            protocol = served.answered()
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the request
            self._failed()
            protocol = None
        if protocol is None:
            self._end(served)
        elif self._take(served):
            self._unsent.add(protocol, served)

    def _end(self, served: Served, error: BaseException | None = None) -> None:
        if self._take(served):
            self._safely(functools.partial(served.end, self._recorder), error)

    def _take(self, served: Served) -> bool:
        """Return whether a request was in flight, which from now on it is not."""
        at = id(served.request)
        if self._served.get(at) is not served:
            return False
        del self._served[at], self._begun[at]
        if served.let_go is not None:
            served.let_go()
            served.let_go = None
        return True

    def _safely(self, act: Callable[[Any], None], argument: object) -> None:
        try:
            act(argument)
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the request
            self._failed()
