"""Recorded traffic of the Messages API, sent over a socket.

The client's reply must equal an independent reading of the same bytes, which shares no code with
the library.
"""

import json

import pytest

from asimov_sync import (
    AnthropicInferenceClient,
    ChatMessage,
    InferenceError,
    StreamInterrupted,
    ToolCallReady,
)
from asimov_sync.inference.providers.anthropic.wire import encode_request
from asimov_sync.inference.request import Request
from asimov_sync.messages import as_messages

from ..recorded import CHUNKINGS, load_records, split_body
from ..tiers import suite
from .byte_server import ByteServer, RawResponse
from .conftest import KEY

RECORDS = load_records("anthropic", "anthropic_attested", "anthropic_reconstructed")


def is_stream(record):
    return b"event: message_start" in record.body or "text/event-stream" in record.headers.get(
        "content-type", ""
    )


def select(matches):
    """Return the parameters of the matching records; without records, the parameter that skips."""
    if RECORDS[0].values[0] is None:
        return RECORDS
    return [record for record in RECORDS if matches(record.values[0])]


STREAMS = select(is_stream)
WHOLE = select(lambda record: not is_stream(record) and record.status == 200)
ERRORS = select(lambda record: record.status != 200)


@pytest.fixture(scope="module")
def server():
    """Return a server whose responses each test sets."""
    with ByteServer() as byte_server:
        yield byte_server


@pytest.fixture(scope="module")
def client(server):
    with AnthropicInferenceClient("m", api_key=KEY, api_url=server.url, max_retries=0) as anthropic:
        yield anthropic


# The independent reading


def read_stream(body):
    """Return (content, text, stop reason, usage, error, whole) of a recorded stream.

    The reading shares no code with the library.
    """
    blocks, inputs, usage, text, stop, error, whole = {}, {}, {}, "", None, None, False
    for line in body.decode("utf-8").replace("\r\n", "\n").split("\n"):
        if not line.startswith("data:"):
            continue
        event = json.loads(line[5:])
        if error is not None or whole:
            continue
        if event["type"] == "message_start":
            usage = dict(event["message"]["usage"])
            blocks = dict(enumerate(json.loads(json.dumps(event["message"].get("content") or []))))
        elif event["type"] == "content_block_start":
            blocks[event["index"]] = json.loads(json.dumps(event["content_block"]))
        elif event["type"] == "content_block_delta":
            block, delta = blocks[event["index"]], event["delta"]
            if delta["type"] == "text_delta":
                block["text"] += delta["text"]
                text += delta["text"]
            elif delta["type"] == "thinking_delta":
                block["thinking"] += delta["thinking"]
            elif delta["type"] == "signature_delta":
                block["signature"] = block.get("signature", "") + delta["signature"]
            elif delta["type"] == "citations_delta":
                block["citations"] = (block.get("citations") or []) + [delta["citation"]]
            elif delta["type"] == "input_json_delta":
                inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
            elif delta["type"] == "compaction_delta":
                block["content"] = delta["content"]
            else:
                raise AssertionError(f"a delta that this reading does not know: {delta}")
        elif event["type"] == "message_delta":
            stop = event["delta"].get("stop_reason") or stop
            usage.update(
                {
                    key: value
                    for key, value in (event.get("usage") or {}).items()
                    if value is not None
                }
            )
        elif event["type"] == "message_stop":
            whole = True
        elif event["type"] == "error":
            error = event["error"]
    for index, json_text in inputs.items():
        if json_text:
            try:
                blocks[index]["input"] = json.loads(json_text)
            except ValueError:
                blocks[index]["input"] = {}
    return [blocks[index] for index in sorted(blocks)], text, stop, usage, error, whole


def figures(usage):
    """Return the fields of `Usage` for the figures of a record."""
    creation = usage.get("cache_creation") or {}
    return {
        "input_tokens": usage.get("input_tokens") or 0,
        "output_tokens": usage.get("output_tokens") or 0,
        "cache_read_input_tokens": usage.get("cache_read_input_tokens") or 0,
        "cache_write_input_tokens": usage.get("cache_creation_input_tokens") or 0,
        "cache_write_5m_input_tokens": creation.get("ephemeral_5m_input_tokens") or 0,
        "cache_write_1h_input_tokens": creation.get("ephemeral_1h_input_tokens") or 0,
        "reasoning_tokens": (usage.get("output_tokens_details") or {}).get("thinking_tokens") or 0,
        "requests": 1,
    }


def check(reply, content, stop, usage):
    assert reply.message.content == content
    assert (reply.stop_reason, reply.raw_stop_reason) == (stop, stop)
    assert dict(reply.usage) == figures(usage)
    tool_uses = [block for block in content if block["type"] == "tool_use"]
    assert [(call.id, call.name) for call in reply.tool_calls] == [
        (block["id"], block["name"]) for block in tool_uses
    ]
    assert [call.arguments for call in reply.tool_calls] == [
        block["input"] or {} for block in tool_uses
    ]
    assert reply.text == "".join(block["text"] for block in content if block["type"] == "text")


def check_history(reply, content):
    """A reply stored as JSON and sent back as history is unchanged, without the blank text."""
    stored = ChatMessage.model_validate_json(reply.message.model_dump_json())
    body = encode_request(Request("m", as_messages(["x", stored]), None, [], {}))
    nonblank = [block for block in content if block["type"] != "text" or block["text"].strip()]
    assert body["messages"][1:] == (
        [{"role": "assistant", "content": nonblank}] if nonblank else []
    )


# Streams


@suite
@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("chunking", CHUNKINGS)
@pytest.mark.parametrize("record", STREAMS)
def test_recorded_stream(record, chunking, framing, server, client):
    """A recorded stream folds to its reply, however its bytes are split and framed."""
    stream = {"content-type": "text/event-stream"}
    server.set_responses(
        RawResponse(*split_body(record.body, chunking), headers=stream, framing=framing)
    )
    content, text, stop, usage, error, whole = read_stream(record.body)
    stream = client.stream("hello")
    if error is not None or not whole:
        with pytest.raises(InferenceError) as caught:
            list(stream)
        if error is None:
            assert isinstance(caught.value, StreamInterrupted)
        else:
            assert (type(caught.value).__name__, caught.value.error_type) == (
                CLASSES[error["type"]],
                error["type"],
            )
        assert caught.value.partial.message.content == content
        return
    events = list(stream)
    check(stream.reply, content, stop, usage)
    check_history(stream.reply, content)
    assert "".join(event.text for event in events if event.type == "text_delta") == text
    assert [
        event.call for event in events if isinstance(event, ToolCallReady)
    ] == stream.reply.tool_calls


# Whole replies and errors


@pytest.mark.parametrize("record", WHOLE)
def test_recorded_whole_reply(record, server, client):
    """A whole reply decodes to the recorded one."""
    server.set_responses(RawResponse(record.body, framing="length"))
    body = json.loads(record.body.decode("utf-8"))
    reply = client.generate("hello")
    check(reply, body["content"], body["stop_reason"], body["usage"])
    check_history(reply, body["content"])
    assert (reply.id, reply.model) == (body["id"], body["model"])


CLASSES = {
    "api_error": "ProviderError",
    "authentication_error": "AuthenticationError",
    "not_found_error": "NotFoundError",
    "rate_limit_error": "RateLimitError",
    "overloaded_error": "OverloadedError",
}


@pytest.mark.parametrize("record", ERRORS)
def test_recorded_error(record, server, client):
    """A recorded error has the class of its type, and the provider's message."""
    server.set_responses(RawResponse(record.body, status=record.status, framing="length"))
    details = json.loads(record.body.decode("utf-8"))["error"]
    with pytest.raises(InferenceError) as caught:
        client.generate("hello")
    assert type(caught.value).__name__ == CLASSES[details["type"]]
    assert (caught.value.status, caught.value.error_type) == (record.status, details["type"])
    assert details["message"] in str(caught.value)
