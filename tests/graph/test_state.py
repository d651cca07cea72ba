"""The run state, driven by hand: no threads, no clock, every row of its table."""

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
    """A state of tasks named "0", "1" …; options by the name of an argument of `add`: {place: value}."""
    graph = TaskGraph()
    for place, before in enumerate(dependencies):
        own = {option: values[place] for option, values in options.items() if place in values}
        graph.add(Task(type="t"), name=str(place), depends_on=[str(one) for one in before], **own)
    return RunState(graph.plan(), stop_on_failure)


def node(name, *depends_on):
    return make_node(Task(type="t"), name, depends_on, None, False, None, None, 5, ())


def take(state, now=0.0):
    """All that can be taken now."""
    taken = []
    while True:
        place = state.start_next(now)
        if place is None:
            return taken
        taken.append(place)


def complete(state, *places, result=None):
    for place in places:
        state.finish(place, TaskStatus.COMPLETE, result)


def fail(state, place):
    state.finish(place, TaskStatus.FAILED, None, "e")


def statuses(state):
    return [node.task.status.name for node in state.nodes]


def test_a_diamond():
    """Both middle tasks are ready after the first, and the last one after both, in the order of adding."""
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


def test_a_failure_skips_what_depends_on_it():
    """Dependents are skipped, and theirs, each with the reason; the rest goes on."""
    state = state_of([[], [0], [1], []])
    take(state)
    fail(state, 0)
    assert state.changes == [Change(1, SKIPPED), Change(2, SKIPPED)]
    assert state.errors[1:3] == ["its dependency '0' failed", "its dependency '1' was skipped"]
    complete(state, 3)
    assert state.finished and state.status is TaskStatus.PARTIAL


def test_a_fate_is_decided_with_the_last_dependency():
    """A task one of whose dependencies failed is skipped when the others are settled, too."""
    state = state_of([[], [], [0, 1]])
    take(state)
    fail(state, 0)
    assert state.phases[2] is WAITING
    complete(state, 1)
    assert state.phases[2] is SKIPPED


def test_failures_that_are_allowed():
    """A task that allows failure runs once its dependencies are settled, skipped ones included."""
    state = state_of([[], [0], [0, 1], []], allow_failure={2: True})
    take(state)
    fail(state, 0)
    assert take(state) == [2]
    assert state.failed_dependencies(2) == {"0": "e", "1": "its dependency '0' failed"}
    assert state.inputs(2) == {}


def test_stopping_on_failure():
    """With stop_on_failure nothing more is started, not even a retry, and what goes on is settled."""
    state = state_of([[], [], [], [1]], stop_on_failure=True, retry={1: Retry(attempts=3)})
    state.start_next(0.0), state.start_next(0.0)
    assert state.can_retry(1)
    fail(state, 0)
    assert state.changes == [Change(2, SKIPPED), Change(3, SKIPPED)]
    assert not state.can_retry(1)
    assert take(state) == []
    complete(state, 1)
    assert state.finished and state.status is TaskStatus.PARTIAL


def test_the_end():
    """Ending a run fails what goes on and skips the rest, whatever it was waiting for."""
    state = state_of([[], [], [1], [], []], retry={3: Retry()}, when={4: bool})
    take(state)
    complete(state, 0)
    state.retry(3, 10.0)
    assert state.phases == [COMPLETE, EXECUTING, WAITING, DELAYED, EVALUATING]
    assert state.end("enough", "cancelled") == [1]
    assert state.finished
    assert statuses(state) == ["COMPLETE", "FAILED", "WAITING", "WAITING", "WAITING"]
    assert (state.nodes[1].task.error, state.errors[3]) == ("cancelled", "enough")


def test_an_empty_graph_is_complete():
    """A run without tasks is over, and COMPLETE."""
    state = state_of([])
    assert state.finished and state.status is TaskStatus.COMPLETE


# Conditions


@pytest.mark.parametrize("met, phase", [(True, EXECUTING), (False, NOT_SELECTED)])
def test_a_condition(met, phase):
    """A task with a `when` is EVALUATING when it is taken, and WAITING to the outside, until that was asked."""
    state = state_of([[], [0], [1]], when={1: bool})
    take(state)
    complete(state, 0, result=7)
    assert take(state) == [1]
    assert state.phases[1] is EVALUATING and statuses(state)[1] == "WAITING"
    assert state.inputs(1) == {"0": 7}
    state.apply_condition(1, met)
    assert state.phases[1] is phase
    if met:
        complete(state, 1)
        complete(state, *take(state))
    assert state.finished and state.status is TaskStatus.COMPLETE
    assert [change.phase for change in state.changes] == ([] if met else [NOT_SELECTED, NOT_SELECTED])


def test_a_condition_that_fails():
    """A task whose `when` raised goes from WAITING to FAILED."""
    state = state_of([[]], when={0: bool})
    take(state)
    fail(state, 0)
    assert statuses(state) == ["FAILED"] and state.status is TaskStatus.FAILED


# Retries


def test_a_retry_waits_for_its_moment():
    """A delayed attempt is WAITING, is taken at its moment and not before, and counts as an attempt, not a visit."""
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


def test_a_route_onward():
    """Of the dependents only those chosen run; a join runs with those of its dependencies that ran."""
    state = state_of([[], [0], [0], [1, 2], [2]])
    take(state)
    state.finish(0, TaskStatus.COMPLETE, "r", None, ["1"])
    assert state.phases == [COMPLETE, READY, NOT_SELECTED, WAITING, NOT_SELECTED]
    complete(state, *take(state), result="one")
    assert take(state) == [3]
    assert state.inputs(3) == {"1": "one"}
    complete(state, 3)
    assert state.status is TaskStatus.COMPLETE
    assert state.errors[2] == "'0' routed past it"


def test_a_route_to_nothing():
    """A Route without names rules out all that depends on it."""
    state = state_of([[], [0], [1]])
    take(state)
    state.finish(0, TaskStatus.COMPLETE, "r", None, [])
    assert state.finished and state.phases == [COMPLETE, NOT_SELECTED, NOT_SELECTED]


def test_a_direct_dependent_that_is_not_chosen():
    """It is ruled out whatever its other dependencies bring, and in whatever order."""
    for order in ([0, 1], [1, 0]):
        state = state_of([[], [], [0, 1], [0]])
        take(state)
        for place in order:
            state.finish(place, TaskStatus.COMPLETE, None, None, ["3"] if place == 0 else None)
        assert state.phases[2] is NOT_SELECTED


@pytest.mark.parametrize("route", [["nobody"], ["1", "0"], ["3"], [7]])
def test_a_route_that_cannot_be_taken(route):
    """A Route to no task, on and back at once, or to one that is no dependent and no ancestor fails its task."""
    state = state_of([[], [0], [0], []])
    take(state)
    complete(state, 3)
    assert state.finish(0, TaskStatus.COMPLETE, None, None, route) is TaskStatus.FAILED
    assert state.errors[0].startswith("GraphError: the Route of '0'")
    assert state.phases == [FAILED, SKIPPED, SKIPPED, COMPLETE]


def loop():
    """0 → 1 → 2 (the router) → 3, and 4 beside, which depends on 0."""
    state = state_of([[], [0], [1], [2], [0]], max_visits={2: 3})
    take(state)
    complete(state, 0)
    assert take(state) == [1, 4]
    complete(state, 1, result="draft")
    assert take(state) == [2]
    return state


def test_a_route_back():
    """The target and all after it that has started wait again; what goes on of it is told to be undone."""
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


def test_a_route_to_itself():
    """A Route that names its own task starts it again."""
    state = state_of([[], [0]])
    take(state)
    state.finish(0, TaskStatus.COMPLETE, 1, None, ["0"])
    assert take(state) == [0]
    assert state.visits[0] == 2 and state.feedback[0] == {"0": 1}


def test_one_visit_too_many():
    """The routing task fails when its Route would start it, or the target, more often than its max_visits."""
    state = state_of([[], [0]], max_visits={1: 2})
    for visit in (1, 2):
        assert take(state) == [0]
        complete(state, 0)
        assert take(state) == [1]
        end = state.finish(1, TaskStatus.COMPLETE, None, None, ["0"])
        assert (end is TaskStatus.FAILED) == (visit == 2)
    assert "'1' was started 2 times, its max_visits" in state.errors[1]
    assert state.finished and state.phases == [COMPLETE, FAILED]


def test_one_visit_too_many_of_another():
    """A task between the two that has used up its visits fails without being started."""
    state = state_of([[], [0], [1], [2]], max_visits={1: 1})
    for place in (0, 1):
        assert take(state) == [place]
        complete(state, place)
    assert take(state) == [2]
    state.finish(2, TaskStatus.COMPLETE, None, None, ["0"])
    complete(state, *take(state))
    assert take(state) == []
    assert state.phases == [COMPLETE, FAILED, SKIPPED, SKIPPED]
    assert state.changes[0] == Change(1, FAILED)
    assert "'1' was started 1 times already, its max_visits" in str(state.engine_errors[1])


def test_a_loop_after_the_stop():
    """Once nothing more may be started, a Route back is the end of its task."""
    state = state_of([[], [0], [], [1]], stop_on_failure=True)
    state.start_next(0.0), state.start_next(0.0)
    complete(state, 0)
    assert take(state) == [1]
    fail(state, 2)
    state.finish(1, TaskStatus.COMPLETE, "r", None, ["0"])
    assert state.finished and state.phases == [COMPLETE, COMPLETE, FAILED, SKIPPED]


class Walked(list):
    """A list of edges that counts how often it is asked for those of a task."""

    count = 0

    def __getitem__(self, place):
        Walked.count += 1
        return super().__getitem__(place)


def edges_of_a_loop(size):
    """How often edges are asked for when the last task of a chain goes back to every one of it."""
    state = state_of([[place - 1] if place else [] for place in range(size)])
    for place in range(size - 1):
        assert take(state) == [place]
        complete(state, place)
    assert take(state) == [size - 1]
    state.dependencies, state.dependents = Walked(state.dependencies), Walked(state.dependents)
    Walked.count = 0
    state.finish(size - 1, TaskStatus.COMPLETE, None, None, [str(place) for place in range(size)])
    assert state.phases == [READY] + [WAITING] * (size - 1)
    return Walked.count


def test_a_loop_that_names_many():
    """A Route back takes work in proportion to what it undoes, however many it names."""
    assert edges_of_a_loop(400) <= 2 * edges_of_a_loop(200) <= 2 * 200 * 8


# Spawning


def test_spawning():
    """A spawned task is ready at once if what it depends on is there, and waits otherwise; its spawner may be meant."""
    state = state_of([[], []])
    take(state)
    complete(state, 1, result="one")
    assert state.spawn(0, node("now", "1")) == 2
    assert state.spawn(0, node("later", "now", "0")) == 3
    assert take(state) == [2]
    assert state.inputs(2) == {"1": "one"}
    complete(state, 2)
    assert take(state) == []
    complete(state, 0)
    assert take(state) == [3]
    complete(state, 3)
    assert state.finished


def test_spawning_after_a_group():
    """A spawned task may depend on all tasks of a map by the map's name."""
    graph = TaskGraph()
    graph.map(Task(type="t"), "ab", name="page")
    graph.add(Task(type="t"), name="spawner")
    state = RunState(graph.plan())
    take(state)
    assert state.dependencies[state.spawn(2, node("late", "page"))] == (0, 1)
    with pytest.raises(GraphError, match="a group named 'page' already"):
        state.spawn(2, node("page"))


def after_an_empty_map(*after, **options):
    """0, an empty map "page" after it, a task after each of the other names, and 9, that is no part of it."""
    graph = TaskGraph()
    graph.add(Task(type="t"), name="0")
    graph.map(Task(type="t"), "", name="page", depends_on="0")
    for place, before in enumerate(after, 1):
        graph.add(Task(type="t"), name=str(place), depends_on=before, **options)
    graph.add(Task(type="t"), name="9")
    return RunState(graph.plan())


def test_after_an_empty_map():
    """What depends on it waits for what it waits for, and finds no result of that in its inputs, spawned or not."""
    state = after_an_empty_map("page", ["page", "0"])
    assert take(state) == [0, 3]
    late = state.spawn(3, node("late", "page"))
    later = state.spawn(3, node("later", "page", "0"))
    complete(state, 0, result="r")
    assert take(state) == [1, 2, late, later]
    assert [state.inputs(place) for place in (1, 2, late, later)] == [{}, {"0": "r"}, {}, {"0": "r"}]


def test_an_empty_map_after_a_failure():
    """What depends on it is skipped; or, if failure is allowed, started, and told of it."""
    state = after_an_empty_map("page")
    take(state)
    fail(state, 0)
    assert state.phases[1] is SKIPPED and state.errors[1] == "its dependency '0' failed"
    state = after_an_empty_map("page", allow_failure=True)
    take(state)
    fail(state, 0)
    assert take(state) == [1] and state.failed_dependencies(1) == {"0": "e"}


def test_an_empty_map_after_a_route():
    """A Route could not choose any of its tasks: for what depends on it that is as if all of them were ruled out."""
    state = after_an_empty_map("0", "page", ["page", "9"], ["page", "0"])
    take(state)
    complete(state, 5, result="nine")
    state.finish(0, TaskStatus.COMPLETE, "r", None, ["1"])
    assert state.phases == [COMPLETE, READY, NOT_SELECTED, READY, NOT_SELECTED, COMPLETE]
    assert state.errors[2] == "all that it depends on was ruled out" and state.errors[4] == "'0' routed past it"
    assert state.inputs(3) == {"9": "nine"}


def test_names_that_clash_in_a_subgraph():
    """A task spawned there may depend on two of the same short name: the inner one is then called by its whole name."""
    inner, outer = TaskGraph(), TaskGraph()
    inner.add(Task(type="t"), name="fetch")
    fetch = outer.add(Task(type="t"), name="fetch")
    outer.add_graph(inner, name="first")
    state = RunState(outer.plan())
    take(state)
    new = make_node(Task(type="t"), "first.j", [fetch, "fetch"], None, True, None, None, 5, ("first.",))
    place = state.spawn(0, new)
    complete(state, 0, result="outer")
    complete(state, 1, result="inner")
    assert state.inputs(place) == {"fetch": "outer", "first.fetch": "inner"}
    state = RunState(outer.plan())
    take(state)
    for place in (0, 1):
        state.finish(place, TaskStatus.FAILED, None, str(place))
    place = state.spawn(0, new._replace(task=Task(type="t")))
    assert state.failed_dependencies(place) == {"fetch": "0", "first.fetch": "1"}


def test_the_nearest_of_a_name_may_be_a_group():
    """In a subgraph a map's name is its own map's, though the graph around it has a task of that name; no Route goes there."""
    inner, outer = TaskGraph(), TaskGraph()
    inner.add(Task(type="t"), name="begin")
    inner.map(Task(type="t"), "ab", name="page", depends_on="begin")
    outer.add(Task(type="t"), name="page")
    outer.add_graph(inner, name="first")
    state = RunState(outer.plan())
    take(state)
    new = make_node(Task(type="t"), "first.j", ["page"], None, False, None, None, 5, ("first.",))
    assert state.dependencies[state.spawn(1, new)] == (2, 3)
    state.finish(1, TaskStatus.COMPLETE, None, None, ["page"])
    assert state.errors[1] == "GraphError: the Route of 'first.begin' names 'page', a group: a Route names tasks"


def test_spawning_what_cannot_be():
    """A name or a task that is taken, and a dependency that is not in the run, are errors, and nothing is added."""
    state = state_of([[]])
    take(state)
    for wrong in (
        node("0"),
        node("new", "nobody"),
        node("new", Task(type="t")),
        node("new")._replace(task=state.nodes[0].task),
    ):
        with pytest.raises(ValueError):
            state.spawn(0, wrong)
    assert len(state.nodes) == 1
    complete(state, 0)
    assert state.finished


def test_a_task_spawned_after_a_failure():
    """It is decided at once by what its dependencies came to."""
    state = state_of([[], []])
    take(state)
    fail(state, 1)
    state.spawn(0, node("new", "1"))
    assert state.phases[2] is SKIPPED
    assert state.changes == [Change(2, SKIPPED)]


def test_a_retry_takes_back_what_was_spawned():
    """The tasks of an attempt that failed are taken back, and theirs; the next attempt may use the names again."""
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


def test_a_loop_takes_back_what_was_spawned():
    """Spawned tasks of an undone visit are no part of the run any more; what depends on them is decided without them."""
    state = state_of([[], [0], []])
    take(state)
    state.spawn(0, node("child", "0"))
    state.spawn(2, node("cousin", "child"))
    complete(state, 0)
    assert take(state) == [1, 3]
    state.finish(1, TaskStatus.COMPLETE, None, None, ["0"])
    assert state.phases == [READY, WAITING, EXECUTING, REVOKED, NOT_SELECTED]
    assert state.changes == [Change(3, WAITING), Change(4, NOT_SELECTED)]


def test_what_a_handler_moved():
    """A task that somebody else moved ends as the run says."""
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
