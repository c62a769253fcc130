"""The sliders in a real JupyterLab: they move, and the picture follows.

Needs playwright, jupyterlab and a Chromium; how long each answer takes goes into the test report's
properties, and is printed.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import matplotlib
import pytest
from execute_notebooks import FOLDER, notebooks

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
MISSING = [name for name in ("playwright", "jupyterlab") if not importlib.util.find_spec(name)]
pytestmark = pytest.mark.skipif(
    bool(MISSING) or CHROMIUM is None, reason="needs playwright, jupyterlab and a Chromium"
)
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
MINUTES = 60_000
DRAWN = "(image, old) => image.src !== old && image.complete && image.naturalWidth > 0"


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(url, process):
    for _ in range(600):
        assert process.poll() is None
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.2)
    raise TimeoutError(url)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a JupyterLab over a copy of the notebooks, with nothing of the user's."""
    home = tmp_path_factory.mktemp("lab")
    work = home / "notebooks"
    shutil.copytree(
        FOLDER, work, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    )
    settings = home / "settings" / "@jupyterlab"
    for file, text in (
        ("notebook-extension/tracker", '{"windowingMode": "none"}'),  # all cells are there
        ("apputils-extension/notification", '{"fetchNews": "false", "checkForUpdates": false}'),
    ):
        path = settings / f"{file}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
    environment = {
        **os.environ,
        **{name: str(home / name) for name in (*folders, "JUPYTERLAB_WORKSPACES_DIR")},
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "MPLCONFIGDIR": matplotlib.get_cachedir(),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
    }
    port = _free_port()
    command = (
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.token="),
        *("--LabApp.news_url=None", f"--ServerApp.root_dir={work}"),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    )
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=log)
        try:
            _wait_for(f"http://127.0.0.1:{port}/api", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(MINUTES)
    yield page
    page.close()


def _run_all(page, url):
    page.goto(url)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=2 * MINUTES)
    page.get_by_text("| Idle").first.wait_for(timeout=2 * MINUTES)  # a kernel is there
    page.locator(".lm-MenuBar-item", has_text="Run").first.click()
    page.locator(".lm-Menu-item", has_text="Run All Cells").first.click()
    prompts = "[...document.querySelectorAll('.jp-Notebook .jp-InputPrompt')].map(p => p.innerText)"
    page.wait_for_function(f"{prompts}.some(text => text.includes('*'))", timeout=MINUTES)
    page.wait_for_function(f"!{prompts}.some(text => text.includes('*'))", timeout=8 * MINUTES)


def _change(explorer):
    """Move the first slider by one step; without one, choose another entry of the first menu."""
    if explorer.locator(".noUi-handle").count():
        handle, readout = (
            explorer.locator(each).first for each in (".noUi-handle", ".widget-readout")
        )
        handle.scroll_into_view_if_needed()
        handle.focus()
        value = readout.inner_text()
        handle.press("ArrowLeft")
        if readout.inner_text() == value:  # it stood at the end
            handle.press("ArrowRight")
    else:
        menu = explorer.locator("select").first
        chosen = menu.evaluate("menu => menu.selectedIndex")
        menu.select_option(index=1 if chosen == 0 else 0)


def _answer(page, explorer):
    """The seconds from a change to another picture."""
    image = explorer.locator("img.widget-image").element_handle()
    image.scroll_into_view_if_needed()
    before = image.evaluate("image => image.src")
    start = time.perf_counter()
    _change(explorer)
    page.wait_for_function(f"([image, old]) => ({DRAWN})(image, old)", arg=[image, before])
    return time.perf_counter() - start


def _play(page, explorer):
    """The button moves the picture, and a second click stops it."""
    image = explorer.locator("img.widget-image").element_handle()
    image.scroll_into_view_if_needed()
    before = image.evaluate("image => image.src")
    explorer.locator(".widget-play button").first.click()
    page.wait_for_function(f"([image, old]) => ({DRAWN})(image, old)", arg=[image, before])
    explorer.locator(".widget-play button").first.click()


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_sliders_move_the_pictures(page, server, path, record_property):
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    _run_all(page, f"{server}/lab/tree/{path.name}?reset")
    explorers = page.locator(".jp-OutputArea-output .widget-vbox").filter(
        has=page.locator("img.widget-image")
    )
    assert explorers.count() == path.read_text().count('"explore(')
    for index in range(explorers.count()):
        seconds = [_answer(page, explorers.nth(index)) for _ in range(2)]
        record_property(f"answer {index + 1}", seconds)
        print(f"{path.stem}, picture {index + 1}: {seconds[0]:.2f} s, then {seconds[1]:.2f} s")
    for index in range(page.locator(".widget-play").count()):
        _play(
            page,
            page.locator(
                ".jp-OutputArea-output .widget-vbox", has=page.locator(".widget-play")
            ).nth(index),
        )
    if page.locator(".widget-textarea textarea").count():
        page.locator(".widget-textarea textarea").fill("1 2\n3")
        page.locator(".widget-textarea textarea").blur()
        page.get_by_text("ValueError: every line must have as many numbers").wait_for()
    assert page.locator(".jp-RenderedText[data-mime-type*=stderr]").count() == 0
    assert complaints == []
