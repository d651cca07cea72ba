"""The logger asimov_sync.graph: runs and failures at INFO, every task at DEBUG, no content."""

import logging
import threading

import pytest

from asimov_sync import Retry, Task, TaskGraph, TaskScheduler, current_context

from ..waiting import DEADLINE

AT_ONCE = Retry(attempts=2, wait=lambda state: 0)
SECRET = "swordfish"


def work(task, context):
    if task.params.get("fails") or (task.params.get("flaky") and context.attempt == 1):
        raise ValueError(SECRET)
    return SECRET


def survey():
    """One task that succeeds, one that is retried, one that fails, and one that is skipped."""
    graph = TaskGraph("survey")
    graph.add(Task(type="work", objective=SECRET), name="good")
    graph.add(
        Task(type="work", params={"flaky": True}), name="flaky", depends_on="good", retry=AT_ONCE
    )
    graph.add(Task(type="work", params={"fails": True}), name="bad", depends_on="flaky")
    graph.add(Task(type="work"), name="after", depends_on="bad")
    return graph


def messages(caplog):
    """Return task and message of each record, with the numbers of seconds left out."""
    return [
        (record.task, " ".join(without_seconds(record.getMessage().split())))
        for record in caplog.records
    ]


def without_seconds(words):
    for word, following in zip(words, words[1:] + [""]):
        yield "…" if following.rstrip(":") == "s" else word


@pytest.mark.parametrize("max_workers", [0, 3])
def test_info(max_workers, caplog):
    """INFO has the start of a run, its retries and failures, and its end with counts."""
    caplog.set_level(logging.INFO, "asimov_sync.graph")
    with TaskScheduler({"work": work}, max_workers=max_workers) as scheduler:
        scheduler.run(survey(), run_id="r-1")
    assert messages(caplog) == [
        (None, "run r-1 of 'survey' started: 4 tasks"),
        ("flaky", "task 'flaky' failed: ValueError; attempt 2 of 2 starts in … s"),
        ("bad", "task 'bad' failed: ValueError"),
        (None, "run r-1 is PARTIAL after … s: 1 skipped, 2 COMPLETE, 1 FAILED"),
    ]
    assert {record.name for record in caplog.records} == {"asimov_sync.graph"}
    assert {record.run_id for record in caplog.records} == {"r-1"}
    assert [record.attempt for record in caplog.records] == [None, 1, 1, None]


def test_debug(caplog):
    """DEBUG also has the start and the end of every attempt, and the skipped tasks."""
    caplog.set_level(logging.DEBUG, "asimov_sync.graph")
    with TaskScheduler({"work": work}, max_workers=1) as scheduler:
        scheduler.run(survey())
    assert [
        (record.task, record.attempt, record.getMessage().split(" after ")[0])
        for record in caplog.records
        if record.levelno == logging.DEBUG
    ] == [
        ("good", 1, "task 'good' started: attempt 1"),
        ("good", 1, "the handler of task 'good' returned"),
        ("flaky", 1, "task 'flaky' started: attempt 1"),
        ("flaky", 2, "task 'flaky' started: attempt 2"),
        ("flaky", 2, "the handler of task 'flaky' returned"),
        ("bad", 1, "task 'bad' started: attempt 1"),
        ("after", None, "task 'after' was skipped"),
    ]
    assert SECRET not in caplog.text


def test_the_end_is_logged_before_the_result_is_returned(caplog):
    """A run's last record is written before `run()` returns, even if the handler is slow."""
    caplog.set_level(logging.INFO, "asimov_sync.graph")
    reached, release, finished = threading.Event(), threading.Event(), threading.Event()

    class SlowHandler(logging.Handler):
        def emit(self, record):
            if " is COMPLETE " in record.getMessage():
                reached.set()
                assert release.wait(DEADLINE)
                finished.set()

    slow = SlowHandler()
    logging.getLogger("asimov_sync.graph").addHandler(slow)
    try:
        graph = TaskGraph()
        graph.add(Task(type="work"), name="only")
        with TaskScheduler({"work": work}) as scheduler:
            run = scheduler.submit(graph)
            assert reached.wait(DEADLINE)
            waiting = threading.Thread(target=run.result)
            waiting.start()
            waiting.join(0.05)
            assert waiting.is_alive()
            release.set()
            run.result(DEADLINE)
            assert finished.is_set()
            waiting.join(DEADLINE)
    finally:
        release.set()
        logging.getLogger("asimov_sync.graph").removeHandler(slow)


def test_cancelled_run(caplog):
    """The last record says why a run ended early."""
    caplog.set_level(logging.INFO, "asimov_sync.graph")
    graph = TaskGraph()
    graph.add(Task(type="work"), name="only")
    with TaskScheduler(
        {"work": lambda task, context: context.cancellation.wait(DEADLINE)}
    ) as scheduler:
        scheduler.run(graph, timeout=0.01)
    assert caplog.messages[-1].endswith("; it ended early: the run's time-out of 0.01 s passed")


def test_a_disabled_level_costs_no_record(caplog):
    """At WARNING, the default level of Python, a run that goes well logs nothing."""
    caplog.set_level(logging.WARNING, "asimov_sync.graph")
    with TaskScheduler({"work": work}) as scheduler:
        scheduler.run(survey())
    assert caplog.records == []


def test_current_context():
    """current_context() is the handler's context, also in `when`, and None elsewhere."""
    seen = []

    def condition(inputs):
        seen.append(current_context().name)
        return True

    def handle(task, context):
        seen.append(current_context() is context)

    graph = TaskGraph()
    graph.add(Task(type="handle"), name="only", when=condition)
    assert current_context() is None
    with TaskScheduler({"handle": handle}) as scheduler:
        scheduler.run(graph).raise_for_failure()
    assert seen == ["only", True]
    assert current_context() is None
