"""What telemetry costs: a task that does nothing, and a streamed text event, before it is installed and after.

    python benchmarks/telemetry.py [ROUNDS]

Four ways take turns in one process, ROUNDS times (31 by default). What is measured is the CPU time of this process: of a run
of 10,000 tasks that depend on nothing, with 4 workers, for one task; and of a Messages stream of 5,000 text events from
another process, for one event. Threads that get in each other's way would be most of what is seen, so that the interpreter is
told to switch them once a second at the most. The ratios are of the lower quartiles, and of neighbours.

cut out        a copy of the package, by another name, from which every look for hooks on this way was cut, line by line: what
               there would be without them
not installed  the package as it is
no-op          installed, with OpenTelemetry's providers that record nothing: what is done to tell them
in memory      installed, with the SDK's, which keep every span and every measurement

The ratio of the second is to the first, those of the others are to the second.

The difference of the first two is less than what a machine with other work to do adds to either. So the looks that a task and
a stream take are timed by themselves as well, in a loop, and it is these that are judged: the goal is 2 % of the least that a
task, or an event, took.
"""

import collections
import gc
import importlib
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from typing import Any, Callable, Dict, List, Tuple

import opentelemetry.version
import streaming
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracerProvider

import asimov_sync.hooks
from asimov_sync import telemetry

TASKS = 10000
EVENTS = streaming.EVENTS
WORKERS = 4
GOAL = 0.02
COPY = "asimov_cut"

CUTS: List[Tuple[str, str, int]] = [
    ("graph/engine.py", r" +if self\._observed:\n +self\.effects\.end_span\(.*\)\n", 3),
    ("graph/active_run.py", r" +if self\._hooks is not None:\n +self\._effects\.end_span\(.*\)\n", 1),
    ("graph/active_run.py", r" +if effects\.span_ends:\n +self\._end_spans\(\)\n", 1),
    ("graph/active_run.py", r" and not self\.ending_spans(?= and)", 1),
    ("graph/active_run.py", r" +if self\._hooks is not None and not self\._observe\(.*\):\n +return None\n", 1),
    ("graph/attempt.py", r" +self\.watch: .*\n", 1),
    ("inference/contract.py", r" +installed = hooks\.installed\n +if installed is not None:\n +events = .*\n", 1),
]
"""The looks for hooks that are on the way of a task and of a stream: a file, what is cut out of it, and how often."""


def cut_copy(folder: str) -> Any:
    """A copy of the package, imported from that folder, without any look for hooks on the way of what is measured."""
    source = pathlib.Path(asimov_sync.__file__).parent
    texts = {path.relative_to(source).as_posix(): path.read_text(encoding="utf-8") for path in source.rglob("*.py")}
    for name, pattern, times in CUTS:
        texts[name], found = re.subn(pattern, "", texts[name])
        if found != times:
            sys.exit("{}: {} is found {} times, not {}: this benchmark is out of date".format(name, pattern, found, times))
    for name, text in texts.items():
        path = pathlib.Path(folder, COPY, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("asimov_sync", COPY), encoding="utf-8")
    sys.path.insert(0, folder)
    return importlib.import_module(COPY)


# Measuring


def task_seconds(package: Any, address: str) -> float:
    """The CPU time for one task of a run of many that do nothing."""
    graph = package.TaskGraph("wide")
    for number in range(TASKS):
        graph.add(package.Task(type="work"), name="task-{}".format(number))
    with package.TaskScheduler({"work": lambda task, context: None}, max_workers=WORKERS) as scheduler:
        gc.collect()  # what was built and dropped before is not this one's to pay for
        start = time.process_time()
        result = scheduler.run(graph)
        seconds = time.process_time() - start
    result.raise_for_failure()
    return seconds / TASKS


def event_seconds(package: Any, address: str) -> float:
    """The CPU time for one text event of a stream."""
    client = package.AnthropicInferenceClient(model="any", api_key="none", api_url=address + "chunks/v1/messages")
    with client:
        gc.collect()
        start = time.process_time()
        with client.stream("Go on.") as stream:
            count = sum(1 for _ in stream.text_stream)
        seconds = time.process_time() - start
    return seconds / count


class Looked:
    """What a look finds where no hooks are installed, in place of a run and of an attempt."""

    __slots__ = ("hooks", "span_ends", "watch")

    def __init__(self) -> None:
        self.hooks: Any = None
        self.watch: Any = None
        self.span_ends: Any = collections.deque()


def task_looks(run: Looked, task: Looked) -> None:
    """What was cut out of the way of a task."""
    task.watch = None
    if run.hooks is not None and not run.hooks:
        return
    if run.hooks is not None:
        run.span_ends.append(None)
    if run.span_ends:
        return


def stream_looks(run: Looked, task: Looked) -> None:
    """What was cut out of the way of a stream, all its events together."""
    installed = asimov_sync.hooks.installed
    if installed is not None:
        return


def nothing(run: Looked, task: Looked) -> None:
    """A call, to be taken off."""


def seconds_of_looks(looks: Callable[[Looked, Looked], None]) -> float:
    """How long these looks take."""
    run, task = Looked(), Looked()
    least = {
        function: min(timeit.repeat(lambda: function(run, task), number=100000, repeat=9)) / 100000
        for function in (looks, nothing)
    }
    return least[looks] - least[nothing]


def quartile(values: List[float]) -> float:
    """The value that a quarter of the others is below."""
    return sorted(values)[len(values) // 4]


def spread(values: List[float]) -> str:
    """The median of values, the least and the most."""
    return "{:7.3f} [{:.3f}, {:.3f}]".format(statistics.median(values), min(values), max(values))


def main(rounds: int) -> int:
    """Measure, print, and say (with the exit status) whether the goal is met."""
    sys.setswitchinterval(1.0)
    memory = InMemorySpanExporter()
    tracers, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()])
    tracers.add_span_processor(SimpleSpanProcessor(memory))
    whats: Dict[str, Callable[[Any, str], float]] = {"task": task_seconds, "event": event_seconds}
    server_command = [sys.executable, streaming.__file__, "--serve"]
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(server_command, stdout=subprocess.PIPE) as server:
        try:
            cut = cut_copy(folder)
            assert server.stdout is not None
            address = "http://127.0.0.1:{}/".format(int(server.stdout.readline()))
            ways: Dict[str, Tuple[Any, Callable[[], None]]] = {
                "cut out": (cut, telemetry.uninstall),
                "not installed": (asimov_sync, telemetry.uninstall),
                "no-op": (asimov_sync, lambda: telemetry.install(NoOpTracerProvider(), NoOpMeterProvider())),
                "in memory": (asimov_sync, lambda: telemetry.install(tracers, meters)),
            }
            figures: Dict[Tuple[str, str], List[float]] = {(what, way): [] for what in whats for way in ways}
            for number in range(rounds + 1):
                for what, seconds in whats.items():
                    for way in list(ways) if number % 2 else reversed(list(ways)):
                        package, install = ways[way]
                        install()
                        told = seconds(package, address)
                        memory.clear()
                        if number:  # the first round imports, and warms up
                            figures[what, way].append(told)
        finally:
            server.terminate()
    print(
        "Python {}, OpenTelemetry {}, {} rounds; microseconds of CPU time: median, least and most; the ratio of the lower "
        "quartiles; the ratios of neighbours".format(platform.python_version(), opentelemetry.version.__version__, rounds)
    )
    missed = []
    telemetry.uninstall()
    for (what, way), values in figures.items():
        basis = "cut out" if way in ("cut out", "not installed") else "not installed"
        ratio = quartile(values) / quartile(figures[what, basis])
        ratios = [one / other for one, other in zip(values, figures[what, basis])]
        microseconds = [1e6 * value for value in values]
        print("{:22} {:26} {:8.3f}  {}".format(what + ": " + way, spread(microseconds), ratio, spread(ratios)))
    for what, looks, count in (("task", task_looks, 1), ("event", stream_looks, EVENTS)):
        share = seconds_of_looks(looks) / count / min(figures[what, "cut out"])
        print("the looks alone: {:.4f} % of {}".format(100 * share, what))
        if share > GOAL:
            missed.append(what)
    print("goal of {:.0%} missed: {}".format(GOAL, ", ".join(missed) or "never"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 31))
