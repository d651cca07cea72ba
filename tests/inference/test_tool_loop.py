"""The tool loop: a pure conversation, and calls on threads."""

import contextvars
import threading
import time

import pytest

from asimov_sync import Cancellation, Cancelled, ChatMessage, Reply, ToolCall, Usage, tool
from asimov_sync.inference.tool_loop import Ask, Call, CalledTool, conversation
from asimov_sync.messages import as_messages
from asimov_sync.testing import ScriptedInferenceClient, calls

from ..waiting import Background, wait_for


def reply(text="", stop_reason="end_turn", wanted=()):
    blocks = [{"type": "text", "text": text}] + [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments} for call in wanted
    ]
    return Reply(
        message=ChatMessage(role="assistant", content=blocks),
        stop_reason=stop_reason,
        raw_stop_reason=stop_reason,
        tool_calls=list(wanted),
        usage=Usage(input_tokens=1, requests=1),
    )


def driven(replies, max_iterations=10):
    """The steps of a conversation that gets these replies, where each call returns its own name; and its run."""
    steps = []
    loop = conversation(as_messages("question"), max_iterations)
    step, answers = next(loop), iter(replies)
    while True:
        steps.append(step)
        try:
            if isinstance(step, Ask):
                step = loop.send(next(answers))
            else:
                step = loop.send([CalledTool(call, call.name, None, 0.0) for call in step.calls])
        except StopIteration as end:
            return steps, end.value


ONE, TWO = calls(("one", {"a": 1}), ("two", {}))


def test_a_conversation():
    """Ask, call, ask: every call is answered, in order, and the usage is that of all replies."""
    steps, run = driven([reply("hm", "tool_use", [ONE, TWO]), reply("done")])
    assert [type(step) for step in steps] == [Ask, Call, Ask]
    assert steps[1].calls == [ONE, TWO]
    assert [message.role.value for message in run.messages] == ["user", "assistant", "tool_result", "assistant"]
    assert [block["tool_use_id"] for block in run.messages[2].content] == [ONE.id, TWO.id]
    assert (run.text, run.stop_reason, run.iterations, run.usage.requests) == ("done", "end_turn", 2, 2)
    assert [made.call for made in run.calls] == [ONE, TWO]


@pytest.mark.parametrize("stop_reason", ["max_tokens", "refusal", "end_turn", "stop_sequence", None])
def test_only_whole_calls_are_made(stop_reason):
    """Calls of a reply that did not stop for them are not made."""
    steps, run = driven([reply("", stop_reason, [ONE])])
    assert [type(step) for step in steps] == [Ask]
    assert (run.stop_reason, run.calls) == (stop_reason, [])


def test_a_pause_is_continued():
    """After pause_turn the history is sent again as it is."""
    steps, run = driven([reply("so far", "pause_turn"), reply("done")])
    assert [type(step) for step in steps] == [Ask, Ask]
    assert [message.role.value for message in steps[1].messages] == ["user", "assistant"]
    assert run.text == "done"


def test_the_limit():
    """At the limit the calls are still made, and the history can be sent again as it is."""
    steps, run = driven([reply("", "tool_use", [ONE])] * 5, max_iterations=2)
    assert [type(step) for step in steps] == [Ask, Call, Ask, Call]
    assert (run.stop_reason, run.iterations) == ("max_iterations", 2)
    assert run.messages[-1].role.value == "tool_result"
    with pytest.raises(ValueError, match="max_iterations"):
        driven([], max_iterations=0)


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


@tool
def broken() -> None:
    """Always raise."""
    raise RuntimeError("it broke")


@tool
def odd() -> object:
    """Return what cannot be told."""
    return object()


def test_whatever_goes_wrong_is_told_to_the_model():
    """Bad arguments, unknown tools, exceptions and results that are no JSON are error results, and are in .calls."""
    wanted = calls(("double", {"number": 4}), ("double", {"number": "x"}), ("nope", {}), ("broken", {}), ("odd", {}))
    wanted.append(ToolCall(id="m", name="double", malformed='{"number": '))
    client = ScriptedInferenceClient([wanted, "done"])
    run = client.run_tools("go", [double, broken, odd])
    blocks = client.requests[1]["messages"][-1]["content"]
    assert [block["tool_use_id"] for block in blocks] == [call.id for call in wanted]
    assert blocks[0] == {"type": "tool_result", "tool_use_id": wanted[0].id, "content": "8"}
    assert all(block["is_error"] for block in blocks[1:5])
    for block, told in zip(
        blocks[1:], ["do not fit", "there is no tool named 'nope'; there are broken, double", "it broke", "serialize"]
    ):
        assert told in block["content"]
    assert [type(made.exception).__name__ for made in run.calls[:4]] == [
        "NoneType",
        "ValueError",
        "LookupError",
        "RuntimeError",
    ]
    assert run.calls[0].result == 8
    assert run.text == "done"


def test_calls_of_one_turn_are_parallel():
    """Three calls of one turn meet in a barrier, each on a thread of its own, in the caller's context."""
    meet = threading.Barrier(3)
    variable = contextvars.ContextVar("variable")
    variable.set("caller's")

    @tool
    def together(number: int) -> str:
        meet.wait(10)
        return variable.get() + str(number)

    client = ScriptedInferenceClient([calls(*[("together", {"number": number}) for number in range(3)]), "done"])
    run = client.run_tools("go", [together])
    assert [made.result for made in run.calls] == ["caller's0", "caller's1", "caller's2"]


def test_the_number_of_threads_is_bounded():
    """max_workers bounds the calls that are made at once; 0 makes them on the calling thread."""
    here = []

    @tool
    def where() -> str:
        here.append(threading.get_ident())
        time.sleep(0.001)
        return ""

    wanted = calls(*[("where", {})] * 6)
    ScriptedInferenceClient([wanted, "done"]).run_tools("go", [where], max_workers=0)
    assert set(here) == {threading.get_ident()}
    here.clear()
    ScriptedInferenceClient([wanted, "done"]).run_tools("go", [where], max_workers=2)
    assert 1 <= len(set(here)) <= 2 and threading.get_ident() not in here


def test_a_cancellation_does_not_wait_for_tools():
    """Cancelling frees the caller while a tool goes on, and the tool's own current token is cancelled."""
    started, told = threading.Event(), []

    @tool
    def slow() -> str:
        started.set()
        told.append(Cancellation.current().wait(20))
        return ""

    token = Cancellation()
    client = ScriptedInferenceClient([calls(("slow", {})), "done"])
    running = Background(client.run_tools, "go", [slow], cancellation=token)
    assert started.wait(10)
    token.cancel("enough")
    with pytest.raises(Cancelled, match="enough"):
        running.result()
    wait_for(lambda: told == [True])


def test_a_tool_may_use_the_same_client():
    """An agent inside a tool of the same client, several deep, does not wait for a thread that it holds itself."""

    def model(body):
        depth = int(body["messages"][0]["content"])
        answered = body["messages"][-1]["role"] == "user" and len(body["messages"]) > 1
        return "bottom" if depth == 0 or answered else calls(("deeper", {"depth": depth - 1}), ("deeper", {"depth": 0}))

    client = ScriptedInferenceClient(model)

    @tool
    def deeper(depth: int) -> str:
        return client.run_tools(str(depth), [deeper]).text

    assert Background(client.run_tools, "4", [deeper]).result().text == "bottom"


def test_the_usage_of_the_loop():
    """The run's usage is the sum of its replies, the client's that of all its runs."""
    client = ScriptedInferenceClient([calls(("double", {"number": 1})), "done", "other"])
    run = client.run_tools("go", [double])
    assert run.usage.requests == run.iterations == 2
    other = client.generate("go")
    assert client.usage == run.usage + other.usage
