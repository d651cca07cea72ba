"""Ctrl-C and its kin, in real processes: control comes back, the process ends, and what was finished is there."""

import signal
import subprocess
import sys
import threading
import time

import pytest

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
        assert control < 1
        assert end < 2
        assert process.returncode == status or (status is None and process.returncode in (-signal.SIGINT, 1))
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
