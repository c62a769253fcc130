"""The documentation in a real browser, wide and on a phone: skipped without one."""

import functools
import http.server
import importlib.util
import shutil
import threading
from urllib.parse import urldefrag, urljoin

import pytest

from tests.site import build

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the path"),
    pytest.mark.skipif(importlib.util.find_spec("myst_nb") is None, reason="needs the extra docs"),
]
WIDTHS = {"desktop": 1280, "phone": 390}
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
LOOK = """() => ({
    width: document.scrollingElement.scrollWidth,
    ids: [...document.querySelectorAll('[id]')].map(each => each.id),
    links: [...document.querySelectorAll('a[href]')].map(each => each.href),
    broken: [...document.images].filter(each => !each.naturalWidth).map(each => each.src),
    formulas: [...document.querySelectorAll('math')].filter(each => !each.clientHeight).length,
})"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server without a log, and with the icon that browsers ask for."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.path == "/favicon.ico":
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()


@pytest.fixture(scope="module")
def address():
    handler = functools.partial(Quiet, directory=build())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def pages():
    """Every page of the site, from its root."""
    return sorted(str(page.relative_to(build())) for page in build().rglob("*.html"))


@pytest.fixture(scope="module", params=WIDTHS)
def looks(request, address):
    """What a browser of one width sees on every page, and what went wrong on the way."""
    found, errors, elsewhere = {}, [], []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": WIDTHS[request.param], "height": 844})
        page.on("pageerror", lambda error: errors.append(f"{page.url}: {error}"))
        page.on(
            "console",
            lambda said: said.type == "error" and errors.append(f"{page.url}: {said.text}"),
        )
        page.on(
            "request",
            lambda sent: sent.url.startswith((address, "data:")) or elsewhere.append(sent.url),
        )
        for name in pages():
            page.goto(address + name)
            found[address + name] = page.evaluate(LOOK)
        browser.close()
    return request.param, found, errors, elsewhere


def test_no_page_is_wider_than_the_screen(looks):
    width, found, _, _ = looks
    assert {
        page: look["width"] for page, look in found.items() if look["width"] > WIDTHS[width]
    } == {}


def test_nothing_fails_and_nothing_comes_from_elsewhere(looks):
    _, found, errors, elsewhere = looks
    assert (errors, elsewhere) == ([], [])
    assert [look["broken"] for look in found.values() if look["broken"]] == []


def test_formulas_have_a_height(looks):
    _, found, _, _ = looks
    assert {page: look["formulas"] for page, look in found.items() if look["formulas"]} == {}


def test_links_within_the_site_have_a_target(looks, address):
    _, found, _, _ = looks
    missing = set()
    for page, look in found.items():
        for link in look["links"]:
            target, fragment = urldefrag(urljoin(page, link))
            if not target.startswith(address):
                continue
            target += "index.html" if target.endswith("/") else ""
            if target not in found:
                name = target.removeprefix(address)
                missing |= set() if (build() / name).is_file() else {f"{page}: {link}"}
            elif fragment and fragment not in found[target]["ids"]:
                missing.add(f"{page}: {link}")
    assert missing == set()
