"""TaskScheduler: graphs on threads, and on the calling thread."""

import contextvars
import gc
import json
import math
import os
import signal
import threading
import time
import weakref

import pytest

from asimov_sync import (
    Cancellation,
    Cancelled,
    ClosedError,
    GraphError,
    MemoryCache,
    Partial,
    RunFailed,
    RunFinished,
    RunTimeout,
    Task,
    TaskFinished,
    TaskGraph,
    TaskProgress,
    TaskScheduler,
    TaskSkipped,
    TaskStarted,
    TaskStatus,
    Usage,
)
from asimov_sync.testing import ScriptedInferenceClient, count_callbacks, count_runs

from ..tiers import suite
from ..waiting import Background, in_child, wait_for
from .graphs import single


def echo(task, context):
    return task.objective + "".join(context.inputs.values())


def fail(task, context):
    raise ValueError("it failed")


def diamond(**types):
    """Return the graph a → b, c → d. types: the types of some tasks, by name."""
    graph = TaskGraph()
    for name, before in (("a", []), ("b", ["a"]), ("c", ["a"]), ("d", ["b", "c"])):
        graph.add(Task(type=types.get(name, "echo"), objective=name), name=name, depends_on=before)
    return graph


def executing(graph):
    """Return the names of the EXECUTING tasks."""
    return {name for name, task in graph.tasks.items() if task.status is TaskStatus.EXECUTING}


@pytest.fixture(params=[8, 1, 0], ids=["threads", "one thread", "calling thread"])
def scheduler(request):
    """Return a scheduler in each of its modes."""
    with TaskScheduler({"echo": echo, "fail": fail}, max_workers=request.param) as new_scheduler:
        yield new_scheduler


@pytest.fixture
def threads():
    """Return a scheduler with threads."""
    with TaskScheduler({"echo": echo, "fail": fail}) as new_scheduler:
        yield new_scheduler


def test_diamond(scheduler):
    """Results flow along the dependencies, in the order of depends_on; all tasks are COMPLETE."""
    graph = diamond()
    result = scheduler.run(graph)
    assert result.status is TaskStatus.COMPLETE
    assert result.results == {"a": "a", "b": "ba", "c": "ca", "d": "dbaca"}
    assert graph["d"].snapshot() == (TaskStatus.COMPLETE, "dbaca", None)
    assert (result.errors, result.skipped, result.exceptions) == ({}, {}, {})
    assert set(result.durations) == set("abcd")
    assert result.duration > 0
    result.raise_for_failure()


def test_middle_of_a_diamond_runs_in_parallel(threads):
    """b and c meet at a barrier, so both are EXECUTING at once."""
    barrier = threading.Barrier(2)
    threads.handlers["meet"] = lambda task, context: barrier.wait(10)
    threads.handlers["count"] = lambda task, context: len(context.inputs)
    result = threads.run(diamond(b="meet", c="meet", d="count"))
    assert result.results["d"] == 2
    assert not barrier.broken


def test_failing_task(scheduler):
    """If b fails, c is COMPLETE, d is WAITING and skipped with a reason, the run is PARTIAL."""
    graph = diamond(b="fail")
    result = scheduler.run(graph)
    assert result.status is TaskStatus.PARTIAL
    assert {name: task.status.name for name, task in graph.tasks.items()} == {
        "a": "COMPLETE",
        "b": "FAILED",
        "c": "COMPLETE",
        "d": "WAITING",
    }
    assert result.errors == {"b": "ValueError: it failed"}
    assert result.skipped == {"d": "its dependency 'b' failed"}
    assert isinstance(result.exceptions["b"], ValueError)
    with pytest.raises(RunFailed, match="b: ValueError: it failed; d: skipped") as caught:
        result.raise_for_failure()
    assert caught.value.__cause__ is result.exceptions["b"]


def test_run_without_results_is_failed(scheduler):
    """A run in which no task has a result is FAILED."""
    result = scheduler.run(diamond(a="fail"))
    assert result.status is TaskStatus.FAILED
    assert set(result.skipped) == set("bcd")


def test_partial_result(scheduler):
    """A handler that returns Partial makes its task PARTIAL; dependents get the result."""
    scheduler.handlers["half"] = lambda task, context: Partial("half", "the rest is missing")
    result = scheduler.run(diamond(b="half"))
    assert result.status is TaskStatus.PARTIAL
    assert result.results["d"] == "dhalfca"
    assert result.errors == {"b": "the rest is missing"}
    assert result.exceptions == {}


def test_allow_failure(scheduler):
    """A task with allow_failure runs with the inputs that exist, and sees what failed and why."""
    seen = {}

    def record_context(task, context):
        seen.update(inputs=context.inputs, failed=context.failed)

    scheduler.handlers["look"] = record_context
    graph = diamond(b="fail")
    graph.add(Task(type="look"), name="look", depends_on=["d", "b", "c"], allow_failure=True)
    result = scheduler.run(graph)
    assert seen == {
        "inputs": {"c": "ca"},
        "failed": {"d": "its dependency 'b' failed", "b": "ValueError: it failed"},
    }
    assert result.status is TaskStatus.PARTIAL


def test_stop_on_failure():
    """on_failure="stop" starts nothing after the first failure."""
    with TaskScheduler({"echo": echo, "fail": fail}, max_workers=1) as scheduler:
        graph = TaskGraph()
        for name, type in (("a", "echo"), ("b", "fail"), ("c", "echo")):
            graph.add(Task(type=type, objective=name), name=name)
        result = scheduler.run(graph, on_failure="stop")
    assert result.results == {"a": "a"}
    assert result.skipped == {"c": "the run stopped after 'b' failed"}
    with pytest.raises(ValueError, match="on_failure"):
        scheduler.run(graph, on_failure="panic")


def test_invalid_graph_runs_nothing(scheduler):
    """For an unknown type, a cycle or an unknown dependency no task runs; the error names it."""
    graph = TaskGraph()
    first = graph.add(Task(type="echo"), name="first")
    graph.add(Task(type="ehco", objective="typo"), name="second")
    with pytest.raises(GraphError, match="'ehco' of task 'second'.*'echo', 'fail'"):
        scheduler.run(graph)
    assert first.status is TaskStatus.WAITING
    graph = TaskGraph()
    graph.add(Task(type="echo"), name="a", depends_on="a")
    with pytest.raises(GraphError, match="wait for one another"):
        scheduler.run(graph)


def test_no_barrier_between_levels(threads):
    """A task starts when its own dependencies are done, whatever else is running."""
    release = threading.Event()
    threads.handlers["slow"] = lambda task, context: release.wait(20)
    threads.handlers["release"] = lambda task, context: release.set()
    graph = TaskGraph()
    graph.add(Task(type="slow"), name="slow")
    graph.add(Task(type="echo"), name="quick")
    graph.add(Task(type="release"), name="after", depends_on="quick")
    assert threads.run(graph, timeout=10).results["slow"] is True


def test_ready_tasks_start_in_the_order_of_adding(scheduler):
    """A single worker takes ready tasks in the order in which they were added."""
    if scheduler.max_workers > 1:
        scheduler.close()
        scheduler = TaskScheduler(scheduler.handlers, max_workers=1)
    graph = TaskGraph()
    for number in (3, 1, 2):
        graph.add(Task(type="echo"), name=str(number))
    graph.add(Task(type="echo"), name="last", depends_on="3")
    started = [event.name for event in scheduler.stream(graph) if isinstance(event, TaskStarted)]
    assert started == ["3", "1", "2", "last"]


def test_max_workers_limits_all_runs_together():
    """Two runs at once on one scheduler together have at most max_workers tasks running."""
    running, most, lock = [], [], threading.Lock()

    def work(task, context):
        with lock:
            running.append(1)
            most.append(len(running))
        time.sleep(0.002)
        with lock:
            running.pop()

    with TaskScheduler({"work": work}, max_workers=3) as scheduler:
        runs = []
        for _ in range(3):
            graph = TaskGraph()
            graph.map(Task(type="work"), range(20))
            runs.append(scheduler.submit(graph))
        assert [run.result(20).status for run in runs] == [TaskStatus.COMPLETE] * 3
    assert max(most) == 3


def test_long_run_does_not_starve_a_short_one():
    """A short run ends while a run of many tasks is in progress."""
    with TaskScheduler(
        {"work": lambda task, context: time.sleep(0.002), "echo": echo}, max_workers=1
    ) as scheduler:
        long = TaskGraph()
        long.map(Task(type="work"), range(300))
        run = scheduler.submit(long)
        assert scheduler.run(diamond()).status is TaskStatus.COMPLETE
        assert not run.done()
        run.cancel()


def test_many_runs_from_many_threads(threads):
    """Twenty threads run a graph each on one scheduler."""
    calls = [
        Background(lambda: [threads.run(diamond()).results["d"] for _ in range(5)])
        for _ in range(20)
    ]
    assert [call.result() for call in calls] == [["dbaca"] * 5] * 20


def test_graph_runs_once_at_a_time(threads):
    """A second run at the same time is an error that names copy(); a later run is allowed."""
    release = threading.Event()
    threads.handlers["wait"] = lambda task, context: release.wait(20)
    graph = diamond(b="wait", d="fail")
    run = threads.submit(graph)
    with pytest.raises(GraphError, match=r"graph\.copy\(\)"):
        threads.run(graph)
    release.set()
    first = run.result(10)
    again = threads.run(graph)
    assert first.status is again.status is TaskStatus.PARTIAL
    assert first.tasks["b"].status is TaskStatus.COMPLETE
    graph["b"].move(TaskStatus.WAITING)
    assert first.tasks["b"].status is TaskStatus.COMPLETE
    assert graph["a"].id == first.tasks["a"].id


def test_graph_is_unlocked_after_a_refused_run(scheduler):
    """A graph whose run was refused can run after it is fixed."""
    graph = diamond(b="unknown")
    with pytest.raises(GraphError):
        scheduler.run(graph)
    scheduler.handlers["unknown"] = echo
    assert scheduler.run(graph).status is TaskStatus.COMPLETE


def test_handler_decorator(scheduler):
    """@scheduler.handler(type) registers a function and returns it unchanged."""

    @scheduler.handler("double")
    def double(task, context):
        return 2

    assert double(None, None) == 2
    graph = TaskGraph()
    graph.add(Task(type="double"), name="x")
    assert scheduler.run(graph).results == {"x": 2}


def test_empty_graph(scheduler):
    """A run without tasks is COMPLETE, and its only events are its start and its end."""
    assert scheduler.run(TaskGraph()).status is TaskStatus.COMPLETE
    assert [event.type for event in scheduler.stream(TaskGraph())] == [
        "run_started",
        "run_finished",
    ]


# Events


def test_events(scheduler):
    """Each task starts and finishes, or is skipped; RunFinished is last; all are JSON-safe."""

    def report(task, context):
        context.report(0.5, "half way")
        context.report(text="almost")

    scheduler.handlers["report"] = report
    events = list(scheduler.stream(diamond(b="fail", c="report")))
    by_task = {
        name: [event for event in events if getattr(event, "name", None) == name] for name in "abcd"
    }
    assert [type(event) for event in by_task["b"]] == [TaskStarted, TaskFinished]
    assert [type(event) for event in by_task["c"]] == [
        TaskStarted,
        TaskProgress,
        TaskProgress,
        TaskFinished,
    ]
    assert [type(event) for event in by_task["d"]] == [TaskSkipped]
    assert (by_task["c"][1].fraction, by_task["c"][1].text, by_task["c"][2].fraction) == (
        0.5,
        "half way",
        None,
    )
    assert [event.task.status.name for event in by_task["b"]] == ["EXECUTING", "FAILED"]
    assert by_task["d"][0].reason == "its dependency 'b' failed"
    assert isinstance(events[-1], RunFinished) and events[-1].result.status is TaskStatus.PARTIAL
    dicts = [json.loads(json.dumps(event.to_dict())) for event in events]
    assert {one["type"] for one in dicts} == {
        "run_started",
        "task_started",
        "task_progress",
        "task_finished",
        "task_skipped",
        "run_finished",
    }
    assert dicts[-1]["result"]["errors"] == {"b": "ValueError: it failed"}
    assert all(abs(event.time - time.time()) < 60 for event in events)
    assert [event.time for event in events] == sorted(event.time for event in events)


def test_events_of_a_submitted_run(threads):
    """Several readers can read the events, during the run and after it."""
    run = threads.submit(diamond())
    reading = Background(lambda: [event.type for event in run.events()])
    assert run.result(10).status is TaskStatus.COMPLETE
    late = [event.type for event in run.events()]
    assert late == ["run_started"] + 4 * ["task_finished"] + ["run_finished"]
    assert reading.result()[0] == "run_started" and reading.result()[-1] == "run_finished"
    assert run.done()


def test_slow_reader_does_not_block_the_run(threads):
    """A run ends although its events are not read; none is dropped."""
    graph = TaskGraph()
    graph.map(Task(type="echo"), range(500))
    events = threads.stream(graph)
    wait_for(lambda: threads.last_result is not None)
    assert len(list(events)) == 1002


def test_closing_the_iterator_cancels_the_run(threads):
    """Leaving a stream of events early cancels its run."""
    started, cancelled = threading.Event(), threading.Event()

    def wait(task, context):
        started.set()
        context.cancellation.wait(20)
        cancelled.set()

    threads.handlers["wait"] = wait
    for event in threads.stream(diamond(b="wait")):
        if isinstance(event, TaskStarted) and event.name == "b":
            assert started.wait(10)
            break
    assert cancelled.wait(10)
    assert "not read to the end" in threads.last_result.errors["b"]


def test_inline_stream_runs_step_by_step():
    """On the calling thread, a task runs when the reader needs its events, not before."""
    executed = []
    with TaskScheduler(
        {"note": lambda task, context: executed.append(context.name)}, max_workers=0
    ) as scheduler:
        graph = TaskGraph()
        graph.add(Task(type="note"), name="a")
        graph.add(Task(type="note"), name="b")
        events = scheduler.stream(graph)
        assert executed == []
        assert next(events).type == "run_started"
        assert executed == []
        assert next(events).name == "a"
        assert executed == ["a"]
        assert [event.type for event in events][-1] == "run_finished"
        assert executed == ["a", "b"]


# Cancelling


def blocked():
    """Return a scheduler with a run in which b and c wait for their cancellation."""
    scheduler = TaskScheduler(
        {"echo": echo, "wait": lambda task, context: context.cancellation.wait(20)}
    )
    graph = diamond(b="wait", c="wait")
    run = scheduler.submit(graph)
    wait_for(lambda: executing(graph) == {"b", "c"})
    return scheduler, run


def test_cancel():
    """Cancelling a run fails running tasks, leaves the others WAITING, and keeps the results."""
    scheduler, run = blocked()
    assert run.cancel("enough") is True
    assert run.cancel("again") is False
    result = run.result(5)
    assert result.status is TaskStatus.PARTIAL
    assert result.results == {"a": "a"}
    assert result.errors == {"b": "Cancelled: enough", "c": "Cancelled: enough"}
    assert result.skipped == {"d": "the run ended early: enough"}
    assert isinstance(result.exceptions["b"], Cancelled)
    scheduler.close()


@suite
def test_run_timeout(clock):
    """A run is cancelled after its time-out, whether or not a thread waits for it."""
    with TaskScheduler(
        {"echo": echo, "wait": lambda task, context: context.cancellation.wait(20)}
    ) as scheduler:
        graph = diamond(b="wait")
        run = scheduler.submit(graph, timeout=60)
        wait_for(lambda: "b" in executing(graph))
        clock.advance(60)
        assert run.done() and "time-out of 60 s" in run.result().errors["b"]
        assert scheduler.run(diamond(), timeout=20).status is TaskStatus.COMPLETE


def test_result_timeout_does_not_cancel_the_run():
    """result(timeout) raises RunTimeout, and the run continues."""
    scheduler, run = blocked()
    with pytest.raises(RunTimeout, match="it continues"):
        run.result(0.05)
    assert not run.done()
    scheduler.close()
    assert run.result(5).status is TaskStatus.PARTIAL


def test_handler_that_ignores_the_cancellation(threads):
    """The run ends, the late result is discarded, and the worker is replaced."""
    release, started = threading.Event(), threading.Event()

    def stubborn(task, context):
        started.set()
        release.wait(20)
        return "late"

    with TaskScheduler({"echo": echo, "stubborn": stubborn}, max_workers=1) as scheduler:
        graph = diamond(a="stubborn")
        run = scheduler.submit(graph)
        assert started.wait(10)
        run.cancel()
        assert run.result(5).errors["a"] == "Cancelled: cancelled"
        assert scheduler.run(diamond()).status is TaskStatus.COMPLETE
        release.set()
        wait_for(lambda: not scheduler.stuck_threads)
        assert graph["a"].snapshot() == (TaskStatus.FAILED, None, "Cancelled: cancelled")


@suite
def test_surrounding_cancellation_ends_a_run(threads, clock):
    """A run ends when the token around submit is cancelled, or at that token's deadline."""
    threads.handlers["wait"] = lambda task, context: context.cancellation.wait(20)
    token = Cancellation()
    graph = diamond(b="wait")
    with token:
        run = threads.submit(graph)
    wait_for(lambda: "b" in executing(graph))
    token.cancel("outside")
    assert "outside" in run.result(5).errors["b"]
    threads.handlers["wait"] = lambda task, context: (
        clock.advance(60) or context.cancellation.wait(20)
    )
    with Cancellation(timeout=60):
        assert "deadline" in threads.run(diamond(b="wait")).errors["b"]


def test_interruption_cancels_and_is_raised_again(threads):
    """An exception in the waiting caller cancels the run; last_result has the results so far."""

    class Interruption(BaseException):
        pass

    def interrupt(number, frame):
        raise Interruption()

    def send_signal(task, context):
        os.kill(os.getpid(), signal.SIGINT)
        context.cancellation.wait(20)

    threads.handlers["wait"] = send_signal
    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(Interruption):
            threads.run(diamond(a="wait"))
    finally:
        signal.signal(signal.SIGINT, previous)
    assert "interrupted by Interruption" in threads.last_result.errors["a"]


def test_interruption_on_the_calling_thread():
    """Ctrl-C in an inline handler ends the run and is raised; an Exception fails the task only."""

    def interrupted(task, context):
        raise KeyboardInterrupt

    with TaskScheduler({"echo": echo, "interrupted": interrupted}, max_workers=0) as scheduler:
        with pytest.raises(KeyboardInterrupt):
            scheduler.run(diamond(b="interrupted"))
        assert scheduler.last_result.results == {"a": "a"}
        assert scheduler.run(diamond()).status is TaskStatus.COMPLETE


def test_close(threads):
    """close() cancels the runs, refuses new ones, and unlocks the graphs."""
    threads.handlers["wait"] = lambda task, context: context.cancellation.wait(20)
    graph = diamond(b="wait")
    run = threads.submit(graph)
    wait_for(lambda: "b" in executing(graph))
    threads.close()
    assert "closed" in run.result(5).errors["b"]
    with pytest.raises(ClosedError, match="new one"):
        threads.run(graph)
    with TaskScheduler({"echo": echo, "wait": echo}) as other:
        assert other.run(graph).status is TaskStatus.COMPLETE


# The context


def test_context(scheduler):
    """A handler sees its name, its run, the run's cache and the caller's context variables."""
    variable = contextvars.ContextVar("variable")
    variable.set("caller's")
    seen = []

    def record_context(task, context):
        context.cache.set(context.name, 1)
        seen.append((context.name, context.run_id, variable.get(), context.cache.keys()))
        variable.set("changed")

    scheduler.handlers["look"] = record_context
    graph = TaskGraph()
    graph.add(Task(type="look"), name="a")
    graph.add(Task(type="look"), name="b", depends_on="a")
    assert scheduler.run(graph, run_id="r1").run_id == "r1"
    assert seen == [("a", "r1", "caller's", {"a"}), ("b", "r1", "caller's", {"a", "b"})]
    assert variable.get() == "caller's"


def test_context_cache_is_part_of_the_given_cache():
    """context.cache is a namespace of the scheduler's cache, under the run's id."""
    cache = MemoryCache()
    with TaskScheduler(
        {"set": lambda task, context: context.cache.set("k", 1)}, cache=cache
    ) as scheduler:
        graph = TaskGraph()
        graph.add(Task(type="set"))
        scheduler.run(graph, run_id="r1")
    assert cache.get_all() == {"run:r1:k": 1}


def test_usage(scheduler):
    """A task's usage counts all clients that it calls, on any thread; the run's is their sum."""
    client = ScriptedInferenceClient(lambda body: "fine")

    def ask(task, context):
        return [
            Background(contextvars.copy_context().run, client.generate, "hello").result().usage
            for _ in range(2)
        ]

    scheduler.handlers["ask"] = ask
    result = scheduler.run(one_and_two("ask"))
    assert result.usages["two"] == sum(result.results["two"], Usage())
    assert result.usage == result.usages["one"] + result.usages["two"] == client.usage
    assert result.usage.requests == 4


def one_and_two(type):
    graph = TaskGraph()
    graph.add(Task(type=type), name="one")
    graph.add(Task(type=type), name="two")
    return graph


def test_run_inside_a_task(scheduler):
    """More tasks than workers each run a graph on the same scheduler; none waits for ever."""

    def outer(task, context):
        return scheduler.run(diamond()).results["d"]

    scheduler.handlers["outer"] = outer
    graph = TaskGraph()
    graph.map(Task(type="outer"), range(12), name="n")
    result = scheduler.run(graph, timeout=20)
    assert set(result.results.values()) == {"dbaca"}
    assert len(result.results) == 12


def test_stream_inside_a_task(scheduler):
    """A task can read the events of a run on its own scheduler."""
    scheduler.handlers["outer"] = lambda task, context: len(list(scheduler.stream(diamond())))
    graph = TaskGraph()
    graph.map(Task(type="outer"), range(10))
    assert set(scheduler.run(graph, timeout=20).results.values()) == {10}


# Threads and memory


def test_no_thread_without_a_run():
    """A new scheduler starts no thread; with max_workers=0 a run does not, either."""
    before = set(threading.enumerate())  # may include threads of other tests, which may end
    TaskScheduler({"echo": echo})
    inline = TaskScheduler({"who": lambda task, context: threading.get_ident()}, max_workers=0)
    graph = TaskGraph()
    graph.add(Task(type="who"), name="who")
    assert inline.run(graph).results == {"who": threading.get_ident()}
    assert set(threading.enumerate()) <= before
    with pytest.raises(ValueError, match="max_workers"):
        TaskScheduler(max_workers=-1)


def test_scheduler_works_in_a_forked_child(threads):
    """A scheduler that has run graphs, and is running one, works in a forked child."""
    release = threading.Event()
    threads.handlers["wait"] = lambda task, context: release.wait(20)
    graph = diamond(b="wait")
    run = threads.submit(graph)
    wait_for(lambda: executing(graph))

    def use():
        assert threads.run(diamond()).results["d"] == "dbaca"

    in_child(use)
    release.set()
    assert run.result(10).errors == {
        "d": "TypeError: sequence item 0: expected str instance, bool found"
    }


def test_finished_run_is_freed(threads):
    """The scheduler and the token keep nothing of a finished run but its result."""
    token = Cancellation()
    with token:
        run = threads.submit(diamond(), timeout=60)
        run.result(10)
    watch = weakref.ref(run)
    del run
    wait_for(lambda: gc.collect() >= 0 and watch() is None, "the run's end")
    assert not count_callbacks(token)
    assert not count_runs(threads)


@suite
def test_ten_thousand_tasks(threads):
    """A wide graph and a long chain of thousands of tasks end with all results."""
    wide = TaskGraph()
    wide.map(Task(type="echo", objective="x"), range(10000))
    assert len(threads.run(wide).results) == 10000
    chain = TaskGraph()
    for number in range(5000):
        chain.add(
            Task(type="echo"), name=str(number), depends_on=[str(number - 1)] if number else []
        )
    assert len(threads.run(chain).results) == 5000


def test_run_under_a_cancelled_token(scheduler):
    """A run under a cancelled token starts no task, and its result has the reason."""
    with Cancellation() as token:
        token.cancel("before")
        result = scheduler.run(single())
    assert result.skipped == {"x": "the run ended early: before"}
    assert scheduler.run(single()).status is TaskStatus.COMPLETE


def test_infinite_timeouts_are_refused(scheduler):
    """An infinite time-out is a ValueError, and does not affect the time-outs of other runs."""
    scheduler.handlers["wait"] = lambda task, context: context.cancellation.wait(20)
    for infinite in (math.inf, -math.inf):
        for call in (scheduler.run, scheduler.submit, scheduler.stream):
            with pytest.raises(ValueError, match="or None for no limit; not -?inf"):
                call(single(), timeout=infinite)
        with pytest.raises(ValueError, match="not -?inf"):
            scheduler.submit(single()).result(infinite)
        with pytest.raises(ValueError, match="not -?inf"):
            Cancellation(timeout=infinite)
        with pytest.raises(ValueError, match="not -?inf"):
            Cancellation().wait(infinite)
        assert "0.1 s" in scheduler.run(single("wait"), timeout=0.1).errors["x"]
