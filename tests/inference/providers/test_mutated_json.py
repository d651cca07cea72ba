"""Mutated JSON on the four wires: the result is a reply or an error of this library."""

import base64
import copy
import json

import boto3
import pytest
from hypothesis import given, settings, strategies as st

from asimov_sync import (
    AnthropicInferenceClient,
    BedrockInferenceClient,
    ChatMessage,
    InferenceError,
    OpenAIInferenceClient,
    ReplyDone,
)
from asimov_sync.inference.providers.anthropic import wire as messages
from asimov_sync.inference.providers.anthropic.wire import MessagesFold
from asimov_sync.inference.providers.bedrock import converse
from asimov_sync.inference.providers.bedrock.converse import ConverseFold
from asimov_sync.inference.providers.bedrock.invoke import InvokeFold
from asimov_sync.inference.providers.fold import fold_stream
from asimov_sync.inference.providers.openai import request as chat_request
from asimov_sync.inference.providers.openai.reply import ChatFold
from asimov_sync.inference.request import Request

from ...tiers import by_tier, suite
from ..byte_server import ByteServer, RawResponse
from ..conftest import KEY

EXAMPLES = by_tier(100, 5000)
"""The number of mutated streams, and of mutated bodies, for each wire."""

CALL = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
CITATION = {"type": "char_location", "cited_text": "a", "document_index": 0}


def block(index, start, *deltas):
    yield {"type": "content_block_start", "index": index, "content_block": start}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


MESSAGES = [
    {
        "type": "message_start",
        "message": {"id": "m", "model": "x", "content": [], "usage": {"input_tokens": 3}},
    },
    {"type": "ping"},
    *block(
        0,
        {"type": "thinking", "thinking": ""},
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "signature_delta", "signature": "s"},
    ),
    *block(
        1,
        {"type": "text", "text": ""},
        {"type": "text_delta", "text": "hi"},
        {"type": "citations_delta", "citation": CITATION},
        {"type": "new_delta", "new": [1]},
    ),
    *block(2, CALL, {"type": "input_json_delta", "partial_json": '{"a": 1}'}),
    *block(3, {"type": "new_block", "data": {"a": [1]}}),
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use"},
        "usage": {"output_tokens": 4, "cache_creation": {}},
    },
    {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 5}},
]
MESSAGES_BODY = {
    "type": "message",
    "id": "m",
    "model": "x",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "hi"},
        CALL,
    ],
    "stop_reason": "tool_use",
    "usage": {
        "input_tokens": 1,
        "output_tokens": 2,
        "cache_creation": {"ephemeral_5m_input_tokens": 1},
    },
}
MESSAGES_ERROR = {
    "type": "error",
    "error": {"type": "overloaded_error", "message": "busy"},
    "request_id": "r",
}


def converse_delta(index, delta):
    return {"contentBlockDelta": {"contentBlockIndex": index, "delta": delta}}


CONVERSE = [
    {"messageStart": {"role": "assistant"}},
    converse_delta(0, {"reasoningContent": {"text": "hm"}}),
    converse_delta(0, {"reasoningContent": {"signature": "s"}}),
    {"contentBlockStop": {"contentBlockIndex": 0}},
    converse_delta(1, {"text": "hi"}),
    converse_delta(1, {"citation": {"title": "a"}}),
    {"contentBlockStop": {"contentBlockIndex": 1}},
    {
        "contentBlockStart": {
            "contentBlockIndex": 2,
            "start": {"toolUse": {"toolUseId": "t", "name": "f"}},
        }
    },
    converse_delta(2, {"toolUse": {"input": '{"a": 1}'}}),
    {"contentBlockStop": {"contentBlockIndex": 2}},
    {"contentBlockStart": {"contentBlockIndex": 3, "start": {"image": {"format": "png"}}}},
    converse_delta(3, {"image": {"source": {"bytes": "AAAA"}}}),
    {"contentBlockStop": {"contentBlockIndex": 3}},
    converse_delta(4, {"reasoningContent": {"redactedContent": "AAAA"}}),
    {"contentBlockStop": {"contentBlockIndex": 4}},
    {"messageStop": {"stopReason": "tool_use"}},
    {
        "metadata": {
            "usage": {
                "inputTokens": 5,
                "outputTokens": 6,
                "totalTokens": 11,
                "cacheDetails": [{"ttl": "5m"}],
            }
        }
    },
]
CONVERSE_BODY = {
    "output": {
        "message": {
            "role": "assistant",
            "content": [
                {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
                {"reasoningContent": {"redactedContent": "AAAA"}},
                {"text": "hi"},
                {"citationsContent": {"content": [{"text": "a"}], "citations": [{"title": "a"}]}},
                {"image": {"format": "png", "source": {"bytes": "AAAA"}}},
                {"toolUse": {"toolUseId": "t", "name": "f", "input": {"a": 1}}},
            ],
        }
    },
    "stopReason": "tool_use",
    "usage": {"inputTokens": 5, "outputTokens": 6, "totalTokens": 11},
}


def chunk(delta, finish=None, **more):
    return dict(
        {
            "id": "c",
            "model": "x",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        },
        **more,
    )


CHAT = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning_content": "hm"}),
    chunk({"reasoning_details": [{"type": "reasoning.text", "text": "hm", "index": 0}]}),
    chunk(
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "a"},
            ]
        }
    ),
    chunk({"content": "hi", "annotations": [{"type": "url_citation"}]}),
    chunk({"refusal": "no", "audio": {"id": "a", "data": "AA"}}),
    chunk(
        {"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": '{"a"'}}]}
    ),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}),
    chunk({"function_call": {"name": "g", "arguments": "{}"}}),
    chunk(
        {},
        "tool_calls",
        usage={
            "prompt_tokens": 5,
            "completion_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    ),
    chunk({}, x_groq={"usage": {"prompt_tokens": 5}}, citations=["a"]),
]
CHAT_BODY = {
    "id": "c",
    "model": "x",
    "choices": [
        {
            "index": 0,
            "message": {
                "content": "hi",
                "reasoning": "hm",
                "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": "{}"}}],
            },
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 6},
}
CHAT_ERROR = {
    "error": {
        "message": "busy",
        "code": 429,
        "type": "rate_limit_error",
        "metadata": {"raw": "x"},
        "param": ["a"],
    }
}


REQUEST = Request("m", [ChatMessage(role="user", content="x")], None, [], {}, False)
SESSION = boto3.Session(region_name="us-east-1")
# False on Python 3.7, whose last boto3 does not know Converse.
HAS_CONVERSE = hasattr(SESSION.client("bedrock-runtime"), "converse")


def as_chunk(event):
    return {"chunk": {"bytes": base64.b64encode(json.dumps(event).encode()).decode()}}


STREAMS = {
    "messages": (MESSAGES + [MESSAGES_ERROR], lambda: MessagesFold("test"), json.dumps),
    "invoke": (MESSAGES, lambda: InvokeFold("test"), lambda event: json.dumps(as_chunk(event))),
    "converse": (CONVERSE, lambda: ConverseFold("m", "r"), json.dumps),
    "chat": (
        CHAT + ["[DONE]", CHAT_ERROR],
        lambda: ChatFold("test"),
        lambda e: e if e == "[DONE]" else json.dumps(e),
    ),
}
BODIES = {
    "messages": [MESSAGES_BODY, MESSAGES_ERROR],
    "invoke": [MESSAGES_BODY],
    "converse": [CONVERSE_BODY],
    "chat": [CHAT_BODY, CHAT_ERROR],
}
if not HAS_CONVERSE:
    del BODIES["converse"]


def make_client(wire, url):
    if wire == "messages":
        return AnthropicInferenceClient("m", api_key=KEY, api_url=url, max_retries=0)
    if wire == "chat":
        return OpenAIInferenceClient("m", api_key=KEY, api_url=url, max_retries=0)
    return BedrockInferenceClient(
        "m", api=wire, api_key=KEY, endpoint_url=url, session=SESSION, max_retries=0
    )


VALUES = [
    None,
    True,
    0,
    1,
    -5,
    1.9,
    float("inf"),
    float("nan"),
    10**400,
    "",
    " ",
    "x",
    "text",
    "tool_use",
    "thinking",
]
VALUES += [
    [],
    {},
    [None],
    ["x"],
    [[]],
    {"a": 1},
    {"type": "text"},
    {"text": None, "toolUse": None},
    "{}",
    "AAAA",
]
MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["set", "remove", "add", "repeat", "swap"]),
        st.integers(0, 10**6),
        st.sampled_from(VALUES),
    ),
    min_size=1,
    max_size=4,
)


def positions(value):
    """Yield every position in a JSON value: the list or object that holds it, and its index or
    key.
    """
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, item in list(inner):
        yield value, name
        for position in positions(item):
            yield position


def mutate(events, mutations):
    """Return a copy of a list of JSON values with mutations. The numbers choose the positions."""
    events = copy.deepcopy(events)
    for kind, number, value in mutations:
        candidates = list(positions(events))
        if not candidates:
            break
        holder, name = candidates[number % len(candidates)]
        if kind == "set":
            holder[name] = copy.deepcopy(value)
        elif kind == "remove":
            del holder[name]
        elif kind == "add" and isinstance(holder, dict):
            holder[["type", "text", "index", "content", "error", "toolUse"][number % 6]] = (
                copy.deepcopy(value)
            )
        elif kind == "repeat" and isinstance(holder, list):
            holder.insert(name, copy.deepcopy(holder[name]))
        elif kind == "swap" and isinstance(holder, list):
            index = number % len(holder)
            holder[name], holder[index] = holder[index], holder[name]
    return events


def use(reply):
    """Use a reply as applications do: read it, store it, and send it back on each wire."""
    assert isinstance(reply.text, str)
    stored = ChatMessage.model_validate_json(reply.message.model_dump_json())
    for message in (reply.message, stored):
        history = [
            ChatMessage(role="user", content="x"),
            message,
            ChatMessage(role="user", content="y"),
        ]
        request = REQUEST._replace(messages=history)
        json.dumps(messages.encode_request(request))
        json.dumps(chat_request.encode_request(request))
        try:
            converse.encode_request(request)
        except ValueError as error:  # names the block that Converse does not support
            assert str(error)


@pytest.mark.parametrize("wire", sorted(STREAMS))
def test_mutated_streams(wire):
    """A stream with arbitrary values gives a reply that can be sent back, or an InferenceError."""
    original, make_fold, as_text = STREAMS[wire]

    @settings(max_examples=EXAMPLES)
    @given(MUTATIONS)
    def check(mutations):
        fold = make_fold()
        texts = [as_text(event) for event in mutate(original, mutations)]
        try:
            for event in fold_stream(fold, texts, fold.feed_text, "test", "r", lambda: True):
                json.dumps(event.to_dict(), allow_nan=False)
                if isinstance(event, ReplyDone):
                    use(event.reply)
        except InferenceError as error:
            str(error)
            if error.partial is not None:
                use(error.partial)

    check()


@suite
@pytest.mark.parametrize("wire", sorted(BODIES))
def test_mutated_replies(wire):
    """A whole reply with arbitrary values can be sent back, or is an InferenceError."""

    @settings(max_examples=EXAMPLES)
    @given(st.sampled_from(BODIES[wire]), MUTATIONS)
    def check(body, mutations):
        for mutated_body in mutate([body], mutations):
            data = json.dumps(mutated_body).encode()
            server.set_responses(RawResponse(data, framing="length"))
            try:
                reply = client.generate("x")
            except InferenceError as error:
                str(error)
            else:
                use(reply)

    with ByteServer(RawResponse()) as server, make_client(wire, server.url) as client:
        check()
        assert len(server.requests) > EXAMPLES / 2
