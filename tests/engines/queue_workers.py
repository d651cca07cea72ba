"""Worker processes of task queues."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent

WORKER_DEADLINE = 60.0
"""Seconds after which a wait for a worker fails: it starts, and starts processes, meanwhile."""


class QueueWorker:
    """A worker and its processes, in a process group of their own.

    command: the arguments of `python -m`.
    log: the file of its output.
    """

    def __init__(self, command, log):
        with open(str(log), "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m"] + command,
                cwd=str(ROOT),
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
