"""Real streams of the Messages API: the reply equals that of the official SDK.

Collected only where the SDK is installed (`tox -e sdk`, Python 3.10 and later).
"""

import json

import anthropic
import pytest

from asimov_sync import AnthropicInferenceClient, InferenceError

from ..recorded import split_body
from .byte_server import ByteServer, RawResponse
from .conftest import KEY
from .test_recorded_messages import STREAMS, read_stream

BETA = ("compaction", "mcp_tool_use")
"""Blocks that only the SDK's beta endpoint accumulates."""


@pytest.fixture(scope="module")
def server():
    """Return a server whose responses each test sets."""
    with ByteServer() as byte_server:
        yield byte_server


def plain(block):
    """Return a block of the SDK as JSON, without fields that were not sent."""
    data = json.loads(block.to_json(exclude_unset=True))
    if data["type"] == "compaction" and data.get("encrypted_content", "") is None:
        del data["encrypted_content"]  # set by the accumulation itself
    return data


def first_message(body):
    """Return the bytes up to the first message_stop.

    Some records hold several streams, and the SDK continues into the next.
    """
    end = body.find(b"\n\n", body.index(b'"message_stop"'))
    return body if end < 0 else body[: end + 2]


@pytest.mark.parametrize("record", STREAMS)
def test_equals_the_official_sdk(record, server):
    """Content and stop reason equal those of the official SDK. If the SDK fails, this library
    fails.
    """
    content, _, _, _, error, _ = read_stream(record.body)
    body = record.body if error is not None else first_message(record.body)
    stream = {"content-type": "text/event-stream"}
    server.set_responses(RawResponse(*split_body(body, "events"), headers=stream, framing="close"))
    sdk = anthropic.Anthropic(api_key=KEY, base_url=server.url, max_retries=0)
    messages = (
        sdk.beta.messages if any(block["type"] in BETA for block in content) else sdk.messages
    )
    request = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}
    client = AnthropicInferenceClient("m", api_key=KEY, api_url=server.url, max_retries=0)
    if error is not None:
        with pytest.raises(anthropic.APIError), messages.stream(**request) as stream:
            stream.get_final_message()
        with pytest.raises(InferenceError, match=error["message"]):
            client.generate("hello")
        return
    with messages.stream(**request) as stream:
        expected = stream.get_final_message()
    reply = client.generate("hello")
    assert reply.message.content == [plain(block) for block in expected.content]
    assert reply.stop_reason == expected.stop_reason
    assert reply.usage.output_tokens == expected.usage.output_tokens
