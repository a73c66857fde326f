"""What the page is made of: small, its own, and served so that nothing else can get in."""

import gzip
import re
from pathlib import Path

import httpx
import pytest
import rsketch_dashboard

WEB = Path(rsketch_dashboard.__file__).parent / "web"
ASSETS = sorted(each for each in WEB.rglob("*") if each.is_file())
SENT = [each for each in ASSETS if not each.name.endswith((".LICENSE.txt", "vendor.json"))]
MOST_BYTES = 60_000
MOST_MODULES = 12
NAMESPACES = {"http://www.w3.org/2000/svg"}
SHOWN = r"https?://(localhost|127\.0\.0\.1)|https://opentelemetry\.io/"
"""What a source may name: our own address in a command line, and links of the specification, for people to follow."""


def test_the_page_is_at_most_sixty_kilobytes_compressed() -> None:
    """All that can be loaded, compressed as a server would."""
    sizes = {each.name: len(gzip.compress(each.read_bytes(), 9, mtime=0)) for each in SENT}

    assert sum(sizes.values()) <= MOST_BYTES, sizes


def test_there_are_at_most_twelve_modules() -> None:
    """Of our own; what is vendored stands apart."""
    assert len(list(WEB.glob("*.js"))) <= MOST_MODULES


@pytest.mark.parametrize("name", [each.name for each in SENT if each.parent == WEB])
def test_no_source_names_another_place(name: str) -> None:
    """Nothing is loaded from elsewhere, nor are there ways around the Content-Security-Policy."""
    source = (WEB / name).read_text()

    urls = set(re.findall(r"""(?:https?:)?//[a-z0-9-]+\.[a-z0-9.-]+[^\s'"`)]*""", source)) - NAMESPACES
    assert not [url for url in urls if not re.match(SHOWN, url)]
    assert not re.search(r"unsafeHTML|innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function", source)
    assert not re.search(r"""\sstyle=["'$]""", source)
    assert not [
        url for url in re.findall(r"\burl\(['\"]?([^)]*)", source) if not url.startswith(("/assets/", "#", "logo"))
    ]


@pytest.mark.asyncio(loop_scope="session")
async def test_every_asset_and_every_page_is_served_with_the_policy(origin: str) -> None:
    """Each has the Content-Security-Policy, its type, and a tag by which a browser asks whether it has changed."""
    paths = [f"/assets/{each.relative_to(WEB)}" for each in ASSETS if each.name != "index.html"]
    pages = ["/", "/traces", "/t/0123", "/map", "/metrics", "/logs", "/compare", "/doctor", "/sql"]
    async with httpx.AsyncClient(base_url=origin, trust_env=False) as client:
        for path in [*paths, *pages]:
            answer = await client.get(path)
            assert answer.status_code == 200, path
            assert answer.headers["content-security-policy"].startswith("default-src 'self';"), path
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            again = await client.get(path, headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b""), path


@pytest.mark.asyncio(loop_scope="session")
async def test_the_page_loads_what_it_needs_and_nothing_twice(origin: str) -> None:
    """Every path that the page and its modules name is there."""
    named = set(re.findall(r'(?:href|src)="(/assets/[^"]+)"', (WEB / "index.html").read_text()))
    for module in WEB.glob("*.js"):
        named |= {f"/assets/{each}" for each in re.findall(r"(?:from|import\(?) ?'\./([^']+)'", module.read_text())}
    async with httpx.AsyncClient(base_url=origin, trust_env=False) as client:
        missing = [path for path in sorted(named) if (await client.get(path)).status_code != 200]

    assert named
    assert not missing
