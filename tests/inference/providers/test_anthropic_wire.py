"""The Messages codec: requests to JSON, events to a reply, errors to their classes."""

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


def body(messages="hello", system=None, tools=(), **options):
    return encode_request(Request("m", as_messages(messages), system, list(tools), options))


def folded(events):
    fold = MessagesFold("test")
    return [event for data in events for event in fold.feed(data)]


def test_only_given_options_are_sent():
    """A request holds model and messages, and nothing that was not asked for."""
    assert body() == {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def test_options_and_extra():
    """Options get the wire's names; extra is merged unchanged."""
    made = body(
        max_tokens=5,
        temperature=0.5,
        tool_choice="any",
        extra={"new_thing": {"a": 1}, "max_tokens": 6},
    )
    assert made["max_tokens"] == 6
    assert made["temperature"] == 0.5
    assert made["tool_choice"] == {"type": "any"}
    assert made["new_thing"] == {"a": 1}
    assert body(tool_choice="get_weather")["tool_choice"] == {"type": "tool", "name": "get_weather"}
    with pytest.raises(ValueError, match="empty"):
        body(messages=[])


def test_roles_on_the_wire():
    """System messages join the system prompt; tool results belong to a user's turn."""
    result = {"type": "tool_result", "tool_use_id": "1", "content": "x"}
    messages = [
        ChatMessage(role=ChatRole.SYSTEM, content="be kind"),
        ChatMessage(role=ChatRole.ASSISTANT, content="hi"),
        ChatMessage(role=ChatRole.TOOL_RESULT, content=[result]),
    ]
    made = body(messages, system="be brief")
    assert made["system"] == [
        {"type": "text", "text": "be brief"},
        {"type": "text", "text": "be kind"},
    ]
    assert made["messages"] == [
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": [result]},
    ]
    assert body(messages[1:], system="be brief")["system"] == "be brief"


def test_cache_markers():
    """A marker is put on the last block that may carry one, the message itself is left as it was;
    at most four are sent.
    """
    thinking = {"type": "thinking", "thinking": "…", "signature": "s"}
    blocks = [{"type": "text", "text": "a"}, thinking]
    message = ChatMessage(role=ChatRole.ASSISTANT, content=blocks, cache_marker="1h")
    made = body(["first", message, ChatMessage(role=ChatRole.USER, content="b", cache_marker=True)])
    assert made["messages"][1]["content"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert made["messages"][1]["content"][1:] == blocks[1:]
    assert made["messages"][2]["content"] == [
        {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}
    ]
    assert "cache_control" not in json.dumps(message.content)
    many = [
        ChatMessage(role=ChatRole.USER, content=str(number), cache_marker=True)
        for number in range(6)
    ]
    marked = ["cache_control" in json.dumps(one) for one in body(many)["messages"]]
    assert marked == [False, False, True, True, True, True]


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
    """A reply that is streamed is the same as one that is not, and its message goes back as it
    came, but for blank text.
    """
    reply = Reply(
        message=ChatMessage(role=ChatRole.ASSISTANT, content=blocks),
        stop_reason="end_turn",
        raw_stop_reason="end_turn",
        tool_calls=[
            ToolCall(id=b["id"], name=b["name"], arguments=b["input"])
            for b in blocks
            if b["type"] == "tool_use"
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
    events = folded(MESSAGES.reply_events(reply, {}))
    assert events[-1] == ReplyDone(reply)
    assert decode_reply(json.loads(json.dumps(MESSAGES.reply_body(reply, {})))) == reply
    sent = [block for block in blocks if block != {"type": "text", "text": ""}]
    assert body(["x", reply.message])["messages"][1:] == (
        [{"role": "assistant", "content": sent}] if sent else []
    )
    calls = [event.call for event in events if isinstance(event, ToolCallReady)]
    assert calls == reply.tool_calls


def stream(*between, usage=None):
    yield {
        "type": "message_start",
        "message": {
            "id": "i",
            "model": "m",
            "content": [],
            "usage": {"input_tokens": 9, "output_tokens": 1},
        },
    }
    for event in between:
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


def test_cumulative_figures_overwrite():
    """The usage of message_delta replaces that of message_start; it is never added, and null
    changes nothing.
    """
    usage = {
        "input_tokens": 12,
        "output_tokens": 30,
        "cache_read_input_tokens": None,
        "output_tokens_details": {"thinking_tokens": 8},
    }
    reply = folded(stream(usage=usage))[-1].reply
    assert reply.usage == Usage(input_tokens=12, output_tokens=30, reasoning_tokens=8, requests=1)


def test_a_tool_call_may_come_whole():
    """An input that arrives with the block's start, without deltas, is the call's arguments."""
    events = folded(
        stream(*block(0, {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}))
    )
    assert events[0].call == ToolCall(id="t", name="f", arguments={"a": 1})


@pytest.mark.parametrize("told", ['{"a": ', "[1]", "nonsense"])
def test_malformed_arguments(told):
    """Arguments that are not a JSON object are kept as text, and are no arguments."""
    start = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    events = folded(stream(*block(0, start, {"type": "input_json_delta", "partial_json": told})))
    assert events[0].call == ToolCall(id="t", name="f", arguments={}, malformed=told)
    assert events[-1].reply.tool_calls == [events[0].call]
    assert events[-1].reply.message.content[0]["input"] == {}


def test_unknown_blocks_are_kept_and_unknown_events_ignored():
    """Unknown events and deltas are passed over, unknown blocks and keys are kept; citations are
    gathered.
    """
    events = folded(
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


def test_thinking_is_streamed_with_its_signature():
    """Thinking deltas are events of their own; the signature is in the block."""
    start = {"type": "thinking", "thinking": "", "signature": ""}
    deltas = [
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "signature_delta", "signature": "s1"},
    ]
    events = folded(stream(*block(0, start, *deltas)))
    assert events[0] == ThinkingDelta("hm")
    assert events[-1].reply.message.content == [
        {"type": "thinking", "thinking": "hm", "signature": "s1"}
    ]
    assert events[-1].reply.text == ""


def test_a_partial_reply_has_no_stop_reason():
    """Before the final event the reply so far is there, and does not look finished."""
    fold = MessagesFold("test")
    for event in list(
        stream(*block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "half"}))
    )[:-1]:
        fold.feed(event)
    assert (fold.partial().text, fold.partial().stop_reason, fold.done) == ("half", None, False)


def test_an_error_event_is_raised():
    """An error inside a stream is the error of its type, although the status was 200."""
    with pytest.raises(OverloadedError, match="Overloaded"):
        folded([{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}])


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
def test_errors_have_their_class(status, error_type, message, expected):
    """A status and an error type map to one class, which has the provider's words, its type and the
    request's id.
    """
    told = (
        {"type": "error", "error": {"type": error_type, "message": message}}
        if error_type
        else message
    )
    error = decode_error("anthropic", status, {"request-id": "req_1"}, told)
    assert type(error) is expected
    assert (error.provider, error.status, error.error_type, error.request_id) == (
        "anthropic",
        status,
        error_type,
        "req_1",
    )
    assert message in str(error)


def test_a_compaction_comes_whole():
    """A compaction's delta is the block's content and its sealed part, to be sent back as they are;
    null is a failure.
    """
    told = {"type": "compaction_delta", "content": "so far", "encrypted_content": "sealed"}
    reply = folded(stream(*block(0, {"type": "compaction", "content": None}, told)))[-1].reply
    assert reply.message.content == [
        {"type": "compaction", "content": "so far", "encrypted_content": "sealed"}
    ]
    failed = {"type": "compaction_delta", "content": None}
    reply = folded(stream(*block(0, {"type": "compaction", "content": None}, failed)))[-1].reply
    assert reply.message.content == [{"type": "compaction", "content": None}]


def test_a_delta_that_is_new_loses_nothing():
    """An unknown delta is merged into its block: text and lists are appended, other values
    replaced.
    """
    start = {"type": "hologram", "beam": "a", "parts": [1]}
    deltas = [
        {"type": "hologram_delta", "beam": "b", "parts": [2], "depth": 3},
        {"type": "hologram_delta", "beam": "c"},
    ]
    reply = folded(stream(*block(0, start, *deltas)))[-1].reply
    assert reply.message.content == [
        {"type": "hologram", "beam": "abc", "parts": [1, 2], "depth": 3}
    ]


# Indexes that are used again


def call_block(index, own_id, name, arguments=None):
    deltas = [{"type": "input_json_delta", "partial_json": arguments}] if arguments else []
    return block(index, {"type": "tool_use", "id": own_id, "name": name, "input": {}}, *deltas)


def test_each_call_keeps_its_own_arguments_where_an_index_is_used_again():
    """A block that starts at the index of one that has stopped is another block, and both are kept,
    in their order.
    """
    said = block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "hi"})
    events = folded(stream(*call_block(0, "a", "f", '{"a": 1}'), *said, *call_block(0, "b", "g")))
    wanted = [ToolCall(id="a", name="f", arguments={"a": 1}), ToolCall(id="b", name="g")]
    assert [event.call for event in events if isinstance(event, ToolCallReady)] == wanted
    assert events[-1].reply.tool_calls == wanted
    assert [one["type"] for one in events[-1].reply.message.blocks] == [
        "tool_use",
        "text",
        "tool_use",
    ]


def test_a_block_that_starts_at_an_open_index_is_refused():
    """An index cannot be used twice while its block is open: the deltas would be ambiguous."""
    opened = list(call_block(0, "a", "f", '{"a": 1}'))[:-1]
    with pytest.raises(ValueError, match="index 0 while another one is open"):
        folded(stream(*opened, *call_block(0, "b", "g")))


def test_blocks_that_start_out_of_order_are_in_the_order_of_their_indexes():
    """The index orders the blocks of a reply, as long as no two blocks share one."""
    late = block(1, {"type": "text", "text": "b"})
    early = block(0, {"type": "text", "text": "a"})
    assert folded(stream(*late, *early))[-1].reply.text == "ab"


def test_a_second_message_in_a_stream_is_refused():
    """A message_start with another id, or with none, while a message is open; one that repeats the
    id changes nothing.
    """
    hello = block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "hi"})
    first = next(stream())
    repeated = {
        "type": "message_start",
        "message": dict(first["message"], usage={"input_tokens": 1}),
    }
    reply = folded(stream(*hello, repeated))[-1].reply
    assert (reply.text, reply.usage.input_tokens) == ("hi", 9)
    for message in ({"id": "other", "content": []}, {"content": []}, {"id": 5}):
        with pytest.raises(ValueError, match="a second message"):
            folded(stream({"type": "message_start", "message": message}))


def test_a_block_may_be_in_the_message_start_and_start_again():
    """A block that message_start brought is the one that starts at its index, and is not there
    twice.
    """
    start = {
        "type": "message_start",
        "message": {"id": "i", "content": [{"type": "text", "text": ""}]},
    }
    rest = list(
        stream(*block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "hi"}))
    )[1:]
    assert folded([start] + rest)[-1].reply.message.content == [{"type": "text", "text": "hi"}]


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
    ids=lambda one: one["type"],
)
def test_a_delta_of_another_kind_than_its_block_is_refused(start, delta):
    """Its text would be lost for the reply, and sent back in a block that cannot have it."""
    with pytest.raises(ValueError, match="a delta of .* for a block of type " + start["type"]):
        folded(stream(*block(0, start, delta)))


def test_a_new_kind_of_block_takes_any_delta():
    """A block of an unknown type accepts any delta."""
    made = block(
        0,
        {"type": "hologram"},
        {"type": "text_delta", "text": "a"},
        {"type": "input_json_delta", "partial_json": "{}"},
    )
    assert folded(stream(*made))[-1].reply.message.content == [
        {"type": "hologram", "text": "a", "input": {}}
    ]


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "text", "text": 5},
        {"type": "text", "text": ["a"]},
        {"type": "thinking", "thinking": {}},
        {"type": ["text"]},
        {"type": 1},
    ],
    ids=str,
)
def test_invalid_block_type_or_text(odd):
    """In a stream, at the start of the message, by a delta of an unknown kind, and in an answer in
    one piece.
    """
    kind = odd["type"] if odd["type"] in ("text", "thinking") else "hologram"
    delta = dict(odd, type="new_delta")
    told = [stream(*block(0, odd)), [{"type": "message_start", "message": {"content": [odd]}}]]
    if kind != "hologram":
        told.append(stream(*block(0, {"type": kind}, delta)))
    for events in told:
        with pytest.raises(ValueError, match="must be a string"):
            folded(events)
    with pytest.raises(ValueError, match="must be a string"):
        decode_reply({"type": "message", "content": [odd], "stop_reason": "end_turn"})


@pytest.mark.parametrize(
    "index", [float("inf"), float("nan"), 1.9, None, True, [0], {}, "x"], ids=str
)
def test_invalid_block_index(index):
    """ValueError, which is the wire's; an index like 0.0 is the whole number that it is."""
    with pytest.raises(ValueError):
        folded(stream(*block(index, {"type": "text", "text": ""})))
    text = block(0.0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "hi"})
    assert folded(stream(*text))[-1].reply.text == "hi"


@pytest.mark.parametrize(
    "figure",
    [-5, 1.9, float("inf"), float("nan"), True, "5", None, 10**400],
    ids=lambda one: str(one)[:9],
)
def test_invalid_usage_figures(figure):
    """Usage counts whole numbers from 0 on, and a reply is not lost for another one."""
    reply = folded(stream(usage={"input_tokens": figure, "output_tokens": 4}))[-1].reply
    assert reply.usage == Usage(
        input_tokens=9 if figure is None else 0, output_tokens=4, requests=1
    )
