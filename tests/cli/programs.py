"""The program whose runs the command continues, and the command as a process."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent

PROGRAM = '''\
"""Schedulers of durable runs, in the file runs.db of the current folder."""

import pathlib
import time

from asimov_sync import RunStore, SQLiteCache, Task, TaskGraph, TaskScheduler

store = RunStore(SQLiteCache("runs.db", synchronous="normal"), lease=0.5)
scheduler = TaskScheduler(runs=store)
without_store = TaskScheduler()
number = 7


@scheduler.handler("ask")
def ask(task, context):
    return context.wait_for("word")


@scheduler.handler("hang")
def hang(task, context):
    context.wait_for("go")
    context.step("announce", pathlib.Path("announced").touch)
    pathlib.Path("announcement is kept").touch()
    path = pathlib.Path("release")
    while not path.exists():  # ignores its cancellation
        time.sleep(0.01)
    return "released"


@scheduler.handler("break")
def fail(task, context):
    raise LookupError(context.wait_for("word"))


@scheduler.flow("single")
def single(type, name="only"):
    graph = TaskGraph()
    graph.add(Task(type=type), name=name)
    return graph


@scheduler.flow("moody")
def moody():
    if pathlib.Path("moody").exists():
        raise RuntimeError("the flow cannot build its graph")
    return single("ask")


@scheduler.flow("forgotten")
def forgotten():
    return single("ask")
'''


@contextlib.contextmanager
def start_command(folder, *arguments):
    """Run the command in the background, in a folder. Kill it at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "asimov_sync"] + list(arguments),
        cwd=str(folder),
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
