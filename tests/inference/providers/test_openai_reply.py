"""The codec of chat completions: chunks and bodies to a reply, errors to their classes."""

import json

import pytest
from hypothesis import given, strategies as st

from asimov_sync import (
    AuthenticationError,
    ContextLengthExceeded,
    InferenceError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ProviderError,
    RateLimitError,
    ReplyDone,
    StreamInterrupted,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolCallReady,
    Usage,
)
from asimov_sync.inference.http.sse import SSEParser
from asimov_sync.inference.providers.fold import fold_stream
from asimov_sync.inference.providers.openai.errors import decode_error
from asimov_sync.inference.providers.openai.reply import ChatFold, decode_reply
from asimov_sync.inference.providers.openai.request import encode_request
from asimov_sync.inference.request import Request

from ...tiers import positions, suite


def text(value):
    return {"type": "text", "text": value}


def chunk(delta=None, finish=None, **more):
    choice = {"index": 0, "finish_reason": finish}
    if delta is not None:
        choice["delta"] = delta
    return dict({"id": "c1", "model": "m", "choices": [choice]}, **more)


def piece(arguments=None, index=0, **more):
    """Return a piece of a tool call. more: id, name."""
    function = {
        key: value
        for key, value in (("name", more.pop("name", None)), ("arguments", arguments))
        if value is not None
    }
    return chunk(
        {
            "tool_calls": [
                dict(
                    {"function": function},
                    **dict({} if index is None else {"index": index}, **more),
                )
            ]
        }
    )


FINAL = "[DONE]"
END = [chunk({}, "stop"), FINAL]


def feed(*chunks):
    """Return the events of these chunks, and the fold."""
    fold = ChatFold("test")
    events = []
    for data in chunks:
        events.extend(fold.feed_text(data if isinstance(data, str) else json.dumps(data)))
    return events, fold


def reply_of(*chunks):
    events, fold = feed(*chunks)
    assert isinstance(events[-1], ReplyDone) and fold.done
    return events[-1].reply


def hello_chunk(**more):
    return chunk({"role": "assistant", "content": "hello"}, **more)


FIGURES = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


@pytest.mark.parametrize(
    "chunks",
    [
        [hello_chunk(), chunk({}, "stop"), {"choices": [], "usage": FIGURES}],
        [hello_chunk(), chunk({}, "stop", usage=FIGURES)],
        [
            hello_chunk(usage={"prompt_tokens": 10, "completion_tokens": None}),
            chunk({}, "stop", usage=FIGURES),
        ],
        [
            hello_chunk(usage=dict(FIGURES, completion_tokens=1)),
            chunk({}, "stop", usage=FIGURES),
            {"choices": [], "usage": FIGURES},
        ],
        [hello_chunk(), chunk({}, "stop"), chunk({}, "stop", usage=FIGURES)],
        [hello_chunk(), chunk({}, "stop", x_groq={"usage": FIGURES})],
        [hello_chunk(), {"choices": [{"delta": {}, "finish_reason": "stop", "usage": FIGURES}]}],
        [
            hello_chunk(),
            chunk({}, "stop", usage=FIGURES),
            {"choices": [], "usage": None},
            {"choices": None},
        ],
    ],
)
def test_usage_in_any_chunk(chunks):
    """The last usage figures count, wherever a server sends them; they are never added."""
    assert reply_of(*(chunks + [FINAL])).usage == Usage(
        input_tokens=10, output_tokens=4, requests=1
    )


@pytest.mark.parametrize(
    "figures, expected",
    [
        (
            {"prompt_tokens_details": {"cached_tokens": 8}},
            {"input_tokens": 2, "cache_read_input_tokens": 8},
        ),
        (
            {"prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 6}},
            {"input_tokens": 1, "cache_read_input_tokens": 3, "cache_write_input_tokens": 6},
        ),
        (
            {"prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 2},
            {"input_tokens": 2, "cache_read_input_tokens": 8},
        ),
        (
            {"prompt_tokens_details": {"cached_tokens": 161}},
            {"input_tokens": 10, "cache_read_input_tokens": 161},
        ),
        ({"completion_tokens_details": {"reasoning_tokens": 3}}, {"reasoning_tokens": 3}),
        (
            {"completion_tokens_details": {"reasoning_tokens": 9}, "total_tokens": 23},
            {"output_tokens": 13, "reasoning_tokens": 9},
        ),
        (
            {"prompt_tokens": "many", "completion_tokens": -3, "prompt_tokens_details": 7},
            {"input_tokens": 0, "output_tokens": 0},
        ),
        ({"prompt_tokens_details": None, "completion_tokens_details": None}, {}),
    ],
)
def test_usage_of_each_server(figures, expected):
    """Cached tokens are not input, reasoning is output, and invalid figures are 0."""
    usage = reply_of(hello_chunk(), chunk({}, "stop", usage=dict(FIGURES, **figures)), FINAL).usage
    assert usage == Usage(
        **dict({"input_tokens": 10, "output_tokens": 4, "requests": 1}, **expected)
    )


@pytest.mark.parametrize("usage", [7, [], "many", {"prompt_tokens": None}])
def test_invalid_usage(usage):
    """Invalid usage does not make a reply fail."""
    assert (
        reply_of(hello_chunk(usage=usage), chunk({}, "stop", usage=usage, x_groq=usage), FINAL).text
        == "hello"
    )


@pytest.mark.parametrize(
    "pieces, calls",
    [
        ([piece("", id="a", name="f"), piece('{"x"'), piece(": 1}")], [("a", "f", {"x": 1})]),
        ([piece('{"x": 1}', id="a", name="f")], [("a", "f", {"x": 1})]),
        ([piece({"x": 1}, id="a", name="f")], [("a", "f", {"x": 1})]),
        (
            [piece("", id="a", name="f"), piece('{"x": 1', id="", name=""), piece("}", id="")],
            [("a", "f", {"x": 1})],
        ),
        (
            [
                piece("", id="a", name="f"),
                piece("{}", id="a", name="f"),
                piece("", id="a", name="f"),
            ],
            [("a", "f", {})],
        ),
        ([piece(None, id="a", name="f")], [("a", "f", {})]),
        (
            [piece("{}", id="a", name="f", index=None), piece("{}", id="b", name="g", index=None)],
            [("a", "f", {}), ("b", "g", {})],
        ),
        ([piece("{", id="a", name="f", index=None), piece("}", index=None)], [("a", "f", {})]),
        (
            [piece("{}", id="a", name="f"), piece("{}", id="b", name="f")],
            [("a", "f", {}), ("b", "f", {})],
        ),
        (
            [piece("{}", name="f"), piece('{"x": 1}', name="f")],
            [("call_c1_0", "f", {}), ("call_c1_1", "f", {"x": 1})],
        ),
        (
            [piece("", name="f"), piece("", name="g")],
            [("call_c1_0", "f", {}), ("call_c1_1", "g", {})],
        ),
        (
            [piece("{}", id="a", name="f"), piece("{}", id="a", name="g", index=1)],
            [("a", "f", {}), ("call_c1_1", "g", {})],
        ),
        (
            [
                piece('{"x"', id="a", name="f"),
                piece('{"y"', 1, id="b", name="g"),
                piece(": 1}"),
                piece(": 2}", 1),
            ],
            [("a", "f", {"x": 1}), ("b", "g", {"y": 2})],
        ),
        (
            [
                piece("{}", id="a", name="f"),
                chunk({}, "tool_calls"),
                piece("{}", 1, id="b", name="g"),
            ],
            [("a", "f", {}), ("b", "g", {})],
        ),
        (
            [
                chunk({"function_call": {"name": "f", "arguments": '{"x":'}}),
                chunk({"function_call": {"arguments": "1}"}}),
            ],
            [("call_c1_0", "f", {"x": 1})],
        ),
    ],
)
def test_tool_calls_in_pieces(pieces, calls):
    """A call in pieces is complete, has a unique id and is announced once, however it is split."""
    events, _ = feed(*(pieces + [chunk({}, "tool_calls"), FINAL]))
    reply = events[-1].reply
    parsed = [(call.id, call.name, call.arguments) for call in reply.tool_calls]
    assert parsed == calls
    assert sorted(
        (event.call for event in events if isinstance(event, ToolCallReady)),
        key=lambda call: call.id,
    ) == sorted(reply.tool_calls, key=lambda call: call.id)
    assert [
        (block["id"], block["name"], block["input"])
        for block in reply.message.content
        if block["type"] == "tool_use"
    ] == calls
    assert (reply.stop_reason, reply.raw_stop_reason) == ("tool_use", "tool_calls")


def test_event_of_a_complete_call():
    """A complete call is yielded as soon as the next one starts."""
    events, _ = feed(piece("{}", id="a", name="f"), piece("", 1, id="b", name="g"))
    assert events == [ToolCallReady(ToolCall(id="a", name="f"))]


@pytest.mark.parametrize("text", ['{"a": ', "[1]", "nonsense"])
def test_malformed_arguments(text):
    """Arguments that are not a JSON object are kept in `malformed`, and `arguments` is empty."""
    events, _ = feed(piece(text, id="a", name="f"), chunk({}, "length"), FINAL)
    assert events[0].call == ToolCall(id="a", name="f", malformed=text)
    assert events[-1].reply.stop_reason == "max_tokens"


def test_length_of_generated_ids():
    """A generated id has at most 40 characters, OpenAI's limit."""
    first = dict(piece("{}", name="f"), id="chatcmpl-" + "x" * 80)
    assert len(reply_of(first, *END).tool_calls[0].id) <= 40


@pytest.mark.parametrize(
    "deltas, blocks",
    [
        (
            [{"content": "a", "reasoning_content": None}, {"content": ""}, {"content": None}, {}],
            [text("a")],
        ),
        ([{"content": [text("a"), "b"]}, {"content": [text("")]}, {"content": "c"}], [text("abc")]),
        (
            [
                {"content": [{"type": "thinking", "thinking": [text("h")]}]},
                {"content": [{"type": "thinking", "thinking": "m"}, text("a")]},
            ],
            [{"type": "thinking", "thinking": "hm", "field": "content"}, text("a")],
        ),
        (
            [{"content": "a"}, {"content": [{"type": "chart", "x": 1}]}, {"content": "b"}],
            [text("a"), {"type": "chart", "x": 1, "field": "content"}, text("b")],
        ),
        ([{"content": {"a": "é"}}], [text('{"a": "é"}')]),
        (
            [{"reasoning_content": "h", "reasoning": "h"}, {"reasoning_content": "m"}],
            [("hm", {"field": "reasoning_content"})],
        ),
        (
            [
                {
                    "reasoning": "h",
                    "reasoning_details": [
                        {"type": "reasoning.text", "text": "h", "index": 0, "format": None}
                    ],
                },
                {
                    "reasoning": "m",
                    "reasoning_details": [
                        {"type": "reasoning.text", "text": "m", "index": 0, "format": "f"}
                    ],
                },
                {"reasoning_details": [{"type": "reasoning.text", "signature": "s", "index": 0}]},
                {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x", "index": 1}]},
            ],
            [
                (
                    "hm",
                    {
                        "field": "reasoning",
                        "reasoning_details": [
                            {
                                "type": "reasoning.text",
                                "text": "hm",
                                "index": 0,
                                "format": "f",
                                "signature": "s",
                            },
                            {"type": "reasoning.encrypted", "data": "x", "index": 1},
                        ],
                    },
                )
            ],
        ),
        (
            [{"refusal": ""}, {"refusal": "I "}, {"refusal": "won't"}],
            [{"type": "text", "text": "I won't", "refusal": True}],
        ),
        (
            [{"content": "a"}, {"annotations": [{"n": 1}]}, {"annotations": [{"n": 1}, {"n": 2}]}],
            [dict(text("a"), annotations=[{"n": 1}, {"n": 2}])],
        ),
        (
            [
                {"audio": {"id": "a1"}},
                {"audio": {"data": "QU", "transcript": "He"}},
                {"audio": {"data": "JD", "transcript": "y"}},
            ],
            [
                {
                    "type": "audio",
                    "audio": {"id": "a1", "data": "QUJD", "transcript": "Hey"},
                    "field": "message",
                }
            ],
        ),
        (
            [
                {"executed_tools": [{"index": 0}]},
                {"executed_tools": [{"index": 0, "output": "o"}, {"index": 1}]},
            ],
            [
                {
                    "type": "executed_tools",
                    "executed_tools": [{"index": 0, "output": "o"}, {"index": 1}],
                    "field": "message",
                }
            ],
        ),
        (
            [
                {
                    "content": "a",
                    "token_id": 5,
                    "channel": "final",
                    "type": {"x": 1},
                    "text": {"x": 1},
                }
            ],
            [text("a")],
        ),
    ],
)
def test_fields_of_a_delta(deltas, blocks):
    """Text, reasoning, refusals and unknown fields become blocks; empty values add nothing."""
    blocks = [
        dict({"type": "thinking", "thinking": expected[0]}, **expected[1])
        if isinstance(expected, tuple)
        else expected
        for expected in blocks
    ]
    events, _ = feed(*([chunk(delta) for delta in deltas] + END))
    reply = events[-1].reply
    assert reply.message.content == blocks
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == reply.text
    thinking = "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    assert "".join(event.text for event in events if isinstance(event, ThinkingDelta)) == thinking


def test_citations_outside_the_choices():
    """Perplexity's sources are kept verbatim in the text block."""
    reply = reply_of(
        hello_chunk(citations=["http://a"], search_results=[{"url": "http://a"}]), *END
    )
    assert reply.message.content == [
        dict(text("hello"), citations=["http://a"], search_results=[{"url": "http://a"}])
    ]


def test_other_choices():
    """Choices after the first neither add content nor end the reply."""
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]}
    assert reply_of(other, hello_chunk(), other, *END).text == "hello"
    events, fold = feed(hello_chunk(), other, FINAL)
    assert not fold.done


@pytest.mark.parametrize(
    "first",
    [{"choices": []}, chunk(None), chunk({}), {"choices": [{"delta": None}]}, {"choices": None}],
)
def test_empty_chunks(first):
    """A chunk without choices or without a delta adds nothing."""
    assert reply_of(first, hello_chunk(), *END).text == "hello"


def test_whole_message_as_a_chunk():
    """A chunk may hold the whole message."""
    assert (
        reply_of(
            {"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}, FINAL
        ).text
        == "hello"
    )


@pytest.mark.parametrize(
    "raw_reason, reason",
    [
        ("stop", "end_turn"),
        ("eos", "end_turn"),
        ("STOP", "end_turn"),
        ("length", "max_tokens"),
        ("model_length", "model_context_window_exceeded"),
        ("content_filter", "refusal"),
        ("tool_calls", "tool_use"),
        ("brand_new", "brand_new"),
    ],
)
def test_stop_reasons(raw_reason, reason):
    """Stop reasons become Anthropic's terms. Unknown reasons and the raw one are unchanged."""
    reply = reply_of(hello_chunk(), chunk({}, raw_reason), FINAL)
    assert (reply.stop_reason, reply.raw_stop_reason) == (reason, raw_reason)


def test_contradictory_stop_reasons():
    """A "stop" with calls is "tool_use", one with a refusal "refusal"; "length" is "max_tokens"."""
    call = piece("{}", id="a", name="f")
    assert reply_of(call, *END).stop_reason == "tool_use"
    assert reply_of(call, chunk({}, "length"), FINAL).stop_reason == "max_tokens"
    assert reply_of(chunk({"refusal": "no"}), *END).stop_reason == "refusal"


@pytest.mark.parametrize(
    "chunks, whole",
    [
        ([hello_chunk(), chunk({}, "stop"), FINAL], True),
        ([hello_chunk(), FINAL], False),
        ([FINAL], False),
        ([{"choices": [], "usage": FIGURES}, FINAL], False),
        ([hello_chunk(), chunk({}, ""), FINAL], False),
        # Snowflake, and OpenRouter for some models, send the totals without a reason.
        ([hello_chunk(), {"choices": [], "usage": FIGURES}, FINAL], True),
        ([hello_chunk(), chunk({"content": ""}, usage=FIGURES), FINAL], True),
        # Figures in every chunk are not the totals.
        ([hello_chunk(usage=FIGURES), FINAL], False),
        ([hello_chunk(), chunk({}, usage=FIGURES), hello_chunk(), FINAL], False),
    ],
)
def test_final_event(chunks, whole):
    """[DONE] ends a reply only after its finish reason or its final usage."""
    _, fold = feed(*chunks)
    assert fold.done is whole
    assert (fold.partial().stop_reason is not None) is whole
    if whole and chunks[1].get("usage"):
        assert (fold.partial().stop_reason, fold.partial().raw_stop_reason) == ("end_turn", None)


@pytest.mark.parametrize(
    "chunks, delimited, whole",
    [
        ([hello_chunk()], True, False),
        ([hello_chunk(), chunk({}, "stop")], True, True),
        ([hello_chunk(), chunk({}, "stop")], False, False),
        ([hello_chunk(), chunk({}, "stop", usage=FIGURES)], False, True),
        ([hello_chunk(), chunk({}, "stop"), {"choices": [], "usage": FIGURES}], False, True),
        ([hello_chunk(usage=FIGURES), chunk({}, "stop")], False, False),
        ([hello_chunk(), {"choices": [], "usage": FIGURES}], True, False),
        ([], True, False),
    ],
)
def test_missing_final_event(chunks, delimited, whole):
    """Without [DONE], a reply needs a finish reason and then a marked end or the final usage."""
    _, fold = feed(*chunks)
    events = fold.finish(delimited)
    assert [event.type for event in events] == (["reply_done"] if whole else [])
    assert fold.done is whole


@pytest.mark.parametrize(
    "error_chunk, expected",
    [
        ({"error": {"message": "busy", "code": 502}}, ProviderError),
        (dict(chunk({}, "error"), error={"message": "slow down", "code": 429}), RateLimitError),
        (
            {"error": {"message": "bad tool", "code": "tool_use_failed", "status_code": 400}},
            InvalidRequestError,
        ),
        ({"error": {"message": "no", "type": "invalid_request_error"}}, InvalidRequestError),
        ({"error": "out of memory"}, ProviderError),
        ({"object": "error", "message": "no such model", "code": 404}, NotFoundError),
        (chunk({"content": ""}, "error"), ProviderError),
        (chunk({}, "insufficient_system_resource"), OverloadedError),
        (chunk({}, "abort"), ProviderError),
    ],
)
def test_error_inside_a_stream(error_chunk, expected):
    """An error in a chunk, or a finish reason that means a failure, raises the matching error."""
    with pytest.raises(expected) as caught:
        feed(hello_chunk(), error_chunk, FINAL)
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    "invalid",
    [
        "null",
        "[1]",
        "12",
        "nonsense",
        "[" * 100000,
        {"choices": 7},
        {"choices": {"a": 1}},
        {"choices": [None]},
        chunk(7),
        chunk({"content": 7}),
        chunk({"content": [7]}),
        chunk({"content": [{"no": "type"}]}),
        chunk({"content": [{"type": "text", "text": 7}]}),
        chunk({"content": [{"type": "thinking", "thinking": 7}]}),
        chunk({"refusal": 7}),
        chunk({"audio": [7]}),
        chunk({"reasoning": {"a": 1}}),
        chunk({"reasoning_details": "text"}),
        chunk({"tool_calls": 7}),
        chunk({"tool_calls": ["f"]}),
        chunk({"tool_calls": [{"function": "f"}]}),
        chunk({"tool_calls": [{"function": {"name": "f", "arguments": 7}}]}),
        chunk({}, 7),
        chunk({}, ["stop"]),
    ],
    ids=lambda data: (data if isinstance(data, str) else json.dumps(data["choices"]))[:60],
)
def test_malformed_events(invalid):
    """A malformed event is a StreamInterrupted with the partial reply, never a raw exception."""
    fold = ChatFold("test")
    events = [
        data if isinstance(data, str) else json.dumps(data)
        for data in [hello_chunk(), invalid] + END
    ]
    with pytest.raises(StreamInterrupted) as caught:
        list(fold_stream(fold, events, fold.feed_text, "test", None, lambda: True))
    assert caught.value.text == "hello"
    assert caught.value.partial.stop_reason is None


NAMES = (
    "annotations arguments audio choices citations code content data delta error extra_content "
    "field finish_reason function "
    "function_call id images index message model name reasoning reasoning_content "
    "reasoning_details refusal role text "
    "thinking tool_calls transcript type usage x_groq"
).split()
ANY_JSON = st.recursive(
    st.sampled_from([None, "", "text", "thinking", "stop", "{}", 0, 7, True, 1.5]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=8,
)


@suite
@given(
    deltas=st.lists(st.dictionaries(st.sampled_from(NAMES), ANY_JSON, max_size=4), max_size=4),
    last=ANY_JSON,
)
def test_arbitrary_json(deltas, last):
    """Arbitrary JSON gives a reply that can be sent back, or an error of this library."""
    fold = ChatFold("test")
    events = [
        json.dumps(data) for data in [hello_chunk()] + [chunk(delta) for delta in deltas] + [last]
    ] + [
        json.dumps(END[0]),
        FINAL,
    ]
    try:
        reply = list(fold_stream(fold, events, fold.feed_text, "test", None, lambda: True))[
            -1
        ].reply
    except InferenceError as error:
        reply = error.partial
    assert reply.text.startswith("hello")
    message = encode_request(Request("m", [reply.message], None, [], {}))["messages"][0]
    assert json.loads(json.dumps(message)) == message
    try:
        decode_reply(
            "test",
            {"choices": [{"message": dict(*deltas[:1]), "finish_reason": "stop"}], "usage": last},
        )
    except (AttributeError, KeyError, TypeError, ValueError, InferenceError):
        pass  # handled by the client


def test_piece_of_a_complete_call():
    """A further piece of a call that was already yielded as complete interrupts the stream."""
    with pytest.raises(ValueError, match="whole before"):
        feed(piece("{}", id="a", name="f"), piece("{}", 1, id="b", name="f"), piece("!"))


# Cut and split


def to_sse(*chunks, end="\n\n"):
    return "".join(
        f"data: {data if isinstance(data, str) else json.dumps(data)}{end}" for data in chunks
    ).encode()


WORDS = [
    chunk({"content": word})
    for word in "naïve words — every one of them “counts”, and U+2028:\u2028 too".split(" ")
]
LONG = (
    [
        {"choices": [], "prompt_filter_results": []},
        chunk({"role": "assistant", "content": "", "refusal": None}),
    ]
    + [chunk({"reasoning_content": word}) for word in ("let me ", "think ", "first")]
    + WORDS
    + [
        piece("", id="a", name="f"),
        piece('{"x"'),
        piece(': "é"}'),
        piece('{"y": 2}', 1, id="b", name="g"),
        piece("", 1),
    ]
    + [chunk({"content": "and "}), chunk({"content": "done"})]
)
STREAMS = {
    "with all": LONG + [chunk({}, "tool_calls"), {"choices": [], "usage": FIGURES}, FINAL],
    "without figures": LONG + [chunk({}, "tool_calls"), FINAL],
    "without the final event": LONG + [chunk({}, "tool_calls", usage=FIGURES)],
    "without a reason": LONG + [{"choices": [], "usage": FIGURES}, FINAL],
    "with figures on each": [dict(data, usage=FIGURES) for data in LONG]
    + [chunk({}, "tool_calls", usage=FIGURES), FINAL],
}


def read_pieces(pieces, delimited):
    """Return the reply of a body in these pieces, or the StreamInterrupted."""
    parser, fold = SSEParser(), ChatFold("test")

    def wire():
        for chunk in pieces:
            for event in parser.feed(chunk):
                yield event[1]
        for event in parser.finish():
            yield event[1]

    try:
        events = list(
            fold_stream(fold, filter(None, wire()), fold.feed_text, "test", None, lambda: delimited)
        )
    except StreamInterrupted as interrupted:
        return interrupted
    return events[-1].reply


@suite
@pytest.mark.parametrize("name", sorted(STREAMS))
@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"], ids=["LF", "CRLF"])
def test_split_at_every_byte(name, end):
    """A stream that arrives in any two pieces, or byte by byte, gives the same reply."""
    stream = to_sse(*STREAMS[name], end=end)
    assert len(STREAMS[name]) >= 22
    whole = read_pieces([stream], False)
    assert [call.arguments for call in whole.tool_calls] == [{"x": "é"}, {"y": 2}]
    assert (
        read_pieces([stream[position : position + 1] for position in range(len(stream))], False)
        == whole
    )
    for position in positions(len(stream)):
        assert read_pieces([stream[:position], stream[position:]], False) == whole


@suite
@pytest.mark.parametrize("name", sorted(STREAMS))
@pytest.mark.parametrize("delimited", [False, True])
def test_cut_at_every_byte(name, delimited):
    """A cut stream gives the whole reply, or a StreamInterrupted with the partial reply."""
    stream = to_sse(*STREAMS[name])
    whole = read_pieces([stream], delimited)
    complete = interrupted = 0
    for position in positions(len(stream)):
        result = read_pieces([stream[:position]], delimited)
        if isinstance(result, StreamInterrupted):
            interrupted += 1
            assert result.partial.stop_reason is None
            assert whole.text.startswith(result.text)
        else:
            complete += 1
            assert (result.message, result.tool_calls, result.stop_reason) == (
                whole.message,
                whole.tool_calls,
                whole.stop_reason,
            )
            assert result.usage in (whole.usage, Usage(requests=1))
    # Only the end after the last word may be missing: figures, the final event, blank lines.
    assert complete <= len(to_sse(*STREAMS[name][len(LONG) :]))
    assert complete + interrupted == len(positions(len(stream))) and interrupted > 0


# A round trip

WORD = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | WORD,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
CALLS = st.lists(st.tuples(WORD, st.dictionaries(WORD, VALUES, max_size=3)), max_size=3)


@given(
    reasoning=st.lists(WORD, max_size=4),
    words=st.lists(WORD, max_size=6),
    calls=CALLS,
    cuts=st.lists(st.integers(1, 9)),
)
def test_a_stream_folds_to_its_reply(reasoning, words, calls, cuts):
    """A reply in any pieces equals the original, and its message is sent back unchanged."""
    chunks = [chunk({"reasoning_content": word}) for word in reasoning] + [
        chunk({"content": word}) for word in words
    ]
    for index, (name, arguments) in enumerate(calls):
        text = json.dumps(arguments)
        size = cuts[index % len(cuts)] if cuts else len(text)
        chunks.append(piece("", index, id=f"id{index}", name=name))
        chunks += [piece(text[start : start + size], index) for start in range(0, len(text), size)]
    reply = reply_of(*(chunks + END))
    assert reply.text == "".join(words)
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [
        (f"id{index}", name, arguments) for index, (name, arguments) in enumerate(calls)
    ]
    message_sent = encode_request(Request("m", [reply.message], None, [], {}))["messages"][0]
    assert message_sent.get("reasoning_content", "") == "".join(reasoning)
    assert (message_sent["content"] or "") == "".join(words)
    assert [
        json.loads(call["function"]["arguments"]) for call in message_sent.get("tool_calls", [])
    ] == [expected_arguments for _, expected_arguments in calls]
    message = dict(message_sent, role="assistant")
    assert (
        decode_reply("test", {"choices": [{"message": message, "finish_reason": "stop"}]}).message
        == reply.message
    )


# Whole replies


def test_calls_of_a_whole_reply():
    """In a whole reply each element is one call, whatever its index and id."""
    calls = [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"index": 0, "function": {"name": "f"}},
    ]
    reply = decode_reply(
        "test",
        {"id": "c1", "choices": [{"message": {"tool_calls": calls}, "finish_reason": "stop"}]},
    )
    assert [(call.id, call.name) for call in reply.tool_calls] == [("a", "f"), ("call_c1_1", "f")]


@pytest.mark.parametrize(
    "invalid",
    [
        [],
        "text",
        {},
        {"choices": []},
        {"choices": [{"index": 1, "message": {}}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": None}}]},
        {"choices": [{"text": "completion"}]},
    ],
    ids=json.dumps,
)
def test_body_without_a_reply(invalid):
    """A body of another shape raises an error that the client turns into a ProviderError."""
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        decode_reply("test", invalid)


def test_error_with_the_status_200():
    """A body with an error instead of a reply raises the matching error."""
    with pytest.raises(InvalidRequestError, match="filtered"):
        decode_reply(
            "test", {"error": {"message": "filtered", "code": "content_filter", "status": 400}}
        )


# Errors


def openai_error(kind, code=None, message="oh", param=None):
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@pytest.mark.parametrize(
    "status, body, expected, error_type",
    [
        (
            400,
            openai_error("invalid_request_error", "unsupported_value"),
            InvalidRequestError,
            "unsupported_value",
        ),
        (
            400,
            openai_error("invalid_request_error", "context_length_exceeded"),
            ContextLengthExceeded,
            "context_length_exceeded",
        ),
        (
            400,
            openai_error("exceed_context_size_error", 400),
            ContextLengthExceeded,
            "exceed_context_size_error",
        ),
        (
            400,
            openai_error("invalid_request_error", None, "maximum context length is 9"),
            ContextLengthExceeded,
            "invalid_request_error",
        ),
        (
            401,
            openai_error("invalid_request_error", "invalid_api_key"),
            AuthenticationError,
            "invalid_api_key",
        ),
        (401, openai_error("invalid_request_error"), AuthenticationError, "invalid_request_error"),
        (
            402,
            {"error": {"message": "Insufficient credits", "code": 402}},
            PermissionDeniedError,
            None,
        ),
        (
            403,
            openai_error("x", "unsupported_country_region_territory"),
            PermissionDeniedError,
            "unsupported_country_region_territory",
        ),
        (
            404,
            openai_error("invalid_request_error", "model_not_found"),
            NotFoundError,
            "model_not_found",
        ),
        (404, {"detail": "Not Found"}, NotFoundError, None),
        (404, "404 page not found", NotFoundError, None),
        (
            422,
            {
                "detail": [
                    {"loc": ["body", "messages", 0], "msg": "field required", "type": "missing"}
                ]
            },
            InvalidRequestError,
            "missing",
        ),
        (
            422,
            {"object": "error", "message": {"detail": [{"msg": "m", "loc": ["x"]}]}},
            InvalidRequestError,
            None,
        ),
        (
            429,
            openai_error("insufficient_quota", "insufficient_quota"),
            PermissionDeniedError,
            "insufficient_quota",
        ),
        (429, openai_error("tokens", "rate_limit_exceeded"), RateLimitError, "rate_limit_exceeded"),
        (
            429,
            {
                "object": "error",
                "message": "Rate limit exceeded",
                "type": "rate_limited",
                "code": "1300",
            },
            RateLimitError,
            "1300",
        ),
        (429, openai_error("engine_overloaded_error"), OverloadedError, "engine_overloaded_error"),
        (
            429,
            [{"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED"}}],
            RateLimitError,
            None,
        ),
        (500, openai_error("server_error"), ProviderError, "server_error"),
        (
            503,
            {"errors": [{"code": 10000, "message": "no"}], "success": False},
            ProviderError,
            None,
        ),
        (503, {"error": "overloaded"}, ProviderError, None),
        (503, "<html>bad gateway</html>", ProviderError, None),
        (500, "", ProviderError, None),
        (500, None, ProviderError, None),
        (500, [], ProviderError, None),
        (500, {"error": {"code": {"a": 1}, "type": ["b"], "message": 7}}, ProviderError, None),
    ],
)
def test_classes_of_errors(status, body, expected, error_type):
    """Status and error code, in any shape, determine the class. The error has the request id."""
    error = decode_error("openai", status, {"x-request-id": "req_1"}, body)
    assert type(error) is expected
    assert (error.provider, error.status, error.error_type, error.request_id) == (
        "openai",
        status,
        error_type,
        "req_1",
    )


@pytest.mark.parametrize(
    "body, message",
    [
        (
            openai_error("x", message="not supported", param="stop"),
            "not supported (parameter: stop)",
        ),
        (
            openai_error("x", message="'stop' is not supported", param="stop"),
            "'stop' is not supported",
        ),
        (
            {"detail": [{"loc": ["body", "messages", 0], "msg": "required"}]},
            "required (parameter: messages.0)",
        ),
        ({"detail": "Not Found"}, "Not Found"),
        ({"error": "text"}, "text"),
        ({"message": "text"}, "text"),
        ("<html>\n", "<html>"),
        (
            {"error": {"message": "Provider returned error", "metadata": {"raw": "busy"}}},
            "Provider returned error: busy",
        ),
        ({"invalid": [1]}, '{"invalid": [1]}'),
        (None, "the provider gave no reason"),
    ],
)
def test_error_message(body, message):
    """The message is the server's, plus the name of the parameter if the message lacks it."""
    assert decode_error("openai", 418, {}, body).args == (message,)


def test_repeated_tool_call():
    """A call under both its new and its old name is one call, as llama-cpp-python sends it."""
    function = {"name": "f", "arguments": "{}"}
    delta = {
        "tool_calls": [{"index": 0, "id": "c", "type": "function", "function": function}],
        "function_call": function,
    }
    fold = ChatFold("test")
    fold.feed({"choices": [{"index": 0, "delta": delta, "finish_reason": "tool_calls"}]})
    assert [call.name for call in fold.finish(True)[-1].reply.tool_calls] == ["f"]
    whole = {"choices": [{"message": dict(delta, content=None), "finish_reason": "tool_calls"}]}
    assert [call.name for call in decode_reply("test", whole).tool_calls] == ["f"]
