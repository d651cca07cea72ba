"""The codec of the Messages API: requests to JSON, events to a reply, errors to their classes."""

import json

import pytest

from asimov_sync import (
    AuthenticationError,
    ChatMessage,
    ChatRole,
    ContextLengthExceeded,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ProviderError,
    RateLimitError,
    Reply,
    ReplyDone,
    ThinkingDelta,
    ToolCall,
    ToolCallReady,
    Usage,
)
from asimov_sync.inference.providers.anthropic.wire import (
    MessagesFold,
    decode_error,
    decode_reply,
    encode_request,
)
from asimov_sync.inference.request import Request
from asimov_sync.messages import as_messages
from asimov_sync.testing.wires import MESSAGES


def encode(messages="hello", system=None, tools=(), **options):
    return encode_request(Request("m", as_messages(messages), system, list(tools), options))


def fold_events(events):
    fold = MessagesFold("test")
    return [output for event in events for output in fold.feed(event)]


def test_only_given_options_are_sent():
    """A request holds the model, the messages and the given options only."""
    assert encode() == {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def test_options_and_extra():
    """Options get the wire's names; extra is merged unchanged."""
    request = encode(
        max_tokens=5,
        temperature=0.5,
        tool_choice="any",
        extra={"new_thing": {"a": 1}, "max_tokens": 6},
    )
    assert request["max_tokens"] == 6
    assert request["temperature"] == 0.5
    assert request["tool_choice"] == {"type": "any"}
    assert request["new_thing"] == {"a": 1}
    assert encode(tool_choice="get_weather")["tool_choice"] == {
        "type": "tool",
        "name": "get_weather",
    }
    with pytest.raises(ValueError, match="empty"):
        encode(messages=[])


def test_roles():
    """System messages join the system prompt, and tool results are sent in a user's turn."""
    result = {"type": "tool_result", "tool_use_id": "1", "content": "x"}
    messages = [
        ChatMessage(role=ChatRole.SYSTEM, content="be kind"),
        ChatMessage(role=ChatRole.ASSISTANT, content="hi"),
        ChatMessage(role=ChatRole.TOOL_RESULT, content=[result]),
    ]
    request = encode(messages, system="be brief")
    assert request["system"] == [
        {"type": "text", "text": "be brief"},
        {"type": "text", "text": "be kind"},
    ]
    assert request["messages"] == [
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": [result]},
    ]
    assert encode(messages[1:], system="be brief")["system"] == "be brief"


def test_cache_markers():
    """A marker is set on the last block that accepts one; at most four are sent.

    The caller's message is not changed.
    """
    thinking = {"type": "thinking", "thinking": "…", "signature": "s"}
    blocks = [{"type": "text", "text": "a"}, thinking]
    message = ChatMessage(role=ChatRole.ASSISTANT, content=blocks, cache_marker="1h")
    request = encode(
        ["first", message, ChatMessage(role=ChatRole.USER, content="b", cache_marker=True)]
    )
    assert request["messages"][1]["content"][0]["cache_control"] == {
        "type": "ephemeral",
        "ttl": "1h",
    }
    assert request["messages"][1]["content"][1:] == blocks[1:]
    assert request["messages"][2]["content"] == [
        {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}
    ]
    assert "cache_control" not in json.dumps(message.content)
    messages = [
        ChatMessage(role=ChatRole.USER, content=str(number), cache_marker=True)
        for number in range(6)
    ]
    has_marker = ["cache_control" in json.dumps(turn) for turn in encode(messages)["messages"]]
    assert has_marker == [False, False, True, True, True, True]


REPLIES = [
    [{"type": "text", "text": "Hello wörld,\n  again. "}],
    [{"type": "text", "text": ""}],
    [{"type": "thinking", "thinking": "hm", "signature": "sig"}, {"type": "text", "text": "a"}],
    [
        {"type": "redacted_thinking", "data": "x"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1, "é"]}},
    ],
    [
        {"type": "tool_use", "id": "t", "name": "f", "input": {}},
        {"type": "hologram", "depth": {"x": None}},
    ],
    [],
]


@pytest.mark.parametrize("blocks", REPLIES, ids=repr)
def test_a_stream_folds_to_its_reply(blocks):
    """A streamed reply equals the whole one, and is sent back unchanged, without blank text."""
    reply = Reply(
        message=ChatMessage(role=ChatRole.ASSISTANT, content=blocks),
        stop_reason="end_turn",
        raw_stop_reason="end_turn",
        tool_calls=[
            ToolCall(id=block["id"], name=block["name"], arguments=block["input"])
            for block in blocks
            if block["type"] == "tool_use"
        ],
        usage=Usage(
            input_tokens=3,
            output_tokens=7,
            cache_write_input_tokens=5,
            cache_write_1h_input_tokens=5,
            requests=1,
        ),
        model="m",
        id="msg_1",
    )
    events = fold_events(MESSAGES.reply_events(reply, {}))
    assert events[-1] == ReplyDone(reply)
    assert decode_reply(json.loads(json.dumps(MESSAGES.reply_body(reply, {})))) == reply
    nonblank = [block for block in blocks if block != {"type": "text", "text": ""}]
    assert encode(["x", reply.message])["messages"][1:] == (
        [{"role": "assistant", "content": nonblank}] if nonblank else []
    )
    calls = [event.call for event in events if isinstance(event, ToolCallReady)]
    assert calls == reply.tool_calls


def stream(*events, usage=None):
    yield {
        "type": "message_start",
        "message": {
            "id": "i",
            "model": "m",
            "content": [],
            "usage": {"input_tokens": 9, "output_tokens": 1},
        },
    }
    for event in events:
        yield event
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": usage or {"output_tokens": 4},
    }
    yield {"type": "message_stop"}


def block(index, start, *deltas):
    yield {"type": "content_block_start", "index": index, "content_block": start}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def test_usage_of_the_message_delta():
    """The usage of message_delta replaces that of message_start; null figures are ignored."""
    usage = {
        "input_tokens": 12,
        "output_tokens": 30,
        "cache_read_input_tokens": None,
        "output_tokens_details": {"thinking_tokens": 8},
    }
    reply = fold_events(stream(usage=usage))[-1].reply
    assert reply.usage == Usage(input_tokens=12, output_tokens=30, reasoning_tokens=8, requests=1)


def test_input_in_the_block_start():
    """An input in the block's start, without deltas, is the call's arguments."""
    events = fold_events(
        stream(*block(0, {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}))
    )
    assert events[0].call == ToolCall(id="t", name="f", arguments={"a": 1})


@pytest.mark.parametrize("partial_json", ['{"a": ', "[1]", "nonsense"])
def test_malformed_arguments(partial_json):
    """Arguments that are not a JSON object are kept in `malformed`, and `arguments` is empty."""
    start = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    events = fold_events(
        stream(*block(0, start, {"type": "input_json_delta", "partial_json": partial_json}))
    )
    assert events[0].call == ToolCall(id="t", name="f", arguments={}, malformed=partial_json)
    assert events[-1].reply.tool_calls == [events[0].call]
    assert events[-1].reply.message.content[0]["input"] == {}


def test_unknown_blocks_and_events():
    """Unknown events and deltas are ignored; unknown blocks and keys are kept."""
    events = fold_events(
        stream(
            {"type": "ping"},
            {"type": "brand_new", "x": 1},
            *list(block(0, {"type": "hologram", "x": 1}, {"type": "hologram_delta"}))
            + list(
                block(
                    1,
                    {"type": "text", "text": "", "extra": 7},
                    {"type": "citations_delta", "citation": {"n": 1}},
                    {"type": "text_delta", "text": "a"},
                    {"type": "citations_delta", "citation": {"n": 2}},
                )
            ),
        )
    )
    assert [event.type for event in events] == ["text_delta", "reply_done"]
    assert events[-1].reply.message.content == [
        {"type": "hologram", "x": 1},
        {"type": "text", "text": "a", "extra": 7, "citations": [{"n": 1}, {"n": 2}]},
    ]


def test_thinking_and_its_signature():
    """Thinking arrives in ThinkingDelta events; the signature is in the block."""
    start = {"type": "thinking", "thinking": "", "signature": ""}
    deltas = [
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "signature_delta", "signature": "s1"},
    ]
    events = fold_events(stream(*block(0, start, *deltas)))
    assert events[0] == ThinkingDelta("hm")
    assert events[-1].reply.message.content == [
        {"type": "thinking", "thinking": "hm", "signature": "s1"}
    ]
    assert events[-1].reply.text == ""


def test_partial_reply():
    """Before the final event, the partial reply has the text so far and no stop reason."""
    fold = MessagesFold("test")
    for event in list(
        stream(*block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "half"}))
    )[:-1]:
        fold.feed(event)
    assert (fold.partial().text, fold.partial().stop_reason, fold.done) == ("half", None, False)


def test_error_event():
    """An error event raises the error of its type, although the status is 200."""
    with pytest.raises(OverloadedError, match="Overloaded"):
        fold_events(
            [{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}]
        )


@pytest.mark.parametrize(
    "status, error_type, message, expected",
    [
        (400, "invalid_request_error", "messages: at least one", InvalidRequestError),
        (
            400,
            "invalid_request_error",
            "prompt is too long: 210000 tokens > 200000 maximum",
            ContextLengthExceeded,
        ),
        (401, "authentication_error", "invalid x-api-key", AuthenticationError),
        (402, "billing_error", "no credit", PermissionDeniedError),
        (403, "permission_error", "not yours", PermissionDeniedError),
        (404, "not_found_error", "model: m", NotFoundError),
        (413, "request_too_large", "too large", InvalidRequestError),
        (429, "rate_limit_error", "slow down", RateLimitError),
        (500, "api_error", "oh", ProviderError),
        (529, "overloaded_error", "busy", OverloadedError),
        (503, None, "", ProviderError),
        (418, None, "", InvalidRequestError),
        (429, None, "", RateLimitError),
    ],
)
def test_classes_of_errors(status, error_type, message, expected):
    """Status and error type determine the class. The error has the message and the request id."""
    body = (
        {"type": "error", "error": {"type": error_type, "message": message}}
        if error_type
        else message
    )
    error = decode_error("anthropic", status, {"request-id": "req_1"}, body)
    assert type(error) is expected
    assert (error.provider, error.status, error.error_type, error.request_id) == (
        "anthropic",
        status,
        error_type,
        "req_1",
    )
    assert message in str(error)


def test_compaction():
    """A compaction's delta is the block's whole content, to be sent back unchanged.

    Null content means that the compaction failed.
    """
    delta = {"type": "compaction_delta", "content": "so far", "encrypted_content": "sealed"}
    reply = fold_events(stream(*block(0, {"type": "compaction", "content": None}, delta)))[-1].reply
    assert reply.message.content == [
        {"type": "compaction", "content": "so far", "encrypted_content": "sealed"}
    ]
    failed = {"type": "compaction_delta", "content": None}
    reply = fold_events(stream(*block(0, {"type": "compaction", "content": None}, failed)))[
        -1
    ].reply
    assert reply.message.content == [{"type": "compaction", "content": None}]


def test_unknown_delta():
    """An unknown delta is merged into its block: text and lists grow, other values are replaced."""
    start = {"type": "hologram", "beam": "a", "parts": [1]}
    deltas = [
        {"type": "hologram_delta", "beam": "b", "parts": [2], "depth": 3},
        {"type": "hologram_delta", "beam": "c"},
    ]
    reply = fold_events(stream(*block(0, start, *deltas)))[-1].reply
    assert reply.message.content == [
        {"type": "hologram", "beam": "abc", "parts": [1, 2], "depth": 3}
    ]


# Repeated indexes


def call_block(index, call_id, name, arguments=None):
    deltas = [{"type": "input_json_delta", "partial_json": arguments}] if arguments else []
    return block(index, {"type": "tool_use", "id": call_id, "name": name, "input": {}}, *deltas)


def test_repeated_index():
    """A block at the index of a stopped block is another block; both are kept, in order."""
    text_block = block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "hi"})
    events = fold_events(
        stream(*call_block(0, "a", "f", '{"a": 1}'), *text_block, *call_block(0, "b", "g"))
    )
    expected = [ToolCall(id="a", name="f", arguments={"a": 1}), ToolCall(id="b", name="g")]
    assert [event.call for event in events if isinstance(event, ToolCallReady)] == expected
    assert events[-1].reply.tool_calls == expected
    assert [content_block["type"] for content_block in events[-1].reply.message.blocks] == [
        "tool_use",
        "text",
        "tool_use",
    ]


def test_start_at_an_open_index():
    """A block that starts at the index of an open block is an error: its deltas are ambiguous."""
    open_block = list(call_block(0, "a", "f", '{"a": 1}'))[:-1]
    with pytest.raises(ValueError, match="index 0 while another one is open"):
        fold_events(stream(*open_block, *call_block(0, "b", "g")))


def test_order_of_blocks():
    """The index orders the blocks of a reply, unless two blocks share one."""
    second = block(1, {"type": "text", "text": "b"})
    first = block(0, {"type": "text", "text": "a"})
    assert fold_events(stream(*second, *first))[-1].reply.text == "ab"


def test_second_message_start():
    """A message_start with another id, or without one, is an error; a repeated one is ignored."""
    text_block = block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "hi"})
    first = next(stream())
    repeated = {
        "type": "message_start",
        "message": dict(first["message"], usage={"input_tokens": 1}),
    }
    reply = fold_events(stream(*text_block, repeated))[-1].reply
    assert (reply.text, reply.usage.input_tokens) == ("hi", 9)
    for message in ({"id": "other", "content": []}, {"content": []}, {"id": 5}):
        with pytest.raises(ValueError, match="a second message"):
            fold_events(stream({"type": "message_start", "message": message}))


def test_block_in_the_message_start():
    """A block of message_start that also starts at its index is one block."""
    start = {
        "type": "message_start",
        "message": {"id": "i", "content": [{"type": "text", "text": ""}]},
    }
    other_events = list(
        stream(*block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "hi"}))
    )[1:]
    assert fold_events([start] + other_events)[-1].reply.message.content == [
        {"type": "text", "text": "hi"}
    ]


@pytest.mark.parametrize(
    "start, delta",
    [
        ({"type": "thinking", "thinking": ""}, {"type": "text_delta", "text": "a"}),
        ({"type": "thinking", "thinking": ""}, {"type": "input_json_delta", "partial_json": "{}"}),
        ({"type": "text", "text": ""}, {"type": "thinking_delta", "thinking": "a"}),
        ({"type": "text", "text": ""}, {"type": "input_json_delta", "partial_json": "{}"}),
        (
            {"type": "tool_use", "id": "t", "name": "f", "input": {}},
            {"type": "text_delta", "text": "a"},
        ),
        ({"type": "redacted_thinking", "data": "x"}, {"type": "thinking_delta", "thinking": "a"}),
        ({"type": "thinking", "thinking": ""}, {"type": "citations_delta", "citation": {}}),
    ],
    ids=lambda value: value["type"],
)
def test_delta_of_another_kind(start, delta):
    """A delta that does not match its block is an error: the reply would lose its text."""
    with pytest.raises(ValueError, match="a delta of .* for a block of type " + start["type"]):
        fold_events(stream(*block(0, start, delta)))


def test_deltas_of_an_unknown_block():
    """A block of an unknown type accepts any delta."""
    events = block(
        0,
        {"type": "hologram"},
        {"type": "text_delta", "text": "a"},
        {"type": "input_json_delta", "partial_json": "{}"},
    )
    assert fold_events(stream(*events))[-1].reply.message.content == [
        {"type": "hologram", "text": "a", "input": {}}
    ]


@pytest.mark.parametrize(
    "invalid",
    [
        {"type": "text", "text": 5},
        {"type": "text", "text": ["a"]},
        {"type": "thinking", "thinking": {}},
        {"type": ["text"]},
        {"type": 1},
    ],
    ids=str,
)
def test_invalid_block_type_or_text(invalid):
    """An invalid type or text is a ValueError, in a block or a delta, streamed or not."""
    kind = invalid["type"] if invalid["type"] in ("text", "thinking") else "hologram"
    delta = dict(invalid, type="new_delta")
    streams = [
        stream(*block(0, invalid)),
        [{"type": "message_start", "message": {"content": [invalid]}}],
    ]
    if kind != "hologram":
        streams.append(stream(*block(0, {"type": kind}, delta)))
    for events in streams:
        with pytest.raises(ValueError, match="must be a string"):
            fold_events(events)
    with pytest.raises(ValueError, match="must be a string"):
        decode_reply({"type": "message", "content": [invalid], "stop_reason": "end_turn"})


@pytest.mark.parametrize(
    "index", [float("inf"), float("nan"), 1.9, None, True, [0], {}, "x"], ids=str
)
def test_invalid_block_index(index):
    """An invalid index is a ValueError. A whole float such as 0.0 is accepted."""
    with pytest.raises(ValueError):
        fold_events(stream(*block(index, {"type": "text", "text": ""})))
    text = block(0.0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "hi"})
    assert fold_events(stream(*text))[-1].reply.text == "hi"


@pytest.mark.parametrize(
    "figure",
    [-5, 1.9, float("inf"), float("nan"), True, "5", None, 10**400],
    ids=lambda value: str(value)[:9],
)
def test_invalid_usage_figures(figure):
    """An invalid usage figure counts as 0, and the reply is complete."""
    reply = fold_events(stream(usage={"input_tokens": figure, "output_tokens": 4}))[-1].reply
    assert reply.usage == Usage(
        input_tokens=9 if figure is None else 0, output_tokens=4, requests=1
    )
