"""Runs that are started or awaited where the stack is nearly full."""

import sys

import pytest

from asimov_sync import Task, TaskGraph, TaskScheduler, TaskStatus

from ..waiting import Background

DEPTHS = [*range(6, 26), 40, 60, 80, 100, 150]
"""The numbers of calls that are left, more or less."""


def call_deep(calls, function):
    return function() if calls <= 0 else call_deep(calls - 1, function)


def run(scheduler, graph):
    return scheduler.run(graph)


def stream(scheduler, graph):
    return list(scheduler.stream(graph))[-1].result


def submit(scheduler, graph):
    return scheduler.submit(graph).result()


@pytest.mark.parametrize("workers", [2, 0], ids=["threads", "calling thread"])
@pytest.mark.parametrize("start", [run, stream, submit])
def test_recursion_error_leaves_no_run(start, workers):
    """The run ends normally, or was not started: its graph can run again at once."""
    outcomes = set()
    with TaskScheduler({"done": lambda task, context: "done"}, max_workers=workers) as scheduler:

        def attempt(left):
            graph = TaskGraph()
            graph.map(Task(type="done"), range(2), name="x")
            try:
                depth = sys.getrecursionlimit() - left
                outcomes.add(call_deep(depth, lambda: start(scheduler, graph)).status)
            except RecursionError:
                outcomes.add(RecursionError)
            again = scheduler.run(graph, timeout=10)
            assert again.status is TaskStatus.COMPLETE, (left, again.errors, again.skipped)

        for left in DEPTHS:
            Background(attempt, left).result()
    assert outcomes == {TaskStatus.COMPLETE, RecursionError}
