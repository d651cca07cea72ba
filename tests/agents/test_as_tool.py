"""Agents as tools of other agents."""

import threading

import pytest
from pydantic import BaseModel

from asimov_sync import (
    Agent,
    Budget,
    BudgetExceeded,
    Cancellation,
    Cancelled,
    Task,
    TaskGraph,
    TaskScheduler,
    ToolDefinitionError,
    ToolError,
    tool,
)
from asimov_sync.testing import ScriptedInferenceClient, calls, last_text, tool_results

from ..waiting import Background


def ask_reply(name="ask", question="What is it?"):
    """Return a client whose model asks another agent, and repeats its answer."""
    return ScriptedInferenceClient(
        lambda body: tool_results(body).get(name) or calls((name, {"question": question}))
    )


def result_of(run):
    """Return the one result that the model received, and True if it is an error."""
    (block,) = run.messages[2].blocks
    return block["content"], block.get("is_error", False)


def test_a_question():
    """The tool asks the agent, in a conversation of its own, and returns the text of the answer."""
    inner = ScriptedInferenceClient(lambda body: "answer to: " + last_text(body))
    expert = Agent(inner, system="You know it.").as_tool("ask", "Ask an expert.")
    outer = ask_reply()
    run = Agent(outer, tools=[expert]).run("Find out.")
    assert run.text == "answer to: What is it?"
    assert inner.requests[0]["system"] == "You know it."
    assert [message["content"] for message in inner.requests[0]["messages"]] == ["What is it?"]
    (definition,) = outer.requests[0]["tools"]
    assert (definition["name"], definition["description"]) == ("ask", "Ask an expert.")
    assert definition["input_schema"]["properties"]["question"]["type"] == "string"
    assert definition["input_schema"]["required"] == ["question"]


def test_data():
    """With output=, the result is the data."""

    class Finding(BaseModel):
        claim: str

    inner = ScriptedInferenceClient([calls(("Finding", {"claim": "42"}))])
    expert = Agent(inner, output=Finding).as_tool("ask", "Ask an expert.")
    run = Agent(ask_reply(), tools=[expert]).run("Find out.")
    assert run.calls[0].result == Finding(claim="42")
    assert result_of(run) == ('{"claim": "42"}', False)


def test_usage():
    """The usage of the inner agent is part of the call, of the caller's run and of its task."""
    inner, outer = ScriptedInferenceClient(["42"] * 2), ask_reply()
    agent = Agent(outer, tools=[Agent(inner).as_tool("ask", "Ask an expert.")])
    run = agent.run("Find out.")
    assert run.calls[0].usage == inner.usage and inner.usage.requests == 1
    assert run.usage == inner.usage + outer.usage and run.iterations == 2
    graph = TaskGraph()
    graph.add(Task(type="ask", objective="Find out."), name="ask")
    with TaskScheduler({"ask": agent}) as scheduler:
        result = scheduler.run(graph)
    assert result.usage == run.usage


@pytest.mark.parametrize("workers", [None, 0])
def test_usage_of_several_calls(workers):
    """Each call has the usage of its own agent, also when the calls run in parallel."""
    inner = ScriptedInferenceClient(lambda body: last_text(body))
    questions = ["short", "a longer question " * 20]
    requested = calls(*[("ask", {"question": question}) for question in questions])
    outer = ScriptedInferenceClient([requested, "done"])
    expert = Agent(inner).as_tool("ask", "Ask an expert.")
    run = Agent(outer, tools=[expert], max_workers=workers).run("Find out.")
    first, second = (called.usage for called in run.calls)
    assert (first.requests, second.requests) == (1, 1)
    assert first.input_tokens < second.input_tokens
    assert run.usage == inner.usage + outer.usage


def test_budget():
    """A budget of the caller bounds the inner agent; the run ends when it is used up."""
    inner = ScriptedInferenceClient(lambda body: "42")
    outer = ScriptedInferenceClient(lambda body: calls(("ask", {"question": "?"})))
    agent = Agent(outer, tools=[Agent(inner).as_tool("ask", "Ask an expert.")], max_iterations=50)
    with Budget(requests=5) as budget, pytest.raises(BudgetExceeded):
        agent.run("Find out.")
    assert budget.spent.requests == len(inner.requests) + len(outer.requests) == 5


def test_cancellation():
    """A cancellation of the caller's run ends the inner agent."""
    started, cancelled = threading.Event(), threading.Event()

    @tool
    def wait() -> str:
        """Wait for the end."""
        started.set()
        if Cancellation.current().wait(20):
            cancelled.set()
        return ""

    inner = Agent(ScriptedInferenceClient([calls(("wait", {}))]), tools=[wait])
    token = Cancellation()
    agent = Agent(ask_reply(), tools=[inner.as_tool("ask", "Ask an expert.")])
    running = Background(agent.run, "Find out.", cancellation=token)
    assert started.wait(10)
    token.cancel("enough")
    with pytest.raises(Cancelled, match="enough"):
        running.result()
    assert cancelled.wait(10)


def test_pending_approval():
    """A call of the inner agent that needs an approval is an error of the tool, and not made."""
    done = []

    @tool(requires_approval=True)
    def delete() -> str:
        """Delete everything."""
        done.append(1)
        return ""

    inner = Agent(ScriptedInferenceClient([calls(("delete", {}))]), tools=[delete])
    run = Agent(ask_reply(), tools=[inner.as_tool("ask", "Ask an expert.")]).run("Find out.")
    assert result_of(run) == (
        "ask could not finish: it needs an approval for delete, and cannot ask for one",
        True,
    )
    assert isinstance(run.calls[0].exception, ToolError) and not done


def test_incomplete_answer():
    """An answer that is not complete is an error of the tool, with the text so far."""
    inner = ScriptedInferenceClient(lambda body: calls(("find", {})))

    @tool
    def find() -> str:
        """Look."""
        return ""

    expert = Agent(inner, tools=[find], max_iterations=2).as_tool("ask", "Ask an expert.")
    run = Agent(ask_reply(), tools=[expert]).run("Find out.")
    assert result_of(run) == ("ask stopped early (max_iterations): no answer", True)


def test_depth():
    """An agent may be its own tool; at the sixth level the model receives an error."""

    def model(body):
        return tool_results(body).get("ask") or calls(("ask", {"question": "deeper"}))

    client = ScriptedInferenceClient(model)
    agent = Agent(client)
    agent.tools.append(agent.as_tool("ask", "Ask yourself."))
    for _ in range(2):  # the depth does not outlive a run
        client.requests.clear()
        run = agent.run("Go.")
        assert run.text == "5 agents are nested already, which is the most: answer without ask"
        assert len(client.requests) == 2 * 6 and run.usage.requests == 12


def test_depth_beside_each_other():
    """Agents that are asked one after the other are not nested."""
    inner = ScriptedInferenceClient(lambda body: "42")
    turns = [calls(("ask", {"question": "?"}))] * 8
    agent = Agent(
        ScriptedInferenceClient(turns + ["done"]),
        tools=[Agent(inner).as_tool("ask", "Ask an expert.")],
        max_workers=0,
    )
    run = agent.run("Go.")
    assert (run.text, [called.exception for called in run.calls]) == ("done", [None] * 8)


def test_approval():
    """The tool itself may require an approval."""
    expert = Agent(ScriptedInferenceClient(["42"])).as_tool("ask", "Ask an expert.")
    agent = Agent(ask_reply(), tools=[tool(requires_approval=True)(expert)])
    run = agent.run("Find out.")
    assert run.stop_reason == "approval"
    assert agent.run(messages=run.messages, approvals={run.pending[0].id: True}).text == "42"


def test_invalid_definitions():
    """An invalid name or an empty description is a ToolDefinitionError."""
    agent = Agent(ScriptedInferenceClient([]))
    for name, description in (("ask me", "x"), ("ask", ""), ("ask", "  "), ("ask", None)):
        with pytest.raises(ToolDefinitionError):
            agent.as_tool(name, description)
