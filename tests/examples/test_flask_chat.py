"""examples/flask_chat: both protocols, in process. tests/browser opens it in Chromium."""

import json
import sys
import types

import pytest

from asimov_sync import Agent
from asimov_sync.testing import ScriptedInferenceClient

from ..optional_packages import skip_unless_installed
from ..tiers import suite
from ..web.referees import read_frames, read_ui_message
from .programs import ROOT

pytestmark = suite


@pytest.fixture
def browser(monkeypatch):
    """A client of the application, whose stand-in and tools do not wait."""
    skip_unless_installed("flask")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    before = set(sys.modules)
    import chat_assistant
    from flask_chat.app import app

    tools = [chat_assistant.weather, chat_assistant.find_trains, chat_assistant.book]
    agent = Agent(ScriptedInferenceClient(chat_assistant.stand_in), tools=tools)
    monkeypatch.setattr(chat_assistant, "open_agent", lambda: agent)
    monkeypatch.setattr(chat_assistant, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    yield app.test_client()
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("chat_assistant", "flask_chat"):
            del sys.modules[name]


def post(browser, **body):
    response = browser.post("/chat", json=dict(body, chat="1"))
    assert response.status_code == 200
    return [json.loads(frame) for frame in read_frames(response.data)]


def test_the_page(browser):
    """The page and its script are served with a strict policy."""
    for path in ("/", "/chat.js", "/chat.css", "/icon.svg"):
        response = browser.get(path)
        assert response.status_code == 200
        assert response.headers["Content-Security-Policy"] == "default-src 'self'"
        response.close()
    assert browser.get("/chat_assistant.py").status_code == 404


def test_a_booking(browser):
    """Two tools run, a third one waits, and the decision continues the stored conversation."""
    events = post(browser, text="I want to go to Lisbon")
    assert [event["type"] for event in events].count("tool_finished") == 2
    (call,) = events[-1]["run"]["pending"]
    assert call["name"] == "book"
    assert browser.post("/chat", json={"chat": "1", "text": "And now?"}).status_code == 400
    forged = {"chat": "1", "decisions": {"another": True}}
    assert browser.post("/chat", json=forged).status_code == 400
    events = post(browser, decisions={call["id"]: True})
    assert events[-1]["run"]["reply"]["message"]["content"][0]["text"].startswith("Your ticket")


@pytest.mark.parametrize("body", [b"x", b"[]", b'{"decisions": 1}', b"\xff"])
def test_another_form_is_refused(browser, body):
    """A body that is not a request of the page is a 400."""
    assert browser.post("/chat", data=body).status_code == 400
    assert browser.post("/api/chat", data=body).status_code == 400


def test_the_ai_sdk(browser):
    """The other address speaks the AI SDK's protocol, about a conversation of its own."""
    part = {"type": "text", "text": "To Atlantis"}
    body = {"id": "x", "messages": [{"id": "1", "role": "user", "parts": [part]}]}
    message, _ = read_ui_message(browser.post("/api/chat", json=body).data)
    (waiting,) = [part for part in message if part.get("state") == "approval-requested"]
    waiting.update(
        state="approval-responded", approval={"id": waiting["approval"], "approved": False}
    )
    body["messages"].append({"id": "2", "role": "assistant", "parts": message})
    message, chunks = read_ui_message(browser.post("/api/chat", json=body).data, message)
    assert chunks[0]["messageId"] == "2" and message[-1]["type"] == "text"
    assert [part["state"] for part in message if part.get("toolName") == "book"] == [
        "output-denied"
    ]


def test_another_answer(browser):
    """A question that is asked again replaces the last one in the stored conversation."""
    import chat_assistant

    part = {"type": "text", "text": "To Atlantis"}
    body = {"id": "x", "messages": [{"id": "1", "role": "user", "parts": [part]}]}
    read_ui_message(browser.post("/api/chat", json=body).data)
    message, _ = read_ui_message(
        browser.post("/api/chat", json=dict(body, trigger="regenerate-message")).data
    )
    assert message[-1]["state"] == "approval-requested"
    (conversation,) = [
        value for key, value in chat_assistant.conversations.get_all().items() if "/x" in key
    ]
    assert [one["role"] for one in conversation["messages"]].count("user") == 1
