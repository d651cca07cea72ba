"""Spawning during a run: from handlers, their threads and tools, and at the end of an attempt."""

import threading

import pytest

from asimov_sync import GraphError, Retry, Route, Task, TaskGraph, TaskScheduler, TaskStatus
from asimov_sync.testing import ScriptedInferenceClient, calls

from ..waiting import Background, wait_for
from .graphs import single


def quick(task, context):
    return context.name


@pytest.fixture(params=[4, 1, 0], ids=["threads", "one thread", "calling thread"])
def scheduler(request):
    with TaskScheduler({"quick": quick}, max_workers=request.param) as made:
        yield made


def test_from_several_threads_of_one_handler(scheduler):
    """Eight threads of one handler spawn at once; each task runs once, under its own name."""

    def handler(task, context):
        def spawn(first):
            return [context.spawn(Task(type="quick")) for _ in range(first, first + 25)]

        return sum(
            (call.result() for call in [Background(spawn, 25 * number) for number in range(8)]), []
        )

    scheduler.handlers["handler"] = handler
    result = scheduler.run(single("handler"))
    spawned = result.results["x"]
    assert len(spawned) == 200 and len(result.results) == 201
    assert all(task.status is TaskStatus.COMPLETE for task in spawned)
    assert sorted(task.result for task in spawned) == sorted(
        name for name in result.results if name != "x"
    )


def test_from_tools(scheduler):
    """A tool of a handler's tool loop can spawn, on whatever thread it is called."""

    def handler(task, context):
        def plan(topic: str) -> str:
            """Plan it."""
            context.spawn(Task(type="quick", objective=topic), name=topic)
            return "planned"

        wanted = calls(("plan", {"topic": "one"}), ("plan", {"topic": "two"}))
        client = ScriptedInferenceClient(
            lambda body: "done" if len(body["messages"]) > 1 else wanted
        )
        run = client.run_tools("plan", tools=[plan])
        assert [call.exception for call in run.calls] == [None, None]
        return run.text

    scheduler.handlers["handler"] = handler
    assert scheduler.run(single("handler")).results == {"x": "done", "one": "one", "two": "two"}


def test_not_after_the_handler_returned(scheduler):
    """spawn() in a leftover thread of a handler raises GraphError."""
    contexts = []
    scheduler.handlers["leave"] = lambda task, context: contexts.append(context)
    scheduler.run(single("leave"))
    with pytest.raises(GraphError, match="has ended"):
        contexts[0].spawn(Task(type="quick"))


def test_at_the_moment_of_a_cancel():
    """Each spawn works or raises GraphError; afterwards every Task is unlocked."""

    def handler(task, context):
        ready.set()
        while True:
            child = Task(type="quick")
            try:
                children.append(context.spawn(child))
            except GraphError:
                return refused.set()

    with TaskScheduler({"handler": handler, "quick": quick}, max_workers=2) as scheduler:
        for _ in range(10):
            ready, refused, children = threading.Event(), threading.Event(), []
            run = scheduler.submit(single("handler"))
            assert ready.wait(20)
            run.cancel()
            result = run.result(20)
            assert refused.wait(20)  # the run ends before its handler notices
            assert (
                len(result.results) + len(result.skipped) + len(result.errors) == len(children) + 1
            )
            graph = TaskGraph()
            for child in children[:50]:
                graph.add(child)
            assert scheduler.run(graph).status is TaskStatus.COMPLETE


def test_spawned_task_runs_beside_its_spawner():
    """It starts at once if a worker is free, and otherwise after its spawner."""
    met = threading.Barrier(2)

    def spawner(task, context):
        child = context.spawn(Task(type="meet"), name="child")
        context.spawn(Task(type="quick"), name="after", depends_on=["x", child])
        met.wait(20)
        return "spawner"

    with TaskScheduler(
        {"spawner": spawner, "meet": lambda task, context: met.wait(20) >= 0, "quick": quick}
    ) as scheduler:
        assert scheduler.run(single("spawner")).results == {
            "x": "spawner",
            "child": True,
            "after": "after",
        }


def test_chain_of_spawns(scheduler):
    """Five hundred tasks each spawn the next, which depends on its spawner."""

    def link(task, context):
        left = task.params["left"]
        if left:
            context.spawn(Task(type="link", params={"left": left - 1}), depends_on=context.name)
        return left

    scheduler.handlers["link"] = link
    graph = TaskGraph()
    graph.add(Task(type="link", params={"left": 500}), name="first")
    assert sorted(scheduler.run(graph, timeout=20).results.values()) == list(range(501))


def test_running_spawned_task_is_revoked():
    """It is cancelled when its spawner is retried, and its late result is discarded."""
    started, cancelled = threading.Event(), threading.Event()

    def child(task, context):
        if not started.is_set():
            started.set()
            assert context.cancellation.wait(20)
            cancelled.set()
            return "late"
        return "second"

    def parent(task, context):
        context.spawn(Task(type="child"), name="child")
        if context.attempt == 1:
            assert started.wait(20)
            raise ValueError("again")
        return "parent"

    with TaskScheduler({"parent": parent, "child": child}) as scheduler:
        result = scheduler.run(single("parent", retry=Retry(attempts=2, wait=lambda state: 0.0)))
        assert result.results == {"x": "parent", "child": "second"}
        assert cancelled.wait(20)
        wait_for(lambda: not scheduler.stuck_threads)


def test_refused_spawn_leaves_nothing(scheduler):
    """An invalid spawn raises GraphError in the handler, and the Task is unlocked."""
    free = Task(type="quick")

    def handler(task, context):
        for wrong in ({"name": "x"}, {"depends_on": "nobody"}, {"timeout": -1}, {"max_visits": 0}):
            with pytest.raises(GraphError):
                context.spawn(free, **wrong)
        with pytest.raises(GraphError, match="no handler"):
            context.spawn(Task(type="unknown"))
        context.spawn(free, name="free")
        with pytest.raises(GraphError):
            context.spawn(free, name="twice")
        return "fine"

    scheduler.handlers["handler"] = handler
    assert scheduler.run(single("handler")).results == {"x": "fine", "free": "free"}
    assert scheduler.run(single("quick", task=free)).results == {"x": "x"}


def test_default_names(scheduler):
    """A spawned task without a name gets one that is free."""

    def handler(task, context):
        context.spawn(Task(type="quick"), name="quick-3")
        context.spawn(Task(type="quick"))

    scheduler.handlers["handler"] = handler
    assert list(scheduler.run(single("handler")).results) == ["x", "quick-3", "quick-4"]


def test_in_a_subgraph(scheduler):
    """Tasks spawned by a task of a subgraph use short names, also in inputs and feedback."""
    seen = []

    def handler(task, context):
        if context.visit == 1:
            return Route("work", result="again")
        seen.append(dict(context.feedback))
        context.spawn(Task(type="see"), name="child", depends_on=["first", "outside"])

    def see(task, context):
        seen.append((context.name, list(context.inputs)))

    scheduler.handlers.update(handler=handler, see=see)
    inner = TaskGraph()
    inner.add(Task(type="quick"), name="first")
    inner.add(Task(type="handler"), name="work", depends_on="first")
    graph = TaskGraph()
    graph.add(Task(type="quick"), name="outside")
    graph.add_graph(inner, name="sub", depends_on="outside")
    result = scheduler.run(graph)
    assert seen == [{"work": "again"}, ("sub.child", ["first", "outside"])]
    assert list(result.results) == ["outside", "sub.first", "sub.work", "sub.child"]


def test_names_of_groups_are_taken(scheduler):
    """A spawned task cannot have a map's name; generated names avoid it; a name is a string."""

    def handler(task, context):
        for name, message in (
            ("page", "a group named 'page'"),
            (5, "name= is a string, not 5"),
            (0, "name= is a string, not 0"),
        ):
            with pytest.raises(GraphError, match=message):
                context.spawn(Task(type="quick"), name=name)
        context.spawn(Task(type="quick"))

    scheduler.handlers["handler"] = handler
    graph = single("handler")
    graph.map(Task(type="quick"), "", name="page")
    graph.map(Task(type="quick"), "", name="quick-2")
    assert list(scheduler.run(graph).results) == ["x", "quick-3"]
