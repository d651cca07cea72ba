"""task_context: a handler is called by itself, with what a run would give it."""

import threading

import pytest

from asimov_sync import Agent, GraphError, MemoryCache, Parked, Task
from asimov_sync.testing import ScriptedInferenceClient, task_context

TASK = Task(type="work", objective="Do it.")


def test_attributes():
    """The context has the given values, and those of a first attempt otherwise."""
    context = task_context(
        inputs={"a": 1},
        partial={"b": "half"},
        failed={"c": "ValueError"},
        skipped={"d": "ruled out"},
        feedback={"e": "again"},
        attempt=2,
    )
    assert (context.inputs, context.partial, context.failed) == (
        {"a": 1},
        {"b": "half"},
        {"c": "ValueError"},
    )
    assert (context.skipped, context.feedback) == ({"d": "ruled out"}, {"e": "again"})
    assert (context.name, context.run_id, context.attempt, context.visit) == ("task", "test", 2, 1)
    assert context.idempotency_key == "test/task/1"
    assert not context.cancellation.cancelled
    assert context.input("a", int) == 1
    with pytest.raises(KeyError, match="'task' has no input 'z'"):
        context.inputs["z"]


def test_what_a_handler_does_is_kept():
    """Reports and spawned tasks are kept in order, and the cache works."""
    context = task_context(cache=MemoryCache())
    context.report(0.5, "half", data={"a": 1})
    spawned = context.spawn(lambda task, context: None, params={"n": 1}, name="more")
    context.spawn(TASK)
    context.cache.set("key", "value")
    assert context.reports == [(0.5, "half", {"a": 1})]
    assert context.spawned == {"more": spawned, "task/2": TASK}
    assert context.cache.get("key") == "value"
    with pytest.raises(GraphError, match="spawned already"):
        context.spawn(lambda task, context: None, name="more")


def test_steps_are_called_once():
    """A step calls its function once for each name."""
    context, calls = task_context(), []
    for _ in range(2):
        assert context.step("pay", lambda: calls.append(1) or "paid") == "paid"
    assert calls == [1]


def test_waits():
    """A wait has its answer, parks without one, and is an error without answers=."""
    context = task_context(answers={"review": {"ok": True}})
    assert context.wait_for("review", timeout=60) == {"ok": True}
    with pytest.raises(Parked):
        context.wait_for("other", prompt="Go?", timeout=60)
    assert [(wait.name, wait.prompt) for wait in context.waits] == [("other", "Go?")]
    with pytest.raises(GraphError, match="not durable"):
        task_context().wait_for("review")


def test_agents_are_handlers():
    """An Agent is called with the context as in a run."""
    agent = Agent(ScriptedInferenceClient(["It rains."]))
    assert agent(TASK, task_context(inputs={"weather": "rain"})) == "It rains."


def test_the_context_belongs_to_its_thread():
    """On another thread wait_for is refused, as in a run."""
    context, errors = task_context(answers={"a": 1}), []

    def wait():
        try:
            context.wait_for("a")
        except GraphError as error:
            errors.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert errors == ["wait_for() works on the handler's own thread only"]
