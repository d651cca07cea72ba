"""Messages, usage and events: values that survive JSON."""

import json

import pytest

from asimov_sync import ChatMessage, ChatRole, Reply, ReplyDone, TextDelta, ThinkingDelta, ToolCall, ToolCallReady, Usage
from asimov_sync.messages import as_messages


def test_what_counts_as_messages():
    """A str, a message, a dict, or a list of these."""
    message = ChatMessage(role=ChatRole.ASSISTANT, content="b")
    assert as_messages("a") == [ChatMessage(role=ChatRole.USER, content="a")]
    assert as_messages(message) == [message]
    assert as_messages({"role": "assistant", "content": "b"}) == [message]
    assert [one.role.value for one in as_messages(["a", message, {"role": "user", "content": "c"}])] == [
        "user",
        "assistant",
        "user",
    ]


def test_a_list_is_not_shared():
    """Appending to what as_messages returned leaves the caller's list as it was."""
    mine = ["a"]
    as_messages(mine).append(ChatMessage(role=ChatRole.USER, content="b"))
    assert mine == ["a"]


def test_unknown_blocks_are_kept():
    """A block of any shape goes through JSON and back unchanged."""
    blocks = [{"type": "hologram", "depth": [1, {"x": None}]}, {"type": "text", "text": "é"}]
    message = ChatMessage(role=ChatRole.ASSISTANT, content=blocks)
    assert ChatMessage.model_validate_json(message.model_dump_json()).content == blocks
    assert message.text == "é"


@pytest.mark.parametrize("marker, fine", [(True, True), ("5m", True), ("1h", True), (False, True), ("1d", False)])
def test_cache_markers(marker, fine):
    """A cache marker is a bool or one of the lifetimes that there are."""
    if fine:
        assert ChatMessage(role="user", content="x", cache_marker=marker).cache_marker == marker
    else:
        with pytest.raises(ValueError, match="5m"):
            ChatMessage(role="user", content="x", cache_marker=marker)


def test_usage_adds():
    """Usage adds field by field, and starts at nothing."""
    total = Usage(input_tokens=1, output_tokens=2, requests=1) + Usage(input_tokens=10, cache_read_input_tokens=5, requests=1)
    assert total == Usage(input_tokens=11, output_tokens=2, cache_read_input_tokens=5, requests=2)
    assert total.total_tokens == 18
    assert sum([total, total], Usage()).requests == 4


def test_events_are_json():
    """Each event has a type of its own, and a dict that JSON can hold."""
    call = ToolCall(id="1", name="f", arguments={"x": 1})
    reply = Reply(message=ChatMessage(role="assistant", content="hi"), tool_calls=[call])
    events = [TextDelta("a"), ThinkingDelta("a"), ToolCallReady(call), ReplyDone(reply)]
    told = [json.loads(json.dumps(event.to_dict())) for event in events]
    assert [one["type"] for one in told] == ["text_delta", "thinking_delta", "tool_call_ready", "reply_done"]
    assert told[2]["call"] == {"id": "1", "name": "f", "arguments": {"x": 1}, "malformed": None}
    assert Reply.model_validate(told[3]["reply"]) == reply
    assert TextDelta("a") != ThinkingDelta("a")
