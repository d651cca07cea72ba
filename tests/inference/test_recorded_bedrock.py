"""Recorded traffic of Bedrock, sent over a socket to boto3.

Code in this file, which is independent of the codecs, joins each stream into the body that the same
reply has without streaming. The client's reply must equal that body. If boto3 has no Converse, the
codec alone decodes its records.
"""

import base64
import copy
import itertools
import json

import boto3
import pytest

from asimov_sync import (
    AuthenticationError,
    BedrockInferenceClient,
    ChatMessage,
    ChatRole,
    InvalidRequestError,
    ProviderError,
    RateLimitError,
    StreamInterrupted,
    Usage,
)
from asimov_sync.inference.providers.bedrock.converse import (
    ConverseFold,
    decode_reply,
    encode_request,
)
from asimov_sync.inference.providers.bedrock.errors import decode_response_error
from asimov_sync.inference.providers.fold import fold_stream
from asimov_sync.inference.request import Request

from ..recorded import load_records
from ..tiers import suite
from .byte_server import ByteServer, RawResponse
from .event_stream import exception, frames, messages, read

pytestmark = suite

INVOKE = load_records("bedrock_invoke", "bedrock_invoke_attested")
CONVERSE = load_records(
    "bedrock_converse", "bedrock_converse_attested", "bedrock_converse_reconstructed"
)

NO_MESSAGE = {
    "newrelic+newrelic-python-agent__external_botocore-_mock_external_bedrock_server_"
    "invoke_model.py__18_6a231f",
    "traceloop+openllmetry-js__Test-Anthropic-with-AWS-Bedrock-Instrumentation_3427560822-"
    "should-set-request-and-response-att__0_f5b02e",
    "traceloop+openllmetry__test_anthropic-test_anthropic_2_completion__0_991ff2",
}
"""Records of Claude 2's text completions, an older API at the same address, without messages."""

CUT = {
    "newrelic+newrelic-python-agent__external_botocore-_mock_external_bedrock_server_"
    "invoke_model.py__2_458a64"
}
"""A handmade stream that ends without message_delta and message_stop."""

ERRORS = {"ThrottlingException": RateLimitError, "UnrecognizedClientException": AuthenticationError}


def chunkings(record):
    """Yield the pieces of a body: the whole, pieces of a few bytes, and frames."""
    size = 1 if len(record.body) < 1500 else 61
    yield [record.body]
    yield [record.body[start : start + size] for start in range(0, len(record.body), size)]
    if is_stream(record):
        yield list(frames(record.body))


def is_stream(record):
    return record.body[8:].find(b":message-type") != -1


@pytest.fixture(scope="module")
def server():
    """Return a server whose responses each test sets, with clients of both APIs."""
    session = boto3.Session("AKIDEXAMPLE", "secret", region_name="us-east-1")
    with ByteServer(RawResponse()) as server:
        server.clients = {
            api: BedrockInferenceClient(
                "a-model", endpoint_url=server.url, api=api, session=session, max_retries=0
            )
            for api in ("invoke", "converse")
        }
        yield server


def headers_of(record):
    """Return the headers of a record, except those of its framing."""
    framing = ("content-length", "transfer-encoding", "connection", "content-encoding")
    return {name: value for name, value in record.headers.items() if name not in framing}


def replay(server, api, record, pieces, streams, messages="hello"):
    """Serve a record and return the client's reply."""
    server.set_responses(RawResponse(*pieces, status=record.status, headers=headers_of(record)))
    client = server.clients[api]
    if not streams:
        return client.generate(messages)
    stream = client.stream(messages)
    for _ in stream:
        pass
    return stream.reply


# The independent reading of the Messages API


def read_message(record):
    """Return the message of a record of InvokeModel."""
    if not is_stream(record):
        return json.loads(record.body.decode())
    message = {}
    for event in messages(record.body):
        kind = event["type"]
        if kind == "message_start":
            message = event["message"]
        elif kind == "content_block_start":
            message["content"].append(event["content_block"])
            if event["content_block"]["type"] == "tool_use":
                message["content"][-1]["input"] = ""
        elif kind == "content_block_delta":
            block, delta = message["content"][event["index"]], event["delta"]
            if delta["type"] == "text_delta":
                block["text"] += delta["text"]
            else:
                assert delta["type"] == "input_json_delta"
                block["input"] += delta["partial_json"]
        elif kind == "content_block_stop":
            block = message["content"][event["index"]]
            if block["type"] == "tool_use":
                block["input"] = json.loads(block["input"] or "{}")
        elif kind == "message_delta":
            message.update(event["delta"])
            message["usage"].update(event["usage"])
        elif kind == "message_stop":
            metrics = event["amazon-bedrock-invocationMetrics"]
            assert metrics["inputTokenCount"] == message["usage"]["input_tokens"]
            assert metrics["outputTokenCount"] == message["usage"]["output_tokens"]
    return message


@pytest.mark.parametrize("record", INVOKE)
def test_invoke(server, record):
    """Every record of InvokeModel gives its reply or its error, in three chunkings.

    Each reply can be sent back.
    """
    streams = record.url.endswith("stream")
    for pieces in chunkings(record):
        if record.status != 200:
            with pytest.raises(AuthenticationError, match="security token") as caught:
                replay(server, "invoke", record, pieces, streams)
            assert caught.value.status == record.status
            assert caught.value.error_type == record.headers["x-amzn-errortype"].split(":")[0]
            assert caught.value.request_id == record.headers["x-amzn-requestid"]
            continue
        if record.name in NO_MESSAGE:
            with pytest.raises(
                StreamInterrupted if streams else ProviderError, match="KeyError|not a message"
            ):
                replay(server, "invoke", record, pieces, streams)
            continue
        if record.name in CUT:
            with pytest.raises(StreamInterrupted) as caught:
                replay(server, "invoke", record, pieces, streams)
            assert caught.value.partial.message.content == read_message(record)["content"]
            continue
        if record.name.startswith("midstream"):
            ((headers, payload),) = read(record.body)
            assert headers[":exception-type"] == "throttlingException"
            with pytest.raises(RateLimitError, match=json.loads(payload)["message"][:40]) as caught:
                replay(server, "invoke", record, pieces, streams)
            assert (caught.value.status, caught.value.error_type) == (None, "throttlingException")
            continue
        message = read_message(record)
        reply = replay(server, "invoke", record, pieces, streams)
        assert reply.message.content == message["content"]
        assert reply.stop_reason == reply.raw_stop_reason == message["stop_reason"]
        assert (reply.id, reply.model) == (message["id"], message["model"])
        usage = message["usage"]
        assert reply.usage == Usage(
            input_tokens=usage["input_tokens"],
            output_tokens=usage["output_tokens"],
            cache_read_input_tokens=usage.get("cache_read_input_tokens") or 0,
            cache_write_input_tokens=usage.get("cache_creation_input_tokens") or 0,
            cache_write_5m_input_tokens=usage.get("cache_creation", {}).get(
                "ephemeral_5m_input_tokens", 0
            ),
            cache_write_1h_input_tokens=usage.get("cache_creation", {}).get(
                "ephemeral_1h_input_tokens", 0
            ),
            requests=1,
        )
        assert [call.arguments for call in reply.tool_calls] == [
            block["input"] for block in message["content"] if block["type"] == "tool_use"
        ]
    if (
        record.status == 200
        and record.name not in NO_MESSAGE | CUT
        and not record.name.startswith("midstream")
    ):
        replay(server, "invoke", record, pieces, streams, ["question", reply.message, "and now?"])
        body = json.loads(server.requests[-1].body.decode())
        assert body["messages"][1] == {"role": "assistant", "content": message["content"]}


def test_records_without_a_message():
    """The listed records exist, and no other record is of the older API."""
    names = {record.name for param in INVOKE for record in param.values if record is not None}
    if names:
        assert NO_MESSAGE | CUT <= names
        legacy = {
            record.name
            for param in INVOKE
            for record in param.values
            if "legacy-text-completions" in record.features
        }
        assert legacy == NO_MESSAGE


# The independent reading of Converse


def read_converse(record):
    """Return the body of a record of Converse.

    A stream is joined into one body. Its bytes remain base64.
    """
    if not is_stream(record):
        return json.loads(record.body.decode())
    blocks, body = {}, {}
    for headers, payload in read(record.body):
        kind, data = headers[":event-type"], json.loads(payload.decode())
        if kind == "contentBlockStart":
            blocks[data["contentBlockIndex"]] = data["start"]
        elif kind == "contentBlockDelta":
            merge(blocks.setdefault(data["contentBlockIndex"], {}), data["delta"])
        elif kind == "messageStop":
            body["stopReason"] = data["stopReason"]
        elif kind == "metadata":
            body["usage"] = data["usage"]
    content = [blocks[index] for index in sorted(blocks)]
    for block in content:
        if "toolUse" in block:
            block["toolUse"]["input"] = json.loads(block["toolUse"]["input"])
        if "citations" in block:
            text = block.pop("text", None)
            block["citationsContent"] = {"citations": block.pop("citations")}
            if text:
                block["citationsContent"]["content"] = [{"text": text}]
    return dict(body, output={"message": {"role": "assistant", "content": content}})


def merge(block, delta):
    if "text" in delta:
        block["text"] = block.get("text", "") + delta["text"]
    elif "citation" in delta:
        block.setdefault("citations", []).append(delta["citation"])
    elif "toolUse" in delta:
        block["toolUse"]["input"] = block["toolUse"].get("input", "") + delta["toolUse"]["input"]
    elif "toolResult" in delta:
        block["toolResult"].setdefault("content", []).extend(delta["toolResult"])
    elif "redactedContent" in delta["reasoningContent"]:
        assert not block  # in one piece
        block["reasoningContent"] = delta["reasoningContent"]
    else:
        reasoning = block.setdefault("reasoningContent", {}).setdefault(
            "reasoningText", {"text": ""}
        )
        for name, piece in delta["reasoningContent"].items():
            reasoning[name] = reasoning.get(name, "") + piece


def to_messages_block(block):
    """Return the Messages block of a Converse block."""
    ((kind, value),) = block.items()
    if kind == "text":
        return {"type": "text", "text": value}
    if kind == "toolUse":
        return {
            "type": value.get("type", "tool_use"),
            "id": value["toolUseId"],
            "name": value["name"],
            "input": value["input"],
        }
    if kind == "citationsContent":
        text = "".join(part["text"] for part in value.get("content", []))
        return {"type": "text", "text": text, "citations": value["citations"]}
    if kind == "reasoningContent" and "redactedContent" in value:
        return {
            "type": "redacted_thinking",
            "data": base64.b64decode(value["redactedContent"]).decode(),
        }
    if kind == "reasoningContent":
        value = dict(value["reasoningText"])
        return dict({"type": "thinking", "thinking": value.pop("text")}, **value)
    return block


def expected_usage(usage):
    lifetimes = {detail["ttl"]: detail["inputTokens"] for detail in usage.get("cacheDetails", [])}
    cache_read, cache_write = (
        usage.get("cacheReadInputTokens", 0),
        usage.get("cacheWriteInputTokens", 0),
    )
    assert (
        usage["totalTokens"]
        == usage["inputTokens"] + usage["outputTokens"] + cache_read + cache_write
    )
    return Usage(
        input_tokens=usage["inputTokens"],
        output_tokens=usage["outputTokens"],
        cache_read_input_tokens=cache_read,
        cache_write_input_tokens=cache_write,
        cache_write_5m_input_tokens=lifetimes.get("5m", 0),
        cache_write_1h_input_tokens=lifetimes.get("1h", 0),
        requests=1,
    )


def sent_back(content):
    """Yield the blocks of a received content as they are sent back.

    Blank text is omitted, because Bedrock rejects it.
    """
    for block in copy.deepcopy(content):
        if "text" in block and not block["text"].strip():
            continue
        if block.get("toolUse", {}).get("type") == "tool_use":
            del block["toolUse"]["type"]
        yield block


def check_converse(record, body, reply):
    content = body["output"]["message"]["content"]
    assert reply.message.content == list(map(to_messages_block, content))
    json.dumps(reply.message.content)
    assert reply.raw_stop_reason == body["stopReason"]
    assert reply.stop_reason == {"guardrail_intervened": "refusal"}.get(
        body["stopReason"], body["stopReason"]
    )
    assert reply.usage == expected_usage(body["usage"])
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [
        (block["toolUse"]["toolUseId"], block["toolUse"]["name"], block["toolUse"]["input"])
        for block in content
        if block.get("toolUse", {}).get("type", "tool_use") == "tool_use" and "toolUse" in block
    ]


MODEL = boto3.client("bedrock-runtime", region_name="us-east-1").meta.service_model
"""boto3's description of Bedrock's operations."""


def is_known(shape, value):
    """Return whether boto3 knows every part of a value."""
    if getattr(shape, "is_document_type", False) or shape.type_name not in ("structure", "list"):
        return True
    if shape.type_name == "list":
        return all(is_known(shape.member, item) for item in value)
    return all(
        name in shape.members and is_known(shape.members[name], item)
        for name, item in value.items()
    )


@pytest.mark.parametrize("record", CONVERSE)
def test_converse(server, record):
    """Every record of Converse gives its reply or its error, in three chunkings.

    Each reply can be sent back. If boto3 has no Converse, the error names the version that has it
    and the other API.
    """
    if "Converse" not in MODEL.operation_names:
        with pytest.raises(InvalidRequestError, match=r"1\.34\.116.*api=\"invoke\""):
            replay(server, "converse", record, [record.body], is_stream(record))
        return
    for pieces in chunkings(record):
        if record.status != 200:
            with pytest.raises(InvalidRequestError, match="video content block") as caught:
                replay(server, "converse", record, pieces, False)
            assert caught.value.status == record.status
            continue
        if record.name.startswith("midstream"):
            with pytest.raises(ProviderError, match="invalid sequence") as caught:
                replay(server, "converse", record, pieces, True)
            assert caught.value.error_type == "modelStreamErrorException"
            continue
        body = read_converse(record)
        reply = replay(server, "converse", record, pieces, is_stream(record))
        check_converse(record, body, reply)
        assert (reply.model, reply.id) == ("a-model", record.headers.get("x-amzn-requestid"))
    if record.status == 200 and not record.name.startswith("midstream"):
        history = ["question", reply.message, "and now?"]
        blocks = list(sent_back(body["output"]["message"]["content"]))
        if not all(is_known(MODEL.shape_for("ContentBlock"), block) for block in blocks):
            # A block that an old boto3 does not support is an error; it is not omitted.
            with pytest.raises(InvalidRequestError, match="boto3 does not make the request"):
                replay(server, "converse", record, pieces, is_stream(record), history)
            return
        replay(server, "converse", record, pieces, is_stream(record), history)
        messages = json.loads(server.requests[-1].body.decode())["messages"]
        assert [message["role"] for message in messages] == (
            ["user", "assistant", "user"] if blocks else ["user"]
        )
        assert not blocks or messages[1]["content"] == blocks


def as_boto3(value):
    """Return a received block as boto3 accepts it: with bytes instead of base64."""
    if isinstance(value, list):
        return [as_boto3(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: base64.b64decode(item) if name == "redactedContent" else as_boto3(item)
        for name, item in value.items()
    }


@pytest.mark.parametrize("record", CONVERSE)
def test_converse_without_boto3(record):
    """The codec alone decodes every record of Converse, and sends it back unchanged."""
    if record.status != 200:
        error = decode_response_error(
            record.status, record.headers, json.loads(record.body.decode())
        )
        assert isinstance(error, InvalidRequestError) and "video content block" in str(error)
        return
    if record.name.startswith("midstream"):
        ((headers, _),) = read(record.body)
        assert headers[":exception-type"] == "modelStreamErrorException"  # raised by boto3
        return
    body = read_converse(record)
    content = body["output"]["message"]["content"]
    if is_stream(record):
        fold = ConverseFold("a-model", "id")
        events = [
            {headers[":event-type"]: json.loads(payload.decode())}
            for headers, payload in read(record.body)
        ]
        reply = list(fold_stream(fold, events, fold.feed, "bedrock", None, lambda: True))[-1].reply
    else:
        reply = decode_reply(json.loads(record.body.decode()), "a-model", "id")
    check_converse(record, body, reply)
    history = [ChatMessage(role=ChatRole.USER, content="question"), reply.message]
    messages = encode_request(Request("a-model", history, None, [], {}))["messages"]
    assert list(itertools.chain(*(message["content"] for message in messages[1:]))) == [
        as_boto3(block) for block in sent_back(content)
    ]


def test_reading_verifies_checksums():
    """The independent reading rejects a frame with a wrong checksum."""
    frame = bytearray(exception("throttlingException", "x"))
    frame[-6] ^= 1
    with pytest.raises(AssertionError):
        list(read(bytes(frame)))
