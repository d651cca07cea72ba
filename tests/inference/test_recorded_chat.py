"""Recorded chat-completions traffic, served by a real socket.

An independent reading in this file, which shares no code with the codec, merges the deltas of a
stream as JSON. The client's reply has to equal it. Every stream is served as recorded, in three
framings; a record without a reply must give the right error.
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

from ..recorded import pieces, recorded
from ..tiers import suite
from .byte_server import ByteServer, RawResponse

ALL = recorded("openai", "openai_reconstructed")


def chosen(test):
    """Return a test's records; without any, a single parameter that names the reason."""
    return [one for one in ALL if one.values[0] is None or test(one.values[0])]


def is_chat(record):
    return "chat/completions" in record.url


def is_stream(record):
    return re.match(rb"(data|event|): ?\S", record.body) is not None


def is_answer(record):
    return (
        record.status == 200
        and record.body.lstrip().startswith(b"{")
        and "choices" in json.loads(record.body)
    )


STREAMS = chosen(lambda record: is_chat(record) and record.status == 200 and is_stream(record))
ANSWERS = chosen(lambda record: is_chat(record) and is_answer(record))
REFUSALS = chosen(
    lambda record: is_chat(record) and not is_stream(record) and not is_answer(record)
)
ELSEWHERE = {}
"""Records of other APIs than chat completions, by name: why they are not served here. There are
none.
"""


FRAMINGS = [("whole", "close"), ("splinters", "chunked"), ("events", "chunked")]
"""How the pieces of a body end, and how they are framed; the client must not care."""


@pytest.fixture(scope="module")
def replay():
    """Serves a record to a real client, in these pieces and this framing."""
    served = []
    with ByteServer() as server, OpenAIInferenceClient(
        "m",
        api_key="sk-test-0123456789",
        api_url=server.url + "/v1/chat/completions",
        max_retries=0,
    ) as client:

        def start(record, chunking="events", framing="chunked"):
            kind = (
                "text/event-stream"
                if is_stream(record)
                else record.headers.get("content-type", "application/json")
            )
            headers = {"content-type": kind, "x-request-id": "req-1"}
            parts = pieces(record.body, chunking)
            server.set_responses(
                RawResponse(*parts, status=record.status, headers=headers, framing=framing)
            )
            served.append(record)
            return client

        yield start
        assert len(server.requests) == len(served), "an answer was not asked for, or more than once"


# The independent reading

CONSTANT = {"id", "type", "name", "role", "index", "format", "provider", "expires_at"}
"""Fields that do not come in pieces; a repetition replaces the value."""


def merged(old, new):
    """Two pieces of JSON as one: texts are joined, objects merged by key, lists by the index that
    their elements tell.
    """
    if old is None or new is None:
        return new if old is None else old
    if isinstance(old, str) and isinstance(new, str):
        return old + new
    if isinstance(old, dict) and isinstance(new, dict):
        out = dict(old)
        for key, value in new.items():
            if key in CONSTANT:
                out[key] = out.get(key) or value
            else:
                out[key] = merged(out.get(key), value)
        return out
    if isinstance(old, list) and isinstance(new, list):
        out = list(old)
        for one in new:
            at = next(
                (
                    i
                    for i, had in enumerate(out)
                    if isinstance(one, dict) and had.get("index", i) == one.get("index")
                ),
                None,
            )
            if at is None:
                out.append(one)
            else:
                out[at] = merged(out[at], one)
        return out
    return new


def chunks_of(body):
    return [
        json.loads(data)
        for data in re.findall(r"^data: *(\{.*\}) *\r?$", body.decode("utf-8"), re.MULTILINE)
    ]


Reading = collections.namedtuple("Reading", "message reason usage id model")


def reading_of_stream(record):
    message, reason, usage, ids, models = {}, None, {}, [], []
    for chunk in chunks_of(record.body):
        ids.append(chunk.get("id"))
        models.append(chunk.get("model"))
        for choice in [one for one in chunk["choices"] if one["index"] == 0]:
            message = merged(message, choice.get("delta") or {})
            reason = choice.get("finish_reason") or reason
        figures_of_chunk = chunk.get("usage") or chunk.get("x_groq", {}).get("usage") or {}
        usage = dict(
            usage, **{key: value for key, value in figures_of_chunk.items() if value is not None}
        )
    return Reading(
        message, reason, usage, next(filter(None, ids), None), next(filter(None, models), None)
    )


def reading_of_answer(record):
    body = json.loads(record.body)
    choice = body["choices"][0]
    return Reading(
        choice["message"],
        choice["finish_reason"],
        body.get("usage") or {},
        body["id"],
        body["model"],
    )


def said(message):
    """The text of a message in this wire's form."""
    content = message.get("content")
    if isinstance(content, dict):
        content = json.dumps(content, ensure_ascii=False)
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    return (content or "") + (message.get("refusal") or "")


def thought(message):
    for field in ("reasoning_content", "reasoning"):
        if message.get(field):
            return message[field]
    content = message.get("content")
    if isinstance(content, list):
        return "".join(
            one["text"]
            for part in content
            if part["type"] == "thinking"
            for one in part["thinking"]
        )
    return "".join(
        one.get("text") or one.get("summary") or ""
        for one in message.get("reasoning_details") or []
    )


def called(message):
    """(id, name, arguments) of each call; the old form has no id."""
    calls = [
        (one["id"], one["function"]["name"], json.loads(one["function"]["arguments"] or "{}"))
        for one in message.get("tool_calls") or []
    ]
    old = message.get("function_call")
    return calls + ([(None, old["name"], json.loads(old["arguments"]))] if old else [])


REASONS = {
    "stop": "end_turn",
    "eos": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
}


def stopped(reading):
    if reading.message.get("refusal"):
        return "refusal"
    if called(reading.message) and reading.reason != "length":
        return "tool_use"
    return REASONS[reading.reason or "stop"]


def figures(usage):
    """(fresh, cached, written, out, reasoned), so that what went in and out adds up to the total
    wherever one was told.
    """
    within = usage.get("prompt_tokens_details") or {}
    cached = within.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or 0
    written = within.get("cache_write_tokens") or 0
    reasoned = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    prompt, out = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    fresh = prompt if cached > prompt else prompt - cached - written
    return fresh, cached, written, out + reasoned if reasoned > out else out, reasoned


def check(reply, reading):
    """A reply equals the independent reading, and its message is sent back unchanged."""
    message = reading.message
    assert reply.text == said(message)
    blocks = reply.message.content
    assert "".join(block["thinking"] for block in blocks if block["type"] == "thinking") == thought(
        message
    )
    calls = [(call.id, call.name, call.arguments) for call in reply.tool_calls]
    assert [
        (original or made, name, given)
        for (made, _, _), (original, name, given) in zip(calls, called(message))
    ] == calls
    assert len(calls) == len(called(message))
    assert all(call.malformed is None for call in reply.tool_calls)
    assert (reply.stop_reason, reply.raw_stop_reason) == (stopped(reading), reading.reason)
    usage = reply.usage
    counted = (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_write_input_tokens)
    assert counted + (usage.output_tokens, usage.reasoning_tokens) == figures(reading.usage)
    assert usage.requests == 1
    assert (reply.id, reply.model) == (reading.id, reading.model)

    sent = encode_request(Request("m", as_messages(["hello", reply.message]), None, [], {}))[
        "messages"
    ][1]
    assert sent["role"] == "assistant"
    if isinstance(message.get("content"), list):
        assert sent["content"] == message["content"]
    elif isinstance(message.get("content"), dict):
        assert json.loads(sent["content"]) == message["content"]
    elif message.get("refusal"):
        assert sent["content"] == [{"type": "refusal", "refusal": message["refusal"]}]
    else:
        assert (sent["content"] or "") == (message.get("content") or "")
    assert called(sent) == calls
    assert sent.get("reasoning_details") == (message.get("reasoning_details") or None)
    names = [name for name in ("reasoning_content", "reasoning") if message.get(name)]
    assert [name for name in ("reasoning_content", "reasoning") if sent.get(name)] == names[:1]
    assert all(sent[name] == message[name] for name in names[:1])
    if message.get("audio"):
        assert sent["audio"] == {"id": message["audio"]["id"]}
        assert [block["audio"] for block in blocks if block["type"] == "audio"] == [
            message["audio"]
        ]
    if message.get("annotations"):
        assert [block["annotations"] for block in blocks if block["type"] == "text"] == [
            message["annotations"]
        ]


# What is checked


def test_every_record_has_its_place():
    """Each record is a stream, an answer or a refusal, and is served as that; one of another API is
    named, with the reason.
    """
    if ALL[0].values[0] is None:
        pytest.skip("the recorded traffic is not here: set ASIMOV_TEST_RECORDED to its folder")
    elsewhere = sorted(one.id for one in ALL if not is_chat(one.values[0]))
    print("not chat completions, and not served:", elsewhere or "none")
    assert elsewhere == sorted(ELSEWHERE)
    assert len(STREAMS) + len(ANSWERS) + len(REFUSALS) + len(elsewhere) == len(ALL)
    assert len(STREAMS) > 250 and len(ANSWERS) > 500 and len(REFUSALS) > 15


FAILING = {
    "tool_use_failed": InvalidRequestError,
}
"""The class of an error inside a stream, by its code."""


@suite
@pytest.mark.parametrize("record", STREAMS)
def test_a_recorded_stream(replay, record):
    """A stream gives the same events and the recorded reply in every framing."""
    failure = next((chunk["error"] for chunk in chunks_of(record.body) if chunk.get("error")), None)
    for chunking, framing in FRAMINGS:
        stream = replay(record, chunking, framing).stream("hello")
        if failure is not None:
            with pytest.raises(
                FAILING[failure["code"]], match=re.escape(failure["message"])
            ) as caught:
                list(stream)
            said_before = "".join(
                (choice.get("delta") or {}).get("content") or ""
                for chunk in chunks_of(record.body)
                for choice in chunk.get("choices", [])
            )
            assert caught.value.partial.text == said_before
            assert (caught.value.request_id, caught.value.error_type) == ("req-1", failure["code"])
            continue
        events = list(stream)
        reply = stream.reply
        check(reply, reading_of_stream(record))
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


@pytest.mark.parametrize("record", ANSWERS)
def test_a_recorded_answer(replay, record):
    """A reply that was not streamed equals the recorded one."""
    check(replay(record).generate("hello"), reading_of_answer(record))


EXPECTED = {
    (200, "content_filter"): InvalidRequestError,
    (200, None): ProviderError,  # a text; it is not the wire at all
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


@pytest.mark.parametrize("record", REFUSALS)
def test_a_recorded_refusal(replay, record):
    """An error is of the class that its status and its words stand for, and has the server's
    message and the request's id.
    """
    error_body = json.loads(record.body).get("error", {}) if record.body.startswith(b"{") else {}
    word = next(
        (error_body[name] for name in ("code", "type") if isinstance(error_body.get(name), str)),
        None,
    )
    kind = EXPECTED[
        record.status,
        "prompt too long" if "prompt too long" in error_body.get("message", "") else word,
    ]
    with pytest.raises(InferenceError) as caught:
        replay(record).generate("hello")
    error = caught.value
    assert type(error) is kind
    assert error_body.get("message", "") in str(error)
    assert error.error_type == word
    assert error.status == error_body.get("status", record.status)
    if error_body.get("param"):
        assert error_body["param"] in error.args[0]
    if record.status >= 400:
        assert error.request_id == "req-1"
