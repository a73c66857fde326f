"""The page that shows the OpenAPI document: our own files, nothing loaded from elsewhere."""

from importlib.resources import files

from sanic import HTTPResponse, Request
from sanic.response import raw

__all__ = ["DocsPage"]

_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class DocsPage:
    """Handlers of `/docs`; the files are read once, when the app is made."""

    def __init__(self) -> None:
        pages = files("rsketch_http") / "pages"
        self._page, self._script, self._style = (
            (pages / name).read_bytes() for name in ("docs.html", "docs.js", "docs.css")
        )

    async def page(self, request: Request) -> HTTPResponse:
        """Answer with the page."""
        return raw(self._page, content_type="text/html; charset=utf-8", headers=_HEADERS)

    async def script(self, request: Request) -> HTTPResponse:
        """Answer with its script."""
        return raw(self._script, content_type="text/javascript; charset=utf-8", headers=_HEADERS)

    async def style(self, request: Request) -> HTTPResponse:
        """Answer with its style sheet."""
        return raw(self._style, content_type="text/css; charset=utf-8", headers=_HEADERS)
