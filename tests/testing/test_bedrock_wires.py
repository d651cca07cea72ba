"""boto3 reads the Bedrock endpoints of a ModelServer."""

import base64
import contextlib
import json
import sys

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from asimov_sync import Usage
from asimov_sync.testing import Failure, Fault, ModelServer
from asimov_sync.testing.wires import MESSAGES

from .replies import (
    CITATION,
    CONVERSE_HELLO,
    HELLO,
    REDACTED,
    TEXT,
    THINKING,
    TOOL,
    UNKNOWN,
    cite,
    make_reply,
    post_json,
)


@pytest.fixture
def bedrock():
    """Return a function that makes a boto3 client for a server."""
    made = []

    def client(server):
        config = Config(retries={"total_max_attempts": 1}, proxies={})
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
        one = boto3.client(
            "bedrock-runtime",
            region_name="us-east-1",
            endpoint_url=server.bedrock_url,
            config=config,
            **keys,
        )
        made.append(one)
        return one

    yield client
    for one in made:
        if hasattr(one, "close"):
            one.close()


def has_operation(client, operation):
    """Return whether boto3 has an operation. Only the versions for Python 3.7 and 3.8 lack some.

    Python 3.7's has no Converse, and Python 3.8's no CountTokens.
    """
    if not hasattr(client, operation):
        oldest = (3, 8) if operation.startswith("converse") else (3, 9)
        assert sys.version_info < oldest, f"a botocore that should have {operation}"
    return hasattr(client, operation)


def supported_blocks(client):
    """Return the blocks of a reply, with the citation only if botocore knows citations.

    An older botocore would drop the whole block.
    """
    known = "citationsContent" in client.meta.service_model.shape_for("ContentBlock").members
    assert known or sys.version_info < (3, 9)
    return [THINKING, REDACTED, TEXT, TOOL] + ([cite("see", CITATION)] if known else [])


def test_invoke_model(bedrock):
    """boto3 reads a reply that is not streamed: it is the Messages body."""
    blocks = [THINKING, REDACTED, cite("see", CITATION), UNKNOWN, TOOL]
    with ModelServer([make_reply(*blocks)]) as server:
        response = bedrock(server).invoke_model(
            modelId="anthropic.claude:0/x", body=json.dumps(HELLO)
        )
        received = json.loads(response["body"].read().decode("utf-8"))
        assert response["ResponseMetadata"]["RequestId"] == "req_000000"
        assert server.requests[0].path == "/model/anthropic.claude%3A0%2Fx/invoke"
    assert received == MESSAGES.reply_body(make_reply(*blocks), {})


def test_invoke_model_with_response_stream(bedrock):
    """boto3 reads the stream: Messages events without pings, and metrics at the end."""
    blocks = [THINKING, cite("see", CITATION), UNKNOWN, TOOL]
    with ModelServer([make_reply(*blocks)]) as server:
        response = bedrock(server).invoke_model_with_response_stream(
            modelId="m", body=json.dumps(HELLO)
        )
        assert response["contentType"] == "application/json"
        received = [
            json.loads(event["chunk"]["bytes"].decode("utf-8")) for event in response["body"]
        ]
    expected = [
        event for event in MESSAGES.reply_events(make_reply(*blocks), {}) if event["type"] != "ping"
    ]
    assert received[:-2] == expected[:-2]
    assert received[-2]["usage"] == {
        "output_tokens": 50,
        "output_tokens_details": {"thinking_tokens": 20},
    }
    assert received[-1]["amazon-bedrock-invocationMetrics"]["outputTokenCount"] == 50


CONVERSED = [
    {"reasoningContent": {"reasoningText": {"text": "let me see", "signature": "sig=="}}},
    {"reasoningContent": {"redactedContent": b"EuYB"}},
    {"text": "Hello wörld"},
    {"toolUse": {"toolUseId": "tu1", "name": "f", "input": {"a": [1, "é"]}}},
    {
        "citationsContent": {
            "content": [{"text": "see"}],
            "citations": [
                {
                    "title": "T",
                    "sourceContent": [{"text": "abc"}],
                    "location": {"documentChar": {"documentIndex": 0, "start": 1, "end": 4}},
                }
            ],
        }
    },
]
CONVERSE_USAGE = {
    "inputTokens": 3,
    "outputTokens": 50,
    "totalTokens": 71,
    "cacheReadInputTokens": 7,
    "cacheWriteInputTokens": 11,
    "cacheDetails": [{"ttl": "5m", "inputTokens": 5}, {"ttl": "1h", "inputTokens": 6}],
}


def supported_usage(client):
    """Return the part of CONVERSE_USAGE that botocore knows: Python 3.8's has no cacheDetails."""
    known = client.meta.service_model.shape_for("TokenUsage").members
    assert "cacheDetails" in known or sys.version_info < (3, 9)
    return {name: figure for name, figure in CONVERSE_USAGE.items() if name in known}


def test_converse_in_json():
    """The JSON contains everything, including what boto3's version may not know."""
    blocks = [THINKING, REDACTED, TEXT, TOOL, cite("see", CITATION)]
    with ModelServer([make_reply(*blocks)]) as server:
        received = post_json(server, "/model/m/converse", CONVERSE_HELLO).json()
    redacted = {"reasoningContent": {"redactedContent": base64.b64encode(b"EuYB").decode("ascii")}}
    assert received["output"]["message"]["content"] == CONVERSED[:1] + [redacted] + CONVERSED[2:]
    assert received["usage"] == CONVERSE_USAGE


def test_converse(bedrock):
    """boto3 reads a reply in Converse's blocks, with its usage."""
    blocks = []
    with ModelServer(lambda body: make_reply(*blocks)) as server:
        client = bedrock(server)
        if not has_operation(client, "converse"):
            return
        blocks += supported_blocks(client)
        received = client.converse(modelId="m", **CONVERSE_HELLO)
    assert received["output"]["message"] == {
        "role": "assistant",
        "content": CONVERSED[: len(blocks)],
    }
    assert (received["stopReason"], received["usage"]) == ("tool_use", supported_usage(client))


def test_converse_stream(bedrock):
    """boto3 reads the stream: starts of tools only, citation before text, usage at the end."""
    blocks = []
    with ModelServer(lambda body: make_reply(*blocks)) as server:
        client = bedrock(server)
        if not has_operation(client, "converse_stream"):
            return
        blocks += supported_blocks(client)
        events = [
            next(iter(event.items()))
            for event in client.converse_stream(modelId="m", **CONVERSE_HELLO)["stream"]
        ]
    names = [name for name, _ in events]
    assert (names[0], names[-2:]) == ("messageStart", ["messageStop", "metadata"])
    starts = [received for name, received in events if name == "contentBlockStart"]
    assert starts == [
        {"contentBlockIndex": 3, "start": {"toolUse": {"toolUseId": "tu1", "name": "f"}}}
    ]
    deltas = [
        (received["contentBlockIndex"], received["delta"])
        for name, received in events
        if name == "contentBlockDelta"
    ]
    assert [delta for index, delta in deltas if index == 0][-1] == {
        "reasoningContent": {"signature": "sig=="}
    }
    assert [delta for index, delta in deltas if index == 1] == [CONVERSED[1]]
    assert "".join(delta["text"] for index, delta in deltas if index == 2) == "Hello wörld"
    arguments = "".join(delta["toolUse"]["input"] for index, delta in deltas if index == 3)
    assert json.loads(arguments) == {"a": [1, "é"]}
    citation = {"citation": CONVERSED[4]["citationsContent"]["citations"][0]}
    assert [delta for index, delta in deltas if index == 4] == [citation, {"text": "see"}][
        : 2 * (len(blocks) - 4)
    ]
    assert events[-2][1] == {"stopReason": "tool_use"}
    assert events[-1][1]["usage"] == supported_usage(client)


def test_boto3_raises_failures(bedrock):
    """boto3 raises a Failure as a ClientError with AWS's code, also in the middle of a stream."""
    error = Fault("one two", error_at=3, error=Failure(429, message="slow down"))
    with ModelServer([Failure(429, message="slow down"), error]) as server:
        client = bedrock(server)
        with pytest.raises(ClientError, match="slow down") as caught:
            client.invoke_model(modelId="m", body=json.dumps(HELLO))
        assert caught.value.response["Error"]["Code"] == "ThrottlingException"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
        with contextlib.closing(
            client.invoke_model_with_response_stream(modelId="m", body=json.dumps(HELLO))["body"]
        ) as body:
            events = iter(body)
            assert len([next(events) for _ in range(3)]) == 3
            with pytest.raises(ClientError, match="slow down") as caught:
                next(events)
        assert caught.value.response["Error"]["Code"] == "throttlingException"


def test_token_counts(bedrock):
    """Messages, system and tools are counted. No answer of the script and no usage is consumed."""
    body = dict(HELLO, system="be brief", tools=[{"name": "f"}])
    with ModelServer(["hi"]) as server:
        (small_count, large_count) = (
            post_json(server, "/v1/messages/count_tokens", one).json() for one in (HELLO, body)
        )
        assert (
            set(small_count) == {"input_tokens"}
            and 0 < small_count["input_tokens"] < large_count["input_tokens"]
        )
        wrapped = {
            "input": {
                "invokeModel": {
                    "body": base64.b64encode(json.dumps(body).encode("utf-8")).decode("ascii")
                }
            }
        }
        assert post_json(server, "/model/m/count-tokens", wrapped).json() == {
            "inputTokens": large_count["input_tokens"]
        }
        client = bedrock(server)
        if has_operation(client, "count_tokens"):
            counted = client.count_tokens(modelId="m", input={"converse": CONVERSE_HELLO})
            assert counted["inputTokens"] == small_count["input_tokens"]
        assert server.usage == Usage()
        assert [request.reply for request in server.requests] == [None] * len(server.requests)
        assert post_json(server, "/v1/messages", HELLO).ok
