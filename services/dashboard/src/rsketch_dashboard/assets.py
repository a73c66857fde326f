"""The page's files: read once, sent as they are, and compared by ETag."""

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable

from rsketch_telemetry.otlp.receiver import App
from sanic import HTTPResponse, Request
from sanic.response import raw

__all__ = ["PAGES", "add_assets"]

PAGES = ("/", "/traces", "/t/<trace:str>", "/map", "/metrics", "/logs", "/compare", "/doctor", "/sql")
"""The paths of the page's views; the page itself tells them apart."""

_READING = ("GET", "HEAD")
_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}


def add_assets(app: App) -> None:
    """Serve the page at each of its paths, and its files below /assets."""
    web = files("rsketch_dashboard") / "web"
    page = _answer(web / "index.html")
    for number, path in enumerate(PAGES):
        app.add_route(page, path, methods=_READING, name=f"page-{number}")
    for folder, prefix in ((web, ""), (web / "vendor", "vendor/")):
        for file in folder.iterdir():
            if file.is_file() and file.name != "index.html":
                app.add_route(
                    _answer(file), f"/assets/{prefix}{file.name}", methods=_READING, name=f"asset-{prefix}{file.name}"
                )


def _answer(file: Traversable):  # type: ignore[no-untyped-def]  # Sanic leaves its handlers without a type
    content, kind = file.read_bytes(), _TYPES[file.name.rpartition(".")[2]]
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"etag": tag, "cache-control": "no-cache"}

    async def answer(request: Request, **_: str) -> HTTPResponse:
        if request.headers.get("if-none-match") == tag:
            return HTTPResponse(status=304, headers=headers)
        return raw(content, content_type=kind, headers=headers)

    return answer
