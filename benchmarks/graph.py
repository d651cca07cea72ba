"""Measures the task graph against a loop over ThreadPoolExecutor by hand, dask and LangGraph.

    python benchmarks/graph.py [--sizes N …] [--rounds R] [--only SECTION …]

dask and LangGraph are measured if they are installed. In each of R rounds (5 by default), every way
runs the same graph of tasks that do nothing, with 4 workers. Each ratio compares two ways in one
round. The graph is built before the clock starts; threads start while it runs. Above 10,000 tasks
there are half as many rounds, with the scheduler and the first loop only.

wide     independent tasks
chain    each task depends on the one before
layers   √n layers of √n tasks, each depends on two of the layer before

The two loops pass no results between tasks, report no events and cannot be cancelled. "wait" blocks
in concurrent.futures.wait, as the examples of that module do, and the goals are ratios to it: 0.5
(wide), 0.06 (chain) and 0.8 (layers) at 10,000 tasks. "queue" lets each finished future put itself
into a queue, and handles one at a time. In a chain, a loop takes the time in which two threads wake
each other. That doubles or triples on different cores, so its spread is wide. From 10,000 to
100,000 tasks, the time of one task may grow to 1.3 times.

io       tasks that sleep 5 to 50 ms, with twice as many workers as can be used at once: the ratio
         of the total time to the longest path through the graph; the goal is 1.02
memory   bytes for each task, without the Task itself, that tracemalloc counts in a new process
         while the graph and the result are alive; the goals are 2048 bytes at the peak, and a
         growth to at most 1.3 times from 10,000 to 100,000 tasks

Prints medians, and the median, minimum and maximum of each judged ratio.
"""

import argparse
import contextlib
import functools
import gc
import importlib
import itertools
import json
import operator
import platform
import queue
import random
import statistics
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from typing_extensions import Annotated, TypedDict

from asimov_sync import Task, TaskFinished, TaskGraph, TaskScheduler

WORKERS = 4
SIZES = [1000, 10000, 100000]
JUDGED_SIZE = 10000
"""The size that the goals are for, and that growth is measured from."""
GOALS = {"wide": 0.5, "chain": 0.06, "layers": 0.8}
GROWTH_GOAL = 1.3
IO_GOAL = 1.02
BYTES_GOAL = 2048
SECTIONS = [*GOALS, "io", "memory"]

Plan = Dict[str, Tuple[str, ...]]
"""Maps each task's name to the names it depends on, which come before it."""

Work = Callable[[str], Any]
"""Does the work of a task, given its name."""

Start = Callable[[], Any]
"""Runs a built graph once, and returns a collection with one item for each task."""

Way = Callable[[Plan, Work, int], Start]
"""Builds the graph of a plan, to run with a number of workers."""


class Summary(NamedTuple):
    """The median of some values, with their minimum and maximum."""

    minimum: float
    median: float
    maximum: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.minimum:.3f}, {self.maximum:.3f}]"


def summarize(values: Sequence[float]) -> Summary:
    """Summarize some values."""
    return Summary(min(values), statistics.median(values), max(values))


# The graphs


def wide(size: int) -> Plan:
    """Return a plan of independent tasks."""
    return {f"task-{number}": () for number in range(size)}


def chain(size: int) -> Plan:
    """Return a plan in which each task depends on the one before."""
    names = list(wide(size))
    return {name: tuple(names[max(0, index - 1) : index]) for index, name in enumerate(names)}


def layers(size: int) -> Plan:
    """Return √size layers of √size tasks, rounded down. Each depends on two of the layer before."""
    across = int(size**0.5)
    return layered(across, across, 2)


def layered(count: int, across: int, fan_in: int) -> Plan:
    """Return layers of tasks, each of which depends on neighbours in the layer before."""
    plan: Plan = {}
    before: List[str] = []
    for number in range(count):
        layer = [f"task-{number}-{index}" for index in range(across)]
        for index, name in enumerate(layer):
            plan[name] = (
                tuple(before[(index + step) % across] for step in range(fan_in)) if before else ()
            )
        before = layer
    return plan


def hourglass(count: int, across: int) -> Plan:
    """Return one task, many that depend on it, one that depends on all of those, and so on."""
    plan: Plan = {"waist-0": ()}
    for number in range(count):
        layer = [f"task-{number}-{index}" for index in range(across)]
        plan.update((name, (f"waist-{number}",)) for name in layer)
        plan[f"waist-{number + 1}"] = tuple(layer)
    return plan


SHAPES: Dict[str, Callable[[int], Plan]] = {"wide": wide, "chain": chain, "layers": layers}


# By hand


class Sorter:
    """The methods of graphlib.TopologicalSorter that the loops use, for Python before 3.9.

    It does not detect cycles.
    """

    def __init__(self, plan: Plan) -> None:
        self._pending = {name: len(dependencies) for name, dependencies in plan.items()}
        self._dependents: Dict[str, List[str]] = {name: [] for name in plan}
        for name, dependencies in plan.items():
            for dependency in dependencies:
                self._dependents[dependency].append(name)
        self._ready: List[str] = []
        self._remaining = len(plan)

    def prepare(self) -> None:
        """Make the independent tasks ready."""
        self._ready = [name for name, count in self._pending.items() if not count]

    def get_ready(self) -> List[str]:
        """Return the tasks that became ready since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def is_active(self) -> bool:
        """Return whether a task is not done yet."""
        return self._remaining > 0

    def done(self, name: str) -> None:
        """Mark a task as done, and make ready the tasks that waited for it only."""
        self._remaining -= 1
        for dependent in self._dependents[name]:
            self._pending[dependent] -= 1
            if not self._pending[dependent]:
                self._ready.append(dependent)


def make_sorter(plan: Plan) -> Any:
    """Return Python's sorter, or ours before Python 3.9."""
    try:
        graphlib: Any = importlib.import_module("graphlib")
    except ImportError:
        return Sorter(plan)
    return graphlib.TopologicalSorter(plan)


def by_wait(plan: Plan, work: Work, workers: int) -> Start:
    """The usual loop: wait for the first done futures, and submit the tasks they make ready."""
    order = make_sorter(plan)

    def start() -> Dict[str, Any]:
        results = {}
        names: "Dict[Future[Any], str]" = {}
        order.prepare()
        with ThreadPoolExecutor(workers) as pool:
            while order.is_active():
                for name in order.get_ready():
                    names[pool.submit(work, name)] = name
                for future in wait(names, return_when=FIRST_COMPLETED).done:
                    name = names.pop(future)
                    results[name] = future.result()
                    order.done(name)
        return results

    return start


def by_queue(plan: Plan, work: Work, workers: int) -> Start:
    """A faster loop, in which done futures put themselves into a queue.

    `wait` inspects all futures each time.
    """
    order = make_sorter(plan)

    def start() -> Dict[str, Any]:
        results = {}
        names: "Dict[Future[Any], str]" = {}
        done: "queue.SimpleQueue[Future[Any]]" = queue.SimpleQueue()
        order.prepare()
        with ThreadPoolExecutor(workers) as pool:
            while order.is_active():
                for name in order.get_ready():
                    future = pool.submit(work, name)
                    names[future] = name
                    future.add_done_callback(done.put)
                future = done.get()
                name = names.pop(future)
                results[name] = future.result()
                order.done(name)
        return results

    return start


# The scheduler


def build_graph(plan: Plan) -> TaskGraph:
    """Build the graph of a plan. Dependencies are passed as Tasks, not as names."""
    graph = TaskGraph()
    for name, dependencies in plan.items():
        graph.add(
            Task(type="work"),
            name=name,
            depends_on=[graph[dependency] for dependency in dependencies],
        )
    return graph


def by_run(plan: Plan, work: Work, workers: int) -> Start:
    """Run with scheduler.run()."""
    graph = build_graph(plan)
    scheduler = TaskScheduler(
        {"work": lambda task, context: work(context.name)}, max_workers=workers
    )

    def start() -> Dict[str, Any]:
        with scheduler:
            result = scheduler.run(graph)
        result.raise_for_failure()
        return result.results

    return start


def by_stream(plan: Plan, work: Work, workers: int) -> Start:
    """Run with scheduler.stream(), read to its end."""
    graph = build_graph(plan)
    scheduler = TaskScheduler(
        {"work": lambda task, context: work(context.name)}, max_workers=workers
    )

    def start() -> List[str]:
        with scheduler, contextlib.closing(scheduler.stream(graph)) as events:
            return [event.name for event in events if isinstance(event, TaskFinished)]

    return start


# Peers


def by_dask(dask: Any) -> Way:
    """Run with dask.threaded.get, for the result of every task."""

    def way(plan: Plan, work: Work, workers: int) -> Start:
        def call(name: str, *_: Any) -> Any:
            return work(name)

        graph = {
            name: (functools.partial(call, name),) + dependencies
            for name, dependencies in plan.items()
        }
        return lambda: dask.get(graph, list(graph), num_workers=workers)

    return way


class Counted(TypedDict):
    """LangGraph's state: the number of nodes that ran."""

    done: Annotated[int, operator.add]


def by_langgraph(langgraph: Any) -> Way:
    """Run with a compiled StateGraph that has a node for each task."""

    def way(plan: Plan, work: Work, workers: int) -> Start:
        graph = langgraph.StateGraph(Counted)

        def node(name: str) -> Callable[[Any], Dict[str, int]]:
            def call(state: Any) -> Dict[str, int]:
                work(name)
                return {"done": 1}

            return call

        for name in plan:
            graph.add_node(name, node(name))
        for name, dependencies in plan.items():
            graph.add_edge(list(dependencies) if dependencies else langgraph.START, name)
        compiled = graph.compile()
        config = {"recursion_limit": len(plan) + 10, "max_concurrency": workers}
        return lambda: range(compiled.invoke({"done": 0}, config)["done"])

    return way


def find_peers() -> Dict[str, Optional[Tuple[Way, int]]]:
    """Return the way and the maximum size of each peer by name, or None if it is not installed."""
    found: Dict[str, Optional[Tuple[Way, int]]] = {"dask": None, "LangGraph": None}
    with contextlib.suppress(ImportError):
        found["dask"] = (by_dask(importlib.import_module("dask.threaded")), 10000)
    with contextlib.suppress(ImportError):
        found["LangGraph"] = (by_langgraph(importlib.import_module("langgraph.graph")), 1000)
    return found


# Measuring


def time_run(way: Way, plan: Plan, work: Work, workers: int) -> float:
    """Return the seconds that one run of a graph takes."""
    start = way(plan, work, workers)
    gc.collect()  # do not charge this run for the garbage of others
    started = time.perf_counter()
    outcome = start()
    seconds = time.perf_counter() - started
    if len(outcome) != len(plan):
        sys.exit(f"{len(outcome)} of {len(plan)} tasks ran")
    return seconds


def time_in_turn(
    ways: Dict[str, Way], rounds: int, plan: Plan, work: Work, workers: int
) -> Dict[str, List[float]]:
    """Return the seconds of each way in each round. The order of the ways rotates."""
    results: Dict[str, List[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(time_run(ways[name], plan, work, workers))
    return results


def do_nothing(name: str) -> None:
    """Do nothing: the work of the tasks whose overhead is measured."""


def check_goal(name: str, measured: float, goal: float, missed: List[str]) -> str:
    """Return the goal as the tables show it. A missed one is added to `missed`."""
    if measured > goal:
        missed.append(name)
    return f"{goal:g}{' missed' if measured > goal else ''}"


def summarize_ratios(one: Sequence[float], other: Sequence[float]) -> Summary:
    """Summarize the ratios of two ways, round by round."""
    return summarize([mine / yours for mine, yours in zip(one, other)])


def measure_shapes(
    shapes: Sequence[str], sizes: Sequence[int], rounds: int, missed: List[str]
) -> None:
    """Measure and print the cost of one task."""
    known = find_peers()
    columns = ["wait", "queue", "run()", "stream()", *known]
    print("microseconds a task (median); ratio of run() to each loop: median [minimum, maximum]")
    heads = "{:16}" + " {:>9}" * len(columns) + "   {:21}  {:11}  {}"
    print(heads.format("", *columns, "run() / wait", "goal", "run() / queue"))
    for shape in shapes:
        grown: Dict[int, Summary] = {}
        for size in sizes:
            plan = SHAPES[shape](size)
            ways: Dict[str, Way] = {"wait": by_wait, "run()": by_run}
            if size <= JUDGED_SIZE:
                ways.update({"queue": by_queue, "stream()": by_stream})
            ways.update(
                {
                    name: peer[0]
                    for name, peer in known.items()
                    if peer is not None and size <= peer[1]
                }
            )
            results = time_in_turn(
                ways,
                rounds if size <= JUDGED_SIZE else max(1, rounds // 2),
                plan,
                do_nothing,
                WORKERS,
            )
            grown[size] = summarize([seconds / len(plan) for seconds in results["run()"]])
            against = summarize_ratios(results["run()"], results["wait"])
            goal = (
                check_goal(shape, against.median, GOALS[shape], missed)
                if size == JUDGED_SIZE
                else ""
            )
            cells = [
                f"{1e6 * statistics.median(results[name]) / len(plan):.1f}"
                if name in results
                else ""
                for name in columns
            ]
            other = (
                str(summarize_ratios(results["run()"], results["queue"]))
                if "queue" in results
                else ""
            )
            print(
                heads.format(f"{shape} {len(plan):,}", *cells, str(against), goal, other).rstrip()
            )
        for size in sizes:
            if size > JUDGED_SIZE and JUDGED_SIZE in grown:
                growth = grown[size].median / grown[JUDGED_SIZE].median
                goal = check_goal(f"{shape}, growth", growth, GROWTH_GOAL, missed)
                print(
                    f"{'':16} {growth:.2f} times the time for one task at {JUDGED_SIZE:,}; "
                    f"goal {goal}"
                )
    for name, peer in known.items():
        limit = "not installed" if peer is None else f"up to {peer[1]:,} tasks"
        print(f"{name}: {limit}")


# Tasks that wait


def sleep_seconds(plan: Plan) -> Dict[str, float]:
    """Return the seconds that each task sleeps, the same in every run of this program."""
    numbers = random.Random(6)
    return {name: numbers.uniform(0.005, 0.05) for name in plan}


def earliest_times(plan: Plan, seconds: Dict[str, float]) -> Dict[str, Tuple[float, float]]:
    """Return the earliest start and end of each task, in seconds."""
    results: Dict[str, Tuple[float, float]] = {}
    for name, dependencies in plan.items():
        start = max((results[dependency][1] for dependency in dependencies), default=0.0)
        results[name] = (start, start + seconds[name])
    return results


def max_concurrency(times: Dict[str, Tuple[float, float]]) -> int:
    """Return the maximum number of tasks at one moment."""
    steps = sorted(
        [(start, 1) for start, _ in times.values()] + [(end, -1) for _, end in times.values()]
    )
    return max(itertools.accumulate(step for _, step in steps))


def make_sleeper(seconds: Dict[str, float]) -> Work:
    """Return the work of tasks that sleep."""
    return lambda name: time.sleep(seconds[name])


def longest_path(plan: Plan, times: Dict[str, Tuple[float, float]]) -> List[str]:
    """Return the tasks of the longest path, from a first task to the last to end."""

    def end(name: str) -> float:
        return times[name][1]

    path = [max(plan, key=end)]
    while plan[path[-1]]:
        path.append(max(plan[path[-1]], key=end))
    return path[::-1]


def run_path_alone(path: Sequence[str]) -> Way:
    """Run the tasks of a path on one thread, to show how precisely this machine sleeps."""

    def way(plan: Plan, work: Work, workers: int) -> Start:
        def start() -> Plan:
            for name in path:
                work(name)
            return plan

        return start

    return way


def measure_io(rounds: int, missed: List[str]) -> None:
    """Measure and print tasks that wait."""
    print(
        "tasks that sleep 5 to 50 ms: milliseconds (median), "
        "and the ratio to the longest path: median [minimum, maximum]"
    )
    line = "{:30} {:>8} {:>8}   {:21}  {}"
    print(line.format("", "path", "took", "took / path", "goal"))
    for shape, plan in (
        ("layers, 3 of 12", layered(10, 12, 3)),
        ("hourglass, 1-40-1", hourglass(5, 40)),
    ):
        seconds = sleep_seconds(plan)
        times = earliest_times(plan, seconds)
        longest = longest_path(plan, times)
        path = times[longest[-1]][1]
        ways: Dict[str, Way] = {
            "path alone": run_path_alone(longest),
            "wait": by_wait,
            "queue": by_queue,
            "run()": by_run,
        }
        results = time_in_turn(
            ways, rounds, plan, make_sleeper(seconds), 2 * max_concurrency(times)
        )
        for name, measured in results.items():
            against = summarize([one / path for one in measured])
            goal = (
                check_goal(f"io, {shape}", against.median, IO_GOAL, missed)
                if name == "run()"
                else ""
            )
            cells = [f"{1e3 * value:.1f}" for value in (path, statistics.median(measured))]
            print(line.format(f"{shape}: {name}", *cells, str(against), goal).rstrip())


# Memory


def print_memory(shape: str, size: int) -> None:
    """Print, in a fresh process, the bytes for one task: graph, after the run, and peak."""
    scheduler = TaskScheduler({"work": lambda task, context: None}, max_workers=WORKERS)

    def graph_of(plan: Plan, tasks: Dict[str, Task]) -> TaskGraph:
        graph = TaskGraph()
        for name, dependencies in plan.items():
            graph.add(
                tasks[name],
                name=name,
                depends_on=[tasks[dependency] for dependency in dependencies],
            )
        return graph

    few = SHAPES[shape](100)
    # Allocations that happen once happen here, before measuring.
    scheduler.run(graph_of(few, {name: Task(type="work") for name in few}))
    plan = SHAPES[shape](size)
    # With an objective and params, like real tasks. What a run adds to a Task counts as well.
    tasks = {name: Task(type="work", objective=name, params={"name": name}) for name in plan}
    gc.collect()
    tracemalloc.start()
    graph = graph_of(plan, tasks)
    of_graph = tracemalloc.get_traced_memory()[0]
    result = scheduler.run(graph)
    gc.collect()
    after, peak = tracemalloc.get_traced_memory()
    result.raise_for_failure()
    print(json.dumps([value / len(plan) for value in (of_graph, after, peak)]))


def measure_memory(sizes: Sequence[int], missed: List[str]) -> None:
    """Measure and print the bytes for one task."""
    print("bytes for one task, beside the Task itself")
    line = "{:16} {:>9} {:>9} {:>9}   {}"
    print(line.format("", "graph", "after run", "peak", "goal of the peak"))
    for shape in SHAPES:
        peaks: Dict[int, float] = {}
        for size in sizes:
            command = [sys.executable, __file__, "--memory-of", shape, "--sizes", str(size)]
            results = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            peaks[size] = results[-1]
            goal = check_goal(f"{size:,} of {shape}, bytes", results[-1], BYTES_GOAL, missed)
            print(line.format(f"{shape} {size:,}", *(f"{value:.0f}" for value in results), goal))
        for size in sizes:
            if size > JUDGED_SIZE and JUDGED_SIZE in peaks:
                growth = peaks[size] / peaks[JUDGED_SIZE]
                goal = check_goal(f"{shape}, growth of bytes", growth, GROWTH_GOAL, missed)
                print(f"{'':16} {growth:.2f} times that at {JUDGED_SIZE:,}; goal {goal}")


def main() -> int:
    """Measure and print. Returns the exit status: 1 if a goal is missed, else 0."""
    parser = argparse.ArgumentParser(description="Measure the task graph.")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="numbers of tasks"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="R", help="rounds to measure")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to measure"
    )
    parser.add_argument("--memory-of", choices=list(SHAPES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of is not None:
        print_memory(arguments.memory_of, arguments.sizes[0])
        return 0
    missed: List[str] = []
    print(f"Python {platform.python_version()}, {WORKERS} workers, {arguments.rounds} rounds")
    shapes = [shape for shape in SHAPES if shape in arguments.only]
    if shapes:
        print()
        measure_shapes(shapes, arguments.sizes, arguments.rounds, missed)
    if "io" in arguments.only:
        print()
        measure_io(arguments.rounds, missed)
    if "memory" in arguments.only:
        print()
        measure_memory([size for size in arguments.sizes if size >= JUDGED_SIZE], missed)
    print()
    print(f"goals missed: {'; '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
