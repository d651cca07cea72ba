"""LogFilter adds the run, the task and the attempt to log records of every logger."""

import io
import logging
import threading

import pytest

from asimov_sync import LogFilter, RateLimitError, Retry, Task, TaskGraph, TaskScheduler, tool
from asimov_sync.concurrency.log_context import describe_error
from asimov_sync.testing import ScriptedInferenceClient, calls, tool_results


@pytest.fixture
def log():
    """Return the user's logger and the lines that its handler writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(run_id)s %(task)s %(attempt)s %(message)s"))
    handler.addFilter(LogFilter())
    logger = logging.getLogger("tests.log_context")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield logger, lambda: stream.getvalue().splitlines()
    logger.removeHandler(handler)


def test_outside_of_runs(log):
    """A format string with the three attributes also works outside of runs."""
    logger, lines = log
    logger.info("hello")
    assert lines() == ["None None None hello"]


@pytest.mark.parametrize("max_workers", [0, 2])
def test_handlers_and_tools(max_workers, log):
    """Records of handlers, of tools on their own threads and of nested runs name their task."""
    logger, lines = log
    threads = set()

    @tool
    def look_up(word: str) -> str:
        """Look a word up."""
        threads.add(threading.get_ident())
        logger.info("look up %s", word)
        return word

    client = ScriptedInferenceClient(
        lambda body: "done" if tool_results(body) else calls(("look_up", {"word": "one"}))
    )

    def inner(task, context):
        logger.info("inner")

    def outer(task, context):
        if context.attempt == 1:
            raise ConnectionError
        client.run_tools("what?", [look_up])
        graph = TaskGraph()
        graph.add(Task(type="inner"), name="leaf")
        scheduler.run(graph, run_id="inner-run").raise_for_failure()
        threads.add(threading.get_ident())
        logger.info("outer")

    graph = TaskGraph()
    at_once = Retry(attempts=2, wait=lambda state: 0)
    graph.add(Task(type="outer"), name="top", retry=at_once)
    with TaskScheduler({"outer": outer, "inner": inner}, max_workers=max_workers) as scheduler:
        scheduler.run(graph, run_id="run-7").raise_for_failure()
    assert len(threads) == (2 if max_workers else 1)
    assert lines() == [
        "run-7 top 2 look up one",
        "inner-run leaf 1 inner",
        "run-7 top 2 outer",
    ]


def test_attributes_of_a_record_are_kept():
    """The filter keeps attributes that a record has, and drops no record."""
    record = logging.makeLogRecord({"run_id": "mine", "task": "t", "attempt": 3})
    assert LogFilter().filter(record) is True
    assert (record.run_id, record.task, record.attempt) == ("mine", "t", 3)


def test_descriptions_of_errors():
    """An error is described by its type, status and request id, never by its message."""
    assert describe_error(ValueError("swordfish")) == "ValueError"
    error = RateLimitError("swordfish", status=429, error_type="rate_limit_error", request_id="r-1")
    assert describe_error(error) == (
        "RateLimitError (status 429, type rate_limit_error, request id r-1)"
    )
    assert describe_error(RateLimitError("x", error_type="say swordfish")) == "RateLimitError"
    assert describe_error(None) == "an error"
