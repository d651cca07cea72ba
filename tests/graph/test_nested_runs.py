"""Runs inside tasks, at any depth, on tools' threads and across schedulers: no deadlock."""

import concurrent.futures
import threading
import time

import pytest

from asimov_sync import (
    Agent,
    Cancellation,
    Cancelled,
    RunTimeout,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
    tool,
)
from asimov_sync.testing import ScriptedInferenceClient, calls

from ..tiers import suite
from ..waiting import DEADLINE, Background, wait_for
from .graphs import chain, single, wide
from .test_scheduler import echo

MODES = [(1, False), (3, False), (0, False), (1, True)]


@pytest.fixture(
    params=MODES, ids=["one thread", "three threads", "calling thread", "executor of one thread"]
)
def make(request):
    """Return a function that makes schedulers of one mode; executors are not shared."""
    made = []

    def scheduler():
        workers, foreign = request.param
        executor = concurrent.futures.ThreadPoolExecutor(1) if foreign else None
        made.append(
            (
                TaskScheduler(
                    {"quick": lambda task, context: context.name},
                    max_workers=workers,
                    executor=executor,
                ),
                executor,
            )
        )
        return made[-1][0]

    yield scheduler
    for scheduler, executor in made:
        scheduler.close()
        if executor is not None:
            executor.shutdown()


def test_three_levels(make):
    """Graphs in tasks in graphs in tasks, three deep, all on one scheduler."""
    scheduler = make()

    def deeper(task, context):
        level = task.params["level"]
        graph = wide("quick", 3)
        if level:
            graph.map(Task(type="deeper", params={"level": level - 1}), range(2), name="d")
        result = scheduler.run(graph)
        assert result.status is TaskStatus.COMPLETE, result.errors
        return 1 + sum(value for name, value in result.results.items() if name.startswith("d"))

    scheduler.handlers["deeper"] = deeper
    graph = TaskGraph()
    graph.map(Task(type="deeper", params={"level": 2}), range(3), name="d")
    result = Background(scheduler.run, graph).result()
    assert list(result.results.values()) == [7, 7, 7], result.errors


def test_two_schedulers(make):
    """Tasks of each of two schedulers run graphs on the other one."""
    one, two = make(), make()

    def over(task, context):
        left = task.params["left"]
        graph = single("quick") if not left else TaskGraph()
        if left:
            graph.map(Task(type="over", params={"left": left - 1}), range(2))
        result = (two if left % 2 else one).run(graph)
        assert result.status is TaskStatus.COMPLETE, result.errors
        return left

    one.handlers["over"] = two.handlers["over"] = over
    graph = TaskGraph()
    graph.map(Task(type="over", params={"left": 3}), range(3))
    assert list(Background(one.run, graph).result().results.values()) == [3, 3, 3]


def test_from_a_tool_of_an_agent(make):
    """An agent's parallel tools run graphs on the scheduler whose only worker runs the agent."""
    scheduler = make()

    @tool
    def look_up(number: int) -> str:
        return ",".join(scheduler.run(chain("quick", "quick")).results)

    requested = calls(*[("look_up", {"number": number}) for number in range(3)])
    client = ScriptedInferenceClient(
        lambda body: "done" if len(body["messages"]) > 1 else requested
    )
    scheduler.handlers["agent"] = Agent(client, tools=[look_up])
    graph = TaskGraph()
    graph.add(Task(type="agent", objective="look it up"), name="x")
    result = Background(scheduler.run, graph).result()
    assert result.status is TaskStatus.COMPLETE, result.errors
    assert result.usages["x"].requests == 2


@suite
def test_nested_run_ends_with_its_task(make, clock):
    """Cancelling the outer run cancels the inner one; its graph can run again."""
    scheduler, inner = make(), single("wait")
    seen = []

    def outer(task, context):
        seen.append(scheduler.run(inner).errors)

    scheduler.handlers["wait"] = lambda task, context: (
        clock.advance(60) or context.cancellation.wait(20)
    )
    scheduler.handlers["outer"] = outer
    result = Background(scheduler.run, single("outer"), timeout=60).result()
    assert "time-out" in result.errors["x"]
    scheduler.handlers["wait"] = lambda task, context: "freed"
    assert Background(scheduler.run, chain("quick")).result().status is TaskStatus.COMPLETE
    assert Background(scheduler.run, inner).result().results == {"x": "freed"}
    assert seen and "time-out" in seen[0]["x"]


def test_nested_stream(make):
    """A task reads the events of a run on its own scheduler, and leaves it in the middle."""
    scheduler = make()

    def outer(task, context):
        for event in scheduler.stream(wide("quick", 5)):
            if event.type == "task_finished":
                return event.name

    scheduler.handlers["outer"] = outer
    result = Background(scheduler.run, wide("outer", 4)).result()
    assert set(result.results.values()) <= {f"quick[{number}]" for number in range(5)}
    assert len(result.results) == 4


def test_stubborn_task_of_a_nested_run():
    """A handler that ignores its cancellation does not delay the runs around it."""
    release = threading.Event()
    with TaskScheduler(
        {"stubborn": lambda task, context: release.wait(20)}, max_workers=1
    ) as scheduler:

        def outer(task, context):
            graph = single("stubborn")
            by_task, by_run = TaskGraph(), scheduler.run(graph, timeout=0.05)
            by_task.add(Task(type="stubborn"), name="x", timeout=0.05)
            return [by_run.errors, scheduler.run(by_task).errors]

        scheduler.handlers["outer"] = outer
        by_run, by_task = Background(scheduler.run, single("outer")).result(10).results["x"]
        assert by_run == {"x": "Cancelled: the run's time-out of 0.05 s passed"}
        assert by_task == {"x": "TaskTimeout: 'x' took longer than 0.05 s"}
        release.set()


def test_result_timeout_in_a_handler():
    """result(timeout) in a handler raises on time, whatever the run's tasks do."""
    release = threading.Event()
    with TaskScheduler(
        {"wait": lambda task, context: release.wait(20)}, max_workers=2
    ) as scheduler:

        def outer(task, context):
            run = scheduler.submit(wide("wait", 4))
            with pytest.raises(RunTimeout):
                run.result(timeout=0.05)
            assert not run.done()
            release.set()
            return len(run.result().results)

        scheduler.handlers["outer"] = outer
        result = Background(scheduler.run, single("outer")).result(10)
        assert result.results == {"x": 4}, result.errors


def test_events_of_a_nested_run_are_live():
    """A handler that iterates gets TaskStarted while that task runs, even with one worker."""
    release = threading.Event()
    with TaskScheduler(
        {"wait": lambda task, context: release.wait(20)}, max_workers=1
    ) as scheduler:

        def outer(task, context):
            types = []
            for event in scheduler.stream(single("wait")):
                types.append(event.type)
                release.set()
            return types

        scheduler.handlers["outer"] = outer
        result = Background(scheduler.run, single("outer")).result(10)
        assert result.results == {
            "x": ["run_started", "task_started", "task_finished", "run_finished"]
        }


@pytest.mark.parametrize("way", ["given", "current", "time-out"])
def test_cancelled_wait_for_another_run(way):
    """Cancelling the waiting task frees it, and the run that it waited for continues."""
    release = threading.Event()
    with TaskScheduler(
        {"wait": lambda task, context: release.wait(20)}, max_workers=2
    ) as scheduler:
        run = scheduler.submit(single("wait"))
        if way == "given":
            token = Cancellation()
            waiting = Background(run.result, cancellation=token)
            token.cancel("given")
            with pytest.raises(Cancelled, match="given"):
                waiting.result()
        elif way == "current":
            with Cancellation(timeout=0.05), pytest.raises(Cancelled, match="deadline"):
                run.result()
        else:
            scheduler.handlers["waits"] = lambda task, context: run.result()
            graph = TaskGraph()
            graph.add(Task(type="waits"), name="x", timeout=0.05)
            assert scheduler.run(graph).errors == {"x": "TaskTimeout: 'x' took longer than 0.05 s"}
            wait_for(lambda: not scheduler.stuck_threads, "the end of the wait")
        assert not run.done()
        release.set()
        assert run.result(20).status is TaskStatus.COMPLETE


@suite
def test_run_under_a_token():
    """The deadline of a token given to run, submit or stream ends the run, which has a result."""
    with TaskScheduler({"wait": lambda task, context: context.cancellation.wait(20)}) as scheduler:
        for start in (
            scheduler.run,
            lambda graph, cancellation: scheduler.submit(graph, cancellation=cancellation).result(),
        ):
            token = Cancellation(timeout=0.3)
            result = start(single("wait"), cancellation=token)
            assert result.errors == {"x": "Cancelled: the deadline passed"}
        token = Cancellation(timeout=0.05)
        assert (
            list(scheduler.stream(single("wait"), cancellation=token))[-1].result.status
            is TaskStatus.FAILED
        )


def test_nested_runs_do_not_multiply_workers():
    """Waiting tasks give up their slots one for one: at most max_workers tasks run."""
    running, most, lock = [], [], threading.Lock()

    def inner(task, context):
        with lock:
            running.append(1)
            most.append(len(running))
        time.sleep(0.002)
        with lock:
            running.pop()

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


@suite
@pytest.mark.parametrize("cancelled", [False, True])
def test_three_hundred_levels(cancelled):
    """Runs nest as deep as there are threads: each level sees the cancellation of the first."""
    deepest = threading.Event()

    def nest(task, context):
        level = task.params["level"]
        if not level:
            deepest.set()
            if cancelled:
                assert context.cancellation.wait(DEADLINE)
            return 0
        graph = TaskGraph()
        graph.add(Task(type="nest", params={"level": level - 1}), name="x")
        return scheduler.run(graph)["x"] + 1

    with TaskScheduler({"nest": nest}, max_workers=1) as scheduler:
        graph = TaskGraph()
        graph.add(Task(type="nest", params={"level": 300}), name="x")
        run = scheduler.submit(graph)
        assert deepest.wait(DEADLINE)
        if cancelled:
            run.cancel("enough")
            assert run.result(DEADLINE).errors == {"x": "Cancelled: enough"}
        else:
            assert run.result(DEADLINE)["x"] == 300
        wait_for(lambda: not scheduler.stuck_threads, "the end of all levels")
