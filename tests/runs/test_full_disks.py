"""A disk that is full under a run, and has space again later."""

import os
import pathlib
import subprocess
import sys

import pytest

import asimov_sync

from ..tiers import soak, suite

pytestmark = suite

TASKS = 40

PROGRAM = """
import os, signal, sys
from asimov_sync import CacheError, RunStore, SQLiteCache, Task, TaskGraph, TaskScheduler

path, how, tasks = sys.argv[1], sys.argv[2], int(sys.argv[3])
calls = []

def work(task, context):
    calls.append(context.name)
    return context.step("text", lambda: "x" * 50000) + context.name

def build():
    graph = TaskGraph()
    for number in range(tasks):
        before = [str(number - 1)] if number else []
        graph.add(Task(type="work"), name=str(number), depends_on=before)
    return graph

def limit(size):
    import resource
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size is None else size, hard))

if how == "limit":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit(2**20)
else:
    with open(path + "-other", "wb") as other:
        other.write(bytes(30 * 2**20))

with SQLiteCache(path, synchronous="normal") as cache:
    store = RunStore(cache, lease=0.3)
    with TaskScheduler({"work": work}, max_workers=2, runs=store) as scheduler:
        try:
            scheduler.run(build(), run_id="r")
        except CacheError as error:
            print(type(error).__name__, error)
        else:
            raise AssertionError("no error")
        assert store.get("r").status in ("running", "orphaned", "interrupted")
        finished = len(store.result("r").results)
        assert 0 < finished < tasks, finished
        if how == "limit":
            limit(None)
        else:
            os.remove(path + "-other")
        result = scheduler.run(build(), run_id="r", if_running="wait")
        assert result.results == {str(n): "x" * 50000 + str(n) for n in range(tasks)}
        assert store.get("r").status == "complete"
        assert len(calls) <= tasks + 1, calls  # the task whose outcome was not written
"""
"""Runs a chain of tasks until the disk is full, makes space, and runs it again."""


def run_program(path, how, command=()):
    """Run the program, and return what it prints."""
    environment = dict(os.environ, PYTHONPATH=str(pathlib.Path(asimov_sync.__file__).parents[1]))
    return subprocess.run(
        [*command, sys.executable, "-c", PROGRAM, str(path), how, str(TASKS)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=True,
    ).stdout.decode()


def test_full_disk(tmp_path):
    """On a full disk a run raises CacheFull. When there is space, the next run continues it."""
    unshare = ["unshare", "--mount"] + (["--map-root-user"] if os.getuid() else [])
    if subprocess.call([*unshare, "true"], stderr=subprocess.DEVNULL):
        pytest.skip("mounting a small disk for the test is not permitted here")
    script = f'mount -t tmpfs -o size=32m small {tmp_path} && exec "$@"'
    printed = run_program(tmp_path / "a.db", "disk", [*unshare, "sh", "-c", script, "sh"])
    assert printed.startswith("CacheFull the disk is full")


@soak
def test_limited_file_size(tmp_path):
    """At a limit on the size of files a run raises an error that says so, and can be continued."""
    pytest.importorskip("resource")
    printed = run_program(tmp_path / "a.db", "limit")
    assert "limits on the size of files" in printed and "run r" in printed
