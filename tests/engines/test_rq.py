"""The recipe for RQ in docs/scaling.rst: a real worker and a real Redis server."""

import importlib
import os
import signal
import sys

import pytest

from asimov_sync import RunStatus

from ..test_readme import DOCS, blocks
from .queue_workers import finished_tasks, statuses, wait_held, wait_long, worker_starter

URL = "redis://localhost:6379/0"
SCHEDULER = "scheduler = TaskScheduler(runs=RunStore(RedisCache(url=URL)))"


@pytest.fixture(scope="module")
def recipe(flows, tmp_path_factory):
    """The module of the recipe, with the scheduler and the server of the tests."""
    (text,) = [block for block in blocks("python", DOCS / "scaling.rst") if "from rq" in block]
    assert URL in text and SCHEDULER in text
    text = text.replace(SCHEDULER, "from tests.engines.queue_flows import scheduler")
    folder = tmp_path_factory.mktemp("recipe")
    program = text.replace(URL, os.environ["ASIMOV_TEST_QUEUE_SERVER"])
    folder.joinpath("recipe_of_rq.py").write_text(program, encoding="utf-8")
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(folder))
    patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    yield importlib.import_module("recipe_of_rq")
    patch.undo()
    sys.modules.pop("recipe_of_rq")


@pytest.fixture(scope="module")
def start_worker(recipe, worker_log):
    """A function that starts a worker. The workers are killed at the end of the module."""
    command = ["-c", "import recipe_of_rq; recipe_of_rq.work()"]
    with worker_starter(command, worker_log) as start:
        yield start


def wait_complete(flows, run_id):
    """Wait until a run is complete."""
    wait_long(lambda: flows.store.get(run_id).status is RunStatus.COMPLETE, f"the end of {run_id}")


def enqueue(flows, recipe, run_id, flow, **args):
    """Store a run, and send it to the workers."""
    assert flows.scheduler.enqueue(flow, args=args, run_id=run_id)
    recipe.send(run_id)


def test_runs_on_a_worker(flows, recipe, worker):
    """The job runs a flow that was enqueued, and the results are in the store."""
    for number in range(3):
        enqueue(flows, recipe, f"run-{number}", "parts", parts=2)
    for number in range(3):
        wait_complete(flows, f"run-{number}")
    assert flows.store.result("run-2").results["part-1"] == "run-2 part-1"
    assert os.getpid() not in flows.traces("start")


def test_the_time_out_of_a_job(flows, recipe, worker):
    """The time-out of the job interrupts the run, and the retry continues it where it was."""
    assert flows.scheduler.enqueue("held", run_id="slow")
    recipe.queue.enqueue(recipe.run, "slow", job_timeout=1, retry=recipe.Retry(max=100))
    wait_held(flows, "slow", times=2)
    flows.release("slow")
    wait_complete(flows, "slow")
    assert len(flows.traces("start", "slow", "first")) == 1
    assert statuses(flows, "slow")[:1] == ["interrupted"]
    assert finished_tasks(flows, "slow") == ["first", "second"]


def test_a_lost_process(flows, recipe, worker):
    """When the process of a job is killed, the job is sent again, and the run continues."""
    enqueue(flows, recipe, "lost", "held")
    os.kill(wait_held(flows, "lost"), signal.SIGKILL)
    wait_held(flows, "lost", times=2)
    flows.release("lost")
    wait_complete(flows, "lost")
    assert finished_tasks(flows, "lost") == ["first", "second"]


def test_a_run_that_has_a_driver(flows, recipe, worker):
    """A second job of a run that has a driver ends at once; one of a run that has ended, too."""
    enqueue(flows, recipe, "driven", "held")
    wait_held(flows, "driven")
    assert recipe.run("driven") == "running"
    flows.release("driven")
    wait_complete(flows, "driven")
    assert recipe.run("driven") == "complete"


def test_a_lost_worker_and_an_answer(flows, recipe, worker, start_worker):
    """continue_ready sends the runs of a worker that was killed, and runs that were answered."""
    enqueue(flows, recipe, "parked", "single", type="ask")
    wait_long(lambda: flows.store.get("parked").status is RunStatus.PARKED, "the question")
    enqueue(flows, recipe, "stranded", "held")
    process = wait_held(flows, "stranded")
    assert worker.kill()
    os.kill(process, signal.SIGKILL)  # it has a process group of its own
    start_worker.current = start_worker()
    flows.store.answer("parked", "agreed", True)
    wait_long(lambda: len(flows.store.ready()) == 2, "two runs that are ready")
    recipe.continue_ready()
    wait_complete(flows, "parked")
    wait_held(flows, "stranded", times=2)
    flows.release("stranded")
    wait_complete(flows, "stranded")
    assert finished_tasks(flows, "stranded") == ["first", "second"]
