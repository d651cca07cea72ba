"""The example chats in Chromium, behind real servers: gunicorn and uvicorn."""

import contextlib
import os
import socket
import threading
import time

import pytest

from asimov_sync.testing import ModelServer, calls, last_text, tool_results

from ..hosts.processes import start_module
from ..tiers import soak
from ..waiting import DEADLINE, wait_for

pytestmark = soak

HOSTILE = (
    "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\"> \u202etxet"
    "\xad\U000e0041"
)

GUNICORN = ("gunicorn", "--config=tests/hosts/gunicorn_settings.py", "--workers=1")
SERVERS = {
    "flask-gthread": GUNICORN + ("--threads=8", "tests.browser.chat_apps:flask()"),
    "flask-sync": GUNICORN + ("--worker-class=sync", "tests.browser.chat_apps:flask()"),
    "django-gthread": GUNICORN + ("--threads=8", "tests.browser.chat_apps:wsgi()"),
    "django-uvicorn": ("uvicorn", "--factory", "tests.browser.chat_apps:asgi"),
}


class Model(ModelServer):
    """Answers like the stand-in of the example, and holds its text back until it may write.

    may_write: while it is not set, no event after the first text is sent.
    pause: seconds before each event.
    """

    def __init__(self):
        self.may_write = threading.Event()
        self.pause = 0.0
        super().__init__(self._answer, before_event=self._wait)

    def _answer(self, body):
        results = tool_results(body)
        if "book" in results:
            return f"The ticket is {results['book']}. {HOSTILE} " + "bye " * 20
        if "find_trains" in results:
            return calls(("book", {"train": HOSTILE, "seats": 1}))
        city = last_text(body).split()[-1]
        if city == "talk":
            return "word " * 400
        return calls(("weather", {"city": city}), ("find_trains", {"city": city}))

    def _wait(self, request, number):
        time.sleep(self.pause)
        return self.may_write if number == 5 else None


@pytest.fixture
def model():
    with Model() as server:
        yield server
        server.may_write.set()


@pytest.fixture(params=SERVERS)
def chat(request, model, tmp_path):
    """The address of an example chat behind a server."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        port, descriptor = listener.getsockname()[1], listener.fileno()
        program, *arguments = SERVERS[request.param]
        at = f"--bind=fd://{descriptor}" if program == "gunicorn" else f"--fd={descriptor}"
        log = tmp_path / "log"
        environment = dict(os.environ, CHAT_MODEL_URL=model.url)
        with start_module(
            log, program, at, *arguments, pass_fds=[descriptor], env=environment
        ) as process:
            yield f"http://127.0.0.1:{port}/"
            assert process.poll() is None, log.read_text(encoding="utf-8")
    assert "Traceback" not in log.read_text(encoding="utf-8")


@contextlib.contextmanager
def at_most(seconds):
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def ask(page, text):
    page.fill("#text", text)
    page.click("form button")


def test_a_conversation(chat, model, open_page, screenshots, request):
    """Tool calls run, one fails, a person approves, and text arrives in pieces, also text that
    looks like markup."""
    page = open_page(chat)
    ask(page, "I want to go to Atlantis")
    model.may_write.set()
    page.wait_for_selector(".waits button")
    assert page.inner_text(".call.failed output") == "LookupError"
    assert "21" in page.inner_text(".call.done output")
    asked = page.inner_text(".waits code")
    assert HOSTILE.split(">")[0] in asked
    assert "\\u202etxet\\u00ad\\udb40\\udc41" in asked  # visible, not reversed
    name = request.node.name.strip("]").replace("[", "-")
    page.screenshot(path=str(screenshots / f"{name}-asks.png"))

    model.may_write.clear()
    page.click("text=Approve")
    page.wait_for_selector(".assistant")
    wait_for(lambda: page.inner_text(".assistant").startswith("The "))
    first = page.inner_text(".assistant")
    model.may_write.set()
    page.wait_for_selector("form:not([inert])")
    whole = page.inner_text(".assistant")
    assert len(first) < 30 < len(whole) and whole.startswith(first) and HOSTILE in whole
    assert page.title() == "Trains" and page.query_selector("main script, main img") is None
    page.screenshot(path=str(screenshots / f"{name}-answers.png"))

    ask(page, "And to Rome")  # the conversation continues
    page.wait_for_selector(".waits button")
    page.click("text=Refuse")
    page.wait_for_selector(".assistant >> nth=1")


def test_a_tab_that_is_closed_during_a_silence(chat, model, open_page):
    """The provider's stream is closed within 5 s, although the model says nothing."""
    page = open_page(chat)
    ask(page, "please talk")
    page.wait_for_selector(".assistant")
    with at_most(5.0):
        page.close()
        assert model.requests[-1].disconnected.wait(DEADLINE)


def test_a_tab_that_is_closed_while_text_arrives(chat, model, open_page):
    """The provider's stream is closed within 1 s."""
    model.may_write.set()
    model.pause = 0.05
    page = open_page(chat)
    ask(page, "please talk")
    page.wait_for_selector(".assistant")
    with at_most(1.0):
        page.close()
        assert model.requests[-1].disconnected.wait(DEADLINE)


def test_a_model_that_cannot_be_reached(chat, model, open_page):
    """An error before the first byte is a status, which the page shows."""
    model.api_key = "another key"
    page = open_page(chat, expect_errors=True)
    with page.expect_response("**/chat") as response:
        ask(page, "hello")
    assert response.value.status == 502
    page.wait_for_selector(".error")
    assert page.inner_text(".error") == "AuthenticationError"


def test_both_colour_schemes_and_a_phone(chat, take_screenshots):
    """The page fits, light and dark."""
    assert len(take_screenshots(chat)) == 3
