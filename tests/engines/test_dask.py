"""Handlers on a dask cluster of processes: `executor=client.get_executor(pure=False)`."""

import concurrent.futures
import os
import signal

import dask
import pytest
from distributed import Client, LocalCluster
from tenacity import wait_none

from asimov_sync import (
    MemoryCache,
    Retry,
    RunStore,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
    WorkerLost,
)

from ..graph.everything import run_everything
from ..graph.test_remote_everything import compare
from ..test_readme import DOCS, blocks
from ..tiers import by_tier
from ..waiting import DEADLINE, Background
from .dask_handlers import HANDLERS, notes
from .queue_workers import WORKER_DEADLINE, wait_long

pytestmark = [
    # dask leaves sockets to the garbage collector when it looks for free ports.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def start_cluster(workers):
    """Return a cluster of processes on loopback."""
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        host="127.0.0.1",
    )


@pytest.fixture(scope="module")
def cluster():
    with start_cluster(2) as new_cluster:
        yield new_cluster


@pytest.fixture(scope="module")
def client(cluster):
    with Client(cluster) as new_client:
        yield new_client


@pytest.fixture
def store():
    """A store, whose events show what was committed."""
    return RunStore(MemoryCache())


@pytest.fixture
def scheduler(client, store):
    """A scheduler whose handlers run on the cluster, and whose runs are durable."""
    executor = client.get_executor(pure=False)
    with TaskScheduler(HANDLERS, executor=executor, runs=store) as new_scheduler:
        yield new_scheduler


def build_held(folder, **options):
    """Return a graph whose first task is held until the file `release` appears."""
    graph = TaskGraph()
    graph.add(Task(type="hold", params={"folder": str(folder)}), name="held", **options)
    graph.add(Task(type="echo"), name="after", depends_on="held")
    return graph


def wait_started(folder, times=1):
    """Wait until the held task has started for the n-th time. Return the process id."""
    log = folder / "log"
    wait_long(lambda: log.exists() and len(notes(folder, "start")) >= times, f"start {times}")
    return notes(folder, "start")[times - 1]


def committed(store, run_id):
    """Return the names of the tasks whose outcome was committed, once for each commit."""
    return [one["name"] for one in store.events(run_id) if one["type"] == "task_finished"]


def finish(folder, run, store, run_id):
    """Release the task, and check that its outcome was committed once. Return its result."""
    (folder / "release").touch()
    result = run.result(WORKER_DEADLINE)
    assert committed(store, run_id) == ["held", "after"]
    assert result.tasks["held"].status is TaskStatus.COMPLETE
    assert result["after"][1] == {"held": result["held"]}
    return result["held"]


@pytest.fixture(scope="module")
def expected():
    """The end of the graph with every feature on the calling thread."""
    return run_everything(max_workers=0)


def test_everything(client, expected):
    """A graph with every feature has the same results, usage and events as without dask."""
    compare(run_everything(executor=client.get_executor(pure=False)), expected)


def test_a_killed_worker(store, tmp_path):
    """dask runs the task of a killed worker again; the outcome is committed once.

    If many workers die in quick succession, dask loses calls, also without this library. So each
    cluster has three deaths.
    """
    for batch in range(by_tier(1, soak=17)):
        with start_cluster(2) as mortal, Client(mortal) as client:
            executor = client.get_executor(pure=False)
            with TaskScheduler(HANDLERS, executor=executor, runs=store) as scheduler:
                for number in range(3):
                    client.wait_for_workers(2, timeout=WORKER_DEADLINE)
                    run_id = f"killed-{batch}-{number}"
                    folder = tmp_path / run_id
                    folder.mkdir()
                    graph = build_held(folder, timeout=20, retry=Retry(3, wait=wait_none()))
                    run = scheduler.submit(graph, run_id=run_id)
                    process = wait_started(folder)
                    os.kill(process, signal.SIGKILL)
                    assert finish(folder, run, store, run_id) != process
                    assert process not in notes(folder, "end")


def test_a_task_that_kills_its_workers(client, store):
    """When dask gives a task up, it fails with WorkerLost, or is retried by its Retry."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        with start_cluster(1) as fragile, Client(fragile) as one:
            with TaskScheduler(HANDLERS, executor=one.get_executor(pure=False)) as scheduler:
                graph = TaskGraph()
                graph.add(Task(type="kill_process"), name="x")
                graph.add(Task(type="kill_once"), name="y", retry=Retry(3, wait=wait_none()))
                result = scheduler.run(graph)
    assert isinstance(result.exceptions["x"], WorkerLost)
    assert "KilledWorker" in result.errors["x"]
    assert result["y"] == 2


def test_a_retired_worker(cluster, client, scheduler, store, tmp_path):
    """A worker is retired while it runs a task: the outcome is committed once."""
    cluster.scale(3)
    client.wait_for_workers(3, timeout=WORKER_DEADLINE)
    run = scheduler.submit(build_held(tmp_path), run_id="retired")
    process = wait_started(tmp_path)
    (address,) = [one for one, pid in client.run(os.getpid).items() if pid == process]
    retiring = Background(client.retire_workers, [address])
    wait_started(tmp_path, times=2)
    finish(tmp_path, run, store, "retired")
    assert store.get("retired").tasks["held"].attempt == 1  # no Retry counts it
    retiring.result()


class Twice(concurrent.futures.Executor):
    """Has another executor make each call twice, at the same time.

    The first one's result counts.
    """

    def __init__(self, executor):
        self._executor = executor
        self.others = []

    def submit(self, function, *args):
        """Make a call twice."""
        future = self._executor.submit(function, *args)
        self.others.append(self._executor.submit(function, *args))
        return future


def test_calls_that_are_made_twice(client, store, tmp_path, expected):
    """Two calls of one task at once count as one: one outcome, one usage, the same tasks."""
    executor = Twice(client.get_executor(pure=False))
    compare(run_everything(executor=executor, remote=True), expected)
    with TaskScheduler(HANDLERS, executor=executor, remote=True, runs=store) as scheduler:
        run = scheduler.submit(build_held(tmp_path), run_id="twice")
        wait_started(tmp_path, times=2)
        finish(tmp_path, run, store, "twice")
    concurrent.futures.wait(executor.others)
    assert len(set(notes(tmp_path, "end"))) == 2
    assert committed(store, "twice") == ["held", "after"]


def test_the_recipe(client):
    """The recipe of the guide runs. Its workers import nothing of the tests."""
    (text,) = [one for one in blocks("python", DOCS / "scaling.rst") if "LocalCluster(" in one]
    assert "n_workers=2" in text
    made = {}
    try:
        exec(text.replace("n_workers=2", "n_workers=1, dashboard_address='127.0.0.1:0'"), made)
    finally:
        for name in ("scheduler", "client", "cluster"):
            made[name].close()


def test_a_cluster_that_is_closed(tmp_path):
    """The tasks of a cluster that is closed fail, and say so; the run ends."""
    with start_cluster(1) as closing, Client(closing) as client:
        with TaskScheduler(HANDLERS, executor=client.get_executor(pure=False)) as scheduler:
            run = scheduler.submit(build_held(tmp_path))
            wait_started(tmp_path)
            client.close()
            result = run.result(DEADLINE)
            (tmp_path / "release").touch()
    assert isinstance(result.exceptions["held"], WorkerLost)
    assert "lost before the handler returned" in result.errors["held"]


def test_cancel(client, scheduler, tmp_path):
    """A cancelled run ends at once, and calls that dask has not made yet are not made."""
    graph = build_held(tmp_path)
    graph.map(Task(type="hold", params={"folder": str(tmp_path)}), range(20), name="more")
    run = scheduler.submit(graph)
    wait_started(tmp_path)
    run.cancel()
    assert run.result(DEADLINE).reason == "cancelled"
    wait_long(lambda: not any(client.processing().values()), "the cancellation of the calls")
    (tmp_path / "release").touch()
    graph = TaskGraph()
    graph.map(Task(type="echo"), range(5), name="later")
    assert scheduler.run(graph).status is TaskStatus.COMPLETE
    assert len(notes(tmp_path, "start")) <= 3  # the number of workers
