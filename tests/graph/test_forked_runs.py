"""Fork in the middle of a run: the child's scheduler works, the parent's runs are not affected."""

import gc
import os
import threading

import pytest

from asimov_sync import Cancellation, GraphError, Retry, TaskScheduler, TaskStatus
from asimov_sync.graph import engine

from ..tracing import holding_lock
from ..waiting import Background, in_child
from .graphs import single, wide

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def test_parents_runs_in_a_child():
    """In a child, calls for a run of the parent raise or do not affect it; none of them hangs."""
    gate, registered, touched, contexts = threading.Event(), threading.Event(), [], []

    def wait(task, context):
        contexts.append(context)
        context.cancellation.on_cancel(lambda: touched.append(os.getpid()))
        registered.set()
        gate.wait(20)
        return "done"

    with TaskScheduler(
        {"wait": wait, "quick": lambda task, context: 1}, max_workers=2
    ) as scheduler:
        token = Cancellation()
        with token:
            run = scheduler.submit(single("wait"))
            events = [run.events()]
        assert registered.wait(20)

        def use():
            assert run.cancel() is False
            with pytest.raises(GraphError, match="forked"):
                run.result(1)
            with pytest.raises(GraphError, match="forked"):
                for _ in run.events():
                    pass
            assert scheduler.run(wide("quick", 3)).status is TaskStatus.COMPLETE
            del events[:]
            gc.collect()
            scheduler.close()
            assert touched == []
            token.cancel("in the child")  # which the callbacks of the token itself receive
            assert touched == [os.getpid()]

        def report():
            contexts[0].report(0.5)

        with holding_lock(engine, report, probe=run.events):  # the lock of the run
            in_child(use)
        gate.set()
        assert run.result(20).results == {"x": "done"}


def test_children_of_a_busy_parent():
    """Children forked during runs, retries and time-outs of the parent run graphs of their own."""
    stop = threading.Event()

    def work(task, context):
        if context.attempt == 1:
            raise ValueError

    with TaskScheduler(
        {"work": work, "quick": lambda task, context: 1}, max_workers=3
    ) as scheduler:

        def busy():
            while not stop.is_set():
                scheduler.run(
                    wide("work", 20, retry=Retry(attempts=2, wait=lambda state: 0.001), timeout=5)
                )

        call = Background(busy)
        try:
            for _ in range(10):

                def use():
                    graph = wide("work", 5, retry=Retry(attempts=2, wait=lambda state: 0.001))
                    assert scheduler.run(graph, timeout=10).status is TaskStatus.COMPLETE
                    with TaskScheduler({"quick": lambda task, context: 1}) as other:
                        assert other.run(wide("quick", 3)).status is TaskStatus.COMPLETE
                    scheduler.close()

                in_child(use)
        finally:
            stop.set()
        call.result()
