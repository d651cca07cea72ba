"""RunState without threads or a clock: every row of its table of transitions."""

import pytest

from asimov_sync import GraphError, Retry, Task, TaskGraph, TaskStatus
from asimov_sync.graph.node import make_node
from asimov_sync.graph.state import (
    COMPLETE,
    DELAYED,
    EVALUATING,
    EXECUTING,
    FAILED,
    NOT_SELECTED,
    PARTIAL,
    READY,
    REVOKED,
    SKIPPED,
    WAITING,
    Change,
    RunState,
)


def state_of(dependencies, stop_on_failure=False, **options):
    """Return a state of tasks "0", "1" …; options: {index: value} by the name of an argument of
    `add`.
    """
    graph = TaskGraph()
    for index, before in enumerate(dependencies):
        own = {option: values[index] for option, values in options.items() if index in values}
        graph.add(Task(type="t"), name=str(index), depends_on=[str(one) for one in before], **own)
    return RunState(graph.plan(), stop_on_failure)


def node(name, *depends_on):
    return make_node(Task(type="t"), name, depends_on, None, False, None, None, 5, ())


def take(state, now=0.0):
    """Start all tasks that are ready, and return their indexes."""
    taken = []
    while True:
        index = state.start_next(now)
        if index is None:
            return taken
        taken.append(index)


def complete(state, *indexes, result=None):
    for index in indexes:
        state.finish(index, TaskStatus.COMPLETE, result)


def fail(state, index):
    state.finish(index, TaskStatus.FAILED, None, "e")


def inputs(state, index):
    return state.dependency_outcomes(index)[0]


def failed(state, index):
    return state.dependency_outcomes(index)[2]


def statuses(state):
    return [node.task.status.name for node in state.nodes]


def test_diamond():
    """The middle tasks are ready after the first, and the last one after both, in order."""
    state = state_of([[], [0], [0], [1, 2]])
    assert take(state) == [0]
    complete(state, 0)
    assert take(state) == [1, 2]
    complete(state, 2)
    assert take(state) == []
    state.finish(1, TaskStatus.PARTIAL, "half", "the rest")
    assert take(state) == [3]
    assert not state.finished and state.status is TaskStatus.EXECUTING
    complete(state, 3)
    assert state.finished and state.status is TaskStatus.PARTIAL
    assert state.changes == []


def test_failure_skips_downstream():
    """All tasks downstream are skipped, each with the reason; the others continue."""
    state = state_of([[], [0], [1], []])
    take(state)
    fail(state, 0)
    assert state.changes == [Change(1, SKIPPED), Change(2, SKIPPED)]
    assert state.errors[1:3] == ["its dependency '0' failed", "its dependency '1' was skipped"]
    complete(state, 3)
    assert state.finished and state.status is TaskStatus.PARTIAL


def test_task_is_resolved_with_its_last_dependency():
    """A task with a failed dependency is skipped when the others are final, too."""
    state = state_of([[], [], [0, 1]])
    take(state)
    fail(state, 0)
    assert state.phases[2] is WAITING
    complete(state, 1)
    assert state.phases[2] is SKIPPED


def test_allow_failure():
    """A task that allows failure runs once its dependencies are final, skipped ones included."""
    state = state_of([[], [0], [0, 1], []], allow_failure={2: True})
    take(state)
    fail(state, 0)
    assert take(state) == [2]
    assert failed(state, 2) == {"0": "e", "1": "its dependency '0' failed"}
    assert inputs(state, 2) == {}


def test_stop_on_failure():
    """After a failure nothing starts, not even a retry; running tasks can finish."""
    state = state_of([[], [], [], [1]], stop_on_failure=True, retry={1: Retry(attempts=3)})
    state.start_next(0.0), state.start_next(0.0)
    assert state.can_retry(1)
    fail(state, 0)
    assert state.changes == [] and state.cut_off == [2, 3]
    assert state.phases[2:] == [SKIPPED, SKIPPED]
    assert not state.can_retry(1)
    assert take(state) == []
    complete(state, 1)
    assert state.finished and state.status is TaskStatus.PARTIAL


def test_end():
    """Ending a run fails running tasks and skips all other tasks, whatever they waited for."""
    state = state_of([[], [], [1], [], []], retry={3: Retry()}, when={4: bool})
    take(state)
    complete(state, 0)
    state.retry(3, 10.0)
    assert state.phases == [COMPLETE, EXECUTING, WAITING, DELAYED, EVALUATING]
    assert state.end("enough", "cancelled") == [1]
    assert state.finished
    assert statuses(state) == ["COMPLETE", "FAILED", "WAITING", "WAITING", "WAITING"]
    assert (state.nodes[1].task.error, state.errors[3]) == ("cancelled", "enough")


def test_empty_graph_is_complete():
    """A run without tasks is finished, and COMPLETE."""
    state = state_of([])
    assert state.finished and state.status is TaskStatus.COMPLETE


# Conditions


@pytest.mark.parametrize("met, phase", [(True, EXECUTING), (False, NOT_SELECTED)])
def test_condition(met, phase):
    """A task with a `when` is EVALUATING, and shows WAITING, until the result is applied."""
    state = state_of([[], [0], [1]], when={1: bool})
    take(state)
    complete(state, 0, result=7)
    assert take(state) == [1]
    assert state.phases[1] is EVALUATING and statuses(state)[1] == "WAITING"
    assert inputs(state, 1) == {"0": 7}
    state.apply_condition(1, met)
    assert state.phases[1] is phase
    if met:
        complete(state, 1)
        complete(state, *take(state))
    assert state.finished and state.status is TaskStatus.COMPLETE
    assert [change.phase for change in state.changes] == (
        [] if met else [NOT_SELECTED, NOT_SELECTED]
    )


def test_condition_that_raises():
    """A task whose `when` raised goes from WAITING to FAILED."""
    state = state_of([[]], when={0: bool})
    take(state)
    fail(state, 0)
    assert statuses(state) == ["FAILED"] and state.status is TaskStatus.FAILED


# Retries


def test_retry_waits_for_its_moment():
    """A delayed attempt is WAITING, starts when due, and counts as an attempt, not a visit."""
    state = state_of([[], [0]], retry={0: Retry(attempts=2)})
    take(state)
    assert state.can_retry(0)
    state.retry(0, 5.0)
    assert statuses(state)[0] == "WAITING"
    assert take(state, 4.9) == []
    assert take(state, 5.0) == [0]
    assert (state.attempts[0], state.visits[0]) == (2, 1)
    assert not state.can_retry(0)
    complete(state, 0)
    assert take(state) == [1]


# Routes


def test_route_forwards():
    """Only selected dependents run; a join runs with those of its dependencies that ran."""
    state = state_of([[], [0], [0], [1, 2], [2]])
    take(state)
    state.finish(0, TaskStatus.COMPLETE, "r", None, ["1"])
    assert state.phases == [COMPLETE, READY, NOT_SELECTED, WAITING, NOT_SELECTED]
    complete(state, *take(state), result="one")
    assert take(state) == [3]
    assert inputs(state, 3) == {"1": "one"}
    complete(state, 3)
    assert state.status is TaskStatus.COMPLETE
    assert state.errors[2] == "'0' routed past it"


def test_route_to_nothing():
    """A Route without names leaves all dependents NOT_SELECTED."""
    state = state_of([[], [0], [1]])
    take(state)
    state.finish(0, TaskStatus.COMPLETE, "r", None, [])
    assert state.finished and state.phases == [COMPLETE, NOT_SELECTED, NOT_SELECTED]


def test_unselected_direct_dependent():
    """A dependent that a Route does not name is NOT_SELECTED, whatever its other dependencies do.

    The order in which the dependencies finish does not matter.
    """
    for order in ([0, 1], [1, 0]):
        state = state_of([[], [], [0, 1], [0]])
        take(state)
        for index in order:
            state.finish(index, TaskStatus.COMPLETE, None, None, ["3"] if index == 0 else None)
        assert state.phases[2] is NOT_SELECTED


@pytest.mark.parametrize("route", [["nobody"], ["1", "0"], ["3"], [7]])
def test_invalid_route(route):
    """A task fails if its Route names unknown or unrelated tasks, or tasks in both directions."""
    state = state_of([[], [0], [0], []])
    take(state)
    complete(state, 3)
    assert state.finish(0, TaskStatus.COMPLETE, None, None, route) is TaskStatus.FAILED
    assert state.errors[0].startswith("GraphError: the Route of '0'")
    assert state.phases == [FAILED, SKIPPED, SKIPPED, COMPLETE]


def loop():
    """Return 0 → 1 → 2 (the router) → 3, and 4 beside, which depends on 0."""
    state = state_of([[], [0], [1], [2], [0]], max_visits={2: 3})
    take(state)
    complete(state, 0)
    assert take(state) == [1, 4]
    complete(state, 1, result="draft")
    assert take(state) == [2]
    return state


def test_route_backwards():
    """The target and all started tasks downstream are reset; running ones are in `changes`."""
    state = loop()
    assert state.finish(2, TaskStatus.COMPLETE, "better", None, ["0"]) is TaskStatus.COMPLETE
    assert state.phases == [READY, WAITING, WAITING, WAITING, WAITING]
    assert state.changes == [Change(4, WAITING)]
    assert statuses(state) == ["WAITING"] * 5
    assert state.feedback == {0: {"2": "better"}}
    assert take(state) == [0]
    assert (state.visits[0], state.attempts[0]) == (2, 1)
    complete(state, 0)
    assert take(state) == [1, 4]
    complete(state, 1, 4)
    complete(state, *take(state))
    complete(state, *take(state))
    assert state.finished and state.status is TaskStatus.COMPLETE


def test_route_to_itself():
    """A Route that names its own task starts it again."""
    state = state_of([[], [0]])
    take(state)
    state.finish(0, TaskStatus.COMPLETE, 1, None, ["0"])
    assert take(state) == [0]
    assert state.visits[0] == 2 and state.feedback[0] == {"0": 1}


def test_max_visits():
    """The routing task fails if its Route would exceed its own max_visits or the target's."""
    state = state_of([[], [0]], max_visits={1: 2})
    for visit in (1, 2):
        assert take(state) == [0]
        complete(state, 0)
        assert take(state) == [1]
        end = state.finish(1, TaskStatus.COMPLETE, None, None, ["0"])
        assert (end is TaskStatus.FAILED) == (visit == 2)
    assert "'1' was started 2 times, its max_visits" in state.errors[1]
    assert state.finished and state.phases == [COMPLETE, FAILED]


def test_max_visits_of_another_task():
    """A task between target and router fails, without a start, if its visits are used up."""
    state = state_of([[], [0], [1], [2]], max_visits={1: 1})
    for index in (0, 1):
        assert take(state) == [index]
        complete(state, index)
    assert take(state) == [2]
    state.finish(2, TaskStatus.COMPLETE, None, None, ["0"])
    complete(state, *take(state))
    assert take(state) == []
    assert state.phases == [COMPLETE, FAILED, SKIPPED, SKIPPED]
    assert state.changes[0] == Change(1, FAILED)
    assert "'1' was started 1 times already, its max_visits" in str(state.engine_errors[1])


def test_loop_after_stop():
    """After a stop, a Route backwards starts no loop: the routing task is COMPLETE."""
    state = state_of([[], [0], [], [1]], stop_on_failure=True)
    state.start_next(0.0), state.start_next(0.0)
    complete(state, 0)
    assert take(state) == [1]
    fail(state, 2)
    state.finish(1, TaskStatus.COMPLETE, "r", None, ["0"])
    assert state.finished and state.phases == [COMPLETE, COMPLETE, FAILED, SKIPPED]


class Walked(list):
    """A list of edges that counts how often the edges of a task are read."""

    count = 0

    def __getitem__(self, index):
        Walked.count += 1
        return super().__getitem__(index)


def edges_of_a_loop(size):
    """Return how often edges are read when the last task of a chain goes back to all others."""
    state = state_of([[index - 1] if index else [] for index in range(size)])
    for index in range(size - 1):
        assert take(state) == [index]
        complete(state, index)
    assert take(state) == [size - 1]
    state.dependencies, state.dependents = Walked(state.dependencies), Walked(state.dependents)
    Walked.count = 0
    state.finish(size - 1, TaskStatus.COMPLETE, None, None, [str(index) for index in range(size)])
    assert state.phases == [READY] + [WAITING] * (size - 1)
    return Walked.count


def test_loop_with_many_targets():
    """The time of a Route backwards grows with the number of reset tasks, not of named tasks."""
    assert edges_of_a_loop(400) <= 2 * edges_of_a_loop(200) <= 2 * 200 * 8


# Spawning


def test_spawn():
    """A spawned task is ready once its dependencies are final; its spawner can be one of them."""
    state = state_of([[], []])
    take(state)
    complete(state, 1, result="one")
    assert state.spawn(0, node("now", "1")) == 2
    assert state.spawn(0, node("later", "now", "0")) == 3
    assert take(state) == [2]
    assert inputs(state, 2) == {"1": "one"}
    complete(state, 2)
    assert take(state) == []
    complete(state, 0)
    assert take(state) == [3]
    complete(state, 3)
    assert state.finished


def test_spawn_after_a_group():
    """A spawned task can depend on all tasks of a map by the map's name."""
    graph = TaskGraph()
    graph.map(Task(type="t"), "ab", name="page")
    graph.add(Task(type="t"), name="spawner")
    state = RunState(graph.plan())
    take(state)
    assert state.dependencies[state.spawn(2, node("late", "page"))] == (0, 1)
    with pytest.raises(GraphError, match="a group named 'page' already"):
        state.spawn(2, node("page"))


def after_an_empty_map(*after, **options):
    """Return a state of "0", an empty map "page" that depends on it, and an unrelated "9".

    after: the dependencies of further tasks, which are named "1", "2" …
    """
    graph = TaskGraph()
    graph.add(Task(type="t"), name="0")
    graph.map(Task(type="t"), "", name="page", depends_on="0")
    for index, before in enumerate(after, 1):
        graph.add(Task(type="t"), name=str(index), depends_on=before, **options)
    graph.add(Task(type="t"), name="9")
    return RunState(graph.plan())


def test_after_an_empty_map():
    """A dependent of an empty map waits for the map's dependencies, without their results."""
    state = after_an_empty_map("page", ["page", "0"])
    assert take(state) == [0, 3]
    late = state.spawn(3, node("late", "page"))
    later = state.spawn(3, node("later", "page", "0"))
    complete(state, 0, result="r")
    assert take(state) == [1, 2, late, later]
    assert [inputs(state, index) for index in (1, 2, late, later)] == [
        {},
        {"0": "r"},
        {},
        {"0": "r"},
    ]


def test_empty_map_after_a_failure():
    """A dependent of the empty map is skipped; with allow_failure it runs and sees the failure."""
    state = after_an_empty_map("page")
    take(state)
    fail(state, 0)
    assert state.phases[1] is SKIPPED and state.errors[1] == "its dependency '0' failed"
    state = after_an_empty_map("page", allow_failure=True)
    take(state)
    fail(state, 0)
    assert take(state) == [1] and failed(state, 1) == {"0": "e"}


def test_empty_map_after_a_route():
    """A Route selects no task of an empty map, so dependents of the map are NOT_SELECTED."""
    state = after_an_empty_map("0", "page", ["page", "9"], ["page", "0"])
    take(state)
    complete(state, 5, result="nine")
    state.finish(0, TaskStatus.COMPLETE, "r", None, ["1"])
    assert state.phases == [COMPLETE, READY, NOT_SELECTED, READY, NOT_SELECTED, COMPLETE]
    assert (
        state.errors[2] == "all that it depends on was ruled out"
        and state.errors[4] == "'0' routed past it"
    )
    assert inputs(state, 3) == {"9": "nine"}


def test_ambiguous_names_in_a_subgraph():
    """A task that depends on two tasks with one short name sees the inner one under its full name.

    The task is spawned in the subgraph.
    """
    inner, outer = TaskGraph(), TaskGraph()
    inner.add(Task(type="t"), name="fetch")
    fetch = outer.add(Task(type="t"), name="fetch")
    outer.add_graph(inner, name="first")
    state = RunState(outer.plan())
    take(state)
    spawned = make_node(
        Task(type="t"), "first.j", [fetch, "fetch"], None, True, None, None, 5, ("first.",)
    )
    index = state.spawn(0, spawned)
    complete(state, 0, result="outer")
    complete(state, 1, result="inner")
    assert inputs(state, index) == {"fetch": "outer", "first.fetch": "inner"}
    state = RunState(outer.plan())
    take(state)
    for index in (0, 1):
        state.finish(index, TaskStatus.FAILED, None, str(index))
    index = state.spawn(0, spawned._replace(task=Task(type="t")))
    assert failed(state, index) == {"fetch": "0", "first.fetch": "1"}


def test_nearest_name_may_be_a_group():
    """In a subgraph, a name refers to its own map before a task outside. A Route to a map fails."""
    inner, outer = TaskGraph(), TaskGraph()
    inner.add(Task(type="t"), name="begin")
    inner.map(Task(type="t"), "ab", name="page", depends_on="begin")
    outer.add(Task(type="t"), name="page")
    outer.add_graph(inner, name="first")
    state = RunState(outer.plan())
    take(state)
    spawned = make_node(
        Task(type="t"), "first.j", ["page"], None, False, None, None, 5, ("first.",)
    )
    assert state.dependencies[state.spawn(1, spawned)] == (2, 3)
    state.finish(1, TaskStatus.COMPLETE, None, None, ["page"])
    assert (
        state.errors[1]
        == "GraphError: the Route of 'first.begin' names 'page', a group: a Route names tasks"
    )


def test_invalid_spawn():
    """A name or task that is taken, and an unknown dependency, are errors; nothing is added."""
    state = state_of([[]])
    take(state)
    for invalid in (
        node("0"),
        node("new", "nobody"),
        node("new", Task(type="t")),
        node("new")._replace(task=state.nodes[0].task),
    ):
        with pytest.raises(ValueError):
            state.spawn(0, invalid)
    assert len(state.nodes) == 1
    complete(state, 0)
    assert state.finished


def test_spawn_after_a_failure():
    """A spawned task is resolved at once from the phases of its dependencies."""
    state = state_of([[], []])
    take(state)
    fail(state, 1)
    state.spawn(0, node("new", "1"))
    assert state.phases[2] is SKIPPED
    assert state.changes == [Change(2, SKIPPED)]


def test_retry_revokes_spawned_tasks():
    """Tasks spawned by a failed attempt are revoked, transitively; the names can be reused."""
    state = state_of([[]], retry={0: Retry()})
    take(state)
    state.spawn(0, node("a"))
    state.spawn(0, node("b", "0"))
    assert take(state) == [1]
    state.spawn(1, node("c"))
    assert take(state) == [3]
    state.retry(0, 0.0)
    assert state.phases == [DELAYED, REVOKED, REVOKED, REVOKED]
    assert state.changes == [Change(1, WAITING), Change(3, WAITING)]
    assert take(state) == [0]
    assert state.spawn(0, node("a")) == 4
    complete(state, *take(state))
    complete(state, 0)
    assert state.finished and state.status is TaskStatus.COMPLETE


def test_loop_revokes_spawned_tasks():
    """Tasks that an undone visit spawned are revoked. Other tasks treat them as ruled out."""
    state = state_of([[], [0], []])
    take(state)
    state.spawn(0, node("child", "0"))
    state.spawn(2, node("cousin", "child"))
    complete(state, 0)
    assert take(state) == [1, 3]
    state.finish(1, TaskStatus.COMPLETE, None, None, ["0"])
    assert state.phases == [READY, WAITING, EXECUTING, REVOKED, NOT_SELECTED]
    assert state.changes == [Change(3, WAITING), Change(4, NOT_SELECTED)]


def test_task_that_a_handler_moved():
    """If a handler moved a task itself, the task still ends with the outcome of its attempt."""
    state = state_of([[], []])
    take(state)
    state.nodes[0].task.move(TaskStatus.COMPLETE, 1)
    fail(state, 0)
    state.nodes[1].task.move(TaskStatus.WAITING)
    state.finish(1, TaskStatus.PARTIAL, 2, "p")
    assert [node.task.snapshot() for node in state.nodes] == [
        (TaskStatus.FAILED, None, "e"),
        (TaskStatus.PARTIAL, 2, "p"),
    ]
    assert state.phases == [FAILED, PARTIAL]
