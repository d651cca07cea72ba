"""Recorded traffic of Bedrock, sent over a real socket into a real boto3.

An independent reading in this file, which shares no code with the codecs, joins a stream into the
body of the same reply without streaming and reads its blocks, figures and text. The client's reply
has to equal it. If boto3 has no Converse, its records go through the codec alone.
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

from ..recorded import recorded
from .byte_server import ByteServer, RawResponse
from .event_stream import exception, frames, messages, read

INVOKE = recorded("bedrock_invoke", "bedrock_invoke_attested")
CONVERSE = recorded(
    "bedrock_converse", "bedrock_converse_attested", "bedrock_converse_reconstructed"
)

NO_MESSAGE = {
    "newrelic+newrelic-python-agent__external_botocore-_mock_external_bedrock_server_invoke_model.py__18_6a231f",
    "traceloop+openllmetry-js__Test-Anthropic-with-AWS-Bedrock-Instrumentation_3427560822-should-set-request-and-"
    "response-att__0_f5b02e",
    "traceloop+openllmetry__test_anthropic-test_anthropic_2_completion__0_991ff2",
}
"""Records of Claude 2's text completions, an older wire on the same address: they hold no message.
"""

CUT = {
    "newrelic+newrelic-python-agent__external_botocore-_mock_external_bedrock_server_invoke_model.py__2_458a64"
}
"""A stream that was made by hand, and ends without message_delta and message_stop."""

ERRORS = {"ThrottlingException": RateLimitError, "UnrecognizedClientException": AuthenticationError}


def chunkings(record):
    """The body as one piece, in pieces of a few bytes, and frame by frame."""
    size = 1 if len(record.body) < 1500 else 61
    yield [record.body]
    yield [record.body[place : place + size] for place in range(0, len(record.body), size)]
    if streamed(record):
        yield list(frames(record.body))


def streamed(record):
    return record.body[8:].find(b":message-type") != -1


@pytest.fixture(scope="module")
def answering():
    """A server whose next answer each test sets, and clients of both APIs on it."""
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
    """The headers of a record, but for those of its framing."""
    framing = ("content-length", "transfer-encoding", "connection", "content-encoding")
    return {name: value for name, value in record.headers.items() if name not in framing}


def asked(server, api, record, pieces, streams, messages="hello"):
    server.set_responses(RawResponse(*pieces, status=record.status, headers=headers_of(record)))
    client = server.clients[api]
    if not streams:
        return client.generate(messages)
    stream = client.stream(messages)
    for _ in stream:
        pass
    return stream.reply


# The independent reading: of the Messages API


def whole_message(record):
    """The message of a record of InvokeModel."""
    if not streamed(record):
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
def test_invoke(answering, record):
    """Every record of InvokeModel, in three chunkings, is read right, or is the error it stands
    for, and can be sent again.
    """
    streams = record.url.endswith("stream")
    for pieces in chunkings(record):
        if record.status != 200:
            with pytest.raises(AuthenticationError, match="security token") as caught:
                asked(answering, "invoke", record, pieces, streams)
            assert caught.value.status == record.status
            assert caught.value.error_type == record.headers["x-amzn-errortype"].split(":")[0]
            assert caught.value.request_id == record.headers["x-amzn-requestid"]
            continue
        if record.name in NO_MESSAGE:
            with pytest.raises(
                StreamInterrupted if streams else ProviderError, match="KeyError|not a message"
            ):
                asked(answering, "invoke", record, pieces, streams)
            continue
        if record.name in CUT:
            with pytest.raises(StreamInterrupted) as caught:
                asked(answering, "invoke", record, pieces, streams)
            assert caught.value.partial.message.content == whole_message(record)["content"]
            continue
        if record.name.startswith("midstream"):
            ((headers, payload),) = read(record.body)
            assert headers[":exception-type"] == "throttlingException"
            with pytest.raises(RateLimitError, match=json.loads(payload)["message"][:40]) as caught:
                asked(answering, "invoke", record, pieces, streams)
            assert (caught.value.status, caught.value.error_type) == (None, "throttlingException")
            continue
        message = whole_message(record)
        reply = asked(answering, "invoke", record, pieces, streams)
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
        asked(answering, "invoke", record, pieces, streams, ["question", reply.message, "and now?"])
        sent = json.loads(answering.requests[-1].body.decode())
        assert sent["messages"][1] == {"role": "assistant", "content": message["content"]}


def test_answer_without_a_message():
    """The records that are not replies are these, and are still there."""
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


# The independent reading: of Converse


def whole_answer(record):
    """The body of a record of Converse; that of a stream is put together, with its bytes still in
    base64.
    """
    if not streamed(record):
        return json.loads(record.body.decode())
    blocks, answer = {}, {}
    for headers, payload in read(record.body):
        kind, data = headers[":event-type"], json.loads(payload.decode())
        if kind == "contentBlockStart":
            blocks[data["contentBlockIndex"]] = data["start"]
        elif kind == "contentBlockDelta":
            merge(blocks.setdefault(data["contentBlockIndex"], {}), data["delta"])
        elif kind == "messageStop":
            answer["stopReason"] = data["stopReason"]
        elif kind == "metadata":
            answer["usage"] = data["usage"]
    content = [blocks[place] for place in sorted(blocks)]
    for block in content:
        if "toolUse" in block:
            block["toolUse"]["input"] = json.loads(block["toolUse"]["input"])
        if "citations" in block:
            text = block.pop("text", None)
            block["citationsContent"] = {"citations": block.pop("citations")}
            if text:
                block["citationsContent"]["content"] = [{"text": text}]
    return dict(answer, output={"message": {"role": "assistant", "content": content}})


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


def dialect(block):
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
        text = "".join(one["text"] for one in value.get("content", []))
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
    lifetimes = {one["ttl"]: one["inputTokens"] for one in usage.get("cacheDetails", [])}
    read, written = usage.get("cacheReadInputTokens", 0), usage.get("cacheWriteInputTokens", 0)
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"] + read + written
    return Usage(
        input_tokens=usage["inputTokens"],
        output_tokens=usage["outputTokens"],
        cache_read_input_tokens=read,
        cache_write_input_tokens=written,
        cache_write_5m_input_tokens=lifetimes.get("5m", 0),
        cache_write_1h_input_tokens=lifetimes.get("1h", 0),
        requests=1,
    )


def goes_back(content):
    """Return a received content as it is sent back: without blank text, which is rejected."""
    for block in copy.deepcopy(content):
        if "text" in block and not block["text"].strip():
            continue
        if block.get("toolUse", {}).get("type") == "tool_use":
            del block["toolUse"]["type"]
        yield block


def check_converse(record, answer, reply):
    content = answer["output"]["message"]["content"]
    assert reply.message.content == list(map(dialect, content))
    json.dumps(reply.message.content)
    assert reply.raw_stop_reason == answer["stopReason"]
    assert reply.stop_reason == {"guardrail_intervened": "refusal"}.get(
        answer["stopReason"], answer["stopReason"]
    )
    assert reply.usage == expected_usage(answer["usage"])
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [
        (block["toolUse"]["toolUseId"], block["toolUse"]["name"], block["toolUse"]["input"])
        for block in content
        if block.get("toolUse", {}).get("type", "tool_use") == "tool_use" and "toolUse" in block
    ]


def model_of(client):
    return client._runtime.client().meta.service_model


def known(shape, value):
    """Whether boto3 knows every part of a value."""
    if getattr(shape, "is_document_type", False) or shape.type_name not in ("structure", "list"):
        return True
    if shape.type_name == "list":
        return all(known(shape.member, one) for one in value)
    return all(
        name in shape.members and known(shape.members[name], one) for name, one in value.items()
    )


@pytest.mark.parametrize("record", CONVERSE)
def test_converse(answering, record):
    """Every record of Converse, in three chunkings, gives its reply, which can be sent back, or its
    error.

    If boto3 has no Converse, the error names the version that has it and the other API.
    """
    client = answering.clients["converse"]
    model = model_of(client)
    if "Converse" not in model.operation_names:
        with pytest.raises(InvalidRequestError, match=r"1\.34\.116.*api=\"invoke\""):
            asked(answering, "converse", record, [record.body], streamed(record))
        return
    for pieces in chunkings(record):
        if record.status != 200:
            with pytest.raises(InvalidRequestError, match="video content block") as caught:
                asked(answering, "converse", record, pieces, False)
            assert caught.value.status == record.status
            continue
        if record.name.startswith("midstream"):
            with pytest.raises(ProviderError, match="invalid sequence") as caught:
                asked(answering, "converse", record, pieces, True)
            assert caught.value.error_type == "modelStreamErrorException"
            continue
        answer = whole_answer(record)
        reply = asked(answering, "converse", record, pieces, streamed(record))
        check_converse(record, answer, reply)
        assert (reply.model, reply.id) == ("a-model", record.headers.get("x-amzn-requestid"))
    if record.status == 200 and not record.name.startswith("midstream"):
        history = ["question", reply.message, "and now?"]
        back = list(goes_back(answer["output"]["message"]["content"]))
        if not all(known(model.shape_for("ContentBlock"), block) for block in back):
            # What an old boto3 cannot be given is an error, and not left out.
            with pytest.raises(InvalidRequestError, match="boto3 does not make the request"):
                asked(answering, "converse", record, pieces, streamed(record), history)
            return
        asked(answering, "converse", record, pieces, streamed(record), history)
        sent = json.loads(answering.requests[-1].body.decode())["messages"]
        assert [message["role"] for message in sent] == (
            ["user", "assistant", "user"] if back else ["user"]
        )
        assert not back or sent[1]["content"] == back


def as_boto3(value):
    """Return a received block as boto3 takes it: bytes in place of base64."""
    if isinstance(value, list):
        return [as_boto3(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: base64.b64decode(one) if name == "redactedContent" else as_boto3(one)
        for name, one in value.items()
    }


@pytest.mark.parametrize("record", CONVERSE)
def test_converse_without_boto3(record):
    """The codec alone reads every record of Converse right, on every Python, and sends it back as
    it came.
    """
    if record.status != 200:
        error = decode_response_error(
            record.status, record.headers, json.loads(record.body.decode())
        )
        assert isinstance(error, InvalidRequestError) and "video content block" in str(error)
        return
    if record.name.startswith("midstream"):
        ((headers, _),) = read(record.body)
        assert headers[":exception-type"] == "modelStreamErrorException"  # which boto3 raises
        return
    answer = whole_answer(record)
    content = answer["output"]["message"]["content"]
    if streamed(record):
        fold = ConverseFold("a-model", "id")
        wire = [
            {headers[":event-type"]: json.loads(payload.decode())}
            for headers, payload in read(record.body)
        ]
        reply = list(fold_stream(fold, wire, fold.feed, "bedrock", None, lambda: True))[-1].reply
    else:
        reply = decode_reply(json.loads(record.body.decode()), "a-model", "id")
    check_converse(record, answer, reply)
    history = [ChatMessage(role=ChatRole.USER, content="question"), reply.message]
    sent = encode_request(Request("a-model", history, None, [], {}))["messages"]
    assert list(itertools.chain(*(message["content"] for message in sent[1:]))) == [
        as_boto3(block) for block in goes_back(content)
    ]


def test_the_reading_here_can_fail():
    """The frames' checksums are checked by the reading itself."""
    frame = bytearray(exception("throttlingException", "x"))
    frame[-6] ^= 1
    with pytest.raises(AssertionError):
        list(read(bytes(frame)))
