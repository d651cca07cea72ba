"""Handlers in the processes of a ProcessPoolExecutor that forks."""

import concurrent.futures
import multiprocessing
import os
import threading

import pytest
from tenacity import wait_none

from asimov_sync import (
    Cancellation,
    Cancelled,
    GraphError,
    RemoteError,
    Retry,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
    TaskTimeout,
    WorkerLost,
)

from ..waiting import DEADLINE, in_child
from . import remote_handlers as handlers
from .graphs import single

ON_CALL = Retry(2, wait=wait_none())


def make_pool():
    return concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))


HANDLERS = handlers.HANDLERS


@pytest.fixture(scope="module")
def scheduler():
    """A scheduler whose handlers run in two processes."""
    with TaskScheduler(HANDLERS, executor=make_pool) as new_scheduler:
        yield new_scheduler


def run_single(scheduler, type, **options):
    return scheduler.run(single(type, **options))


def test_handlers_run_in_other_processes(scheduler):
    """Handlers run in the processes of the pool, and results reach other tasks."""
    graph = TaskGraph()
    graph.add(Task(type="name_process"), name="first")
    graph.add(Task(type="echo", params={"n": 1}), name="second", depends_on="first")
    result = scheduler.run(graph)
    assert result["first"] not in (os.getpid(), None)
    assert result["second"] == ({"n": 1}, {"first": result["first"]})


def test_plain_functions_and_objects_travel(scheduler):
    """Functions of call() and map(), and objects that can be pickled, run there."""
    graph = TaskGraph()
    doubled = graph.call(handlers.double, 3)
    graph.call(handlers.add, doubled, 4)
    graph.map(handlers.double, [1, 2], name="each")
    graph.add(handlers.Greeter("hello"), name="greet")
    result = scheduler.run(graph)
    assert [result[name] for name in ("double", "add", "each[1]")] == [6, 10, 4]
    assert result["greet"].startswith("hello from ")


def test_importable_names():
    """A handler that is given by name is imported in the process that calls it, and in no other."""
    module = "tests.graph.remote_handlers"
    names = {
        "echo": f"{module}:echo",
        "broken": "tests.graph.no_such:handler",
        "agent": f"{module}:scripted_agent",
    }
    with TaskScheduler(names, executor=make_pool) as scheduler:
        graph = single("echo")
        graph.add(Task(type="agent", objective="ask"), name="agent")
        graph.add(Task(type="broken"), name="broken")
        result = scheduler.run(graph)
        assert result["x"] == ({}, {}) and result["agent"] == "an answer"
        assert "'tests.graph.no_such:handler' cannot be imported" in result.errors["broken"]
    with TaskScheduler({"echo": names["echo"]}) as on_threads:
        assert on_threads.run(single("echo"))["x"] == ({}, {})
    with TaskScheduler({"broken": names["broken"]}) as on_threads:
        with pytest.raises(GraphError, match="no_such:handler' cannot be imported"):
            on_threads.run(single("broken"))


class Unpicklable:
    def __reduce__(self):
        raise TypeError("stays here")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"task": Task(type="local")}, "handler of 'local' cannot be sent .*'package.module:name'"),
        ({"retry": Retry(on=lambda error: True)}, "the Retry of 'x' cannot be sent .*top level"),
        ({"middleware": [lambda call_next, task, context: 1]}, "a middleware of 'x', .*cannot be"),
        (
            {"task": Task(type="echo", params={"client": Unpicklable()})},
            "the param 'client' of 'x' .*stays here.*pass what it is made of",
        ),
    ],
)
def test_what_cannot_travel_is_refused(change, words):
    """A handler, policy or param that cannot be pickled is a GraphError before anything runs."""
    graph = single(**dict({"type": "echo"}, **change))
    graph.add(Task(type="touch"), name="other")
    called = dict(HANDLERS, local=lambda task, context: 1, touch=handlers.echo)
    with TaskScheduler(called, executor=make_pool) as scheduler:
        for refuse in (scheduler.run, lambda graph: graph.validate(scheduler)):
            with pytest.raises(GraphError, match=words):
                refuse(graph)
        assert scheduler.last_result is None
        assert all(task.status is TaskStatus.WAITING for task in graph.tasks.values())


def test_conditions_are_evaluated_in_the_process_of_the_scheduler(scheduler):
    """A `when` may be a lambda, and rules tasks out as on threads."""
    graph = TaskGraph()
    graph.call(handlers.double, 1)
    graph.add(Task(type="echo"), name="yes", depends_on="double", when=lambda inputs: True)
    graph.add(Task(type="echo"), name="no", depends_on="double", when=lambda inputs: False)
    result = scheduler.run(graph)
    assert list(result.results) == ["double", "yes"] and list(result.skipped) == ["no"]


def test_errors(scheduler):
    """Errors of Python and of this library keep their class; others become a RemoteError."""
    graph = single("raise_own")
    graph.add(Task(type="return_lambda"), name="lambda")
    graph.add(Task(type="fail_once"), name="retried", retry=ON_CALL)
    graph.add(Task(type="fail_once"), name="failed")
    result = scheduler.run(graph)
    own = result.exceptions["x"]
    assert isinstance(own, RemoteError) and own.type_name == "OwnError"
    assert "in raise_own" in own.traceback_text
    assert result.errors["x"] == "OwnError: of my own"
    assert isinstance(result.exceptions["failed"], ConnectionError)
    assert "in fail_once" in result.exceptions["failed"].__cause__.traceback_text
    assert "cannot be sent back" in result.errors["lambda"]
    assert result["retried"] == 2


def test_progress_comes_back(scheduler):
    """Reports and yielded values are events of the run, before the task's end."""
    events = list(scheduler.stream(single("report")))
    assert [event.type for event in events] == [
        "run_started", "task_started", "task_progress", "task_progress", "task_finished",
        "run_finished",
    ]  # fmt: skip
    assert [(event.fraction, event.text, event.data) for event in events[2:4]] == [
        (0.5, "half", {"a": 1}),
        (None, "", "yielded"),
    ]


def test_spawned_tasks_come_back(scheduler):
    """Spawned tasks join the run when their spawner has ended; an invalid one makes it fail."""
    result = scheduler.run(single("spawn"))
    assert result.results == {"x": "spawned", "child": ({"n": 1}, {}), "own": 8}
    result = scheduler.run(single("spawn_twice"))
    assert "there is a task or a group named 'child'" in result.errors["x"]


def test_partial_results_and_loops(scheduler):
    """Partial and Route work as on threads."""
    graph = TaskGraph()
    graph.add(Task(type="see_feedback"), name="start")
    graph.add(Task(type="go_back_once"), name="back", depends_on="start")
    graph.add(Task(type="partial"), name="partial")
    result = scheduler.run(graph)
    assert result["start"] == (2, {"back": "again"}) and result["back"] == (2, {})
    assert result["partial"] == "some" and result.errors["partial"] == "the rest is missing"


def test_middleware_runs_beside_the_handler(scheduler):
    """Middleware travels with the handler, and changes its result."""
    result = scheduler.run(single("partial_text", middleware=[handlers.shout]))
    assert result["x"] == "TEXT"


def test_timeouts_free_the_run_at_once(scheduler):
    """A task fails at its time-out. The token of its handler has the same deadline."""
    result = scheduler.run(single("wait_for_cancel", timeout=0.1))
    assert isinstance(result.exceptions["x"], TaskTimeout)
    assert result.duration < 10
    assert scheduler.run(single("echo"))["x"] == ({}, {})  # the process is free again


def test_a_killed_process(scheduler):
    """A task whose process is killed is retried by its Retry, or fails; the run continues."""
    graph = single("kill_process", retry=ON_CALL)
    graph.add(Task(type="echo"), name="after", depends_on="x", allow_failure=True)
    result = scheduler.run(graph)
    assert isinstance(result.exceptions["x"], WorkerLost)
    assert "'x' was lost before the handler returned" in result.errors["x"]
    assert result["after"] == ({}, {})
    assert scheduler.run(single("kill_once", retry=Retry(2, wait=wait_none())))["x"] == 2


def test_an_executor_that_was_given_breaks():
    """If an executor that was given breaks, the remaining tasks fail with an error that says so."""
    with make_pool() as pool, TaskScheduler(HANDLERS, executor=pool) as scheduler:
        graph = single("kill_process")
        graph.add(Task(type="echo"), name="y", depends_on="x", allow_failure=True, retry=ON_CALL)
        result = scheduler.run(graph)
    assert isinstance(result.exceptions["y"], WorkerLost)
    assert "this executor was given" in result.errors["y"]
    assert "executor=lambda: ProcessPoolExecutor(4)" in result.errors["y"]


def test_a_forked_child_makes_its_own_executor():
    """A scheduler with a function works in a forked child; with an executor, it says why not."""
    pools = []

    def make():
        pools.append(make_pool())
        return pools[-1]

    with make_pool() as pool, TaskScheduler(HANDLERS, executor=pool) as other:
        with TaskScheduler(HANDLERS, executor=make) as scheduler:
            for one in (scheduler, other):
                one.run(single("echo"))

            def child():
                with pools[-1] if scheduler.run(single("echo")).results else None:
                    assert len(pools) == 2
                assert "the process that forked this one" in other.run(single("echo")).errors["x"]

            in_child(child)


def test_remote_is_found_out():
    """One call finds out where an executor makes its calls; remote= says it without the call."""
    calls = []

    class Counting(concurrent.futures.Executor):
        def submit(self, function, *args):
            calls.append(function.__name__)
            return concurrent.futures.ThreadPoolExecutor(1).submit(function, *args)

    here = {"where": lambda task, context: threading.get_ident()}
    with TaskScheduler(here, executor=Counting()) as scheduler:
        scheduler.run(single("where")).raise_for_failure()
    assert calls[0] == "find_process" and "run_call" not in calls
    calls.clear()
    with TaskScheduler(HANDLERS, executor=Counting(), remote=True) as scheduler:
        scheduler.run(single("echo")).raise_for_failure()
    assert calls == ["run_call"]


def test_spans_travel(scheduler):
    """The requests of a handler in another process are among the spans of its task."""
    spans = run_single(scheduler, "ask_scripted_model").spans["x"]
    assert [(span.kind, span.name) for span in spans] == [
        ("attempt", "attempt 1"),
        ("model", "far"),
    ]
    whole, request = spans
    assert whole.start <= request.start <= request.end <= whole.end
    assert whole.usage == request.usage and request.usage.requests == 1


def test_pickles_that_raise_system_exit(scheduler):
    """A result that raises SystemExit when it is pickled or unpickled fails its task only."""
    graph = TaskGraph()
    for moment in ("load", "dump"):
        graph.add(Task(type="return_hostile", params={"on": moment}), name=moment)
    graph.add(Task(type="echo"), name="other")
    result = scheduler.run(graph)
    assert result.tasks["other"].status is TaskStatus.COMPLETE and result.reason is None
    for moment in ("load", "dump"):
        assert "SystemExit: from a pickle" in result.errors[moment]


def make_small_pool():
    return concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))


def test_conditions_that_raise_system_exit():
    """A condition that raises SystemExit fails its task, and the executor's slot is free again."""
    with TaskScheduler(HANDLERS, executor=make_small_pool, remote=True) as scheduler:
        for _ in range(2):
            result = scheduler.run(single(when=handlers.leave_in_condition), timeout=DEADLINE)
            assert result.errors == {"x": "SystemExit: from a condition"} and not result.reason
        assert scheduler.run(single(), timeout=DEADLINE).status is TaskStatus.COMPLETE


def test_a_run_that_cannot_continue_leaves_the_executor_to_others(tmp_path):
    """If a policy raises SystemExit, the run ends, and the runs that wait for its slot continue."""
    retry = Retry(2, wait=wait_none(), on=handlers.leave_in_retry)
    with TaskScheduler(HANDLERS, executor=make_small_pool, remote=True) as scheduler:
        path = tmp_path / "all-submitted"
        task = Task(type="kill_process_later", params={"path": str(path)})
        broken = scheduler.submit(single(task=task, retry=retry))
        other = scheduler.submit(single())
        path.touch()
        assert "SystemExit" in broken.result(DEADLINE).reason
        assert other.result(DEADLINE).status is TaskStatus.COMPLETE


def test_the_wait_for_that_call_can_be_cancelled():
    """A cancelled run does not wait for an executor that makes no call."""

    class Silent(concurrent.futures.Executor):
        def submit(self, function, *args):
            return concurrent.futures.Future()

    with TaskScheduler(HANDLERS, executor=Silent()) as scheduler:
        with pytest.raises(Cancelled), Cancellation(timeout=0.05):
            scheduler.run(single("echo"))
