"""Agents: asked directly, and as handlers of tasks."""

import pytest

from asimov_sync import Agent, Task, TaskGraph, TaskScheduler, TaskStatus, tool
from asimov_sync.testing import ScriptedInferenceClient, calls, last_text


@tool
def lookup(word: str) -> str:
    """Look a word up."""
    return word.upper()


def test_an_agent_is_asked():
    """The system prompt, the tools and the options go with every request; the answer is a ToolRun."""
    client = ScriptedInferenceClient([calls(("lookup", {"word": "x"})), "it is X"])
    agent = Agent(client, system="be brief", tools=[lookup], temperature=0.5)
    run = agent.run("what is x?")
    assert (run.text, run.iterations) == ("it is X", 2)
    for body in client.requests:
        assert (body["system"], body["temperature"], body["tools"][0]["name"]) == ("be brief", 0.5, "lookup")


def test_a_conversation_goes_on():
    """The messages of one run are the beginning of the next."""
    client = ScriptedInferenceClient(["one", "two"])
    agent = Agent(client)
    run = agent.run("second", messages=agent.run("first").messages)
    assert [message.text for message in run.messages] == ["first", "one", "second", "two"]


def test_an_agent_handles_tasks():
    """A task's prompt has its objective, its params and its dependencies' results; its result is the answer's text."""

    def fail(task, context):
        raise ValueError("no luck")

    client = ScriptedInferenceClient(lambda body: "answer to: " + last_text(body))
    with TaskScheduler({"ask": Agent(client), "fail": fail}) as scheduler:
        graph = TaskGraph()
        first = graph.add(Task(type="ask", objective="first", params={"depth": [1, "é"]}), name="one")
        graph.add(Task(type="fail"), name="bad")
        graph.add(Task(type="ask", objective="second"), name="two", depends_on=[first, "bad"], allow_failure=True)
        result = scheduler.run(graph)
    assert result.results["one"] == 'answer to: first\n\n<params>\n{"depth": [1, "é"]}\n</params>'
    told = result.results["two"]
    assert told.startswith('answer to: second\n\n<result of="one">\nanswer to: first')
    assert told.endswith('<failed of="bad">\nValueError: no luck\n</failed>')
    assert result.usages["two"].requests == 1
    assert result.usage == client.usage


@pytest.mark.parametrize("limit, status", [(1, TaskStatus.PARTIAL), (2, TaskStatus.COMPLETE)])
def test_an_unfinished_answer_is_partial(limit, status):
    """An agent that reaches its limit brings what it has, as a Partial that says why."""
    client = ScriptedInferenceClient([calls(("lookup", {"word": "x"})), "done"])
    with TaskScheduler({"ask": Agent(client, tools=[lookup], max_iterations=limit)}) as scheduler:
        graph = TaskGraph()
        graph.add(Task(type="ask", objective="go"), name="ask")
        result = scheduler.run(graph)
    assert result.tasks["ask"].status is status
    if status is TaskStatus.PARTIAL:
        assert result.errors["ask"] == "the model stopped early: max_iterations, after 1 requests"
