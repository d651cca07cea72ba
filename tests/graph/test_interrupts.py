"""Ctrl-C and its kin, in real processes: control comes back, the process ends, and what was finished is there."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from ..tiers import suite, within

pytestmark = suite

PROGRAM = """
import os, signal, sys, threading, time
from asimov_sync import AnthropicInferenceClient, MemoryCache, Task, TaskGraph, TaskScheduler
from asimov_sync.testing import ModelServer

where, how = sys.argv[1:]
never = threading.Event()
server = ModelServer(lambda body: "one two", before_event=lambda request, number: never if number > 3 else None)
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

# A process that was started in the background may have been told to ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler if how == "interrupt" else on_signal)
started = threading.Event()
scheduler = TaskScheduler({"quick": lambda task, context: "done", "blocked": globals()[where]}, max_workers=2)
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
    print(type(error).__name__, result.results, sorted(result.errors), sorted(result.skipped), flush=True)
    raise
"""


@pytest.mark.parametrize("where", ["stream", "sleep", "mailbox", "busy"])
@pytest.mark.parametrize(
    "how, name, status", [("interrupt", "KeyboardInterrupt", None), ("exit", "SystemExit", 7), ("limit", "Limit", 1)]
)
def test_an_interrupted_run(where, how, name, status):
    """SIGINT in run(), whatever its handler is blocked in: control within a second, the end of the process within two."""
    command = [sys.executable, "-c", PROGRAM, where, how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    try:
        assert process.stdout.readline() == "started\n"
        time.sleep(0.1)  # until the main thread is in its wait; either way the outcome is the same
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        told = process.stdout.readline()
        control = time.monotonic() - start
        process.wait(10)
        end = time.monotonic() - start
        assert told == "{} {{'quick': 'done'}} ['blocked'] ['after']\n".format(name), told + process.stderr.read()
        assert control < within(1)
        assert end < within(2)
        assert process.returncode == status or (status is None and process.returncode in (-signal.SIGINT, 1))
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
    {"quick": lambda task, context: "done", "outer": outer, "inner": inner}, max_workers=int(sys.argv[1])
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
    # The nested run has ended as well by the time that its worker is idle again.
    while any(thread.name.startswith("asimov-task") for thread in threading.enumerate()):
        threading.Event().wait(0.01)
    print(first is scheduler.last_result, first.results, sorted(first.errors), flush=True)
"""


@pytest.mark.parametrize("workers", [2, 0], ids=["threads", "calling thread"])
def test_an_interrupted_run_with_a_nested_run(workers):
    """Ctrl-C while a task runs another graph on the same scheduler: last_result is that of the interrupted call."""
    command = [sys.executable, "-c", NESTED, str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
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
