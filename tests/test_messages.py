"""Messages, usage and events: values that survive JSON."""

import json
import math

import pytest

from asimov_sync import (
    ChatMessage,
    ChatRole,
    Reply,
    ReplyDone,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolCallReady,
    Usage,
)
from asimov_sync._json import to_jsonable
from asimov_sync.messages import as_messages


def test_as_messages_accepts_all_forms():
    """A str, a message, a dict, or a list of these becomes a list of messages."""
    message = ChatMessage(role=ChatRole.ASSISTANT, content="b")
    assert as_messages("a") == [ChatMessage(role=ChatRole.USER, content="a")]
    assert as_messages(message) == [message]
    assert as_messages({"role": "assistant", "content": "b"}) == [message]
    several = as_messages(["a", message, {"role": "user", "content": "c"}])
    assert [one.role.value for one in several] == ["user", "assistant", "user"]


def test_as_messages_copies_the_list():
    """Appending to the result leaves the caller's list unchanged."""
    mine = ["a"]
    as_messages(mine).append(ChatMessage(role=ChatRole.USER, content="b"))
    assert mine == ["a"]


def test_unknown_blocks_are_kept():
    """A block of any shape passes through JSON unchanged."""
    blocks = [{"type": "hologram", "depth": [1, {"x": None}]}, {"type": "text", "text": "é"}]
    message = ChatMessage(role=ChatRole.ASSISTANT, content=blocks)
    assert ChatMessage.model_validate_json(message.model_dump_json()).content == blocks
    assert message.text == "é"


@pytest.mark.parametrize("text", [None, 7, ["a"]], ids=repr)
def test_text_ignores_malformed_text_blocks(text):
    """A text block whose text is not a str is left out of the text of the message."""
    blocks = [{"type": "text", "text": text}, {"type": "text", "text": "a"}, {"type": "text"}]
    assert ChatMessage(role=ChatRole.ASSISTANT, content=blocks).text == "a"


@pytest.mark.parametrize(
    "marker, valid", [(True, True), ("5m", True), ("1h", True), (False, True), ("1d", False)]
)
def test_cache_marker_is_checked(marker, valid):
    """A cache marker is a bool or one of the two lifetimes."""
    if valid:
        assert ChatMessage(role="user", content="x", cache_marker=marker).cache_marker == marker
    else:
        with pytest.raises(ValueError, match="5m"):
            ChatMessage(role="user", content="x", cache_marker=marker)


def test_usage_adds():
    """Usages add field by field; the empty usage is neutral."""
    first = Usage(input_tokens=1, output_tokens=2, requests=1)
    total = first + Usage(input_tokens=10, cache_read_input_tokens=5, requests=1)
    assert total == Usage(input_tokens=11, output_tokens=2, cache_read_input_tokens=5, requests=2)
    assert total.total_tokens == 18
    assert sum([total, total], Usage()).requests == 4


def test_events_convert_to_json():
    """Each event has its own type and a dict that JSON can hold."""
    call = ToolCall(id="1", name="f", arguments={"x": 1})
    reply = Reply(message=ChatMessage(role="assistant", content="hi"), tool_calls=[call])
    events = [TextDelta("a"), ThinkingDelta("a"), ToolCallReady(call), ReplyDone(reply)]
    dicts = [json.loads(json.dumps(event.to_dict())) for event in events]
    types = ["text_delta", "thinking_delta", "tool_call_ready", "reply_done"]
    assert [one["type"] for one in dicts] == types
    assert dicts[2]["call"] == {"id": "1", "name": "f", "arguments": {"x": 1}, "malformed": None}
    assert Reply.model_validate(dicts[3]["reply"]) == reply
    assert TextDelta("a") != ThinkingDelta("a")


class Unprintable:
    """An object whose repr fails."""

    def __repr__(self):
        raise RuntimeError("no text")


def test_events_convert_whatever_they_hold():
    """An object without a repr, an extreme depth or number, and a cycle become text; the rest is
    unchanged."""
    deep = []
    for _ in range(100000):
        deep = [deep]
    cycle = ["x"]
    cycle.append(cycle)
    values = {"x": Unprintable(), "y": 10**5000, "z": -(2**1030), "n": 10**30}
    text = json.loads(json.dumps(TextDelta(values).to_dict()))["text"]
    assert text["x"].startswith("<tests.test_messages.Unprintable object at ")
    assert text["y"].startswith("<int object at ") or text["y"] == repr(10**5000)
    assert text["z"] == repr(-(2**1030)) and text["n"] == 10**30
    beginnings = ((deep, "<list object at "), (cycle, "['x', [...]]"), ({10**5000: 1}, ""))
    for value, beginning in beginnings:
        text = json.loads(json.dumps(TextDelta(value).to_dict()))["text"]
        assert isinstance(text, str) and text.startswith(beginning)


def test_infinite_floats_become_none():
    """A float that is infinite or NaN becomes None at any depth; other values do not change."""
    numbers = {"a": [math.inf, 1.5, -math.inf, 0.0], "b": {"c": math.nan, "d": True}}
    reply = Reply(message=ChatMessage(role="assistant", content="hi"), parsed=math.nan)
    values = [TextDelta(numbers).to_dict(), ReplyDone(reply).to_dict(), to_jsonable(math.inf)]
    first, second, third = json.loads(json.dumps(values, allow_nan=False))
    assert first["text"] == {"a": [None, 1.5, None, 0.0], "b": {"c": None, "d": True}}
    assert second["reply"]["parsed"] is third is None
