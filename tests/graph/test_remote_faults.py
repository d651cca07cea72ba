"""Processes that are killed, calls that are made twice, and keys that must not travel."""

import concurrent.futures
import copy
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import time

import pytest
from tenacity import wait_none

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    GraphError,
    Retry,
    RunStore,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
    WorkerLost,
)

from ..tiers import by_tier, soak, suite, within
from ..waiting import DEADLINE
from .graphs import single
from .remote_handlers import HANDLERS
from .test_remote import make_pool


def count_outcomes(store, run_id):
    """Return how many outcomes of each task the log of a durable run has."""
    names = [event["name"] for event in store.events(run_id) if event["type"] == "task_finished"]
    return {name: names.count(name) for name in names}


@suite
def test_killed_processes(open_cache, tmp_path):
    """Whichever processes are killed, each outcome is committed once, and the run ends."""
    kills = by_tier(3, 50)
    chance = random.Random(7)
    store = RunStore(open_cache("sqlite"))
    with TaskScheduler(HANDLERS, executor=make_pool, runs=store) as scheduler:
        for number in range(kills):
            graph = TaskGraph()
            # A pool breaks as a whole, so other tasks lose attempts, too.
            retry = Retry(10, wait=wait_none(), on=WorkerLost)
            victim = f"t{chance.randrange(8)}"
            folder = str(tmp_path / str(number))
            for index in range(8):
                name = f"t{index}"
                before = [f"t{chance.randrange(index)}"] if index and chance.random() < 0.5 else []
                params = {"folder": folder, "dies": name == victim}
                task = Task(type="die_once", params=params)
                graph.add(task, name=name, depends_on=before, retry=retry)
            result = scheduler.run(graph, run_id=f"run-{number}", timeout=DEADLINE)
            assert os.listdir(folder) == ["killed"]
            assert result.results == {f"t{index}": "done" for index in range(8)}
            assert count_outcomes(store, f"run-{number}") == {f"t{index}": 1 for index in range(8)}


class Twice(concurrent.futures.Executor):
    """Makes each call twice at once, as dask does if it takes a worker for dead."""

    def __init__(self):
        self.pool = make_pool()
        self.made = []

    def submit(self, function, *args):
        calls = [self.pool.submit(function, *args) for _ in range(2)]
        self.made += calls
        return calls[0]


@soak
def test_calls_that_are_made_twice(open_cache):
    """If the executor makes calls twice, each outcome and each step is committed once."""
    cache = open_cache("sqlite")
    store = RunStore(cache)
    twice = Twice()
    with TaskScheduler(HANDLERS, executor=twice, remote=True, runs=store, cache=cache) as scheduler:
        graph = single("spawn")
        graph.add(Task(type="step"), name="y", retry=Retry(2, wait=wait_none()))
        result = scheduler.run(graph, run_id="twice", timeout=DEADLINE)
        results = result.results
        first, second, _ = results.pop("y")
        assert results == {"x": "spawned", "child": [{"n": 1}, {}], "own": 8}
        assert first == second  # one of the two processes has taken the step
        assert count_outcomes(store, "twice") == dict.fromkeys(("x", "y", "child", "own"), 1)
    twice.pool.shutdown()
    assert len(twice.made) >= 10 and all(call.done() for call in twice.made)


def test_clients_and_agents_are_not_pickled():
    """A client is not pickled, and says so; an Agent that holds one is refused before the run."""
    client = AnthropicInferenceClient(model="claude-test", api_key="sk-stays-here-1234")
    with pytest.raises(TypeError, match="its key must not travel.*top level of a module") as caught:
        pickle.dumps(client)
    assert "sk-stays" not in str(caught.value)
    assert copy.copy(client).model == client.with_options(model="claude-test").model
    graph = TaskGraph()
    graph.add(Agent(client, name="research"), name="x")
    with TaskScheduler(executor=make_pool) as scheduler:
        with pytest.raises(GraphError, match="'research' cannot be sent.*'package.module:name'"):
            scheduler.run(graph)


@soak
def test_no_key_is_in_another_process():
    """The memory and the environment of a process have no key that was not sent to it."""
    key = "sk-driver-" + str(os.getpid())
    client = AnthropicInferenceClient(model="claude-test", api_key=key)
    context = multiprocessing.get_context("spawn")

    def make():
        return concurrent.futures.ProcessPoolExecutor(1, mp_context=context)

    params = {"reversed": key[::-1]}
    with TaskScheduler(HANDLERS, executor=make) as scheduler:
        result = scheduler.run(single(task=Task(type="search_memory", params=params)))
        assert result["x"] == [], result.errors
        # The search finds a key that is there.
        params = {"reversed": key[::-1], "key": key}
        result = scheduler.run(single(task=Task(type="search_memory", params=params)))
        assert result.status is TaskStatus.COMPLETE and result["x"] != []
    client.close()


PROGRAM = """
import concurrent.futures, multiprocessing, sys, time
from asimov_sync import Task, TaskGraph, TaskScheduler
from tests.graph.remote_handlers import HANDLERS

def make():
    return concurrent.futures.ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("fork")
    )

with TaskScheduler(HANDLERS, executor=make) as scheduler:
    graph = TaskGraph()
    graph.add(Task(type="ignore_cancel"), name="stuck", timeout=0.1)
    result = scheduler.run(graph)
    print(result.errors, flush=True)
"""

INTERRUPTED = """
import os, signal, threading
from asimov_sync import RunStore, SQLiteCache, Task, TaskGraph, TaskScheduler
from tests.graph.remote_handlers import HANDLERS
from tests.graph.test_remote import make_pool

def interrupt(event):
    if event.type == "task_progress":
        os.killpg(0, signal.SIGINT)

cache = SQLiteCache(os.environ["DATABASE"])
try:
    with TaskScheduler(HANDLERS, executor=make_pool, cache=cache, runs=RunStore(cache)) as one:
        one.on_event(interrupt)
        graph = TaskGraph()
        graph.add(Task(type="note_cancel"), name="waits")
        one.run(graph, run_id="ours")
except KeyboardInterrupt:
    print(RunStore(cache).get("ours").status, flush=True)
"""


@soak
def test_stuck_processes_are_replaced():
    """If every process is in a handler that ignores its cancellation, they are replaced."""
    with TaskScheduler(HANDLERS, executor=make_pool) as scheduler:
        graph = TaskGraph()
        for index in range(2):
            graph.add(Task(type="ignore_cancel"), name=f"stuck-{index}", timeout=0.05)
        graph.add(Task(type="echo"), name="after", depends_on="stuck-0", allow_failure=True)
        result = scheduler.run(graph, timeout=DEADLINE)
        assert list(result.results) == ["after"]
        assert result.duration < DEADLINE / 2


@soak
def test_a_stuck_process_does_not_delay_the_end_of_the_program():
    """A program ends although a handler ignores its cancellation."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, timeout=60, encoding="utf-8"
    )
    assert "TaskTimeout" in done.stdout and done.returncode == 0
    assert time.monotonic() - start < within(5)


@soak
def test_ctrl_c_reaches_all_processes(tmp_path):
    """Ctrl-C interrupts the run and its processes; nothing is committed, and the program ends."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        timeout=60,
        encoding="utf-8",
        env=dict(os.environ, DATABASE=str(tmp_path / "runs.db")),
        start_new_session=True,
    )
    assert (done.stdout.strip(), done.returncode) == ("interrupted", 0)


@suite
def test_a_class_makes_an_executor():
    """executor= may be the class of an executor."""
    with TaskScheduler(executor=concurrent.futures.ThreadPoolExecutor) as scheduler:
        graph = TaskGraph()
        graph.call(lambda: 1)
        assert list(scheduler.run(graph).results.values()) == [1]


@suite
def test_runs_share_the_processes():
    """Several runs at once on one scheduler all end."""
    with TaskScheduler(HANDLERS, executor=make_pool) as scheduler:
        runs = []
        for _ in range(5):
            graph = TaskGraph()
            graph.map(Task(type="double_item"), range(10), name="each")
            runs.append(scheduler.submit(graph))
        for run in runs:
            assert sum(run.result(DEADLINE).results.values()) == 90
