"""Messages, usage and events: values that survive JSON."""

import json
import math

import pytest

from asimov_sync import ChatMessage, ChatRole, Reply, ReplyDone, TextDelta, ThinkingDelta, ToolCall, ToolCallReady, Usage
from asimov_sync.messages import as_messages, jsonable


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


class Unspeakable:
    """An object that cannot be told."""

    def __repr__(self):
        raise RuntimeError("no text")


def test_events_are_json_whatever_they_hold():
    """An object without a repr, a depth or a number beyond all bounds, and a cycle are told, and the rest as it is."""
    deep = []
    for _ in range(100000):
        deep = [deep]
    cycle = ["x"]
    cycle.append(cycle)
    told = json.loads(json.dumps(TextDelta({"x": Unspeakable(), "y": 10**5000, "z": -(2**1030), "n": 10**30}).to_dict()))
    assert told["text"]["x"].startswith("<tests.test_messages.Unspeakable object at ")
    assert told["text"]["y"].startswith("<int object at ") or told["text"]["y"] == repr(10**5000)
    assert told["text"]["z"] == repr(-(2**1030)) and told["text"]["n"] == 10**30
    for value, start in ((deep, "<list object at "), (cycle, "['x', [...]]"), ({10**5000: 1}, "")):
        told = json.loads(json.dumps(TextDelta(value).to_dict()))["text"]
        assert isinstance(told, str) and told.startswith(start)


def test_numbers_that_json_does_not_know():
    """A float that is infinite, or no number, is None, wherever it is; others are what they were."""
    numbers = {"a": [math.inf, 1.5, -math.inf, 0.0], "b": {"c": math.nan, "d": True}}
    reply = Reply(message=ChatMessage(role="assistant", content="hi"), parsed=math.nan)
    told = json.dumps([TextDelta(numbers).to_dict(), ReplyDone(reply).to_dict(), jsonable(math.inf)], allow_nan=False)
    first, second, third = json.loads(told)
    assert first["text"] == {"a": [None, 1.5, None, 0.0], "b": {"c": None, "d": True}}
    assert second["reply"]["parsed"] is third is None
