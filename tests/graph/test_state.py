"""The run state, driven by hand, and against a slow and simple model of what it should do."""

import hypothesis
from hypothesis import strategies

from asimov_sync import Task, TaskGraph, TaskStatus
from asimov_sync.graph.state import RunState

COMPLETE, FAILED, PARTIAL, WAITING = TaskStatus.COMPLETE, TaskStatus.FAILED, TaskStatus.PARTIAL, TaskStatus.WAITING


def state_of(dependencies, allow=(), stop_on_failure=False):
    graph = TaskGraph()
    for place, before in enumerate(dependencies):
        graph.add(Task(type="t"), name=str(place), depends_on=[str(one) for one in before], allow_failure=place in allow)
    return RunState(graph.plan(), stop_on_failure)


def test_a_diamond():
    """Both middle tasks are ready after the first, and the last one after both, in the order of adding."""
    state = state_of([[], [0], [0], [1, 2]])
    assert (state.take(), state.take()) == (0, None)
    assert state.settle(0, COMPLETE) == []
    assert (state.take(), state.take(), state.take()) == (1, 2, None)
    state.settle(2, COMPLETE)
    assert state.take() is None
    state.settle(1, PARTIAL)
    assert state.take() == 3
    assert not state.over and state.status is TaskStatus.EXECUTING
    state.settle(3, COMPLETE)
    assert state.over and state.status is PARTIAL


def test_a_failure_skips_what_depends_on_it():
    """Dependents are skipped at once, theirs too, each with the reason; the rest goes on."""
    state = state_of([[], [0], [1], []])
    state.take()
    assert state.settle(0, FAILED, None, "e") == [1, 2]
    assert state.skipped == {1: "its dependency '0' failed", 2: "its dependency '1' was skipped"}
    assert state.take() == 3
    state.settle(3, COMPLETE)
    assert state.over and state.status is PARTIAL


def test_failures_that_are_allowed():
    """A task that allows failure runs once its dependencies are settled, skipped ones included."""
    state = state_of([[], [0], [0, 1], []], allow=[2])
    state.take()
    state.settle(0, FAILED, None, "e")
    assert (state.take(), state.take()) == (2, 3)
    assert state.failed_dependencies(2) == {"0": "e", "1": "its dependency '0' failed"}


def test_stopping_on_failure():
    """With stop_on_failure nothing more is started, and what goes on is settled."""
    state = state_of([[], [], [], [1]], stop_on_failure=True)
    state.take(), state.take()
    assert state.settle(0, FAILED, None, "e") == [2, 3]
    assert state.take() is None
    state.settle(1, COMPLETE)
    assert state.over and state.status is PARTIAL
    assert state.take() is None


def test_the_end():
    """Ending a run fails what goes on and skips the rest."""
    state = state_of([[], [], [1]])
    state.take()
    state.take()
    state.settle(0, COMPLETE)
    assert state.end("enough", "cancelled") == ([1], [2])
    assert state.over
    assert [node.task.status for node in state.nodes] == [COMPLETE, FAILED, WAITING]
    assert state.nodes[1].task.error == "cancelled"


def test_an_empty_graph_is_complete():
    """A run without tasks is over, and COMPLETE."""
    state = state_of([])
    assert state.over and state.status is COMPLETE


@strategies.composite
def scenarios(draw):
    size = draw(strategies.integers(1, 8))
    dependencies = [
        draw(strategies.sets(strategies.integers(0, place - 1), max_size=3)) if place else set() for place in range(size)
    ]
    outcomes = draw(strategies.lists(strategies.sampled_from([COMPLETE, PARTIAL, FAILED]), min_size=size, max_size=size))
    allow = draw(strategies.sets(strategies.integers(0, size - 1)))
    return dependencies, outcomes, allow, draw(strategies.randoms(use_true_random=False))


def expected(dependencies, outcomes, allow):
    """What should become of each task: its status, WAITING for the skipped; by looking at each in order."""
    statuses = []
    for place, before in enumerate(dependencies):
        fruitless = [one for one in before if statuses[one] in (FAILED, WAITING)]
        statuses.append(outcomes[place] if not fruitless or place in allow else WAITING)
    return statuses


@hypothesis.given(scenarios())
def test_any_graph_in_any_order(scenario):
    """Whatever the order in which tasks are settled, each ends as the simple model says, and none starts too early."""
    dependencies, outcomes, allow, chance = scenario
    state = state_of(dependencies, allow)
    executing = []
    while True:
        place = state.take() if not executing or chance.random() < 0.6 else None
        if place is not None:
            for one in dependencies[place]:
                assert state.nodes[one].task.status.settled or one in state.skipped
            executing.append(place)
        elif executing:
            place = executing.pop(chance.randrange(len(executing)))
            state.settle(place, outcomes[place], place, "e" if outcomes[place] is FAILED else None)
        else:
            break
    assert state.over
    statuses = [node.task.status for node in state.nodes]
    assert statuses == expected(dependencies, outcomes, allow)
    assert set(state.skipped) == {place for place, status in enumerate(statuses) if status is WAITING}
