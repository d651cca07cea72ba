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


def blocks_of(body):
    """Return every block of a body, in the provider's order, with its cache_control or None."""
    blocks = list(body.get("tools", []))
    blocks += body["system"] if isinstance(body.get("system"), list) else []
    for message in body["messages"]:
        blocks += message["content"] if isinstance(message["content"], list) else []
    return [(block, block.get("cache_control")) for block in blocks]


def markers(body):
    return [control for _, control in blocks_of(body) if control is not None]


def test_positions_of_the_markers():
    """The last tool, the system prompt and the user's last two turns are marked."""
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
    assert [definition.get("cache_control") for definition in body["tools"]] == [None, FIVE]
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
        assert [
            isinstance(content, list) and content[-1].get("cache_control") for content in contents
        ][-2:] == [FIVE, FIVE][: number + 1]
        assert len(markers(body)) == min(2, number + 1) + 1


def test_system_message():
    """Without system=, the last message of the role SYSTEM is marked."""
    request = Request(
        "m",
        [ChatMessage(role="system", content="be brief"), ChatMessage(role="user", content="x")],
        None,
        [],
        {},
    )
    body = encode_request(with_cache_markers(request))
    assert [control for _, control in blocks_of(body)] == [FIVE, FIVE]


def test_unmarked_blocks():
    """Empty text and thinking are never marked. A request with no other block is still valid."""
    messages = [
        ChatMessage(
            role="user", content=[{"type": "text", "text": "x"}, {"type": "text", "text": ""}]
        ),
        ChatMessage(role="user", content=""),
        ChatMessage(
            role="assistant", content=[{"type": "thinking", "thinking": "hm", "signature": "s"}]
        ),
    ]
    system = [{"type": "text", "text": "be brief"}, {"type": "text", "text": ""}]
    body = encode_request(with_cache_markers(Request("m", messages, system, [], {})))
    marked = [block for block, control in blocks_of(body) if control is not None]
    assert [block["text"] for block in marked] == ["be brief", "x"]
    empty = with_cache_markers(Request("m", [], None, [], {}))
    assert (empty.messages, empty.system, empty.tools) == ([], None, [])


def test_one_hour_markers():
    """Markers before a one-hour marker of the caller last one hour; those after it five minutes."""
    messages = [
        ChatMessage(role="user", content="one", cache_marker="1h"),
        ChatMessage(role="assistant", content="1"),
        ChatMessage(role="user", content="two"),
    ]
    body = encode_request(
        with_cache_markers(Request("m", messages, "be brief", [second.definition], {}))
    )
    assert markers(body) == [HOUR, HOUR, HOUR, FIVE]


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 6])
@pytest.mark.parametrize("kind", ["blocks", "messages"])
def test_with_markers_of_the_caller(number, kind):
    """The caller's markers, in blocks or on messages, take precedence.

    The rest of the four go to the last turn, the system prompt, then the tools. If the caller set
    more than four, the last four remain.
    """
    if kind == "blocks":
        blocks = [
            {"type": "text", "text": str(index), "cache_control": FIVE} for index in range(number)
        ]
        messages = [ChatMessage(role="assistant", content=blocks or "nothing")]
    else:
        messages = [
            ChatMessage(role="assistant", content=str(index), cache_marker=True)
            for index in range(number)
        ]
    request = Request(
        "m", messages + [ChatMessage(role="user", content="x")], "be brief", [second.definition], {}
    )
    body = encode_request(with_cache_markers(request))
    marked = [
        block.get("text", block.get("name"))
        for block, control in blocks_of(body)
        if control is not None
    ]
    of_caller = [str(index) for index in range(number)][-4:]
    added = ["x", "be brief", "second"][: 4 - len(of_caller)]
    assert marked == [name for name in ("second", "be brief") if name in added] + of_caller + [
        name for name in added if name == "x"
    ]


def test_invalid_values():
    """prompt_cache is "auto" or None. An empty history has its own error."""
    with pytest.raises(ValueError, match='prompt_cache must be "auto" or None, not True'):
        ScriptedInferenceClient(["hello"]).generate("x", prompt_cache=True)
    with pytest.raises(ValueError, match="messages is empty"):
        ScriptedInferenceClient(["hello"], prompt_cache="auto").generate([])
    client = ScriptedInferenceClient(["hello"], prompt_cache="auto")
    client.generate("x", prompt_cache=None)
    assert markers(client.requests[0]) == []


# Any markers of the caller

TEXT = st.sampled_from(["", "some text"])
PLAIN = st.fixed_dictionaries({"type": st.just("text"), "text": TEXT, "own": st.booleans()})
THINKING = st.just({"type": "thinking", "thinking": "hm", "signature": "s", "own": False})
RESULT = st.fixed_dictionaries(
    {"type": st.just("tool_result"), "tool_use_id": st.just("t"), "own": st.booleans()}
)
CONTENT = TEXT | st.lists(PLAIN | THINKING | RESULT, max_size=4)
MESSAGE = st.tuples(
    st.sampled_from(["system", "user", "assistant", "tool_result"]), CONTENT, st.booleans()
)


@st.composite
def requests(draw):
    """Return a request with up to a dozen markers, the one-hour ones first."""
    hours = draw(st.integers(0, 12))
    one_hour_left = [hours]

    def lifetime():
        one_hour_left[0] -= 1
        return "1h" if one_hour_left[0] >= 0 else "5m"

    def blocks(content):
        if isinstance(content, str):
            return content
        marked = []
        for block in content:
            block = dict(block)
            if block.pop("own"):
                block["cache_control"] = {"type": "ephemeral", "ttl": lifetime()}
            marked.append(block)
        return marked

    system = draw(st.none() | st.just("be brief") | st.lists(PLAIN, max_size=3))
    system = blocks(system) if isinstance(system, list) else system
    drawn = draw(st.lists(MESSAGE, min_size=1, max_size=7))
    messages = {}
    for instructions in (True, False):  # in the order in which a provider reads them
        for index, (role, content, marker) in enumerate(drawn):
            if (role == "system") is instructions:
                # Either its blocks are marked, or the whole message; both would conflict.
                marker = (
                    marker
                    and content
                    and (isinstance(content, str) or not any(block["own"] for block in content))
                )
                messages[index] = ChatMessage(
                    role=role, content=blocks(content), cache_marker=lifetime() if marker else False
                )
    functions = draw(st.sampled_from([(), (first,), (first, second)]))
    tools = [function.definition for function in functions]
    return Request("m", [messages[index] for index in range(len(drawn))], system, tools, {})


@given(request=requests())
def test_never_more_than_four(request):
    """At most four markers are sent, in a valid order, whatever the caller marked.

    No one-hour marker follows a five-minute one. Thinking and empty text get no marker. The
    caller's request is not changed.
    """
    original = copy.deepcopy(request)
    turns = [message for message in request.messages if message.role.value != "system"]
    nonempty = [
        turn
        for turn in turns
        if any(block["type"] != "text" or block["text"] for block in turn.blocks)
    ]
    if turns and (
        not nonempty
        or (nonempty[-1].role.value == "assistant" and turns[-1].role.value != "assistant")
    ):
        with pytest.raises(ValueError, match="no message to answer"):
            encode_request(with_cache_markers(request))
        return
    body = encode_request(with_cache_markers(request))
    assert request == original
    marked = [
        (block, control.get("ttl", "5m"))
        for block, control in blocks_of(body)
        if control is not None
    ]
    assert len(marked) <= 4
    lifetimes = [lifetime for _, lifetime in marked]
    assert lifetimes == sorted(lifetimes)
    assert not any(block["type"] == "thinking" for block, _ in marked if "type" in block)
    turns = [
        message for message in request.messages if message.role.value in ("user", "tool_result")
    ]
    if turns and any(
        block["type"] == "tool_result" or block.get("text") for block in turns[-1].blocks
    ):
        assert marked, "the last turn is marked, or the caller has marked four others"
