"""
The dashboard, open: store, writer, receiver and page, in the order in which each needs the one before.

The store opens first and closes last, so whatever was acknowledged has a place to be.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from rsketch_telemetry.otlp.receiver import App, Receiver, ReceiverConfig, receive
from sanic import HTTPResponse, Request
from sanic.response import json

from rsketch_dashboard.api import add_api
from rsketch_dashboard.assets import add_assets
from rsketch_dashboard.config import HOST, DashboardConfig
from rsketch_dashboard.exchange import MOST_BYTES
from rsketch_dashboard.forward import Forward
from rsketch_dashboard.guard import guard
from rsketch_dashboard.ingest import Ingest
from rsketch_dashboard.live import Live, notice_json
from rsketch_dashboard.queries.desk import Desk
from rsketch_dashboard.store import Notice, Store
from rsketch_dashboard.store.schema import VERSION

__all__ = ["NAME", "Dashboard", "serve"]

NAME = "rsketch-dashboard"
_IDLE_CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Dashboard:
    """An open dashboard: where it listens, and `stopped`, which is set when it should close."""

    receiver: Receiver
    stopped: asyncio.Event

    @property
    def url(self) -> str:
        """Where the page is."""
        return self.receiver.http_endpoint


@asynccontextmanager
async def serve(config: DashboardConfig) -> AsyncIterator[Dashboard]:
    """
    Receive, keep and show telemetry while open.

    Raises:
        StoreError: The data file cannot be used.
        OSError: A port is taken.
    """
    async with AsyncExitStack() as stack:
        opening = _Opening(config)
        stack.callback(opening.store.close)
        if opening.forward is not None:
            stack.enter_context(opening.forward.running())
        stack.enter_context(opening.ingest.running())
        stack.enter_context(opening.desk.open())
        receiver = await stack.enter_async_context(
            receive(
                opening.ingest,
                ReceiverConfig(
                    host=HOST,
                    grpc_port=config.grpc_port,
                    http_port=config.http_port,
                    # For what is imported. A request of OTLP may have less, and one that has more is counted.
                    wire_bytes=MOST_BYTES,
                ),
                extend=opening.extend,
                refused=opening.ingest.malformed,
            )
        )
        opening.receiver = receiver
        # Before the receiver closes, which waits for what is under way: streams would be for ever.
        stack.callback(opening.live.end)
        watching = asyncio.create_task(opening.end_when_idle())
        stack.callback(watching.cancel)
        yield Dashboard(receiver, opening.stopped)


class _Opening:
    """The parts, and what they know of each other."""

    def __init__(self, config: DashboardConfig) -> None:
        self._config = config
        self._started_us = time.time_ns() // 1000
        self.receiver: Receiver | None = None
        self.stopped = asyncio.Event()
        self.store = Store(config.file, config.limits, self._notice)
        self.live = Live(lambda: self.store.contents().rows)
        self.forward = Forward(config.forward) if config.forward else None
        self.ingest = Ingest(self.store, (self.live, self.forward) if self.forward else (self.live,))
        self.desk = Desk(self.store)
        self._active = time.monotonic()

    def _notice(self, notice: Notice) -> None:
        # What is said while the store opens has no listener yet; the page reads it with the status.
        if hasattr(self, "live"):
            self.live.notice(notice)

    def extend(self, app: App) -> None:
        """Add the page to the app of the receiver."""
        guard(app)
        add_assets(app)
        add_api(app, self.desk, self.live, self.status, self.ingest.handle)
        app.add_route(self._identity, "/-/identity", name="identity")
        app.add_route(self._stop, "/-/stop", methods=["POST"], name="stop")

    async def end_when_idle(self) -> None:
        """Set `stopped` after a time without telemetry and without a page that listens."""
        received = self.ingest.counts.received.total()
        while self._config.idle_seconds:
            await asyncio.sleep(min(_IDLE_CHECK_SECONDS, self._config.idle_seconds))
            now = time.monotonic()
            if self.live.listeners or self.ingest.counts.received.total() != received:
                received, self._active = self.ingest.counts.received.total(), now
            elif now - self._active >= self._config.idle_seconds:
                self.stopped.set()
                return

    def status(self) -> dict[str, Any]:
        """Return what is known of the dashboard itself."""
        contents, counts, limits = self.store.contents(), self.ingest.counts, self._config.limits
        queued, most = self.ingest.queued
        return {
            "version": version(NAME),
            "now_us": time.time_ns() // 1000,
            "started_us": self._started_us,
            "file": str(self._config.file),
            **contents.rows,
            "bytes": contents.bytes,
            "limits": {
                "spans": limits.spans,
                "logs": limits.logs,
                "points": limits.points,
                "bytes": limits.bytes,
                "hours": limits.hours,
            },
            "received": {
                "spans": counts.received["traces"],
                "logs": counts.received["logs"],
                "points": counts.received["metrics"],
            },
            "dropped": {name: contents.dropped.get(name, 0) for name in contents.rows},
            "refused": counts.refused,
            "rejected": counts.rejected.total(),
            "malformed": counts.malformed,
            "duplicates": contents.duplicates,
            "queue": {"bytes": queued, "limit": most},
            "forward": self._forwarded(),
            "notices": [notice_json(notice) for notice in tuple(self.store.notices)],
            "endpoints": self._endpoints(),
        }

    def _forwarded(self) -> dict[str, Any] | None:
        if self.forward is None:
            return None
        counts = self.forward.counts
        return {"to": self.forward.endpoint, "sent": counts.sent, "dropped": counts.dropped, "error": counts.error}

    def _endpoints(self) -> dict[str, str]:
        """Return where it listens; nothing in the moment before that is known, in which the port answers already."""
        if self.receiver is None:
            return {}
        return {"grpc": self.receiver.grpc_endpoint, "http": self.receiver.http_endpoint}

    async def _identity(self, _: Request) -> HTTPResponse:
        where = self._endpoints()
        if not where:
            return json({"error": "the dashboard is starting"}, 503)
        about = {"name": NAME, "version": version(NAME), "pid": os.getpid(), "schema": VERSION}
        return json({**about, "url": where["http"], "grpc": where["grpc"]})

    async def _stop(self, _: Request) -> HTTPResponse:
        self.stopped.set()
        return json({"stopping": os.getpid()})
