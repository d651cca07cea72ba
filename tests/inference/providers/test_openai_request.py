"""The codec of chat completions: requests to JSON, and replies back into requests."""

import json

import pytest

from asimov_sync import ChatMessage, ChatRole
from asimov_sync.inference.providers.openai.reply import decode_reply
from asimov_sync.inference.providers.openai.request import encode_request
from asimov_sync.inference.request import Request
from asimov_sync.messages import as_messages


def encode(
    messages="hello", system=None, tools=(), completion_limit=False, reasoning=True, **options
):
    request = Request("m", as_messages(messages), system, list(tools), options)
    return encode_request(request, completion_limit, reasoning)


def user(*blocks):
    return ChatMessage(role=ChatRole.USER, content=list(blocks))


def assistant(*blocks):
    return ChatMessage(role=ChatRole.ASSISTANT, content=list(blocks))


def text(value):
    return {"type": "text", "text": value}


PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


def test_only_given_options_are_sent():
    """A request holds the model, the messages and the given options only."""
    assert encode() == {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def test_options_and_extra():
    """Options get the wire's names; extra is merged unchanged."""
    request = encode(
        max_tokens=5, temperature=0.5, stop_sequences=["x"], extra={"top_k": 3, "temperature": 1}
    )
    assert (request["max_tokens"], request["stop"], request["top_k"], request["temperature"]) == (
        5,
        ["x"],
        3,
        1,
    )
    assert "stop_sequences" not in request
    with pytest.raises(ValueError, match="empty"):
        encode(messages=[])


def test_names_of_the_token_limit():
    """max_tokens has the server's name; if both names are given, the newer one takes precedence."""
    request = encode(max_tokens=5, completion_limit=True)
    assert request["max_completion_tokens"] == 5 and "max_tokens" not in request
    request = encode(max_tokens=5, max_completion_tokens=6, completion_limit=True)
    assert request["max_completion_tokens"] == 6 and "max_tokens" not in request


@pytest.mark.parametrize(
    "choice, expected",
    [
        ("auto", "auto"),
        ("any", "required"),
        ("required", "required"),
        ("none", "none"),
        ("look", {"type": "function", "function": {"name": "look"}}),
        ({"type": "tool", "name": "auto"}, {"type": "function", "function": {"name": "auto"}}),
        ({"type": "any"}, "required"),
        (
            {"type": "allowed_tools", "allowed_tools": {}},
            {"type": "allowed_tools", "allowed_tools": {}},
        ),
    ],
)
def test_tool_choice(choice, expected):
    """A mode, a tool's name or Anthropic's format become the wire's format. Others are
    unchanged.
    """
    assert encode(tool_choice=choice)["tool_choice"] == expected


def test_tools():
    """A definition becomes a function; a missing description is omitted."""
    schema = {"type": "object", "properties": {}}
    request = encode(
        tools=[
            {"name": "f", "description": "does", "input_schema": schema},
            {"name": "g", "input_schema": {}},
        ]
    )
    assert request["tools"] == [
        {
            "type": "function",
            "function": {"name": "f", "description": "does", "parameters": schema},
        },
        {"type": "function", "function": {"name": "g", "parameters": {}}},
    ]


def test_system_messages():
    """system= is the first message. SYSTEM messages keep their positions. Text blocks are
    joined.
    """
    request = encode(
        [user(text("a")), ChatMessage(role=ChatRole.SYSTEM, content="b")],
        system=[text("be"), text("brief")],
    )
    assert request["messages"] == [
        {"role": "system", "content": "be\nbrief"},
        {"role": "user", "content": "a"},
        {"role": "system", "content": "b"},
    ]


@pytest.mark.parametrize(
    "block, parts",
    [
        (PNG, [PNG_PART]),
        (
            {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}},
            [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}],
        ),
        (
            {
                "type": "document",
                "title": "a.pdf",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
            },
            [
                {
                    "type": "file",
                    "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"},
                }
            ],
        ),
        (
            {"type": "document", "source": {"type": "url", "url": "http://x/y.pdf"}},
            [{"type": "file", "file": {"filename": "document.pdf", "file_data": "http://x/y.pdf"}}],
        ),
        (
            {"type": "document", "source": {"type": "file", "file_id": "f1"}},
            [{"type": "file", "file": {"file_id": "f1"}}],
        ),
        (
            {
                "type": "document",
                "title": "t",
                "source": {"type": "content", "content": [text("b"), PNG]},
            },
            [text("t"), text("b"), PNG_PART],
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "x"}},
            [{"type": "input_audio", "input_audio": {"data": "x"}}],
        ),
        (
            {
                "type": "hologram",
                "cache_control": {},
                "deep": [{"a": 1, "encrypted_content": "zzz"}],
            },
            [text('{"type": "hologram", "deep": [{"a": 1}]}')],
        ),
        ({"type": "redacted_thinking", "data": "zzz"}, []),
    ],
    ids=lambda value: value.get("type", "") if isinstance(value, dict) else "",
)
def test_content_of_a_user(block, parts):
    """Images and documents have their own parts; a block without one is sent as readable text."""
    request = encode([user(dict(text("see"), cache_control={"type": "ephemeral"}), block, PNG)])
    assert request["messages"][0]["content"] == [text("see")] + parts + [PNG_PART]


def test_text_document():
    """A text document is sent as text with its title; a message of only text as one string."""
    document = {
        "type": "document",
        "title": "T",
        "context": "C",
        "source": {"type": "text", "data": "D"},
    }
    assert encode([user(document, text("why?"))])["messages"][0]["content"] == "T\nC\nD\nwhy?"


def result(name, content=None, **more):
    return dict(
        {"type": "tool_result", "tool_use_id": name},
        **dict({"content": content} if content else {}, **more),
    )


def test_tool_results():
    """Each tool result is a separate message before the rest of the turn. Errors start with
    "Error: ".
    """
    blocks = [
        text("and?"),
        result("1", "one"),
        result("2", [text("a"), text("b")], is_error=True),
        result("3"),
    ]
    assert encode([ChatMessage(role=ChatRole.TOOL_RESULT, content=blocks)])["messages"] == [
        {"role": "tool", "tool_call_id": "1", "content": "one"},
        {"role": "tool", "tool_call_id": "2", "content": "Error: a\nb"},
        {"role": "tool", "tool_call_id": "3", "content": ""},
        {"role": "user", "content": "and?"},
    ]


def test_image_in_a_tool_result():
    """An image cannot be in a result: it is in the next user message, and both messages say so."""
    tool_message, user_message = encode([user(result("1", [PNG]))])["messages"]
    assert tool_message["role"] == "tool" and "next message" in tool_message["content"]
    assert user_message["role"] == "user" and "tool call 1" in user_message["content"][0]["text"]
    assert user_message["content"][1:] == [PNG_PART]


USE = {"type": "tool_use", "id": "1", "name": "f", "input": {"a": "é"}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}}


@pytest.mark.parametrize(
    "blocks, message",
    [
        ([], {"content": ""}),
        ([text("a"), text("b")], {"content": "ab"}),
        ([dict(text("a"), annotations=[{}], citations=["http://x"])], {"content": "a"}),
        ([USE], {"content": "", "tool_calls": [CALL]}),
        ([text("a"), USE], {"content": "a", "tool_calls": [CALL]}),
        (
            [dict(USE, extra_content={"g": 1})],
            {"content": "", "tool_calls": [dict(CALL, extra_content={"g": 1})]},
        ),
        ([dict(USE, caller={"type": "direct"})], {"content": "", "tool_calls": [CALL]}),
        ([dict(text("no"), refusal=True)], {"content": [{"type": "refusal", "refusal": "no"}]}),
        ([{"type": "thinking", "thinking": "hm", "signature": "s"}, text("a")], {"content": "a"}),
        (
            [{"type": "audio", "audio": {"id": "a1", "data": "x"}, "field": "message"}],
            {"content": None, "audio": {"id": "a1"}},
        ),
        ([{"type": "images", "images": [1], "field": "message"}, text("a")], {"content": "a"}),
        ([{"type": "chart", "x": 1, "field": "content"}], {"content": [{"type": "chart", "x": 1}]}),
        (
            [{"type": "server_tool_use", "input": {"q": 1}}],
            {"content": '{"type": "server_tool_use", "input": {"q": 1}}'},
        ),
    ],
)
def test_assistant_messages(blocks, message):
    """An assistant's turn is one message. Reasoning of another wire is omitted."""
    assert encode([assistant(*blocks)])["messages"] == [dict(message, role="assistant")]


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning_content": "hm", "content": "a"},
        {"reasoning": "hm", "content": "a"},
        {
            "reasoning": "hm",
            "reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": "s"}],
            "content": "a",
        },
        {
            "reasoning_details": [{"type": "reasoning.encrypted", "data": "x", "index": 0}],
            "content": "a",
        },
        {"content": [{"type": "thinking", "thinking": [text("hm")], "closed": True}, text("a")]},
        {"content": [text("a"), {"type": "reference", "reference_ids": [1]}, text("b")]},
        {"content": "", "tool_calls": [CALL]},
        {
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [dict(CALL, extra_content={"google": {"x": "y"}})],
        },
    ],
)
def test_reply_is_sent_back_unchanged(message):
    """Reasoning is sent back verbatim, unless the server is known to reject it."""
    choice = {"index": 0, "message": dict(message, role="assistant"), "finish_reason": "stop"}
    reply = decode_reply("test", {"choices": [choice]})
    assert encode([reply.message])["messages"] == [dict(message, role="assistant")]
    without = encode([reply.message], reasoning=False)["messages"][0]
    assert "hm" not in json.dumps(without)
    assert not [name for name in without if name.startswith("reasoning")]
