"""Spawning during a run: from handlers, their threads and tools, and at the end of an attempt."""

import threading

import pytest
from hypothesis import given, settings, strategies

from asimov_sync import (
    GraphError,
    Partial,
    Retry,
    Route,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)
from asimov_sync.testing import ScriptedInferenceClient, calls

from ..tiers import by_tier
from ..waiting import Background, wait_for
from .graphs import single


def quick(task, context):
    return context.name


@pytest.fixture(params=[4, 1, 0], ids=["threads", "one thread", "calling thread"])
def scheduler(request):
    with TaskScheduler({"quick": quick}, max_workers=request.param) as new_scheduler:
        yield new_scheduler


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
    """A tool of a handler's tool loop can spawn, on any thread."""

    def handler(task, context):
        def plan(topic: str) -> str:
            """Plan it."""
            context.spawn(Task(type="quick", objective=topic), name=topic)
            return "planned"

        requested = calls(("plan", {"topic": "one"}), ("plan", {"topic": "two"}))
        client = ScriptedInferenceClient(
            lambda body: "done" if len(body["messages"]) > 1 else requested
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
    """A spawned task starts at once if a worker is free, and otherwise after its spawner."""
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
    """A retry of the spawner cancels the spawned task, and its late result is discarded."""
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
        for invalid in (
            {"name": "x"},
            {"depends_on": "nobody"},
            {"timeout": -1},
            {"max_visits": 0},
        ):
            with pytest.raises(GraphError):
                context.spawn(free, **invalid)
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


def plan_graph():
    """Return a graph of one task, "plan"."""
    graph = TaskGraph()
    graph.add(Task(type="plan"), name="plan")
    return graph


def test_before_dependents(scheduler):
    """Tasks that depend on the spawner wait for the spawned task as well, and get its result."""

    def plan(task, context):
        for page in ("a", "b"):
            context.spawn(Task(type="quick"), name=page, before_dependents=True)
        context.spawn(Task(type="quick"), name="beside")
        return "planned"

    scheduler.handlers.update(plan=plan, merge=lambda task, context: dict(context.inputs))
    graph = plan_graph()
    graph.add(Task(type="merge"), name="merge", depends_on="plan")
    graph.add(Task(type="merge"), name="last", depends_on="merge")
    result = scheduler.run(graph)
    merged = {"plan": "planned", "a": "a", "b": "b"}
    assert result["merge"] == merged and result["last"] == {"merge": merged}
    assert graph.tasks.keys() == {"plan", "merge", "last"}


def test_failure_before_dependents(scheduler):
    """If a task that was inserted before the dependents fails, they are skipped."""

    def plan(task, context):
        context.spawn(Task(type="broken"), name="page", before_dependents=True)

    scheduler.handlers.update(plan=plan, broken=lambda task, context: 1 / 0)
    graph = plan_graph()
    graph.add(Task(type="quick"), name="merge", depends_on="plan")
    graph.add(Task(type="quick"), name="anyway", depends_on="plan", allow_failure=True)
    result = scheduler.run(graph)
    assert result.skipped == {"merge": "its dependency 'page' failed"}
    assert result["anyway"] == "anyway"


def test_retry_takes_inserted_tasks_back(scheduler):
    """The dependents wait for the tasks that the last attempt inserted, not for revoked tasks."""

    def plan(task, context):
        name = f"page of attempt {context.attempt}"
        context.spawn(Task(type="quick"), name=name, before_dependents=True)
        if context.attempt < 3:
            raise ValueError("again")

    scheduler.handlers.update(plan=plan, merge=lambda task, context: list(context.inputs))
    retry = Retry(attempts=3, wait=lambda state: 0.0)
    graph = TaskGraph()
    graph.add(Task(type="plan"), name="plan", retry=retry)
    graph.add(Task(type="merge"), name="merge", depends_on="plan")
    assert scheduler.run(graph, timeout=20)["merge"] == ["plan", "page of attempt 3"]


def test_loop_takes_inserted_tasks_back(scheduler):
    """After a loop over the spawner, its dependents see the tasks that its last visit inserted."""

    def plan(task, context):
        context.spawn(Task(type="quick"), name=f"page {context.visit}", before_dependents=True)
        context.spawn(Task(type="quick"), name="same name", before_dependents=True)

    pages = []

    def critic(task, context):
        pages.append(list(context.inputs))
        return Route("plan") if len(pages) < 3 else pages

    scheduler.handlers.update(plan=plan, critic=critic)
    graph = plan_graph()
    graph.add(Task(type="critic"), name="critic", depends_on="plan")
    assert scheduler.run(graph, timeout=20)["critic"] == [
        ["plan", "page 1", "same name"],
        ["plan", "page 2", "same name"],
        ["plan", "page 3", "same name"],
    ]


def test_task_that_would_wait_for_itself(scheduler):
    """Inserting a task that itself depends on one of the dependents is a GraphError."""

    def plan(task, context):
        with pytest.raises(GraphError, match="'page' would wait for 'merge', which waits for it"):
            context.spawn(
                Task(type="quick"), name="page", depends_on="last", before_dependents=True
            )
        context.spawn(Task(type="quick"), name="page", depends_on="last")

    scheduler.handlers["plan"] = plan
    graph = plan_graph()
    graph.add(Task(type="quick"), name="merge", depends_on="plan")
    graph.add(Task(type="quick"), name="last", depends_on="merge")
    assert list(scheduler.run(graph).results) == ["plan", "merge", "last", "page"]


def test_inserted_tasks_depend_on_each_other(scheduler):
    """Inserted tasks are not among the dependents before which others are inserted.

    So inserted tasks may form a chain.
    """

    def plan(task, context):
        before = context.name
        for number in range(5):
            name = f"step {number}"
            context.spawn(Task(type="quick"), name=name, depends_on=before, before_dependents=True)
            before = name

    scheduler.handlers.update(plan=plan, merge=lambda task, context: list(context.inputs))
    graph = plan_graph()
    graph.add(Task(type="merge"), name="merge", depends_on="plan")
    steps = [f"step {number}" for number in range(5)]
    assert scheduler.run(graph)["merge"] == ["plan"] + steps


ENDS = ("returns", "fails", "is partial")


@given(
    dependencies=strategies.lists(
        strategies.sets(strategies.integers(0, 5), max_size=3), min_size=2, max_size=6
    ),
    ends=strategies.lists(strategies.sampled_from(ENDS), min_size=12, max_size=12),
    spawners=strategies.sets(strategies.integers(0, 5)),
    brave=strategies.sets(strategies.integers(0, 5)),
)
@settings(max_examples=by_tier(30, 2000), deadline=None)
def test_inserted_tasks_are_like_tasks_of_the_graph(dependencies, ends, spawners, brave):
    """A run that inserts tasks ends like the run of a graph that had them from the beginning."""

    def handler(task, context):
        if inserting and task.params["number"] in spawners and task.params["number"] < 6:
            child = task.params["number"] + 6
            context.spawn(
                Task(type="t", params={"number": child}),
                name=str(child),
                depends_on=context.name,
                before_dependents=True,
            )
        end = ends[task.params["number"]]
        if end == "fails":
            raise ValueError(context.name)
        value = sorted(context.inputs.items())
        return Partial(value, "half") if end == "is partial" else value

    outcomes = []
    for inserting in (False, True):
        graph = TaskGraph()
        for number, before in enumerate(dependencies):
            names = sorted(str(one) for one in before if one < number)
            if not inserting:
                names += [str(one + 6) for one in before if one < number and one in spawners]
            graph.add(
                Task(type="t", params={"number": number}),
                name=str(number),
                depends_on=names,
                allow_failure=number in brave,
            )
            if not inserting and number in spawners:
                graph.add(
                    Task(type="t", params={"number": number + 6}),
                    name=str(number + 6),
                    depends_on=str(number),
                )
        with TaskScheduler({"t": handler}, max_workers=0) as scheduler:
            result = scheduler.run(graph)
        # A spawner that did not run has not inserted its task.
        left_out = {str(one + 6) for one in spawners if str(one) in result.skipped}
        skipped = set(result.skipped) - left_out
        outcomes.append((result.results, result.errors, skipped))
    assert outcomes[0] == outcomes[1]


def test_max_tasks(scheduler):
    """A chain of tasks that each spawn another one ends once the run has `max_tasks` tasks."""

    def again(task, context):
        context.spawn(Task(type="again"))

    scheduler.handlers["again"] = again
    result = scheduler.run(single("again"), max_tasks=50, timeout=20)
    assert len(result.tasks) == 50 and len(result.results) == 49
    (error,) = result.errors.values()
    assert error.endswith("cannot be spawned: the run has 50 tasks, its max_tasks")
    graph = single("quick")
    graph.map(Task(type="quick"), range(3), name="page")
    assert len(scheduler.run(graph, max_tasks=4).results) == 4
    with pytest.raises(GraphError, match="the graph has 4 tasks, more than max_tasks=3"):
        scheduler.run(graph, max_tasks=3)
    for invalid in (0, -1, True, 1.5, "8"):
        with pytest.raises(ValueError, match="max_tasks= is an integer of at least 1"):
            scheduler.run(graph, max_tasks=invalid)


def test_revoked_tasks_leave_room(scheduler):
    """Tasks that a retried attempt had spawned do not count for `max_tasks`."""

    def handler(task, context):
        for _ in range(3):
            context.spawn(Task(type="quick"))
        if context.attempt < 3:
            raise ValueError("again")

    scheduler.handlers["handler"] = handler
    graph = single("handler", retry=Retry(attempts=3, wait=lambda state: 0.0))
    assert len(scheduler.run(graph, max_tasks=4, timeout=20).results) == 4
