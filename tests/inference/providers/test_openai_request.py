"""The chat-completions codec, one way: requests to JSON, and replies back into requests."""

import json

import pytest

from asimov_sync import ChatMessage, ChatRole
from asimov_sync.inference.providers.openai.reply import decode_reply
from asimov_sync.inference.providers.openai.request import encode_request
from asimov_sync.inference.request import Request
from asimov_sync.messages import as_messages


def body(
    messages="hello", system=None, tools=(), completion_limit=False, reasoning=True, **options
):
    request = Request("m", as_messages(messages), system, list(tools), options)
    return encode_request(request, completion_limit, reasoning)


def user(*blocks):
    return ChatMessage(role=ChatRole.USER, content=list(blocks))


def assistant(*blocks):
    return ChatMessage(role=ChatRole.ASSISTANT, content=list(blocks))


def text(words):
    return {"type": "text", "text": words}


PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


def test_only_given_options_are_sent():
    """A request holds model and messages, and nothing that was not asked for."""
    assert body() == {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def test_options_and_extra():
    """Options get the wire's names; extra is merged unchanged."""
    made = body(
        max_tokens=5, temperature=0.5, stop_sequences=["x"], extra={"top_k": 3, "temperature": 1}
    )
    assert (made["max_tokens"], made["stop"], made["top_k"], made["temperature"]) == (
        5,
        ["x"],
        3,
        1,
    )
    assert "stop_sequences" not in made
    with pytest.raises(ValueError, match="empty"):
        body(messages=[])


def test_the_limit_has_two_names():
    """max_tokens is sent under the server's name; if both names are given, the newer one counts."""
    made = body(max_tokens=5, completion_limit=True)
    assert made["max_completion_tokens"] == 5 and "max_tokens" not in made
    made = body(max_tokens=5, max_completion_tokens=6, completion_limit=True)
    assert made["max_completion_tokens"] == 6 and "max_tokens" not in made


@pytest.mark.parametrize(
    "given, sent",
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
def test_a_choice_of_tools(given, sent):
    """A word, a tool's name or Anthropic's form become the wire's own; another form is sent as it
    is.
    """
    assert body(tool_choice=given)["tool_choice"] == sent


def test_tools():
    """A definition becomes a function; one without a description has none."""
    schema = {"type": "object", "properties": {}}
    made = body(
        tools=[
            {"name": "f", "description": "does", "input_schema": schema},
            {"name": "g", "input_schema": {}},
        ]
    )
    assert made["tools"] == [
        {
            "type": "function",
            "function": {"name": "f", "description": "does", "parameters": schema},
        },
        {"type": "function", "function": {"name": "g", "parameters": {}}},
    ]


def test_system_messages_stay_in_their_place():
    """system= comes first; a SYSTEM message stays in its position; blocks of only text become one
    text.
    """
    made = body(
        [user(text("a")), ChatMessage(role=ChatRole.SYSTEM, content="b")],
        system=[text("be"), text("brief")],
    )
    assert made["messages"] == [
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
    made = body([user(dict(text("see"), cache_control={"type": "ephemeral"}), block, PNG)])
    assert made["messages"][0]["content"] == [text("see")] + parts + [PNG_PART]


def test_a_document_of_text_is_text():
    """A plain document with its title is text, and a message that is only text is sent as such."""
    document = {
        "type": "document",
        "title": "T",
        "context": "C",
        "source": {"type": "text", "data": "D"},
    }
    assert body([user(document, text("why?"))])["messages"][0]["content"] == "T\nC\nD\nwhy?"


def result(name, content=None, **more):
    return dict(
        {"type": "tool_result", "tool_use_id": name},
        **dict({"content": content} if content else {}, **more),
    )


def test_tool_results():
    """Each tool result is a message of its own, before the rest of the turn; an error starts with
    "Error: ".
    """
    blocks = [
        text("and?"),
        result("1", "one"),
        result("2", [text("a"), text("b")], is_error=True),
        result("3"),
    ]
    assert body([ChatMessage(role=ChatRole.TOOL_RESULT, content=blocks)])["messages"] == [
        {"role": "tool", "tool_call_id": "1", "content": "one"},
        {"role": "tool", "tool_call_id": "2", "content": "Error: a\nb"},
        {"role": "tool", "tool_call_id": "3", "content": ""},
        {"role": "user", "content": "and?"},
    ]


def test_an_image_that_a_tool_returns():
    """An image cannot be in a result: the user shows it next, and both messages say so."""
    tool_message, shown = body([user(result("1", [PNG]))])["messages"]
    assert tool_message["role"] == "tool" and "next message" in tool_message["content"]
    assert shown["role"] == "user" and "tool call 1" in shown["content"][0]["text"]
    assert shown["content"][1:] == [PNG_PART]


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
def test_message_of_the_model(blocks, message):
    """A turn of the model is one message; reasoning of this wire goes back to its field, that of
    another is left out.
    """
    assert body([assistant(*blocks)])["messages"] == [dict(message, role="assistant")]


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
def test_a_reply_goes_back_as_it_came(message):
    """Reasoning goes back verbatim, unless the server is known to reject it."""
    choice = {"index": 0, "message": dict(message, role="assistant"), "finish_reason": "stop"}
    reply = decode_reply("test", {"choices": [choice]})
    assert body([reply.message])["messages"] == [dict(message, role="assistant")]
    without = body([reply.message], reasoning=False)["messages"][0]
    assert "hm" not in json.dumps(without)
    assert not [name for name in without if name.startswith("reasoning")]
