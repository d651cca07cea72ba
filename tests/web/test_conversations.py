"""Conversations that agents have stored, as a page shows them."""

import pytest

from asimov_sync import ChatRole
from asimov_sync.web.conversations import read_conversation


def reply(text, **more):
    """An entry with a reply."""
    return dict({"reply": {"message": {"role": "assistant", "content": text}}, "after": 0}, **more)


def result(text):
    """An entry with the result of a tool."""
    return {"call": "c", "block": {"type": "tool_result", "tool_use_id": "c", "content": text}}


def test_replies_and_results():
    """The results of tools after one reply are one message; a discarded reply is left out."""
    entries = [reply("one"), result("a"), result("b"), reply("two"), {"discarded": True}]
    entries.append({"summary": {"message": {"role": "assistant", "content": "short"}}, "after": 1})
    messages = read_conversation(entries)
    assert [message.role for message in messages] == [
        ChatRole.ASSISTANT,
        ChatRole.TOOL_RESULT,
        ChatRole.SYSTEM,
    ]
    assert [block["content"] for block in messages[1].blocks] == ["a", "b"]
    assert messages[2].text.endswith("short")


@pytest.mark.parametrize("entry", [None, 7, "x", [], {}, {"reply": 7}, {"reply": {}}, {"block": 7}])
def test_entries_of_another_form(entry):
    """An entry that redact= has changed is left out."""
    assert len(read_conversation([reply("one"), entry])) == 1
