"""Agents: called directly, and as task handlers."""

from typing import List

import pytest
from pydantic import BaseModel

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    AuthenticationError,
    Cache,
    CacheUnavailable,
    Cancellation,
    Cancelled,
    ChatMessage,
    DeadlineExceeded,
    MemoryCache,
    ModelRouter,
    OutputInvalid,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
    tool,
)
from asimov_sync.aio import to_async
from asimov_sync.cache.keys import Namespace
from asimov_sync.cache.memory import MemoryStore
from asimov_sync.testing import (
    Failure,
    ModelServer,
    ScriptedInferenceClient,
    calls,
    last_text,
    tool_results,
)

from ..waiting import Background


@tool
def lookup(word: str) -> str:
    """Look a word up."""
    return word.upper()


def test_run():
    """The system prompt, the tools and the options are sent with every request."""
    client = ScriptedInferenceClient([calls(("lookup", {"word": "x"})), "it is X"])
    agent = Agent(client, system="be brief", tools=[lookup], temperature=0.5)
    run = agent.run("what is x?")
    assert (run.text, run.iterations) == ("it is X", 2)
    for body in client.requests:
        assert (body["system"], body["temperature"], body["tools"][0]["name"]) == (
            "be brief",
            0.5,
            "lookup",
        )


def test_conversation():
    """The messages of one run are the beginning of the next."""
    client = ScriptedInferenceClient(["one", "two"])
    agent = Agent(client)
    run = agent.run("second", messages=agent.run("first").messages)
    assert [message.text for message in run.messages] == ["first", "one", "second", "two"]


def test_options_of_one_run():
    """Options of a run replace the agent's for this run."""
    client = ScriptedInferenceClient(["one", "two", "three"])
    agent = Agent(client, temperature=0, max_tokens=10)
    agent.run("a", temperature=1)
    list(agent.stream("b", max_tokens=20))
    agent.run("c")
    sent = [(body["temperature"], body["max_tokens"]) for body in client.requests]
    assert sent == [(1, 10), (0, 20), (0, 10)]


def test_total_timeout():
    """The total time-out of an agent, or of one run, also ends its tools."""

    @tool
    def wait() -> str:
        """Wait until the call is cancelled."""
        token = Cancellation.current()
        token.wait(20)
        token.raise_if_cancelled()
        return "never"

    script = [calls(("wait", {})), "done"]
    for agent, options in (
        (Agent(ScriptedInferenceClient(script), tools=[wait], timeout=0.05), {}),
        (Agent(ScriptedInferenceClient(script), tools=[wait], timeout=30), {"timeout": 0.05}),
    ):
        with pytest.raises(DeadlineExceeded) as caught:
            agent.run("go", **options)
        assert "TimeoutError" in str(caught.value.messages[-1].content)


def test_agent_as_handler():
    """A task's prompt has its objective, params and inputs. Its result is the text of the
    answer.
    """

    def fail(task, context):
        raise ValueError("no luck")

    client = ScriptedInferenceClient(lambda body: "answer to: " + last_text(body))
    with TaskScheduler({"ask": Agent(client), "fail": fail}) as scheduler:
        graph = TaskGraph()
        first = graph.add(
            Task(type="ask", objective="first", params={"depth": [1, "é"]}), name="one"
        )
        graph.add(Task(type="fail"), name="bad")
        graph.add(
            Task(type="ask", objective="second"),
            name="two",
            depends_on=[first, "bad"],
            allow_failure=True,
        )
        result = scheduler.run(graph)
    assert result.results["one"] == 'answer to: first\n\n<params>\n{"depth": [1, "é"]}\n</params>'
    answer = result.results["two"]
    assert answer.startswith('answer to: second\n\n<result of="one">\nanswer to: first')
    assert answer.endswith('<failed of="bad">\nValueError: no luck\n</failed>')
    assert result.usages["two"].requests == 1
    assert result.usage == client.usage


@pytest.mark.parametrize("kind", [Agent, lambda client: ModelRouter(client, {"a": "it"})])
def test_invalid_clients(kind):
    """Anything but an InferenceClient is a TypeError that says what to pass."""
    with pytest.raises(
        TypeError, match=r"takes an InferenceClient, not 'claude-3': .*model='claude-3'"
    ):
        kind("claude-3")
    with pytest.raises(TypeError, match="takes an InferenceClient, not None"):
        kind(None)
    with pytest.raises(TypeError, match="takes the blocking client; use to_async"):
        kind(to_async(ScriptedInferenceClient([])))


def test_repr():
    """The repr has the agent's name, its client and the number of its tools."""
    client = ScriptedInferenceClient([])
    assert repr(Agent(client, tools=[lookup])) == f"<Agent of {client!r}, 1 tool>"
    assert repr(Agent(client, name="finder")) == f"<Agent 'finder' of {client!r}, 0 tools>"


def test_stream():
    """A stream sends the same requests as run(), and leads to the same ToolRun."""
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
    assert [message.role.value for message in went_on.run.messages[-3:]] == [
        "assistant",
        "user",
        "assistant",
    ]


def test_stream_with_failing_request():
    """stream() itself raises the error of the first request."""
    with pytest.raises(AuthenticationError):
        Agent(ScriptedInferenceClient([Failure(401, "authentication_error")])).stream("x")


def test_redact():
    """redact= changes the result of a tool before the model reads it."""
    client = ScriptedInferenceClient(
        lambda body: tool_results(body).get("lookup") or calls(("lookup", {"word": "secret"}))
    )
    agent = Agent(client, tools=[lookup], redact=lambda text: text.replace("SECRET", "***"))
    assert agent.run("go").text == "***"
    stream = agent.stream("go")
    list(stream)
    assert (stream.run.text, stream.run.calls[0].result) == ("***", "SECRET")


def test_cancellation():
    """run() and stream() raise Cancelled for a cancelled token."""
    token = Cancellation()
    token.cancel("enough")
    agent = Agent(ScriptedInferenceClient(["never"]))
    for ask in (agent.run, agent.stream):
        with pytest.raises(Cancelled, match="enough"):
            ask("x", cancellation=token)


def test_one_agent_on_many_threads():
    """An agent stores no conversation: each thread gets its own answer."""

    def model(body):
        return tool_results(body).get("lookup") or calls(
            ("lookup", {"word": body["messages"][0]["content"]})
        )

    agent = Agent(ScriptedInferenceClient(model), tools=[lookup])
    pending = [Background(agent.run, f"word{number}") for number in range(20)]
    for number, call in enumerate(pending):
        run = call.result()
        assert (run.text, len(run.messages)) == (f"WORD{number}", 4)


@tool(requires_approval=True)
def delete(name: str) -> str:
    """Delete something."""
    return "deleted " + name


def run_task(agent, task=None, cache=None):
    """Run a graph whose one task, "ask", is handled by the agent."""
    with TaskScheduler({"ask": agent}, cache=cache) as scheduler:
        graph = TaskGraph()
        graph.add(task or Task(type="ask", objective="go"), name="ask")
        return scheduler.run(graph, run_id="r1")


def test_task_with_pending_approval():
    """A task whose agent calls a guarded tool is PARTIAL. Its result can be continued in any
    process.
    """
    client = ScriptedInferenceClient(
        lambda body: (
            tool_results(body).get("delete")
            or calls(("delete", {"name": "x"}), ("delete", {"name": "y"}))
        )
    )
    agent = Agent(client, tools=[lookup, delete])
    result = run_task(agent)
    assert result.tasks["ask"].status is TaskStatus.PARTIAL
    assert result.errors["ask"] == "calls of these tools wait for approval: delete"
    run = result.results["ask"]
    assert ([call.arguments["name"] for call in run.pending], run.calls) == (["x", "y"], [])
    assert result.to_dict()["results"]["ask"]["pending"][0]["name"] == "delete"
    stored = [message.model_dump_json() for message in run.messages]
    decided = {run.pending[0].id: "keep it", run.pending[1].id: True}
    run = agent.run(
        messages=[ChatMessage.model_validate_json(message) for message in stored], approvals=decided
    )
    assert [str(call_result.exception or call_result.result) for call_result in run.calls] == [
        "keep it",
        "deleted y",
    ]
    assert run.stop_reason == "end_turn"


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "transcript not stored"])
def test_pending_approval_holds_the_graph(stored, broken_cache):
    """Dependents of a task with a pending call do not run, even with allow_failure=True."""
    client = ScriptedInferenceClient([calls(("delete", {"name": "x"}))])
    agent = Agent(client, tools=[delete], keep_transcript=True)
    cache = MemoryCache() if stored else broken_cache
    graph = TaskGraph()
    graph.add(Task(type="ask", objective="go"), name="ask")
    graph.add(Task(type="tell"), name="tell", depends_on="ask", allow_failure=True)
    handlers = {"ask": agent, "tell": lambda task, context: "told"}
    with TaskScheduler(handlers, cache=cache) as scheduler:
        result = scheduler.run(graph)
    assert ("transcript" in result.errors["ask"]) is not stored
    assert result.skipped == {"tell": "its dependency 'ask' waits for approval"}


@pytest.mark.parametrize("limit, status", [(1, TaskStatus.PARTIAL), (2, TaskStatus.COMPLETE)])
def test_an_unfinished_answer_is_partial(limit, status):
    """An agent that reaches its limit returns a Partial with the text so far and the reason."""
    client = ScriptedInferenceClient([calls(("lookup", {"word": "x"})), "done"])
    with TaskScheduler({"ask": Agent(client, tools=[lookup], max_iterations=limit)}) as scheduler:
        graph = TaskGraph()
        graph.add(Task(type="ask", objective="go"), name="ask")
        result = scheduler.run(graph)
    assert result.tasks["ask"].status is status
    if status is TaskStatus.PARTIAL:
        assert result.errors["ask"] == "the model stopped early: max_iterations, after 1 requests"


# Structured output


class Word(BaseModel):
    text: str
    length: int


WORD = calls(("Word", {"text": "X", "length": 1}))
WRONG = calls(("Word", {"text": "X"}))


@pytest.mark.parametrize(
    "tools, script", [([], [WORD]), ([lookup], [calls(("lookup", {"word": "x"})), WORD])]
)
def test_structured_output(tools, script):
    """With output=, run.parsed and the task's result are instances of the model."""
    client = ScriptedInferenceClient(script * 3)
    agent = Agent(client, tools=tools, output=Word)
    assert agent.run("go").parsed == Word(text="X", length=1)
    stream = agent.stream("go")
    list(stream)
    assert stream.run.parsed == Word(text="X", length=1)
    result = run_task(agent)
    assert (result.status, result.results["ask"]) == (TaskStatus.COMPLETE, Word(text="X", length=1))
    assert len(client.requests) == 3 * len(script)


def test_structured_output_as_input():
    """A dependent's prompt has the instance as JSON."""
    client = ScriptedInferenceClient(
        lambda body: WORD if "tool_choice" in body else last_text(body)
    )
    with TaskScheduler({"find": Agent(client, output=Word), "tell": Agent(client)}) as scheduler:
        graph = TaskGraph()
        graph.add(Task(type="find", objective="go"), name="find")
        graph.add(Task(type="tell", objective="tell"), name="tell", depends_on=["find"])
        answer = scheduler.run(graph).results["tell"]
    assert answer == 'tell\n\n<result of="find">\n{"text": "X", "length": 1}\n</result>'


def test_invalid_structured_output():
    """After one correction the task fails with OutputInvalid."""
    client = ScriptedInferenceClient([WRONG, WRONG])
    result = run_task(Agent(client, output=Word))
    assert (result.status, len(client.requests)) == (TaskStatus.FAILED, 2)
    assert isinstance(result.exceptions["ask"], OutputInvalid)


@pytest.mark.parametrize(
    "last, text", [("so far", "so far"), (calls(("lookup", {"word": "x"})), "")]
)
def test_no_structured_output_at_the_limit(last, text):
    """At the limit, a task with text but no data is PARTIAL with the text."""
    client = ScriptedInferenceClient([last])
    result = run_task(Agent(client, tools=[lookup], output=Word, max_iterations=1))
    assert (result.status, result.results["ask"]) == (TaskStatus.PARTIAL, text)
    assert result.errors["ask"] == "the model stopped early: max_iterations, after 1 requests"


def test_agent_over_http():
    """An agent with tools and output= over HTTP; each of its requests is counted for the task."""

    def model(body):
        return WORD if tool_results(body) else calls(("lookup", {"word": "x"}))

    with ModelServer(model) as server:
        with AnthropicInferenceClient(
            model="claude-3", api_key="key", api_url=server.url
        ) as client:
            result = run_task(Agent(client, system="be brief", tools=[lookup], output=Word))
        assert result.results["ask"].text == "X"
        assert result.usages["ask"] == server.usage and server.usage.requests == 2
        assert all(request.body["system"] == "be brief" for request in server.requests)


# Transcripts


def transcript(cache, name="ask"):
    """Return the stored messages of a task, or None."""
    conversation = cache.with_prefix("run").with_prefix("r1").with_prefix("transcript")
    return conversation.get(name, type=List[ChatMessage]) if name in conversation.keys() else None


def test_transcript():
    """keep_transcript= stores the messages in the run's cache, and they can be continued."""
    cache = MemoryCache()
    client = ScriptedInferenceClient([calls(("lookup", {"word": "x"})), "it is X", "it is Y"])
    agent = Agent(client, tools=[lookup], keep_transcript=True)
    assert run_task(agent, cache=cache).results["ask"] == "it is X"
    history = transcript(cache)
    assert [message.role.value for message in history] == [
        "user",
        "assistant",
        "tool_result",
        "assistant",
    ]
    assert agent.run("and y?", messages=history).text == "it is Y"
    assert client.requests[2]["messages"][:3] == client.requests[1]["messages"]


def test_no_transcript():
    """By default nothing is stored."""
    cache = MemoryCache()
    run_task(Agent(ScriptedInferenceClient(["hi"])), cache=cache)
    assert cache.keys() == set()


def test_transcript_of_partial_task():
    """A run that waits for approval is stored, and can be continued from the cache alone."""
    cache = MemoryCache()
    client = ScriptedInferenceClient([calls(("delete", {"name": "x"})), "done"])
    agent = Agent(client, tools=[delete], keep_transcript=True)
    run_task(agent, cache=cache)
    history = transcript(cache)
    assert (
        agent.run(messages=history, approvals={history[-1].blocks[-1]["id"]: True}).text == "done"
    )


@pytest.mark.parametrize(
    "script, roles",
    [
        ([Failure(401)], ["user"]),
        ([calls(("lookup", {"word": "x"})), Failure(401)], ["user", "assistant", "tool_result"]),
        ([WRONG, WRONG], ["user", "assistant", "tool_result", "assistant", "tool_result"]),
    ],
)
def test_transcript_of_failed_task(script, roles):
    """A task that fails in its agent stores the messages so far, each call with its result."""
    cache = MemoryCache()
    agent = Agent(
        ScriptedInferenceClient(script), tools=[lookup], output=Word, keep_transcript=True
    )
    assert run_task(agent, cache=cache).status is TaskStatus.FAILED
    assert [message.role.value for message in transcript(cache)] == roles


class BrokenStore(MemoryStore):
    """A store that refuses to write."""

    def set_many(self, items, ttl):
        raise CacheUnavailable("no cache today")


@pytest.fixture
def broken_cache():
    """A cache that stores nothing."""
    return Cache(BrokenStore(max_deliveries=5), Namespace())


@pytest.mark.parametrize(
    "script, result, error",
    [
        (["hi"], "hi", "the transcript could not be stored: CacheUnavailable: no cache today"),
        (
            [calls(("lookup", {"word": "x"}))],
            "",
            "the model stopped early: max_iterations, after 1 requests; "
            "the transcript could not be stored: CacheUnavailable: no cache today",
        ),
    ],
)
def test_transcript_that_cannot_be_stored(script, result, error, broken_cache):
    """If the cache fails, the task is PARTIAL with the answer and the reason."""
    agent = Agent(
        ScriptedInferenceClient(script), tools=[lookup], max_iterations=1, keep_transcript=True
    )
    run = run_task(agent, cache=broken_cache)
    assert (run.status, run.results["ask"], run.errors["ask"]) == (
        TaskStatus.PARTIAL,
        result,
        error,
    )


def test_failed_task_with_broken_cache(caplog, broken_cache):
    """A failed task keeps its own error; the error of the cache is logged."""
    agent = Agent(ScriptedInferenceClient([Failure(401)]), keep_transcript=True)
    assert isinstance(run_task(agent, cache=broken_cache).exceptions["ask"], AuthenticationError)
    assert "no cache today" in caplog.text


def test_transcript_with_lone_surrogate():
    """A lone surrogate makes the transcript invalid, but not the answer."""
    agent = Agent(ScriptedInferenceClient(["half: \ud800"]), keep_transcript=True)
    result = run_task(agent, cache=MemoryCache())
    assert (result.status, result.results["ask"]) == (TaskStatus.PARTIAL, "half: \ud800")
    assert "CacheValueError" in result.errors["ask"]
