"""The events of runs: their numbers, their size as JSON, undone tasks, late and slow readers."""

import collections
import json
import os
import signal
import threading
import time

import pytest

from asimov_sync import (
    Cancellation,
    Retry,
    Route,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
    Usage,
)
from asimov_sync.testing import ScriptedInferenceClient

from ..tiers import by_tier, soak
from ..waiting import Background, wait_for
from .graphs import chain, record_events, single, wide


def echo(task, context):
    return context.name


@pytest.fixture(params=[4, 0], ids=["threads", "calling thread"])
def scheduler(request):
    with TaskScheduler({"echo": echo}, max_workers=request.param) as made:
        yield made


def describe(event):
    """Return the parts of an event that do not depend on time."""
    return (event.type, getattr(event, "name", ""), getattr(event, "attempt", None))


def test_events_name_their_run(scheduler):
    """Each event has the id of its run and a number in it; callbacks can tell runs apart."""
    events = record_events(scheduler)
    scheduler.run(single("echo"), run_id="first")
    scheduler.run(chain("echo", "echo"), run_id="second")
    numbers = {"first": [], "second": []}
    for event in events:
        numbers[event.run_id].append(event.sequence)
    assert numbers == {"first": [1, 2, 3, 4], "second": [1, 2, 3, 4, 5, 6]}
    assert [event.to_dict()["run_id"] for event in events[:4]] == ["first"] * 4


@pytest.mark.parametrize("count", [0, 1, 200])
def test_events_of_a_run_that_was_cancelled_before(scheduler, count):
    """RunStarted is first and RunFinished is last, if the token around the run is cancelled."""
    token = Cancellation()
    token.cancel("too late")
    graph = wide("echo", count)
    received = record_events(scheduler)
    streamed = list(scheduler.stream(graph, cancellation=token))
    called = list(received)
    run = scheduler.submit(graph, cancellation=token)
    run.result()
    expected = ["run_started"] + ["task_skipped"] * count + ["run_finished"]
    for events in (streamed, called, list(run.events())):
        assert [event.type for event in events] == expected
        assert [event.sequence for event in events] == list(range(1, count + 3))


def test_seconds_and_usage(scheduler):
    """TaskFinished has the time and the tokens of all attempts of its task."""
    client = ScriptedInferenceClient(lambda body: "fine")

    def ask(task, context):
        client.generate("hello")
        if context.attempt == 1:
            raise ValueError("again")

    scheduler.handlers["ask"] = ask
    graph = single("ask", retry=Retry(attempts=2, wait=lambda state: 0.0))
    events = list(scheduler.stream(graph))
    finished = next(event for event in events if event.type == "task_finished")
    assert (finished.attempt, finished.visit) == (2, 1)
    assert finished.usage == client.usage and finished.usage.requests == 2
    assert finished.seconds == events[-1].result.durations["x"] > 0
    assert finished.to_dict()["usage"]["requests"] == 2
    quick = list(scheduler.stream(single("echo")))[2]
    assert quick.usage == Usage()


def test_size_as_json():
    """An answer in 200 pieces to a task with 20 kB of params is less than 60 kB of JSON."""
    client = ScriptedInferenceClient(lambda body: "1234 " * 200)

    def ask(task, context):
        with client.stream("hello") as stream:
            return "".join(stream.text_stream)

    graph = TaskGraph()
    graph.add(Task(type="ask", params={"text": "x" * 20_000}), name="ask")
    with TaskScheduler({"ask": ask}) as scheduler:
        events = list(scheduler.stream(graph))
    texts = [event for event in events if event.type == "task_text"]
    assert "".join(event.text for event in texts) == "1234 " * 200
    size = sum(len(json.dumps(event.to_dict())) for event in events)
    assert len(texts) >= 200 and size < 60_000
    assert "params" not in events[1].to_dict()["task"] and "task" not in texts[0].to_dict()
    full = texts[0].to_dict(full=True)
    assert full["task"]["params"] == {"text": "x" * 20_000}


def test_undone_tasks(scheduler):
    """A loop publishes TaskUndone for each task whose events do not count any more."""

    def check(task, context):
        if context.visit == 1:
            context.spawn(Task(type="echo"), name="child")
            return Route("a", result="again")
        return "good"

    scheduler.handlers["check"] = check
    events = list(scheduler.stream(chain("echo", "echo", "check")))
    undone = [event for event in events if event.type == "task_undone"]
    started_child = ("task_started", "child", 1) in map(describe, events)
    names = {event.name: event.removed for event in undone}
    child = {"child": True} if started_child else {}
    assert names == {"a": False, "b": False, "c": False, **child}
    for event in undone:
        assert event.task.snapshot() == (TaskStatus.WAITING, None, None)
        assert event.reason == "a loop went back to an earlier task"
        assert (event.attempt, event.visit) == (1, 1)
    last = max(event.sequence for event in undone)
    assert [describe(event) for event in events if event.sequence > last] == [
        ("task_started", "a", 1),
        ("task_finished", "a", 1),
        ("task_started", "b", 1),
        ("task_finished", "b", 1),
        ("task_started", "c", 1),
        ("task_finished", "c", 1),
        ("run_finished", "", None),
    ]


def test_retry_undoes_spawned_tasks():
    """A retry publishes TaskUndone for tasks that the failed attempt spawned and that started."""
    started = threading.Event()

    def child(task, context):
        started.set()

    def parent(task, context):
        if context.attempt == 1:
            context.spawn(Task(type="child"), name="child")
            assert started.wait(20)
            raise ValueError("again")

    with TaskScheduler({"parent": parent, "child": child}) as scheduler:
        events = list(
            scheduler.stream(single("parent", retry=Retry(attempts=2, wait=lambda state: 0.0)))
        )
    (undone,) = [event for event in events if event.type == "task_undone"]
    assert (undone.name, undone.removed) == ("child", True)
    assert undone.reason == "the attempt that spawned it is repeated"


def test_late_reader():
    """A reader that opens late gets the present state first, then everything that follows."""
    gate = threading.Event()

    def wait(task, context):
        context.report(0.1)
        assert gate.wait(20)

    def fail(task, context):
        raise ValueError("broken")

    handlers = {"echo": echo, "wait": wait, "fail": fail}
    with TaskScheduler(handlers, max_workers=1) as scheduler:
        graph = TaskGraph()
        graph.add(Task(type="fail"), name="broken")
        graph.add(Task(type="echo"), name="skipped", depends_on="broken")
        graph.add(Task(type="echo"), name="done")
        graph.add(Task(type="wait"), name="running")
        graph.add(Task(type="echo"), name="later", depends_on="running")
        run = scheduler.submit(graph)
        wait_for(lambda: graph["running"].status is TaskStatus.EXECUTING)
        events = run.events()
        left = run.events()
        assert next(left).type == "run_started"
        del left
        state = [describe(next(events)) for _ in range(5)]
        assert state == [
            ("run_started", "", None),
            ("task_finished", "broken", 1),
            ("task_skipped", "skipped", 0),
            ("task_finished", "done", 1),
            ("task_started", "running", 1),
        ]
        gate.set()
        assert [describe(event)[:2] for event in events] == [
            ("task_finished", "running"),
            ("task_started", "later"),
            ("task_finished", "later"),
            ("run_finished", ""),
        ]
        after = [describe(event)[0] for event in run.events()]
        assert after == (
            ["run_started", "task_finished", "task_skipped"] + ["task_finished"] * 3
        ) + ["run_finished"]


def test_many_skipped_tasks(scheduler):
    """Each task that a cancel cuts off has its TaskSkipped, with the next number and its reason."""
    events = record_events(scheduler)
    scheduler.handlers["cancel"] = lambda task, context: runs[0].cancel("enough")
    ready = threading.Event()
    scheduler.handlers["ready"] = lambda task, context: ready.wait(20)
    graph = TaskGraph()
    graph.add(Task(type="ready"), name="ready")
    graph.add(Task(type="cancel"), name="cancel", depends_on="ready")
    graph.map(Task(type="echo"), range(500), name="page", depends_on="cancel")
    runs = [scheduler.submit(graph)]
    ready.set()
    result = runs[0].result(20)
    assert len(result.skipped) == 500
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    skipped = [event for event in events if event.type == "task_skipped"]
    assert [event.name for event in skipped] == [f"page[{number}]" for number in range(500)]
    assert {event.reason for event in skipped} == {"the run ended early: enough"}
    assert {event.task.status for event in skipped} == {TaskStatus.WAITING}
    assert skipped[7].to_dict()["task"]["id"] == str(graph["page[7]"].id)
    late = list(runs[0].events())
    assert [event.name for event in late if event.type == "task_skipped"] == [
        event.name for event in skipped
    ]


def test_late_reader_after_a_loop_over_many_skipped_tasks():
    """A late reader does not see many ruled-out tasks as skipped if a loop ran them after all."""

    def choose(task, context):
        return Route("page[0]") if context.visit == 1 else "all"

    def check(task, context):
        return Route("choose") if context.visit == 1 else "good"

    handlers = {"echo": echo, "choose": choose, "check": check}
    with TaskScheduler(handlers, max_workers=2) as scheduler:
        graph = TaskGraph()
        graph.add(Task(type="choose"), name="choose")
        graph.map(Task(type="echo"), range(200), name="page", depends_on="choose")
        graph.add(Task(type="check"), name="check", depends_on="page[0]")
        run = scheduler.submit(graph)
        assert len(run.result(20).results) == 202
        late = [event.type for event in run.events()]
    assert late == ["run_started"] + 202 * ["task_finished"] + ["run_finished"]


def test_late_reader_after_a_retry_in_a_stopped_run():
    """A task that was cut off, and that a retry of its spawner removed, has no event any more."""
    spawned, cancelled = threading.Event(), threading.Event()

    def clean(task, context):
        if context.attempt == 1:
            for number in range(3):
                context.spawn(Task(type="echo"), name=f"child {number}", depends_on="busy")
            spawned.set()
            assert cancelled.wait(20)
            raise ValueError("again")

    handlers = {"echo": echo, "clean": clean, "busy": lambda t, c: c.cancellation.wait(20)}
    with TaskScheduler(handlers, max_workers=3) as scheduler:
        graph = TaskGraph()
        graph.add(Task(type="busy"), name="busy")
        graph.add(Task(type="echo"), name="after", depends_on="busy")
        retry = Retry(attempts=2, wait=lambda state: 0.0)
        graph.add(Task(type="clean"), name="clean", always=True, timeout=20, retry=retry)
        events = record_events(scheduler)
        run = scheduler.submit(graph)
        assert spawned.wait(20)
        run.cancel("enough")
        cancelled.set()
        result = run.result(20)
        late = [describe(event)[:2] for event in run.events()]
    assert list(result.tasks) == ["busy", "after", "clean"]
    undone = [(event.name, event.removed) for event in events if event.type == "task_undone"]
    assert undone == [(f"child {number}", True) for number in range(3)]
    assert late == [
        ("run_started", ""),
        ("task_finished", "busy"),
        ("task_skipped", "after"),
        ("task_finished", "clean"),
        ("run_finished", ""),
    ]


def test_reader_waits_after_tasks_that_were_cut_off():
    """After the events of tasks that a stop cut off, a reader waits for the following events."""
    gate = threading.Event()

    def wait(task, context):
        assert gate.wait(20)

    def fail(task, context):
        raise ValueError("broken")

    with TaskScheduler({"echo": echo, "wait": wait, "fail": fail}, max_workers=2) as scheduler:
        graph = TaskGraph()
        graph.add(Task(type="wait"), name="busy")
        graph.add(Task(type="fail"), name="broken")
        graph.map(Task(type="echo"), range(3), name="page", depends_on="busy")
        seen = []
        for event in scheduler.stream(graph, on_failure="stop"):
            seen.append(describe(event)[:2])
            if seen.count(("task_skipped", "page[2]")):
                gate.set()
    assert seen[-2:] == [("task_finished", "busy"), ("run_finished", "")]
    assert [name for type, name in seen if type == "task_skipped"] == [
        f"page[{number}]" for number in range(3)
    ]


def talk(task, context):
    for number in range(task.params["count"]):
        context.report(number / task.params["count"], text=str(number))
    return "done"


def test_slow_reader_gets_merged_progress():
    """A reader that is far behind gets the last progress of each attempt; the rest is complete."""
    with TaskScheduler({"talk": talk}, max_workers=2) as scheduler:
        graph = TaskGraph()
        graph.map(Task(type="talk", params={"count": 3000}), range(2), name="talk")
        events = scheduler.stream(graph)
        wait_for(lambda: scheduler.last_result is not None)
        events = list(events)
    assert 1000 <= len(events) < 1100
    numbers = [event.sequence for event in events]
    assert numbers == sorted(set(numbers)) and numbers[-1] == 2 * 3000 + 6
    for name in ("talk[0]", "talk[1]"):
        own = [event for event in events if getattr(event, "name", "") == name]
        assert own[0].type == "task_started" and own[-1].type == "task_finished"
        assert own[-2].text == "2999"


def test_slow_callback_gets_merged_text():
    """The texts of one reply are joined for a callback that is far behind; nothing is lost."""
    gate, pieces, ended = threading.Event(), [], []
    client = ScriptedInferenceClient(lambda body: "012345678 " * 2000)

    def ask(task, context):
        with client.stream("hello") as stream:
            return "".join(stream.text_stream)

    with TaskScheduler({"ask": ask}, max_workers=2) as scheduler:

        @scheduler.on_event
        def slow(event):
            gate.wait(20)
            if event.type == "task_text":
                pieces.append((event.name, event.text))
            elif event.type == "task_finished":
                ended.append(event.name)

        graph = TaskGraph()
        graph.map(Task(type="ask"), range(3), name="ask")
        run = scheduler.submit(graph)
        wait_for(run.done)
        gate.set()
        run.result(20)
    for name in graph:
        assert "".join(text for of, text in pieces if of == name) == "012345678 " * 2000
    assert sorted(ended) == list(graph)
    assert len(pieces) < 1100


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@soak
@pytest.mark.parametrize("reading", [True, False], ids=["a reader", "nobody reads"])
def test_memory_of_a_million_events(reading):
    """A million events, read as they come or not at all, take less than 50 MB of memory."""
    count = by_tier(0, 1_000_000)
    with TaskScheduler({"talk": talk}, max_workers=2) as scheduler:
        scheduler.run(single("talk", task=Task(type="talk", params={"count": 1000})))
        graph = TaskGraph()
        graph.add(Task(type="talk", params={"count": count}), name="talk")
        before = peak = resident_bytes()
        run = scheduler.submit(graph)
        total = 0
        if reading:
            for total, _ in enumerate(run.events(), 1):
                if not total % 10_000:
                    peak = max(peak, resident_bytes())
            assert total > 2
        result = run.result(600)
        peak = max(peak, resident_bytes())
    assert result.results == {"talk": "done"}
    print(f"{total} events read, {(peak - before) / 1e6:.1f} MB")
    assert peak - before < 50_000_000


def test_closed_readers_receive_nothing(scheduler):
    """Readers that were closed or dropped do not keep events; the others are not affected."""
    gate = threading.Event()
    scheduler.handlers["wait"] = lambda task, context: gate.wait(20)
    run = scheduler.submit(wide("wait", 3))
    readers = [run.events() for _ in range(5)]
    readers[0].close()
    with readers[1]:
        pass
    del readers[2]
    reading = [Background(list, events) for events in readers[2:]]
    if not scheduler.max_workers:
        gate.set()
        run.result(20)
    gate.set()
    types = [[event.type for event in reader.result(20)] for reader in reading]
    assert [one[-1] for one in types] == ["run_finished", "run_finished"]
    assert list(readers[0]) == list(readers[1]) == []


@soak
def test_ctrl_c_with_many_waiting_tasks():
    """Ctrl-C returns within 0.5 s; the callback gets the events of 300,000 tasks afterwards."""
    count, started, seen = 300_000, threading.Event(), collections.Counter()
    sent = []

    def wait(task, context):
        started.set()
        context.cancellation.wait(60)

    def interrupt():
        assert started.wait(60)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    with TaskScheduler({"wait": wait, "echo": echo}, max_workers=2) as scheduler:
        scheduler.on_event(lambda event: seen.update([event.type]))
        graph = TaskGraph()
        graph.add(Task(type="wait"), name="wait")
        graph.map(Task(type="echo"), range(count), name="page", depends_on="wait")
        interrupting = Background(interrupt)
        with pytest.raises(KeyboardInterrupt):
            scheduler.run(graph)
        assert time.perf_counter() - sent[0] < 0.5
        interrupting.result()
        wait_for(lambda: seen["run_finished"] == 1)
    assert seen["task_skipped"] == count == len(scheduler.last_result.skipped)
