"""Recorded chat-completions traffic, served by a real socket.

Code in this file, which is independent of the codec, merges the deltas of a stream as JSON. The
client's reply has to equal the merged JSON. Every stream is served as recorded, in three framings;
a record without a reply must give the right error.
"""

import collections
import json
import re

import pytest

from asimov_sync import (
    AuthenticationError,
    ContextLengthExceeded,
    InferenceError,
    InvalidRequestError,
    NotFoundError,
    OpenAIInferenceClient,
    ProviderError,
    RateLimitError,
    ReplyDone,
    TextDelta,
    ThinkingDelta,
    ToolCallReady,
)
from asimov_sync.inference.providers.openai.request import encode_request
from asimov_sync.inference.request import Request
from asimov_sync.messages import as_messages

from ..recorded import load_records, split_body
from ..tiers import suite
from .byte_server import ByteServer, RawResponse

ALL = load_records("openai", "openai_reconstructed")


def select(matches):
    """Return the parameters of the matching records; without records, the parameter that skips."""
    return [param for param in ALL if param.values[0] is None or matches(param.values[0])]


def is_chat(record):
    return "chat/completions" in record.url


def is_stream(record):
    return re.match(rb"(data|event|): ?\S", record.body) is not None


def is_whole_reply(record):
    return (
        record.status == 200
        and record.body.lstrip().startswith(b"{")
        and "choices" in json.loads(record.body)
    )


STREAMS = select(lambda record: is_chat(record) and record.status == 200 and is_stream(record))
WHOLE_REPLIES = select(lambda record: is_chat(record) and is_whole_reply(record))
ERRORS = select(
    lambda record: is_chat(record) and not is_stream(record) and not is_whole_reply(record)
)
ELSEWHERE = {}
"""Records of other APIs, by name, with the reason why they are not served here. There are none."""


FRAMINGS = [("whole", "close"), ("fixed", "chunked"), ("events", "chunked")]
"""Ways to split a body and to frame the pieces. They must not affect the reply."""


@pytest.fixture(scope="module")
def replay():
    """Return a function that serves a record in some framing and returns the client."""
    records = []
    with ByteServer() as server, OpenAIInferenceClient(
        "m",
        api_key="sk-test-0123456789",
        api_url=server.url + "/v1/chat/completions",
        max_retries=0,
    ) as client:

        def serve(record, chunking="events", framing="chunked"):
            media_type = (
                "text/event-stream"
                if is_stream(record)
                else record.headers.get("content-type", "application/json")
            )
            headers = {"content-type": media_type, "x-request-id": "req-1"}
            body_pieces = split_body(record.body, chunking)
            server.set_responses(
                RawResponse(*body_pieces, status=record.status, headers=headers, framing=framing)
            )
            records.append(record)
            return client

        yield serve
        assert len(server.requests) == len(records), "each record must be requested exactly once"


# The independent reading

CONSTANT = {"id", "type", "name", "role", "index", "format", "provider", "expires_at"}
"""Fields that are not split into pieces. A repeated field replaces the value."""


def merge(old, new):
    """Merge two pieces of JSON.

    Strings are joined, objects merged by key, and lists by the index in their elements.
    """
    if old is None or new is None:
        return new if old is None else old
    if isinstance(old, str) and isinstance(new, str):
        return old + new
    if isinstance(old, dict) and isinstance(new, dict):
        result = dict(old)
        for key, value in new.items():
            if key in CONSTANT:
                result[key] = result.get(key) or value
            else:
                result[key] = merge(result.get(key), value)
        return result
    if isinstance(old, list) and isinstance(new, list):
        result = list(old)
        for item in new:
            position = next(
                (
                    index
                    for index, existing in enumerate(result)
                    if isinstance(item, dict) and existing.get("index", index) == item.get("index")
                ),
                None,
            )
            if position is None:
                result.append(item)
            else:
                result[position] = merge(result[position], item)
        return result
    return new


def chunks_of(body):
    return [
        json.loads(data)
        for data in re.findall(r"^data: *(\{.*\}) *\r?$", body.decode("utf-8"), re.MULTILINE)
    ]


Reading = collections.namedtuple("Reading", "message reason usage id model")


def read_stream(record):
    message, reason, usage, ids, models = {}, None, {}, [], []
    for chunk in chunks_of(record.body):
        ids.append(chunk.get("id"))
        models.append(chunk.get("model"))
        for choice in [choice for choice in chunk["choices"] if choice["index"] == 0]:
            message = merge(message, choice.get("delta") or {})
            reason = choice.get("finish_reason") or reason
        figures_of_chunk = chunk.get("usage") or chunk.get("x_groq", {}).get("usage") or {}
        usage = dict(
            usage, **{key: value for key, value in figures_of_chunk.items() if value is not None}
        )
    return Reading(
        message, reason, usage, next(filter(None, ids), None), next(filter(None, models), None)
    )


def read_whole_reply(record):
    body = json.loads(record.body)
    choice = body["choices"][0]
    return Reading(
        choice["message"],
        choice["finish_reason"],
        body.get("usage") or {},
        body["id"],
        body["model"],
    )


def text_of(message):
    """Return the text of a message in this wire's format."""
    content = message.get("content")
    if isinstance(content, dict):
        content = json.dumps(content, ensure_ascii=False)
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    return (content or "") + (message.get("refusal") or "")


def thinking_of(message):
    for field in ("reasoning_content", "reasoning"):
        if message.get(field):
            return message[field]
    content = message.get("content")
    if isinstance(content, list):
        return "".join(
            item["text"]
            for part in content
            if part["type"] == "thinking"
            for item in part["thinking"]
        )
    return "".join(
        item.get("text") or item.get("summary") or ""
        for item in message.get("reasoning_details") or []
    )


def calls_of(message):
    """Return (id, name, arguments) of each call. The old `function_call` has no id."""
    calls = [
        (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"] or "{}"))
        for call in message.get("tool_calls") or []
    ]
    function_call = message.get("function_call")
    return calls + (
        [(None, function_call["name"], json.loads(function_call["arguments"]))]
        if function_call
        else []
    )


REASONS = {
    "stop": "end_turn",
    "eos": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
}


def stop_reason_of(reading):
    if reading.message.get("refusal"):
        return "refusal"
    if calls_of(reading.message) and reading.reason != "length":
        return "tool_use"
    return REASONS[reading.reason or "stop"]


def usage_of(usage):
    """Return (fresh, cached, written, output, reasoning) tokens.

    If the record has a total, the input and output figures add up to it.
    """
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or 0
    written = details.get("cache_write_tokens") or 0
    reasoned = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    prompt, output = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    fresh = prompt if cached > prompt else prompt - cached - written
    return fresh, cached, written, output + reasoned if reasoned > output else output, reasoned


def check(reply, reading):
    """Assert that a reply equals the independent reading, and that its message is sent back
    unchanged.
    """
    message = reading.message
    assert reply.text == text_of(message)
    blocks = reply.message.content
    assert "".join(
        block["thinking"] for block in blocks if block["type"] == "thinking"
    ) == thinking_of(message)
    calls = [(call.id, call.name, call.arguments) for call in reply.tool_calls]
    assert [
        (recorded_id or call_id, name, arguments)
        for (call_id, _, _), (recorded_id, name, arguments) in zip(calls, calls_of(message))
    ] == calls
    assert len(calls) == len(calls_of(message))
    assert all(call.malformed is None for call in reply.tool_calls)
    assert (reply.stop_reason, reply.raw_stop_reason) == (stop_reason_of(reading), reading.reason)
    usage = reply.usage
    input_counts = (
        usage.input_tokens,
        usage.cache_read_input_tokens,
        usage.cache_write_input_tokens,
    )
    assert input_counts + (usage.output_tokens, usage.reasoning_tokens) == usage_of(reading.usage)
    assert usage.requests == 1
    assert (reply.id, reply.model) == (reading.id, reading.model)

    encoded = encode_request(Request("m", as_messages(["hello", reply.message]), None, [], {}))[
        "messages"
    ][1]
    assert encoded["role"] == "assistant"
    if isinstance(message.get("content"), list):
        assert encoded["content"] == message["content"]
    elif isinstance(message.get("content"), dict):
        assert json.loads(encoded["content"]) == message["content"]
    elif message.get("refusal"):
        assert encoded["content"] == [{"type": "refusal", "refusal": message["refusal"]}]
    else:
        assert (encoded["content"] or "") == (message.get("content") or "")
    assert calls_of(encoded) == calls
    assert encoded.get("reasoning_details") == (message.get("reasoning_details") or None)
    names = [name for name in ("reasoning_content", "reasoning") if message.get(name)]
    assert [name for name in ("reasoning_content", "reasoning") if encoded.get(name)] == names[:1]
    assert all(encoded[name] == message[name] for name in names[:1])
    if message.get("audio"):
        assert encoded["audio"] == {"id": message["audio"]["id"]}
        assert [block["audio"] for block in blocks if block["type"] == "audio"] == [
            message["audio"]
        ]
    if message.get("annotations"):
        assert [block["annotations"] for block in blocks if block["type"] == "text"] == [
            message["annotations"]
        ]


# Tests


def test_kinds_of_records():
    """Each record is a stream, a whole reply or an error. Records of other APIs are listed."""
    if ALL[0].values[0] is None:
        pytest.skip("the recorded traffic is not here: set ASIMOV_TEST_RECORDED to its folder")
    elsewhere = sorted(param.id for param in ALL if not is_chat(param.values[0]))
    print("not chat completions, and not served:", elsewhere or "none")
    assert elsewhere == sorted(ELSEWHERE)
    assert len(STREAMS) + len(WHOLE_REPLIES) + len(ERRORS) + len(elsewhere) == len(ALL)
    assert len(STREAMS) > 250 and len(WHOLE_REPLIES) > 500 and len(ERRORS) > 15


FAILING = {
    "tool_use_failed": InvalidRequestError,
}
"""The class of an error inside a stream, by its code."""


@suite
@pytest.mark.parametrize("record", STREAMS)
def test_recorded_stream(replay, record):
    """A stream gives the same events and the recorded reply in every framing."""
    failure = next((chunk["error"] for chunk in chunks_of(record.body) if chunk.get("error")), None)
    for chunking, framing in FRAMINGS:
        stream = replay(record, chunking, framing).stream("hello")
        if failure is not None:
            with pytest.raises(
                FAILING[failure["code"]], match=re.escape(failure["message"])
            ) as caught:
                list(stream)
            earlier_text = "".join(
                (choice.get("delta") or {}).get("content") or ""
                for chunk in chunks_of(record.body)
                for choice in chunk.get("choices", [])
            )
            assert caught.value.partial.text == earlier_text
            assert (caught.value.request_id, caught.value.error_type) == ("req-1", failure["code"])
            continue
        events = list(stream)
        reply = stream.reply
        check(reply, read_stream(record))
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == reply.text
        thinking = "".join(
            block["thinking"] for block in reply.message.content if block["type"] == "thinking"
        )
        assert (
            "".join(event.text for event in events if isinstance(event, ThinkingDelta)) == thinking
        )
        assert [
            event.call for event in events if isinstance(event, ToolCallReady)
        ] == reply.tool_calls
        assert (
            [event for event in events if isinstance(event, ReplyDone)]
            == events[-1:]
            == [ReplyDone(reply)]
        )


@pytest.mark.parametrize("record", WHOLE_REPLIES)
def test_recorded_whole_reply(replay, record):
    """A whole reply decodes to the recorded one."""
    check(replay(record).generate("hello"), read_whole_reply(record))


EXPECTED = {
    (200, "content_filter"): InvalidRequestError,
    (200, None): ProviderError,  # plain text
    (202, None): ProviderError,
    (400, "invalid_image_url"): InvalidRequestError,
    (400, "unsupported_parameter"): InvalidRequestError,
    (400, "unsupported_value"): InvalidRequestError,
    (400, "invalid_request_error"): InvalidRequestError,
    (400, "tool_use_failed"): InvalidRequestError,
    (400, "prompt too long"): ContextLengthExceeded,
    (400, "too_many_prompt_tokens"): ContextLengthExceeded,
    (401, "invalid_api_key"): AuthenticationError,
    (404, "model_not_found"): NotFoundError,
    (429, "RateLimitReached"): RateLimitError,
    (429, None): RateLimitError,
}
"""The class of each recorded error, by its status and error code."""


@pytest.mark.parametrize("record", ERRORS)
def test_recorded_error(replay, record):
    """An error has the class of its status and code, the server's message and the request id."""
    error_body = json.loads(record.body).get("error", {}) if record.body.startswith(b"{") else {}
    code = next(
        (error_body[name] for name in ("code", "type") if isinstance(error_body.get(name), str)),
        None,
    )
    kind = EXPECTED[
        record.status,
        "prompt too long" if "prompt too long" in error_body.get("message", "") else code,
    ]
    with pytest.raises(InferenceError) as caught:
        replay(record).generate("hello")
    error = caught.value
    assert type(error) is kind
    assert error_body.get("message", "") in str(error)
    assert error.error_type == code
    assert error.status == error_body.get("status", record.status)
    if error_body.get("param"):
        assert error_body["param"] in error.args[0]
    if record.status >= 400:
        assert error.request_id == "req-1"
