"""What handlers, users and signals do to a run that they should not: it ends all the same, and the graph is free again."""

import copy
import gc
import json
import math
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

from asimov_sync import Cancellation, GraphError, Partial, Task, TaskGraph, TaskScheduler, TaskStatus, WorkersClosed

from ..tiers import suite
from ..waiting import Background, wait_for
from .test_scheduler import diamond, echo, executing


def one(type="echo", task=None):
    graph = TaskGraph()
    graph.add(task or Task(type=type, objective="x"), name="x")
    return graph


@pytest.fixture(params=[2, 0], ids=["threads", "calling thread"])
def scheduler(request):
    with TaskScheduler({"echo": echo}, max_workers=request.param) as made:
        yield made


def test_an_exception_that_cannot_be_described(scheduler):
    """A handler whose exception fails in its own __str__ fails its task, with the type in the error."""

    class Bad(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    def handler(task, context):
        raise Bad()

    scheduler.handlers["bad"] = handler
    assert Background(scheduler.run, one("bad")).result().errors == {"x": "Bad"}


def test_an_error_of_a_partial_that_cannot_be_described(scheduler):
    """A Partial whose error fails in its own __str__ makes its task PARTIAL, and ends nothing else."""

    class Bad:
        def __str__(self):
            raise RuntimeError("no text")

    scheduler.handlers["bad"] = lambda task, context: Partial("1", Bad())
    graph = one("bad")
    graph.add(Task(type="echo"), name="y", depends_on="x")
    result = Background(scheduler.run, graph).result()
    assert result.results == {"x": "1", "y": "1"}
    assert result.errors == {"x": "an error of the type Bad"}


def test_a_handler_that_is_a_coroutine_function(scheduler):
    """It fails its task with what to do instead; its coroutine is not left behind."""

    async def handler(task, context):
        return "never"

    scheduler.handlers["async"] = handler
    result = Background(scheduler.run, one("async")).result()
    assert "the handler of 'async' is a coroutine function" in result.errors["x"]


@pytest.mark.parametrize("status", [TaskStatus.COMPLETE, TaskStatus.WAITING], ids=str)
def test_a_handler_that_moves_its_own_task(scheduler, status):
    """A task that its handler moved ends as the handler's return says."""
    scheduler.handlers["move"] = lambda task, context: task.move(status) or "returned"
    assert Background(scheduler.run, one("move")).result().results == {"x": "returned"}


def test_a_task_in_two_graphs():
    """Two graphs that share a task do not run at once; one after the other they do."""
    release = threading.Event()
    task = Task(type="wait", objective="shared")
    with TaskScheduler({"wait": lambda task, context: release.wait(20)}) as scheduler:
        run = scheduler.submit(one(task=task))
        with pytest.raises(GraphError, match="copy"):
            scheduler.run(one(task=task))
        release.set()
        assert run.result(10).status is TaskStatus.COMPLETE
        assert scheduler.run(one(task=task)).status is TaskStatus.COMPLETE


@pytest.mark.parametrize(
    "twin_of",
    [copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph)), TaskGraph.copy],
    ids=["deep copy", "pickle", "copy"],
)
def test_a_running_graph_may_be_copied_and_pickled(twin_of):
    """What comes of it is not running: it runs while the graph that it was made of still does."""
    release, graph = threading.Event(), diamond(b="wait")

    def wait(task, context):
        return release.wait(20) if task is graph["b"] else echo(task, context)

    with TaskScheduler({"wait": wait, "echo": echo}) as scheduler:
        run = scheduler.submit(graph)
        wait_for(lambda: "b" in executing(graph))
        twin = twin_of(graph)
        assert twin["b"] is not graph["b"]
        result = scheduler.run(twin)
        assert (result.status, result.results["d"]) == (TaskStatus.COMPLETE, "dbaca")
        assert graph["b"].status is TaskStatus.EXECUTING and not run.done()
        release.set()
        assert run.result(10).results["b"] is True


def test_a_result_that_json_cannot_hold(scheduler):
    """It becomes its repr in the JSON of a run, and leaves the others what they are; events are JSON all the same."""
    cycle = ["x"]
    cycle.append(cycle)
    scheduler.handlers["cycle"] = lambda task, context: cycle
    graph = diamond(b="cycle", d="nan")
    scheduler.handlers["nan"] = lambda task, context: math.nan
    told = [json.loads(json.dumps(event.to_dict(), allow_nan=False)) for event in scheduler.stream(graph)]
    results = told[-1]["result"]["results"]
    assert results == {"a": "a", "b": "['x', [...]]", "c": "ca", "d": None}


def test_a_cancelled_token(scheduler):
    """A run under a token that is cancelled already starts nothing, and says why."""
    with Cancellation() as token:
        token.cancel("before")
        result = scheduler.run(one())
    assert result.skipped == {"x": "the run ended early: before"}
    assert scheduler.run(one()).status is TaskStatus.COMPLETE


@suite
def test_a_stream_that_is_dropped_before_its_first_event(scheduler):
    """Events that nobody asked for are no reason to go on: the run is cancelled, and the graph may run again."""
    graph = one()
    scheduler.stream(graph)
    gc.collect()
    assert scheduler.run(graph).status is TaskStatus.COMPLETE
    scheduler.stream(graph).close()
    assert scheduler.run(graph).status is TaskStatus.COMPLETE


def test_a_stream_that_is_left_frees_its_graph(scheduler):
    """After a break in the middle of its events, a graph may run again at once."""
    graph = diamond()
    for _ in scheduler.stream(graph):
        break
    assert scheduler.run(graph).results["d"] == "dbaca"


@suite
def test_a_stream_that_the_garbage_collector_closes():
    """Iterators in reference cycles, collected by whatever thread allocates, lock up nothing."""
    with TaskScheduler({"echo": lambda task, context: [[] for _ in range(50)]}, max_workers=4) as scheduler:

        def litter():
            for _ in range(40):
                graph = TaskGraph()
                graph.map(Task(type="echo"), range(30))
                events = scheduler.stream(graph)
                next(events)
                cycle = [events]
                cycle.append(cycle)
                del events, cycle

        threshold = gc.get_threshold()
        gc.set_threshold(20, 2, 2)
        try:
            for call in [Background(litter) for _ in range(3)]:
                call.result(30)
        finally:
            gc.set_threshold(*threshold)
        assert scheduler.run(one()).status is TaskStatus.COMPLETE


def told(events):
    """A generator around a stream, as a web server has one: its end is a destructor's, where nobody reads it."""
    with events:
        for event in events:
            yield event.type


@pytest.mark.parametrize("around", [iter, told], ids=["the stream itself", "a generator around it"])
def test_a_stream_that_is_dropped_while_a_worker_is_started(around):
    """A destructor waits for no lock of the workers: it may be called in the thread that they are just starting."""
    with TaskScheduler({"wait": lambda task, context: context.cancellation.wait(20), "echo": echo}) as scheduler:
        graph = one("wait")
        dropped = [around(scheduler.stream(graph))]
        next(dropped[0])
        wait_for(lambda: graph["x"].status is TaskStatus.EXECUTING)
        with scheduler._backend._pool._lock:
            Background(dropped.clear).result()
        scheduler.handlers["wait"] = echo
        assert scheduler.run(graph).status is TaskStatus.COMPLETE


@suite
@pytest.mark.parametrize("workers", [2, 0], ids=["threads", "calling thread"])
def test_a_stream_that_is_left_to_the_end_of_the_process(workers):
    """A program that ends with a stream half-read ends at once, and no destructor complains."""
    program = """
from asimov_sync import Task, TaskGraph, TaskScheduler
scheduler = TaskScheduler({{"t": lambda task, context: context.name}}, max_workers={})
graph = TaskGraph()
graph.map(Task(type="t"), range(100))
events = scheduler.stream(graph)
print(next(events).type)
""".format(workers)
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20)
    assert (done.returncode, done.stdout.split()) == (0, [b"task_started"]), done.stderr
    assert b"__del__" not in done.stderr  # Python 3.7 itself may say that a thread was just starting


def test_an_infinite_timeout(scheduler):
    """An infinite time-out is none, and leaves other runs theirs."""
    assert scheduler.run(one(), timeout=math.inf).status is TaskStatus.COMPLETE
    scheduler.handlers["wait"] = lambda task, context: context.cancellation.wait(math.inf)
    with Cancellation(timeout=math.inf):
        assert "0.1 s" in scheduler.run(one("wait"), timeout=0.1).errors["x"]


def test_workers_that_cannot_be_had(monkeypatch):
    """Where no thread can be started, submit raises, and the graph is free."""
    graph = one()
    with TaskScheduler({"echo": echo}) as scheduler:

        def no_thread(self):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr("asimov_sync.workers.alarms.start", lambda: None)
            patch.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(WorkersClosed, match="no worker thread"):
                scheduler.submit(graph)
        assert not scheduler._runs
        assert scheduler.run(graph).status is TaskStatus.COMPLETE


def test_nested_runs_do_not_multiply_workers():
    """A worker that waits for a run in its task gives its place to one other: no more than max_workers are at work."""
    together, most, lock = [], [], threading.Lock()

    def inner(task, context):
        with lock:
            together.append(1)
            most.append(len(together))
        time.sleep(0.002)
        with lock:
            together.pop()

    with TaskScheduler({"inner": inner, "echo": echo}, max_workers=2) as scheduler:

        def outer(task, context):
            graph = TaskGraph()
            graph.map(Task(type="inner"), range(5))
            return len(scheduler.run(graph).results)

        scheduler.handlers["outer"] = outer
        graph = TaskGraph()
        graph.map(Task(type="outer"), range(8))
        assert list(scheduler.run(graph).results.values()) == [5] * 8
    assert max(most) == 2


PROGRAM = """
import random, signal, sys, time
from asimov_sync import Task, TaskGraph, TaskScheduler

chance = random.Random(7)
running = False

def strike(number, frame):
    if running:
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, strike)
scheduler = TaskScheduler({"t": lambda task, context: None}, max_workers=0 if sys.argv[1] == "inline" else 4)
graph = TaskGraph()
graph.map(Task(type="t"), range(800))
struck = 0
end = time.monotonic() + 5
while time.monotonic() < end and struck < 100:
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.03))
    try:
        running = True
        scheduler.run(graph)
        running = False
    except KeyboardInterrupt:
        running = False
        struck += 1
signal.setitimer(signal.ITIMER_REAL, 0)
result = scheduler.run(graph)
print(struck > 5, result.status.name, len(result.results), len(scheduler._runs), flush=True)
"""


# Before 3.10 Ctrl-C may strike between the end of a `with` and the release of its lock (bugs.python.org/issue29988), which no
# library can mend. Interrupts of a run that waits, in test_interrupts, are tested on every Python.
if sys.version_info >= (3, 10):

    @suite
    @pytest.mark.parametrize("mode", ["inline", "threads"])
    def test_ctrl_c_at_any_moment(mode):
        """KeyboardInterrupt at random moments of many runs is that and nothing else, and the graph may always run again."""
        command = [sys.executable, "-c", PROGRAM, mode]
        process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=60)
        assert process.stdout == "True COMPLETE 800 0\n", process.stdout + process.stderr
        assert process.returncode == 0


@suite
def test_a_signal_handler_may_cancel():
    """A signal handler that cancels, on a thread that is just registering with the same token, does not lock up."""
    token = Cancellation()
    stop = time.monotonic() + 0.5
    before = signal.signal(signal.SIGALRM, lambda number, frame: token.cancel("signal") or token.on_cancel(int))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        while time.monotonic() < stop:
            with token.on_cancel(int):
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert token.reason == "signal"
