"""The documentation in a real browser, wide and on a phone: skipped without one."""

import functools
import http.server
import importlib.util
import io
import shutil
import threading
from urllib.parse import urldefrag, urljoin

import matplotlib.image
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
    formulas: [...document.querySelectorAll('.math')].map(each => each.querySelector('.katex'))
        .filter(each => !each || !each.getBoundingClientRect().height).length
        + document.querySelectorAll('.katex-error').length,
})"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server without a log."""

    def log_message(self, *args):
        pass


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


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module", params=WIDTHS)
def looks(request, address, browser):
    """What a browser of one width sees on every page, and what went wrong on the way."""
    found, errors, elsewhere = {}, [], []
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
    page.close()
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


def test_formulas_are_drawn(looks):
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


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 700})
    yield page
    page.close()


def test_formulas_have_their_own_fonts_and_limits_below(page, address):
    page.goto(f"{address}guide/mathematics.html")
    page.evaluate("document.fonts.ready")
    used = (
        "['KaTeX_Main', 'KaTeX_Math', 'KaTeX_Size1'].every(f => document.fonts.check('9px ' + f))"
    )
    assert page.evaluate(used)
    below = page.locator(".katex-display .op-limits").first.locator(".vlist > span")
    condition, operator = (below.nth(index).bounding_box() for index in (0, 1))
    assert condition["y"] > operator["y"]
    middle = operator["x"] + operator["width"] / 2
    assert condition["x"] < middle < condition["x"] + condition["width"]


@pytest.mark.parametrize(
    ("typed", "title"),
    [
        ("flax nnx", "Flax NNX"),
        ("nnx", "Flax NNX"),
        ("linen", "Flax Linen"),
        ("equinox", "Equinox"),
        ("maxtext", "MaxText"),
        ("haiku", "Haiku"),
        ("keras", "Keras on JAX"),
        ("levanter", "Levanter and haliax"),
        ("tunix", "Tunix"),
        ("lora", "LoRA in Flax NNX"),
    ],
)
def test_a_framework_is_the_first_that_a_search_finds(page, address, typed, title):
    page.goto(address)
    page.locator(".sidebar-search").fill(typed)
    page.locator(".sidebar-search").press("Enter")
    found = page.locator("#search-results ul.search > li > a")
    page.locator("#search-results .search-summary", has_text="found").wait_for()
    assert found.first.inner_text() == title


@pytest.mark.parametrize("name", ["guide/errors", "frameworks/tunix", "api/types", "changelog"])
def test_the_sidebar_shows_where_one_is(page, address, name):
    page.goto(f"{address}{name}.html")
    box = page.locator(".sidebar-tree .current-page").last.bounding_box()
    assert 100 < box["y"] < 700 - box["height"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures_are_of_the_page_s_theme(page, address, theme):
    page.emulate_media(color_scheme=theme)
    page.goto(f"{address}guide/idea.html")
    corner = page.locator("article img").first.screenshot()
    red, green, blue = _first_pixel(corner)
    assert (min(red, green, blue) > 240) if theme == "light" else (max(red, green, blue) < 40)


def _first_pixel(png):
    return (matplotlib.image.imread(io.BytesIO(png))[0, 0, :3] * 255).tolist()


def test_the_browser_s_tab_has_an_icon(page, address):
    page.goto(address)
    icon = page.locator("link[rel~=icon]").get_attribute("href")
    assert page.request.get(urljoin(address, icon)).headers["content-type"] == "image/svg+xml"
