"""What the task graph costs, against a loop over ThreadPoolExecutor by hand, and against dask and LangGraph where installed.

    python benchmarks/graph.py [--sizes N …] [--rounds R] [--only SECTION …]

Every way runs the same graph of tasks that do nothing, with 4 workers, one after the other, R times (5 by default); the
ratios are of neighbours. A graph is built afresh for each time, and before the clock starts; threads are started while it
runs. Above 10,000 tasks there are half as many rounds, of the scheduler and the first loop alone.

wide     tasks that depend on nothing
chain    each depends on the one before
layers   √n layers of √n tasks, each depends on two of the layer before

Two loops are what one writes by hand; neither hands results on, tells what happens, or can be cancelled. "wait" sleeps in
concurrent.futures.wait, as that module's own examples do, and the goals are measured against it: 0.5 (wide), 0.06 (chain),
0.8 (layers) times that, at 10,000 tasks. "queue" has the futures put themselves into a queue, and wakes for one at a time.
In a chain a loop's time is that of two threads that wake one another in turn: it doubles or triples where they are on
different cores, so that its spread is wide. From 10,000 tasks to 100,000, the time for one task may grow to 1.3 times.

io       tasks that sleep 5 to 50 ms, with twice the workers that can be needed at once: the time of the whole, against the
         longest path through the graph; the goal is 1.02 times that
memory   what tracemalloc finds in a fresh process beside the Tasks themselves, with the graph and the result still held; the
         goals are 2048 bytes a task at the peak, and from 10,000 tasks to 100,000 at most 1.3 times as much for each
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
JUDGED = 10000
"""The size at which the goals hold, and from which growth is counted."""
GOALS = {"wide": 0.5, "chain": 0.06, "layers": 0.8}
GROWTH_GOAL = 1.3
IO_GOAL = 1.02
BYTES_GOAL = 2048
SECTIONS = [*GOALS, "io", "memory"]

Plan = Dict[str, Tuple[str, ...]]
"""The names that each name depends on; those come before it."""

Work = Callable[[str], Any]
"""What a task does, by its name."""

Start = Callable[[], Any]
"""Runs a graph that was built, once, and returns something with one item for each task."""

Way = Callable[[Plan, Work, int], Start]
"""Builds the graph of a plan, to be run with so many workers."""


class Figure(NamedTuple):
    """A median, and what it is the median of: from the least to the most."""

    least: float
    median: float
    most: float

    def __str__(self) -> str:
        return "{:.3f} [{:.3f}, {:.3f}]".format(self.median, self.least, self.most)


def figure(values: Sequence[float]) -> Figure:
    """The figure of some values."""
    return Figure(min(values), statistics.median(values), max(values))


# The graphs


def wide(size: int) -> Plan:
    """Tasks that depend on nothing."""
    return {"task-{}".format(number): () for number in range(size)}


def chain(size: int) -> Plan:
    """Each task depends on the one before."""
    names = list(wide(size))
    return {name: tuple(names[max(0, place - 1) : place]) for place, name in enumerate(names)}


def layers(size: int) -> Plan:
    """As many layers as each has tasks, which depend on two of the layer before; a little less than `size` in all."""
    across = int(size**0.5)
    return layered(across, across, 2)


def layered(count: int, across: int, fan_in: int) -> Plan:
    """Layers of tasks, each of which depends on some neighbours in the layer before."""
    plan: Plan = {}
    before: List[str] = []
    for number in range(count):
        layer = ["task-{}-{}".format(number, place) for place in range(across)]
        for place, name in enumerate(layer):
            plan[name] = tuple(before[(place + step) % across] for step in range(fan_in)) if before else ()
        before = layer
    return plan


def hourglass(count: int, across: int) -> Plan:
    """One task, many that depend on it, one that depends on all of those, and so on."""
    plan: Plan = {"waist-0": ()}
    for number in range(count):
        layer = ["task-{}-{}".format(number, place) for place in range(across)]
        plan.update((name, ("waist-{}".format(number),)) for name in layer)
        plan["waist-{}".format(number + 1)] = tuple(layer)
    return plan


SHAPES: Dict[str, Callable[[int], Plan]] = {"wide": wide, "chain": chain, "layers": layers}


# By hand


class Sorter:
    """The verbs of graphlib.TopologicalSorter that the loops use, for the Pythons before 3.9; it leaves cycles unnoticed."""

    def __init__(self, plan: Plan) -> None:
        self._unmet = {name: len(dependencies) for name, dependencies in plan.items()}
        self._dependents: Dict[str, List[str]] = {name: [] for name in plan}
        for name, dependencies in plan.items():
            for dependency in dependencies:
                self._dependents[dependency].append(name)
        self._ready: List[str] = []
        self._left = len(plan)

    def prepare(self) -> None:
        """Make ready what depends on nothing."""
        self._ready = [name for name, count in self._unmet.items() if not count]

    def get_ready(self) -> List[str]:
        """What has become ready since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def is_active(self) -> bool:
        """Whether something is not done."""
        return self._left > 0

    def done(self, name: str) -> None:
        """Make ready what waited for this alone."""
        self._left -= 1
        for dependent in self._dependents[name]:
            self._unmet[dependent] -= 1
            if not self._unmet[dependent]:
                self._ready.append(dependent)


def sorter(plan: Plan) -> Any:
    """Python's own sorter where it has one."""
    try:
        graphlib: Any = importlib.import_module("graphlib")
    except ImportError:
        return Sorter(plan)
    return graphlib.TopologicalSorter(plan)


def by_wait(plan: Plan, work: Work, workers: int) -> Start:
    """The loop that most would write first: wait for the first that is done, take all that are, submit what they free."""
    order = sorter(plan)

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
    """The loop of one who knows that `wait` looks at every future, each time: a done future puts itself into a queue."""
    order = sorter(plan)

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


def built(plan: Plan) -> TaskGraph:
    """The graph of a plan, whose dependencies are given as the Tasks, as `add` returns them."""
    graph = TaskGraph()
    for name, dependencies in plan.items():
        graph.add(Task(type="work"), name=name, depends_on=[graph[dependency] for dependency in dependencies])
    return graph


def by_run(plan: Plan, work: Work, workers: int) -> Start:
    """scheduler.run()."""
    graph = built(plan)
    scheduler = TaskScheduler({"work": lambda task, context: work(context.name)}, max_workers=workers)

    def start() -> Dict[str, Any]:
        with scheduler:
            result = scheduler.run(graph)
        result.raise_for_failure()
        return result.results

    return start


def by_stream(plan: Plan, work: Work, workers: int) -> Start:
    """scheduler.stream(), read to its end."""
    graph = built(plan)
    scheduler = TaskScheduler({"work": lambda task, context: work(context.name)}, max_workers=workers)

    def start() -> List[str]:
        with scheduler, contextlib.closing(scheduler.stream(graph)) as events:
            return [event.name for event in events if isinstance(event, TaskFinished)]

    return start


# Peers


def by_dask(dask: Any) -> Way:
    """dask.threaded.get, asked for the result of every task."""

    def way(plan: Plan, work: Work, workers: int) -> Start:
        def call(name: str, *_: Any) -> Any:
            return work(name)

        graph = {name: (functools.partial(call, name),) + dependencies for name, dependencies in plan.items()}
        return lambda: dask.get(graph, list(graph), num_workers=workers)

    return way


class Counted(TypedDict):
    """LangGraph's state: how many nodes ran."""

    done: Annotated[int, operator.add]


def by_langgraph(langgraph: Any) -> Way:
    """A compiled StateGraph with a node for each task, invoked."""

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


def peers() -> Dict[str, Optional[Tuple[Way, int]]]:
    """The peers by name: the way, and the largest graph that is asked of it; None where it is not installed."""
    found: Dict[str, Optional[Tuple[Way, int]]] = {"dask": None, "LangGraph": None}
    with contextlib.suppress(ImportError):
        found["dask"] = (by_dask(importlib.import_module("dask.threaded")), 10000)
    with contextlib.suppress(ImportError):
        found["LangGraph"] = (by_langgraph(importlib.import_module("langgraph.graph")), 1000)
    return found


# Measuring


def seconds_of(way: Way, plan: Plan, work: Work, workers: int) -> float:
    """How long a graph takes, once."""
    start = way(plan, work, workers)
    gc.collect()  # what was built and dropped before is not this one's to pay for
    begun = time.perf_counter()
    outcome = start()
    seconds = time.perf_counter() - begun
    if len(outcome) != len(plan):
        sys.exit("{} tasks of {} are done".format(len(outcome), len(plan)))
    return seconds


def in_turn(ways: Dict[str, Way], rounds: int, plan: Plan, work: Work, workers: int) -> Dict[str, List[float]]:
    """The seconds that each way takes in each round; each is first, second … in one round after the other."""
    told: Dict[str, List[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            told[name].append(seconds_of(ways[name], plan, work, workers))
    return told


def nothing(name: str) -> None:
    """What the tasks do that are measured for what they cost."""


def judged(name: str, measured: float, goal: float, missed: List[str]) -> str:
    """The goal, as the tables show it; what misses it is noted."""
    if measured > goal:
        missed.append(name)
    return "{:g}{}".format(goal, " missed" if measured > goal else "")


def ratio(one: Sequence[float], other: Sequence[float]) -> Figure:
    """The ratios of neighbours."""
    return figure([mine / yours for mine, yours in zip(one, other)])


def measure_shapes(shapes: Sequence[str], sizes: Sequence[int], rounds: int, missed: List[str]) -> None:
    """The table of what one task costs."""
    known = peers()
    columns = ["wait", "queue", "run()", "stream()", *known]
    print("microseconds a task (median), and the ratio of run() to each loop: median [least, most]")
    heads = "{:16}" + " {:>9}" * len(columns) + "   {:21}  {:11}  {}"
    print(heads.format("", *columns, "run() / wait", "goal", "run() / queue"))
    for shape in shapes:
        grown: Dict[int, Figure] = {}
        for size in sizes:
            plan = SHAPES[shape](size)
            ways: Dict[str, Way] = {"wait": by_wait, "run()": by_run}
            if size <= JUDGED:
                ways.update({"queue": by_queue, "stream()": by_stream})
            ways.update({name: peer[0] for name, peer in known.items() if peer is not None and size <= peer[1]})
            told = in_turn(ways, rounds if size <= JUDGED else max(1, rounds // 2), plan, nothing, WORKERS)
            grown[size] = figure([seconds / len(plan) for seconds in told["run()"]])
            against = ratio(told["run()"], told["wait"])
            goal = judged(shape, against.median, GOALS[shape], missed) if size == JUDGED else ""
            cells = [
                "{:.1f}".format(1e6 * statistics.median(told[name]) / len(plan)) if name in told else "" for name in columns
            ]
            other = str(ratio(told["run()"], told["queue"])) if "queue" in told else ""
            print(heads.format("{} {:,}".format(shape, len(plan)), *cells, str(against), goal, other).rstrip())
        for size in sizes:
            if size > JUDGED and JUDGED in grown:
                growth = grown[size].median / grown[JUDGED].median
                goal = judged("{}, growth".format(shape), growth, GROWTH_GOAL, missed)
                print("{:16} {:.2f} times as long for one task as of {:,}; goal {}".format("", growth, JUDGED, goal))
    for name, peer in known.items():
        print("{}: {}".format(name, "not installed" if peer is None else "up to {:,} tasks".format(peer[1])))


# Waiting for something


def naps(plan: Plan) -> Dict[str, float]:
    """How many seconds each task sleeps; the same in every run of this program."""
    numbers = random.Random(6)
    return {name: numbers.uniform(0.005, 0.05) for name in plan}


def spans(plan: Plan, seconds: Dict[str, float]) -> Dict[str, Tuple[float, float]]:
    """When each task would start and end, if nothing but its dependencies held it up."""
    told: Dict[str, Tuple[float, float]] = {}
    for name, dependencies in plan.items():
        begin = max((told[dependency][1] for dependency in dependencies), default=0.0)
        told[name] = (begin, begin + seconds[name])
    return told


def most_at_once(times: Dict[str, Tuple[float, float]]) -> int:
    """How many of these spans there are at one moment, at most."""
    steps = sorted([(begin, 1) for begin, _ in times.values()] + [(end, -1) for _, end in times.values()])
    return max(itertools.accumulate(step for _, step in steps))


def sleeper(seconds: Dict[str, float]) -> Work:
    """What the tasks do that sleep."""
    return lambda name: time.sleep(seconds[name])


def longest_path(plan: Plan, times: Dict[str, Tuple[float, float]]) -> List[str]:
    """The tasks that nothing but one another holds up, from a first task to the one that ends last."""

    def end(name: str) -> float:
        return times[name][1]

    path = [max(plan, key=end)]
    while plan[path[-1]]:
        path.append(max(plan[path[-1]], key=end))
    return path[::-1]


def alone(path: Sequence[str]) -> Way:
    """The tasks of a path one after the other, on one thread: how exactly this machine sleeps, with nothing to schedule."""

    def way(plan: Plan, work: Work, workers: int) -> Start:
        def start() -> Plan:
            for name in path:
                work(name)
            return plan

        return start

    return way


def measure_io(rounds: int, missed: List[str]) -> None:
    """The table of tasks that wait."""
    print("tasks that sleep 5 to 50 ms: milliseconds (median), and the ratio to the longest path: median [least, most]")
    line = "{:28} {:>8} {:>8}   {:21}  {}"
    print(line.format("", "path", "took", "took / path", "goal"))
    for shape, plan in (("layers, 3 of 12", layered(10, 12, 3)), ("hourglass, 1-40-1", hourglass(5, 40))):
        seconds = naps(plan)
        times = spans(plan, seconds)
        longest = longest_path(plan, times)
        path = times[longest[-1]][1]
        ways: Dict[str, Way] = {"path alone": alone(longest), "wait": by_wait, "queue": by_queue, "run()": by_run}
        told = in_turn(ways, rounds, plan, sleeper(seconds), 2 * most_at_once(times))
        for name, took in told.items():
            against = figure([one / path for one in took])
            goal = judged("io, {}".format(shape), against.median, IO_GOAL, missed) if name == "run()" else ""
            cells = ["{:.1f}".format(1e3 * value) for value in (path, statistics.median(took))]
            print(line.format("{}: {}".format(shape, name), *cells, str(against), goal).rstrip())


# Memory


def tell_memory(shape: str, size: int) -> None:
    """The fresh process: tell the bytes for one task beside the Task, of the graph, after its run, and at the peak."""
    scheduler = TaskScheduler({"work": lambda task, context: None}, max_workers=WORKERS)

    def graph_of(plan: Plan, tasks: Dict[str, Task]) -> TaskGraph:
        graph = TaskGraph()
        for name, dependencies in plan.items():
            graph.add(tasks[name], name=name, depends_on=[tasks[dependency] for dependency in dependencies])
        return graph

    few = SHAPES[shape](100)
    scheduler.run(graph_of(few, {name: Task(type="work") for name in few}))  # what is made once is made here
    plan = SHAPES[shape](size)
    # With an objective and params, as tasks have: what a run adds to such a Task (a set that grows, say) counts, too.
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
    """The table of bytes."""
    print("bytes for one task, beside the Task itself")
    line = "{:16} {:>9} {:>9} {:>9}   {}"
    print(line.format("", "graph", "after run", "peak", "goal of the peak"))
    for shape in SHAPES:
        peaks: Dict[int, float] = {}
        for size in sizes:
            command = [sys.executable, __file__, "--memory-of", shape, "--sizes", str(size)]
            told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            peaks[size] = told[-1]
            goal = judged("{:,} of {}, bytes".format(size, shape), told[-1], BYTES_GOAL, missed)
            print(line.format("{} {:,}".format(shape, size), *("{:.0f}".format(value) for value in told), goal))
        for size in sizes:
            if size > JUDGED and JUDGED in peaks:
                goal = judged("{}, growth of bytes".format(shape), peaks[size] / peaks[JUDGED], GROWTH_GOAL, missed)
                print("{:16} {:.2f} times that of {:,}; goal {}".format("", peaks[size] / peaks[JUDGED], JUDGED, goal))


def main() -> int:
    """Measure, print, and say (with the exit status) whether the goals are met."""
    parser = argparse.ArgumentParser(description="What the task graph costs.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="how many tasks")
    parser.add_argument("--rounds", type=int, default=5, metavar="R", help="how often each way is measured")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="what is measured")
    parser.add_argument("--memory-of", choices=list(SHAPES), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.memory_of is not None:
        tell_memory(asked.memory_of, asked.sizes[0])
        return 0
    missed: List[str] = []
    print("Python {}, {} workers, {} rounds".format(platform.python_version(), WORKERS, asked.rounds))
    shapes = [shape for shape in SHAPES if shape in asked.only]
    if shapes:
        print()
        measure_shapes(shapes, asked.sizes, asked.rounds, missed)
    if "io" in asked.only:
        print()
        measure_io(asked.rounds, missed)
    if "memory" in asked.only:
        print()
        measure_memory([size for size in asked.sizes if size >= JUDGED], missed)
    print()
    print("goals missed: {}".format("; ".join(missed) or "none"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
