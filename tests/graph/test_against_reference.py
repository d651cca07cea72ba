"""Random runs on every kind of executor, compared with the reference interpreter."""

import queue
import random
import threading
from concurrent.futures import Executor, Future

import hypothesis
import pytest
from hypothesis import strategies

from asimov_sync import (
    RunFinished,
    RunStarted,
    TaskFinished,
    TaskRetried,
    TaskScheduler,
    TaskSkipped,
    TaskStarted,
    TaskStatus,
    TaskUndone,
)

from ..tiers import by_tier, suite
from ..waiting import DEADLINE
from .graphs import record_events
from .reference import Do, Spec, does, interpret
from .scenarios import Actor, Relations, determined, graph_of, raised, scenarios

# Executors


class Seeded(Executor):
    """Executes submitted calls on the thread that calls `drive`, one at a time, in seeded order."""

    def __init__(self, seed):
        self._chance = random.Random(seed)
        self._arrivals = queue.SimpleQueue()  # calls that can continue
        self._pending = []

    def submit(self, function, *args, **kwargs):
        future = Future()
        self._arrivals.put((future, function, args, kwargs))
        return future

    def pause(self):
        """Let another handler run. Does nothing here: this executor finishes each call first."""

    def drive(self, run):
        """Execute calls until the run has ended, and then those that are left."""
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
    """Executes calls on threads of their own, one running at a time; they switch at each pause."""

    def __init__(self, seed):
        super().__init__(seed)
        self._turns = queue.SimpleQueue()  # notified when the running thread has paused or ended
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


# Comparisons


def kind(reason):
    """Return whether a reason in `result.skipped` means skipped or ruled out."""
    return "skipped" if reason.startswith(("its dependency", "the run")) else "ruled out"


def compare(specs, result, actor):
    """Check the run's result, and what its handlers received, against the reference."""
    expected = interpret(specs)
    assert {name: task.status.name for name, task in result.tasks.items()} == expected.statuses
    assert result.results == expected.results
    assert {name: raised(error) for name, error in result.errors.items()} == expected.errors
    assert {name: kind(reason) for name, reason in result.skipped.items()} == expected.skipped
    assert result.status.name == expected.status
    assert set(result.exceptions) == {
        name for name, status in expected.statuses.items() if status == "FAILED"
    }
    visits = dict.fromkeys(expected.visits, 0)
    for entry in actor.log:
        if entry.name in visits and entry.task_id == result.tasks[entry.name].id:
            visits[entry.name] = max(visits[entry.name], entry.visit)
    loose = {spec.name for spec in specs if spec.loose}
    assert {name: visits[name] for name in set(visits) - loose} == {
        name: expected.visits[name] for name in set(visits) - loose
    }


def look_through(specs, log):
    """Check that handlers started after their dependencies ended, with inputs of this visit."""
    before = {spec.name: spec.depends_on for spec in specs}
    # A task that is not loose is never undone while it runs.
    calm = {spec.name for spec in specs if not spec.loose and spec.spawner is None}
    last, values = {}, {}
    for entry in log:
        if not entry.ended:
            assert entry.unready == []
            for name, value in entry.inputs.items():
                assert value in values.get(name, ()), "an input that no handler had returned"
            if entry.name in calm:
                for name in calm.intersection(before[entry.name]):
                    assert name not in last or last[name].ended
                    assert name not in entry.inputs or entry.inputs[name] == last[name].value
        else:
            values.setdefault(entry.name, []).append(entry.value)
        last[entry.name] = entry


def follow(specs, events, result):
    """Check that the events are consistent, in order, and end as the result says."""
    assert [index for index, event in enumerate(events, 1) if isinstance(event, RunFinished)] == [
        len(events)
    ]
    relations = Relations(specs)
    stories = {}  # by name: the last event, unless the task was undone since
    begun = {}  # by name: the last TaskStarted
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert isinstance(events[0], RunStarted)
    for event in events[1:-1]:
        name, before = event.name, stories.get(event.name)
        spec = relations.specs[name]
        if isinstance(event, TaskStarted):
            assert event.visit <= spec.max_visits and event.attempt <= spec.attempts
        if isinstance(event, TaskUndone):
            assert event.task.snapshot() == (TaskStatus.WAITING, None, None)
            assert (event.attempt, event.visit) == (before.attempt, before.visit)
            del stories[name]
            continue
        if isinstance(event, TaskStarted) and event.attempt == 1:
            assert before is None
            for dependency in spec.depends_on:
                assert isinstance(stories.get(dependency), (TaskFinished, TaskSkipped)), (
                    "started before its dependencies ended"
                )
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
            if before is None:  # its `when` raised, or it had no visit left
                assert event.task.status is TaskStatus.FAILED
            else:
                assert isinstance(before, TaskStarted)
        stories[name] = event
        if isinstance(event, TaskStarted):
            begun[name] = event
        elif isinstance(event, TaskRetried):
            forget(relations, [name], begun)
        elif isinstance(event, TaskFinished) and event.task.status is TaskStatus.COMPLETE:
            back = set(does(spec, begun[name].visit, begun[name].attempt).names) & set(
                relations.before(name)
            )
            if back:
                undone = relations.behind(sorted(back), False)
                forget(relations, undone, begun)
    assert events[-1].result is result
    assert set(result.tasks) <= set(stories)
    for name, task in result.tasks.items():
        assert isinstance(stories[name], TaskSkipped) == (name in result.skipped)
        assert stories[name].task.snapshot() == task.snapshot()
        if name in result.skipped:
            assert stories[name].reason == result.skipped[name]


def look_at_the_cancelled(events, log, serial):
    """Check that only undone attempts were cancelled; if `serial`, that all of them were."""
    begun, undone = {}, set()
    for event in events[1:-1]:
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


def forget(relations, names, begun):
    """Remove what these tasks spawned, transitively."""
    for name in relations.behind(names, True):
        if relations.revoked(name, names):
            begun.pop(name, None)


def check(specs, result, events, actor, serial=False):
    """Make all checks above."""
    look_at_the_cancelled(events, actor.log, serial)
    compare(specs, result, actor)
    look_through(specs, actor.log)
    follow(specs, events, result)


@pytest.fixture(scope="module")
def threads():
    """Return a scheduler on four threads, for all examples."""
    with TaskScheduler(max_workers=4) as scheduler:
        yield scheduler


# Scenarios that are rare at random


def back(*names, spawns=()):
    return (Do("route", names, spawns),)


DONE = (Do(),)

SELDOM = {
    "a Route that goes forwards and backwards": [
        Spec("a"),
        Spec("b", ("a",), script=(back("a", "c"),)),
        Spec("c", ("b",)),
    ],
    "a task inside a loop that exceeds its max_visits": [
        Spec("a"),
        Spec("b", ("a",), max_visits=1),
        Spec("c", ("a", "b"), allow_failure=True, script=(back("a"), DONE)),
    ],
    "a condition that is not met at a visit beyond max_visits": [
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
    "spawned tasks that spawn, revoked by a retry": [
        Spec("a", attempts=2, script=((Do("fail", (), ("s",)), Do()),)),
        Spec("s", script=((Do(spawns=("t",)),),), spawner="a"),
        Spec("t", script=((Do(spawns=("u",)),),), spawner="s"),
        Spec("u", spawner="t"),
    ],
    "spawned tasks that spawn, revoked by a loop": [
        Spec("a", script=((Do(spawns=("s",)),), (Do(spawns=("s",)),), DONE)),
        Spec("s", ("a",), script=((Do(spawns=("t", "u")),),), spawner="a"),
        Spec("t", ("s",), script=(back("a"),), max_visits=50, spawner="s"),
        Spec("u", ("t",), spawner="s"),
    ],
    "siblings of a loop, which may be undone while they run": [
        Spec("a"),
        Spec("b", ("a",), script=(back("a"), back("a"), DONE)),
        Spec("c", ("a",)),
        Spec("d", ("a",), attempts=2, script=((Do("fail", (), ("s",)), Do(spawns=("s",))),)),
        Spec("e", ("c", "d"), when="c"),
        Spec("f", ("b", "e")),
        Spec("s", ("d",), spawner="d"),
    ],
    "a task that is retried, loops, and is retried again": [
        Spec("a"),
        Spec(
            "b", ("a",), attempts=2, script=((Do("fail"), Do("route", ("a",))), (Do("fail"), Do()))
        ),
        Spec("c", ("b",)),
    ],
}


@suite
@pytest.mark.parametrize("name", list(SELDOM))
def test_rare_scenarios(threads, name):
    """Scenarios that are rare at random, each in all four modes."""
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
@hypothesis.settings(max_examples=by_tier(200, soak=400))
@hypothesis.given(scenarios())
def test_on_threads(threads, specs):
    """On four threads, every scenario ends as the reference says."""
    played(specs, threads)


@suite
@hypothesis.settings(max_examples=by_tier(150, soak=300))
@hypothesis.given(scenarios())
def test_on_the_calling_thread(specs):
    """On the calling thread, tasks also start in the order of the reference."""
    with TaskScheduler(max_workers=0) as scheduler:
        played(specs, scheduler)
        begun = [
            entry.name
            for entry in scheduler.handlers["act"].log
            if not entry.ended and entry.attempt == 1
        ]
        assert begun == interpret(specs).order


def stopped(specs, scheduler):
    """Run a scenario that stops at its first failure; check what holds in any order."""
    graph = graph_of(specs)
    scheduler.handlers["act"] = Actor(specs, graph)
    events = list(scheduler.stream(graph, on_failure="stop", timeout=DEADLINE))
    failures = [
        index
        for index, event in enumerate(events[:-1])
        if isinstance(event, TaskFinished) and event.task.status is TaskStatus.FAILED
    ]
    later = events[failures[0] + 1 :] if failures else []
    started = {event.name for event in later if isinstance(event, (TaskStarted, TaskRetried))}
    assert started <= {spec.name for spec in specs if spec.always}
    result = events[-1].result
    assert set(result.skipped) == {
        name for name, task in result.tasks.items() if task.status is TaskStatus.WAITING
    }
    assert all(
        task.status.is_final or name in result.skipped for name, task in result.tasks.items()
    )
    assert (result.status is TaskStatus.COMPLETE) == all(
        task.status is TaskStatus.COMPLETE
        or kind(result.skipped.get(name, "the run")) == "ruled out"
        for name, task in result.tasks.items()
    )
    return result


@suite
@hypothesis.settings(max_examples=by_tier(75, soak=150))
@hypothesis.given(scenarios())
def test_stop_on_failure(threads, specs):
    """With on_failure="stop" nothing starts after a failure, on threads and inline."""
    stopped(specs, threads)
    with TaskScheduler(max_workers=0) as scheduler:
        result = stopped(specs, scheduler)
    # Two conditions may raise before the run stops.
    if all(spec.when != "raises" for spec in specs):
        expected = interpret(specs, stop_on_failure=True)
        assert {name: task.status.name for name, task in result.tasks.items()} == expected.statuses
        assert result.results == expected.results and result.status.name == expected.status


def driven(specs, executor):
    """Run a scenario on an executor that has to be driven."""
    with TaskScheduler(max_workers=4, executor=executor, remote=False) as scheduler:
        graph = graph_of(specs, executor.pause)
        actor = scheduler.handlers["act"] = Actor(specs, graph, executor.pause)
        events = record_events(scheduler)
        run = scheduler.submit(graph, timeout=DEADLINE)
        executor.drive(run)
        check(specs, run.result(DEADLINE), events, actor, serial=True)


@suite
@hypothesis.settings(max_examples=by_tier(125, soak=250))
@hypothesis.given(scenarios(), strategies.integers(0, 2**32))
def test_in_a_seeded_order(specs, seed):
    """On an executor that makes the calls in any order, every scenario ends the same."""
    driven(specs, Seeded(seed))


@suite
@hypothesis.settings(max_examples=by_tier(75, soak=150))
@hypothesis.given(scenarios(), strategies.integers(0, 2**32))
def test_interleaved(specs, seed):
    """Every scenario ends the same if handlers interleave, or run after they were undone."""
    driven(specs, Interleaved(seed))
