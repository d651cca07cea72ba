"""The wires of a ModelServer: what each of them says, read with requests and with boto3, and held against real traffic."""

import base64
import contextlib
import json

import boto3
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError

from asimov_sync import ChatMessage, ChatRole, Reply, Usage
from asimov_sync.testing import Failure, Fault, ModelServer, calls, last_text, tool_results
from asimov_sync.testing.wires import CHAT, CONVERSE, INVOKE, MESSAGES
from asimov_sync.testing.wires.eventstream import decode

from ..recorded import ABSENT, recorded

HELLO = {"messages": [{"role": "user", "content": "hello"}]}
CONVERSE_HELLO = {"messages": [{"role": "user", "content": [{"text": "hello"}]}]}

CITATION = {
    "type": "char_location",
    "cited_text": "abc",
    "document_index": 0,
    "document_title": "T",
    "start_char_index": 1,
    "end_char_index": 4,
}
WEB_CITATION = {"type": "web_search_result_location", "url": "https://x.example", "title": "X", "cited_text": "abc"}
THINKING = {"type": "thinking", "thinking": "let me see", "signature": "sig=="}
REDACTED = {"type": "redacted_thinking", "data": "EuYB"}
TEXT = {"type": "text", "text": "Hello wörld"}
TOOL = {"type": "tool_use", "id": "tu1", "name": "f", "input": {"a": [1, "é"]}}
UNKNOWN = {"type": "hologram", "depth": {"x": None}}
USAGE = Usage(
    input_tokens=3,
    output_tokens=50,
    cache_read_input_tokens=7,
    cache_write_input_tokens=11,
    cache_write_5m_input_tokens=5,
    cache_write_1h_input_tokens=6,
    reasoning_tokens=20,
    requests=1,
)


def reply(*blocks, stop_reason="tool_use", **fields):
    message = ChatMessage(role=ChatRole.ASSISTANT, content=list(blocks))
    return Reply(**dict({"message": message, "stop_reason": stop_reason, "usage": USAGE, "model": "m", "id": "i"}, **fields))


def cited(text, *citations):
    return {"type": "text", "text": text, "citations": list(citations)}


def asked(server, path, body, **options):
    return requests.post(server.bedrock_url + path, json=body, timeout=20, **options)


def chunks(response):
    """The data of a stream of server-sent events without names."""
    events = response.content.decode("utf-8").split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") for event in events)
    assert events.pop() == "data: [DONE]"
    return [json.loads(event[len("data: ") :]) for event in events]


@pytest.fixture
def bedrock():
    """Makes real boto3 clients for a server."""
    made = []

    def client(server):
        config = Config(retries={"total_max_attempts": 1}, proxies={})
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
        one = boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url=server.bedrock_url, config=config, **keys)
        made.append(one)
        return one

    yield client
    for one in made:
        if hasattr(one, "close"):
            one.close()


def has(client, operation):
    """Whether this Python's botocore has an operation: the last one for 3.7 has no Converse and no CountTokens."""
    if not hasattr(client, operation):
        assert boto3.__version__.startswith("1.33."), "a botocore that should have {}".format(operation)
    return hasattr(client, operation)


# What a script is asked

TOOL_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
PICTURE = base64.b64encode(b"picture").decode("ascii")
EXPECTED = {
    "model": "m:1/x",
    "system": "be brief",
    "max_tokens": 7,
    "temperature": 0.5,
    "stop_sequences": ["END"],
    "tools": [{"name": "f", "description": "does it", "input_schema": TOOL_SCHEMA}],
    "tool_choice": {"type": "tool", "name": "f"},
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}},
            ],
        },
        {"role": "assistant", "content": [THINKING, REDACTED, TEXT, TOOL, dict(TOOL, id="tu2", input={})]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "tu1", "content": "seven"},
                {"type": "tool_result", "tool_use_id": "tu2", "content": "eight"},
            ],
        },
        {"role": "assistant", "content": "well"},
        {"role": "user", "content": "go on"},
    ],
}
IN_CHAT = {
    "model": "m:1/x",
    "max_completion_tokens": 7,
    "temperature": 0.5,
    "stop": "END",
    "tools": [{"type": "function", "function": {"name": "f", "description": "does it", "parameters": TOOL_SCHEMA}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "messages": [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64," + PICTURE}},
            ],
        },
        {
            "role": "assistant",
            "content": "Hello wörld",
            "reasoning_details": [
                {"type": "reasoning.text", "text": "let me see", "signature": "sig=="},
                {"type": "reasoning.encrypted", "data": "EuYB"},
            ],
            "tool_calls": [
                {"id": "tu1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, "é"]}'}},
                {"id": "tu2", "type": "function", "function": {"name": "f", "arguments": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "tu1", "content": "seven"},
        {"role": "tool", "tool_call_id": "tu2", "content": [{"type": "text", "text": "eight"}]},
        {"role": "assistant", "content": "well"},
        {"role": "user", "content": "go on"},
    ],
}
IN_CONVERSE = {
    "system": [{"text": "be brief"}],
    "inferenceConfig": {"maxTokens": 7, "temperature": 0.5, "stopSequences": ["END"]},
    "toolConfig": {
        "tools": [{"toolSpec": {"name": "f", "description": "does it", "inputSchema": {"json": TOOL_SCHEMA}}}],
        "toolChoice": {"tool": {"name": "f"}},
    },
    "messages": [
        {"role": "user", "content": [{"text": "look"}, {"image": {"format": "png", "source": {"bytes": PICTURE}}}]},
        {
            "role": "assistant",
            "content": [
                {"reasoningContent": {"reasoningText": {"text": "let me see", "signature": "sig=="}}},
                {"reasoningContent": {"redactedContent": base64.b64encode(b"EuYB").decode("ascii")}},
                {"text": "Hello wörld"},
                {"toolUse": {"toolUseId": "tu1", "name": "f", "input": {"a": [1, "é"]}}},
                {"toolUse": {"toolUseId": "tu2", "name": "f", "input": {}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "tu1", "content": [{"text": "seven"}], "status": "success"}},
                {"toolResult": {"toolUseId": "tu2", "content": [{"text": "eight"}]}},
            ],
        },
        {"role": "assistant", "content": [{"text": "well"}]},
        {"role": "user", "content": [{"text": "go on"}]},
    ],
}


def test_a_script_is_asked_in_messages_words():
    """The same request on each wire is one and the same Messages body; ServedRequest.body stays what came."""
    bodies = []
    invoke = {name: value for name, value in EXPECTED.items() if name != "model"}
    with ModelServer(lambda body: bodies.append(body) or "ok") as server:
        asked(server, "/v1/messages", EXPECTED)
        asked(server, "/v1/chat/completions", IN_CHAT)
        asked(server, "/model/m%3A1%2Fx/invoke", invoke)
        asked(server, "/model/m%3A1%2Fx/converse", IN_CONVERSE)
        asked(server, "/model/m%3A1%2Fx/converse-stream", IN_CONVERSE)
        assert [request.body for request in server.requests[:4]] == [EXPECTED, IN_CHAT, invoke, IN_CONVERSE]
        assert [request.wire for request in server.requests] == ["messages", "chat", "invoke", "converse", "converse"]
        assert server.requests[2].path == "/model/m%3A1%2Fx/invoke"
    assert [body.pop("stream", None) for body in bodies] == [None, None, False, False, True]
    assert bodies == [EXPECTED] * 5


def test_the_helpers_serve_every_wire():
    """last_text and tool_results find the same on each wire."""
    found = []
    with ModelServer(lambda body: found.append((last_text(body), tool_results(body))) or "ok") as server:
        for path, body, length in (
            ("/v1/messages", EXPECTED, 3),
            ("/v1/chat/completions", IN_CHAT, 5),
            ("/model/m/converse", IN_CONVERSE, 3),
        ):
            asked(server, path, dict(body, messages=body["messages"][:length]))
            asked(server, path, body)
    assert found == [("", {"f": "eight"}), ("go on", {})] * 3


def test_what_messages_has_no_word_for():
    """It stays under its own name: options, parts of a message, tools of another kind."""
    odd = {"type": "input_audio", "input_audio": {"data": "x"}}
    body = CHAT.read_request(
        {
            "messages": [
                {"role": "developer", "content": "a"},
                {"role": "system", "content": "b"},
                {"role": "user", "content": [odd]},
            ],
            "seed": 7,
            "tools": [{"type": "custom", "custom": {}}],
            "tool_choice": "required",
        }
    )
    assert body == {
        "system": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        "messages": [{"role": "user", "content": [odd]}],
        "seed": 7,
        "tools": [{"type": "custom", "custom": {}}],
        "tool_choice": {"type": "any"},
    }
    video = {"video": {"format": "mp4", "source": {"bytes": "x"}}}
    body = CONVERSE.read_request(
        {
            "messages": [
                {"role": "user", "content": [{"text": "a"}, {"cachePoint": {"type": "default", "ttl": "1h"}}, video]}
            ],
            "toolConfig": {
                "tools": [{"systemTool": {"name": "g"}}, {"cachePoint": {"type": "default"}}],
                "toolChoice": {"any": {}},
            },
            "additionalModelRequestFields": {"thinking": {"type": "adaptive"}},
            "guardrailConfig": {"a": 1},
        }
    )
    marked = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert body == {
        "messages": [{"role": "user", "content": [marked, video]}],
        "tools": [{"systemTool": {"name": "g"}, "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "any"},
        "thinking": {"type": "adaptive"},
        "guardrailConfig": {"a": 1},
    }


# Messages


def test_messages_carry_everything():
    """Unknown blocks, signatures, citations and all figures are in a reply in one piece as they were given."""
    blocks = [THINKING, REDACTED, cited("see", CITATION), UNKNOWN, TOOL]
    with ModelServer([reply(*blocks)]) as server:
        told = asked(server, "/v1/messages", HELLO).json()
    assert (told["id"], told["model"], told["content"], told["stop_reason"]) == ("i", "m", blocks, "tool_use")
    assert told["usage"] == {
        "input_tokens": 3,
        "output_tokens": 50,
        "cache_read_input_tokens": 7,
        "cache_creation_input_tokens": 11,
        "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 6},
        "output_tokens_details": {"thinking_tokens": 20},
    }


def test_citations_and_signatures_are_streamed():
    """A citation and a signature come as deltas of their own; an unknown block comes whole."""
    events = list(MESSAGES.reply_events(reply(THINKING, cited("see", CITATION), UNKNOWN), {}))
    deltas = [(event["index"], event["delta"]) for event in events if event["type"] == "content_block_delta"]
    assert deltas == [
        (0, {"type": "thinking_delta", "thinking": "let "}),
        (0, {"type": "thinking_delta", "thinking": "me "}),
        (0, {"type": "thinking_delta", "thinking": "see"}),
        (0, {"type": "signature_delta", "signature": "sig=="}),
        (1, {"type": "citations_delta", "citation": CITATION}),
        (1, {"type": "text_delta", "text": "see"}),
    ]
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert starts == [dict(THINKING, thinking="", signature=""), cited(""), UNKNOWN]


# Chat completions


def test_a_chat_completion():
    """One choice with text, calls and a finish_reason; the prompt's figure includes what was cached."""
    with ModelServer([reply(TEXT, TOOL), "hi"]) as server:
        response = asked(server, "/v1/chat/completions", HELLO)
        assert response.headers["x-request-id"] == "req_000000"
        told = response.json()
        assert (
            asked(server, "/openai/v1/chat/completions?api-version=1", HELLO).json()["choices"][0]["finish_reason"] == "stop"
        )
        assert server.chat_url == server.bedrock_url + "/v1/chat/completions"
    assert (told["object"], told["id"], told["model"]) == ("chat.completion", "i", "m")
    (choice,) = told["choices"]
    assert choice["finish_reason"] == "tool_calls"
    call = {"id": "tu1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, "é"]}'}}
    assert choice["message"] == {"role": "assistant", "content": "Hello wörld", "refusal": None, "tool_calls": [call]}
    assert told["usage"] == {
        "prompt_tokens": 21,
        "completion_tokens": 50,
        "total_tokens": 71,
        "prompt_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 11},
        "completion_tokens_details": {"reasoning_tokens": 20},
    }


@pytest.mark.parametrize("include_usage", [None, False, True])
def test_a_streamed_chat_completion(include_usage):
    """Text word by word, arguments in fragments, one finish_reason; figures only where they were asked for; [DONE]."""
    body = dict(HELLO, stream=True)
    if include_usage is not None:
        body["stream_options"] = {"include_usage": include_usage}
    with ModelServer([reply(TEXT, TOOL, dict(TOOL, id="tu2", input={}))]) as server:
        response = asked(server, "/v1/chat/completions", body)
    assert response.headers["content-type"].startswith("text/event-stream")
    told = chunks(response)
    assert {(chunk["id"], chunk["model"], chunk["object"]) for chunk in told} == {("i", "m", "chat.completion.chunk")}
    if include_usage:
        last = told.pop()
        assert (last["choices"], last["usage"]["prompt_tokens"]) == ([], 21)
        assert {chunk["usage"] for chunk in told} == {None}
    else:
        assert not any("usage" in chunk for chunk in told)
    choices = [chunk["choices"][0] for chunk in told]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["tool_calls"]
    deltas = [choice["delta"] for choice in choices]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert [delta["content"] for delta in deltas[1:] if "content" in delta] == ["Hello ", "wörld"]
    fragments = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert [fragment["index"] for fragment in fragments] == [0, 0, 0, 1, 1, 1]
    assert [fragment.get("id") for fragment in fragments] == ["tu1", None, None, "tu2", None, None]
    arguments = ["".join(f["function"]["arguments"] for f in fragments if f["index"] == index) for index in (0, 1)]
    assert list(map(json.loads, arguments)) == [{"a": [1, "é"]}, {}]


def test_reasoning_on_chat_completions():
    """Thinking is reasoning_content; with a signature, or encrypted, it is a list of reasoning_details; streamed the same."""
    bare = {"type": "thinking", "thinking": "let me see"}
    message = CHAT.reply_body(reply(bare, TEXT), {})["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("let me see", "Hello wörld")
    deltas = [event["choices"][0]["delta"] for event in CHAT.reply_events(reply(bare, TEXT), {}) if event != "[DONE]"]
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["let ", "me ", "see"]

    message = CHAT.reply_body(reply(THINKING, REDACTED, TEXT), {})["choices"][0]["message"]
    assert message["reasoning"] == "let me see"
    assert "reasoning_content" not in message
    assert CHAT.read_request({"messages": [message]})["messages"][0]["content"] == [THINKING, REDACTED, TEXT]
    deltas = [e["choices"][0]["delta"] for e in CHAT.reply_events(reply(THINKING, REDACTED), {}) if e != "[DONE]"]
    details = [detail for delta in deltas for detail in delta.get("reasoning_details", [])]
    assert [(detail["index"], detail.get("text"), detail.get("signature"), detail.get("data")) for detail in details] == [
        (0, "let ", None, None),
        (0, "me ", None, None),
        (0, "see", None, None),
        (0, None, "sig==", None),
        (1, None, None, "EuYB"),
    ]


def test_citations_on_chat_completions():
    """A page that is cited is an annotation of its part of the text."""
    with_page = reply({"type": "text", "text": "As "}, cited("they say", WEB_CITATION), stop_reason="end_turn")
    (annotation,) = CHAT.reply_body(with_page, {})["choices"][0]["message"]["annotations"]
    page = {"url": "https://x.example", "title": "X", "start_index": 3, "end_index": 11}
    assert annotation == {"type": "url_citation", "url_citation": page}
    streamed = [event["choices"][0]["delta"] for event in CHAT.reply_events(with_page, {}) if event != "[DONE]"]
    assert [delta["annotations"] for delta in streamed if "annotations" in delta] == [[annotation]]


# Bedrock, with boto3


def test_invoke_model(bedrock):
    """boto3 reads a reply in one piece: it is the Messages body."""
    blocks = [THINKING, REDACTED, cited("see", CITATION), UNKNOWN, TOOL]
    with ModelServer([reply(*blocks)]) as server:
        response = bedrock(server).invoke_model(modelId="anthropic.claude:0/x", body=json.dumps(HELLO))
        told = json.loads(response["body"].read().decode("utf-8"))
        assert response["ResponseMetadata"]["RequestId"] == "req_000000"
        assert server.requests[0].path == "/model/anthropic.claude%3A0%2Fx/invoke"
    assert told == MESSAGES.reply_body(reply(*blocks), {})


def test_invoke_model_with_response_stream(bedrock):
    """boto3 reads the stream: the Messages events without pings, output_tokens at the end, and metrics."""
    blocks = [THINKING, cited("see", CITATION), UNKNOWN, TOOL]
    with ModelServer([reply(*blocks)]) as server:
        response = bedrock(server).invoke_model_with_response_stream(modelId="m", body=json.dumps(HELLO))
        assert response["contentType"] == "application/json"
        told = [json.loads(event["chunk"]["bytes"].decode("utf-8")) for event in response["body"]]
    expected = [event for event in MESSAGES.reply_events(reply(*blocks), {}) if event["type"] != "ping"]
    assert told[:-2] == expected[:-2]
    assert told[-2]["usage"] == {"output_tokens": 50, "output_tokens_details": {"thinking_tokens": 20}}
    assert told[-1]["amazon-bedrock-invocationMetrics"]["outputTokenCount"] == 50


CONVERSED = [
    {"reasoningContent": {"reasoningText": {"text": "let me see", "signature": "sig=="}}},
    {"reasoningContent": {"redactedContent": b"EuYB"}},
    {"text": "Hello wörld"},
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
    {"toolUse": {"toolUseId": "tu1", "name": "f", "input": {"a": [1, "é"]}}},
]
CONVERSE_USAGE = {
    "inputTokens": 3,
    "outputTokens": 50,
    "totalTokens": 71,
    "cacheReadInputTokens": 7,
    "cacheWriteInputTokens": 11,
    "cacheDetails": [{"ttl": "5m", "inputTokens": 5}, {"ttl": "1h", "inputTokens": 6}],
}


def test_converse(bedrock):
    """boto3 reads a reply in Converse's own blocks, with all figures."""
    with ModelServer([reply(THINKING, REDACTED, TEXT, cited("see", CITATION), TOOL)]) as server:
        client = bedrock(server)
        if not has(client, "converse"):
            return
        told = client.converse(modelId="m", **CONVERSE_HELLO)
    assert told["output"]["message"] == {"role": "assistant", "content": CONVERSED}
    assert (told["stopReason"], told["usage"]) == ("tool_use", CONVERSE_USAGE)


def test_converse_stream(bedrock):
    """boto3 reads the stream: a start for tools only, a citation before its text, usage after messageStop."""
    with ModelServer([reply(THINKING, REDACTED, TEXT, cited("see", CITATION), TOOL)]) as server:
        client = bedrock(server)
        if not has(client, "converse_stream"):
            return
        events = [next(iter(event.items())) for event in client.converse_stream(modelId="m", **CONVERSE_HELLO)["stream"]]
    names = [name for name, _ in events]
    assert (names[0], names[-2:]) == ("messageStart", ["messageStop", "metadata"])
    starts = [told for name, told in events if name == "contentBlockStart"]
    assert starts == [{"contentBlockIndex": 4, "start": {"toolUse": {"toolUseId": "tu1", "name": "f"}}}]
    deltas = [(told["contentBlockIndex"], told["delta"]) for name, told in events if name == "contentBlockDelta"]
    assert [delta for index, delta in deltas if index == 0][-1] == {"reasoningContent": {"signature": "sig=="}}
    assert [delta for index, delta in deltas if index == 1] == [CONVERSED[1]]
    assert "".join(delta["text"] for index, delta in deltas if index == 2) == "Hello wörld"
    assert [delta for index, delta in deltas if index == 3] == [
        {"citation": CONVERSED[3]["citationsContent"]["citations"][0]},
        {"text": "see"},
    ]
    arguments = "".join(delta["toolUse"]["input"] for index, delta in deltas if index == 4)
    assert json.loads(arguments) == {"a": [1, "é"]}
    assert events[-2][1] == {"stopReason": "tool_use"}
    assert events[-1][1]["usage"] == CONVERSE_USAGE


def test_boto3_raises_what_the_server_refuses(bedrock):
    """A Failure is a ClientError with AWS's code; an exception within a stream is raised where it comes."""
    error = Fault("one two", error_at=3, error=Failure(429, message="slow down"))
    with ModelServer([Failure(429, message="slow down"), error]) as server:
        client = bedrock(server)
        with pytest.raises(ClientError, match="slow down") as caught:
            client.invoke_model(modelId="m", body=json.dumps(HELLO))
        assert caught.value.response["Error"]["Code"] == "ThrottlingException"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
        with contextlib.closing(client.invoke_model_with_response_stream(modelId="m", body=json.dumps(HELLO))["body"]) as body:
            events = iter(body)
            assert len([next(events) for _ in range(3)]) == 3
            with pytest.raises(ClientError, match="slow down") as caught:
                next(events)
        assert caught.value.response["Error"]["Code"] == "throttlingException"


# Counts, keys, stop reasons, refusals


def test_tokens_are_counted(bedrock):
    """Messages, system and tools are counted; no answer of the script is used up, and no usage."""
    body = dict(HELLO, system="be brief", tools=[{"name": "f"}])
    with ModelServer(["hi"]) as server:
        (few, more) = (asked(server, "/v1/messages/count_tokens", one).json() for one in (HELLO, body))
        assert set(few) == {"input_tokens"} and 0 < few["input_tokens"] < more["input_tokens"]
        wrapped = {"input": {"invokeModel": {"body": base64.b64encode(json.dumps(body).encode("utf-8")).decode("ascii")}}}
        assert asked(server, "/model/m/count-tokens", wrapped).json() == {"inputTokens": more["input_tokens"]}
        client = bedrock(server)
        if has(client, "count_tokens"):
            counted = client.count_tokens(modelId="m", input={"converse": CONVERSE_HELLO})
            assert counted["inputTokens"] == few["input_tokens"]
        assert server.usage == Usage()
        assert [request.reply for request in server.requests] == [None] * len(server.requests)
        assert asked(server, "/v1/messages", HELLO).ok


KEYS = [
    ("/v1/messages", {"x-api-key": "k"}, 200),
    ("/v1/messages", {"authorization": "Bearer k"}, 200),
    ("/v1/messages", {"x-api-key": "wrong"}, 401),
    ("/v1/chat/completions", {"authorization": "Bearer k"}, 200),
    ("/v1/chat/completions", {"x-api-key": "k"}, 401),
    ("/model/m/invoke", {"authorization": "Bearer k"}, 200),
    ("/model/m/invoke", {"authorization": "AWS4-HMAC-SHA256 Credential=k"}, 403),
    ("/v1/messages/count_tokens", {}, 401),
]


@pytest.mark.parametrize("path, headers, status", KEYS)
def test_keys(path, headers, status):
    """With an api_key, each wire demands it in its own header; without one, anything passes."""
    with ModelServer(["hi"], api_key="k") as server:
        assert asked(server, path, HELLO, headers=headers).status_code == status
    with ModelServer(["hi"]) as server:
        assert asked(server, path, HELLO, headers=headers).status_code == 200


STOPS = [
    ("end_turn", "stop", "end_turn"),
    ("tool_use", "tool_calls", "tool_use"),
    ("max_tokens", "length", "max_tokens"),
    ("stop_sequence", "stop", "stop_sequence"),
    ("refusal", "content_filter", "content_filtered"),
    ("model_context_window_exceeded", "length", "model_context_window_exceeded"),
]


@pytest.mark.parametrize("ours, chat, converse", STOPS)
def test_stop_reasons(ours, chat, converse):
    """A stop reason is said in the wire's own word; a raw one that is given is said as it is."""
    for raw in (None, "odd"):
        told = reply(TEXT, stop_reason=ours, raw_stop_reason=raw)
        assert MESSAGES.reply_body(told, {})["stop_reason"] == (raw or ours)
        assert CHAT.reply_body(told, {})["choices"][0]["finish_reason"] == (raw or chat)
        assert CONVERSE.reply_body(told, {})["stopReason"] == (raw or converse)


@pytest.mark.parametrize("block", [UNKNOWN, cited("x", {"type": "hologram_location"})], ids=["block", "citation"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_wire_has_no_word_for_is_no_short_reply(block, stream):
    """A reply that chat completions or Converse cannot say is the script's mistake: a 500 that names it, not the rest."""
    with ModelServer(lambda body: reply(TEXT, block)) as server:
        for path, body in (
            ("/v1/chat/completions", dict(HELLO, stream=stream)),
            ("/model/m/converse-stream" if stream else "/model/m/converse", CONVERSE_HELLO),
        ):
            response = asked(server, path, body)
            assert (response.status_code, server.requests[-1].reply) == (500, None)
            assert "the script failed" in response.text and "hologram" in response.text
        assert server.usage == Usage()


CHAT_PATH, CONVERSE_PATH, COUNT_PATH = "/v1/chat/completions", "/model/m/converse", "/model/m/count-tokens"
WRONG = [
    (path, body)
    for path in ("/v1/messages", CHAT_PATH, "/model/m/invoke", CONVERSE_PATH, COUNT_PATH)
    for body in (None, 7, [], {}, {"messages": 7})
]
WRONG += [
    (path, {"messages": messages})
    for path in (CHAT_PATH, CONVERSE_PATH)
    for messages in ([7], [{"content": "x"}], [{"role": "user", "content": 7}])
]
WRONG += [
    (CHAT_PATH, {"messages": [{"role": "tool", "content": "x"}]}),
    (CHAT_PATH, {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}),
    (CHAT_PATH, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]}),
    (CHAT_PATH, dict(HELLO, tool_choice="all")),
    (CONVERSE_PATH, {"messages": [{"role": "user", "content": [{"toolResult": {}}]}]}),
    (CONVERSE_PATH, dict(CONVERSE_HELLO, toolConfig=7)),
    (COUNT_PATH, {"input": {"invokeModel": {"body": "e"}}}),
]


@pytest.mark.parametrize("path, body", WRONG, ids=repr)
def test_what_is_no_request(path, body):
    """It is a 400 in the wire's own form, and the script is not asked."""
    with ModelServer([]) as server:
        response = asked(server, path, body)
        assert response.status_code == 400
        told = response.json()
        assert "not a request" in (told["error"]["message"] if path.startswith("/v1") else told["message"])


@pytest.mark.parametrize(
    "path", ["/v1/message", "/v1/messages/batches", "/model/m", "/model//invoke", "/model/a/b/invoke", "/"]
)
def test_paths_that_lead_nowhere(path):
    """A path that is no wire's is a 404; one with another base before it is served."""
    with ModelServer(["hi"]) as server:
        assert asked(server, path, HELLO).status_code == 404
        assert server.requests[0].wire is None
        assert asked(server, "/anthropic/v1/messages?beta=true", HELLO).ok


def test_one_script_serves_all():
    """A list is used up over all wires together, and the usage is that of all."""
    with ModelServer([calls(("f", {})), "two", "three", "four"]) as server:
        assert asked(server, "/v1/messages", HELLO).json()["content"][0]["name"] == "f"
        assert asked(server, "/v1/chat/completions", HELLO).json()["choices"][0]["message"]["content"] == "two"
        assert asked(server, "/model/m/invoke", HELLO).json()["content"][0]["text"] == "three"
        told = asked(server, "/model/m/converse", CONVERSE_HELLO).json()
        assert told["output"]["message"]["content"] == [{"text": "four"}]
        assert [request.reply.text for request in server.requests] == ["", "two", "three", "four"]
        assert server.usage == sum((request.reply.usage for request in server.requests), Usage())
        assert server.usage.requests == 4


# Real traffic


def paths(value, at=""):
    """Every key of some JSON, with the way to it; what is the caller's own (a tool's input) has none."""
    if isinstance(value, dict):
        for name, inner in value.items():
            here = "{}.{}".format(at, name)
            yield here
            if name != "input":
                yield from paths(inner, here)
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner, at + "[]")


def told_in(record):
    """The JSON of a record: its body, or the data of its events."""
    if any(feature.startswith("es:") for feature in record.features):
        for message in decode(record.body)[0]:
            yield event_json(message)
    elif "streaming" in record.features:
        for line in record.body.decode("utf-8", "replace").splitlines():
            if line.startswith("data: {"):
                yield json.loads(line[len("data: ") :])
    else:
        try:
            yield json.loads(record.body.decode("utf-8"))
        except ValueError:
            pass  # a text, or audio


def event_json(message):
    """What a binary message says, under its event's name; a chunk's own bytes."""
    told = json.loads(message.payload.decode("utf-8"))
    name = message.headers.get(":event-type")
    return json.loads(base64.b64decode(told["bytes"]).decode("utf-8")) if name == "chunk" else {name: told}


def real(name):
    """The keys in recorded traffic, of bodies and of events: a message_start holds a body, a delta parts of a message."""
    records = [parameter.values[0] for parameter in recorded(name)]
    if records == [None]:
        pytest.skip(ABSENT)
    bodies, events = set(), set()
    for record in records:
        for told in told_in(record) if record.status == 200 else ():
            (events if "streaming" in record.features else bodies).update(paths(told))
    events |= {".message" + path for path in bodies}
    events |= {path.replace(".message.", ".delta.") for path in bodies}
    return bodies, events


FIGURES = USAGE.model_copy(update={"cache_write_5m_input_tokens": 0, "cache_write_1h_input_tokens": 0})
SHOWN = {
    "messages": ("anthropic", MESSAGES, reply(THINKING, REDACTED, TEXT, TOOL)),
    "chat": ("openai", CHAT, reply(THINKING, REDACTED, TEXT, TOOL)),
    "invoke": ("bedrock_invoke", INVOKE, reply(TEXT, TOOL, usage=FIGURES.model_copy(update={"reasoning_tokens": 0}))),
    "converse": ("bedrock_converse", CONVERSE, reply(THINKING, REDACTED, TEXT, TOOL, usage=FIGURES)),
}


@pytest.mark.parametrize("wire", sorted(SHOWN))
def test_nothing_is_said_that_no_provider_says(wire):
    """Every key that a server sends, in one piece or streamed, is one that real traffic has in the same place."""
    name, codec, told = SHOWN[wire]
    bodies, events = real(name)
    said = set(paths(codec.reply_body(told, {})))
    assert len(said) > 10
    assert said - bodies == set()
    said = set()
    for event in codec.reply_events(told, {"stream_options": {"include_usage": True}}):
        if event != "[DONE]":
            said.update(paths(event if isinstance(event, dict) else event_json(event)))
    assert len(said) > 10
    assert said - events == set()
