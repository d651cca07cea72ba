"""Agents: asked directly, and as handlers of tasks."""

import pytest

from asimov_sync import Agent, AuthenticationError, Cancellation, Cancelled, Task, TaskGraph, TaskScheduler, TaskStatus, tool
from asimov_sync.testing import Failure, ScriptedInferenceClient, calls, last_text, tool_results

from ..waiting import Background


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


def test_an_agent_is_streamed():
    """A stream has the same prompt, tools and options, and the same run at its end."""
    script = [calls(("lookup", {"word": "x"})), "it is X"]
    client = ScriptedInferenceClient(script + script + ["it is Y"])
    agent = Agent(client, system="be brief", tools=[lookup], temperature=0.5, max_workers=0)
    run, stream = agent.run("what is x?"), agent.stream("what is x?")
    kinds = [event.type for event in stream]
    assert "tool_started" in kinds and kinds[-1] == "tool_run_done"
    assert (stream.run.text, stream.run.usage) == (run.text, run.usage)
    assert client.requests[0] == client.requests[2]
    went_on = agent.stream("and y?", messages=stream.run.messages)
    assert "".join(went_on.text_stream) == "it is Y"
    assert [message.role.value for message in went_on.run.messages[-3:]] == ["assistant", "user", "assistant"]


def test_a_stream_that_cannot_begin():
    """What is wrong with the first request is raised by stream() itself."""
    with pytest.raises(AuthenticationError):
        Agent(ScriptedInferenceClient([Failure(401, "authentication_error")])).stream("x")


def test_redact():
    """What a tool returned passes through redact= before the model reads it."""
    client = ScriptedInferenceClient(lambda body: tool_results(body).get("lookup") or calls(("lookup", {"word": "secret"})))
    agent = Agent(client, tools=[lookup], redact=lambda text: text.replace("SECRET", "***"))
    assert agent.run("go").text == "***"
    stream = agent.stream("go")
    list(stream)
    assert (stream.run.text, stream.run.calls[0].result) == ("***", "SECRET")


def test_a_cancellation():
    """run() and stream() end with the token that they are given."""
    token = Cancellation()
    token.cancel("enough")
    agent = Agent(ScriptedInferenceClient(["never"]))
    for ask in (agent.run, agent.stream):
        with pytest.raises(Cancelled, match="enough"):
            ask("x", cancellation=token)


def test_one_agent_on_many_threads():
    """An agent holds no conversation: each thread gets its own answer."""

    def model(body):
        return tool_results(body).get("lookup") or calls(("lookup", {"word": body["messages"][0]["content"]}))

    agent = Agent(ScriptedInferenceClient(model), tools=[lookup])
    asking = [Background(agent.run, "word{}".format(number)) for number in range(20)]
    for number, one in enumerate(asking):
        run = one.result()
        assert (run.text, len(run.messages)) == ("WORD{}".format(number), 4)


def test_a_handler_that_waits_for_approval():
    """A task whose agent wants a guarded tool called is PARTIAL, and says why; the tool is not called."""

    @tool(requires_approval=True)
    def delete(name: str) -> None:
        raise AssertionError("nobody has approved of this")

    client = ScriptedInferenceClient([calls(("delete", {"name": "x"}))])
    with TaskScheduler({"ask": Agent(client, tools=[delete])}) as scheduler:
        graph = TaskGraph()
        graph.add(Task(type="ask", objective="go"), name="ask")
        result = scheduler.run(graph)
    assert result.tasks["ask"].status is TaskStatus.PARTIAL
    assert result.errors["ask"] == "the model stopped early: approval, after 1 requests"


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
