"""Spans: the attempts of each task, and the requests and tool calls in them, with their times."""

import copy
import pickle
import threading
import time

import pytest

from asimov_sync import (
    Agent,
    MemoryCache,
    OverloadedError,
    Partial,
    Retry,
    Route,
    RunStore,
    Span,
    Task,
    TaskGraph,
    TaskScheduler,
    ToolCall,
    run,
    tool,
)
from asimov_sync.testing import Failure, ScriptedInferenceClient

from ..waiting import DEADLINE


def shapes(spans):
    """Each span as its kind, name, error, attempt and visit."""
    return [(one.kind, one.name, one.error, one.attempt, one.visit) for one in spans]


def in_one_task(handler, **options):
    """The spans of a task with this handler."""
    graph = TaskGraph()
    graph.add(Task(type="work", objective="work"), name="work", **options)
    return run(graph, {"work": handler}).spans["work"]


def test_a_plain_task():
    """A task that makes no request has one span: its attempt, with its times and no usage."""
    before = time.time()
    (span,) = in_one_task(lambda task, context: time.sleep(0.01))
    assert shapes([span]) == [("attempt", "attempt 1", None, 1, 1)]
    assert before - 1 < span.start < span.end < time.time() + 1
    assert 0.01 <= span.seconds < DEADLINE and span.usage is None


def test_tasks_that_did_not_start():
    """A task that was skipped or ruled out has no spans, as it has no duration."""
    graph = TaskGraph()
    graph.add(lambda task, context: 1 / 0, name="bad")
    graph.add(lambda task, context: None, name="skipped", depends_on=["bad"])
    graph.add(lambda task, context: None, name="not", when=lambda inputs: False)
    assert list(run(graph).spans) == ["bad"]


def test_an_agent():
    """A task of an agent has its requests and tool calls, with usage and the agent's errors."""

    @tool
    def look(word: str) -> str:
        """Look a word up."""
        raise LookupError(f"secret {word}")

    calls = [
        ToolCall(id="1", name="look", arguments={"word": "x"}),
        ToolCall(id="2", name="invented", arguments={}),
    ]
    client = ScriptedInferenceClient([calls, "done"])
    agent = Agent(client, tools=[look], redact=lambda text: text.replace("secret", "***"))
    spans = in_one_task(agent)
    whole, first, last = spans[0], spans[1], spans[-1]
    assert [one.kind for one in spans] == ["attempt", "model", "tool", "tool", "model"]
    assert (first.name, first.usage.requests) == (client.model, 1)
    assert whole.usage == first.usage + last.usage
    errors = {one.name: one.error for one in spans if one.kind == "tool"}
    assert errors["look"] == "LookupError: *** x"
    assert errors["(unknown)"].startswith("LookupError: there is no tool")
    assert all(whole.start <= one.start <= one.end <= whole.end for one in spans)


def test_an_agent_in_a_tool():
    """The requests of an agent that is a tool belong to the task, and so do nested runs."""
    inner = Agent(ScriptedInferenceClient(["inner"], model="small"))
    call = ToolCall(id="1", name="ask", arguments={"question": "?"})
    outer = Agent(
        ScriptedInferenceClient([[call], "outer"], model="large"),
        tools=[inner.as_tool("ask", "asks")],
    )
    spans = in_one_task(outer)
    names = [one.name for one in spans]
    assert names == ["attempt 1", "large", "ask", "small", "large"]
    assert spans[2].usage == spans[3].usage
    assert spans[2].start <= spans[3].start <= spans[3].end <= spans[2].end


def test_a_nested_run():
    """The requests of a nested run belong to its own task, and to the task that started it."""
    client = ScriptedInferenceClient(["a"])
    inner_spans = []

    def start(task, context):
        graph = TaskGraph()
        graph.add(lambda task, context: client.generate("?").text, name="inner")
        inner_spans.extend(run(graph).spans["inner"])

    outer_spans = in_one_task(start)
    assert [one.kind for one in inner_spans] == ["attempt", "model"]
    assert [one.kind for one in outer_spans] == ["attempt", "model"]
    assert outer_spans[1].usage == inner_spans[1].usage


def test_requests_that_are_repeated():
    """A request that fails and is sent again has two spans, the first one with the error."""
    client = ScriptedInferenceClient(
        [Failure(529, message="busy", headers={"retry-after": "0"}), "a"]
    )
    retried = client.with_options(max_retries=1)
    spans = in_one_task(lambda task, context: retried.generate("?").text)
    details = " (status 529, type overloaded_error)"
    assert shapes(spans) == [
        ("attempt", "attempt 1", None, 1, 1),
        ("model", client.model, f"OverloadedError: busy{details}", 1, 1),
        ("model", client.model, None, 1, 1),
    ]


def test_retries_and_visits():
    """Each attempt has a span of its own, with the error of those that failed."""
    seen = []

    def flaky(task, context):
        seen.append(context.attempt)
        if len(seen) == 2:
            raise ValueError("no")
        return Route("work") if len(seen) == 1 else Partial(1, "half")

    spans = in_one_task(flaky, retry=Retry(attempts=2, wait=lambda number: 0.0))
    assert shapes(spans) == [
        ("attempt", "attempt 1", None, 1, 1),
        ("attempt", "attempt 1 of visit 2", "ValueError: no", 1, 2),
        ("attempt", "attempt 2 of visit 2", "half", 2, 2),
    ]
    assert all(one.end <= other.start for one, other in zip(spans, spans[1:]))


def test_an_attempt_that_is_abandoned():
    """A request that runs when its task's time-out passes has no end; the attempt has one."""
    leave = threading.Event()

    def hang(body):
        leave.wait(DEADLINE)
        return "late"

    client = ScriptedInferenceClient(hang)
    try:
        spans = in_one_task(lambda task, context: client.generate("?"), timeout=0.05)
    finally:
        leave.set()
    assert [one.kind for one in spans] == ["attempt", "model"]
    assert spans[0].error.startswith("TaskTimeout") and spans[0].end is not None
    assert spans[1].end is None and spans[1].seconds is None


def test_the_number_of_spans_is_bounded():
    """The last 200 spans of a task are kept, and long errors are shortened."""
    client = ScriptedInferenceClient(lambda body: "a", model="m")

    def ask(task, context):
        for _ in range(250):
            client.generate("?")
        raise ValueError("x" * 10_000)

    spans = in_one_task(ask)
    assert len(spans) == 200 and len(str(spans)) < 200_000


def test_copies():
    """A result keeps its spans when it is copied or pickled."""
    graph = TaskGraph()
    graph.add(Task(type="work"), name="work")
    result = run(graph, {"work": lambda task, context: 1})
    for twin in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert twin.spans == result.spans


# Durable runs


@pytest.fixture
def store():
    """A store that redacts one word."""
    with MemoryCache() as cache:
        yield RunStore(cache, redact=redact)


def redact(value):
    return value.replace("secret", "***") if isinstance(value, str) else value


def test_a_durable_run_keeps_spans(store):
    """The spans are in the record, as redact= left them, and in the restored result."""
    client = ScriptedInferenceClient([Failure(529, message="secret"), "a"])

    def ask(task, context):
        try:
            client.with_options(max_retries=0).generate("?")
        except OverloadedError:
            client.generate("?")

    def fail_once(task, context):
        if context.attempt == 1:
            raise ValueError("not yet")

    def build():
        graph = TaskGraph()
        graph.add(ask, name="ask")
        graph.add(lambda task, context: None, name="plain", depends_on=["ask"])
        graph.add(fail_once, retry=Retry(attempts=2, wait=lambda number: 0.0))
        return graph

    with TaskScheduler(runs=store) as scheduler:
        result = scheduler.run(build(), run_id="r")
        again = scheduler.run(build(), run_id="r")
    assert "OverloadedError: secret" in result.spans["ask"][1].error
    for later in (result, again, store.result("r")):
        assert [one.error for one in later.spans["fail_once"]] == ["ValueError: not yet", None]
    for later in (again, store.result("r")):
        assert [bool(one.error) for one in later.spans["ask"]] == [False, True, False]
        assert "OverloadedError: ***" in later.spans["ask"][1].error
        assert later.spans["ask"][2] == result.spans["ask"][2]
        (plain,) = later.spans["plain"]
        (before,) = result.spans["plain"]
        assert plain.start == pytest.approx(before.start, abs=0.1)
        assert plain.seconds == pytest.approx(before.seconds, abs=1e-4)
    assert store.get("r").tasks["plain"].spans == ()
    assert isinstance(store.get("r").tasks["ask"].spans[0], Span)


def test_a_parked_task_keeps_the_spans_of_each_drive(store):
    """The attempt in which a task parked has a span, and so has the next attempt."""

    def sign(task, context):
        return context.wait_for("name")

    def build():
        graph = TaskGraph()
        graph.add(sign, name="sign")
        return graph

    with TaskScheduler(runs=store) as scheduler:
        scheduler.run(build(), run_id="r")
        store.answer("r", "name", "Ann")
        result = scheduler.run(build(), run_id="r")
    assert result["sign"] == "Ann"
    first, second = result.spans["sign"]
    assert first.end <= second.start and first.error is second.error is None
    assert store.result("r").spans["sign"] == [first, second]
