"""Handlers in the processes of loky."""

import pytest
from loky import ProcessPoolExecutor, get_reusable_executor
from tenacity import wait_none

from asimov_sync import Retry, Task, TaskScheduler, WorkerLost

from ..graph.everything import run_everything
from ..graph.graphs import single
from ..graph.remote_handlers import HANDLERS
from ..graph.test_remote_everything import compare


def make_executor():
    return ProcessPoolExecutor(2)


def test_every_feature():
    """One graph with every feature ends as on the calling thread."""
    compare(run_everything(executor=make_executor), run_everything(max_workers=0))


@pytest.mark.parametrize("make", [make_executor, lambda: get_reusable_executor(2)])
def test_a_killed_process(make):
    """A task whose process is killed is retried by its Retry, or fails; the run continues."""
    with TaskScheduler(HANDLERS, executor=make) as scheduler:
        graph = single("kill_once", retry=Retry(3, wait=wait_none(), on=WorkerLost))
        assert scheduler.run(graph)["x"] >= 2
        result = scheduler.run(single("kill_process"))
        assert isinstance(result.exceptions["x"], WorkerLost)
        assert scheduler.run(single("echo"))["x"] == ({}, {})


def in_main(task, context):
    return Answer(task.params["n"] + 1)


class Answer:
    """A class of the main program, as far as pickle can tell."""

    def __init__(self, number):
        self.number = number


def test_functions_of_the_main_program(monkeypatch):
    """Functions and classes of the main program travel as code, as in a notebook."""
    import __main__

    for one in (in_main, Answer):
        monkeypatch.setattr(one, "__module__", "__main__")
        monkeypatch.setattr(__main__, one.__name__, one, raising=False)
    with TaskScheduler({"in_main": in_main}, executor=make_executor) as scheduler:
        result = scheduler.run(single(task=Task(type="in_main", params={"n": 1})))
    assert type(result["x"]).__name__ == "Answer" and result["x"].number == 2
