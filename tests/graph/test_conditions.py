"""Conditions (`when`) and what a context shows of the dependencies that have no plain result."""

import functools

import pytest

from asimov_sync import GraphError, Partial, Task, TaskGraph, TaskScheduler, TaskStatus

from .graphs import chain, single


def half(task, context):
    return Partial("half", "the rest is missing")


def fail(task, context):
    raise ValueError("no")


def see(task, context):
    return {name: getattr(context, name) for name in ("inputs", "partial", "failed", "skipped")}


HANDLERS = {"done": lambda task, context: "done", "half": half, "fail": fail, "see": see}


@pytest.fixture(params=[2, 0], ids=["threads", "calling thread"])
def scheduler(request):
    with TaskScheduler(HANDLERS, max_workers=request.param) as new_scheduler:
        yield new_scheduler


def every_kind(**options):
    """Return a graph whose task "x" depends on one task that ended in each possible way."""
    graph = TaskGraph()
    graph.add(Task(type="done"), name="complete")
    graph.add(Task(type="half"), name="partial")
    graph.add(Task(type="fail"), name="failed")
    graph.add(Task(type="done"), name="skipped", depends_on="failed")
    graph.add(Task(type="done"), name="ruled out", when=lambda inputs: False)
    names = ["complete", "partial", "failed", "skipped", "ruled out"]
    graph.add(Task(type="see"), name="x", depends_on=names, **options)
    return graph


EVERY_KIND = {
    "inputs": {"complete": "done", "partial": "half"},
    "partial": {"partial": "the rest is missing"},
    "failed": {"failed": "ValueError: no", "skipped": "its dependency 'failed' failed"},
    "skipped": {
        "skipped": "its dependency 'failed' failed",
        "ruled out": "its condition (when) was not met",
    },
}


def test_context_shows_how_each_dependency_ended(scheduler):
    """The context has the results, the errors of partial results, the failures, and the reasons
    of tasks that did not run.
    """
    assert scheduler.run(every_kind(allow_failure=True))["x"] == EVERY_KIND


def test_context_of_a_task_that_allows_no_failure(scheduler):
    """partial and skipped are set without allow_failure, too. Attributes may be empty."""
    graph = TaskGraph()
    graph.add(Task(type="half"), name="partial")
    graph.add(Task(type="done"), name="out", when=lambda inputs: False)
    graph.add(Task(type="see"), name="x", depends_on=["partial", "out"])
    graph.add(Task(type="see"), name="first")
    result = scheduler.run(graph)
    assert result["x"]["partial"] == {"partial": "the rest is missing"}
    assert list(result["x"]["skipped"]) == ["out"] and result["x"]["failed"] == {}
    assert result["first"] == {"inputs": {}, "partial": {}, "failed": {}, "skipped": {}}


def test_names_are_local_in_a_subgraph(scheduler):
    """In a subgraph, partial, failed and skipped have the short names that inputs has."""
    graph = TaskGraph()
    graph.add_graph(every_kind(allow_failure=True), name="sub")
    seen = scheduler.run(graph)["sub.x"]
    assert {key: list(values) for key, values in seen.items()} == {
        key: list(values) for key, values in EVERY_KIND.items()
    }


def test_condition_sees_the_context(scheduler):
    """A condition of two arguments gets the inputs and the context of the visit to come."""
    seen = []

    def when(inputs, context):
        seen.append((see(None, context), context.name, context.attempt, context.visit))
        assert inputs == context.inputs
        return "partial" in context.partial

    assert scheduler.run(every_kind(allow_failure=True, when=when))["x"] == EVERY_KIND
    assert seen == [(EVERY_KIND, "x", 1, 1)]


class Condition:
    def __call__(self, inputs, context):
        return context.name == "x"

    def method(self, inputs, context):
        return context.name == "x"


@pytest.mark.parametrize(
    "when, runs",
    [
        (lambda inputs: inputs == {"w": "done"}, True),
        (lambda inputs, context: context.inputs == inputs, True),
        (lambda inputs, limit=1: len(inputs) == limit, True),
        (lambda inputs, *, limit=2: len(inputs) == limit, False),
        (lambda *arguments: len(arguments) == 1, True),
        (lambda inputs, context, limit=1: context.visit == limit, True),
        (functools.partial(lambda limit, inputs: len(inputs) == limit, 1), True),
        (functools.partial(lambda inputs, context: context is None, context=None), True),
        (Condition(), True),
        (Condition().method, True),
        (bool, True),
        (all, True),
        (dict, True),
    ],
)
def test_signatures(when, runs):
    """The second positional parameter, if it has no default, receives the context."""
    graph = chain("done")
    graph.add(Task(type="done"), name="w")
    graph.add(Task(type="done"), name="x", depends_on="w", when=when)
    with TaskScheduler(HANDLERS, max_workers=0) as scheduler:
        result = scheduler.run(graph)
    assert (not result.errors, "x" in result.results) == (True, runs)


async def coroutine(inputs):
    return False


class AsyncCondition:
    async def __call__(self, inputs):
        return False


@pytest.mark.parametrize(
    "when, message",
    [
        (lambda: True, r"is a function of \(inputs\), and this one takes \(\)"),
        (lambda inputs, context, more: True, r"function of \(inputs, context\), and this"),
        (lambda inputs, *, needed: True, r"is a function of \(inputs\), and"),
        (coroutine, "coroutine function"),
        (functools.partial(coroutine), "coroutine function"),
        (AsyncCondition(), "coroutine function"),
        ("yes", r"is a function of \(inputs\), not 'yes'"),
    ],
)
def test_refused_at_the_call(when, message):
    """A condition that cannot be called, or is async, is refused by add, map and spawn."""
    graph = TaskGraph()
    with pytest.raises(GraphError, match=message):
        graph.add(Task(type="done"), name="x", when=when)
    with pytest.raises(GraphError, match=message):
        graph.map(Task(type="done"), [1], name="x", when=when)

    def spawn(task, context):
        context.spawn(Task(type="done"), name="x", when=when)

    with TaskScheduler({"spawn": spawn, "done": fail}, max_workers=0) as scheduler:
        assert scheduler.run(single("spawn")).errors["x"].startswith("GraphError: when= of 'x'")


def test_condition_that_returns_a_coroutine(scheduler):
    """A plain function that returns a coroutine fails its task: it would always be true."""
    result = scheduler.run(single("done", when=lambda inputs: coroutine(inputs)))
    assert "returned a coroutine" in result.errors["x"]


def test_condition_cannot_spawn(scheduler):
    """A condition cannot spawn tasks with its context; only a handler can."""
    when = lambda inputs, context: context.spawn(Task(type="done"))  # noqa: E731
    assert "cannot spawn" in scheduler.run(single("done", when=when)).errors["x"]


# Tasks that wait for something


def waiting(task, context):
    return Partial("so far", "a call waits", waits_for="approval")


def test_dependents_of_a_task_that_waits_are_skipped(scheduler):
    """Every task downstream is skipped, even with allow_failure. A task with always=True runs."""
    scheduler.handlers["wait"] = waiting
    graph = TaskGraph()
    graph.add(Task(type="wait"), name="pay")
    graph.add(Task(type="done"), name="ship", depends_on="pay")
    graph.add(Task(type="done"), name="tell", depends_on="pay", allow_failure=True)
    graph.add(Task(type="done"), name="end", depends_on=["ship", "tell"], allow_failure=True)
    graph.add(Task(type="see"), name="log", depends_on=["pay", "end"], always=True, timeout=10)
    graph.add(Task(type="done"), name="beside")
    result = scheduler.run(graph)
    reason = "its dependency 'pay' waits for approval"
    assert result.skipped == dict.fromkeys(["ship", "tell", "end"], reason)
    assert (result.status, result.errors) == (TaskStatus.PARTIAL, {"pay": "a call waits"})
    assert result.results.keys() == {"pay", "log", "beside"}
    assert result["log"] == {
        "inputs": {"pay": "so far"},
        "partial": {"pay": "a call waits"},
        "failed": {"end": reason},
        "skipped": {"end": reason},
    }


def test_a_loop_undoes_the_wait(scheduler):
    """If a task waits at its first visit but not at the next one, its dependents run."""
    from asimov_sync import Route

    def maybe(task, context):
        return waiting(task, context) if context.visit == 1 else "approved"

    def again(task, context):
        return Route("pay") if context.visit == 1 else "stay"

    scheduler.handlers.update(maybe=maybe, again=again)
    graph = TaskGraph()
    graph.add(Task(type="maybe"), name="pay")
    graph.add(Task(type="again"), name="again", depends_on="pay", always=True, timeout=10)
    graph.add(Task(type="done"), name="ship", depends_on="pay")
    result = scheduler.run(graph)
    assert result.results == {"pay": "approved", "again": "stay", "ship": "done"}
