"""Worker processes of task queues."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent.parent

WORKER_DEADLINE = 60.0
"""Seconds after which a wait for a worker fails: it starts, and starts processes, meanwhile."""


class QueueWorker:
    """A worker and its processes, in a process group of their own.

    command: the arguments of Python.
    log: the file of its output.
    folder: its current folder.
    """

    def __init__(self, command, log, folder=ROOT):
        with open(str(log), "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable] + command,
                cwd=str(folder),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self):
        """Send SIGKILL to the worker and its processes. Return whether the worker was running."""
        was_running = self._process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        return was_running

    def send_signal(self, number):
        """Send a signal to the worker alone."""
        self._process.send_signal(number)

    def wait(self):
        """Wait until the worker has ended. Return its exit status."""
        return self._process.wait(WORKER_DEADLINE)


@contextlib.contextmanager
def worker_starter(command, log):
    """Yields a function that starts a worker. At the end, all of its workers are killed.

    command, log: as for QueueWorker.
    """
    started = []

    def start():
        started.append(QueueWorker(command, log))
        return started[-1]

    try:
        yield start
    finally:
        for worker in started:
            worker.kill()


def wait_long(condition, what):
    """Wait until a condition is true, in which a worker may have to be started."""
    end = time.monotonic() + WORKER_DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not become true"
        time.sleep(0.01)


def wait_held(flows, run_id, times=1):
    """Wait until the task that is held was started, for the n-th time. Return the process id."""
    wait_long(
        lambda: len(flows.traces("start", run_id, "second")) >= times, f"start {times} of {run_id}"
    )
    return flows.traces("start", run_id, "second")[times - 1]


def finished_tasks(flows, run_id):
    """Return the names of the tasks whose outcome was committed, once for each commit."""
    events = flows.store.events(run_id)
    return sorted(event["name"] for event in events if event["type"] == "task_finished")


def statuses(flows, run_id):
    """Return the status with which each drive of a run has ended."""
    events = flows.store.events(run_id)
    return [event["status"] for event in events if event["type"] == "run_finished"]
