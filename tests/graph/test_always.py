"""always=True: the task runs after any outcome of earlier tasks and any graceful end of the run."""

import concurrent.futures
import signal
import subprocess
import sys
import threading
import time

import pytest

from asimov_sync import (
    Budget,
    Cancellation,
    GraphError,
    Retry,
    Route,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)
from asimov_sync.testing import ScriptedInferenceClient

from ..tiers import suite
from ..waiting import DEADLINE, Background
from .graphs import single


class Resource:
    """The handlers of one test: "use" waits for its cancellation, "free" cleans up."""

    def __init__(self):
        self.used = threading.Event()
        self.freed = []
        self.handlers = {
            "use": self.use,
            "free": self.free,
            "fail": lambda task, context: 1 // 0,
            "done": lambda task, context: "done",
        }

    def use(self, task, context):
        self.used.set()
        context.cancellation.wait(DEADLINE)
        context.cancellation.raise_if_cancelled()

    def free(self, task, context):
        assert not context.cancellation.cancelled
        self.freed.append((context.name, sorted(context.failed), sorted(context.skipped)))
        return "freed"

    def graph(self, first="use", **options):
        """Return use, after (which depends on it) and free, which depends on both."""
        graph = TaskGraph()
        graph.add(Task(type=first), name="use")
        graph.add(Task(type="done"), name="after", depends_on="use")
        always = dict({"always": True, "timeout": DEADLINE}, **options)
        graph.add(Task(type="free"), name="free", depends_on=["use", "after"], **always)
        return graph


@pytest.fixture
def resource():
    return Resource()


@pytest.fixture(params=["threads", "one thread", "calling thread", "executor"])
def scheduler(request, resource):
    workers = {"threads": 4, "one thread": 1}.get(request.param, 0)
    executor = concurrent.futures.ThreadPoolExecutor(2) if request.param == "executor" else None
    with TaskScheduler(resource.handlers, max_workers=workers, executor=executor) as new_scheduler:
        yield new_scheduler
    if executor is not None:
        executor.shutdown()


FREED = [("free", ["after", "use"], ["after"])]


def test_after_a_failure(scheduler, resource):
    """The task runs although its dependency failed, without allow_failure."""
    result = scheduler.run(resource.graph("fail"))
    assert (result["free"], resource.freed) == ("freed", FREED)
    assert list(result.errors) == ["use"] and list(result.skipped) == ["after"]


def test_after_dependencies_were_ruled_out(scheduler, resource):
    """The task runs although a Route selected none of its dependencies."""
    scheduler.handlers["away"] = lambda task, context: Route()
    result = scheduler.run(resource.graph("away"))
    assert resource.freed == [("free", [], ["after"])]
    assert result.status is TaskStatus.COMPLETE


def test_condition_still_applies(scheduler, resource):
    """A false `when` rules the task out."""
    when = lambda inputs, context: "use" in context.failed  # noqa: E731
    assert "free" in scheduler.run(resource.graph("done", when=when)).skipped
    assert scheduler.run(resource.graph("fail", when=when))["free"] == "freed"


def test_after_on_failure_stop(scheduler, resource):
    """After the first failure, only the task with always=True runs."""
    graph = TaskGraph()
    graph.add(Task(type="fail"), name="fail")
    graph.add(Task(type="done"), name="late", depends_on="fail", allow_failure=True)
    always = {"always": True, "timeout": DEADLINE}
    graph.add(Task(type="free"), name="free", depends_on=["fail", "late"], **always)
    result = scheduler.run(graph, on_failure="stop")
    assert result.results == {"free": "freed"} and list(result.skipped) == ["late"]
    assert resource.freed == [("free", ["fail", "late"], ["late"])]


def test_waits_for_a_running_dependency(resource):
    """With on_failure="stop", the task starts after its running dependency has finished."""
    failed = threading.Event()

    def use(task, context):
        assert failed.wait(DEADLINE)
        return "used"

    with TaskScheduler(dict(resource.handlers, use=use), max_workers=2) as scheduler:

        @scheduler.on_event
        def watch(event):
            if event.type == "task_skipped":
                failed.set()

        graph = resource.graph()
        graph.add(Task(type="fail"), name="fail")
        graph.add(Task(type="done"), name="late", depends_on="fail")
        result = scheduler.run(graph, on_failure="stop")
    assert result.results == {"use": "used", "free": "freed"}
    assert resource.freed == [("free", ["after"], ["after"])]


def test_after_run_cancel(scheduler, resource):
    """run.cancel() cancels the running tasks. The task then runs, and the run ends after it."""
    run = scheduler.submit(resource.graph())
    waiting = Background(run.result)
    assert resource.used.wait(DEADLINE)
    assert run.cancel("enough") is True
    result = waiting.result()
    assert result.errors == {"use": "Cancelled: enough"}
    assert result.skipped == {"after": "the run ended early: enough"}
    assert (result["free"], resource.freed) == ("freed", FREED)
    assert run.cancel() is False


def test_after_the_time_out_of_the_run(scheduler, resource):
    """The run's time-out ends the other tasks; the task has its own time-out."""
    result = scheduler.run(resource.graph(), timeout=0.05)
    assert "time-out of 0.05 s" in result.errors["use"] and resource.freed == FREED


def test_after_a_used_up_budget(scheduler, resource):
    """A used-up budget ends the other tasks, and the task still runs."""
    client = ScriptedInferenceClient(lambda body: "fine")
    scheduler.handlers["ask"] = lambda task, context: client.generate("hello").text
    result = scheduler.run(resource.graph("ask"), budget=Budget(requests=0))
    assert "used up" in result.errors["use"] and list(result.skipped) == ["after"]
    assert resource.freed == FREED


def test_running_task_continues(scheduler, resource):
    """run.cancel() does not cancel the task while it is running, nor does a second cancel()."""
    running, release = threading.Event(), threading.Event()

    def free(task, context):
        running.set()
        assert release.wait(DEADLINE) and not context.cancellation.cancelled
        return "freed"

    scheduler.handlers["free"] = free
    graph = single("free", always=True, timeout=DEADLINE)
    run = scheduler.submit(graph)
    waiting = Background(run.result)
    assert running.wait(DEADLINE)
    assert run.cancel("first") and run.cancel("second")
    assert not run.done()
    release.set()
    assert waiting.result().results == {"x": "freed"}


@pytest.mark.parametrize("ending", ["close", "stream", "token", "nested"])
def test_not_after_a_hard_end(scheduler, resource, ending):
    """close(), a closed stream and a Cancellation around the run end it at once."""
    graph = resource.graph()
    if ending == "token":
        token = Cancellation()
        waiting = Background(scheduler.run, graph, cancellation=token)
        assert resource.used.wait(DEADLINE)
        token.cancel("outside")
        result = waiting.result()
    elif ending == "nested":
        outcomes = []

        def outer(task, context):
            outcomes.append(scheduler.run(graph))

        scheduler.handlers["outer"] = outer
        run = scheduler.submit(single("outer"))
        waiting = Background(run.result)
        assert resource.used.wait(DEADLINE)
        run.cancel("outside")
        waiting.result()
        with Cancellation(DEADLINE) as patience:
            while not outcomes and not patience.wait(0.005):
                pass
        (result,) = outcomes
    elif ending == "close":
        run = scheduler.submit(graph)
        waiting = Background(run.result)
        assert resource.used.wait(DEADLINE)
        scheduler.close()
        result = waiting.result()
    else:
        if scheduler.max_workers == 0 and "0 workers" in repr(scheduler):
            scheduler.handlers["use"] = resource.handlers["done"]
        with scheduler.stream(graph) as events:
            next(event for event in events if event.type in ("task_started", "task_finished"))
        result = scheduler.last_result
    assert resource.freed == [] and "free" in result.skipped


def test_hard_end_while_running(resource):
    """close() cancels a running task with always=True."""
    freeing, cancelled = threading.Event(), threading.Event()

    def free(task, context):
        freeing.set()
        if context.cancellation.wait(DEADLINE):
            cancelled.set()

    resource.handlers["free"] = free
    with TaskScheduler(resource.handlers, max_workers=2) as scheduler:
        run = scheduler.submit(resource.graph())
        assert resource.used.wait(DEADLINE) and run.cancel("softly")
        assert freeing.wait(DEADLINE) and not run.done()
        scheduler.close()
        assert run.done() and cancelled.wait(DEADLINE)
        assert run.result().errors["free"] == "Cancelled: the scheduler was closed"


def test_time_out_of_the_task(scheduler, resource):
    """After its own time-out, the task fails with TaskTimeout, and the run ends."""

    def free(task, context):
        assert context.cancellation.wait(DEADLINE)

    scheduler.handlers["free"] = free
    result = scheduler.run(resource.graph(timeout=0.05), timeout=0.05)
    assert result.errors["free"] == "TaskTimeout: 'free' took longer than 0.05 s"


def test_retried_after_a_cancel(scheduler, resource):
    """The task's Retry applies after run.cancel(). Several such tasks run in order."""

    def free(task, context):
        if context.attempt == 1:
            raise ConnectionError("once more")
        return resource.free(task, context)

    scheduler.handlers["free"] = free
    retry = Retry(attempts=2, wait=lambda state: 0.01)
    graph = resource.graph(retry=retry)
    last = {"always": True, "timeout": DEADLINE}
    graph.add(Task(type="free"), name="last", depends_on="free", retry=retry, **last)
    result = scheduler.run(graph, timeout=0.05)
    assert [name for name, *_ in resource.freed] == ["free", "last"]
    assert result.results == {"free": "freed", "last": "freed"}


def test_spawned_cleanup(scheduler, resource):
    """A task can spawn its own cleanup before it acquires a resource."""

    def use(task, context):
        always = {"always": True, "timeout": DEADLINE, "depends_on": context.name}
        context.spawn(Task(type="free"), name="free", **always)
        context.spawn(Task(type="done"), name="other", depends_on=context.name)
        resource.use(task, context)

    scheduler.handlers["spawning"] = use
    result = scheduler.run(single("spawning"), timeout=0.1)
    assert result["free"] == "freed" and list(result.skipped) == ["other"]


def test_cancel_in_a_handler_and_in_a_callback(resource):
    """A handler or a callback may cancel the run; tasks with always=True still run."""
    with TaskScheduler(resource.handlers, max_workers=0) as scheduler:
        runs = []
        resource.handlers["use"] = scheduler.handlers["use"] = lambda task, context: runs[0].cancel(
            "inside"
        )
        runs.append(scheduler.submit(resource.graph()))
        assert runs[0].result()["free"] == "freed"
        scheduler.handlers["use"] = resource.handlers["done"]

        @scheduler.on_event
        def watch(event):
            if event.type == "task_started" and event.name == "use":
                runs[1].cancel("callback")

        runs.append(scheduler.submit(resource.graph()))
        assert runs[1].result()["free"] == "freed"


def test_needs_a_time_out():
    """add, map and spawn refuse always=True without a time-out: the end of a run waits for it."""
    graph = TaskGraph()
    with pytest.raises(GraphError, match="'x' with always=True needs timeout="):
        graph.add(Task(type="t"), name="x", always=True)
    with pytest.raises(GraphError, match="needs timeout="):
        graph.map(Task(type="t"), [1], name="x", always=True)


PROGRAM = """
import sys, threading
from asimov_sync import Task, TaskGraph, TaskScheduler

workers = int(sys.argv[1])
freed = []

def use(task, context):
    print("started", flush=True)
    context.cancellation.wait(30)
    context.cancellation.raise_if_cancelled()

handlers = {"use": use, "free": lambda task, context: freed.append(context.name)}
scheduler = TaskScheduler(handlers, max_workers=workers)
graph = TaskGraph()
graph.add(Task(type="use"), name="use")
graph.add(Task(type="free"), name="free", depends_on="use", always=True, timeout=10)
try:
    scheduler.run(graph)
except KeyboardInterrupt:
    result = scheduler.last_result
    print(freed, list(result.errors), list(result.skipped), flush=True)
"""


@suite
@pytest.mark.parametrize("workers", [2, 0])
def test_not_after_ctrl_c(workers):
    """Ctrl-C is raised at once, and the task does not run."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(workers)],
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )
    watchdog = threading.Timer(DEADLINE, process.kill)
    watchdog.start()
    try:
        assert process.stdout.readline() == "started\n"
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "[] ['use'] ['free']\n"
        assert time.monotonic() - start < 5
        assert process.wait(DEADLINE) == 0
    finally:
        watchdog.cancel()
        process.kill()
        process.stdout.close()
        process.wait()
