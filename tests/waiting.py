"""Waits for events and conditions with a timeout, in place of sleeps of a fixed length."""

import threading
import time

from asimov_sync import ClosedError, TaskGraph

DEADLINE = 20.0
"""Seconds after which a wait fails."""


def wait_for(condition, what="the condition"):
    """Wait until `condition()` is true. Fails after DEADLINE seconds.

    what: the condition's name in the error message.
    """
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not become true"
        time.sleep(0.005)


class Background:
    """A call on its own thread. `result()` returns what it returned, or raises what it raised."""

    def __init__(self, function, *args, **kwargs):
        self._outcome = []
        self._call = lambda: function(*args, **kwargs)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self._outcome.append((self._call(), None))
        except BaseException as error:
            self._outcome.append((None, error))

    def result(self, timeout=DEADLINE):
        self.thread.join(timeout)
        assert self._outcome, f"the call did not return within {timeout} s"
        value, error = self._outcome[0]
        if error is not None:
            raise error
        return value


def in_child(function):
    """Call a function in a forked child. Fails if it raises there, or does not return."""
    import os
    import signal
    import traceback

    pid = os.fork()
    if not pid:
        status = 1
        try:
            signal.alarm(int(DEADLINE))
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child raised or hung: status {status}"


def refuses_runs(scheduler):
    """Return whether a scheduler was closed: whether it refuses to run an empty graph."""
    try:
        scheduler.run(TaskGraph())
    except ClosedError:
        return True
    return False
