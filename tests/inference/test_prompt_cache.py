"""prompt_cache="auto": the positions of the markers in the sent requests."""

import copy

import pytest
from hypothesis import given, strategies as st

from asimov_sync import ChatMessage, tool
from asimov_sync.inference.prompt_cache import with_cache_markers
from asimov_sync.inference.providers.anthropic.wire import encode_request
from asimov_sync.inference.request import Request
from asimov_sync.testing import ScriptedInferenceClient, calls

FIVE, HOUR = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}


@tool
def first() -> str:
    """The first tool."""
    return "one"


@tool
def second() -> str:
    """The second tool."""
    return "two"


def marked(body):
    """Return every block of a body, in the provider's order, with its cache_control or None."""
    blocks = list(body.get("tools", []))
    blocks += body["system"] if isinstance(body.get("system"), list) else []
    for message in body["messages"]:
        blocks += message["content"] if isinstance(message["content"], list) else []
    return [(block, block.get("cache_control")) for block in blocks]


def markers(body):
    return [control for _, control in marked(body) if control is not None]


def test_where_the_markers_are():
    """On the last tool, the system prompt and the user's last two turns; nowhere else."""
    client = ScriptedInferenceClient(["hello"], prompt_cache="auto")
    history = [
        {"role": role, "content": text}
        for role, text in [
            ("user", "one"),
            ("assistant", "1"),
            ("user", "two"),
            ("assistant", "2"),
            ("user", "three"),
        ]
    ]
    client.generate(history, system="be brief", tools=[first, second])
    body = client.requests[0]
    assert [one.get("cache_control") for one in body["tools"]] == [None, FIVE]
    assert body["system"] == [{"type": "text", "text": "be brief", "cache_control": FIVE}]
    contents = [message["content"] for message in body["messages"]]
    assert contents[:2] == ["one", "1"] and contents[3] == "2"
    assert [contents[2], contents[4]] == [
        [{"type": "text", "text": text, "cache_control": FIVE}] for text in ("two", "three")
    ]
    assert "prompt_cache" not in body


def test_each_request_of_a_tool_loop():
    """Each request marks its own last two turns, including tool results."""
    client = ScriptedInferenceClient(
        [calls(("first", {})), calls(("second", {})), "done"], prompt_cache="auto"
    )
    client.run_tools("go", [first, second])
    for number, body in enumerate(client.requests):
        contents = [message["content"] for message in body["messages"] if message["role"] == "user"]
        assert [isinstance(one, list) and one[-1].get("cache_control") for one in contents][
            -2:
        ] == [FIVE, FIVE][: number + 1]
        assert len(markers(body)) == min(2, number + 1) + 1


def test_instructions_among_the_messages():
    """Without system=, the last message of the role SYSTEM is marked instead."""
    request = Request(
        "m",
        [ChatMessage(role="system", content="be brief"), ChatMessage(role="user", content="x")],
        None,
        [],
        {},
    )
    body = encode_request(with_cache_markers(request))
    assert [control for _, control in marked(body)] == [FIVE, FIVE]


def test_what_may_not_be_marked():
    """Empty text and thinking are never marked; nothing to mark is no error."""
    said = [
        ChatMessage(
            role="user", content=[{"type": "text", "text": "x"}, {"type": "text", "text": ""}]
        ),
        ChatMessage(role="user", content=""),
        ChatMessage(
            role="assistant", content=[{"type": "thinking", "thinking": "hm", "signature": "s"}]
        ),
    ]
    system = [{"type": "text", "text": "be brief"}, {"type": "text", "text": ""}]
    body = encode_request(with_cache_markers(Request("m", said, system, [], {})))
    found = [block for block, control in marked(body) if control is not None]
    assert [block["text"] for block in found] == ["be brief", "x"]
    empty = with_cache_markers(Request("m", [], None, [], {}))
    assert (empty.messages, empty.system, empty.tools) == ([], None, [])


def test_an_hour():
    """Markers before a one-hour marker of the caller last one hour; those after it five minutes."""
    said = [
        ChatMessage(role="user", content="one", cache_marker="1h"),
        ChatMessage(role="assistant", content="1"),
        ChatMessage(role="user", content="two"),
    ]
    body = encode_request(
        with_cache_markers(Request("m", said, "be brief", [second.definition], {}))
    )
    assert markers(body) == [HOUR, HOUR, HOUR, FIVE]


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 6])
@pytest.mark.parametrize("how", ["blocks", "messages"])
def test_beside_the_callers_own(number, how):
    """The caller's markers take precedence, in blocks or on messages.

    The rest of the four go to the last turn, the system prompt, then the tools. Of more than four of
    the caller's, the last four stay.
    """
    if how == "blocks":
        blocks = [
            {"type": "text", "text": str(place), "cache_control": FIVE} for place in range(number)
        ]
        said = [ChatMessage(role="assistant", content=blocks or "nothing")]
    else:
        said = [
            ChatMessage(role="assistant", content=str(place), cache_marker=True)
            for place in range(number)
        ]
    request = Request(
        "m", said + [ChatMessage(role="user", content="x")], "be brief", [second.definition], {}
    )
    body = encode_request(with_cache_markers(request))
    found = [
        block.get("text", block.get("name"))
        for block, control in marked(body)
        if control is not None
    ]
    own = [str(place) for place in range(number)][-4:]
    added = ["x", "be brief", "second"][: 4 - len(own)]
    assert found == [one for one in ("second", "be brief") if one in added] + own + [
        one for one in added if one == "x"
    ]


def test_other_words():
    """prompt_cache is "auto" or nothing; and an empty history is told as what it is."""
    with pytest.raises(ValueError, match='prompt_cache must be "auto" or None, not True'):
        ScriptedInferenceClient(["hello"]).generate("x", prompt_cache=True)
    with pytest.raises(ValueError, match="messages is empty"):
        ScriptedInferenceClient(["hello"], prompt_cache="auto").generate([])
    client = ScriptedInferenceClient(["hello"], prompt_cache="auto")
    client.generate("x", prompt_cache=None)
    assert markers(client.requests[0]) == []


# Whatever the caller marked

TEXT = st.sampled_from(["", "some text"])
PLAIN = st.fixed_dictionaries({"type": st.just("text"), "text": TEXT, "own": st.booleans()})
THINKING = st.just({"type": "thinking", "thinking": "hm", "signature": "s", "own": False})
RESULT = st.fixed_dictionaries(
    {"type": st.just("tool_result"), "tool_use_id": st.just("t"), "own": st.booleans()}
)
CONTENT = TEXT | st.lists(PLAIN | THINKING | RESULT, max_size=4)
SAID = st.tuples(
    st.sampled_from(["system", "user", "assistant", "tool_result"]), CONTENT, st.booleans()
)


@st.composite
def requests(draw):
    """Return a request with up to a dozen markers, the one-hour ones first."""
    hours = draw(st.integers(0, 12))
    left = [hours]

    def lifetime():
        left[0] -= 1
        return "1h" if left[0] >= 0 else "5m"

    def blocks(content):
        if isinstance(content, str):
            return content
        made = []
        for block in content:
            block = dict(block)
            if block.pop("own"):
                block["cache_control"] = {"type": "ephemeral", "ttl": lifetime()}
            made.append(block)
        return made

    system = draw(st.none() | st.just("be brief") | st.lists(PLAIN, max_size=3))
    system = blocks(system) if isinstance(system, list) else system
    said = draw(st.lists(SAID, min_size=1, max_size=7))
    made = {}
    for instructions in (True, False):  # in the order in which a provider reads them
        for place, (role, content, marker) in enumerate(said):
            if (role == "system") is instructions:
                # Either its blocks are marked, or the whole message; both would conflict.
                marker = (
                    marker
                    and content
                    and (isinstance(content, str) or not any(block["own"] for block in content))
                )
                made[place] = ChatMessage(
                    role=role, content=blocks(content), cache_marker=lifetime() if marker else False
                )
    tools = [one.definition for one in draw(st.sampled_from([(), (first,), (first, second)]))]
    return Request("m", [made[place] for place in range(len(said))], system, tools, {})


@given(request=requests())
def test_never_more_than_four(request):
    """At most four markers are sent, in a valid order, for any markers of the caller.

    None for one hour follows one for five minutes, none is added to thinking or empty text, and the
    caller's request is not changed.
    """
    before = copy.deepcopy(request)
    said = [message for message in request.messages if message.role.value != "system"]
    left = [
        one for one in said if any(block["type"] != "text" or block["text"] for block in one.blocks)
    ]
    if said and (
        not left or (left[-1].role.value == "assistant" and said[-1].role.value != "assistant")
    ):
        with pytest.raises(ValueError, match="no message to answer"):
            encode_request(with_cache_markers(request))
        return
    body = encode_request(with_cache_markers(request))
    assert request == before
    found = [
        (block, control.get("ttl", "5m")) for block, control in marked(body) if control is not None
    ]
    assert len(found) <= 4
    lifetimes = [lifetime for _, lifetime in found]
    assert lifetimes == sorted(lifetimes)
    assert not any(block["type"] == "thinking" for block, _ in found if "type" in block)
    said = [
        message for message in request.messages if message.role.value in ("user", "tool_result")
    ]
    if said and any(
        block["type"] == "tool_result" or block.get("text") for block in said[-1].blocks
    ):
        assert found, "the last turn is marked, or the caller has marked four others"
