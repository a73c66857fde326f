"""
Chromium, and what no page of the dashboard may do in it: ask anybody else for anything, complain, or open a dialog.

The asynchronous API of Playwright: the synchronous one keeps an event loop running, beside which no other test of the
same run could have one.
"""

import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    WebError,
    async_playwright,
    expect,
)

__all__ = ["VIEWS", "Visit", "Watch", "browsing", "chromium", "visiting"]

VIEWS = {
    "/": "Overview",
    "/traces": "Traces",
    "/map": "Map",
    "/metrics": "Metrics",
    "/logs": "Logs",
    "/compare": "Compare",
    "/doctor": "Doctor",
    "/sql": "SQL",
}
"""The views that the navigation offers: their paths and what they are called there."""

_ARGUMENTS = (
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Names do not resolve, so that nothing leaves this machine even where the listener below would miss it.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_VIOLATIONS = """
document.addEventListener('securitypolicyviolation',
  (event) => console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""
_DEADLINE_MS = 20_000


@dataclass
class Watch:
    """
    What pages did that they must not.

    Attributes:
        origin: The only one that may be asked.
        problems: One line each.
    """

    origin: str
    problems: list[str] = field(default_factory=list)
    _expected: list[re.Pattern[str]] = field(default_factory=list)

    @contextmanager
    def expecting(self, pattern: str) -> Iterator[None]:
        """
        Take no notice, while open, of problems in which *pattern* is found.

        Chromium itself writes an error to the console for each answer of 4xx and each refused connection, also where
        the page deals with it.
        """
        self._expected.append(re.compile(pattern))
        try:
            yield
        finally:
            self._expected.pop()

    def note(self, problem: str) -> None:
        """Keep a problem, unless it is expected."""
        if not any(pattern.search(problem) for pattern in self._expected):
            self.problems.append(problem)

    def attach(self, context: BrowserContext) -> None:
        """Watch every page of *context*."""
        # Playwright keeps something of its own on whose methods it calls: no slots.
        context.on("request", self._on_request)
        context.on("console", self._on_console)
        context.on("weberror", self._on_error)
        context.on("dialog", self._on_dialog)

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.origin}/", f"blob:{self.origin}/")):
            self.note(f"request to {request.url[:200]}")

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.note(f"console {message.type}: {message.text} ({message.location.get('url', '')})")

    def _on_error(self, error: WebError) -> None:
        self.note(f"page error: {error.error}")

    async def _on_dialog(self, dialog: Dialog) -> None:
        self.note(f"dialog: {dialog.message}")
        await dialog.dismiss()


def chromium(*, ci: bool | None = None) -> str:
    """
    Return the path of Chromium.

    Where there is none, skip the test with one line that says what to install; with *ci*, by default where `CI` is
    `true`, fail it: a build must not go green without the tests of the page.
    """
    ci = os.environ.get("CI") == "true" if ci is None else ci
    if found := shutil.which("chromium"):
        return found
    reason = "there is no Chromium: install the Debian package chromium"
    if ci:
        pytest.fail(reason, pytrace=False)
    print(f"\nSKIPPED browser test: {reason}", file=sys.__stderr__)
    pytest.skip(reason)


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """Run Chromium while open."""
    executable = chromium()
    expect.set_options(_DEADLINE_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            await browser.close()


@dataclass(slots=True)
class Visit:
    """
    A page of a dashboard, in a context of its own.

    Attributes:
        page: Not opened yet.
        watch: What it did that it must not.
        origin: The dashboard's.
    """

    page: Page
    watch: Watch
    origin: str

    async def open(self, path: str = "/", *, failing: bool = False) -> Page:
        """Open a view, and return when it has drawn the first answer; it may show an error if *failing*."""
        await self.page.goto(path)
        return await self._drawn(failing=failing)

    async def reload(self) -> Page:
        """Load the page again, and return as `open` does."""
        await self.page.reload()
        return await self._drawn()

    async def _drawn(self, *, failing: bool = False) -> Page:
        failure = self.page.locator(".bar.error")
        done = self.page.locator("main:not(:has(.skeleton, .plot-wait, .bars-wait)) h1")
        await done.or_(failure).first.wait_for(state="attached")
        assert failing or not await failure.count(), f"{self.page.url}: {await failure.inner_text()}"
        return self.page

    def query(self) -> dict[str, list[str]]:
        """Return what stands in the query string of the page."""
        return parse_qs(urlsplit(self.page.url).query)


@asynccontextmanager
async def visiting(browser: Browser, origin: str, **settings: Any) -> AsyncIterator[Visit]:
    """
    Open a page in a context of its own; fail at the end where it did what it must not.

    Args:
        browser: Chromium.
        origin: The dashboard's.
        settings: More of Playwright's `new_context`.
    """
    context = await browser.new_context(
        **{"base_url": origin, "viewport": {"width": 1280, "height": 800}, "timezone_id": "UTC", **settings}
    )
    watch = Watch(origin)
    watch.attach(context)
    context.set_default_timeout(_DEADLINE_MS)
    await context.add_init_script(_VIOLATIONS)
    try:
        yield Visit(await context.new_page(), watch, origin)
    finally:
        await context.close()
    assert not watch.problems, "\n".join(watch.problems[:20])
