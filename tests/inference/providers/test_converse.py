"""The Converse codec: requests to boto3's parameters, its answers and events to a reply."""

import base64
import json

import pytest

from asimov_sync import (
    ChatMessage,
    ChatRole,
    ProviderError,
    StreamInterrupted,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolCallReady,
    Usage,
)
from asimov_sync.inference.providers.bedrock.converse import (
    ConverseFold,
    decode_reply,
    encode_request,
)
from asimov_sync.inference.providers.fold import fold_stream
from asimov_sync.inference.request import Request
from asimov_sync.messages import as_messages

DATA = base64.b64encode(b"\x89PNG\x00").decode()


def body(messages="hello", system=None, tools=(), betas=(), **options):
    return encode_request(Request("m", as_messages(messages), system, list(tools), options), betas)


def blocks(*given, role="user"):
    """Return the blocks of a request as Converse receives them."""
    return body([{"role": role, "content": list(given)}])["messages"][0]["content"]


def user(content, **options):
    return ChatMessage(role=ChatRole.USER, content=content, **options)


# Requests


def test_only_given_options_are_sent():
    """A request holds the messages, and nothing that was not asked for."""
    assert body() == {"messages": [{"role": "user", "content": [{"text": "hello"}]}]}


def test_options_have_their_places():
    """Options of every model go to inferenceConfig, others to the model; extra is unchanged."""
    made = body(
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        stop_sequences=["x"],
        top_k=7,
        thinking={"type": "adaptive"},
        betas=("b-1",),
        extra={"performanceConfig": {"latency": "optimized"}},
    )
    assert made["inferenceConfig"] == {
        "maxTokens": 5,
        "temperature": 0.5,
        "topP": 0.9,
        "stopSequences": ["x"],
    }
    assert made["additionalModelRequestFields"] == {
        "top_k": 7,
        "thinking": {"type": "adaptive"},
        "anthropic_beta": ["b-1"],
    }
    assert made["performanceConfig"] == {"latency": "optimized"}
    assert "extra" not in json.dumps(made)


TOOL = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}
SPEC = {
    "toolSpec": {"name": "add", "description": "Adds.", "inputSchema": {"json": {"type": "object"}}}
}


@pytest.mark.parametrize(
    "choice, sent, additional",
    [
        ("auto", {"auto": {}}, None),
        ("any", {"any": {}}, None),
        ("add", {"tool": {"name": "add"}}, None),
        ({"type": "tool", "name": "add"}, {"tool": {"name": "add"}}, None),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            None,
            {"type": "auto", "disable_parallel_tool_use": True},
        ),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            {"any": {}},
            {"disable_parallel_tool_use": True},
        ),
    ],
    ids=str,
)
def test_tools_and_their_choice(choice, sent, additional):
    """Tools become toolSpecs; a tool_choice that Converse lacks is sent to Anthropic's model
    itself.
    """
    made = body(tools=[TOOL], tool_choice=choice)
    assert made["toolConfig"]["tools"] == [SPEC]
    assert made["toolConfig"].get("toolChoice") == sent
    assert made.get("additionalModelRequestFields", {}).get("tool_choice") == additional


def test_tools_without_schema():
    """A tool without a schema is sent as it is, one without a description without one; "none" is
    refused.
    """
    made = body(
        tools=[{"systemTool": {"name": "nova_grounding"}}, dict(TOOL, description="", strict=True)]
    )
    schema = SPEC["toolSpec"]["inputSchema"]
    assert made["toolConfig"]["tools"] == [
        {"systemTool": {"name": "nova_grounding"}},
        {"toolSpec": {"name": "add", "inputSchema": schema, "strict": True}},
    ]
    with pytest.raises(ValueError, match="none"):
        body(tools=[TOOL], tool_choice="none")


def test_roles_alternate():
    """System messages join the system prompt; messages of one role in a row are one; blank ones are
    none.
    """
    result = {"type": "tool_result", "tool_use_id": "1", "content": "x"}
    made = body(
        [
            {"role": "system", "content": "be kind"},
            "a",
            {"role": "assistant", "content": " \n"},
            "b",
            {"role": "assistant", "content": "c"},
            {"role": "tool_result", "content": [result]},
            "d",
        ],
        system="be brief",
    )
    assert made["system"] == [{"text": "be brief"}, {"text": "be kind"}]
    assert made["messages"] == [
        {"role": "user", "content": [{"text": "a"}, {"text": "b"}]},
        {"role": "assistant", "content": [{"text": "c"}]},
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "1", "content": [{"text": "x"}]}},
                {"text": "d"},
            ],
        },
    ]
    for nothing in ([], ["", " "]):
        with pytest.raises(ValueError, match="no message"):
            body(nothing)


def test_cache_points():
    """cache_control becomes a cachePoint after its block, message or tool; an hour has a ttl."""
    marked = {"type": "ephemeral"}
    made = body(
        [
            user("a", cache_marker=True),
            {"role": "assistant", "content": "b"},
            user("c", cache_marker="1h"),
        ],
        system=[{"type": "text", "text": "s", "cache_control": dict(marked, ttl="5m")}],
        tools=[dict(TOOL, cache_control=dict(marked, ttl="1h"))],
    )
    point, hour = (
        {"cachePoint": {"type": "default"}},
        {"cachePoint": {"type": "default", "ttl": "1h"}},
    )
    assert made["system"] == [{"text": "s"}, point]
    assert made["toolConfig"]["tools"] == [SPEC, hour]
    assert made["messages"][0]["content"] == [{"text": "a"}, point]
    assert made["messages"][2]["content"] == [{"text": "c"}, hour]
    result = {"type": "tool_result", "tool_use_id": "1", "content": "x", "cache_control": marked}
    assert blocks(result)[1] == point
    assert "cache_control" not in json.dumps(made)


@pytest.mark.parametrize(
    "block, sent",
    [
        (
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/jpg", "data": DATA},
            },
            {"image": {"format": "jpeg", "source": {"bytes": b"\x89PNG\x00"}}},
        ),
        (
            {
                "type": "video",
                "source": {
                    "type": "s3",
                    "media_type": "video/quicktime",
                    "uri": "s3://b/k",
                    "bucket_owner": "1",
                },
            },
            {
                "video": {
                    "format": "mov",
                    "source": {"s3Location": {"uri": "s3://b/k", "bucketOwner": "1"}},
                }
            },
        ),
        (
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": DATA},
                "title": "Q3  report: é.pdf",
                "citations": {"enabled": True},
                "context": "c",
            },
            {
                "document": {
                    "format": "pdf",
                    "name": "Q3 report- --pdf",
                    "source": {"bytes": b"\x89PNG\x00"},
                    "citations": {"enabled": True},
                    "context": "c",
                }
            },
        ),
        (
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "d"},
            },
            {"document": {"format": "txt", "name": "document", "source": {"text": "d"}}},
        ),
        (
            {
                "type": "document",
                "source": {"type": "content", "content": [{"type": "text", "text": "d"}]},
            },
            {"document": {"name": "document", "source": {"content": [{"text": "d"}]}}},
        ),
        (
            {
                "type": "tool_result",
                "tool_use_id": "t",
                "is_error": True,
                "content": [
                    {"type": "text", "text": "no"},
                    {"json": {"bytes": "a word"}},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": DATA},
                    },
                ],
            },
            {
                "toolResult": {
                    "toolUseId": "t",
                    "status": "error",
                    "content": [
                        {"text": "no"},
                        {"json": {"bytes": "a word"}},
                        {"image": {"format": "png", "source": {"bytes": b"\x89PNG\x00"}}},
                    ],
                }
            },
        ),
        (
            {"type": "tool_result", "tool_use_id": "t", "content": ""},
            {"toolResult": {"toolUseId": "t", "content": []}},
        ),
        (
            {"type": "tool_use", "id": "t", "name": "add", "input": {"bytes": "a"}},
            {"toolUse": {"toolUseId": "t", "name": "add", "input": {"bytes": "a"}}},
        ),
        (
            {"guardContent": {"image": {"format": "png", "source": {"bytes": DATA}}}},
            {"guardContent": {"image": {"format": "png", "source": {"bytes": b"\x89PNG\x00"}}}},
        ),
        ({"type": "hologram", "depth": 3}, {"type": "hologram", "depth": 3}),
        ({"type": "text", "text": "caf\udce9"}, {"text": "caf?"}),
    ],
    ids=lambda block: str(block)[:40],
)
def test_blocks_on_the_wire(block, sent):
    """A block of the Messages API becomes a Converse block, with raw bytes for boto3; returned
    blocks are converted back.
    """
    assert blocks(block) == [sent]


def test_documents_have_names_of_their_own():
    """Two documents of one title do not share a name, for Converse refuses that."""
    document = {"type": "document", "title": "a", "source": {"type": "text", "data": "d"}}
    assert [one["document"]["name"] for one in blocks(document, document, document)] == [
        "a",
        "a 2",
        "a 3",
    ]


@pytest.mark.parametrize(
    "block, told",
    [
        ({"type": "image", "source": {"type": "url", "url": "https://…"}}, "base64 or s3"),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "é"}},
            "base64",
        ),
        ({"type": "image"}, "'image' without 'source'"),
        ({"type": "thinking"}, "'thinking' without 'thinking'"),
        ({"type": "tool_result", "content": "x"}, "'tool_result' without 'tool_use_id'"),
    ],
    ids=str,
)
def test_unsupported_blocks(block, told):
    """A block that Converse does not support is a ValueError that names the reason."""
    with pytest.raises(ValueError, match=told):
        blocks(block)


# Answers


def answer(*content, stop="end_turn", **usage):
    figures = dict({"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}, **usage)
    return {
        "output": {"message": {"role": "assistant", "content": list(content)}},
        "stopReason": stop,
        "usage": figures,
    }


def stream(*content, stop="end_turn", figures=None):
    """The events of a stream of deltas, (index, delta)."""
    yield {"messageStart": {"role": "assistant"}}
    last = None
    for index, delta in content:
        if last is not None and last != index:
            yield {"contentBlockStop": {"contentBlockIndex": last}}
        if "start" in delta:
            yield {"contentBlockStart": {"contentBlockIndex": index, "start": delta["start"]}}
        else:
            yield {"contentBlockDelta": {"contentBlockIndex": index, "delta": delta}}
        last = index
    if last is not None:
        yield {"contentBlockStop": {"contentBlockIndex": last}}
    yield {"messageStop": {"stopReason": stop}}
    yield {
        "metadata": {
            "usage": figures or {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5},
            "metrics": {},
        }
    }


def fold(events):
    made = ConverseFold("m", "id")
    return list(fold_stream(made, events, made.feed, "bedrock", None, lambda: True))


CITATION = {"title": "t", "location": {"documentChar": {"documentIndex": 0, "start": 0, "end": 3}}}

REPLIES = [
    (
        [{"text": "Hello wörld, "}],
        [(0, {"text": "Hello "}), (0, {"text": "wörld, "})],
        [{"type": "text", "text": "Hello wörld, "}],
    ),
    (
        [
            {"reasoningContent": {"reasoningText": {"text": "hmm", "signature": "sig"}}},
            {"reasoningContent": {"redactedContent": "b3BhcXVl"}},
            {"reasoningContent": {"redactedContent": "/wA="}},
        ],
        [
            (0, {"reasoningContent": {"text": "h"}}),
            (0, {"reasoningContent": {"text": "mm"}}),
            (0, {"reasoningContent": {"signature": "sig"}}),
            (1, {"reasoningContent": {"redactedContent": "b3Bh"}}),
            (1, {"reasoningContent": {"redactedContent": "cXVl"}}),
            (2, {"reasoningContent": {"redactedContent": "/wA="}}),
        ],
        [
            {"type": "thinking", "thinking": "hmm", "signature": "sig"},
            {"type": "redacted_thinking", "data": "opaque"},
            {"reasoningContent": {"redactedContent": "/wA="}},
        ],
    ),
    (
        [
            {"toolUse": {"toolUseId": "t", "name": "f", "input": {"a": [1, "é"]}}},
            {"toolUse": {"toolUseId": "u", "name": "g", "input": {}}},
        ],
        [
            (0, {"start": {"toolUse": {"toolUseId": "t", "name": "f"}}}),
            (0, {"toolUse": {"input": '{"a": [1,'}}),
            (0, {"toolUse": {"input": ' "é"]}'}}),
            (1, {"start": {"toolUse": {"toolUseId": "u", "name": "g"}}}),
        ],
        [
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1, "é"]}},
            {"type": "tool_use", "id": "u", "name": "g", "input": {}},
        ],
    ),
    (
        [
            {
                "toolUse": {
                    "toolUseId": "t",
                    "name": "search",
                    "input": {"q": 1},
                    "type": "server_tool_use",
                }
            },
            {
                "toolResult": {
                    "toolUseId": "t",
                    "type": "search_result",
                    "content": [{"text": "x"}, {"json": {"y": 1}}],
                }
            },
        ],
        [
            (
                0,
                {
                    "start": {
                        "toolUse": {"toolUseId": "t", "name": "search", "type": "server_tool_use"}
                    }
                },
            ),
            (0, {"toolUse": {"input": '{"q": 1}'}}),
            (1, {"start": {"toolResult": {"toolUseId": "t", "type": "search_result"}}}),
            (1, {"toolResult": [{"text": "x"}]}),
            (1, {"toolResult": [{"json": {"y": 1}}]}),
        ],
        [
            {"type": "server_tool_use", "id": "t", "name": "search", "input": {"q": 1}},
            {
                "toolResult": {
                    "toolUseId": "t",
                    "type": "search_result",
                    "content": [{"text": "x"}, {"json": {"y": 1}}],
                }
            },
        ],
    ),
    (
        [
            {"citationsContent": {"content": [{"text": "ab"}], "citations": [CITATION]}},
            {"text": "."},
        ],
        [(0, {"citation": CITATION}), (0, {"text": "a"}), (0, {"text": "b"}), (1, {"text": "."})],
        [{"type": "text", "text": "ab", "citations": [CITATION]}, {"type": "text", "text": "."}],
    ),
    (
        [{"citationsContent": {"citations": [CITATION]}}],
        [(0, {"citation": CITATION})],
        [{"type": "text", "text": "", "citations": [CITATION]}],
    ),
    (
        [{"image": {"format": "png", "source": {"bytes": DATA}}}],
        [
            (0, {"start": {"image": {"format": "png"}}}),
            (0, {"image": {"source": {"bytes": "iVA="}}}),
            (0, {"image": {"source": {"bytes": "TkcA"}}}),
        ],
        [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}],
    ),
]


@pytest.mark.parametrize("whole, deltas, made", REPLIES, ids=lambda value: str(value)[:40])
def test_an_answer_and_a_stream(whole, deltas, made):
    """An answer and the stream of the same make one reply, which JSON can hold, and which goes back
    as it came.
    """
    reply = decode_reply(answer(*whole), "m", "id")
    assert reply.message.content == made
    assert fold(stream(*deltas))[-1].reply == reply
    again = ChatMessage.model_validate(json.loads(reply.message.model_dump_json()))
    assert body(["hello", again])["messages"][1] == {
        "role": "assistant",
        "content": as_boto3(whole),
    }


def as_boto3(value):
    """Return a received block as boto3 takes it: bytes in place of base64."""
    if isinstance(value, list):
        return [as_boto3(one) for one in value]
    if not isinstance(value, dict):
        return value
    blobs = ("bytes", "redactedContent")
    return {
        name: base64.b64decode(one) if name in blobs else as_boto3(one)
        for name, one in value.items()
    }


def test_citations_of_several_pieces():
    """A cited text in pieces reads as one, and goes back in its pieces."""
    whole = {
        "citationsContent": {"content": [{"text": "a"}, {"text": "b"}], "citations": [CITATION]}
    }
    reply = decode_reply(answer(whole), "m", None)
    assert reply.text == "ab"
    assert body([reply.message])["messages"][0]["content"] == [whole]


def test_the_events_of_a_stream():
    """Text and thinking are handed on piece by piece, a call when it is whole, those of the
    server's own tools never.
    """
    server_tool = {"toolUse": {"toolUseId": "s", "name": "search", "type": "server_tool_use"}}
    events = fold(
        stream(
            (0, {"reasoningContent": {"text": "hm"}}),
            (0, {"reasoningContent": {"signature": "sig"}}),
            (1, {"start": server_tool}),
            (2, {"text": "a"}),
            (2, {"text": "b"}),
            (3, {"start": {"toolUse": {"toolUseId": "t", "name": "f"}}}),
            (3, {"toolUse": {"input": '{"x": 1}'}}),
            stop="tool_use",
        )
    )
    call = ToolCall(id="t", name="f", arguments={"x": 1})
    assert events[:-1] == [ThinkingDelta("hm"), TextDelta("a"), TextDelta("b"), ToolCallReady(call)]
    reply = events[-1].reply
    assert (reply.tool_calls, reply.stop_reason, reply.model, reply.id) == (
        [call],
        "tool_use",
        "m",
        "id",
    )
    assert reply.usage == Usage(input_tokens=3, output_tokens=2, requests=1)


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "nonsense"])
def test_malformed_arguments(arguments):
    """Arguments that are not a JSON object are kept as text in `malformed`."""
    reply = fold(
        stream(
            (0, {"start": {"toolUse": {"toolUseId": "t", "name": "f"}}}),
            (0, {"toolUse": {"input": arguments}}),
        )
    )[-1].reply
    assert reply.tool_calls == [ToolCall(id="t", name="f", malformed=arguments)]


@pytest.mark.parametrize(
    "told, ours",
    [
        ("end_turn", "end_turn"),
        ("tool_use", "tool_use"),
        ("max_tokens", "max_tokens"),
        ("stop_sequence", "stop_sequence"),
        ("guardrail_intervened", "refusal"),
        ("content_filtered", "refusal"),
        ("malformed_model_output", "malformed_model_output"),
        ("malformed_tool_use", "malformed_tool_use"),
        ("model_context_window_exceeded", "model_context_window_exceeded"),
    ],
)
def test_stop_reasons(told, ours):
    """The stop reason uses Anthropic's terms; the wire's own is in raw_stop_reason."""
    for reply in (decode_reply(answer(stop=told), "m", None), fold(stream(stop=told))[-1].reply):
        assert (reply.stop_reason, reply.raw_stop_reason) == (ours, told)


@pytest.mark.parametrize(
    "figures, usage",
    [
        (
            {"cacheReadInputTokens": 10, "cacheWriteInputTokens": 7, "totalTokens": 22},
            Usage(input_tokens=3, cache_read_input_tokens=10, cache_write_input_tokens=7),
        ),
        (
            {
                "cacheWriteInputTokens": 12,
                "totalTokens": 17,
                "cacheDetails": [
                    {"ttl": "5m", "inputTokens": 4},
                    {"ttl": "1h", "inputTokens": 8},
                    {"ttl": "x"},
                ],
            },
            Usage(
                input_tokens=3,
                cache_write_input_tokens=12,
                cache_write_5m_input_tokens=4,
                cache_write_1h_input_tokens=8,
            ),
        ),
        # A model that counts cached tokens as input: its total is that of two figures only.
        (
            {"inputTokens": 13, "cacheReadInputTokens": 10, "totalTokens": 15},
            Usage(input_tokens=3, cache_read_input_tokens=10),
        ),
        ({"inputTokens": "many", "cacheDetails": [7], "totalTokens": None}, Usage()),
        ({"cacheDetails": 7}, Usage(input_tokens=3)),
    ],
    ids=str,
)
def test_usage(figures, usage):
    """input_tokens excludes cached tokens, whatever the model reports; invalid figures are 0."""
    expected = usage.model_copy(update={"output_tokens": 2, "requests": 1})
    whole = answer(**figures)
    assert decode_reply(whole, "m", None).usage == expected
    assert fold(stream(figures=whole["usage"]))[-1].reply.usage == expected


# What is not of the wire

GARBAGE = [
    None,
    7,
    [],
    {},
    {"two": 1, "keys": 2},
    {"contentBlockDelta": None},
    {"contentBlockDelta": {"contentBlockIndex": 0}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {}}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": None}}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "a", "toolUse": {}}}},
    {"contentBlockDelta": {"contentBlockIndex": "x", "delta": {"text": "a"}}},
    {"contentBlockDelta": {"contentBlockIndex": 9, "delta": {"toolUse": {"input": "a"}}}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"toolUse": {"input": "a"}}}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "a"}}}},
    {
        "contentBlockDelta": {
            "contentBlockIndex": 1,
            "delta": {"reasoningContent": {"redactedContent": "YQ=="}},
        }
    },
    {
        "contentBlockDelta": {
            "contentBlockIndex": 2,
            "delta": {"reasoningContent": {"redactedContent": "é"}},
        }
    },
    {
        "contentBlockDelta": {
            "contentBlockIndex": 2,
            "delta": {"reasoningContent": {"redactedContent": 7}},
        }
    },
    {"contentBlockDelta": {"contentBlockIndex": 1, "delta": {"reasoningContent": {"new": "a"}}}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"citation": "a"}}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"new": "a"}}},
    {"contentBlockStart": {"contentBlockIndex": 2, "start": None}},
    {"contentBlockStart": {"contentBlockIndex": 2, "start": {}}},
    {"contentBlockStart": {"contentBlockIndex": 2, "start": {"toolUse": {"name": "f"}}}},
    {
        "contentBlockStart": {
            "contentBlockIndex": 2,
            "start": {"toolUse": {"toolUseId": 7, "name": "f"}},
        }
    },
    {"contentBlockStart": {"contentBlockIndex": 2, "start": {"image": 7}}},
    {"contentBlockStop": {}},
    {"messageStop": {}},
    {"messageStop": {"stopReason": None}},
    {"metadata": None},
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=str)
def test_garbage_interrupts_a_stream(garbage):
    """An event that is not of the wire is a StreamInterrupted with the partial reply."""
    before = list(stream((0, {"text": "half"}), (1, {"reasoningContent": {"text": "hm"}})))
    with pytest.raises(StreamInterrupted) as caught:
        fold(before[:5] + [garbage] + before[5:])
    assert caught.value.text == "half"
    assert caught.value.partial.stop_reason is None
    assert isinstance(caught.value.__cause__, ProviderError)


@pytest.mark.parametrize("missing", ["messageStop", "metadata"])
def test_a_stream_that_only_looks_whole(missing):
    """Without messageStop or without metadata a stream is not whole, wherever it ends; in either
    order it is.
    """
    events = list(stream((0, {"text": "all of it"})))
    with pytest.raises(StreamInterrupted) as caught:
        fold([event for event in events if missing not in event])
    assert caught.value.text == "all of it"
    assert caught.value.partial.raw_stop_reason is None
    assert fold(events[:-2] + [events[-1], events[-2]])[-1] == fold(events)[-1]


def test_new_events_are_passed_over():
    """An unknown event is ignored."""
    assert (
        fold([{"weather": {"sunny": True}}] + list(stream((0, {"text": "a"}))))[-1].reply.text
        == "a"
    )


def test_blocks_that_are_new():
    """An unknown block is kept and sent back unchanged; its deltas are an error."""
    new = {"hologram": {"depth": {"bytes": DATA}}}
    reply = decode_reply(answer(new), "m", None)
    assert reply.message.content == [new]
    assert body([reply.message])["messages"][0]["content"] == as_boto3([new])
    assert fold(stream((0, {"start": new})))[-1].reply.message.content == [new]
    odd = {"citationsContent": {"content": 7}}
    assert fold(stream((0, {"start": odd})))[-1].reply.message.content == [odd]
    odd = {"image": {"format": 7, "source": {"bytes": DATA}}}
    assert decode_reply(answer(odd), "m", None).message.content == [odd]


@pytest.mark.parametrize(
    "whole",
    [
        None,
        [],
        {},
        {"output": {}},
        dict(answer(), stopReason=None),
        dict(answer(), output={"message": {"content": "text"}}),
        answer(7),
        answer({}),
        answer({"text": None}),
        answer({"toolUse": {"name": "f"}}),
        answer({"reasoningContent": {"reasoningText": {}}}),
    ],
    ids=str,
)
def test_answers_that_are_none(whole):
    """A body that is not an answer raises one of DECODE_ERRORS."""
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        decode_reply(whole, "m", None)


# Indexes that are used again, and nulls


def tool(index, own_id, name, *deltas):
    yield {
        "contentBlockStart": {
            "contentBlockIndex": index,
            "start": {"toolUse": {"toolUseId": own_id, "name": name}},
        }
    }
    for one in deltas:
        yield {
            "contentBlockDelta": {"contentBlockIndex": index, "delta": {"toolUse": {"input": one}}}
        }
    yield {"contentBlockStop": {"contentBlockIndex": index}}


def words(index, told):
    yield {"contentBlockDelta": {"contentBlockIndex": index, "delta": {"text": told}}}
    yield {"contentBlockStop": {"contentBlockIndex": index}}


END = [{"messageStop": {"stopReason": "tool_use"}}, {"metadata": {"usage": {}}}]


def feed(*events):
    fold = ConverseFold("m", None)
    return [event for data in list(events) + END for event in fold.feed(data)]


def test_each_call_keeps_its_own_arguments_where_an_index_is_used_again():
    """A block that starts at the index of one that has stopped is another block, and both are kept,
    in their order.
    """
    events = feed(*tool(0, "a", "f", '{"a": 1}'), *tool(0, "b", "g"))
    wanted = [ToolCall(id="a", name="f", arguments={"a": 1}), ToolCall(id="b", name="g")]
    assert [event.call for event in events if isinstance(event, ToolCallReady)] == wanted
    assert events[-1].reply.tool_calls == wanted


def test_text_is_kept_where_a_call_starts_at_its_index():
    """The text that was handed on is in the reply, before the call."""
    reply = feed(*words(0, "hi"), *tool(0, "a", "f"))[-1].reply
    assert (reply.text, [call.name for call in reply.tool_calls]) == ("hi", ["f"])


def test_a_block_that_starts_at_an_open_index_is_refused():
    """The text before it is in the partial reply."""
    fold = ConverseFold("m", None)
    wire = [next(words(0, "hi"))] + list(tool(0, "a", "f"))
    with pytest.raises(StreamInterrupted, match="index 0 while another one is open") as caught:
        list(fold_stream(fold, wire, fold.feed, "bedrock", None, lambda: True))
    assert caught.value.text == "hi"


@pytest.mark.parametrize("index", [float("inf"), 1.9, None, [0]], ids=str)
def test_invalid_block_index(index):
    """ValueError, which is the wire's."""
    for events in (words(index, "hi"), tool(index, "a", "f"), list(words(index, "hi"))[1:]):
        with pytest.raises(ValueError, match="whole number"):
            feed(*events)


@pytest.mark.parametrize(
    "block",
    [
        {"text": "hi"},
        {"toolUse": {"toolUseId": "a", "name": "f", "input": {"a": None}}},
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
        {"citationsContent": {"content": [{"text": "a"}], "citations": [{"title": "a"}]}},
        {"image": {"format": "png", "source": {"bytes": DATA}}},
        {"newThing": {"a": 1}},
    ],
    ids=lambda one: next(iter(one)),
)
def test_nulls_beside_the_member_of_a_block_change_nothing(block):
    """Gateways in typed languages write every member of a union; those that are null are not there,
    as for boto3.
    """

    def decoded(one):
        body = {
            "output": {"message": {"role": "assistant", "content": [one]}},
            "stopReason": "tool_use",
        }
        return decode_reply(body, "m", None)

    nulls = dict.fromkeys(["text", "toolUse", "reasoningContent", "document"])
    kind = next(iter(block))
    inner = block[kind]
    if kind in ("reasoningContent", "image"):
        inner = dict(inner, redactedContent=None)
    assert decoded(dict(nulls, **{kind: inner})) == decoded(block)
    assert decoded(block).message.content[0] != {kind: None}


def test_nulls_beside_the_member_of_an_event_change_nothing():
    """Starts, deltas and pieces of reasoning, too."""
    reply = feed(
        {
            "contentBlockDelta": {
                "contentBlockIndex": 0,
                "delta": {"reasoningContent": {"text": "hm", "signature": None}},
            }
        },
        {"contentBlockDelta": {"contentBlockIndex": 1, "delta": {"toolUse": None, "text": "hi"}}},
        {
            "contentBlockStart": {
                "contentBlockIndex": 2,
                "start": {"toolUse": {"toolUseId": "a", "name": "f"}, "image": None},
            }
        },
        {
            "contentBlockDelta": {
                "contentBlockIndex": 2,
                "delta": {"text": None, "toolUse": {"input": "{}"}},
            }
        },
    )[-1].reply
    assert (reply.text, [call.name for call in reply.tool_calls]) == ("hi", ["f"])
    assert reply.message.blocks[0] == {"type": "thinking", "thinking": "hm"}
