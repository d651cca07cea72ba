"""Measures telemetry: the cost of a task and of a streamed text event, without it and with it.

    python benchmarks/telemetry.py [ROUNDS]

ROUNDS: rounds to measure (31 by default). Each round runs four ways in one process, one after the
    other. Ratios compare the lower quartiles of two ways, and two ways within each round.

It measures the CPU time of this process for one task of a run of 10,000 independent tasks with 4
workers, and for one event of a Messages stream of 5,000 text events from another process. The
switch interval of the interpreter is one second, because contention between threads would dominate.

cut out        a copy of the package without its checks for hooks on these paths
not installed  the package as it is
no-op          installed with OpenTelemetry's no-op providers: the cost of calling them
in memory      installed with the SDK's providers, which keep every span and every measurement

"not installed" is compared to "cut out", and the other two to "not installed".

The first two differ by less than the noise of a busy machine. So the checks of a task and of a
stream are also timed alone, in a loop. The goal is that they take at most 2 % of the minimum time
of a task or an event.

Prints the median, minimum and maximum in microseconds, the ratio of the lower quartiles, and the
spread of the ratios.
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

import asimov_sync.instrumentation
from asimov_sync import telemetry

TASKS = 10000
EVENTS = streaming.EVENTS
WORKERS = 4
GOAL = 0.02
COPY = "asimov_cut"

CUTS: List[Tuple[str, str, int]] = [
    ("graph/engine.py", r" +if self\._observed:\n +self\.effects\.end_span\(.*\)\n", 3),
    (
        "graph/active_run.py",
        r" +if self\._hooks is not None:\n +self\._effects\.end_span\(.*\)\n",
        1,
    ),
    ("graph/active_run.py", r" +if effects\.span_ends:\n +self\._end_spans\(\)\n", 1),
    ("graph/active_run.py", r" and not self\.ending_spans(?= and)", 1),
    (
        "graph/active_run.py",
        r" +if self\._hooks is not None and not self\._observe\(.*\):\n +return None\n",
        1,
    ),
    ("graph/attempt.py", r" +self\.watch: .*\n", 1),
    (
        "inference/client.py",
        r" +installed = instrumentation\.installed\n +if installed is None:\n"
        r"    ( +source): EventSource( = .*\n) +else:\n(?: {12}.*\n)+",
        1,
    ),
]
"""The checks for hooks on the path of a task or a stream: file, pattern, number of matches. The
groups of a pattern are kept."""


def import_cut_copy(folder: str) -> Any:
    """Import a copy of the package from a folder, without the CUTS."""
    source = pathlib.Path(asimov_sync.__file__).parent
    texts = {
        path.relative_to(source).as_posix(): path.read_text(encoding="utf-8")
        for path in source.rglob("*.py")
    }
    for name, pattern, times in CUTS:
        texts[name], found = re.subn(pattern, lambda match: "".join(match.groups()), texts[name])
        if found != times:
            sys.exit(
                f"{name}: {pattern} matches {found} times, not {times}: "
                "update CUTS of this benchmark"
            )
    for name, text in texts.items():
        path = pathlib.Path(folder, COPY, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("asimov_sync", COPY), encoding="utf-8")
    sys.path.insert(0, folder)
    return importlib.import_module(COPY)


# Measuring


def time_task(package: Any, address: str) -> float:
    """Return the CPU seconds of one task in a run of TASKS tasks that do nothing."""
    graph = package.TaskGraph("wide")
    for number in range(TASKS):
        graph.add(package.Task(type="work"), name=f"task-{number}")
    with package.TaskScheduler(
        {"work": lambda task, context: None}, max_workers=WORKERS
    ) as scheduler:
        gc.collect()  # do not charge this run for the garbage of others
        start = time.process_time()
        result = scheduler.run(graph)
        seconds = time.process_time() - start
    result.raise_for_failure()
    return seconds / TASKS


def time_event(package: Any, address: str) -> float:
    """Return the CPU seconds of one text event of a stream."""
    client = package.AnthropicInferenceClient(
        model="any", api_key="none", api_url=address + "chunks/v1/messages"
    )
    with client:
        gc.collect()
        start = time.process_time()
        with client.stream("Go on.") as stream:
            count = sum(1 for _ in stream.text_stream)
        seconds = time.process_time() - start
    return seconds / count


class Unhooked:
    """Stands in for a run or a task's context with no hooks installed."""

    __slots__ = ("hooks", "span_ends", "watch")

    def __init__(self) -> None:
        self.hooks: Any = None
        self.watch: Any = None
        self.span_ends: Any = collections.deque()


def check_task(run: Unhooked, task: Unhooked) -> None:
    """Run the checks that CUTS removes from the path of a task."""
    task.watch = None
    if run.hooks is not None and not run.hooks:
        return
    if run.hooks is not None:
        run.span_ends.append(None)
    if run.span_ends:
        return


def check_stream(run: Unhooked, task: Unhooked) -> None:
    """Run the checks that CUTS removes from the path of a stream. They run once for all events."""
    installed = asimov_sync.instrumentation.installed
    if installed is not None:
        return


def do_nothing(run: Unhooked, task: Unhooked) -> None:
    """Do nothing: the cost of the call itself, which is subtracted."""


def time_checks(checks: Callable[[Unhooked, Unhooked], None]) -> float:
    """Return the seconds that a function of checks takes."""
    run, task = Unhooked(), Unhooked()
    least = {
        function: min(timeit.repeat(lambda: function(run, task), number=100000, repeat=9)) / 100000
        for function in (checks, do_nothing)
    }
    return least[checks] - least[do_nothing]


def lower_quartile(values: List[float]) -> float:
    """Return the lower quartile."""
    return sorted(values)[len(values) // 4]


def format_spread(values: List[float]) -> str:
    """Format the median, minimum and maximum of values."""
    return f"{statistics.median(values):7.3f} [{min(values):.3f}, {max(values):.3f}]"


def main(rounds: int) -> int:
    """Measure and print. Returns the exit status: 1 if the goal is missed, else 0."""
    sys.setswitchinterval(1.0)
    memory = InMemorySpanExporter()
    tracers, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()])
    tracers.add_span_processor(SimpleSpanProcessor(memory))
    measures: Dict[str, Callable[[Any, str], float]] = {"task": time_task, "event": time_event}
    server_command = [sys.executable, streaming.__file__, "--serve"]
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(
        server_command, stdout=subprocess.PIPE
    ) as server:
        try:
            cut = import_cut_copy(folder)
            assert server.stdout is not None
            address = f"http://127.0.0.1:{int(server.stdout.readline())}/"
            ways: Dict[str, Tuple[Any, Callable[[], None]]] = {
                "cut out": (cut, telemetry.uninstall),
                "not installed": (asimov_sync, telemetry.uninstall),
                "no-op": (
                    asimov_sync,
                    lambda: telemetry.install(NoOpTracerProvider(), NoOpMeterProvider()),
                ),
                "in memory": (asimov_sync, lambda: telemetry.install(tracers, meters)),
            }
            figures: Dict[Tuple[str, str], List[float]] = {
                (what, way): [] for what in measures for way in ways
            }
            for number in range(rounds + 1):
                for what, seconds in measures.items():
                    for way in list(ways) if number % 2 else reversed(list(ways)):
                        package, install = ways[way]
                        install()
                        result = seconds(package, address)
                        memory.clear()
                        if number:  # the first round imports and warms up
                            figures[what, way].append(result)
        finally:
            server.terminate()
    print(
        f"Python {platform.python_version()}, OpenTelemetry {opentelemetry.version.__version__}, "
        f"{rounds} rounds; microseconds of CPU time: median [minimum, maximum]; "
        "the ratio of the lower quartiles; the ratios of a round"
    )
    missed = []
    telemetry.uninstall()
    for (what, way), values in figures.items():
        basis = "cut out" if way in ("cut out", "not installed") else "not installed"
        ratio = lower_quartile(values) / lower_quartile(figures[what, basis])
        ratios = [one / other for one, other in zip(values, figures[what, basis])]
        microseconds = [1e6 * value for value in values]
        label = f"{what}: {way}"
        print(f"{label:22} {format_spread(microseconds):26} {ratio:8.3f}  {format_spread(ratios)}")
    for what, checks, count in (("task", check_task, 1), ("event", check_stream, EVENTS)):
        share = time_checks(checks) / count / min(figures[what, "cut out"])
        print(f"the checks alone: {100 * share:.4f} % of {what}")
        if share > GOAL:
            missed.append(what)
    print(f"goal of {GOAL:.0%} missed: {', '.join(missed) or 'never'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 31))
