"""Callbacks for events: order, completeness, thread, slow ones, and what they may call."""

import collections
import contextvars
import logging
import threading

import pytest

from asimov_sync import GraphError, Retry, Task, TaskGraph, TaskScheduler, TaskStatus
from asimov_sync.testing import ScriptedInferenceClient

from ..waiting import Background, wait_for
from .graphs import chain, single, wide


def quick(task, context):
    context.report(0.5, "half")
    return context.name


@pytest.fixture(params=[8, 1, 0], ids=["threads", "one thread", "calling thread"])
def scheduler(request):
    with TaskScheduler({"quick": quick}, max_workers=request.param) as new_scheduler:
        yield new_scheduler


@pytest.fixture(params=[True, False], ids=["blocking", "beside"])
def blocking(request):
    return request.param


def test_all_events_in_order(scheduler, blocking):
    """A callback gets all events in order, one at a time, before run() returns."""
    seen, inside = collections.defaultdict(list), []

    def look(event):
        inside.append(1)
        assert len(inside) == 1
        seen[event.run_id].append((event.type, event.sequence))
        inside.pop()

    scheduler.on_event(look, blocking=blocking)
    graph = wide("quick", 50)
    graph.add(Task(type="quick"), name="last", depends_on="quick")
    events = list(scheduler.stream(graph))
    run_id = events[0].run_id
    wait_for(lambda: len(seen[run_id]) == len(events))
    assert seen[run_id] == [(event.type, event.sequence) for event in events]
    assert [number for _, number in seen[run_id]] == list(range(1, 3 * 51 + 3))
    assert seen[run_id][-1][0] == "run_finished"
    for number in range(20):
        scheduler.run(single("quick"), run_id=str(number))
        assert [type for type, _ in seen.pop(str(number))] == [
            "run_started",
            "task_started",
            "task_progress",
            "task_finished",
            "run_finished",
        ]


def test_decorators(scheduler):
    """on_event works as a decorator, with and without arguments, and returns the function."""
    seen = []

    @scheduler.on_event
    def one(event):
        seen.append("one")

    @scheduler.on_event(blocking=True)
    def two(event):
        seen.append("two")

    assert one(None) is two(None) is None
    scheduler.run(single("quick"))
    assert (seen.count("one"), seen.count("two")) == (6, 6)


def test_slow_callback_delays_nothing():
    """The run ends while a callback blocks; result() waits for it, done() does not."""
    gate, seen = threading.Event(), []
    with TaskScheduler({"quick": quick}, max_workers=1) as scheduler:
        scheduler.on_event(lambda event: gate.wait(20) and seen.append(event.type))
        run = scheduler.submit(chain("quick", "quick"))
        wait_for(run.done)
        assert seen == []
        assert scheduler.last_result.status is TaskStatus.COMPLETE
        waiting = Background(run.result)
        gate.set()
        assert waiting.result().status is TaskStatus.COMPLETE
        assert seen[-1] == "run_finished"


def test_slow_blocking_callback_delays_its_run():
    """With blocking=True the worker on which the event happened waits for the callback."""
    gate, entered, threads = threading.Event(), threading.Event(), set()

    def look(event):
        threads.add(threading.current_thread().name.split("_")[0])
        if event.type == "task_finished" and event.name == "a":
            entered.set()
            gate.wait(20)

    with TaskScheduler({"quick": quick}, max_workers=1) as scheduler:
        scheduler.on_event(look, blocking=True)
        graph = chain("quick", "quick")
        run = scheduler.submit(graph)
        assert entered.wait(20)
        assert graph["b"].status is not TaskStatus.COMPLETE
        assert not run.done()
        gate.set()
        assert run.result(20).status is TaskStatus.COMPLETE
        assert threads <= {"asimov-task", "MainThread"}


def test_callback_that_raises(scheduler, blocking, caplog):
    """Each exception is logged; the run is not affected, and later events are delivered."""
    calls = []

    def broken(event):
        calls.append(event.type)
        raise ValueError("broken")

    scheduler.on_event(broken, blocking=blocking)
    with caplog.at_level(logging.ERROR):
        assert scheduler.run(single("quick")).status is TaskStatus.COMPLETE
    assert calls == [
        "run_started",
        "task_started",
        "task_progress",
        "task_finished",
        "run_finished",
    ]
    assert [record.getMessage() for record in caplog.records] == [
        f"a callback for events failed on {type}" for type in calls
    ]


@pytest.mark.parametrize("workers", [2, 1])
def test_callback_that_exits(workers, blocking, caplog):
    """SystemExit in a callback on a background thread ends that call only."""
    calls = []

    def leave(event):
        if threading.current_thread() is not threading.main_thread():
            calls.append(event.type)
            raise SystemExit(3)

    gate = threading.Event()
    with TaskScheduler(
        {"quick": quick, "wait": lambda task, context: gate.wait(20)}, max_workers=workers
    ) as scheduler:
        scheduler.on_event(leave, blocking=blocking)
        run = scheduler.submit(chain("wait", "quick"))
        gate.set()
        assert run.result(20).status is TaskStatus.COMPLETE
        wait_for(lambda: "run_finished" in calls)


def test_ctrl_c_in_a_callback_on_the_calling_thread():
    """Ctrl-C in a callback on the main thread is raised, the run ends, later readers get all
    events.
    """
    seen = []

    def interrupted(event):
        seen.append(event.type)
        if event.type == "task_finished" and event.name == "a":
            raise KeyboardInterrupt

    with TaskScheduler({"quick": quick}, max_workers=0) as scheduler:
        scheduler.on_event(interrupted)
        run = scheduler.submit(chain("quick", "quick"))
        with pytest.raises(KeyboardInterrupt):
            run.result(20)
        assert run.result(20).results == {"a": "a"}
    assert seen[-1] == "run_finished"


def test_callbacks_can_wait_for_their_run():
    """Several callbacks wait for the result of their run, at any event, without a deadlock."""
    runs, statuses, ready = [], [], threading.Event()

    def ask(event):
        assert ready.wait(20)
        statuses.append(runs[0].result(20).status)
        assert list(runs[0].events())[-1].type == "run_finished"

    with TaskScheduler({"quick": quick}, max_workers=1) as scheduler:
        for _ in range(3):
            scheduler.on_event(ask)
        runs.append(scheduler.submit(wide("quick", 5)))
        ready.set()
        assert Background(runs[0].result).result().status is TaskStatus.COMPLETE
        assert statuses == [TaskStatus.COMPLETE] * 51


def test_blocking_callback_cannot_wait_for_its_run(scheduler):
    """Waiting raises GraphError instead of a deadlock; after the end of the run it works."""
    runs, texts, ready = [], [], threading.Event()

    def ask(event):
        if runs:  # not on the submitting thread before it has the handle
            try:
                texts.append(runs[0].result().status.name)
            except GraphError as error:
                texts.append(str(error))

    scheduler.on_event(ask, blocking=True)
    scheduler.handlers["ready"] = lambda task, context: ready.wait(20)
    graph = TaskGraph()
    graph.add(Task(type="ready"), name="ready")
    graph.map(Task(type="quick"), range(5), depends_on="ready")
    runs.append(scheduler.submit(graph))
    ready.set()
    assert runs[0].result(20).status is TaskStatus.COMPLETE
    assert "without blocking=True" in texts[0]
    assert texts[-1] == "COMPLETE"


def test_callback_that_runs_another_graph(scheduler, blocking):
    """A callback can run a graph on the same scheduler, even if it occupies the only worker."""
    results = []

    def react(event):
        if event.type == "task_finished" and event.name == "x":
            results.append(scheduler.run(chain("quick", "quick")).results)

    scheduler.on_event(react, blocking=blocking)
    result = Background(scheduler.run, single("quick")).result()
    assert result.status is TaskStatus.COMPLETE
    assert results == [{"a": "a", "b": "b"}]


def test_cancelling_from_a_callback(scheduler, blocking):
    """A callback can cancel the run of its event."""
    runs, ready = [], threading.Event()

    def cancel(event):
        if event.type == "task_finished":
            assert ready.wait(20)
            runs[0].cancel("seen enough")

    scheduler.on_event(cancel, blocking=blocking)
    scheduler.handlers["wait"] = lambda task, context: context.cancellation.wait(20)
    graph = TaskGraph()
    graph.add(Task(type="quick"), name="a")
    graph.add(Task(type="wait"), name="b", depends_on="a")
    runs.append(scheduler.submit(graph))
    ready.set()
    result = runs[0].result(20)
    assert result.results == {"a": "a"}
    assert "seen enough" in "".join(list(result.errors.values()) + list(result.skipped.values()))


def test_closing_from_a_callback(blocking):
    """A callback can close the scheduler. The run ends, and the callback gets the other events."""
    seen = []

    def close(event):
        seen.append(event.type)
        if event.type == "task_started":
            scheduler.close()

    scheduler = TaskScheduler(
        {"wait": lambda task, context: context.cancellation.wait(20)}, max_workers=1
    )
    scheduler.on_event(close, blocking=blocking)
    result = scheduler.submit(chain("wait", "wait")).result(20)
    assert "closed" in result.skipped["b"]
    assert seen == [
        "run_started",
        "task_started",
        "task_finished",
        "task_skipped",
        "run_finished",
    ]


def test_inline_callbacks_run_on_the_waiting_thread():
    """With max_workers=0, the waiting thread calls callbacks, even for other threads' events."""
    idents, types = set(), []

    def look(event):
        idents.add(threading.get_ident())
        types.append(event.type)

    def late(task, context):
        Background(context.report, 0.5, "from a thread").result()
        context.cancellation.wait(20)

    with TaskScheduler({"late": late, "quick": quick}, max_workers=0) as scheduler:
        scheduler.on_event(look)
        graph = single("late", timeout=0.05)
        graph.add(Task(type="quick"), name="after", depends_on="x", allow_failure=True)
        assert scheduler.run(graph).results == {"after": "after"}
        assert scheduler.run(single("late"), timeout=0.05).errors.keys() == {"x"}
        graph = single("late")
        run = scheduler.submit(graph)

        def cancel():
            wait_for(lambda: graph["x"].status is TaskStatus.EXECUTING)
            run.cancel()

        wait = Background(cancel)
        run.result(20)
        wait.result()
        run = scheduler.submit(single("quick"))
        Background(run.cancel).result()
        before = len(types)
        run.result(20)
        assert types[before:] == ["task_skipped", "run_finished"]
    assert idents == {threading.get_ident()}
    assert types.count("run_finished") == 4


def test_inline_callbacks_are_not_behind_a_reader():
    """With max_workers=0, callbacks receive each event before a reader of the stream does."""
    seen = []
    with TaskScheduler(
        {"late": lambda task, context: context.cancellation.wait(20)}, max_workers=0
    ) as scheduler:
        scheduler.on_event(lambda event: seen.append(event.type))
        for graph, timeout in ((single("late"), 0.05), (single("late", timeout=0.05), None)):
            for event in scheduler.stream(graph, timeout=timeout):
                assert event.type in seen
            assert seen == ["run_started", "task_started", "task_finished", "run_finished"]
            del seen[:]


def test_started_event_of_a_conditional_task(blocking):
    """The TaskStarted of a task with a `when` is delivered while its handler runs."""
    started = threading.Event()
    with TaskScheduler(
        {"wait": lambda task, context: started.wait(20)}, max_workers=1
    ) as scheduler:
        scheduler.on_event(
            lambda event: event.type == "task_started" and started.set(), blocking=blocking
        )
        assert scheduler.run(single("wait", when=lambda inputs: True)).results == {"x": True}


def test_context_variables_of_callbacks(scheduler, blocking):
    """A callback has the context variables of the caller of submit, not those of the task."""
    variable = contextvars.ContextVar("variable", default="none")
    client = ScriptedInferenceClient(lambda body: "fine")
    seen = []

    def look(event):
        seen.append(variable.get())
        client.generate("hello")

    def handler(task, context):
        variable.set("task's")
        context.report(0.5)

    scheduler.handlers["handler"] = handler
    scheduler.on_event(look, blocking=blocking)
    variable.set("caller's")
    result = scheduler.run(single("handler", retry=Retry()))
    assert seen == ["caller's"] * 5
    assert result.usage.requests == 0
    assert client.usage.requests == 5


def test_many_runs_at_once(blocking):
    """With many runs at once, a callback gets all events of each run in order."""
    ends = collections.Counter()
    lock = threading.Lock()

    def look(event):
        if event.type == "run_finished":
            with lock:
                ends[event.result.run_id] += 1

    with TaskScheduler({"quick": quick}, max_workers=3) as scheduler:
        for _ in range(2):
            scheduler.on_event(look, blocking=blocking)
        calls = [
            Background(lambda: [scheduler.run(chain("quick", "quick")).run_id for _ in range(10)])
            for _ in range(10)
        ]
        ids = [run_id for call in calls for run_id in call.result()]
    assert ends == dict.fromkeys(ids, 2)
