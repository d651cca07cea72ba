"""Measures durable runs in workers of Celery, and of `asimov-sync work`, on a Redis of its own.

    python benchmarks/queues.py [--runs N] [--processes P …]

For P processes (1 and 2 by default) it prints how many runs or messages end in a second, of N that
were sent before the workers start (500 by default):

bare     messages of a Celery task that returns at once
run 1    durable runs of one task, each sent by `run.delay`
run 10   durable runs of ten tasks
work 10  durable runs of ten tasks, by P processes of `asimov-sync work`

The time counts from the end of the first one to the end of the last one. A task returns a short
text. Needs Celery.
"""

import argparse
import contextlib
import importlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Iterator, List

import redis
from celery import Celery

from asimov_sync import RedisCache, RunStore, Task, TaskContext, TaskGraph, TaskScheduler
from asimov_sync.integrations.celery import register_tasks

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

VARIABLE = "ASIMOV_BENCHMARK_REDIS"
URL = os.environ.get(VARIABLE, "redis://127.0.0.1:1/0")

# Workers import this module.
store = RunStore(RedisCache(url=URL, default_prefix="runs"))
scheduler = TaskScheduler(runs=store, max_workers=4)
app = Celery("queues", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
tasks = register_tasks(app, scheduler)


def echo(text: str) -> str:
    """Return a text."""
    return text


bare = app.task(name="bare")(echo)


@scheduler.handler("work")
def work(task: Task, context: TaskContext) -> str:
    """Return a short text."""
    return f"the result of {context.name}"


@scheduler.flow("tasks")
def build(count: int) -> TaskGraph:
    """Return a graph of independent tasks."""
    graph = TaskGraph()
    for number in range(count):
        graph.add(Task(type="work"), name=f"task-{number}")
    return graph


@contextlib.contextmanager
def started(commands: List[List[str]]) -> Iterator[None]:
    """Run worker processes, each in a process group of its own."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m"] + command,
            cwd=str(HERE),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for command in commands
    ]
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def rate(count: Callable[[], int], total: int) -> float:
    """Return how many end in a second, from the first one on."""
    while count() == 0:
        time.sleep(0.01)
    before, start = count(), time.perf_counter()
    while count() < total:
        time.sleep(0.01)
    return (total - before) / (time.perf_counter() - start)


def measure(section: str, runs: int, processes: int) -> float:
    """Return how many messages or runs end in a second."""
    server = redis.Redis.from_url(URL)
    server.flushall()
    celery = ["celery", "-A", "queues", "worker", "-c", str(processes), "-l", "ERROR"]
    celery += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    if section == "bare":
        for _ in range(runs):
            bare.delay("text")
        with started([celery]):
            return rate(lambda: len(server.keys("celery-task-meta-*")), runs)
    count = int(section.split()[1])
    for number in range(runs):
        scheduler.enqueue("tasks", args={"count": count}, run_id=f"run-{number}")
        if section.startswith("run"):
            tasks.run.delay(f"run-{number}")
    commands = [celery]
    if section.startswith("work"):
        commands = [["asimov_sync", "work", "queues:scheduler"]] * processes
    with started(commands):
        return rate(lambda: store.stats().get("complete", 0), runs)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Measures workers of queues.")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    if VARIABLE not in os.environ:  # again, with the server that all processes use
        helpers: Any = importlib.import_module("tests.redis_server")
        program = helpers.find_server()
        assert program is not None, "there is no Redis server on this machine"
        with tempfile.TemporaryDirectory() as folder, helpers.RedisServer(
            program, folder
        ) as server:
            environment = dict(os.environ, **{VARIABLE: server.url})
            subprocess.check_call([sys.executable] + sys.argv, env=environment)
        return
    print("in a second  " + "".join(f"{number:>8} processes" for number in options.processes))
    for section in ("bare", "run 1", "run 10", "work 10"):
        rates = [measure(section, options.runs, number) for number in options.processes]
        print(f"{section:<13}" + "".join(f"{one:>18.0f}" for one in rates))


if __name__ == "__main__":
    main()
