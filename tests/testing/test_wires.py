"""The wire formats of a ModelServer: replies, invalid requests, keys and paths."""

import json

import pytest

from asimov_sync import Usage
from asimov_sync.testing import ModelServer, calls
from asimov_sync.testing.wires import CHAT, CONVERSE, MESSAGES

from ..tiers import suite
from .replies import (
    CITATION,
    CONVERSE_HELLO,
    HELLO,
    REDACTED,
    TEXT,
    THINKING,
    TOOL,
    UNKNOWN,
    WEB_CITATION,
    cite,
    make_reply,
    post_json,
)


def chunks(response):
    """Return the data of a stream of unnamed server-sent events."""
    events = response.content.decode("utf-8").split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") for event in events)
    assert events.pop() == "data: [DONE]"
    return [json.loads(event[len("data: ") :]) for event in events]


# Messages


def test_messages_reply():
    """Unknown blocks, signatures, citations and all usage are in a reply that is not streamed."""
    blocks = [THINKING, REDACTED, cite("see", CITATION), UNKNOWN, TOOL]
    with ModelServer([make_reply(*blocks)]) as server:
        received = post_json(server, "/v1/messages", HELLO).json()
    assert (received["id"], received["model"], received["content"], received["stop_reason"]) == (
        "i",
        "m",
        blocks,
        "tool_use",
    )
    assert received["usage"] == {
        "input_tokens": 3,
        "output_tokens": 50,
        "cache_read_input_tokens": 7,
        "cache_creation_input_tokens": 11,
        "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 6},
        "output_tokens_details": {"thinking_tokens": 20},
    }


def test_messages_stream_deltas():
    """Citations and signatures are deltas; an unknown block is sent whole."""
    events = list(MESSAGES.reply_events(make_reply(THINKING, cite("see", CITATION), UNKNOWN), {}))
    deltas = [
        (event["index"], event["delta"])
        for event in events
        if event["type"] == "content_block_delta"
    ]
    assert deltas == [
        (0, {"type": "thinking_delta", "thinking": "let "}),
        (0, {"type": "thinking_delta", "thinking": "me "}),
        (0, {"type": "thinking_delta", "thinking": "see"}),
        (0, {"type": "signature_delta", "signature": "sig=="}),
        (1, {"type": "citations_delta", "citation": CITATION}),
        (1, {"type": "text_delta", "text": "see"}),
    ]
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert starts == [dict(THINKING, thinking="", signature=""), cite(""), UNKNOWN]


# Chat completions


def test_chat_reply():
    """One choice has text, calls and a finish_reason; prompt tokens include cached ones."""
    with ModelServer([make_reply(TEXT, TOOL), "hi"]) as server:
        response = post_json(server, "/v1/chat/completions", HELLO)
        assert response.headers["x-request-id"] == "req_000000"
        received = response.json()
        assert (
            post_json(server, "/openai/v1/chat/completions?api-version=1", HELLO).json()["choices"][
                0
            ]["finish_reason"]
            == "stop"
        )
        assert server.chat_url == server.bedrock_url + "/v1/chat/completions"
    assert (received["object"], received["id"], received["model"]) == ("chat.completion", "i", "m")
    (choice,) = received["choices"]
    assert choice["finish_reason"] == "tool_calls"
    call = {
        "id": "tu1",
        "type": "function",
        "function": {"name": "f", "arguments": '{"a": [1, "é"]}'},
    }
    assert choice["message"] == {
        "role": "assistant",
        "content": "Hello wörld",
        "refusal": None,
        "tool_calls": [call],
    }
    assert received["usage"] == {
        "prompt_tokens": 21,
        "completion_tokens": 50,
        "total_tokens": 71,
        "prompt_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 11},
        "completion_tokens_details": {"reasoning_tokens": 20},
    }


@pytest.mark.parametrize("include_usage", [None, False, True])
def test_chat_stream(include_usage):
    """Text by word, arguments in fragments, one finish_reason, usage if requested, [DONE]."""
    body = dict(HELLO, stream=True)
    if include_usage is not None:
        body["stream_options"] = {"include_usage": include_usage}
    with ModelServer([make_reply(TEXT, TOOL, dict(TOOL, id="tu2", input={}))]) as server:
        response = post_json(server, "/v1/chat/completions", body)
    assert response.headers["content-type"].startswith("text/event-stream")
    received = chunks(response)
    assert {(chunk["id"], chunk["model"], chunk["object"]) for chunk in received} == {
        ("i", "m", "chat.completion.chunk")
    }
    if include_usage:
        last = received.pop()
        assert (last["choices"], last["usage"]["prompt_tokens"]) == ([], 21)
        assert {chunk["usage"] for chunk in received} == {None}
    else:
        assert not any("usage" in chunk for chunk in received)
    choices = [chunk["choices"][0] for chunk in received]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + [
        "tool_calls"
    ]
    deltas = [choice["delta"] for choice in choices]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert [delta["content"] for delta in deltas[1:] if "content" in delta] == ["Hello ", "wörld"]
    fragments = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert [fragment["index"] for fragment in fragments] == [0, 0, 0, 1, 1, 1]
    assert [fragment.get("id") for fragment in fragments] == ["tu1", None, None, "tu2", None, None]
    arguments = [
        "".join(f["function"]["arguments"] for f in fragments if f["index"] == index)
        for index in (0, 1)
    ]
    assert list(map(json.loads, arguments)) == [{"a": [1, "é"]}, {}]


def test_chat_reasoning():
    """Thinking is reasoning_content; signed or encrypted, it is reasoning_details."""
    bare = {"type": "thinking", "thinking": "let me see"}
    message = CHAT.reply_body(make_reply(bare, TEXT), {})["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("let me see", "Hello wörld")
    deltas = [
        event["choices"][0]["delta"]
        for event in CHAT.reply_events(make_reply(bare, TEXT), {})
        if event != "[DONE]"
    ]
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == [
        "let ",
        "me ",
        "see",
    ]

    message = CHAT.reply_body(make_reply(THINKING, REDACTED, TEXT), {})["choices"][0]["message"]
    assert message["reasoning"] == "let me see"
    assert "reasoning_content" not in message
    assert CHAT.read_request({"messages": [message]})["messages"][0]["content"] == [
        THINKING,
        REDACTED,
        TEXT,
    ]
    deltas = [
        e["choices"][0]["delta"]
        for e in CHAT.reply_events(make_reply(THINKING, REDACTED), {})
        if e != "[DONE]"
    ]
    details = [detail for delta in deltas for detail in delta.get("reasoning_details", [])]
    assert [
        (detail["index"], detail.get("text"), detail.get("signature"), detail.get("data"))
        for detail in details
    ] == [
        (0, "let ", None, None),
        (0, "me ", None, None),
        (0, "see", None, None),
        (0, None, "sig==", None),
        (1, None, None, "EuYB"),
    ]


def test_chat_citations():
    """A cited web page is an annotation of its range of text."""
    with_page = make_reply(
        {"type": "text", "text": "As "}, cite("they say", WEB_CITATION), stop_reason="end_turn"
    )
    (annotation,) = CHAT.reply_body(with_page, {})["choices"][0]["message"]["annotations"]
    page = {"url": "https://x.example", "title": "X", "start_index": 3, "end_index": 11}
    assert annotation == {"type": "url_citation", "url_citation": page}
    streamed = [
        event["choices"][0]["delta"]
        for event in CHAT.reply_events(with_page, {})
        if event != "[DONE]"
    ]
    assert [delta["annotations"] for delta in streamed if "annotations" in delta] == [[annotation]]


# Keys, stop reasons, invalid requests, paths

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
    """With an api_key, each wire requires it in its header. Without one, any key is accepted."""
    with ModelServer(["hi"], api_key="k") as server:
        assert post_json(server, path, HELLO, headers=headers).status_code == status
    with ModelServer(["hi"]) as server:
        assert post_json(server, path, HELLO, headers=headers).status_code == 200


STOPS = [
    ("end_turn", "stop", "end_turn"),
    ("tool_use", "tool_calls", "tool_use"),
    ("max_tokens", "length", "max_tokens"),
    ("stop_sequence", "stop", "stop_sequence"),
    ("refusal", "content_filter", "content_filtered"),
    ("model_context_window_exceeded", "length", "model_context_window_exceeded"),
]


@pytest.mark.parametrize("reason, chat, converse", STOPS)
def test_stop_reasons(reason, chat, converse):
    """A stop reason is translated to the wire. A raw one is sent unchanged."""
    for raw in (None, "odd"):
        reply = make_reply(TEXT, stop_reason=reason, raw_stop_reason=raw)
        assert MESSAGES.reply_body(reply, {})["stop_reason"] == (raw or reason)
        assert CHAT.reply_body(reply, {})["choices"][0]["finish_reason"] == (raw or chat)
        assert CONVERSE.reply_body(reply, {})["stopReason"] == (raw or converse)


@pytest.mark.parametrize(
    "block", [UNKNOWN, cite("x", {"type": "hologram_location"})], ids=["block", "citation"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_inexpressible_reply(block, stream):
    """A reply that the wire cannot express is a 500 that names the block."""
    with ModelServer(lambda body: make_reply(TEXT, block)) as server:
        for path, body in (
            ("/v1/chat/completions", dict(HELLO, stream=stream)),
            ("/model/m/converse-stream" if stream else "/model/m/converse", CONVERSE_HELLO),
        ):
            response = post_json(server, path, body)
            assert (response.status_code, server.requests[-1].reply) == (500, None)
            assert "the script failed" in response.text and "hologram" in response.text
        assert server.usage == Usage()


CHAT_PATH, CONVERSE_PATH, COUNT_PATH = (
    "/v1/chat/completions",
    "/model/m/converse",
    "/model/m/count-tokens",
)
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
    (
        CHAT_PATH,
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}
            ]
        },
    ),
    (CHAT_PATH, dict(HELLO, tool_choice="all")),
    (CONVERSE_PATH, {"messages": [{"role": "user", "content": [{"toolResult": {}}]}]}),
    (CONVERSE_PATH, dict(CONVERSE_HELLO, toolConfig=7)),
    (COUNT_PATH, {"input": {"invokeModel": {"body": "e"}}}),
]


@suite
@pytest.mark.parametrize("path, body", WRONG, ids=repr)
def test_invalid_request(path, body):
    """An invalid request is a 400 in the wire's format, and the script is not called."""
    with ModelServer([]) as server:
        response = post_json(server, path, body)
        assert response.status_code == 400
        received = response.json()
        assert "not a valid" in (
            received["error"]["message"] if path.startswith("/v1") else received["message"]
        )


@pytest.mark.parametrize(
    "path",
    ["/v1/message", "/v1/messages/batches", "/model/m", "/model//invoke", "/model/a/b/invoke", "/"],
)
def test_unknown_path(path):
    """An unknown path is a 404. A known one behind a prefix is served."""
    with ModelServer(["hi"]) as server:
        assert post_json(server, path, HELLO).status_code == 404
        assert server.requests[0].wire is None
        assert post_json(server, "/anthropic/v1/messages?beta=true", HELLO).ok


def test_wires_share_script():
    """All wires consume the same list, and the usage is the sum over them."""
    with ModelServer([calls(("f", {})), "two", "three", "four"]) as server:
        assert post_json(server, "/v1/messages", HELLO).json()["content"][0]["name"] == "f"
        assert (
            post_json(server, "/v1/chat/completions", HELLO).json()["choices"][0]["message"][
                "content"
            ]
            == "two"
        )
        assert post_json(server, "/model/m/invoke", HELLO).json()["content"][0]["text"] == "three"
        received = post_json(server, "/model/m/converse", CONVERSE_HELLO).json()
        assert received["output"]["message"]["content"] == [{"text": "four"}]
        assert [request.reply.text for request in server.requests] == ["", "two", "three", "four"]
        assert server.usage == sum((request.reply.usage for request in server.requests), Usage())
        assert server.usage.requests == 4
