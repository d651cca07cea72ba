"""The flows that the workers of task queues run, and the scheduler, which is made before they fork.

The environment names the Redis server and the folder in which handlers leave their traces.
"""

import os
import pathlib
import time
from typing import NamedTuple

from asimov_sync import RedisCache, RunStore, Task, TaskGraph, TaskScheduler

SERVER = "ASIMOV_TEST_QUEUE_SERVER"
FOLDER = "ASIMOV_TEST_QUEUE_FOLDER"

PARTS = 4
"""The number of tasks of the flow `parts`."""

HOLD_SECONDS = 120.0
"""The seconds after which a task that is held fails."""

store = RunStore(RedisCache(url=os.environ[SERVER], default_prefix="runs"), lease=2.0)
scheduler = TaskScheduler(runs=store, max_workers=4)


def trace(context, what):
    """Append a line to the log of the handlers: what happened where."""
    line = f"{what} {context.run_id} {context.name} {os.getpid()}\n"
    file = os.open(str(log()), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line.encode())
    os.close(file)


def log():
    """Return the path of the log of the handlers."""
    return pathlib.Path(os.environ[FOLDER], "log")


def lines():
    """Return the lines of the log, split."""
    return [line.split() for line in log().read_text().splitlines()] if log().exists() else []


def traces(what, run_id=None, name=None):
    """Return the process ids of the lines of the log."""
    return [
        int(pid)
        for one, run, task, pid in lines()
        if one == what and run_id in (None, run) and name in (None, task)
    ]


class Call(NamedTuple):
    """A call of a handler."""

    run_id: str
    name: str
    pid: int


def held(prefix):
    """Return the calls of handlers that have not ended, of runs whose ids begin with a prefix."""
    started, ended = set(), set()
    for what, run_id, name, pid in lines():
        if run_id.startswith(prefix):
            (started if what == "start" else ended).add(Call(run_id, name, int(pid)))
    return started - ended


@scheduler.handler("part")
def write_part(task, context):
    """Return a text, after some time."""
    trace(context, "start")
    context.cancellation.wait(task.params["seconds"])
    context.cancellation.raise_if_cancelled()
    trace(context, "end")
    return f"{context.run_id} {context.name}"


@scheduler.handler("hold")
def hold(task, context):
    """Wait until a file with the name of the run appears."""
    trace(context, "start")
    path = pathlib.Path(os.environ[FOLDER], context.run_id)
    end = time.monotonic() + HOLD_SECONDS
    while not path.exists():
        assert time.monotonic() < end, "a test has failed, and left this process alone"
        context.cancellation.wait(0.02)
        context.cancellation.raise_if_cancelled()
    trace(context, "end")
    return "released"


@scheduler.handler("ask")
def ask(task, context):
    """Return the answer to a question."""
    return context.wait_for("agreed", type=bool)


@scheduler.handler("break")
def fail(task, context):
    """Fail."""
    raise LookupError("broken")


def release(run_id):
    """Let `hold` of a run return."""
    pathlib.Path(os.environ[FOLDER], run_id).touch()


@scheduler.flow("parts")
def build_parts(parts=PARTS, seconds=0.05):
    """Return a graph of parts, one after the other."""
    graph = TaskGraph()
    for number in range(parts):
        before = [f"part-{number - 1}"] if number else []
        task = Task(type="part", params={"seconds": seconds})
        graph.add(task, name=f"part-{number}", depends_on=before)
    return graph


@scheduler.flow("held")
def build_held():
    """Return a graph whose second task waits until it is released."""
    graph = TaskGraph()
    graph.add(Task(type="part", params={"seconds": 0}), name="first")
    graph.add(Task(type="hold"), name="second", depends_on="first")
    return graph


@scheduler.flow("single")
def build_single(type):
    """Return a graph of one task."""
    graph = TaskGraph()
    graph.add(Task(type=type), name="only")
    return graph


# Workers fork from here, with threads and an open connection of this scheduler.
store.stats()
scheduler.run(build_single("break"))
