"""The Converse codec: requests to boto3's parameters, its replies and events to a reply."""

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


def encode(messages="hello", system=None, tools=(), betas=(), **options):
    return encode_request(Request("m", as_messages(messages), system, list(tools), options), betas)


def encode_blocks(*given, role="user"):
    """Return the blocks of a user's message as Converse receives them."""
    return encode([{"role": role, "content": list(given)}])["messages"][0]["content"]


def user(content, **options):
    return ChatMessage(role=ChatRole.USER, content=content, **options)


# Requests


def test_only_given_options_are_sent():
    """A request holds the messages and the given options only."""
    assert encode() == {"messages": [{"role": "user", "content": [{"text": "hello"}]}]}


def test_options():
    """Common options are in inferenceConfig, others in the model's own fields. extra is
    unchanged.
    """
    request = encode(
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        stop_sequences=["x"],
        top_k=7,
        thinking={"type": "adaptive"},
        betas=("b-1",),
        extra={"performanceConfig": {"latency": "optimized"}},
    )
    assert request["inferenceConfig"] == {
        "maxTokens": 5,
        "temperature": 0.5,
        "topP": 0.9,
        "stopSequences": ["x"],
    }
    assert request["additionalModelRequestFields"] == {
        "top_k": 7,
        "thinking": {"type": "adaptive"},
        "anthropic_beta": ["b-1"],
    }
    assert request["performanceConfig"] == {"latency": "optimized"}
    assert "extra" not in json.dumps(request)


TOOL = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}
SPEC = {
    "toolSpec": {"name": "add", "description": "Adds.", "inputSchema": {"json": {"type": "object"}}}
}


@pytest.mark.parametrize(
    "choice, expected, additional",
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
def test_tools_and_their_choice(choice, expected, additional):
    """Tools become toolSpecs. A tool_choice that Converse lacks is sent in the model's own
    fields.
    """
    request = encode(tools=[TOOL], tool_choice=choice)
    assert request["toolConfig"]["tools"] == [SPEC]
    assert request["toolConfig"].get("toolChoice") == expected
    assert request.get("additionalModelRequestFields", {}).get("tool_choice") == additional


def test_tools_without_schema():
    """A tool without a schema is sent unchanged, and an empty description is omitted.

    tool_choice="none" is a ValueError.
    """
    request = encode(
        tools=[{"systemTool": {"name": "nova_grounding"}}, dict(TOOL, description="", strict=True)]
    )
    schema = SPEC["toolSpec"]["inputSchema"]
    assert request["toolConfig"]["tools"] == [
        {"systemTool": {"name": "nova_grounding"}},
        {"toolSpec": {"name": "add", "inputSchema": schema, "strict": True}},
    ]
    with pytest.raises(ValueError, match="none"):
        encode(tools=[TOOL], tool_choice="none")


def test_roles_alternate():
    """System messages join the system prompt, successive messages of one role are merged.

    Blank messages are omitted.
    """
    result = {"type": "tool_result", "tool_use_id": "1", "content": "x"}
    request = encode(
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
    assert request["system"] == [{"text": "be brief"}, {"text": "be kind"}]
    assert request["messages"] == [
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
    for messages in ([], ["", " "]):
        with pytest.raises(ValueError, match="no message"):
            encode(messages)


def test_cache_points():
    """cache_control becomes a cachePoint after its block, message or tool; an hour has a ttl."""
    control = {"type": "ephemeral"}
    request = encode(
        [
            user("a", cache_marker=True),
            {"role": "assistant", "content": "b"},
            user("c", cache_marker="1h"),
        ],
        system=[{"type": "text", "text": "s", "cache_control": dict(control, ttl="5m")}],
        tools=[dict(TOOL, cache_control=dict(control, ttl="1h"))],
    )
    point, hour = (
        {"cachePoint": {"type": "default"}},
        {"cachePoint": {"type": "default", "ttl": "1h"}},
    )
    assert request["system"] == [{"text": "s"}, point]
    assert request["toolConfig"]["tools"] == [SPEC, hour]
    assert request["messages"][0]["content"] == [{"text": "a"}, point]
    assert request["messages"][2]["content"] == [{"text": "c"}, hour]
    result = {"type": "tool_result", "tool_use_id": "1", "content": "x", "cache_control": control}
    assert encode_blocks(result)[1] == point
    assert "cache_control" not in json.dumps(request)


@pytest.mark.parametrize(
    "block, expected",
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
def test_blocks(block, expected):
    """A block of the Messages API becomes a Converse block, with raw bytes for boto3."""
    assert encode_blocks(block) == [expected]


def test_names_of_documents():
    """Documents with one title have different names, as Converse requires."""
    document = {"type": "document", "title": "a", "source": {"type": "text", "data": "d"}}
    assert [block["document"]["name"] for block in encode_blocks(document, document, document)] == [
        "a",
        "a 2",
        "a 3",
    ]


@pytest.mark.parametrize(
    "block, message",
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
def test_unsupported_blocks(block, message):
    """A block that Converse does not support is a ValueError that names the reason."""
    with pytest.raises(ValueError, match=message):
        encode_blocks(block)


# Replies


def reply_body(*content, stop="end_turn", **usage):
    figures = dict({"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}, **usage)
    return {
        "output": {"message": {"role": "assistant", "content": list(content)}},
        "stopReason": stop,
        "usage": figures,
    }


def stream(*content, stop="end_turn", figures=None):
    """Yield the events of a stream of deltas, (index, delta)."""
    yield {"messageStart": {"role": "assistant"}}
    previous = None
    for index, delta in content:
        if previous is not None and previous != index:
            yield {"contentBlockStop": {"contentBlockIndex": previous}}
        if "start" in delta:
            yield {"contentBlockStart": {"contentBlockIndex": index, "start": delta["start"]}}
        else:
            yield {"contentBlockDelta": {"contentBlockIndex": index, "delta": delta}}
        previous = index
    if previous is not None:
        yield {"contentBlockStop": {"contentBlockIndex": previous}}
    yield {"messageStop": {"stopReason": stop}}
    yield {
        "metadata": {
            "usage": figures or {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5},
            "metrics": {},
        }
    }


def fold_events(events):
    fold = ConverseFold("m", "id")
    return list(fold_stream(fold, events, fold.feed, "bedrock", None, lambda: True))


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


@pytest.mark.parametrize(
    "body_content, deltas, content", REPLIES, ids=lambda value: str(value)[:40]
)
def test_whole_and_streamed_reply(body_content, deltas, content):
    """A whole and a streamed reply are equal, JSON can hold them, and they are sent back
    unchanged.
    """
    reply = decode_reply(reply_body(*body_content), "m", "id")
    assert reply.message.content == content
    assert fold_events(stream(*deltas))[-1].reply == reply
    stored = ChatMessage.model_validate(json.loads(reply.message.model_dump_json()))
    assert encode(["hello", stored])["messages"][1] == {
        "role": "assistant",
        "content": as_boto3(body_content),
    }


def as_boto3(value):
    """Return a received block as boto3 accepts it: with bytes instead of base64."""
    if isinstance(value, list):
        return [as_boto3(item) for item in value]
    if not isinstance(value, dict):
        return value
    blobs = ("bytes", "redactedContent")
    return {
        name: base64.b64decode(item) if name in blobs else as_boto3(item)
        for name, item in value.items()
    }


def test_citations_of_several_pieces():
    """The text of a citation in several pieces is joined, and sent back in its pieces."""
    block = {
        "citationsContent": {"content": [{"text": "a"}, {"text": "b"}], "citations": [CITATION]}
    }
    reply = decode_reply(reply_body(block), "m", None)
    assert reply.text == "ab"
    assert encode([reply.message])["messages"][0]["content"] == [block]


def test_events_of_a_stream():
    """Text and thinking are yielded in pieces, and a call when it is complete.

    Calls of the server's own tools are not yielded.
    """
    server_tool = {"toolUse": {"toolUseId": "s", "name": "search", "type": "server_tool_use"}}
    events = fold_events(
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
    reply = fold_events(
        stream(
            (0, {"start": {"toolUse": {"toolUseId": "t", "name": "f"}}}),
            (0, {"toolUse": {"input": arguments}}),
        )
    )[-1].reply
    assert reply.tool_calls == [ToolCall(id="t", name="f", malformed=arguments)]


@pytest.mark.parametrize(
    "raw_reason, reason",
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
def test_stop_reasons(raw_reason, reason):
    """The stop reason uses Anthropic's terms; raw_stop_reason is Converse's."""
    for reply in (
        decode_reply(reply_body(stop=raw_reason), "m", None),
        fold_events(stream(stop=raw_reason))[-1].reply,
    ):
        assert (reply.stop_reason, reply.raw_stop_reason) == (reason, raw_reason)


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
        # This model counts cached tokens as input: its total is the sum of two figures only.
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
    body = reply_body(**figures)
    assert decode_reply(body, "m", None).usage == expected
    assert fold_events(stream(figures=body["usage"]))[-1].reply.usage == expected


# Invalid events and bodies

INVALID_EVENTS = [
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


@pytest.mark.parametrize("invalid", INVALID_EVENTS, ids=str)
def test_invalid_events(invalid):
    """An invalid event is a StreamInterrupted with the partial reply."""
    valid = list(stream((0, {"text": "half"}), (1, {"reasoningContent": {"text": "hm"}})))
    with pytest.raises(StreamInterrupted) as caught:
        fold_events(valid[:5] + [invalid] + valid[5:])
    assert caught.value.text == "half"
    assert caught.value.partial.stop_reason is None
    assert isinstance(caught.value.__cause__, ProviderError)


@pytest.mark.parametrize("missing", ["messageStop", "metadata"])
def test_missing_final_events(missing):
    """A stream is complete only with messageStop and metadata, in either order."""
    events = list(stream((0, {"text": "all of it"})))
    with pytest.raises(StreamInterrupted) as caught:
        fold_events([event for event in events if missing not in event])
    assert caught.value.text == "all of it"
    assert caught.value.partial.raw_stop_reason is None
    assert fold_events(events[:-2] + [events[-1], events[-2]])[-1] == fold_events(events)[-1]


def test_unknown_events():
    """An unknown event is ignored."""
    assert (
        fold_events([{"weather": {"sunny": True}}] + list(stream((0, {"text": "a"}))))[
            -1
        ].reply.text
        == "a"
    )


def test_unknown_blocks():
    """An unknown block is kept and sent back unchanged. So is a known one with an invalid value."""
    unknown = {"hologram": {"depth": {"bytes": DATA}}}
    reply = decode_reply(reply_body(unknown), "m", None)
    assert reply.message.content == [unknown]
    assert encode([reply.message])["messages"][0]["content"] == as_boto3([unknown])
    assert fold_events(stream((0, {"start": unknown})))[-1].reply.message.content == [unknown]
    invalid = {"citationsContent": {"content": 7}}
    assert fold_events(stream((0, {"start": invalid})))[-1].reply.message.content == [invalid]
    invalid = {"image": {"format": 7, "source": {"bytes": DATA}}}
    assert decode_reply(reply_body(invalid), "m", None).message.content == [invalid]


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"output": {}},
        dict(reply_body(), stopReason=None),
        dict(reply_body(), output={"message": {"content": "text"}}),
        reply_body(7),
        reply_body({}),
        reply_body({"text": None}),
        reply_body({"toolUse": {"name": "f"}}),
        reply_body({"reasoningContent": {"reasoningText": {}}}),
    ],
    ids=str,
)
def test_body_without_a_reply(body):
    """A body of another shape raises an error that the client turns into a ProviderError."""
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        decode_reply(body, "m", None)


# Repeated indexes, and nulls


def tool_call(index, call_id, name, *deltas):
    yield {
        "contentBlockStart": {
            "contentBlockIndex": index,
            "start": {"toolUse": {"toolUseId": call_id, "name": name}},
        }
    }
    for arguments in deltas:
        yield {
            "contentBlockDelta": {
                "contentBlockIndex": index,
                "delta": {"toolUse": {"input": arguments}},
            }
        }
    yield {"contentBlockStop": {"contentBlockIndex": index}}


def text_block(index, text):
    yield {"contentBlockDelta": {"contentBlockIndex": index, "delta": {"text": text}}}
    yield {"contentBlockStop": {"contentBlockIndex": index}}


END = [{"messageStop": {"stopReason": "tool_use"}}, {"metadata": {"usage": {}}}]


def feed(*events):
    fold = ConverseFold("m", None)
    return [event for data in list(events) + END for event in fold.feed(data)]


def test_repeated_index():
    """A block at the index of a stopped block is another block; both are kept, in order."""
    events = feed(*tool_call(0, "a", "f", '{"a": 1}'), *tool_call(0, "b", "g"))
    expected = [ToolCall(id="a", name="f", arguments={"a": 1}), ToolCall(id="b", name="g")]
    assert [event.call for event in events if isinstance(event, ToolCallReady)] == expected
    assert events[-1].reply.tool_calls == expected


def test_call_at_the_index_of_a_text():
    """Text is kept if a call starts at the index of its stopped block."""
    reply = feed(*text_block(0, "hi"), *tool_call(0, "a", "f"))[-1].reply
    assert (reply.text, [call.name for call in reply.tool_calls]) == ("hi", ["f"])


def test_start_at_an_open_index():
    """A block that starts at the index of an open block interrupts the stream."""
    fold = ConverseFold("m", None)
    wire = [next(text_block(0, "hi"))] + list(tool_call(0, "a", "f"))
    with pytest.raises(StreamInterrupted, match="index 0 while another one is open") as caught:
        list(fold_stream(fold, wire, fold.feed, "bedrock", None, lambda: True))
    assert caught.value.text == "hi"


@pytest.mark.parametrize("index", [float("inf"), 1.9, None, [0]], ids=str)
def test_invalid_block_index(index):
    """An invalid index is a ValueError."""
    for events in (
        text_block(index, "hi"),
        tool_call(index, "a", "f"),
        list(text_block(index, "hi"))[1:],
    ):
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
    ids=lambda value: next(iter(value)),
)
def test_null_members_of_a_block(block):
    """Null members of a union are ignored. Gateways in typed languages send all members."""

    def decode(value):
        encode = {
            "output": {"message": {"role": "assistant", "content": [value]}},
            "stopReason": "tool_use",
        }
        return decode_reply(encode, "m", None)

    nulls = dict.fromkeys(["text", "toolUse", "reasoningContent", "document"])
    kind = next(iter(block))
    inner = block[kind]
    if kind in ("reasoningContent", "image"):
        inner = dict(inner, redactedContent=None)
    assert decode(dict(nulls, **{kind: inner})) == decode(block)
    assert decode(block).message.content[0] != {kind: None}


def test_null_members_of_an_event():
    """Null members are also ignored in starts, deltas and pieces of reasoning."""
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
