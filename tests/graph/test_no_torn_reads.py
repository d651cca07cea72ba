"""No reader of a task sees a status without the result and the error that belong to it."""

import copy
import json
import pickle
import sys
import time

import pytest
from pydantic import BaseModel, field_serializer
from tenacity import wait_none

from asimov_sync import (
    NonRetryableError,
    Partial,
    Retry,
    Route,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)

from ..tiers import by_tier, suite
from ..waiting import DEADLINE, Background

pytestmark = suite

RUNS = by_tier(60, soak=500)  # in each of two modes
STATUSES = set(TaskStatus)


def of_snapshot(task):
    return task.snapshot()


def of_copy(task):
    duplicate = task.model_copy()
    return duplicate.status, duplicate.result, duplicate.error


def of_deep_copy(task):
    duplicate = copy.deepcopy(task)
    return duplicate.status, duplicate.result, duplicate.error


def of_pickle(task):
    duplicate = pickle.loads(pickle.dumps(task))
    return duplicate.status, duplicate.result, duplicate.error


def of_dict(task):
    fields = dict(task)
    return fields["status"], fields["result"], fields["error"]


def of_json(task):
    fields = json.loads(task.model_dump_json())
    return TaskStatus(fields["status"]), fields["result"], fields["error"]


READERS = (of_snapshot, of_copy, of_deep_copy, of_pickle, of_dict, of_json)


def torn(status, result, error):
    """Return whether this cannot be the state at one moment. Results here are never None."""
    return {
        TaskStatus.COMPLETE: result is None or error is not None,
        TaskStatus.PARTIAL: result is None or error is None,
        TaskStatus.FAILED: result is not None or error is None,
    }.get(status, result is not None or error is not None)


class Half(BaseModel):
    """A result that Python code serialises, during which other threads may run."""

    text: str = "half"

    def __reduce__(self):
        return Half, ()

    @field_serializer("text")
    def slowly(self, text):
        return "".join([letter.lower() for letter in text * 20])[: len(text)]


def busy_graph():
    """Return a graph with a loop over a retried task, its sibling, a PARTIAL and a failing task."""
    graph = TaskGraph()
    graph.add(Task(type="complete"), name="first")
    graph.add(
        Task(type="stumble"),
        name="again",
        depends_on="first",
        retry=Retry(attempts=2, wait=wait_none()),
    )
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
    "half": lambda task, context: Partial(Half(), "the rest is missing"),
    "loop": lambda task, context: (
        Route("first", result="once more") if context.visit == 1 else "enough"
    ),
    "fail": fail,
}


@pytest.fixture
def hurried():
    """Make threads switch far more often than by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Poller:
    """A thread that reads the tasks in one way: the statuses it has seen, and what was wrong."""

    def __init__(self, read, tasks):
        self.read, self.tasks = read, tasks
        self.seen, self.wrong = set(), []
        self.ending = False
        self.call = Background(self.poll)

    def poll(self):
        while not self.ending:
            for task in self.tasks:
                state = self.read(task)
                self.seen.add(state[0])
                if torn(*state):
                    self.wrong.append(state)

    def end(self):
        self.ending = True
        self.call.result()


@pytest.mark.parametrize("workers", [0, 2], ids=["calling thread", "threads"])
def test_readers_see_whole_states(hurried, workers):
    """In many runs with every kind of transition, readers see each status, and no torn state."""
    graph = busy_graph()
    pollers = [Poller(read, list(graph.tasks.values())) for read in READERS]
    runs, end = 0, time.monotonic() + DEADLINE
    try:
        with TaskScheduler(HANDLERS, max_workers=workers) as scheduler:
            # Readers that have seen every status, EXECUTING above all, have looked often enough.
            while runs < RUNS or (
                any(poller.seen < STATUSES for poller in pollers) and time.monotonic() < end
            ):
                result = scheduler.run(graph)
                runs += 1
                assert result.results["loop"] == "enough" and set(result.skipped) == {"skipped"}
    finally:
        for poller in pollers:
            poller.end()
    assert [poller.wrong for poller in pollers] == [[]] * len(READERS)
    assert [poller.seen for poller in pollers] == [STATUSES] * len(READERS)


def test_torn_state_is_found():
    """The check above can fail."""
    assert torn(TaskStatus.COMPLETE, None, None) and torn(TaskStatus.PARTIAL, "half", None)
    assert torn(TaskStatus.FAILED, None, None) and torn(TaskStatus.WAITING, "old", None)
    assert not torn(TaskStatus.FAILED, None, "ValueError: it failed") and not torn(
        TaskStatus.EXECUTING, None, None
    )
