"""Locking of tasks: a graph is in one run at a time, and a copy of it is not locked."""

import copy
import pickle
import threading

import pytest

from asimov_sync import GraphError, Task, TaskGraph, TaskScheduler, TaskStatus

from ..waiting import wait_for
from .graphs import single
from .test_scheduler import diamond, echo, executing


def test_task_in_two_graphs():
    """Two graphs that share a task cannot run at once, but can one after the other."""
    release = threading.Event()
    task = Task(type="wait", objective="shared")
    with TaskScheduler({"wait": lambda task, context: release.wait(20)}) as scheduler:
        run = scheduler.submit(single(task=task))
        with pytest.raises(GraphError, match="copy"):
            scheduler.run(single(task=task))
        release.set()
        assert run.result(10).status is TaskStatus.COMPLETE
        assert scheduler.run(single(task=task)).status is TaskStatus.COMPLETE


@pytest.mark.parametrize(
    "twin_of",
    [copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph)), TaskGraph.copy],
    ids=["deep copy", "pickle", "copy"],
)
def test_running_graph_can_be_copied_and_pickled(twin_of):
    """A copy of a running graph is not locked, and can run at the same time."""
    release, graph = threading.Event(), diamond(b="wait")

    def wait(task, context):
        return release.wait(20) if task is graph["b"] else echo(task, context)

    with TaskScheduler({"wait": wait, "echo": echo}) as scheduler:
        run = scheduler.submit(graph)
        wait_for(lambda: "b" in executing(graph))
        duplicate = twin_of(graph)
        assert duplicate["b"] is not graph["b"]
        result = scheduler.run(duplicate)
        assert (result.status, result.results["d"]) == (TaskStatus.COMPLETE, "dbaca")
        assert graph["b"].status is TaskStatus.EXECUTING and not run.done()
        release.set()
        assert run.result(10).results["b"] is True
