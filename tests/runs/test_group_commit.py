"""The outcomes of several workers are written together, and nothing depends on unwritten ones."""

import json
import threading

import pytest

from asimov_sync import MemoryCache, RunStore, Task, TaskGraph, TaskScheduler, TaskStatus

from ..waiting import DEADLINE, wait_for


class SlowWriter:
    """A serializer that stops in the middle of the commit with the outcome of the task "first"."""

    def __init__(self):
        self.entered = threading.Event()
        self.release = threading.Event()
        self.commits = [[]]

    def dumps(self, value):
        is_dict = isinstance(value, dict)
        if is_dict and value.get("phase") == "COMPLETE":
            self.commits[-1].append(value["name"])
            if value["name"] == "first":
                self.entered.set()
                assert self.release.wait(DEADLINE)
        elif is_dict and "counts" in value:  # the head ends a commit
            self.commits.append([])
        return json.dumps(value).encode()

    def loads(self, data):
        return json.loads(data)


@pytest.fixture
def writer():
    """A serializer that is released at the end of the test."""
    writer = SlowWriter()
    yield writer
    writer.release.set()


def submit(writer, workers, handle, tasks):
    """Submit a graph. tasks: the names, and for each the names of its dependencies."""
    scheduler = TaskScheduler(
        {"work": handle}, max_workers=workers, runs=RunStore(MemoryCache(), serializer=writer)
    )
    graph = TaskGraph()
    for name, depends_on in tasks.items():
        graph.add(Task(type="work"), name=name, depends_on=depends_on)
    return scheduler, graph, scheduler.submit(graph, run_id="r")


def test_a_task_starts_beside_the_writing_of_other_outcomes(writer):
    """A task starts while the outcome of another one is written. A task that depends on that
    outcome starts after it."""
    after_release = {}

    def handle(task, context):
        after_release[context.name] = writer.release.is_set()
        if context.name == "other":
            writer.release.set()

    scheduler = TaskScheduler(
        {"work": handle, "hold": lambda task, context: writer.entered.wait(DEADLINE)},
        max_workers=2,
        runs=RunStore(MemoryCache(), serializer=writer),
    )
    holds, graph = TaskGraph(), TaskGraph()
    holds.add(Task(type="hold"))  # the worker on which "other" starts
    for name, depends_on in {"first": [], "other": [], "then": ["first"]}.items():
        graph.add(Task(type="work"), name=name, depends_on=depends_on)
    with scheduler:
        scheduler.submit(holds)
        scheduler.submit(graph, run_id="r").result(timeout=DEADLINE).raise_for_failure()
    assert after_release == {"first": False, "other": False, "then": True}


def test_outcomes_are_written_together(writer):
    """One further commit writes all outcomes that became known during a commit."""
    names = ["one", "two", "three"]

    def handle(task, context):
        if context.name != "first":
            assert writer.entered.wait(DEADLINE)

    tasks = dict.fromkeys(["first", *names], ())
    scheduler, graph, run = submit(writer, 4, handle, tasks)
    with scheduler:
        wait_for(lambda: all(graph[name].status is TaskStatus.COMPLETE for name in names))
        writer.release.set()
        run.result(timeout=DEADLINE).raise_for_failure()
    assert [sorted(commit) for commit in writer.commits if commit] == [["first"], sorted(names)]


def test_a_worker_waits_until_its_outcome_is_written(writer):
    """A worker starts no other task before its last outcome is written, so that a killed process
    has to repeat one task for each worker at most."""
    after_release = {}

    def handle(task, context):
        after_release[context.name] = writer.release.is_set()
        if context.name == "second":
            assert writer.entered.wait(DEADLINE)

    tasks = dict.fromkeys(["first", "second", "third", "fourth"], ())
    scheduler, graph, run = submit(writer, 2, handle, tasks)
    with scheduler:
        wait_for(lambda: graph["second"].status is TaskStatus.COMPLETE)
        writer.release.set()
        run.result(timeout=DEADLINE).raise_for_failure()
    assert after_release == {"first": False, "second": False, "third": True, "fourth": True}
