"""Chat completions, the reply: chunks and bodies to a reply, errors to their classes."""

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


def text(words):
    return {"type": "text", "text": words}


def chunk(delta=None, finish=None, **more):
    choice = {"index": 0, "finish_reason": finish}
    if delta is not None:
        choice["delta"] = delta
    return dict({"id": "c1", "model": "m", "choices": [choice]}, **more)


def piece(arguments=None, index=0, **more):
    """One piece of a tool call; more: id, name."""
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


def fed(*chunks):
    """The events of these chunks, and the fold."""
    fold = ChatFold("test")
    events = []
    for one in chunks:
        events.extend(fold.feed_text(one if isinstance(one, str) else json.dumps(one)))
    return events, fold


def reply_of(*chunks):
    events, fold = fed(*chunks)
    assert isinstance(events[-1], ReplyDone) and fold.done
    return events[-1].reply


def said_hello(**more):
    return chunk({"role": "assistant", "content": "hello"}, **more)


FIGURES = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


@pytest.mark.parametrize(
    "chunks",
    [
        [said_hello(), chunk({}, "stop"), {"choices": [], "usage": FIGURES}],
        [said_hello(), chunk({}, "stop", usage=FIGURES)],
        [
            said_hello(usage={"prompt_tokens": 10, "completion_tokens": None}),
            chunk({}, "stop", usage=FIGURES),
        ],
        [
            said_hello(usage=dict(FIGURES, completion_tokens=1)),
            chunk({}, "stop", usage=FIGURES),
            {"choices": [], "usage": FIGURES},
        ],
        [said_hello(), chunk({}, "stop"), chunk({}, "stop", usage=FIGURES)],
        [said_hello(), chunk({}, "stop", x_groq={"usage": FIGURES})],
        [said_hello(), {"choices": [{"delta": {}, "finish_reason": "stop", "usage": FIGURES}]}],
        [
            said_hello(),
            chunk({}, "stop", usage=FIGURES),
            {"choices": [], "usage": None},
            {"choices": None},
        ],
    ],
)
def test_usage_in_any_chunk(chunks):
    """Wherever a server tells its figures, and however often, the last ones count; they are never
    added.
    """
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
    """Cached tokens are no input, reasoning is output, nothing is counted twice or below nothing,
    and nonsense is nothing.
    """
    usage = reply_of(said_hello(), chunk({}, "stop", usage=dict(FIGURES, **figures)), FINAL).usage
    assert usage == Usage(
        **dict({"input_tokens": 10, "output_tokens": 4, "requests": 1}, **expected)
    )


@pytest.mark.parametrize("usage", [7, [], "many", {"prompt_tokens": None}])
def test_figures_never_spoil_a_reply(usage):
    """Unreadable usage does not make a reply fail."""
    assert (
        reply_of(said_hello(usage=usage), chunk({}, "stop", usage=usage, x_groq=usage), FINAL).text
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
    """However the pieces of calls are marked, each call comes whole, under an id of its own, and is
    announced once.
    """
    events, _ = fed(*(pieces + [chunk({}, "tool_calls"), FINAL]))
    reply = events[-1].reply
    made = [(call.id, call.name, call.arguments) for call in reply.tool_calls]
    assert made == calls
    assert sorted(
        (event.call for event in events if isinstance(event, ToolCallReady)), key=lambda one: one.id
    ) == sorted(reply.tool_calls, key=lambda one: one.id)
    assert [
        (b["id"], b["name"], b["input"]) for b in reply.message.content if b["type"] == "tool_use"
    ] == calls
    assert (reply.stop_reason, reply.raw_stop_reason) == ("tool_use", "tool_calls")


def test_a_call_is_announced_when_the_next_one_begins():
    """A call that is whole is handed on as soon as another begins, and before the end."""
    events, _ = fed(piece("{}", id="a", name="f"), piece("", 1, id="b", name="g"))
    assert events == [ToolCallReady(ToolCall(id="a", name="f"))]


@pytest.mark.parametrize("text", ['{"a": ', "[1]", "nonsense"])
def test_malformed_arguments(text):
    """Arguments that are not a JSON object are kept as text, and are no arguments."""
    events, _ = fed(piece(text, id="a", name="f"), chunk({}, "length"), FINAL)
    assert events[0].call == ToolCall(id="a", name="f", malformed=text)
    assert events[-1].reply.stop_reason == "max_tokens"


def test_ids_fit_every_server():
    """An id that is made up is no longer than OpenAI allows."""
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
    """Text, reasoning, refusals and unknown fields have their blocks; empty values add nothing."""
    blocks = [
        dict({"type": "thinking", "thinking": one[0]}, **one[1]) if isinstance(one, tuple) else one
        for one in blocks
    ]
    events, _ = fed(*([chunk(delta) for delta in deltas] + END))
    reply = events[-1].reply
    assert reply.message.content == blocks
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == reply.text
    thinking = "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    assert "".join(event.text for event in events if isinstance(event, ThinkingDelta)) == thinking


def test_citations_beside_the_choices():
    """Perplexity's sources are kept verbatim with the text that they are of."""
    reply = reply_of(said_hello(citations=["http://a"], search_results=[{"url": "http://a"}]), *END)
    assert reply.message.content == [
        dict(text("hello"), citations=["http://a"], search_results=[{"url": "http://a"}])
    ]


def test_only_the_first_choice_is_the_reply():
    """Other choices add neither text nor calls, nor do they end the reply."""
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]}
    assert reply_of(other, said_hello(), other, *END).text == "hello"
    events, fold = fed(said_hello(), other, FINAL)
    assert not fold.done


@pytest.mark.parametrize(
    "first",
    [{"choices": []}, chunk(None), chunk({}), {"choices": [{"delta": None}]}, {"choices": None}],
)
def test_chunks_that_say_nothing(first):
    """A chunk without choices or without a delta adds nothing."""
    assert reply_of(first, said_hello(), *END).text == "hello"


def test_a_whole_message_as_a_chunk():
    """A server that streams by sending its whole message at once is read."""
    assert (
        reply_of(
            {"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}, FINAL
        ).text
        == "hello"
    )


@pytest.mark.parametrize(
    "word, reason",
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
def test_why_it_stopped(word, reason):
    """Stop reasons become Anthropic's terms; the raw one is kept, an unknown one is unchanged."""
    reply = reply_of(said_hello(), chunk({}, word), FINAL)
    assert (reply.stop_reason, reply.raw_stop_reason) == (reason, word)


def test_stop_reasons_that_the_rest_contradicts():
    """A "stop" with calls is tool_use, one with a refusal is a refusal; a "length" stays one."""
    call = piece("{}", id="a", name="f")
    assert reply_of(call, *END).stop_reason == "tool_use"
    assert reply_of(call, chunk({}, "length"), FINAL).stop_reason == "max_tokens"
    assert reply_of(chunk({"refusal": "no"}), *END).stop_reason == "refusal"


@pytest.mark.parametrize(
    "chunks, whole",
    [
        ([said_hello(), chunk({}, "stop"), FINAL], True),
        ([said_hello(), FINAL], False),
        ([FINAL], False),
        ([{"choices": [], "usage": FIGURES}, FINAL], False),
        ([said_hello(), chunk({}, ""), FINAL], False),
        # Snowflake, and OpenRouter of some models, tell the totals and no reason.
        ([said_hello(), {"choices": [], "usage": FIGURES}, FINAL], True),
        ([said_hello(), chunk({"content": ""}, usage=FIGURES), FINAL], True),
        # Figures with each chunk are no totals.
        ([said_hello(usage=FIGURES), FINAL], False),
        ([said_hello(), chunk({}, usage=FIGURES), said_hello(), FINAL], False),
    ],
)
def test_final_event(chunks, whole):
    """[DONE] ends a reply only after its finish reason or its final usage."""
    _, fold = fed(*chunks)
    assert fold.done is whole
    assert (fold.partial().stop_reason is not None) is whole
    if whole and chunks[1].get("usage"):
        assert (fold.partial().stop_reason, fold.partial().raw_stop_reason) == ("end_turn", None)


@pytest.mark.parametrize(
    "chunks, delimited, whole",
    [
        ([said_hello()], True, False),
        ([said_hello(), chunk({}, "stop")], True, True),
        ([said_hello(), chunk({}, "stop")], False, False),
        ([said_hello(), chunk({}, "stop", usage=FIGURES)], False, True),
        ([said_hello(), chunk({}, "stop"), {"choices": [], "usage": FIGURES}], False, True),
        ([said_hello(usage=FIGURES), chunk({}, "stop")], False, False),
        ([said_hello(), {"choices": [], "usage": FIGURES}], True, False),
        ([], True, False),
    ],
)
def test_an_end_without_the_final_event(chunks, delimited, whole):
    """Where [DONE] never comes, the reason and an announced end, or figures after it, make the
    reply whole.
    """
    _, fold = fed(*chunks)
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
def test_an_error_inside_a_stream(error_chunk, expected):
    """An error in a chunk, or the finish reason of a failure, is raised as its error with the
    partial reply.
    """
    with pytest.raises(expected) as caught:
        fed(said_hello(), error_chunk, FINAL)
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    "odd",
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
    ids=lambda odd: (odd if isinstance(odd, str) else json.dumps(odd["choices"]))[:60],
)
def test_malformed_events(odd):
    """A malformed event is a StreamInterrupted with the partial reply, never a raw exception."""
    fold = ChatFold("test")
    events = [one if isinstance(one, str) else json.dumps(one) for one in [said_hello(), odd] + END]
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
ODD = st.recursive(
    st.sampled_from([None, "", "text", "thinking", "stop", "{}", 0, 7, True, 1.5]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(
    deltas=st.lists(st.dictionaries(st.sampled_from(NAMES), ODD, max_size=4), max_size=4), odd=ODD
)
def test_no_shape_breaks_the_fold(deltas, odd):
    """Whatever a server sends, the result is a reply that can be sent back, or an error of this
    library.
    """
    fold = ChatFold("test")
    events = [
        json.dumps(one) for one in [said_hello()] + [chunk(delta) for delta in deltas] + [odd]
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
            {"choices": [{"message": dict(*deltas[:1]), "finish_reason": "stop"}], "usage": odd},
        )
    except (AttributeError, KeyError, TypeError, ValueError, InferenceError):
        pass  # which the client knows


def test_a_piece_of_a_call_that_was_whole():
    """A piece of a call that was returned as complete interrupts the stream."""
    with pytest.raises(ValueError, match="whole before"):
        fed(piece("{}", id="a", name="f"), piece("{}", 1, id="b", name="f"), piece("!"))


# Cut and split


def framed(*chunks, end="\n\n"):
    return "".join(
        f"data: {one if isinstance(one, str) else json.dumps(one)}{end}" for one in chunks
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
    "with figures on each": [dict(one, usage=FIGURES) for one in LONG]
    + [chunk({}, "tool_calls", usage=FIGURES), FINAL],
}


def outcome(pieces, delimited):
    """Return the reply of a body in these pieces, or the interruption."""
    parser, fold = SSEParser(), ChatFold("test")

    def wire():
        for one in pieces:
            for event in parser.feed(one):
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
    """Wherever its bytes are split, a stream is the same reply."""
    sent = framed(*STREAMS[name], end=end)
    assert len(STREAMS[name]) >= 22
    whole = outcome([sent], False)
    assert [call.arguments for call in whole.tool_calls] == [{"x": "é"}, {"y": 2}]
    assert outcome([sent[at : at + 1] for at in range(len(sent))], False) == whole
    for at in positions(len(sent)):
        assert outcome([sent[:at], sent[at:]], False) == whole


@suite
@pytest.mark.parametrize("name", sorted(STREAMS))
@pytest.mark.parametrize("delimited", [False, True])
def test_cut_at_every_byte(name, delimited):
    """Wherever a stream is cut, it is the whole reply or an interruption with what had arrived:
    never a short reply.
    """
    sent = framed(*STREAMS[name])
    whole = outcome([sent], delimited)
    wholes = interrupted = 0
    for at in positions(len(sent)):
        got = outcome([sent[:at]], delimited)
        if isinstance(got, StreamInterrupted):
            interrupted += 1
            assert got.partial.stop_reason is None
            assert whole.text.startswith(got.text)
        else:
            wholes += 1
            assert (got.message, got.tool_calls, got.stop_reason) == (
                whole.message,
                whole.tool_calls,
                whole.stop_reason,
            )
            assert got.usage in (whole.usage, Usage(requests=1))
    # Only what comes after the last word may be missing: figures, the final event, blank lines.
    assert wholes <= len(framed(*STREAMS[name][len(LONG) :]))
    assert wholes + interrupted == len(positions(len(sent))) and interrupted > 0


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
    said=st.lists(WORD, max_size=6),
    calls=CALLS,
    cuts=st.lists(st.integers(1, 9)),
)
def test_a_stream_folds_to_its_reply(reasoning, said, calls, cuts):
    """A reply that is streamed in any pieces is the one that was sent, and its message goes back as
    it came.
    """
    chunks = [chunk({"reasoning_content": word}) for word in reasoning] + [
        chunk({"content": word}) for word in said
    ]
    for index, (name, arguments) in enumerate(calls):
        text = json.dumps(arguments)
        size = cuts[index % len(cuts)] if cuts else len(text)
        chunks.append(piece("", index, id=f"id{index}", name=name))
        chunks += [piece(text[at : at + size], index) for at in range(0, len(text), size)]
    reply = reply_of(*(chunks + END))
    assert reply.text == "".join(said)
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [
        (f"id{index}", name, arguments) for index, (name, arguments) in enumerate(calls)
    ]
    sent = encode_request(Request("m", [reply.message], None, [], {}))["messages"][0]
    assert sent.get("reasoning_content", "") == "".join(reasoning)
    assert (sent["content"] or "") == "".join(said)
    assert [json.loads(call["function"]["arguments"]) for call in sent.get("tool_calls", [])] == [
        one for _, one in calls
    ]
    message = dict(sent, role="assistant")
    assert (
        decode_reply("test", {"choices": [{"message": message, "finish_reason": "stop"}]}).message
        == reply.message
    )


# Replies that are not streamed


def test_calls_that_come_at_once():
    """In a reply that is not streamed each call is one, whatever indices and ids it has."""
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
    "odd",
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
def test_body_without_a_reply(odd):
    """A body of another shape is one of the errors that the client makes a ProviderError of."""
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        decode_reply("test", odd)


def test_an_error_with_the_status_200():
    """An error in place of a reply is raised as its error."""
    with pytest.raises(InvalidRequestError, match="filtered"):
        decode_reply(
            "test", {"error": {"message": "filtered", "code": "content_filter", "status": 400}}
        )


# Errors


def openai_error(kind, code=None, message="oh", param=None):
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@pytest.mark.parametrize(
    "status, body, expected, word",
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
def test_errors_have_their_class(status, body, expected, word):
    """A status and a server's words, in any of their shapes, map to one class, which has the word
    and the request's id.
    """
    error = decode_error("openai", status, {"x-request-id": "req_1"}, body)
    assert type(error) is expected
    assert (error.provider, error.status, error.error_type, error.request_id) == (
        "openai",
        status,
        word,
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
        ({"odd": [1]}, '{"odd": [1]}'),
        (None, "the provider gave no reason"),
    ],
)
def test_error_message(body, message):
    """The message is the server's own, with the parameter that it objects to where the message does
    not name it.
    """
    assert decode_error("openai", 418, {}, body).args == (message,)


def test_repeated_tool_call():
    """A server that tells a call under its new and its old name (llama-cpp-python does) has made
    one call.
    """
    piece = {"name": "f", "arguments": "{}"}
    both = {
        "tool_calls": [{"index": 0, "id": "c", "type": "function", "function": piece}],
        "function_call": piece,
    }
    fold = ChatFold("test")
    fold.feed({"choices": [{"index": 0, "delta": both, "finish_reason": "tool_calls"}]})
    assert [call.name for call in fold.finish(True)[-1].reply.tool_calls] == ["f"]
    whole = {"choices": [{"message": dict(both, content=None), "finish_reason": "tool_calls"}]}
    assert [call.name for call in decode_reply("test", whole).tool_calls] == ["f"]
