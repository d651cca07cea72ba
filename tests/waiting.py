"""Waiting in tests: on events and conditions, with a deadline; never for a while and then hoping."""

import threading
import time

DEADLINE = 20.0


def wait_for(condition, what="the condition"):
    """Return once `condition()` is true; fail after DEADLINE seconds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "{} did not come true".format(what)
        time.sleep(0.005)


class Background:
    """A call on a thread of its own; `result()` is what it returned, or raises what it raised."""

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
        assert self._outcome, "the call did not come back within {} s".format(timeout)
        value, error = self._outcome[0]
        if error is not None:
            raise error
        return value


def in_child(function):
    """Run a function in a forked child; fail if it raises there, or hangs."""
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
    assert status == 0, "the child failed, or hung: status {}".format(status)
