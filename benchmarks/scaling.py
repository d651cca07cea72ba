"""Measures what drivers cost, on a Redis server of its own: the figures of docs/scaling.rst.

    python benchmarks/scaling.py [--only SECTION …] [--processes P …]

cost     for a durable run, and for each of its tasks: milliseconds of processor time of the driver
         and of the server, kilobytes of traffic, and of the server's memory
idle     the same for a second of a driver whose task waits, and the connections of a driver
ready    milliseconds of a call of `RunStore.ready`, with 0, 100 and 1,000 runs that are ready
large    for each task of a run of 50,000: the bytes of the driver's memory, and the time to restore
         it, when its run is continued
queues   messages and runs of ten tasks that end in a second, with P worker processes (1 and 2 by
         default): Celery tasks that do nothing, `run.delay`, and `asimov-sync work`. Needs Celery

Processor time is that of the process, so that other programs on the machine disturb it little.
"""

import argparse
import contextlib
import gc
import importlib
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Callable, Iterator, List, NamedTuple

import redis

from asimov_sync import RedisCache, RunStore, Task, TaskContext, TaskGraph, TaskScheduler

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

SECTIONS = ["cost", "idle", "ready", "large", "queues"]
VARIABLE = "ASIMOV_BENCHMARK_REDIS"
URL = os.environ.get(VARIABLE, "redis://127.0.0.1:1/0")
IDLE_RUNS, IDLE_SECONDS = 100, 10.0
LARGE = 50_000
QUEUED = 300

# Workers import this module.
store = RunStore(RedisCache(url=URL, default_prefix="runs"))
scheduler = TaskScheduler(runs=store, max_workers=4)
patient = TaskScheduler(runs=store, max_workers=IDLE_RUNS)
released = threading.Event()


@scheduler.handler("work")
def work(task: Task, context: TaskContext) -> str:
    """Return a short text."""
    return f"the result of {context.name}"


@patient.handler("wait")
def wait(task: Task, context: TaskContext) -> str:
    """Wait until all may end."""
    released.wait()
    return "released"


@scheduler.flow("tasks")
def build(count: int, type: str = "work") -> TaskGraph:
    """Return a graph of independent tasks."""
    graph = TaskGraph()
    for number in range(count):
        graph.add(Task(type=type), name=f"task-{number}")
    return graph


def echo(text: str) -> str:
    """Return a text: a task of Celery that does nothing."""
    return text


if importlib.util.find_spec("celery") is not None:
    from celery import Celery

    from asimov_sync.integrations.celery import register_tasks

    app = Celery("scaling", broker=URL, backend=URL)
    app.conf.broker_connection_retry_on_startup = True
    tasks = register_tasks(app, scheduler)
    bare = app.task(name="bare")(echo)


class Cost(NamedTuple):
    """Milliseconds of processor time, kilobytes of traffic and of memory."""

    driver: float
    server: float
    traffic: float
    memory: float

    @classmethod
    def now(cls, server: redis.Redis) -> "Cost":
        """Return what was used until now."""
        info: Any = server.info()
        traffic = info["total_net_input_bytes"] + info["total_net_output_bytes"]
        return cls(
            time.process_time() * 1e3,
            (info["used_cpu_user"] + info["used_cpu_sys"]) * 1e3,
            traffic / 1e3,
            info["used_memory"] / 1e3,
        )

    def since(self, before: "Cost", count: float) -> "Cost":
        """Return what each of `count` has used since `before`."""
        return Cost(*[(now - then) / count for now, then in zip(self, before)])

    def __str__(self) -> str:
        return (
            f"driver {self.driver:.2f} ms, server {self.server:.3f} ms, "
            f"{self.traffic:.1f} KB of traffic, {self.memory:.1f} KB of memory"
        )


def measure_cost(server: redis.Redis) -> None:
    """Print the cost of a run, and of each of its tasks."""

    def cost(size: int, runs: int) -> Cost:
        before = Cost.now(server)
        for number in range(runs):
            scheduler.run("tasks", args={"count": size}, run_id=f"cost-{size}-{number}")
        return Cost.now(server).since(before, runs)

    cost(2, 20)  # opens connections, starts threads
    one, many = cost(1, 300), cost(1001, 5)
    print("a run of one task:   ", one)
    print("each further task:   ", many.since(one, 1000))


def measure_idle(server: redis.Redis) -> None:
    """Print the cost of drivers that wait."""
    before = Cost.now(server)
    time.sleep(IDLE_SECONDS)
    alone = Cost.now(server).since(before, IDLE_SECONDS)
    runs = [
        patient.submit(build(1, "wait"), run_id=f"idle-{number}") for number in range(IDLE_RUNS)
    ]
    time.sleep(1.0)
    connections = len(server.client_list())
    before = Cost.now(server)
    time.sleep(IDLE_SECONDS)
    cost = Cost.now(server).since(before, IDLE_SECONDS).since(alone, IDLE_RUNS)
    released.set()
    for run in runs:
        run.result()
    print("a driver's second:   ", cost)
    print(f"{IDLE_RUNS} drivers in one process have {connections} connections")


def measure_ready(server: redis.Redis) -> None:
    """Print the cost of looking for runs."""
    known = 0
    for total in (0, 100, 1000):
        for number in range(known, total):
            scheduler.enqueue("tasks", args={"count": 1}, run_id=f"ready-{number}")
        known = total
        before = Cost.now(server)
        for _ in range(100):
            store.ready()
        print(f"ready() of {total:>5}:     ", Cost.now(server).since(before, 100))


def measure_large(server: redis.Redis) -> None:
    """Print the cost of a run of many tasks."""
    before, start = resident(), time.process_time()
    result = TaskScheduler({"work": work}, max_workers=4).run(build(LARGE))
    per_task = (time.process_time() - start) / LARGE * 1e6
    memory = (resident() - before) / LARGE
    print(f"a task of {LARGE}:     {per_task:.0f} us, {memory:.0f} bytes, in memory")
    del result
    before, start = resident(), time.process_time()
    result = scheduler.run("tasks", args={"count": LARGE}, run_id="large")
    per_task = (time.process_time() - start) / LARGE * 1e6
    memory = (resident() - before) / LARGE
    print(f"a task of {LARGE}:     {per_task:.0f} us, {memory:.0f} bytes, durable")
    del result
    cost, elapsed = Cost.now(server), time.perf_counter()
    scheduler.run("tasks", args={"count": LARGE}, run_id="large")
    elapsed = (time.perf_counter() - elapsed) / LARGE * 1e6
    cost = Cost.now(server).since(cost, LARGE)
    print(
        f"a task restored:      {elapsed:.0f} us, {cost.driver * 1e3:.0f} us of processor time, "
        f"{cost.traffic * 1e3:.0f} bytes of traffic"
    )


def resident() -> int:
    """Return the bytes of this process in memory."""
    gc.collect()
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Queues


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
    """Return how many end in a second, from the end of the first one on."""
    while count() == 0:
        time.sleep(0.05)
    before, start = count(), time.perf_counter()
    while count() < total:
        time.sleep(0.05)
    return (total - before) / (time.perf_counter() - start)


def measure_queue(server: redis.Redis, name: str, processes: int) -> float:
    """Return how many messages or runs end in a second; they were sent before workers start."""
    server.flushall()
    celery = ["celery", "-A", "scaling", "worker", "-c", str(processes), "-l", "ERROR"]
    celery += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    if name == "bare":
        for _ in range(QUEUED):
            bare.delay("text")
        with started([celery]):
            return rate(lambda: len(list(server.scan_iter("celery-task-meta-*"))), QUEUED)
    for number in range(QUEUED):
        scheduler.enqueue("tasks", args={"count": 10}, run_id=f"run-{number}")
        if name == "run.delay":
            tasks.run.delay(f"run-{number}")
    work = [["asimov_sync", "work", "scaling:scheduler"]] * processes
    with started([celery] if name == "run.delay" else work):
        return rate(lambda: store.stats().get("complete", 0), QUEUED)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Measures what drivers cost.")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    if VARIABLE not in os.environ:  # again, with the server that all processes use
        helpers: Any = importlib.import_module("tests.redis_server")
        program = helpers.find_server()
        assert program is not None, "there is no Redis server on this machine"
        with tempfile.TemporaryDirectory() as folder, helpers.RedisServer(program, folder) as one:
            environment = dict(os.environ, **{VARIABLE: one.url})
            subprocess.check_call([sys.executable] + sys.argv, env=environment)
        return
    server = redis.Redis.from_url(URL)
    for section, measure in (
        ("cost", measure_cost),
        ("idle", measure_idle),
        ("ready", measure_ready),
        ("large", measure_large),
    ):
        if section in options.only:
            measure(server)
    if "queues" in options.only and importlib.util.find_spec("celery") is not None:
        for name in ("bare", "run.delay", "work"):
            for processes in options.processes:
                found = measure_queue(server, name, processes)
                print(f"{name:<10} {processes} processes: {found:.0f} in a second")


if __name__ == "__main__":
    main()
