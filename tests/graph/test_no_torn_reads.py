"""No reader of a task, on whatever thread and in whatever way, ever sees its status without what belongs to it."""

import collections
import copy
import json
import sys
import threading

import pytest
from tenacity import wait_none

from asimov_sync import NonRetryableError, Partial, Retry, Route, Task, TaskGraph, TaskScheduler, TaskStatus

from ..waiting import Background

RUNS = 1000
STATUSES = {status.value for status in TaskStatus}


def of_snapshot(task):
    return task.snapshot()


def of_copy(task):
    twin = task.model_copy()
    return twin.status, twin.result, twin.error


def of_deep_copy(task):
    twin = copy.deepcopy(task)
    return twin.status, twin.result, twin.error


def of_json(task):
    told = json.loads(task.model_dump_json())
    return TaskStatus(told["status"]), told["result"], told["error"]


def torn(status, result, error):
    """Whether this cannot be the state of one moment. In these graphs no result is None."""
    return {
        TaskStatus.COMPLETE: result is None or error is not None,
        TaskStatus.PARTIAL: result is None or error is None,
        TaskStatus.FAILED: result is not None or error is None,
    }.get(status, result is not None or error is not None)


def busy_graph():
    """A loop over a task that is retried, with a sibling of the loop, something PARTIAL, and something that fails."""
    graph = TaskGraph()
    graph.add(Task(type="complete"), name="first")
    graph.add(Task(type="stumble"), name="again", depends_on="first", retry=Retry(attempts=2, wait=wait_none()))
    graph.add(Task(type="half"), name="half", depends_on="again")
    graph.add(Task(type="loop"), name="loop", depends_on="again")
    graph.add(Task(type="fail"), name="fail", depends_on=["half", "loop"])
    graph.add(Task(type="complete"), name="skipped", depends_on="fail")
    graph.add(Task(type="complete"), name="last", depends_on=["fail", "loop"], allow_failure=True)
    return graph


def stumble(task, context):
    if context.attempt == 1:
        raise ValueError("a first attempt")
    return ["tried again"] * context.visit


def fail(task, context):
    raise NonRetryableError("it failed")


HANDLERS = {
    "complete": lambda task, context: {"visit": context.visit},
    "stumble": stumble,
    "half": lambda task, context: Partial(["half"], "the rest is missing"),
    "loop": lambda task, context: Route("first", result="once more") if context.visit == 1 else "enough",
    "fail": fail,
}


@pytest.fixture
def hurried():
    """Threads take turns far more often than they do by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("workers", [0, 2], ids=["calling thread", "threads"])
@pytest.mark.parametrize("read", [of_snapshot, of_copy, of_deep_copy, of_json])
def test_a_reader_sees_whole_states(hurried, workers, read):
    """Polled during a thousand runs in all, with failures, a partial, a retry and a loop; every status is seen, none is torn."""
    graph = busy_graph()
    tasks = list(graph.tasks.values())
    stop, wrong, seen = threading.Event(), [], collections.Counter()

    def poll():
        while not stop.is_set():
            for task in tasks:
                state = read(task)
                seen[state[0].value] += 1
                if torn(*state):
                    wrong.append(state)

    with TaskScheduler(HANDLERS, max_workers=workers) as scheduler:
        poller = Background(poll)
        try:
            # However quick they are: until the poller has seen every status, EXECUTING above all, it has not looked enough.
            runs = 0
            while runs < RUNS // 8 or not (set(seen) == STATUSES or poller.thread.is_alive() is False or runs == 20 * RUNS):
                result = scheduler.run(graph)
                runs += 1
                assert result.results["loop"] == "enough" and set(result.skipped) == {"skipped"}
        finally:
            stop.set()
            poller.result()
    assert wrong == []
    assert set(seen) == STATUSES


def test_a_torn_state_would_be_found():
    """The check above can fail."""
    assert torn(TaskStatus.COMPLETE, None, None) and torn(TaskStatus.PARTIAL, "half", None)
    assert torn(TaskStatus.FAILED, None, None) and torn(TaskStatus.WAITING, "old", None)
    assert not torn(TaskStatus.FAILED, None, "ValueError: it failed") and not torn(TaskStatus.EXECUTING, None, None)
