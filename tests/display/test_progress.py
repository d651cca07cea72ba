"""The progress of a run on stderr: lines of text, as on a terminal without tqdm.

`test_progress_bar.py` tests the bar.
"""

import io
import os
import signal
import sys
import threading
import types

import pytest
from tenacity import wait_fixed

import asimov_sync
from asimov_sync import (
    Budget,
    MemoryCache,
    Price,
    RateLimit,
    Retry,
    RunStore,
    TaskGraph,
    TaskScheduler,
    Usage,
    tool,
)
from asimov_sync.display import progress
from asimov_sync.graph.snapshot import ActiveTask, RunSnapshot
from asimov_sync.testing import Clock, Failure, ScriptedInferenceClient, calls

from ..waiting import Background, wait_for


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal in place of stderr, on a machine without tqdm. Lines follow each other quickly."""
    stream = Terminal()
    # pytest replaces sys.stderr itself after the fixtures were made.
    names = types.SimpleNamespace(stderr=stream, modules=sys.modules)
    monkeypatch.setattr(progress, "sys", names)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.01)
    monkeypatch.setattr(progress, "MAX_LINE_INTERVAL", 0.01)
    return stream


def ok(task, context):
    return "fine"


def broken(task, context):
    raise ValueError("broken")


def interrupted(task, context):
    raise KeyboardInterrupt


def graph_of(name=None, **handlers):
    graph = TaskGraph(name)
    for task, handler in handlers.items():
        graph.add(handler, name=task)
    return graph


def last_line(terminal):
    return terminal.getvalue().splitlines()[-1]


def drawing_threads():
    return [thread for thread in threading.enumerate() if thread.name == "asimov-progress"]


# Where it draws


def test_nothing_where_nobody_looks(monkeypatch):
    """Without a terminal and a notebook, nothing is written and no thread is started."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    threads = []
    graph = graph_of(a=lambda task, context: threads.extend(drawing_threads()))
    with TaskScheduler() as scheduler:
        assert scheduler.run(graph, progress=True).status.name == "COMPLETE"
        monkeypatch.setattr(sys, "stderr", None)
        assert scheduler.run(graph, progress=True).status.name == "COMPLETE"
        monkeypatch.undo()
    assert threads == []


def test_nothing_by_default(terminal):
    """Without progress=True nothing is written."""
    with TaskScheduler() as scheduler:
        scheduler.run(graph_of(a=ok))
    assert terminal.getvalue() == ""


def test_lines_while_a_run_goes_on(terminal):
    """Lines have the share, the count, the time, and what the running tasks report."""
    seen = threading.Event()

    def report(task, context):
        context.report(0.25, "reading")
        seen.wait(10)

    with TaskScheduler() as scheduler:
        graph = graph_of("survey", a=ok, b=report)
        background = Background(scheduler.run, graph, progress=True)
        wait_for(lambda: "survey:  50% 1/2 [0:00" in terminal.getvalue(), "a line")
        wait_for(lambda: "] | b (25% reading)\n" in terminal.getvalue(), "what the task reports")
        seen.set()
        background.result()
    assert last_line(terminal).startswith("survey: 2 tasks finished after 0:0")
    assert drawing_threads() == []


def test_submitted_run(terminal):
    """run.progress() draws a run that was submitted, and returns its result."""
    with TaskScheduler() as scheduler:
        assert scheduler.submit(graph_of(a=ok)).progress().results == {"a": "fine"}
    assert last_line(terminal).startswith("the run: 1 task finished after 0:0")


def test_nested_runs_do_not_draw(terminal):
    """A run that a task starts draws nothing of its own."""
    with TaskScheduler() as scheduler:
        inner = graph_of("inner", a=ok)

        def nest(task, context):
            other = TaskScheduler(max_workers=0)
            return scheduler.run(inner, progress=True), other.run(inner, progress=True)

        scheduler.run(graph_of("outer", a=nest), progress=True)
    assert "inner" not in terminal.getvalue()
    assert len(terminal.getvalue().splitlines()) >= 1


def test_a_broken_terminal_affects_no_run(terminal):
    """A stream that refuses text ends the drawing, and the run continues."""
    terminal.close()
    released = threading.Event()
    with TaskScheduler() as scheduler:
        graph = graph_of(a=lambda task, context: released.wait(10))
        background = Background(scheduler.run, graph, progress=True)
        wait_for(lambda: not drawing_threads(), "the end of the drawing")
        released.set()
        assert background.result().results == {"a": True}


# What it shows


def test_failures_and_tokens_in_the_last_line(terminal):
    """The last line of a PARTIAL run counts and names failures, and has tokens and cost."""
    client = ScriptedInferenceClient(["one two three"])
    graph = graph_of("survey", a=lambda task, context: client.generate("hello").text)
    graph.map(broken, range(4), name="page")
    graph.add(ok, name="after", depends_on="page")
    budget = Budget(prices={client.model: Price(1000.0, 1000.0)})
    with TaskScheduler() as scheduler:
        result = scheduler.run(graph, progress=True, budget=budget)
    line = last_line(terminal)
    assert line.startswith("survey is PARTIAL after 0:0")
    assert (
        "1 of 6 tasks have a result, 4 failed (page[0], page[1], page[2], ...), 1 skipped" in line
    )
    assert f"{result.usage.total_tokens} tokens, $0.0" in line
    assert line.endswith("; result.raise_for_failure() says why")


def test_spawned_tasks_count(terminal):
    """The total grows by spawned tasks."""

    def grow(task, context):
        for _ in range(3):
            context.spawn(ok)

    with TaskScheduler() as scheduler:
        scheduler.run(graph_of(a=grow), progress=True)
    assert last_line(terminal).startswith("the run: 4 tasks finished")


def test_reason_of_an_early_end(terminal):
    """The last line says why a run ended early."""
    with TaskScheduler() as scheduler:
        graph = graph_of(a=lambda task, context: context.cancellation.wait(10))
        scheduler.run(graph, progress=True, timeout=0.05)
    assert "FAILED after 0:00 (the run's time-out of 0.05 s passed): 0 of 1 task" in last_line(
        terminal
    )


def test_interrupted_run(terminal):
    """The last line of an interrupted run has the number of results, and where they are."""
    graph = graph_of(a=ok, b=interrupted, c=ok)
    scheduler = TaskScheduler(max_workers=0)
    with pytest.raises(KeyboardInterrupt):
        scheduler.run(graph, progress=True)
    assert last_line(terminal).startswith("the run was interrupted after 0:0")
    assert "1 of 3 tasks have a result" in last_line(terminal)
    assert last_line(terminal).endswith("; scheduler.last_result has what was finished")
    assert scheduler.last_result.results == {"a": "fine"}
    assert drawing_threads() == []


def test_interrupted_run_on_a_scheduler_of_its_own(terminal):
    """asimov_sync.run() keeps no result of an interrupted run, and the last line names none."""

    def interrupt(task, context):
        wait_for(terminal.getvalue, "a line")
        os.kill(os.getpid(), signal.SIGINT)
        context.cancellation.wait(10)

    with pytest.raises(KeyboardInterrupt):
        asimov_sync.run(graph_of(a=interrupt), progress=True)
    assert "was interrupted" in last_line(terminal) and "last_result" not in terminal.getvalue()


def test_durable_run_is_continued(terminal):
    """The last line says how to continue; the next drive begins at the restored count."""
    stops = [True]

    def once(task, context):
        if stops.pop():
            raise KeyboardInterrupt
        wait_for(lambda: "3/4" in terminal.getvalue(), "the restored count")

    graph = graph_of("survey", a=ok, b=ok, c=ok, d=once)
    scheduler = TaskScheduler(max_workers=0, runs=RunStore(MemoryCache()))
    with pytest.raises(KeyboardInterrupt):
        scheduler.run(graph, run_id="r-1", progress=True)
    assert last_line(terminal).endswith("; the same call with run_id='r-1' continues it")
    terminal.truncate(0)
    stops.append(False)
    scheduler.run(graph, run_id="r-1", progress=True)
    assert "0/4" not in terminal.getvalue()
    scheduler.run(graph, run_id="r-1", progress=True)
    assert last_line(terminal).startswith("survey: the stored result of run 'r-1': COMPLETE")


def test_parked_run(terminal):
    """The last line of a parked run names the tasks that wait, and how to continue."""
    graph = graph_of(a=ok, review=lambda task, context: context.wait_for("go"))
    scheduler = TaskScheduler(runs=RunStore(MemoryCache()))
    scheduler.run(graph, run_id="r-1", progress=True)
    line = last_line(terminal)
    assert "is parked after 0:0" in line and "1 parked (review)" in line
    assert line.endswith("store.approve(), the same call with run_id='r-1' continues it")


# What running tasks do


@pytest.mark.parametrize(
    "script, limit, expected",
    [
        (["a", "b"], RateLimit(requests_per_minute=1), "a (rate limit, 60 s)"),
        ([Failure(529), "a", "b"], None, "a (retry after OverloadedError, 1 s)"),
        (
            [Failure(429, headers={"retry-after": "40"}), "a", "b"],
            None,
            "a (rate limit, 40 s)",
        ),
    ],
    ids=["rate limit", "retry", "retry-after"],
)
def test_waits_of_requests(script, limit, expected, terminal):
    """A task that waits for a rate limit or a retry says so, and for how long."""
    client = ScriptedInferenceClient(script, rate_limit=limit)

    def ask(task, context):
        return client.generate("one").text + client.generate("two").text

    with Clock() as clock, TaskScheduler() as scheduler:
        background = Background(scheduler.run, graph_of(a=ask), progress=True)
        wait_for(lambda: expected in terminal.getvalue(), expected)
        clock.advance(60)
        assert background.result().results == {"a": "ab"}


def test_wait_in_a_nested_run(terminal):
    """A task shows what the tasks of its own runs wait for."""
    client = ScriptedInferenceClient(["a", "b"], rate_limit=RateLimit(requests_per_minute=1))
    client.generate("one")
    with TaskScheduler() as scheduler, Clock() as clock:
        inner = graph_of(inner=lambda task, context: client.generate("two").text)
        outer = graph_of(outer=lambda task, context: scheduler.run(inner)["inner"])
        background = Background(scheduler.run, outer, progress=True)
        wait_for(lambda: "| outer (rate limit, 60 s)" in terminal.getvalue(), "the wait")
        clock.advance(60)
        assert background.result().results == {"outer": "b"}


def test_attempts_and_tools(terminal):
    """A task that waits for its next attempt says so; a task that calls a tool names it."""
    failing, called = [True], threading.Event()

    @tool
    def look_up() -> str:
        """Look something up."""
        called.wait(10)
        return "found"

    client = ScriptedInferenceClient([calls(("look_up", {})), "done"])

    def flaky(task, context):
        if failing:
            failing.pop()
            raise ValueError("flaky")
        return client.run_tools("go", [look_up]).text

    graph = TaskGraph()
    graph.add(flaky, name="a", retry=Retry(attempts=2, wait=wait_fixed(30)))
    with Clock() as clock, TaskScheduler() as scheduler:
        background = Background(scheduler.run, graph, progress=True)
        wait_for(lambda: "| a (attempt 2, 30 s)" in terminal.getvalue(), "the retry")
        clock.advance(30)
        wait_for(lambda: "| a (look_up)" in terminal.getvalue(), "the tool")
        called.set()
        assert background.result().results == {"a": "done"}


# Texts


def snapshot(active=(), **changes):
    fields = {
        "name": "survey",
        "run_id": "r-1",
        "over": False,
        "durable": False,
        "seconds": 72.0,
        "total": 300,
        "finished": 212,
        "complete": 208,
        "partial": 0,
        "failed": 4,
        "skipped": 0,
        "cancelled": 0,
        "parked": 1,
        "active": list(active),
        "usage": Usage(input_tokens=48_000, output_tokens=200),
        "dollars": 0.31,
    }
    return RunSnapshot(**dict(fields, **changes))


START = snapshot(seconds=0.0, finished=0)


def test_text_of_a_wide_bar():
    """Counts come first, then tokens and cost, then the tasks, those that wait before others."""
    active = [ActiveTask(f"page[{n}]", "", None) for n in range(10)]
    active[4] = ActiveTask("page[4]", "rate limit", 0.0)
    assert progress.describe(snapshot(active), START, 105) == (
        "survey:  70%",
        "212/300 [1:12<0:29] 4 failed, 1 parked, 48.2k tokens, $0.3100"
        " | page[4] (rate limit, 0 s), +9",
    )


@pytest.mark.parametrize("width", range(20, 130, 3))
def test_text_fits_its_width(width):
    """The text is not longer than its width, but for the count and the time."""
    active = [ActiveTask("a long name " * n, "does something", 5.0) for n in range(8)]
    left, right = progress.describe(snapshot(active), START, width)
    assert len(left) + len(right) <= max(width, len(" 70%212/300 [1:12<0:29]"))


def test_control_characters_are_replaced():
    """A name or a text cannot move the cursor of the terminal, nor start another line."""
    active = [ActiveTask("a\x1b[2Jb\nc", "\u202ed", None)]
    _, right = progress.describe(snapshot(active, name="\x1b[1m"), START, 120)
    assert right.endswith("| a [2Jb c ( d)")
    text = progress.describe_end(snapshot(name="a\rb"), None, KeyboardInterrupt(), "")
    assert text.isprintable()
