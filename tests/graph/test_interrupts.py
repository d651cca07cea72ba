"""Ctrl-C, and signal handlers that cancel, at any moment of a run."""

import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from asimov_sync import Cancellation, TaskScheduler, TaskStatus

from ..tiers import by_tier, soak, suite, within
from ..waiting import DEADLINE
from .graphs import wide

pytestmark = suite

PROGRAM = """
import os, signal, sys, threading, time
from asimov_sync import AnthropicInferenceClient, MemoryCache, Task, TaskGraph, TaskScheduler
from asimov_sync.testing import ModelServer

where, how = sys.argv[1:]
never = threading.Event()
server = ModelServer(
    lambda body: "one two", before_event=lambda request, number: never if number > 3 else None
)
client = AnthropicInferenceClient(model="m", api_key="k", api_url=server.url)
cache = MemoryCache()

def stream(task, context):
    for text in client.stream("hello").text_stream:
        started.set()

def sleep(task, context):
    started.set()
    time.sleep(60)

def mailbox(task, context):
    started.set()
    cache.get_message("nothing")

def busy(task, context):
    started.set()
    while True:
        pass

class Limit(Exception):
    pass

def on_signal(number, frame):
    if how == "exit":
        raise SystemExit(7)
    raise Limit("soft time limit")

# A process that was started in the background may ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler if how == "interrupt" else on_signal)
started = threading.Event()
handlers = {"quick": lambda task, context: "done", "blocked": globals()[where]}
scheduler = TaskScheduler(handlers, max_workers=2)
graph = TaskGraph()
graph.add(Task(type="quick"), name="quick")
graph.add(Task(type="blocked"), name="blocked", depends_on="quick")
graph.add(Task(type="quick"), name="after", depends_on="blocked")

def tell():
    started.wait()
    print("started", flush=True)

threading.Thread(target=tell, daemon=True).start()
try:
    scheduler.run(graph)
except BaseException as error:
    result = scheduler.last_result
    errors, skipped = sorted(result.errors), sorted(result.skipped)
    print(type(error).__name__, result.results, errors, skipped, flush=True)
    raise
"""


@pytest.mark.parametrize("phase", ["stream", "sleep", "mailbox", "busy"])
@pytest.mark.parametrize(
    "way, name, status",
    [
        ("interrupt", "KeyboardInterrupt", None),
        pytest.param("exit", "SystemExit", 7, marks=soak),
        ("limit", "Limit", 1),
    ],
)
def test_sigint_in_run(phase, way, name, status):
    """Control returns within a second, whatever the handler does; the process ends in two."""
    command = [sys.executable, "-c", PROGRAM, phase, way]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True
    )
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    try:
        assert process.stdout.readline() == "started\n"
        time.sleep(0.1)  # so that the main thread waits; either way the outcome is the same
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        line = process.stdout.readline()
        control = time.monotonic() - start
        process.wait(10)
        end = time.monotonic() - start
        assert line == f"{name} {{'quick': 'done'}} ['blocked'] ['after']\n", (
            line + process.stderr.read()
        )
        assert control < within(1)
        assert end < within(2)
        assert process.returncode == status or (
            status is None and process.returncode in (-signal.SIGINT, 1)
        )
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


NESTED = """
import signal, sys, threading
from asimov_sync import Task, TaskGraph, TaskScheduler

signal.signal(signal.SIGINT, signal.default_int_handler)
started = threading.Event()

def outer(task, context):
    graph = TaskGraph()
    graph.add(Task(type="inner"), name="inner")
    return scheduler.run(graph).results

def inner(task, context):
    started.set()
    context.cancellation.wait(30)

scheduler = TaskScheduler(
    {"quick": lambda task, context: "done", "outer": outer, "inner": inner},
    max_workers=int(sys.argv[1]),
)
graph = TaskGraph()
graph.add(Task(type="quick"), name="quick")
graph.add(Task(type="outer"), name="outer", depends_on="quick")

def announce():
    started.wait()
    print("started", flush=True)

threading.Thread(target=announce, daemon=True).start()
try:
    scheduler.run(graph)
except KeyboardInterrupt:
    first = scheduler.last_result
    scheduler.close()
    # The nested run has ended by the time its worker is idle again.
    while any(thread.name.startswith("asimov-task") for thread in threading.enumerate()):
        threading.Event().wait(0.01)
    print(first is scheduler.last_result, first.results, sorted(first.errors), flush=True)
"""


@pytest.mark.parametrize("workers", [2, 0], ids=["threads", "calling thread"])
def test_sigint_with_a_nested_run(workers):
    """last_result is the result of the interrupted call, not of the nested run."""
    command = [sys.executable, "-c", NESTED, str(workers)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True
    )
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    try:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        output, problems = process.communicate()
        assert output == "True {'quick': 'done'} ['outer']\n", output + problems
        assert process.returncode == 0
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


NESTED_AT_RANDOM_MOMENTS = """
import os, random, signal, sys, threading, time
from asimov_sync import Task, TaskGraph, TaskScheduler
from asimov_sync.testing import count_runs

workers, count = int(sys.argv[1]), int(sys.argv[2])
chance = random.Random(7)
running = False

def strike(number, frame):
    if running:
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, strike)

def outer(task, context):
    active.append(1)
    started.set()
    try:
        for number in range(3):  # the later ones may start after the interrupt
            graph = TaskGraph()
            graph.map(Task(type="inner"), range(2), name="inner")
            scheduler.run(graph, run_id="nested")
    finally:
        active.pop()

def inner(task, context):
    nested.append(1)
    context.cancellation.wait(0.0005)

def interrupt(started, seconds):
    started.wait()
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGINT)

scheduler = TaskScheduler({"outer": outer, "inner": inner}, max_workers=workers)
graph = TaskGraph()
graph.map(Task(type="outer"), range(4), name="outer")
struck = during_nested = 0
wrong, active = [], []
end = time.monotonic() + 40
while struck < count and time.monotonic() < end:
    run_id, started, nested = f"run {struck}", threading.Event(), []
    killer = threading.Thread(target=interrupt, args=(started, chance.uniform(0, 0.012)))
    killer.start()
    was_struck = False
    try:
        running = True
        scheduler.run(graph, run_id=run_id)
        running = False
    except KeyboardInterrupt:
        running = False
        was_struck = True
        found = [scheduler.last_result.run_id]
        struck += 1
        during_nested += bool(nested) and scheduler.last_result.status.name != "COMPLETE"
    killer.join()
    while active or count_runs(scheduler):
        time.sleep(0.001)
    if was_struck:
        found.append(scheduler.last_result.run_id)
        if found != [run_id, run_id]:
            wrong.append((run_id, found))
print(struck, during_nested * 2 > struck, wrong, flush=True)
"""


@pytest.mark.parametrize("workers", [2, 0], ids=["threads", "calling thread"])
def test_sigint_at_random_moments_of_nested_runs(workers):
    """At once, and after all nested runs, last_result is the result of the interrupted call."""
    count = by_tier(10, soak=200)
    process = subprocess.run(
        [sys.executable, "-c", NESTED_AT_RANDOM_MOMENTS, str(workers), str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    assert process.stdout == f"{count} True []\n", process.stdout + process.stderr


RANDOM_INTERRUPTS = """
import random, signal, sys, time
from asimov_sync import Task, TaskGraph, TaskScheduler
from asimov_sync.testing import count_runs

chance = random.Random(7)
running = False

def strike(number, frame):
    if running:
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, strike)
workers = 0 if sys.argv[1] == "inline" else 4
scheduler = TaskScheduler({"t": lambda task, context: None}, max_workers=workers)
graph = TaskGraph()
graph.map(Task(type="t"), range(800))
struck = 0
end = time.monotonic() + 5
while time.monotonic() < end and struck < int(sys.argv[2]):
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.03))
    try:
        running = True
        scheduler.run(graph)
        running = False
    except KeyboardInterrupt:
        running = False
        struck += 1
signal.setitimer(signal.ITIMER_REAL, 0)
result = scheduler.run(graph)
print(struck > 5, result.status.name, len(result.results), count_runs(scheduler), flush=True)
"""


# Before 3.10 Ctrl-C may strike between the end of a `with` and the release of its lock
# (bugs.python.org/issue29988), which no library can repair. The interrupts of a waiting run above
# are tested on every Python.
if sys.version_info >= (3, 10):

    @suite
    @pytest.mark.parametrize("mode", ["inline", "threads"])
    def test_ctrl_c_at_any_moment(mode):
        """KeyboardInterrupt at random moments is raised as such, and the graph can always run
        again.
        """
        command = [sys.executable, "-c", RANDOM_INTERRUPTS, mode, str(by_tier(30, soak=100))]
        process = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=60,
        )
        assert process.stdout == "True COMPLETE 800 0\n", process.stdout + process.stderr
        assert process.returncode == 0


@suite
def test_signal_handler_cancels_a_token():
    """A signal handler that interrupts a registration on the same thread does not deadlock."""
    token = Cancellation()
    stop = time.monotonic() + 0.5
    before = signal.signal(
        signal.SIGALRM, lambda number, frame: token.cancel("signal") or token.on_cancel(int)
    )
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        while time.monotonic() < stop:
            with token.on_cancel(int):
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert token.reason == "signal"


@suite
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
@pytest.mark.parametrize("workers", [3, 0], ids=["threads", "calling thread"])
def test_signal_handler_cancels_the_run(workers):
    """A signal handler may cancel at any step of a run; no task is missing from the result."""
    runs, graph = [], wide("t", 300)

    def cancel(number, frame):
        if runs:
            runs[0].cancel("by a signal")

    before = signal.signal(signal.SIGALRM, cancel)
    chance = random.Random(4)
    cancelled = 0
    try:
        with TaskScheduler({"t": lambda task, context: None}, max_workers=workers) as scheduler:
            start = time.monotonic()
            # Until it has met a run in progress, which a busy machine may delay.
            while time.monotonic() < start + (DEADLINE if not cancelled else 0.7):
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0005, 0.01))
                runs.append(scheduler.submit(graph))
                result = runs[0].result(DEADLINE)
                del runs[:]
                assert len(result.results) + len(result.skipped) + len(result.errors) == 300
                cancelled += bool(result.skipped)
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert scheduler.run(graph).status is TaskStatus.COMPLETE
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert cancelled
