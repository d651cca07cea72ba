"""The cost of a task on each engine, against the bare engine in the same run.

    python benchmarks/engines.py [--tasks 2000] [--items 200] [--milliseconds 20]

Prints, for threads, a ProcessPoolExecutor, loky and dask (those that are installed):

- the milliseconds a task, for tasks that do nothing, and those of the bare engine
- for a map that computes: the gain over threads, and its share of the gain of the bare pool
"""

import argparse
import concurrent.futures
import contextlib
import importlib.util
import multiprocessing
import os
import time
from typing import Any, Callable, Dict, Iterator, Sequence, Tuple

from asimov_sync import TaskGraph, TaskScheduler


def do_nothing(item: Any) -> Any:
    return item


def compute(seconds: float) -> int:
    """Compute for a time, as measured by the processor time of the thread."""
    end = time.thread_time() + seconds
    number = 0
    while time.thread_time() < end:
        number += 1
    return number


@contextlib.contextmanager
def open_pool(workers: int) -> Iterator[Any]:
    context = multiprocessing.get_context("forkserver")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield pool


@contextlib.contextmanager
def open_loky(workers: int) -> Iterator[Any]:
    from loky import ProcessPoolExecutor

    pool = ProcessPoolExecutor(workers)
    yield pool
    pool.shutdown()


@contextlib.contextmanager
def open_dask(workers: int) -> Iterator[Any]:
    from dask.distributed import Client, LocalCluster

    with LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    ) as cluster, Client(cluster) as client:
        yield client.get_executor(pure=False)


ENGINES: Dict[str, Tuple[Callable[[int], Any], str]] = {
    "ProcessPool": (open_pool, "concurrent"),
    "loky": (open_loky, "loky"),
    "dask": (open_dask, "distributed"),
}


def time_bare(executor: Any, function: Callable[..., Any], items: Sequence[Any]) -> float:
    start = time.perf_counter()
    futures = [executor.submit(function, item) for item in items]
    for future in futures:
        future.result()
    return time.perf_counter() - start


def time_graph(
    scheduler: TaskScheduler, function: Callable[..., Any], items: Sequence[Any]
) -> float:
    graph = TaskGraph()
    graph.map(function, items, name="item")
    start = time.perf_counter()
    scheduler.run(graph).raise_for_failure()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--milliseconds", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    nothing = list(range(options.tasks))
    items = [options.milliseconds / 1000] * options.items

    def best(measure: Callable[..., float], *args: Any) -> float:
        return min(measure(*args) for _ in range(options.repeat))

    with TaskScheduler(max_workers=options.workers) as scheduler:
        alone = best(time_graph, scheduler, do_nothing, nothing) / options.tasks
        on_threads = best(time_graph, scheduler, compute, items)
    print(
        f"{'engine':12} {'bare, ms a task':>16} {'graph':>8} {'above':>8} {'gain':>6} {'share':>6}"
    )
    print(f"{'threads':12} {'':16} {alone * 1000:8.3f} {'':8} {1.0:6.2f}")
    for name, (open_engine, package) in ENGINES.items():
        if importlib.util.find_spec(package) is None:
            print(f"{name:12} is not installed")
            continue
        with open_engine(options.workers) as executor:
            time_bare(executor, do_nothing, range(100))  # the workers start
            with TaskScheduler(executor=executor, remote=True) as scheduler:
                time_graph(scheduler, do_nothing, range(100))
                bare = best(time_bare, executor, do_nothing, nothing) / options.tasks
                graph = best(time_graph, scheduler, do_nothing, nothing) / options.tasks
                bare_map = best(time_bare, executor, compute, items)
                graph_map = best(time_graph, scheduler, compute, items)
        gain, bare_gain = on_threads / graph_map, on_threads / bare_map
        print(
            f"{name:12} {bare * 1000:16.3f} {graph * 1000:8.3f} {(graph - bare) * 1000:8.3f} "
            f"{gain:6.2f} {gain / bare_gain:6.2f}"
        )


if __name__ == "__main__":
    main()
