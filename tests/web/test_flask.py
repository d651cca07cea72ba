"""Flask: a view that streams an agent, in process."""

import json

import pytest

from asimov_sync.web import read_ui_messages, sse, ui_message_stream
from asimov_sync.web.flask import stream_response

from ..optional_packages import skip_unless_installed
from ..tiers import suite
from .referees import read_frames, read_ui_message

pytestmark = suite


@pytest.fixture
def browser(agent):
    skip_unless_installed("flask")
    import flask

    app = flask.Flask(__name__)

    @app.post("/chat")
    def chat():
        request = read_ui_messages(flask.request.get_data())
        return stream_response(ui_message_stream(agent.stream(request.messages), request))

    @app.get("/events")
    def events():
        return stream_response(sse(agent.stream("hi")))

    @app.get("/nothing")
    def nothing():
        return stream_response(None)

    return app.test_client()


def test_a_streamed_response(browser):
    """The response has the headers of the protocol and the message of the agent."""
    part = {"type": "text", "text": "clean up"}
    response = browser.post("/chat", json={"messages": [{"role": "user", "parts": [part]}]})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert response.headers["Cache-Control"] == "no-cache"
    message, _ = read_ui_message(response.data)
    assert message[-1]["state"] == "approval-requested"


def test_a_client_that_leaves(browser):
    """Closing the response closes the events."""
    response = browser.get("/events")
    assert next(response.iter_encoded()) == b": open\n\n"
    response.close()
    assert list(response.iter_encoded()) == []


def test_nothing_to_resume(browser):
    """No body is a 204, at which an EventSource does not reconnect."""
    assert browser.get("/nothing").status_code == 204


def test_events_for_a_page(browser):
    """Plain events are those that Python receives."""
    frames = [json.loads(frame) for frame in read_frames(browser.get("/events").data)]
    assert [frame["type"] for frame in frames].count("tool_finished") == 2
    assert frames[-1]["run"]["stop_reason"] == "approval"
