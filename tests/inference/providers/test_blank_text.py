"""Blank text is left out of a request: models answer with it, and their providers refuse it."""

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


def sent(*messages, system=None):
    return encode_request(request(*messages, system=system))["messages"]


def said(content, role="assistant", **options):
    return ChatMessage(role=role, content=content, **options)


def text(words, **more):
    return dict({"type": "text", "text": words}, **more)


@pytest.mark.parametrize("content", BLANK, ids=repr)
def test_a_blank_reply_is_not_sent_back(content):
    """A message without content is left out, and the user's turns around it are sent as one."""
    assert sent("x", said(content), "y") == [{"role": "user", "content": [text("x"), text("y")]}]
    assert sent("x", said(content)) == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize("content", BLANK[:-1], ids=repr)
def test_conversation_after_a_blank_reply(content):
    """The messages of a run that ended with a blank reply can be sent with another question."""

    def look() -> str:
        return "a result"

    blank = Reply(message=said(content), stop_reason="end_turn")
    client = ScriptedInferenceClient([calls(("look", {})), blank, "fine"])
    run = client.run_tools("x", [look])
    assert run.text.strip() == ""
    assert client.generate(run.messages + [said("y", "user")]).text == "fine"
    last = client.requests[-1]["messages"]
    assert [message["role"] for message in last] == ["user", "assistant", "user"]
    assert [block["type"] for block in last[2]["content"]] == ["tool_result", "text"]


def test_blank_text_beside_other_blocks_is_left_out():
    """Of a message with other content, the blank text alone is left out; the caller's message is
    not modified.
    """
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    message = said([text("\n\n"), thinking, text(" "), call, {"type": "hologram"}])
    before = json.dumps(message.content)
    assert sent("x", message)[1]["content"] == [thinking, call, {"type": "hologram"}]
    assert json.dumps(message.content) == before


def test_blank_text_in_a_tool_result_is_left_out():
    """A tool result keeps its other content; one of only blank text is sent without content."""
    image = {"type": "image", "source": {"type": "url", "url": "u"}}
    result = {"type": "tool_result", "tool_use_id": "t"}
    blank = dict(result, content=[text(""), text(" ", cache_control=EPHEMERAL)])
    message = said(
        [dict(result, content=[text(""), image]), blank, dict(result, content="")], "tool_result"
    )
    assert sent(message)[0]["content"] == [
        dict(result, content=[image]),
        dict(result, cache_control=EPHEMERAL),
        dict(result, content=""),
    ]


def test_a_prefill_is_sent_as_it_was_written():
    """The last message of the assistant, which the reply continues, keeps its text, its whitespace
    included.
    """
    assert sent("x", said("The answer is ")) == [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "The answer is "},
    ]
    assert sent("x", said([text(""), text("a \n")]))[1]["content"] == [text("a \n")]


def test_messages_of_one_role_stay_apart_where_nothing_was_left_out():
    """Only the neighbours of a message that was left out are joined."""
    assert [message["content"] for message in sent("a", "b", said(""), "c", "d")] == [
        "a",
        [text("b"), text("c")],
        "d",
    ]


@pytest.mark.parametrize(
    "encode", [encode_request, converse.encode_request], ids=["messages", "converse"]
)
def test_a_request_of_blank_messages_is_refused(encode):
    """ValueError if no message has content, or if the last question is blank and the reply before
    it would be continued.
    """
    with pytest.raises(ValueError, match="all of them are blank"):
        encode(request(" ", said([])))
    with pytest.raises(ValueError, match="the last one is blank"):
        encode(request("x", said("y"), "\n"))


def test_blank_instructions_are_left_out():
    """Blank system text is not sent, whether it comes as the prompt or as a message."""
    body = encode_request(request(said("", "system"), said(" ", "system"), "x", system="\n"))
    assert "system" not in body
    assert encode_request(request(said(" ", "system"), "x", system="a"))["system"] == "a"


def test_invoke_leaves_blank_text_out():
    """The body of InvokeModel is that of the Messages API: without blank text, and with alternating
    roles.
    """
    body = json.loads(invoke.encode_body(request("x", said([]), "y"), "v", ()).decode())
    assert body["messages"] == [{"role": "user", "content": [text("x"), text("y")]}]


def test_converse_keeps_blank_text_that_has_citations():
    """Converse answers with citations that have no text, and takes them back."""
    cited = text("", citations=[{"title": "a"}])
    body = converse.encode_request(request("x", said([cited]), "y"))
    assert body["messages"][1]["content"] == [{"citationsContent": {"citations": [{"title": "a"}]}}]
    assert sent("x", said([cited]), "y") == [{"role": "user", "content": [text("x"), text("y")]}]


def test_a_marker_on_blank_text_moves_to_the_block_before_it():
    """The prompt up to the block before it is the same; a lifetime of an hour is kept."""
    blocks = [text("a"), text("", cache_control=HOUR)]
    assert sent(said(blocks, "user"))[0]["content"] == [text("a", cache_control=HOUR)]
    blocks = [text("a", cache_control=EPHEMERAL), text("", cache_control=HOUR)]
    assert sent(said(blocks, "user"))[0]["content"] == [text("a", cache_control=HOUR)]
    blocks = [text("a", cache_control=HOUR), text("", cache_control=EPHEMERAL)]
    assert sent(said(blocks, "user"))[0]["content"] == [text("a", cache_control=HOUR)]
    assert blocks[0]["cache_control"] == HOUR


def test_a_marker_on_a_message_that_is_left_out_moves_to_the_message_before_it():
    """Whether the message was marked or a block in it; before the first message there is nothing to
    cache.
    """
    for blank in (said([], cache_marker="1h"), said([text("", cache_control=HOUR)])):
        assert sent("x", blank, "y")[0]["content"] == [text("x", cache_control=HOUR), text("y")]
    assert sent(said("", "user", cache_marker=True), "y") == [{"role": "user", "content": "y"}]
    marked = said("x", "user", cache_marker=True)
    assert sent(marked, said([], cache_marker="1h"), "y")[0]["content"][0] == text(
        "x", cache_control=HOUR
    )
    assert marked.cache_marker is True
    converted = converse.encode_request(
        request("x", said([text("", cache_control=EPHEMERAL)]), "y")
    )
    assert converted["messages"][0]["content"] == [
        {"text": "x"},
        {"cachePoint": {"type": "default"}},
        {"text": "y"},
    ]


def test_the_same_message_twice_is_marked_twice():
    """A message that is in a history at two places gets its marker at both."""
    marked = ChatMessage(role=ChatRole.USER, content="x", cache_marker=True)
    made = sent(marked, said("a"), marked)
    assert [json.dumps(message).count("cache_control") for message in made] == [1, 0, 1]
    assert json.dumps(sent(*[marked, said("a")] * 6)).count("cache_control") == 4
