"""The built site in a browser: each page loads whole, shows no Markdown, fits its window, and its
links lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urldefrag

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from browser import Browser

ROOT = Path(__file__).parents[2]
WIDTHS = (1280, 400)

# Text of the page's article without its code, and what is wider than the window and cannot be
# scrolled to: neither it nor anything around it scrolls by itself.
LOOK = """
(() => {
  const article = document.querySelector('article');
  const prose = article.cloneNode(true);
  prose.querySelectorAll('pre, code').forEach(code => code.remove());
  const scrolls = element => {
    for (let e = element; e && e !== article; e = e.parentElement)
      if (['auto', 'scroll'].includes(getComputedStyle(e).overflowX)) return true;
    return false;
  };
  const wide = [...article.querySelectorAll('*')].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && box.right > innerWidth + 1 && !scrolls(element);
  });
  const root = document.documentElement;
  return {
    prose: prose.textContent,
    wide: wide.map(e => `<${e.tagName.toLowerCase()}> ${e.textContent.trim().slice(0, 60)}`),
    whole: root.scrollWidth > innerWidth + 1 ? root.scrollWidth : 0,
    links: [...document.querySelectorAll('a[href]')].map(a => a.href),
    ids: [...document.querySelectorAll('[id], a[name]')].map(e => e.id || e.name),
    images: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
  };
})()
"""
# Markdown that was not understood stays in the text.
RAW = (":material-", ":octicons-", "{ .", "{: ", "**", "](", "```", "!!! ", "| ---", "<div", "&lt;")


class Page(NamedTuple):
    """What one page of the site showed: by width, and what failed while it was loaded."""

    looks: dict[int, dict[str, Any]]
    failures: list[str]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("mkdocs") is None and os.environ.get("CI") != "true":
        pytest.skip("the site needs mkdocs: make .venv/.docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def origin(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def pages(site: Path, origin: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """Each page of the site, by its path, as the browser shows it."""
    browser = Browser(tmp_path_factory.mktemp("profile"))
    try:
        names = sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))
        return {name: visit(browser, origin, name) for name in names if name != "404.html"}
    finally:
        browser.close()


def visit(browser: Browser, origin: str, name: str) -> Page:
    looks = {}
    browser.take_events()
    browser.width(WIDTHS[0])
    browser.open(origin + name)
    for width in WIDTHS:
        browser.width(width)
        looks[width] = browser.value(LOOK)
    return Page(
        looks, [text for event in browser.take_events() if (text := failure(event, origin))]
    )


def failure(event: dict[str, Any], origin: str) -> str | None:
    """What went wrong, as the browser reported it; None for any other event."""
    method, params = event["method"], event.get("params", {})
    match method:
        case "Network.requestWillBeSent":
            url = params["request"]["url"]
            outside = not url.startswith((origin, "data:", "blob:"))
            return f"asks another server: {url}" if outside else None
        case "Network.responseReceived" if params["response"]["status"] >= 400:
            return f"{params['response']['status']} for {params['response']['url']}"
        case "Network.loadingFailed" if not params.get("canceled"):
            return f"not loaded: {params['errorText']}"
        case "Runtime.exceptionThrown":
            return str(params["exceptionDetails"])
        case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
            return str(params["args"])
        case "Log.entryAdded" if params["entry"]["level"] == "error":
            return str(params["entry"]["text"])
    return None


def test_every_page_loads_without_an_error(pages: dict[str, Page]):
    assert "index.html" in pages
    assert "reference/steps.html" in pages
    failed = {name: page.failures for name, page in pages.items() if page.failures}
    broken = {name: page.looks[1280]["images"] for name, page in pages.items()}
    assert failed == {}
    assert {name: images for name, images in broken.items() if images} == {}


def test_no_markdown_is_left_in_a_page(pages: dict[str, Page]):
    left = {
        (name, mark): prose[max(0, at - 40) : at + 40]
        for name, page in pages.items()
        for prose in [page.looks[1280]["prose"]]
        for mark in RAW
        if (at := prose.find(mark)) >= 0
    }
    assert left == {}


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(pages: dict[str, Page], width: int):
    wide = {
        name: (look["whole"], look["wide"][:5])
        for name, page in pages.items()
        for look in [page.looks[width]]
        if look["whole"] or look["wide"]
    }
    assert wide == {}


def test_every_link_inside_the_site_leads_somewhere(
    pages: dict[str, Page], site: Path, origin: str
):
    ids = {name: set(page.looks[1280]["ids"]) for name, page in pages.items()}
    lost = []
    for name, page in pages.items():
        for link in page.looks[1280]["links"]:
            url, anchor = urldefrag(link)
            if not url.startswith(origin):
                continue
            target = unquote(url.removeprefix(origin)) or "index.html"
            if not (site / target).is_file():
                lost.append(f"{name}: there is no {target}")
            elif anchor and target in ids and unquote(anchor) not in ids[target]:
                lost.append(f"{name}: {target} has no #{anchor}")
    assert lost == []


def test_the_home_page_has_its_cards(pages: dict[str, Page]):
    prose = pages["index.html"].looks[1280]["prose"]
    assert "A first workflow in five minutes." in prose
