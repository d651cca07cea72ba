"""Trace contexts in handlers in other processes."""

import pytest

from asimov_sync import TaskScheduler

from ..graph.graphs import single
from ..graph.remote_handlers import HANDLERS
from ..graph.test_remote import make_pool


@pytest.mark.usefixtures("clean_telemetry_environment")
def test_the_span_of_the_task_is_the_parent(exported):
    """In a process with telemetry, the span of the task is the current one in its handler."""
    with TaskScheduler(HANDLERS, executor=make_pool) as scheduler:
        trace_id, span_id = scheduler.run(single("name_span"))["x"]
    (span,) = [span for span in exported.spans if span.context.span_id == span_id]
    assert span.context.trace_id == trace_id and span.name == "task x"
