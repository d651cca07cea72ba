"""A shared cache between a run and the processes of its handlers: progress, text, cancel, steps."""

import sys
import time

import pytest
from tenacity import wait_none

from asimov_sync import (
    Budget,
    BudgetExceeded,
    GraphError,
    MemoryCache,
    RedisCache,
    Retry,
    RunStore,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)
from asimov_sync.cache.opening import find_address
from asimov_sync.testing import Fault, ModelServer, calls, tool_results

from ..tiers import soak, suite, within
from ..waiting import DEADLINE, wait_for
from .graphs import single
from .remote_handlers import HANDLERS, ask_in_condition
from .test_remote import make_pool


@pytest.fixture
def cache(open_cache):
    return open_cache("sqlite")


@pytest.fixture
def scheduler(cache):
    """A scheduler that shares a cache with two processes."""
    with TaskScheduler(HANDLERS, executor=make_pool, cache=cache, runs=RunStore(cache)) as new:
        yield new


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=soak)])
def any_scheduler(request, open_cache):
    cache = open_cache(request.param)
    with TaskScheduler(HANDLERS, executor=make_pool, cache=cache) as new:
        yield new


def run_cache(scheduler, run):
    """The cache that the tasks of a run see."""
    return scheduler.cache.with_prefix("run").with_prefix(run.id)


@suite
@pytest.mark.parametrize("backend", ["sqlite", "redis"])
def test_the_cache_reconnects(open_cache, backend):
    """`context.cache` is the run's namespace of the same cache."""
    with TaskScheduler(HANDLERS, executor=make_pool, cache=open_cache(backend)) as scheduler:
        run = scheduler.submit(single("use_cache"))
        assert run.result(DEADLINE)["x"] is True
        assert "pid" in run_cache(scheduler, run).get("mine")


def test_a_cache_in_memory_is_not_shared():
    """With a cache in memory, `context.cache` in another process is an error that says so."""
    with TaskScheduler(HANDLERS, executor=make_pool, cache=MemoryCache()) as scheduler:
        result = scheduler.run(single("use_cache"))
    assert isinstance(result.exceptions["x"], GraphError)
    assert "in the memory of its process" in result.errors["x"]


@suite
def test_progress_is_live(any_scheduler):
    """A report is an event within a second, while the handler runs; no event comes twice."""
    run = any_scheduler.submit(single("report_and_wait"))
    seen = []
    for event in run.events():
        if event.type == "task_progress":
            assert not run.done()
            run_cache(any_scheduler, run).set("seen", True)
        seen.append(event.type)
    assert run.result(DEADLINE)["x"] == "seen"
    assert seen.count("task_progress") == 1


@suite
def test_a_cancel_reaches_the_handler(any_scheduler):
    """run.cancel() ends the run at once, and cancels the handler's token within a second."""
    run = any_scheduler.submit(single("note_cancel"))
    next(event for event in run.events() if event.type == "task_progress")
    start = time.monotonic()
    run.cancel("enough")
    assert run.result(DEADLINE).status is TaskStatus.FAILED
    wait_for(lambda: run_cache(any_scheduler, run).get("reason", None) == "enough")
    assert time.monotonic() - start < within(1)


def stalled_server():
    """A server whose replies stop in the middle."""
    return ModelServer(lambda body: Fault("one two three four", stall=4))


@suite
@pytest.mark.parametrize("ending", ["cancel", pytest.param("time-out", marks=soak)])
def test_the_stream_of_a_model_is_closed(scheduler, ending):
    """Text is live, and a cancel or a time-out closes the provider's stream within a second."""
    with stalled_server() as server:
        graph = single(
            task=Task(type="ask_model", params={"url": server.url}),
            timeout=3.0 if ending == "time-out" else None,
        )
        run = scheduler.submit(graph)
        next(event for event in run.events() if event.type == "task_text")
        if ending == "cancel":
            run.cancel("enough")
        run.result(DEADLINE)
        start = time.monotonic()
        assert server.requests[0].disconnected.wait(DEADLINE)
        assert time.monotonic() - start < within(1)


@suite
def test_steps_commit(scheduler):
    """A step in another process is committed before it returns, and not called again."""
    graph = single("step", retry=Retry(2, wait=wait_none()))
    first, second, key = scheduler.run(graph, run_id="steps")["x"]
    assert first == second and key == "steps/x/1"
    unshared = TaskScheduler(HANDLERS, executor=make_pool, runs=scheduler.runs)
    with unshared:
        result = unshared.run(single("step"), run_id="other")
    assert "give the scheduler a cache that both share" in result.errors["x"]


@suite
def test_waits_park_the_run(scheduler):
    """wait_for() in another process parks the run, and returns the answer in the next drive."""
    graph = single("ask_human")
    assert scheduler.run(graph, run_id="waits").status is TaskStatus.WAITING
    assert [wait.prompt for wait in scheduler.runs.waits("waits")] == ["Is it good?"]
    assert scheduler.runs.answer("waits", "review", {"good": True})
    assert scheduler.run(graph, run_id="waits")["x"] == {"good": True}


@suite
def test_a_condition_parks_the_run(scheduler):
    """wait_for() in a condition parks the run, whose tasks have handlers in other processes."""
    graph = single("echo", when=ask_in_condition)
    assert scheduler.run(graph, run_id="asks").status is TaskStatus.WAITING
    assert scheduler.runs.answer("asks", "go", True)
    assert scheduler.run(graph, run_id="asks").status is TaskStatus.COMPLETE


def answer_agent(body):
    return "nothing" if tool_results(body) else calls(("look_up", {"word": "asimov"}))


@suite
def test_agents_usage_and_budgets(scheduler):
    """An agent with a tool runs there. Its usage and what it spends are those of the run."""
    with ModelServer(answer_agent) as server:
        params = {"url": server.url}
        budget = Budget(requests=3)
        graph = TaskGraph()
        for name in ("a", "b"):
            before = [] if name == "a" else ["a"]
            graph.add(Task(type="ask_agent", params=params), name=name, depends_on=before)
        result = scheduler.run(graph, budget=budget, run_id="agents")
        assert result["a"] == "nothing"
        assert isinstance(result.exceptions["b"], BudgetExceeded)
        assert "the budget of 3 requests is used up" in result.reason
        assert result.usage == server.usage and result.usage.requests == 3
        assert budget.spent.requests == 3
        assert result.usages["a"].requests == 2


def test_log_records_have_their_attributes(scheduler):
    """LogFilter finds the run, the task and the attempt in another process."""
    result = scheduler.run(single("log_something"))
    assert result["x"] == [result.run_id, "x", 1]


def test_addresses_show_no_password():
    """The address of a cache shows no password, and travels with it."""
    cache = RedisCache(url="redis://:pass-word-1@127.0.0.1:1/0", default_prefix="mine")
    assert "pass-word-1" not in repr(find_address(cache))
    assert find_address(MemoryCache()) is None


@suite
def test_hostile_messages_are_ignored(scheduler, cache, tmp_path):
    """Foreign messages in the channel import nothing, call nothing, and harm no run."""
    marker = tmp_path / "imported_by_a_message"
    (tmp_path / "hostile_module.py").write_text(f"open({str(marker)!r}, 'w')", encoding="utf-8")
    sys.path.insert(0, str(tmp_path))
    hostile = [
        "hostile_module:x", ["hostile_module:x"], {"handler": "hostile_module:x"}, [[1, 2, 3, 4]],
        [["x", "text", None, None]], [[0, "", "nan", {"py/object": "hostile_module.x"}]], 5, None,
    ]  # fmt: skip
    request = {"id": "1", "do": "hostile_module:x", "args": ["hostile_module:x"]}
    try:
        run = scheduler.submit(single("report_and_wait"), run_id="hostile")
        next(event for event in run.events() if event.type == "task_progress")
        (key,) = [key for key in cache.keys() if key.startswith("remote:") and key.endswith(".0")]
        call = key[: -len(".0")]
        for number, value in enumerate(hostile, 1):
            cache.set(f"{call}.{number}", value)
        cache.set(f"{call}.request", request)
        wait_for(lambda: cache.get(f"{call}.reply.1", None))
        assert "which is unknown" in cache.get(f"{call}.reply.1")["message"]
        run_cache(scheduler, run).set("seen", True)
        assert run.result(DEADLINE)["x"] == "seen"
        # A type that looks like an importable name is a type like any other.
        with pytest.raises(GraphError, match="no handler for the type 'hostile_module:x'"):
            scheduler.run(single("hostile_module:x"))
    finally:
        sys.path.remove(str(tmp_path))
    assert not marker.exists() and "hostile_module" not in sys.modules
