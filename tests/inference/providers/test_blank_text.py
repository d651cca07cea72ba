"""Blank text is omitted from requests: models produce it, but their providers reject it."""

import json

import pytest

from asimov_sync import ChatMessage, ChatRole, Reply
from asimov_sync.inference.providers.anthropic.wire import encode_request
from asimov_sync.inference.providers.bedrock import converse as converse, invoke
from asimov_sync.inference.request import Request
from asimov_sync.messages import as_messages
from asimov_sync.testing import ScriptedInferenceClient, calls

EPHEMERAL = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
BLANK = [
    [],
    "",
    " \n",
    [{"type": "text", "text": ""}],
    [{"type": "text", "text": "\n\n"}],
    [{"type": "text", "text": None}],
]


def request(*messages, system=None):
    return Request("m", as_messages(list(messages)), system, [], {})


def encode_messages(*messages, system=None):
    return encode_request(request(*messages, system=system))["messages"]


def make_message(content, role="assistant", **options):
    return ChatMessage(role=role, content=content, **options)


def text(value, **more):
    return dict({"type": "text", "text": value}, **more)


@pytest.mark.parametrize("content", BLANK, ids=repr)
def test_blank_reply(content):
    """A message without content is omitted, and the user's turns around it are merged."""
    assert encode_messages("x", make_message(content), "y") == [
        {"role": "user", "content": [text("x"), text("y")]}
    ]
    assert encode_messages("x", make_message(content)) == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize("content", BLANK[:-1], ids=repr)
def test_conversation_after_a_blank_reply(content):
    """The history of a run that ended with a blank reply can be sent with another question."""

    def find() -> str:
        return "a result"

    blank = Reply(message=make_message(content), stop_reason="end_turn")
    client = ScriptedInferenceClient([calls(("find", {})), blank, "fine"])
    run = client.run_tools("x", [find])
    assert run.text.strip() == ""
    assert client.generate(run.messages + [make_message("y", "user")]).text == "fine"
    messages = client.requests[-1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert [block["type"] for block in messages[2]["content"]] == ["tool_result", "text"]


def test_blank_text_with_other_blocks():
    """Only the blank text of a message is omitted. The caller's message is not changed."""
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    message = make_message([text("\n\n"), thinking, text(" "), call, {"type": "hologram"}])
    original = json.dumps(message.content)
    assert encode_messages("x", message)[1]["content"] == [thinking, call, {"type": "hologram"}]
    assert json.dumps(message.content) == original


def test_blank_text_in_a_tool_result():
    """A tool result keeps its other content. One with only blank text is sent without content."""
    image = {"type": "image", "source": {"type": "url", "url": "u"}}
    result = {"type": "tool_result", "tool_use_id": "t"}
    blank = dict(result, content=[text(""), text(" ", cache_control=EPHEMERAL)])
    message = make_message(
        [dict(result, content=[text(""), image]), blank, dict(result, content="")], "tool_result"
    )
    assert encode_messages(message)[0]["content"] == [
        dict(result, content=[image]),
        dict(result, cache_control=EPHEMERAL),
        dict(result, content=""),
    ]


def test_prefill():
    """A final message of the assistant, which the reply continues, keeps its whitespace."""
    assert encode_messages("x", make_message("The answer is ")) == [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "The answer is "},
    ]
    assert encode_messages("x", make_message([text(""), text("a \n")]))[1]["content"] == [
        text("a \n")
    ]


def test_successive_messages_of_one_role():
    """Only the neighbours of an omitted message are merged."""
    assert [
        message["content"] for message in encode_messages("a", "b", make_message(""), "c", "d")
    ] == [
        "a",
        [text("b"), text("c")],
        "d",
    ]


@pytest.mark.parametrize(
    "encode", [encode_request, converse.encode_request], ids=["messages", "converse"]
)
def test_request_of_blank_messages(encode):
    """ValueError if no message has content, or if omitting a blank question leaves a reply last."""
    with pytest.raises(ValueError, match="all of them are blank"):
        encode(request(" ", make_message([])))
    with pytest.raises(ValueError, match="the last one is blank"):
        encode(request("x", make_message("y"), "\n"))


def test_blank_system_prompt():
    """Blank system text is omitted, in system= and in messages."""
    body = encode_request(
        request(make_message("", "system"), make_message(" ", "system"), "x", system="\n")
    )
    assert "system" not in body
    assert encode_request(request(make_message(" ", "system"), "x", system="a"))["system"] == "a"


def test_blank_text_in_invoke():
    """The body of InvokeModel has no blank text, and its roles alternate."""
    body = json.loads(invoke.encode_body(request("x", make_message([]), "y"), "v", ()).decode())
    assert body["messages"] == [{"role": "user", "content": [text("x"), text("y")]}]


def test_citations_without_text_in_converse():
    """Converse returns citations without text, and accepts them in requests."""
    cited = text("", citations=[{"title": "a"}])
    body = converse.encode_request(request("x", make_message([cited]), "y"))
    assert body["messages"][1]["content"] == [{"citationsContent": {"citations": [{"title": "a"}]}}]
    assert encode_messages("x", make_message([cited]), "y") == [
        {"role": "user", "content": [text("x"), text("y")]}
    ]


def test_marker_on_blank_text():
    """A marker on blank text moves to the block before it; an hour's lifetime is kept."""
    blocks = [text("a"), text("", cache_control=HOUR)]
    assert encode_messages(make_message(blocks, "user"))[0]["content"] == [
        text("a", cache_control=HOUR)
    ]
    blocks = [text("a", cache_control=EPHEMERAL), text("", cache_control=HOUR)]
    assert encode_messages(make_message(blocks, "user"))[0]["content"] == [
        text("a", cache_control=HOUR)
    ]
    blocks = [text("a", cache_control=HOUR), text("", cache_control=EPHEMERAL)]
    assert encode_messages(make_message(blocks, "user"))[0]["content"] == [
        text("a", cache_control=HOUR)
    ]
    assert blocks[0]["cache_control"] == HOUR


def test_marker_on_an_omitted_message():
    """A marker on an omitted message or its block moves to the message before it, if there is
    one.
    """
    for blank in (
        make_message([], cache_marker="1h"),
        make_message([text("", cache_control=HOUR)]),
    ):
        assert encode_messages("x", blank, "y")[0]["content"] == [
            text("x", cache_control=HOUR),
            text("y"),
        ]
    assert encode_messages(make_message("", "user", cache_marker=True), "y") == [
        {"role": "user", "content": "y"}
    ]
    marked = make_message("x", "user", cache_marker=True)
    assert encode_messages(marked, make_message([], cache_marker="1h"), "y")[0]["content"][
        0
    ] == text("x", cache_control=HOUR)
    assert marked.cache_marker is True
    converted = converse.encode_request(
        request("x", make_message([text("", cache_control=EPHEMERAL)]), "y")
    )
    assert converted["messages"][0]["content"] == [
        {"text": "x"},
        {"cachePoint": {"type": "default"}},
        {"text": "y"},
    ]


def test_repeated_message_with_a_marker():
    """A marked message that is twice in a history has a marker at both positions."""
    marked = ChatMessage(role=ChatRole.USER, content="x", cache_marker=True)
    messages = encode_messages(marked, make_message("a"), marked)
    assert [json.dumps(message).count("cache_control") for message in messages] == [1, 0, 1]
    assert json.dumps(encode_messages(*[marked, make_message("a")] * 6)).count("cache_control") == 4
