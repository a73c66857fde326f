"""
Where Sanic is hooked: two methods of the application class that every request passes, whatever serves it.

`Sanic.handle_request` returns when the response's last byte was given to the transport, for plain and streamed
responses, Sanic's own server and ASGI; it is the span. `Sanic.handle_exception` is told each exception. At start-up
Sanic's TouchUp recompiles both from their source, so the hooks are taken off before it runs and put on again after.
Lifecycle signals are not used: under ASGI most of them are never dispatched.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from sanic import Sanic
from sanic.asgi import ASGIApp
from sanic.exceptions import MethodNotAllowed, RequestCancelled, SanicException
from sanic.handlers import ErrorHandler
from sanic.http import Http
from sanic.http.constants import Stage
from sanic.request import Request
from sanic.touchup import TouchUp

from rsketch_telemetry import _sanic_request
from rsketch_telemetry._once import Once
from rsketch_telemetry.facts import HttpOutcome, error_name
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.recorder import Call, Recorder

__all__ = ["CLIENT_DISCONNECTED", "SanicHooks"]

CLIENT_DISCONNECTED = "client_disconnected"
"""`error.type` of a request whose client left before it had the whole response."""

_App = Sanic[Any, Any]
_HandleRequest = Callable[[_App, Request], Awaitable[None]]
_HandleException = Callable[..., Awaitable[None]]


class SanicHooks:
    """
    The hooks, and the requests in flight.

    Args:
        extract: The global propagator's.
    """

    def __init__(self, recorder: Recorder, settings: InstrumentorSettings, extract: _sanic_request.Extract) -> None:
        self._recorder = recorder
        self._settings = settings
        self._extract = extract
        self._active = False
        self._failed = Once("a Sanic request could not be recorded; this is said once")
        self._served: dict[int, _Served] = {}
        self._touch_up = _Patch(TouchUp, "run", self._around_touch_up)
        self._methods = (
            _Patch(Sanic, "handle_request", self._around_request),
            _Patch(Sanic, "handle_exception", self._around_exception),
            _Patch(ErrorHandler, "log", self._around_log),
        )

    def install(self) -> None:
        """Put the hooks on, for applications that exist and for those to come."""
        self._active = True
        for patch in (self._touch_up, *self._methods):
            patch.apply()

    def remove(self) -> None:
        """Take the hooks off. Connections that are open hold on to theirs, which do nothing from now on."""
        self._active = False
        for patch in (self._touch_up, *self._methods):
            patch.undo()

    def _around_touch_up(self, original: Any) -> Any:
        def run(cls: type[TouchUp], app: _App) -> None:
            for patch in self._methods:
                patch.undo()
            try:
                original.__get__(None, cls)(app)
            finally:
                if self._active:
                    for patch in self._methods:
                        patch.apply()

        return classmethod(functools.wraps(original.__func__)(run))

    def _around_request(self, original: _HandleRequest) -> _HandleRequest:
        @functools.wraps(original)
        async def handle_request(app: _App, request: Request) -> None:
            served = self._begin(request)
            if served is None:
                await original(app, request)
                return
            token = context_api.attach(served.context)
            try:
                await original(app, request)
            except BaseException as error:
                self._left(served, error)
                raise
            else:
                self._end(served)
            finally:
                context_api.detach(token)

        return handle_request

    def _around_exception(self, original: _HandleException) -> _HandleException:
        @functools.wraps(original)
        async def handle_exception(
            app: _App,
            request: Request,
            exception: BaseException,
            run_middleware: bool = True,  # noqa: FBT001, FBT002 - as Sanic calls it
        ) -> None:
            served = self._served.get(id(request))
            if served is not None:
                self._safely(served.caught, exception)
            if served is None or not served.answered_later:
                await original(app, request, exception, run_middleware)
                return
            # The server's own answer to what left handle_request. Where this fails, another try follows or the
            # connection ends, and with it the request.
            token = context_api.attach(served.context)
            try:
                await original(app, request, exception, run_middleware)
                self._end(served)
            finally:
                context_api.detach(token)

        return handle_exception

    def _around_log(self, original: Any) -> Any:
        def log(request: Request, exception: Exception) -> None:
            # The one place that is told what a websocket handler raised.
            served = self._served.get(id(request))
            if served is not None:
                self._safely(served.websocket_failed, exception)
            original.__func__(request, exception)

        return staticmethod(functools.wraps(original.__func__)(log))

    def _begin(self, request: Request) -> "_Served | None":
        """Start the record of a request; None where it is to have none, or already has one."""
        if not self._active or id(request) in self._served or not is_instrumentation_enabled():
            return None
        try:
            if self._settings.excludes_url(_sanic_request.path(request)):
                return None
            facts = _sanic_request.http_request(request, self._settings)
            call = self._recorder.http_server(facts, self._parent(request))
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the request
            self._failed()
            return None
        served = self._served[id(request)] = _Served(request, call)
        return served

    def _parent(self, request: Request) -> Context:
        try:
            return _sanic_request.parent_context(request, self._extract)
        except Exception:  # noqa: BLE001 - a propagator that fails costs a request its parent, never its record
            self._failed()
            return Context()

    def _left(self, served: "_Served", error: BaseException) -> None:
        """End the record of a request that *error* ends, unless the server goes on to answer it."""
        if served.will_be_answered(error) and (task := asyncio.current_task()) is not None:
            served.answered_later = True
            task.add_done_callback(lambda _: self._end(served))
        else:
            self._end(served, error)

    def _end(self, served: "_Served", error: BaseException | None = None) -> None:
        if self._served.pop(id(served.request), None) is served:
            self._safely(served.end, error)

    def _safely(self, act: Callable[[Any], None], argument: object) -> None:
        try:
            act(argument)
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the request
            self._failed()


class _Served:
    """
    One request being served.

    Attributes:
        answered_later: It left `handle_request` unanswered, and the server answers through `handle_exception`.
    """

    def __init__(self, request: Request, call: Call[HttpOutcome]) -> None:
        self.request = request
        self.context: Context = call.context
        self.answered_later = False
        self._call = call
        # Kept, because Sanic cuts it from the request when it is through with it.
        self._stream: Any = request.stream
        self._exception: BaseException | None = None
        self._broken = False
        self._route_of_405: str | None = None

    def caught(self, exception: BaseException) -> None:
        """Remember what was raised: the last exception before the response begins, or else the first after."""
        if self._broken:
            return
        self._exception = exception
        self._broken = self._stage not in (None, Stage.HANDLER)
        if isinstance(exception, MethodNotAllowed) and self.request.route is None:
            self._route_of_405 = _sanic_request.other_methods_route(self.request, exception)

    def websocket_failed(self, exception: Exception) -> None:
        """Remember what a websocket's handler raised; errors of plain requests come through `caught`."""
        if self._upgraded:
            self._exception = exception
            self._broken = True

    def will_be_answered(self, error: BaseException) -> bool:
        """Return whether the server calls `handle_exception`, and may still send a response, after *error*."""
        if self._stage is not Stage.HANDLER or self._connection_lost or isinstance(error, RequestCancelled):
            return False
        if isinstance(self._stream, Http):
            open_ = self._stream.protocol.transport is not None
            return open_ and isinstance(error, Exception | asyncio.CancelledError)
        return isinstance(self._stream, ASGIApp) and isinstance(error, Exception)

    def end(self, error: BaseException | None) -> None:
        """End the record; *error* is what `handle_request` was left by, if the request ended with that."""
        self._call.end(self._outcome(error))

    def _outcome(self, error: BaseException | None) -> HttpOutcome:
        status, route = self._status, _sanic_request.route(self.request) or self._route_of_405
        exception = self._exception
        if error is not None and not (self._sent_whole and isinstance(error, asyncio.CancelledError)):
            if self._client_left(error):
                defect = exception if exception is not None and _is_defect(exception) else None
                return HttpOutcome(status_code=status, route=route, error_type=CLIENT_DISCONNECTED, exception=defect)
            # Sanic cancels a request that takes too long, and says why here.
            cause = getattr(self._stream, "exception", None) or error
            defect = cause if isinstance(cause, Exception) else exception
            return HttpOutcome(status_code=status, route=route, error_type=error_name(cause), exception=defect)
        if exception is None:
            return HttpOutcome(status_code=status, route=route)
        if self._broken or status is None:
            return HttpOutcome(status_code=status, route=route, error_type=error_name(exception), exception=exception)
        return HttpOutcome(status_code=status, route=route, exception=exception if status >= 500 else None)

    @property
    def _stage(self) -> Stage | None:
        return getattr(self._stream, "stage", None)

    @property
    def _status(self) -> int | None:
        """The status that was sent, which a middleware or an exception handler may have changed."""
        if self._upgraded:
            return 101
        response = getattr(self._stream, "response", None)
        return int(response.status) if response is not None and self._stage is not Stage.HANDLER else None

    @property
    def _sent_whole(self) -> bool:
        return self._status is not None and self._stage is Stage.IDLE

    @property
    def _upgraded(self) -> bool:
        """Whether this is a websocket that was accepted."""
        if isinstance(self._stream, ASGIApp):
            return self._stream.ws is not None and (self._exception is None or self._broken)
        protocol = getattr(self._stream, "protocol", None)
        return getattr(protocol, "websocket", None) is not None

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


class _Patch:
    """A replaced attribute of a class; *wrap* makes the replacement from what it replaces."""

    def __init__(self, owner: type, name: str, wrap: Callable[[Any], Any]) -> None:
        self._owner = owner
        self._name = name
        self._wrap = wrap
        self._original: Any = None
        self._replacement: Any = None

    def apply(self) -> None:
        current = vars(self._owner)[self._name]
        if current is not self._replacement:
            self._original = current
            self._replacement = self._wrap(current)
            setattr(self._owner, self._name, self._replacement)

    def undo(self) -> None:
        """Restore the original, unless somebody else has put theirs on top."""
        if self._replacement is not None and vars(self._owner)[self._name] is self._replacement:
            setattr(self._owner, self._name, self._original)
            self._replacement = None
