"""The page in a real Chromium: first paint, from the end of a span to the screen, a large trace, and its size."""

import gzip
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rsketch_dashboard
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: TID251 - anybody's program
from opentelemetry.sdk.resources import Resource  # noqa: TID251 - likewise
from opentelemetry.sdk.trace import TracerProvider  # noqa: TID251 - likewise
from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: TID251 - likewise
from playwright.sync_api import Browser, sync_playwright

from bench.dashboard.load import sender
from bench.dashboard.started import Dashboard
from bench.dashboard.traffic import wide_trace
from bench.figures import Figure, Goal
from bench.process import HOST

__all__ = ["assets", "figures"]

_DELAY_MS = 300
"""How long `rsketch server` lets spans wait where the dashboard is: the exporter's schedule delay."""
_WIDE = 10_000
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
_SEEN = """
(words) => { window.seen = new Promise((resolve) => {
  const look = () => document.getElementById('main').textContent.includes(words) && resolve(Date.now());
  new MutationObserver(look).observe(document.body, { childList: true, subtree: true, characterData: true });
  look();
}); }
"""
_ROWS = """
new MutationObserver((_, watching) => {
  if (document.querySelectorAll('[role=treegrid] [role=row]').length > 5) {
    watching.disconnect();
    requestAnimationFrame(() => { window.drawn = performance.now(); });
  }
}).observe(document, { childList: true, subtree: true });
"""
# The page's policy forbids what Playwright's own waiting does: to evaluate text.
_WHEN = (
    "async () => {{ for (;;) {{ const at = {}; if (at) return at; await new Promise((go) => setTimeout(go, 5)); }} }}"
)
_PAINT = _WHEN.format("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
_DRAWN = _WHEN.format("window.drawn")
_ANSWERED = "performance.getEntriesByType('resource').find((one) => one.name.includes('/api/trace/')).responseEnd"


def figures(dashboard: Dashboard, repeats: int) -> list[Figure]:
    """Return what was measured; without a browser, that there is none."""
    browser_path = shutil.which("chromium")
    wide = f"trace of {_WIDE:,} spans"
    names = ("first paint", "span end to screen", f"{wide}, drawn", f"{wide}, opened")
    if browser_path is None:
        return [Figure(name=name, values=(), unit="ms", about="no Chromium here") for name in names]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=_ARGUMENTS)
        try:
            paint = [_first_paint(browser, dashboard) for _ in range(repeats)]
            screen = list(_screen(browser, dashboard, repeats))
            drawn = list(_drawn(browser, dashboard, repeats))
        finally:
            browser.close()
    late = f"an SDK that sends every {_DELAY_MS} ms"
    return [
        Figure(name=names[0], values=paint, unit="ms", goal=Goal(500), about="first-contentful-paint of /"),
        Figure(name=names[1], values=screen, unit="ms", goal=Goal(1000), about=late),
        Figure(
            name=names[2], values=[at - data for at, data in drawn], unit="ms", goal=Goal(500), about="from its data"
        ),
        Figure(name=names[3], values=[at for at, _ in drawn], unit="ms", about="from the start of the navigation"),
    ]


def assets() -> Figure:
    """Return what a browser loads for the page, compressed; licences are not loaded."""
    files = [path for path in (Path(rsketch_dashboard.__file__).parent / "web").rglob("*") if path.is_file()]
    loaded = [path for path in files if "LICENSE" not in path.name and path.name != "vendor.json"]
    size = sum(len(gzip.compress(path.read_bytes(), 9)) for path in loaded) / 1024
    return Figure(name="assets, gzip", values=[size], unit="KB", goal=Goal(60), about=f"{len(loaded)} files")


def _first_paint(browser: Browser, dashboard: Dashboard) -> float:
    page = browser.new_page()
    try:
        page.goto(f"http://{HOST}:{dashboard.http_port}/")
        return float(page.evaluate(_PAINT))
    finally:
        page.close()


def _screen(browser: Browser, dashboard: Dashboard, repeats: int) -> Iterator[float]:
    page = browser.new_page()
    try:
        page.goto(f"http://{HOST}:{dashboard.http_port}/traces")
        page.wait_for_selector("tbody tr")
        with _exporting(dashboard) as provider:
            tracer = provider.get_tracer("bench")
            for at in range(repeats):
                # Not in step with the exporter, which wakes every 300 ms.
                time.sleep(0.5 + 0.077 * (at % 10))
                name = f"seen-{at}-{time.time_ns():x}"
                page.evaluate(_SEEN, name)
                tracer.start_span(name).end()
                ended = time.time() * 1000
                yield float(page.evaluate("window.seen")) - ended
    finally:
        page.close()


@contextmanager
def _exporting(dashboard: Dashboard) -> Iterator[TracerProvider]:
    exporter = OTLPSpanExporter(endpoint=f"http://{HOST}:{dashboard.grpc_port}", insecure=True)
    provider = TracerProvider(resource=Resource.create({"service.name": "bench"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_DELAY_MS))
    try:
        yield provider
    finally:
        provider.shutdown()


def _drawn(browser: Browser, dashboard: Dashboard, repeats: int) -> Iterator[tuple[float, float]]:
    """Yield when the trace is drawn and when its data is there, milliseconds from the start of the navigation."""
    trace_id = time.time_ns().to_bytes(16)
    send = sender("grpc", dashboard.grpc_port, "traces")
    for body in wide_trace(trace_id, _WIDE, time.time_ns()):
        send(body)
    for _ in range(repeats):
        page = browser.new_page()
        try:
            page.add_init_script(_ROWS)
            page.goto(f"http://{HOST}:{dashboard.http_port}/t/{trace_id.hex()}")
            yield float(page.evaluate(_DRAWN)), float(page.evaluate(_ANSWERED))
        finally:
            page.close()
