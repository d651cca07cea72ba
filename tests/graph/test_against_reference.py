"""Random runs, on every kind of executor, against the reference interpreter, and what their events tell."""

import queue
import random
import threading
from concurrent.futures import Executor, Future

import hypothesis
import pytest
from hypothesis import strategies

from asimov_sync import RunFinished, TaskFinished, TaskRetried, TaskScheduler, TaskSkipped, TaskStarted, TaskStatus

from ..tiers import suite
from ..waiting import DEADLINE
from .reference import Do, Spec, does, interpret
from .scenarios import Actor, Relations, determined, graph_of, raised, scenarios

# Executors of the test's own


class Seeded(Executor):
    """Executes what was submitted on the thread that calls `drive`, one whole call at a time, in a seeded order."""

    def __init__(self, seed):
        self._chance = random.Random(seed)
        self._arrivals = queue.SimpleQueue()  # of calls that can go on
        self._pending = []

    def submit(self, function, *args, **kwargs):
        future = Future()
        self._arrivals.put((future, function, args, kwargs))
        return future

    def pause(self):
        """Called by handlers where another may go on; here none may."""

    def drive(self, run):
        """Execute calls until the run is over, and those that are left then."""
        while not run.done() or self._pending or not self._arrivals.empty():
            while not self._arrivals.empty() or not self._pending:
                self._pending.append(self._arrivals.get(timeout=DEADLINE))
            self._go_on(self._pending.pop(self._chance.randrange(len(self._pending))))

    def _go_on(self, call):
        future, function, args, kwargs = call
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)


class Interleaved(Seeded):
    """Executes each call on a thread of its own, one of them at a time: at each pause of a handler any other may go on."""

    def __init__(self, seed):
        super().__init__(seed)
        self._turns = queue.SimpleQueue()  # told when the thread whose turn it was has paused or ended
        self._mine = threading.local()

    def pause(self):
        turn = self._mine.turn
        self._arrivals.put(turn)
        self._turns.put(None)
        turn.get(timeout=DEADLINE)

    def _go_on(self, call):
        if isinstance(call, tuple):
            threading.Thread(target=self._execute, args=(call,), daemon=True).start()
        else:
            call.put(None)
        self._turns.get(timeout=DEADLINE)

    def _execute(self, call):
        self._mine.turn = queue.SimpleQueue()
        super()._go_on(call)
        self._turns.put(None)


# What is compared


def kind(reason):
    """Whether a reason in `result.skipped` is that of a task that was skipped, or of one that was ruled out."""
    return "skipped" if reason.startswith(("its dependency", "the run")) else "ruled out"


def compare(specs, result, actor):
    """What came of a run, and what its handlers were given, is what the reference says."""
    expected = interpret(specs)
    assert {name: task.status.name for name, task in result.tasks.items()} == expected.statuses
    assert result.results == expected.results
    assert {name: raised(error) for name, error in result.errors.items()} == expected.errors
    assert {name: kind(reason) for name, reason in result.skipped.items()} == expected.skipped
    assert result.status.name == expected.status
    assert set(result.exceptions) == {name for name, status in expected.statuses.items() if status == "FAILED"}
    visits = dict.fromkeys(expected.visits, 0)
    for entry in actor.log:
        if entry.name in visits and entry.task_id == result.tasks[entry.name].id:
            visits[entry.name] = max(visits[entry.name], entry.visit)
    loose = {spec.name for spec in specs if spec.loose}
    assert {name: visits[name] for name in set(visits) - loose} == {
        name: expected.visits[name] for name in set(visits) - loose
    }


def look_through(specs, log):
    """No handler was started before its dependencies were settled; its inputs are what they brought, in this very visit."""
    before = {spec.name: spec.depends_on for spec in specs}
    # No visit of a calm one is undone while it goes on.
    calm = {spec.name for spec in specs if not spec.loose and spec.spawner is None}
    last, values = {}, {}
    for entry in log:
        if not entry.ended:
            assert entry.unready == []
            for name, value in entry.inputs.items():
                assert value in values.get(name, ()), "an input that nobody had returned"
            if entry.name in calm:
                for name in calm.intersection(before[entry.name]):
                    assert name not in last or last[name].ended
                    assert name not in entry.inputs or entry.inputs[name] == last[name].value
        else:
            values.setdefault(entry.name, []).append(entry.value)
        last[entry.name] = entry


def follow(specs, events, result):
    """The events of a run tell one story, in which nothing starts before what it depends on is over, and end as the result."""
    assert [place for place, event in enumerate(events, 1) if isinstance(event, RunFinished)] == [len(events)]
    relations = Relations(specs)
    stories = {}  # by name: its last event, or nothing since it was undone
    begun = {}  # by name: its last TaskStarted
    for event in events[:-1]:
        name, before = event.name, stories.get(event.name)
        spec = relations.specs[name]
        if isinstance(event, TaskStarted):
            assert event.visit <= spec.max_visits and event.attempt <= spec.attempts
        if isinstance(event, TaskStarted) and event.attempt == 1:
            assert before is None
            for dependency in spec.depends_on:
                assert isinstance(stories.get(dependency), (TaskFinished, TaskSkipped)), "started before its dependencies were"
            visit = begun[name].visit + 1 if name in begun else 1
            assert event.visit >= visit if spec.loose else event.visit == visit
        elif isinstance(event, TaskStarted):
            assert isinstance(before, TaskRetried)
            assert (event.visit, event.attempt) == (begun[name].visit, begun[name].attempt + 1)
            assert before.attempt == begun[name].attempt
        elif isinstance(event, TaskSkipped):
            assert before is None and event.task.status is TaskStatus.WAITING
        elif isinstance(event, TaskRetried):
            assert isinstance(before, TaskStarted)
            assert (event.error is not None) and event.wait == 0
        else:
            assert isinstance(event, TaskFinished) and event.task.status.is_final
            if before is None:  # its `when` raised, or it would have been one visit too many
                assert event.task.status is TaskStatus.FAILED
            else:
                assert isinstance(before, TaskStarted)
        stories[name] = event
        if isinstance(event, TaskStarted):
            begun[name] = event
        elif isinstance(event, TaskRetried):
            forget(relations, [name], stories, begun)
        elif isinstance(event, TaskFinished) and event.task.status is TaskStatus.COMPLETE:
            back = set(does(spec, begun[name].visit, begun[name].attempt).names) & set(relations.before(name))
            if back:
                undone = relations.behind(sorted(back), False)
                for one in undone:
                    stories.pop(one, None)
                forget(relations, undone, stories, begun)
    assert events[-1].result is result
    assert set(result.tasks) <= set(stories)
    for name, task in result.tasks.items():
        assert isinstance(stories[name], TaskSkipped) == (name in result.skipped)
        assert stories[name].task.snapshot() == task.snapshot()
        if name in result.skipped:
            assert stories[name].reason == result.skipped[name]


def look_at_the_cancelled(events, log, serial):
    """What counts was never cancelled; where handlers take turns (`serial`), all that was undone as it went on was."""
    begun, undone = {}, set()
    for event in events[:-1]:
        if isinstance(event, TaskStarted):
            begun[event.task.id] = (event.task.id, event.visit, event.attempt)
            undone.add(begun[event.task.id])
        elif isinstance(event, (TaskFinished, TaskRetried)):
            undone.discard(begun.get(event.task.id))
    for entry in log:
        if entry.ended:
            key = (entry.task_id, entry.visit, entry.attempt)
            assert not entry.cancelled or key in undone
            assert entry.cancelled or key not in undone or not serial


def forget(relations, names, stories, begun):
    """What these had spawned is gone, and what that had."""
    for name in relations.behind(names, True):
        if relations.taken_back(name, names):
            stories.pop(name, None)
            begun.pop(name, None)


def check(specs, result, events, actor, serial=False):
    """All of the above."""
    look_at_the_cancelled(events, actor.log, serial)
    compare(specs, result, actor)
    look_through(specs, actor.log)
    follow(specs, events, result)


@pytest.fixture(scope="module")
def threads():
    """A scheduler on four threads, for all examples."""
    with TaskScheduler(max_workers=4) as scheduler:
        yield scheduler


# Scenarios that chance would seldom come by


def back(*names, spawns=()):
    return (Do("route", names, spawns),)


DONE = (Do(),)

SELDOM = {
    "a loop that goes on and back at once": [Spec("a"), Spec("b", ("a",), script=(back("a", "c"),)), Spec("c", ("b",))],
    "one visit too many of a task between": [
        Spec("a"),
        Spec("b", ("a",), max_visits=1),
        Spec("c", ("a", "b"), allow_failure=True, script=(back("a"), DONE)),
    ],
    "a condition that is not met at one visit too many": [
        Spec("a"),
        Spec("b", ("a",), script=(back("c", "d"), back("d"))),
        Spec("c", ("b",)),
        Spec("d", ("b",)),
        Spec("e", ("c", "d"), when="c", max_visits=1),
        Spec("f", ("c", "d"), script=(back("a"), DONE)),
    ],
    "feedback to a task that was ruled out at that visit": [
        Spec("a", script=(DONE, back("c"), DONE)),
        Spec("b", ("a",)),
        Spec("c", ("b", "a"), script=(back("a", "b"), back("a"), DONE)),
    ],
    "feedback to a task that is not the first to start again": [
        Spec("a", script=(DONE, back("a"), DONE)),
        Spec("b", ("a",)),
        Spec("c", ("b",), script=(back("a", "b"), DONE)),
    ],
    "what the spawned spawn, taken back by a retry": [
        Spec("a", attempts=2, script=((Do("fail", (), ("s",)), Do()),)),
        Spec("s", script=((Do(spawns=("t",)),),), spawner="a"),
        Spec("t", script=((Do(spawns=("u",)),),), spawner="s"),
        Spec("u", spawner="t"),
    ],
    "what the spawned spawn, taken back by a loop": [
        Spec("a", script=((Do(spawns=("s",)),), (Do(spawns=("s",)),), DONE)),
        Spec("s", ("a",), script=((Do(spawns=("t", "u")),),), spawner="a"),
        Spec("t", ("s",), script=(back("a"),), max_visits=50, spawner="s"),
        Spec("u", ("t",), spawner="s"),
    ],
    "siblings of a loop, which may be undone as they go on": [
        Spec("a"),
        Spec("b", ("a",), script=(back("a"), back("a"), DONE)),
        Spec("c", ("a",)),
        Spec("d", ("a",), attempts=2, script=((Do("fail", (), ("s",)), Do(spawns=("s",))),)),
        Spec("e", ("c", "d"), when="c"),
        Spec("f", ("b", "e")),
        Spec("s", ("d",), spawner="d"),
    ],
    "a loop of a task that is in the way of its own retry": [
        Spec("a"),
        Spec("b", ("a",), attempts=2, script=((Do("fail"), Do("route", ("a",))), (Do("fail"), Do()))),
        Spec("c", ("b",)),
    ],
}


@suite
@pytest.mark.parametrize("name", list(SELDOM))
def test_what_is_seldom(threads, name):
    """Each in all four modes."""
    specs = determined(SELDOM[name])
    played(specs, threads)
    with TaskScheduler(max_workers=0) as scheduler:
        played(specs, scheduler)
    for seed in range(20):
        driven(specs, Seeded(seed))
        driven(specs, Interleaved(seed))


# Random scenarios


def played(specs, scheduler):
    """Run a scenario on a scheduler that needs no driving."""
    graph = graph_of(specs)
    actor = scheduler.handlers["act"] = Actor(specs, graph)
    events = list(scheduler.stream(graph, timeout=DEADLINE))
    check(specs, events[-1].result, events, actor)


@suite
@hypothesis.settings(max_examples=400)
@hypothesis.given(scenarios())
def test_on_threads(threads, specs):
    """On four threads, every scenario comes to what the reference says."""
    played(specs, threads)


@suite
@hypothesis.settings(max_examples=300)
@hypothesis.given(scenarios())
def test_on_the_calling_thread(specs):
    """On the calling thread too, and there tasks are begun in the very order of the reference."""
    with TaskScheduler(max_workers=0) as scheduler:
        played(specs, scheduler)
        begun = [entry.name for entry in scheduler.handlers["act"].log if not entry.ended and entry.attempt == 1]
        assert begun == interpret(specs).order


def stopped(specs, scheduler):
    """Run a scenario that stops at its first failure: what is true then whatever the order, and the result."""
    graph = graph_of(specs)
    scheduler.handlers["act"] = Actor(specs, graph)
    events = list(scheduler.stream(graph, on_failure="stop", timeout=DEADLINE))
    failures = [
        place
        for place, event in enumerate(events[:-1])
        if isinstance(event, TaskFinished) and event.task.status is TaskStatus.FAILED
    ]
    later = events[failures[0] + 1 :] if failures else []
    assert not any(isinstance(event, (TaskStarted, TaskRetried)) for event in later)
    result = events[-1].result
    assert set(result.skipped) == {name for name, task in result.tasks.items() if task.status is TaskStatus.WAITING}
    assert all(task.status.is_final or name in result.skipped for name, task in result.tasks.items())
    assert (result.status is TaskStatus.COMPLETE) == all(
        task.status is TaskStatus.COMPLETE or kind(result.skipped.get(name, "the run")) == "ruled out"
        for name, task in result.tasks.items()
    )
    return result


@suite
@hypothesis.settings(max_examples=150)
@hypothesis.given(scenarios())
def test_stopping(threads, specs):
    """With on_failure="stop", nothing is started after a failure, on threads and on the calling thread."""
    stopped(specs, threads)
    with TaskScheduler(max_workers=0) as scheduler:
        result = stopped(specs, scheduler)
    if all(spec.when != "raises" for spec in specs):  # as two of them may fail at once
        expected = interpret(specs, stop_on_failure=True)
        assert {name: task.status.name for name, task in result.tasks.items()} == expected.statuses
        assert result.results == expected.results and result.status.name == expected.status


def driven(specs, executor):
    """Run a scenario on an executor that has to be driven."""
    with TaskScheduler(max_workers=4, executor=executor) as scheduler:
        graph = graph_of(specs, executor.pause)
        actor = scheduler.handlers["act"] = Actor(specs, graph, executor.pause)
        run = scheduler.submit(graph, timeout=DEADLINE)
        executor.drive(run)
        check(specs, run.result(DEADLINE), list(run.events()), actor, serial=True)


@suite
@hypothesis.settings(max_examples=250)
@hypothesis.given(scenarios(), strategies.integers(0, 2**32))
def test_in_a_seeded_order(specs, seed):
    """On an executor that calls one handler after the other, in any order, every scenario comes to the same."""
    driven(specs, Seeded(seed))


@suite
@hypothesis.settings(max_examples=150)
@hypothesis.given(scenarios(), strategies.integers(0, 2**32))
def test_interleaved(specs, seed):
    """And where handlers are interleaved in any way, so that some go on long after they were undone."""
    driven(specs, Interleaved(seed))
